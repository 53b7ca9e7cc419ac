"""Whether a dream lets people back: an arrow key held for a second leads the car off the road; who comes back?

    python -m experiments.way_back measure [--logdir RUN] [--real]      C, and a person who looks for the road
    python -m experiments.way_back collect --to FOLDER [--episodes N]   real drives that leave the road and come back
    python -m experiments.way_back tune --rollouts FOLDER … --to RUN    M's head trained further on such drives

Shapes: N dreams, Z latent, H hidden, K mixtures.

The dreams are the playground's: its starts, its keys, its temperature, its rule for what is road. "Back" is a
second of road within six. `--real` does the same to the simulator, on development tracks.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from conformance.arguments import above_zero, count
from worldmodels import envs, memory, pretrained, vision
from worldmodels.agent import Agent
from worldmodels.cli import as_a_command
from worldmodels.data.dataset import open_dataset
from worldmodels.data.episodes import encode, load_rollout
from worldmodels.data.latents import Latents, Sequences, batches_per_epoch, encode_dataset
from worldmodels.envs.seeds import DEVELOPMENT, training_seeds
from worldmodels.fast_dream import Dreams, Population
from worldmodels.memory import mixture_nll
from worldmodels.playground import site
from worldmodels.playground.starts import choose, recordings
from worldmodels.rollout import Episode, Rollout, drive
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import write_atomically

ALONE, HELD, AFTER = 25, 50, 300  # steps: C drives, the key is held, C drives again
LOOK = 5  # steps between two looks at the picture: V's decoder takes most of the time
SECOND = 50  # steps
AWAY = 200  # steps: a longer absence from the road is not shown to M
TEMPERATURE = 0.5  # of the page when it opens
Wish = tuple[float, float, float]  # wheel, gas, brake that a person asks for
TURN, DECAY, PRESS = 0.06, 0.9, 0.1  # per step: wheel and pedals at the page's keys (static/controller.js)


# ------------------------------------------------------------------------------------------ a person, and the road


def keys(before: np.ndarray, wheel: np.ndarray, gas: np.ndarray, brake: np.ndarray) -> np.ndarray:
    """Actions (N, 3) of a person who asks for wheel, gas and brake (N,) after the actions `before` (N, 3)."""
    at = np.where(before[:, 0] * wheel < 0, 0, before[:, 0])
    turned = np.where(wheel == 0, before[:, 0] * DECAY, at + np.clip(wheel - at, -TURN, TURN))
    pedals = [p + np.clip(asked - p, -2 * PRESS, PRESS) for p, asked in ((before[:, 1], gas), (before[:, 2], brake))]
    return np.stack([turned, *pedals], axis=1).astype(np.float32)


def on_road(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 (N, 64, 64, 3) → bool (N,): the page's rule, less than 70 % grass around the car."""
    around = np.delete(frames[:, 43:54, 27:38].astype(int), range(3, 8), axis=2).reshape(len(frames), -1, 3)
    red, green, blue = np.moveaxis(around, -1, 0)
    return np.asarray(((green > red + 35) & (green > blue + 35)).mean(axis=1) < 0.7)


def looking(frames: np.ndarray, side: np.ndarray) -> np.ndarray:
    """What somebody asks for (3, N) who left the road to `side` and looks for it in the frames: turn to where it is
    seen, and as long as it is not, to the other side."""
    above = frames[:, :44].astype(int)  # from the car on
    road = (above[..., 1] < above[..., 0] + 25) & (above.sum(-1) > 60)  # grey, not green
    seen = road.sum((1, 2))
    middle = (road.sum(1) * np.arange(64)).sum(1) / np.maximum(seen, 1)
    wheel = np.where(seen > 30, np.clip((middle - 31.5) / 12, -1, 1), -0.7 * side)
    return np.stack([wheel, np.full(len(side), 0.25), np.zeros(len(side))])


