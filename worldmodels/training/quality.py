"""How good a world M is, measured after its training.

Shapes: W windows of test episodes, T time, P policies, Z latent, A action.

The likelihood of the next z says little about a dream. Two figures say more: how well M foresees the rewards of real
actions when it must live on its own z (open loop), and whether it puts fixed policies in the order of the real world.
"""

import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from worldmodels import envs
from worldmodels.data.latents import Latents
from worldmodels.data.policies import Blind
from worldmodels.dream import DreamStep, Starts, sampled
from worldmodels.dream_kernels import noise
from worldmodels.envs import Actions, World
from worldmodels.envs.seeds import training_seeds
from worldmodels.fast_dream import Dreams
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode, drive

WARM_UP = 20  # real steps M watches before it dreams on
SPAN, SPANS = 20, 4  # rewards are summed over 20 steps, up to step 80
WINDOWS = 512  # at most, over all test episodes
FEWEST = 4  # windows below which a share of their variance says nothing
HORIZON = 250  # steps of a fixed policy
DREAMS = 64  # of a fixed policy
RANK, SLOPE = 0.7, 0.2  # of M's ranking of fixed policies: below one of them, C would learn the wrong thing
TRACKS = 4  # key of the tracks on which fixed policies are driven
SWEEPS = (15, 60, 115)  # half periods of fixed policies that go to and fro, in steps; 115 is Take Cover's best


# ---------------------------------------------------------------------------------------------- open loop


@torch.no_grad()
def open_loop(mdrnn: MDRNN, episodes: list[Latents], temperature: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Rewards that M foresees for real actions while it lives on its own z.

    Args:
        mdrnn: M with a reward head, on the CPU.
        episodes: of the test set.
        temperature: of the dream.
        seed: of its noise.

    Returns:
        `r2` and `ratio`, one number a span of `SPAN` steps (as many as the episodes are long enough for, at most
        `SPANS`): the share of the variance of the span's reward that M foresees, and its mean over the real mean;
        `rank`, Spearman's correlation of the windows' dreamed and real returns; and the number of `windows`. With
        fewer than `FEWEST` windows of `WARM_UP` + `SPAN` steps there are no figures.
    """
    longest = max(len(episode.actions) for episode in episodes)
    spans = min(SPANS, (longest - WARM_UP) // SPAN)
    length = WARM_UP + spans * SPAN
    windows = [
        (index, start)
        for index, episode in enumerate(episodes)
        for start in (range(0, len(episode.actions) - length + 1, length) if spans > 0 else ())
    ][:WINDOWS]
    if len(windows) < FEWEST:
        return {"r2": [], "ratio": [], "rank": None, "windows": 0}
    real_z = [sampled(episode, index) for index, episode in enumerate(episodes)]
    z = torch.stack([real_z[i][t : t + WARM_UP + 1] for i, t in windows], dim=1)  # (WARM_UP + 1, W, Z)
    actions = torch.stack([episodes[i].actions[t : t + length] for i, t in windows], dim=1)  # (T, W, A)
    rewards = torch.stack([episodes[i].rewards[t + WARM_UP : t + length] for i, t in windows])  # (W, T)
    first = torch.tensor([float(t == 0) for _, t in windows])

    state = mdrnn.initial_state(len(windows))
    for t in range(WARM_UP):
        state = mdrnn.step(z[t], actions[t], state, first if t == 0 else torch.zeros_like(first))
    step, now, (h, c), foreseen = DreamStep(mdrnn), z[WARM_UP], state, []
    keys = np.arange(len(windows)) + 1_000_003 * (seed + 1)
    for t in range(WARM_UP, length):
        uniform, normal = (torch.from_numpy(x) for x in noise(keys, np.full(len(keys), t), mdrnn.z_size))
        now, h, c, reward, _ = step(now, actions[t], h, c, torch.zeros_like(first), uniform, normal, temperature)
        foreseen.append(reward)
    dreamed = torch.stack(foreseen, dim=1).reshape(len(windows), spans, SPAN).sum(-1)  # (W, spans)
    real = rewards.reshape(len(windows), spans, SPAN).sum(-1)
    error, spread = (dreamed - real).square().sum(0), (real - real.mean(0)).square().sum(0)
    return {
        "r2": (1 - error / spread.clamp(min=1e-12)).tolist(),
        "ratio": (dreamed.mean(0) / real.mean(0)).tolist(),
        "rank": rank_correlation(dreamed.sum(1).numpy(), real.sum(1).numpy()),
        "windows": len(windows),
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two lists of numbers; ties share their mean rank, a constant list has 0."""
    ranks = [np.array([(np.sum(x < v) + np.sum(x <= v) - 1) / 2 for v in x]) for x in (a, b)]
    spread = ranks[0].std() * ranks[1].std()
    return float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean() / spread) if spread else 0.0


# ----------------------------------------------------------------------------------------- fixed policies


