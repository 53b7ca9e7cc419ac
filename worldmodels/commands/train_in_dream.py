"""Let C learn in M's dream, and M from what C tries; V is held fixed.

    worldmodels train-in-dream --logdir exp_dir        (M trained with --include-reward --discount 0.997)

A round: C climbs the reward of short dreams that begin in states of the newest episodes, M's value standing for what
comes after; C and candidates around it drive real episodes, on which nothing is selected; what the dream promised them
is held against what they were paid; M learns from all the episodes so far, and C is carried over to what h now means.
Where the dream promised too much, C rests and only M learns.

Every few rounds C drives the selection tracks; the best is kept, with the M whose h it reads. Writes <logdir>/ctrl:
best.safetensors, last.safetensors, the rounds' episodes as V saw them, metrics.jsonl and TensorBoard events; and
<logdir>/mdrnn/best.safetensors and starts.safetensors.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from worldmodels import controller, envs, memory, vision
from worldmodels.agent import Agent, Eyes, check_fit, load
from worldmodels.commands.train_mdrnn import loss_of
from worldmodels.controller import Controller
from worldmodels.data.latents import TAIL, Latents, Sequences, stored_latents
from worldmodels.envs import Actions, World
from worldmodels.envs.seeds import SELECTION, training_seeds
from worldmodels.errors import UserError
from worldmodels.evolution.standing import Standing, refuse_other_settings, start_over
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode, GiveUp, drive
from worldmodels.runs import checkpoint
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone
from worldmodels.runs.metrics import Metrics
from worldmodels.runs.progress import progress
from worldmodels.runs.settings import TrainInDream
from worldmodels.show.dreamed import film
from worldmodels.training import quality
from worldmodels.training.dreaming import Dreamer, carry_over
from worldmodels.training.fit import generator
from worldmodels.vision import VAE
from worldmodels.workers.explorer import Explorer, explore
from worldmodels.workers.places import choose_bfloat16, cores

NEW = 5  # rounds whose episodes are half of what M learns from,
BEGUN_IN = 8  # and rounds in whose states dreams begin
SLOWER = 0.96  # the steps of C and M from one round to the next
UNPAID = 40  # steps without a reward at the end of an episode that was lost,
BEFORE = (15, 90)  # and how many before that a quarter of the dreams begin
LANES = 8  # fewest of a thread: with less to do it would be waited for
LONGEST = 1.0  # gradient of M's loss, cut to this length
AHEAD = ("discount", "supply")  # what M's value counts, and a driver's M says of itself
FIXED = ("env", "horizon", "seed")
"""Settings that a C keeps from its first round to its last."""


def main(cfg: TrainInDream, begin: Callable[[], None] = lambda: None) -> None:
    """Learn; `begin` is called when all is known to be good (the run then remembers what it was asked)."""
    check(cfg)
    run, description = RunDir.of(cfg.logdir), envs.find(cfg.env)
    envs.reset_options(cfg.env, cfg.start)
    with alone(run.ctrl, "learning in the dream"):
        learner = Learner.of(cfg, run)
        begin()
        if learner.loop.generation >= cfg.rounds:
            print(f"C in {run.ctrl} has learned already ({learner.loop.generation} rounds): more --rounds go on.")
            if learner.best and not film_of(run).exists():  # killed in the end
                finish(cfg, run, learner)
            return
        film_of(run).unlink(missing_ok=True)
        horizon = description.time_limit or 1000
        road = Road(cfg, learner.actions, horizon)
        metrics = Metrics(run.ctrl, "generation", learner.loop.generation)
        bar = progress(total=cfg.rounds, initial=learner.loop.generation, unit="round", desc="C dreams")
        with bar:
            while learner.loop.generation < cfg.rounds:
                row = round_of(cfg, run, learner, road)
                metrics.write(row)
                learner.save(run)
                bar.set_postfix_str(learner.summary(row), refresh=False)
                bar.update()
        metrics.close()
        road.close()
        finish(cfg, run, learner)
    loop = learner.loop
    print(f"C has seen {loop.env_steps:,} real steps and {loop.dream_steps:,} dreamed ones; best {loop.best_so_far}.")


def round_of(cfg: TrainInDream, run: RunDir, learner: "Learner", road: "Road") -> dict[str, Any]:
    """Dream, drive, compare, learn, carry over; returns the round's metrics."""
    loop, began = learner.loop, time.perf_counter()
    loop.generation += 1
    number, draw = loop.generation, generator(torch.device("cpu"), cfg.seed, loop.generation)
    age = age_of(cfg, number)
    if age == 1:
        learner.begin(cfg)
    m = copy.deepcopy(learner.mdrnn).requires_grad_(False).eval()  # as it is before it learns
    dreamer = Dreamer(m, learner.shape, learner.actions, cfg.temperature, cfg.horizon)
    near = cfg.spread * max(SLOWER**age, 1 / 4)

    if not loop.resting:
        count = cfg.dreams * cfg.climbs
        episodes = learner.newest(BEGUN_IN)
        starts = quality.states(m, episodes, *beginnings(episodes, count, np.random.default_rng([cfg.seed, number, 2])))
        rate = cfg.step_size * max(SLOWER**age, 1 / 6)
        learner.parameters, _ = dreamer.climb(learner.parameters, starts, cfg.dreams, rate, near, draw)
        loop.dream_steps += count * cfg.horizon

    spread = np.random.default_rng([cfg.seed, number]).standard_normal((cfg.episodes, learner.shape.size))
    spread[:2] = 0.0
    population = (learner.parameters + near * spread).astype(np.float32)
    episodes, scores, whole = road.explore(m, learner, population, cfg.seed, number)
    loop.env_steps += sum(len(episode.actions) for episode in episodes)
    promise = dreamer.promise(population[::2], episodes[::2], draw)  # of those that do not waver

    learner.rounds.append(episodes)
    save_episodes(run, number, episodes)
    lost = learn(cfg, learner, number)
    both = np.stack([learner.parameters, learner.average])
    learner.parameters, both[1] = carry_over(learner.shape, both, m, learner.mdrnn, learner.newest(BEGUN_IN))
    learner.average = both[1] + (learner.parameters - both[1]) / min(age, cfg.average)
    scale = 0.1 * learner.mdrnn.value_scale  # of a return that is nearly none
    too_much = promise is not None and promise["promised"] > cfg.gate * max(promise["paid"], scale)
    loop.resting = int(too_much and not loop.resting)

    selected = None
    if number % cfg.select_every == 0 or number == cfg.rounds:
        selected = learner.select(cfg, run, road)
    laps = scores[whole]
    loop.seconds += time.perf_counter() - began
    return {
        "generation": number, "env_steps": loop.env_steps, "dream_steps": loop.dream_steps,
        "best": float(laps.max()), "mean": float(laps.mean()), "std": float(laps.std()), "worst": float(laps.min()),
        "selected": selected, "discount": m.discount, **(promise or {}), "resting": loop.resting, **lost,
        "seconds": loop.seconds,
    }  # fmt: skip