def led_astray(
    side: np.ndarray,
    act: Callable[[], np.ndarray],
    step: Callable[[np.ndarray], None],
    see: Callable[[], np.ndarray],
    person: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold the key of `side` (N,), −1 or 1: who left the road, and who of all came back, bool (N,) each.

    Args:
        side: which way.
        act: C's actions (N, 3).
        step: takes the actions.
        see: the frames uint8 (N, 64, 64, 3).
        person: whether not C drives back, but somebody who is `looking` for the road.
    """
    asked = np.zeros((3, len(side)))
    nothing, last = np.zeros(len(side)), np.zeros((len(side), 3), np.float32)
    left, back, steady = np.zeros(len(side), bool), np.zeros(len(side), bool), np.zeros(len(side), int)
    for t in range(ALONE + HELD + AFTER):
        held = ALONE <= t < ALONE + HELD
        action = act()
        wanted = (side, nothing, nothing) if held else tuple(asked)
        last = keys(last, *wanted) if held or (person and t > ALONE) else action
        step(last)
        if t >= ALONE and t % LOOK == 0:
            frames = see()
            road, asked = on_road(frames), looking(frames, side)
            left |= ~road & (t < ALONE + HELD + SECOND)
            steady = np.where(road & (t >= ALONE + HELD), steady + LOOK, 0)
            back |= steady >= SECOND
    return left, back


# ------------------------------------------------------------------------------------------------- measuring


class Playground:
    """The page's dreams of a run: S starts, N = 2 · S · seeds dreams, each start led to both sides."""

    def __init__(self, run: Path):
        self.agent = site.load(run)
        real = recordings(run, self.agent.env_id, self.agent.actions.size)
        self.starts = choose(self.agent, real.short)[0]

    def dreams(self, temperature: float, repeats: int) -> "Dreaming":
        """Every start `repeats` times, each time in other noise."""
        which = np.tile(np.arange(len(self.starts)), repeats)
        dreams = Dreams(self.agent.memory, len(which), temperature=temperature)
        z, h, c = (np.stack([start[i].numpy() for start in self.starts])[which] for i in (1, 2, 3))
        dreams.begin(np.arange(len(which)), np.arange(len(which)), z, h, c, restart=0.0)
        return Dreaming(dreams, self.agent)


class Dreaming:
    """N dreams with C at the wheel."""

    def __init__(self, dreams: Dreams, agent: Agent):
        self.dreams, self.vae = dreams, agent.encoder.vae
        self.driver = Population(dreams, agent.controller, agent.population.numpy(), agent.actions)

    def act(self) -> np.ndarray:
        return self.driver(np.arange(self.dreams.lanes), np.zeros(self.dreams.lanes, int))

    def step(self, actions: np.ndarray) -> None:
        self.dreams.step(actions)

    def see(self) -> np.ndarray:
        z = torch.from_numpy(self.dreams.z.copy())
        return np.concatenate([self.vae.decode(part) for part in z.split(64)])


def measure(run: Path, repeats: int, real: bool) -> None:
    """Print the shares."""
    playground = Playground(run)
    for temperature in (TEMPERATURE, 1.0):
        for who in ("C", "a person"):
            dreaming = playground.dreams(temperature, 2 * repeats)
            side = np.where(np.arange(len(dreaming.dreams.z)) < len(dreaming.dreams.z) // 2, -1.0, 1.0)
            found = led_astray(side, dreaming.act, dreaming.step, dreaming.see, who == "a person")
            say(f"{who}, in dreams at temperature {temperature}", *found)
        alone, road = playground.dreams(temperature, repeats), []
        for t in range(1000):
            alone.step(alone.act())
            if t % 20 == 19:
                road.append(on_road(alone.see()))
        print(f"C by itself at temperature {temperature}: {np.mean(road):.1%} of 1,000 steps on the road", flush=True)
    for who in ("C", "a person") if real else ():
        driving, side = Driving(playground.agent, 40), np.tile([-1.0, 1.0], 20)
        say(f"{who}, on the real road", *led_astray(side, driving.act, driving.step, driving.see, who == "a person"))


def say(what: str, left: np.ndarray, back: np.ndarray) -> None:
    share = back[left].mean()
    print(
        f"{what}: {left.sum()} of {len(left)} led astray, {share:.0%} of these came back",
        flush=True,
    )


class Driving:
    """C in the simulator, two lanes per development track, two seconds after the start."""

    def __init__(self, agent: Agent, lanes: int):
        self.env, self.agent = envs.make(envs.World(envs.CARRACING), lanes, max_steps=2000), agent
        self.frames, _ = self.env.reset(seed=[DEVELOPMENT + lane // 2 for lane in range(lanes)])
        self.state = agent.memory.initial_state(lanes)
        for _ in range(100):
            self.step(self.act())

    @torch.no_grad()
    def act(self) -> np.ndarray:
        self.z = self.agent.encoder(self.frames, None)
        seen = self.agent.controller.see(self.z, self.state)
        population = self.agent.population.expand(len(seen), -1)
        return self.agent.actions.squash(self.agent.controller.act(population, seen).numpy())

    @torch.no_grad()
    def step(self, actions: np.ndarray) -> None:
        self.state = self.agent.memory.step(self.z, torch.from_numpy(actions), self.state)
        self.frames = self.env.step(self.agent.actions.to_env(actions))[0]

    def see(self) -> np.ndarray:
        return self.frames


# ------------------------------------------------------------------------------------------------- collecting


class Shared(Agent):
    """C at the wheel, and from time to time a person at the keys; M sees what was really done."""

    env: VectorEnv

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        super().begin(lanes, episodes)
        self.people: dict[int, Person] = getattr(self, "people", {})
        for lane, episode in zip(lanes, episodes, strict=True):
            self.people[lane] = Person(np.random.default_rng(episode.seed))

    @torch.no_grad()
    def act(self, lanes: np.ndarray, observations: np.ndarray) -> np.ndarray:
        z, state = self.encoder(observations, None), (self.h[lanes], self.c[lanes])
        outputs = self.controller.act(self.population.expand(len(z), -1), self.controller.see(z, state))
        own = self.actions.squash(outputs.numpy())
        batch = self.env.unwrapped.batch  # type: ignore[attr-defined]
        actions = np.stack([self.people[n].act(own[i], batch, n) for i, n in enumerate(lanes)])
        self.h[lanes], self.c[lanes] = self.memory.step(z, torch.from_numpy(actions), state)
        return actions


class Person:
    """Takes the wheel now and then, presses some keys until the car is off the road, drives back and lets go."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.last = rng, np.zeros(3, np.float32)
        self.alone = int(rng.integers(10, 60))  # steps that C still drives
        self.presses: list[tuple[int, Wish]] = []  # steps, and (wheel, gas, brake)
        self.steady = 0  # steps on the road since

    def act(self, own: np.ndarray, batch: Any, lane: int) -> np.ndarray:
        """What is done (3,) where C would do `own` (3,)."""
        if self.alone:
            self.alone, self.last = self.alone - 1, own
            if not self.alone:
                self.presses, self.steady = [self.press() for _ in range(self.rng.integers(1, 3))], 0
            return own
        asked = home(batch, lane)
        if self.presses:
            (left, asked), *rest = self.presses
            self.presses = [(left - 1, asked), *rest] if left > 1 else rest
        else:
            self.steady = self.steady + 1 if batch.cars.on_road[lane].all() else 0
            self.alone = int(self.rng.integers(20, 100)) if self.steady > 15 else 0
        self.last = keys(self.last[None], *np.array(asked)[:, None])[0]
        return self.last

    def press(self) -> tuple[int, Wish]:
        """Mostly to a side, sometimes with gas, seldom with the brake."""
        wheel, gas, brake = self.rng.choice([-1, -1, 0, 1, 1]), self.rng.random() < 0.4, self.rng.random() < 0.1
        return int(self.rng.integers(15, 55)), (int(wheel), int(gas), int(brake))


def home(batch: Any, lane: int) -> Wish:
    """The wheel, gas and brake that lead back to the road, gently: grass is slippery."""
    cars, tracks = batch.cars, batch.tracks
    centre = tracks.centre[lane, : tracks.count[lane], 2:]
    place, angle, speed = cars.position[lane, 0], cars.angle[lane, 0], np.hypot(*cars.velocity[lane, 0])
    nearest = int(np.hypot(*(centre - place).T).argmin())
    x, y = centre[(nearest + 4) % len(centre)] - place  # four tiles on
    turn = (np.arctan2(-x, y) - angle + np.pi) % (2 * np.pi) - np.pi  # to the left; the car looks along its y
    gas = speed < 12 or (speed < 25 and abs(turn) < 0.5)
    brake = speed > 35 or (speed > 18 and abs(turn) > 0.7)
    return -float(np.clip(turn, -1, 1)), 0.5 * gas, 0.5 * brake


def collect(run: Path, to: Path, episodes: int, seed: int) -> None:
    """Real drives of 400 steps from anywhere on training tracks."""
    agent = site.load(run)
    shared = Shared(agent.encoder, agent.memory, agent.controller, agent.population.numpy(), agent.actions)
    env = envs.make(envs.World(envs.CARRACING), min(episodes, 64), max_steps=400)
    shared.env = env
    drives = [Episode(track) for track in training_seeds(seed, count=episodes)]
    road = []

    def keep(index: int, rollout: Rollout) -> None:
        write_atomically(to / f"rollout_{index:06d}.npz", encode(rollout, drives[index].seed))
        road.append(on_road(rollout.frames).mean())

    to.mkdir(parents=True, exist_ok=True)
    drive(env, agent.actions, shared, drives, options=envs.reset_options(envs.CARRACING, "anywhere"), on_rollout=keep)
    print(f"{episodes} drives in {to}, {np.mean(road):.0%} of their frames on the road")


# --------------------------------------------------------------------------------------------------- training


def that_return(episode: Latents, road: np.ndarray) -> list[Latents]:
    """The parts of an episode without the absences from the road (T + 1,) that last over AWAY steps or never end."""
    parts, start = [], 0
    ends = np.flatnonzero(np.diff(np.concatenate([[True], road, [True]]).astype(int)))  # absences: first, one after
    for first, after in ends.reshape(-1, 2):
        if after - first > AWAY or after == len(road):
            parts.append((start, first))
            start = after
    parts.append((start, len(road)))
    return [
        Latents(*(x[first:last] for x in episode[:2]), *(x[first : last - 1] for x in episode[2:]))
        for first, last in parts
        if last - first > SECOND
    ]


def tune(run: Path, folders: list[Path], to: Path, epochs: int, rate: float, anchor: float | None) -> None:
    """Train the run's M further on episodes that leave the road, and write the run with it to `to`.

    Without `anchor` only the head learns: h stays what it was to the last bit, and C, which sees nothing else of M,
    drives as before. With it all of M learns, and the loss has `anchor` times the squared distance that h moved.
    """
    RunDir(to).mdrnn.mkdir(parents=True, exist_ok=True)
    for stage in ("vae", "ctrl"):
        shutil.copytree(run / stage, to / stage, dirs_exist_ok=True)
    tensors, meta = checkpoint.load(run / "mdrnn" / "best.safetensors")
    vae, before, mdrnn = vision.load(to), memory.load(run), memory.load(run)
    trained = mdrnn.head if anchor is None else mdrnn
    episodes: list[Latents] = []
    for folder in folders:
        latents = to / "mdrnn" / "latents" / folder.name
        found = encode_dataset(vae, RunDir(to).trained("vae"), open_dataset(folder), latents)
        kept = [
            part for path, episode in found.items() for part in that_return(episode, on_road(load_rollout(path).frames))
        ]
        episodes += kept
        all_steps, steps = (sum(len(e.actions) for e in some) for some in (found.values(), kept))
        print(f"{folder}: {steps:,} of {all_steps:,} steps come back to the road", flush=True)
    sequences = Sequences(episodes, length=125, batch_size=32)
    learning = [p for name, p in trained.named_parameters() if "bias_hh" not in name]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learning, lr=rate)
    each = batches_per_epoch([len(episode.actions) for episode in episodes], sequences.length, sequences.batch_size)
    steps = epochs * each
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    noise = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        totals = np.zeros(2)
        for batch in sequences.batches(0, epoch):
            z = batch.mean + torch.exp(0.5 * batch.logvar) * torch.randn(batch.mean.shape, generator=noise)
            prediction, h = mdrnn(z[:, :-1], batch.actions)
            nll = (mixture_nll(prediction, z[:, 1:]) * batch.mask).sum() / batch.mask.sum()
            loss, moved = nll, torch.zeros(())
            if anchor is not None:
                with torch.no_grad():
                    _, old = before(z[:, :-1], batch.actions)
                moved = ((h - old).square().mean(-1) * batch.mask).sum() / batch.mask.sum()
                loss = nll + anchor * moved
            optimizer.zero_grad()
            loss.backward()
            if before.include_reward:  # was fitted by itself, and stays
                mdrnn.head.weight.grad[-1], mdrnn.head.bias.grad[-1] = 0, 0  # type: ignore[index]
            optimizer.step()
            schedule.step()
            totals += nll.item(), moved.item()
        nll, moved = totals / each
        print(f"epoch {epoch + 1}: {nll:.4f} nats per dimension, h moved by {moved**0.5:.4f}", flush=True)
        checkpoint.save(RunDir(to).mdrnn / "best.safetensors", checkpoint.pack("mdrnn", mdrnn.state_dict()), meta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("measure", "collect", "tune"):
        commands.add_parser(name).add_argument("--logdir", type=Path, default=pretrained.folder("carracing"))
    commands.choices["measure"].add_argument("--repeats", type=count, default=3)
    commands.choices["measure"].add_argument("--real", action="store_true")
    commands.choices["collect"].add_argument("--to", type=Path, required=True)
    commands.choices["collect"].add_argument("--episodes", type=count, default=200)
    commands.choices["collect"].add_argument("--seed", type=int, default=1)
    of_tune = commands.choices["tune"]
    of_tune.add_argument("--rollouts", type=Path, nargs="+", required=True)
    of_tune.add_argument("--to", type=Path, required=True)
    of_tune.add_argument("--epochs", type=count, default=10)
    of_tune.add_argument("--rate", type=above_zero, default=1e-3)
    of_tune.add_argument("--anchor", type=float)
    a = parser.parse_args()
    if a.command == "measure":
        measure(a.logdir, a.repeats, a.real)
    if a.command == "collect":
        collect(a.logdir, a.to, a.episodes, a.seed)
    if a.command == "tune":
        tune(a.logdir, a.rollouts, a.to, a.epochs, a.rate, a.anchor)


if __name__ == "__main__":
    with as_a_command():
        main()
