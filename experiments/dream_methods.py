"""Ways of learning in a long dream beside each other: what the dream promises, and what the road then pays.

    worldmodels run --preset dream --logdir exp_dir
    python -m experiments.dream_methods exp_dir [--rounds 20] [--updates 600] [--generations 20] [--seeds 2]

All Ms learn from the same episodes, random ones and those of the first rounds of `exp_dir`, as its V sees them; all Cs
evolve by CMA-ES in dreams of 250 steps, without a value, from states of these episodes. The last row is the run's own
driver in the M that it learned in. Prints the table of docs/results.md and writes a picture of how each C cheats to
docs/images/dream_methods.png.

C always sees the h of one M; in an ensemble another one may be the world in which it dreams.
"""

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conformance.arguments import count
from experiments.dream import ANYWHERE, FRESH_KEY, HORIZON, SHOWN, World, evolved, picture
from worldmodels import controller, memory, vision
from worldmodels.cli import as_a_command
from worldmodels.data.latents import Latents, Sequences, stored_latents
from worldmodels.dream import Starts, bank
from worldmodels.envs.seeds import DEVELOPMENT
from worldmodels.fast_dream import Dreams, Population
from worldmodels.memory import MDRNN
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.training.learner import load_episodes
from worldmodels.vision import VAE
from worldmodels.workers.places import choose_bfloat16

MEMBERS = 3  # of an ensemble
DROPOUT = 0.1  # share of h (Dropout's Dream Land, ECML 2021)
BATCH, LENGTH, RATE = 32, 100, 2e-3  # sequences, their steps, and Adam's first step, for M
BANK = 1024  # states from which dreams begin
FRESH = 256  # dreams that no generation has met
TRACKS = 32  # development tracks
NOTHING = 10.0  # real reward of a dream's steps below which a ratio says nothing


@dataclass(frozen=True)
class Method:
    """How a dream is dreamed."""

    name: str
    dropout: bool = False
    """M is trained with dropout,"""
    mask: bool = False
    """and every dream has a mask of its own."""
    members: int = 1
    """Ms, one of which is drawn for every dream."""
    worst: bool = False
    """Instead, every dream is dreamed in all of them, and the least that one pays counts."""


METHODS = (
    Method("one M"),
    Method("dropout in M's training alone", dropout=True),
    Method("a mask of dropout per dream", dropout=True, mask=True),
    Method("an M of three per dream", members=MEMBERS),
    Method("the worst of three", members=MEMBERS, worst=True),
)


