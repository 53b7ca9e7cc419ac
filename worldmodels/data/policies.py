"""Random drivers: what the first episodes are collected with.

Shapes: L lanes driving, A action size.

Each rollout has its own noise: `Episode.candidate` is the number of the rollout, and its action vectors depend on
(seed, candidate) alone, whichever lane drives it. None of them looks at the frames.
"""

from collections.abc import Callable, Iterator

import numpy as np

from worldmodels.envs import ActionKind
from worldmodels.rollout import Episode

TIME_STEP = 1 / 50  # s; the frame of CarRacing, and the step of the seed's random walk in every environment
LONGEST_HOLD = 10  # steps; the paper's code for Take Cover holds a random action for 1–10 frames
BLOCK = 64  # steps of noise drawn at a time: what one costs is mostly the call
NOISE_STREAM = 1  # keeps the noise apart from the draw of the track, which has the key (seed, rollout)

Stream = Iterator[np.ndarray]
"""An endless sequence of action vectors float32 (A,)."""


class RandomPolicy:
    """A `rollout.Policy` that plays one stream of random actions an episode."""

    def __init__(self, name: str, kind: ActionKind, seed: int):
        self.stream, self.kind, self.seed = STREAMS[name], kind, seed
        self.playing: dict[int, Stream] = {}

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        for lane, episode in zip(lanes, episodes, strict=True):
            rng = np.random.default_rng([self.seed, episode.candidate, NOISE_STREAM])
            self.playing[lane] = self.stream(self.kind, rng)

    def act(self, lanes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        return np.stack([next(self.playing[lane]) for lane in lanes])


def brown(kind: ActionKind, rng: np.random.Generator) -> Stream:
    """The seed's Brownian walk, a ← clip(a + √(1/50) · N(0, 1)), from a uniform start; Discrete: `held`.

    The step is the seed's for the car; any other Box is walked in units of half its range. On the car the walk
    averages gas 0.5 AND brake 0.5: it hardly moves.
    """
    if kind.name == "discrete":
        return (yield from held(kind, rng))
    low, high = _bounds(kind)
    step = np.sqrt(TIME_STEP) * (np.ones(kind.size) if kind.name == "car" else (high - low) / 2)
    action = rng.uniform(low, high)
    while True:
        for change in step * rng.standard_normal((BLOCK, kind.size)):
            yield action.astype(np.float32)
            action = np.minimum(np.maximum(action + change, low), high)


def white(kind: ActionKind, rng: np.random.Generator) -> Stream:
    """Uniform samples of the action space, one a step."""
    low, high = (np.zeros(0), np.zeros(0)) if kind.name == "discrete" else _bounds(kind)
    while True:
        if kind.name == "discrete":
            yield from np.eye(kind.size, dtype=np.float32)[rng.integers(kind.size, size=BLOCK)]
        else:
            yield from rng.uniform(low, high, size=(BLOCK, kind.size)).astype(np.float32)


def gas(kind: ActionKind, rng: np.random.Generator) -> Stream:
    """C's squashing over smooth noise, its size and smoothness drawn once a rollout; Discrete: `held`.

    As in the paper's code, where an untrained V, M and C drive: gas around 0.5, almost no brake, a little steering.
    The outputs are Ornstein-Uhlenbeck noise of 1–30 steps. Over 400 steps from the start line the car does 41 units/s
    and 17 tiles, against 5 and 10 of `brown` (60 tracks of Gymnasium's physics).
    """
    if kind.name == "discrete":
        return (yield from held(kind, rng))
    # steering, gas, brake; any other Box gets near its bounds
    largest = np.array([0.3, 1.0, 0.05]) if kind.name == "car" else np.full(kind.size, 2.0)
    size = largest * rng.uniform(size=kind.size)
    keep = np.exp(-1 / np.exp(rng.uniform(np.log(1), np.log(30))))  # share of the noise that is left after a step
    noise = rng.standard_normal(kind.size)
    while True:
        outputs = np.empty((BLOCK, kind.size))
        for row, draw in enumerate(np.sqrt(1 - keep**2) * rng.standard_normal((BLOCK, kind.size))):
            outputs[row] = noise
            noise = keep * noise + draw
        yield from kind.squash(size * outputs).astype(np.float32)


def held(kind: ActionKind, rng: np.random.Generator) -> Stream:
    """Random Discrete actions, each held for 1–10 steps (the paper's code for Take Cover)."""
    while True:
        action = np.eye(kind.size, dtype=np.float32)[rng.integers(kind.size)]
        for _ in range(rng.integers(1, LONGEST_HOLD + 1)):
            yield action


STREAMS: dict[str, Callable[[ActionKind, np.random.Generator], Stream]] = {"brown": brown, "white": white, "gas": gas}


def _bounds(kind: ActionKind) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of a Box, each (A,)."""
    return kind.space.low.reshape(-1), kind.space.high.reshape(-1)  # type: ignore[attr-defined]