def fixed_policies(actions: Actions, steps: int) -> dict[str, np.ndarray]:
    """Policies that see nothing, by name: their action vectors float32 (steps, A), all different.

    C's outputs all 0, each of them held at +1 and −1, and the first going to and fro between the two.
    """
    plans: list[tuple[str, int, float | np.ndarray]] = [("rest", 0, 0.0)]  # name, an output, its value
    for output, sign in itertools.product(range(actions.outputs), (1.0, -1.0)):
        plans.append((f"output {output} at {sign:+.0f}", output, sign))
    for half in SWEEPS:
        to_and_fro = np.where(np.arange(steps) // half % 2, -1.0, 1.0)
        plans.append((f"output 0 to and fro each {half} steps", 0, to_and_fro))
    policies: dict[str, np.ndarray] = {}
    for name, output, value in plans:
        raw = np.zeros((steps, actions.outputs))
        raw[:, output] = value
        vectors = actions.squash(raw).astype(np.float32)
        if not any(np.array_equal(vectors, other) for other in policies.values()):
            policies[name] = vectors
    return policies


def baselines(names: tuple[str, ...], steps: int) -> dict[str, np.ndarray]:
    """Take Cover's policies without eyes, by name: their action vectors float32 (`DREAMS`, steps, 1)."""
    from worldmodels.envs.takecover import BASELINES

    def stream(name: str, dream: int) -> np.ndarray:
        return np.fromiter(itertools.islice(BASELINES[name](np.random.default_rng(dream)), steps), np.float32, steps)

    return {name: np.stack([stream(name, dream) for dream in range(DREAMS)])[..., None] for name in names}


def dreamed_returns(mdrnn: MDRNN, starts: Starts, streams: np.ndarray, dreams: int = DREAMS) -> np.ndarray:
    """Mean dreamed return (P,) of action streams (P, T, A) over the same `dreams` starts and noises; of streams
    (P, D, T, A), one a dream, over D."""
    streams = streams if streams.ndim == 4 else np.repeat(streams[:, None], dreams, axis=1)
    policies, dreams, steps, size = streams.shape
    chosen = np.linspace(0, len(starts.z) - 1, dreams).astype(np.int64)
    keys = np.tile(np.arange(dreams), policies)
    with closing(Dreams(mdrnn, policies * dreams)) as lanes:
        lanes.begin(np.arange(lanes.lanes), keys, *starts.arrays(chosen[keys]))
        total = sum(lanes.step(streams[:, :, t].reshape(-1, size))[0].astype(np.float64) for t in range(steps))
    return np.reshape(total, (policies, dreams)).mean(axis=1)


def real_returns(
    env_id: str, actions: Actions, streams: np.ndarray, options: dict[str, Any] | None, episodes: int = 16
) -> np.ndarray:
    """Mean return (P,) of action streams (P, T, A) over the same `episodes` episodes of the real environment."""
    policies, steps, _ = streams.shape
    tracks = training_seeds(TRACKS, count=episodes)
    drives = [Episode(track, candidate) for candidate in range(policies) for track in tracks]
    blind = Blind(lambda episode: iter(streams[episode.candidate]))
    with closing(envs.make(World.practice(env_id), min(64, policies * episodes), max_steps=steps)) as env:
        scores, _ = drive(env, actions, blind, drives, options=options)
    return scores.reshape(policies, episodes).mean(axis=1)


def ranking(mdrnn: MDRNN, starts: Starts, env_id: str, options: dict[str, Any] | None) -> dict[str, Any]:
    """`policies`, by name the real and the dreamed return; `rank`, Spearman's correlation of the two: a C that evolves
    in a dream which ranks the policies wrong learns the wrong one; `slope`, dreamed return per real one (least
    squares): near 0, the dream hardly tells the policies apart, and their order is luck.

    Whole episodes of the environment's baselines, whose scores are known; where it has none, `HORIZON` steps.
    """
    description = envs.describe(env_id)
    if description.baselines and description.time_limit:
        policies = baselines(tuple(description.baselines), description.time_limit)
        real = np.array(list(description.baselines.values()))
        dreamed = dreamed_returns(mdrnn, starts.first(), np.stack(list(policies.values())))
    else:
        actions = envs.actions_in(World(env_id))
        policies = fixed_policies(actions, HORIZON)
        streams = np.stack(list(policies.values()))
        real, dreamed = real_returns(env_id, actions, streams, options), dreamed_returns(mdrnn, starts, streams)
    pairs = zip(real.tolist(), dreamed.tolist(), strict=True)
    slope = float(np.cov(dreamed, real)[0, 1] / max(np.var(real, ddof=1), 1e-12))
    rank = rank_correlation(dreamed, real)
    return {"policies": dict(zip(policies, pairs, strict=True)), "rank": rank, "slope": slope}


def trusted(ranking: dict[str, Any]) -> bool:
    """Whether C can learn in the dream of an M with this `ranking`."""
    return bool(ranking["rank"] >= RANK and ranking["slope"] >= SLOPE)


# ------------------------------------------------------------------------------------------------- report


def sentences(measured: dict[str, Any]) -> Iterator[str]:
    """What is in quality.json, for the terminal: `open_loop` of an M that predicts rewards, and `ranking` where the
    real environment is known."""
    loop = measured.get("open_loop")
    if loop is not None and not loop["windows"]:
        yield f"M as a world: too few test episodes of {WARM_UP + SPAN} steps to measure it on."
    elif loop is not None:
        spans = ", ".join(
            f"{r2:.2f} (× {ratio:.2f}) at {i * SPAN}–{(i + 1) * SPAN}"
            for i, (r2, ratio) in enumerate(zip(loop["r2"], loop["ratio"], strict=True))
        )
        yield (
            f"M as a world: R² of {SPAN}-step reward sums on its own z (dreamed over real) {spans}; "
            f"rank correlation {loop['rank']:.2f} over {loop['windows']} windows."
        )
    if ranking := measured.get("ranking"):
        returns = "; ".join(f"{n} {real:.0f} / {dreamed:.0f}" for n, (real, dreamed) in ranking["policies"].items())
        agree = f"rank correlation {ranking['rank']:.2f}, slope {ranking['slope']:.2f}"
        yield f"Fixed policies, real / dreamed return: {returns}; {agree}."
        if not trusted(ranking):
            yield (
                "Warning: M does not put them in the world's order, and a C that evolves in its dream would learn the "
                "wrong thing: collect more episodes, or others, or train M longer."
            )