class Dreamt(World):
    """The world as `method` has it."""

    def __init__(self, method: Method, vae: VAE, members: list[MDRNN], starts: list[Starts]):
        """C sees the h of the first of `members`; `starts` are the same real states as each of them meets them."""
        super().__init__(vae, members[0], starts[0])
        self.method, self.members, self.banks = method, members, starts

    def dreamed(self, parameters: np.ndarray, temperature: float, which: np.ndarray, keys: np.ndarray) -> np.ndarray:
        members = range(len(self.members))
        if self.method.worst:
            everywhere = [self.returns(parameters, temperature, which, keys, member) for member in members]
            return np.min(everywhere, axis=0)
        returns = np.empty((len(parameters), len(which)))
        for member in members:
            own = np.arange(len(which)) % len(members) == member
            if own.any():
                returns[:, own] = self.returns(parameters, temperature, which[own], keys[own], member)
        return returns

    def returns(
        self, parameters: np.ndarray, temperature: float, which: np.ndarray, keys: np.ndarray, member: int
    ) -> np.ndarray:
        """Returns (P, S) of the candidates (P, n), each in the same S dreams of one member."""
        candidates, s = len(parameters), len(which)
        lived = self.steps(parameters, temperature, np.tile(which, candidates), np.tile(keys, candidates), s, member)
        return sum(reward for reward, _ in lived).reshape(candidates, s)

    def steps(self, parameters, temperature, which, keys, s, member):  # type: ignore[no-untyped-def]
        """The rewards (N,) and the next z (N, Z) of every step of N dreams; candidate i drives s of them."""
        world = self.begun(self.members[member], temperature, which, keys, s, self.banks[member])
        seen = world if member == 0 else self.begun(self.mdrnn, temperature, which, keys, s, self.starts)
        act, who = Population(seen, self.shape, parameters, self.actions), np.repeat(np.arange(len(parameters)), s)
        for _ in range(HORIZON):
            actions = act(np.arange(len(who)), who)
            reward, _ = world.step(actions)
            if seen is not world:
                seen.step(actions)
                seen.z[:] = world.z  # C's own memory goes on with what was dreamed elsewhere
            yield reward, world.z
        world.close()
        seen.close()

    def begun(
        self, mdrnn: MDRNN, temperature: float, which: np.ndarray, keys: np.ndarray, s: int, starts: Starts
    ) -> Dreams:
        """Dreams from the states `which` (N,); the mask of the same S dreams is the same for all candidates."""
        dtype = torch.bfloat16 if choose_bfloat16("auto", mdrnn.device) else torch.float32
        dreams = Dreams(mdrnn, len(which), temperature=temperature, threads=torch.get_num_threads(), dtype=dtype)
        mask = None
        if self.method.mask:
            mask = mdrnn.dropout_mask(s, torch.Generator().manual_seed(int(keys[0])))
            assert mask is not None
            mask = mask.repeat(len(which) // s, 1).numpy()
        dreams.begin(np.arange(len(which)), keys, *starts.arrays(which), mask)
        return dreams

    def strip(self, parameters: np.ndarray, temperature: float, start: int) -> np.ndarray:
        """(64, columns · 64, 3): one dream of the last member, driven by one C."""
        z = [self.starts.z[start].numpy()]
        lived = self.steps(
            parameters[None], temperature, np.array([start]), np.array([FRESH_KEY]), 1, len(self.members) - 1
        )
        z += [row[0].copy() for _, row in lived]
        return np.concatenate([self.vae.decode(torch.from_numpy(z[t][None]))[0] for t in SHOWN], axis=1)


def measured(world: Dreamt, parameters: np.ndarray, temperature: float) -> tuple[str, np.ndarray]:
    """The rest of the row of one C (n,), and the frames of its first drive."""
    keys = np.arange(FRESH) + FRESH_KEY
    dreamed = world.dreamed(parameters[None], temperature, np.arange(FRESH) * (BANK // FRESH), keys).mean()
    short, frames = world.real(parameters, HORIZON, ANYWHERE, TRACKS, DEVELOPMENT)
    laps, _ = world.real(parameters, None, None, TRACKS, DEVELOPMENT)
    ratio = f"{dreamed / short.mean():.1f}" if short.mean() > NOTHING else "–"
    real, whole = (f"{scores.mean():.0f} ± {scores.std(ddof=1):.0f}" for scores in (short, laps))
    return f"| {dreamed:.0f} | {real} | {ratio} | {whole} |", frames


def trained(like: dict, episodes: list[Latents], dropout: float, seed: int, updates: int) -> MDRNN:
    """An M of the size `like` on `episodes`, with a head for the reward alone."""
    torch.manual_seed(seed)
    mdrnn = MDRNN(**like | {"dropout": dropout, "discount": 0.0}).train()
    mdrnn.use_bfloat16 = choose_bfloat16("auto", mdrnn.device)
    sequences = Sequences(episodes, LENGTH, BATCH)
    optimizer = torch.optim.Adam([p for p in mdrnn.parameters() if p.requires_grad], RATE, fused=True)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    batches = itertools.chain.from_iterable(sequences.batches(seed, epoch) for epoch in itertools.count())
    nll = 0.0
    for update, batch in enumerate(itertools.islice(batches, updates)):
        loss, parts, _ = memory.loss_of(mdrnn, batch, torch.Generator().manual_seed(update))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mdrnn.parameters(), 1.0)
        optimizer.step()
        falling.step()
        nll += 0.02 * (float(parts["nll"]) - nll) if update else float(parts["nll"])
    print(f"M, dropout {dropout}, seed {seed}: NLL {nll:.3f} on its own episodes", flush=True)
    return mdrnn.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=count, default=20, help="whose episodes M learns from, beside the random ones")
    parser.add_argument("--updates", type=count, default=600, help="of an M")
    parser.add_argument("--generations", type=count, default=20)
    parser.add_argument("--seeds", type=count, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    asked = parser.parse_args()
    run = RunDir.of(asked.run)
    vae = vision.load(run)
    like = checkpoint.load(run.mdrnn / "last.safetensors")[1]["mdrnn"]
    episodes = list(stored_latents(run.latents, run.trained("vae")))
    episodes += [episode for number in range(asked.rounds) for episode in load_episodes(run, number + 1)]
    print(f"{len(episodes)} episodes, {sum(len(episode.actions) for episode in episodes):,} steps")
    plain = [trained(like, episodes, 0.0, seed, asked.updates) for seed in range(max(MEMBERS, asked.seeds))]
    dropped = [trained(like, episodes, DROPOUT, seed, asked.updates) for seed in range(asked.seeds)]
    banks = {id(m): bank(m, episodes, BANK, 0) for m in (*plain, *dropped)}  # the same states for all

    rows, strips, names = [], [], []
    for method, seed in itertools.product(METHODS, range(asked.seeds)):
        known = dropped if method.dropout else plain
        members = [known[(seed + i) % len(known)] for i in range(method.members)]
        world = Dreamt(method, vae, members, [banks[id(m)] for m in members])
        c = evolved(world, asked.temperature, asked.generations, seed)
        row, frames = measured(world, c, asked.temperature)
        rows.append(f"| {method.name} | {seed} {row}")
        print(rows[-1], flush=True)
        if seed == 0:
            start = int(np.flatnonzero(world.starts.restart.numpy() == 0)[3])
            driven = np.concatenate([frames[min(t, len(frames) - 1)] for t in SHOWN], axis=1)
            strips += [world.strip(c, asked.temperature, start), driven]
            names += [f"{method.name}: dreamed", "driven"]
    own = memory.load(run)
    world = Dreamt(Method("short dreams, a value and rounds"), vae, [own], [bank(own, episodes, BANK, 0)])
    rows.append(f"| {world.method.name} | the run's {measured(world, controller.load(run)[1], asked.temperature)[0]}")
    print("| dream | seed | dreamed | the road | ratio | whole laps |", "|---|---|---|---|---|---|", *rows, sep="\n")
    picture(asked.images / "dream_methods.png", strips, names)


if __name__ == "__main__":
    with as_a_command():
        main()