def beginnings(episodes: list[Latents], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where `count` dreams begin: which episode, and before which of its steps, int64 (count,) each.

    An eighth at the beginning of an episode, a quarter shortly before one was lost, the rest anywhere before that:
    in the grass there is nothing to learn.
    """
    paid = [np.flatnonzero(episode.rewards.numpy() > 0) for episode in episodes]
    length = np.array([len(episode.actions) for episode in episodes])
    lost = np.array([steps[-1] + 1 if len(steps) else 1 for steps in paid])  # the step after the last reward
    failed = np.flatnonzero(length - lost >= UNPAID)
    driven = np.where(length - lost >= UNPAID, lost, length)
    owner = rng.choice(len(episodes), size=count, p=driven / driven.sum())
    step = rng.integers(driven[owner])
    step[::8] = 0
    if len(failed):
        hard = np.flatnonzero(np.arange(count) % 4 == 1)
        owner[hard] = rng.choice(failed, size=len(hard))
        step[hard] = np.maximum(lost[owner[hard]] - rng.integers(*BEFORE, size=len(hard)), 0)
    return owner, step


def learn(cfg: TrainInDream, learner: "Learner", number: int) -> dict[str, float]:
    """M learns from all the episodes so far, half of the sequences from the newest; returns the parts of its loss."""
    m, old = learner.mdrnn, [episode for episodes in learner.rounds for episode in episodes]
    m.look_ahead(discount_of(cfg, learner.first_discount, number), cfg.supply)
    sequences = Sequences(old, cfg.sequence_length, cfg.batch_size, m.discount, m.include_terminal, m.supply)
    lengths = np.array([len(episode.actions) for episode in old], dtype=np.float64)
    new = np.arange(len(old)) >= len(old) - len(learner.newest(NEW))
    share = (lengths / lengths.sum() + new * lengths / (new * lengths).sum()) / 2
    rng = np.random.default_rng([cfg.seed, number, 1])
    for group in learner.optimizer.param_groups:
        group["lr"] = cfg.learning_rate * max(SLOWER ** age_of(cfg, number), 1 / 10)
    sums: dict[str, float] = {}
    m.train()
    for update in range(cfg.updates):
        chosen = rng.choice(len(old), size=cfg.batch_size, p=share)
        first = rng.integers(np.maximum(lengths[chosen] - cfg.sequence_length, 0) + 1)
        first[::10] = 0  # a long episode's first steps would hardly be met
        windows = [
            (int(i), int(t), min(int(t) + cfg.sequence_length, int(lengths[i])))
            for i, t in zip(chosen, first, strict=True)
        ]
        batch = sequences.batch(windows)
        told = torch.from_numpy(new[chosen])[:, None]  # what came after an earlier C is not what comes after this one
        batch = batch._replace(value=batch.value.masked_fill(~told, torch.nan))
        loss, parts, _ = loss_of(m, batch, generator(m.device, cfg.seed, number, update))
        if not bool(loss.isfinite()):
            raise UserError(
                f"M's loss is {float(loss)} in round {number}: the last good state in {cfg.logdir}/ctrl is kept; "
                "run again with a lower --learning-rate."
            )
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(m.parameters(), LONGEST)
        learner.optimizer.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) / cfg.updates
    m.eval()
    return {f"train_{name}": value for name, value in sums.items()}


def discount_of(cfg: TrainInDream, first: float, number: int) -> float:
    """The discount of M's value after round `number`: the steps it looks ahead grow by the same factor in every round
    of this C, from those of the `first` discount to those of the last."""
    share = min(age_of(cfg, number) / cfg.farther, 1.0) if cfg.farther else 1.0
    return 1 - (1 - first) ** (1 - share) * (1 - cfg.discount) ** share


def age_of(cfg: TrainInDream, number: int) -> int:
    """The rounds of the C that learns in round `number`, this one included."""
    return number - cfg.afresh if 0 < cfg.afresh < number else number


def finish(cfg: TrainInDream, run: RunDir, learner: "Learner") -> None:
    """Make the best C's world ready to dream in, and film both."""
    best = memory.load(run)
    starts = quality.bank(best, learner.newest(BEGUN_IN), 1024, cfg.seed)
    starts.save(run.mdrnn / "starts.safetensors")
    film(run, load(run, learner.actions), starts, cfg.temperature, 250, SELECTION, learner.loop.generation)


# ------------------------------------------------------------------------------------------ where it stands


@dataclass
class Loop(Standing):
    """Where the learning stands; a round counts as a generation, and the first episodes among the real steps."""

    resting: int = 0
    """1 where C does not climb in the next round."""


@dataclass
class Learner:
    """C, and the M it learns in."""

    loop: Loop
    vae: VAE
    mdrnn: MDRNN
    optimizer: torch.optim.Optimizer
    """Of M."""
    shape: Controller
    parameters: np.ndarray
    """Of C, float64 (n,),"""
    average: np.ndarray
    """and their average over the last rounds (n,), which is evaluated and kept."""
    first_discount: float
    """Of the value of the M that train-mdrnn left."""
    actions: Actions
    settings: dict[str, Any]
    """The values of FIXED, and which V it is that sees."""
    rounds: list[list[Latents]] = field(default_factory=list)
    """The episodes on which M was trained first, then those of every round."""
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """The best C's parameters and M, as tensors of a checkpoint."""

    @staticmethod
    def of(cfg: TrainInDream, run: RunDir) -> "Learner":
        """The learner in last.safetensors; a fresh one where there is none, or with --noreload.

        Raises:
            UserError: V or M is missing or without the heads, or the file holds something else.
        """
        vae, path = vision.load(run), run.ctrl / "last.safetensors"
        vae.use_bfloat16 = choose_bfloat16(cfg.precision, vae.device)
        first = run.mdrnn / "last.safetensors"  # as train-mdrnn left it: best.safetensors goes on with C
        run.trained("mdrnn")
        tensors, meta = checkpoint.load(first)
        mdrnn = memory.build(first, tensors, meta).requires_grad_(True)
        refuse(cfg, mdrnn.pays, mdrnn.discount)
        actions = envs.tried(World(cfg.env), cfg.start)
        shape = Controller(mdrnn.z_size, mdrnn.hidden_size, actions.outputs)
        check_fit(Eyes(vae), mdrnn, shape, np.zeros((1, shape.size)), actions)
        trained = [parameter for parameter in mdrnn.parameters() if parameter.requires_grad]
        learner = Learner(
            Loop(), vae, mdrnn, torch.optim.Adam(trained, cfg.learning_rate), shape, np.zeros(shape.size),
            np.zeros(shape.size), mdrnn.discount, actions,
            {name: getattr(cfg, name) for name in FIXED} | {"V": checkpoint.digest(run.trained("vae"))},
            [list(stored_latents(run.latents, run.trained("vae")))],
        )  # fmt: skip
        learner.loop.env_steps = sum(len(episode.actions) for episode in learner.rounds[0])
        if path.exists() and not cfg.noreload:
            learner.resume(run, *checkpoint.load(path))
        mdrnn.look_ahead(discount_of(cfg, learner.first_discount, learner.loop.generation), cfg.supply)
        if not learner.rounds[0]:
            raise UserError(f"{run.latents} holds no episodes as V sees them: run `worldmodels train-mdrnn` again.")
        if cfg.noreload:
            start_over(run.ctrl)
        return learner

    def resume(self, run: RunDir, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Go on from a checkpoint's content."""
        path = run.ctrl / "last.safetensors"
        try:
            refuse_other_settings(run, self.settings, meta["settings"])
            self.loop = Loop(**meta["dream"])
            self.mdrnn.load_state_dict(checkpoint.unpack("mdrnn", tensors))
            checkpoint.unpack_optimizer(self.optimizer, tensors, 0.0)
            self.parameters, self.average = tensors["parameters"].numpy(), tensors["average"].numpy()
            self.best = checkpoint.unpack("best", tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} holds no C that learned in the dream: start over with --noreload.") from error
        self.rounds += [load_episodes(run, number + 1) for number in range(self.loop.generation)]
        if self.best:
            self.publish(run)
        print(f"Continuing C in {run.ctrl} at round {self.loop.generation + 1}.")

    def save(self, run: RunDir) -> None:
        """Replace last.safetensors."""
        tensors = {
            "parameters": torch.from_numpy(self.parameters), "average": torch.from_numpy(self.average),
            **checkpoint.pack("mdrnn", self.mdrnn.state_dict()), **checkpoint.pack_optimizer(self.optimizer),
            **checkpoint.pack("best", self.best),
        }  # fmt: skip
        checkpoint.save(run.ctrl / "last.safetensors", tensors, {"dream": asdict(self.loop), "settings": self.settings})

    def begin(self, cfg: TrainInDream) -> None:
        """C begins from nothing, and M looks as far ahead as when it was first met."""
        self.loop.resting = 0
        self.parameters, self.average = np.zeros(self.shape.size), np.zeros(self.shape.size)
        self.mdrnn.look_ahead(discount_of(cfg, self.first_discount, 0), cfg.supply)

    def newest(self, count: int) -> list[Latents]:
        """The episodes of the last `count` rounds."""
        return [episode for episodes in self.rounds[-count:] for episode in episodes]

    def select(self, cfg: TrainInDream, run: RunDir, road: "Road") -> float:
        """The mean score of C's average on the selection tracks; the best is kept with its M."""
        scores, steps = road.select(Agent(Eyes(self.vae), self.mdrnn, self.shape, self.average[None], self.actions))
        self.loop.env_steps += steps
        if self.loop.best is None or scores.mean() > self.loop.best:
            self.loop.best = float(scores.mean())
            parameters = torch.from_numpy(self.average.astype(np.float32))
            m = {name: tensor.clone() for name, tensor in self.mdrnn.state_dict().items()}
            ahead = {name: torch.tensor(getattr(self.mdrnn, name), dtype=torch.float64) for name in AHEAD}
            self.best = {"parameters": parameters, **ahead, **checkpoint.pack("mdrnn", m)}
            self.publish(run)
        return float(scores.mean())

    def publish(self, run: RunDir) -> None:
        """Make the best C, with its M, the run's driver."""
        _, meta = checkpoint.load(run.mdrnn / "last.safetensors")
        tensors = checkpoint.pack("mdrnn", checkpoint.unpack("mdrnn", self.best))
        settings = meta["mdrnn"] | {name: float(self.best[name]) for name in AHEAD if name in self.best}
        about_m = {"mdrnn": settings, "precision": "float32", "went_on": True, "V": self.settings["V"]}
        checkpoint.save(run.mdrnn / "best.safetensors", tensors, about_m)
        about = {"agent": {"sample_z": False, "seed": self.settings["seed"]}, "env": self.settings["env"]}
        origin = {"generation": self.loop.generation, "selected": self.loop.best}
        controller.save(run, self.shape, self.best["parameters"].numpy(), {**about, **origin})

    def summary(self, row: dict[str, Any]) -> str:
        """For the progress bar."""
        text = f"population {row['mean']:.0f}, best {self.loop.best_so_far}"
        return text + (f", promised {row['promised']:.0f} paid {row['paid']:.0f}" if "paid" in row else "")


# ------------------------------------------------------------------------------------------------ the road


class Road:
    """The lanes in which real episodes are driven."""

    def __init__(self, cfg: TrainInDream, actions: Actions, horizon: int):
        """`horizon`: steps of a whole episode."""
        self.cfg, self.actions, self.horizon, self.envs = (
            cfg,
            actions,
            horizon,
            dict[tuple[int, int | None], VectorEnv](),
        )

    def lanes(self, count: int, max_steps: int | None) -> VectorEnv:
        key = (count, max_steps)
        if key not in self.envs:
            threads = max(1, min(cores(), count // LANES))
            self.envs[key] = envs.make(World(self.cfg.env), count, threads=threads, max_steps=max_steps)
        return self.envs[key]

    def explore(
        self, m: MDRNN, learner: Learner, population: np.ndarray, seed: int, number: int
    ) -> tuple[list[Latents], np.ndarray, np.ndarray]:
        """Candidate i drives episode i; returns them, their scores (P,), and which of them are whole, bool (P,).

        Where episodes may begin anywhere, all but the first `whole` do.
        """
        cfg, seeds = self.cfg, training_seeds(seed, number, count=len(population))
        explorer = Explorer(learner.vae, m, learner.shape, population, self.actions, cfg.waver, seed)
        whole = (np.arange(len(population)) < cfg.whole) | (cfg.start == "line")
        episodes: list[Latents | None] = [None] * len(population)
        scores = np.zeros(len(population))
        for start, part, steps in (("line", whole, None), (cfg.start, ~whole, cfg.fragment)):
            which = np.flatnonzero(part).tolist()
            if not which:
                continue
            driven, scores[part] = explore(
                self.lanes(len(which), steps), explorer, [Episode(seeds[i], i) for i in which],
                envs.reset_options(cfg.env, start), GiveUp(cfg.give_up, steps or self.horizon),
            )  # fmt: skip
            for i, episode in zip(which, driven, strict=True):
                episodes[i] = episode
        return [episode for episode in episodes if episode is not None], scores, whole

    def select(self, agent: Agent) -> tuple[np.ndarray, int]:
        """The selection tracks; returns the scores and the steps driven."""
        tracks = [Episode(SELECTION + i) for i in range(self.cfg.select_tracks)]
        scores, lengths = drive(self.lanes(len(tracks), None), self.actions, agent, tracks)
        return scores, int(lengths.sum())

    def close(self) -> None:
        for env in self.envs.values():
            env.close()


# --------------------------------------------------------------------------------------------------- files


def save_episodes(run: RunDir, number: int, episodes: list[Latents]) -> None:
    """Write a round's episodes as V saw them."""
    tensors = {f"{i}.{name}": x for i, episode in enumerate(episodes) for name, x in episode._asdict().items()}
    checkpoint.save(run.ctrl / "episodes" / f"round_{number:04d}.safetensors", tensors, {"episodes": len(episodes)})


def load_episodes(run: RunDir, number: int) -> list[Latents]:
    """The episodes of round `number`."""
    tensors, meta = checkpoint.load(run.ctrl / "episodes" / f"round_{number:04d}.safetensors")
    return [Latents(**checkpoint.unpack(str(i), tensors)) for i in range(meta["episodes"])]


def film_of(run: RunDir) -> Path:
    """The last file that is written."""
    return run.ctrl / "dream.mp4"


def refuse(cfg: TrainInDream, pays: bool, discount: float) -> None:
    """UserError for an M whose dream pays nothing, or that knows no value, or episodes that end too soon to tell."""
    envs.reset_options(cfg.env, cfg.start)
    if 0 < cfg.give_up < TAIL:
        raise UserError(
            f"--give-up is {cfg.give_up}: an episode that is given up is taken to go on as in its last {TAIL} steps, "
            "so give at least as many, or 0."
        )
    if not (pays and discount):
        raise UserError(
            "C learns in the dream of an M that predicts rewards and their value: "
            "`worldmodels train-mdrnn --noreload --include-reward --discount 0.997` trains one that does."
        )
