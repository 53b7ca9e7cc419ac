"""Random drivers: what the first episodes are collected with.

Shapes: L lanes driving, A action size.

Each rollout has its own noise: `Episode.candidate` is the number of the rollout, and its action vectors depend on
(seed, candidate) alone, whichever lane drives it. None of them looks at the frames.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from worldmodels.envs.actions import Actions, Box
from worldmodels.rollout import Episode

TIME_STEP = 1 / 50  # s; the frame of CarRacing, and the step of ctallec's random walk in every environment
LONGEST_HOLD = 10  # steps; the paper's code for Take Cover holds a random action for 1–10 frames
LEG = (30, 150)  # steps of a leg, the last not included: from wall to wall are 102 tics of Take Cover
STAY = (30, 400)  # steps of one and the same action, the last not included: few games of Take Cover last longer so
BLOCK = 64  # steps of noise drawn at a time: what one costs is mostly the call
NOISE_STREAM = 1  # keeps the noise apart from the draw of the track, which has the key (seed, rollout)

Stream = Iterator[np.ndarray]
"""An endless sequence of action vectors float32 (A,)."""


class Blind:
    """A `rollout.Policy` that plays a stream of actions per episode, whatever it sees."""

    def __init__(self, stream: Callable[[Episode], Stream]):
        self.stream = stream
        self.playing: dict[int, Stream] = {}

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        self.playing |= dict(zip(lanes, map(self.stream, episodes), strict=True))

    def act(self, lanes: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return np.stack([next(self.playing[lane]) for lane in lanes])


def random_policy(name: str, actions: Actions, seed: int) -> Blind:
    """Plays the streams of random actions `name`."""
    return Blind(lambda episode: STREAMS[name](actions, np.random.default_rng([seed, episode.candidate, NOISE_STREAM])))


def brown(actions: Actions, rng: np.random.Generator) -> Stream:
    """ctallec's Brownian walk, a ← clip(a + √(1/50) · N(0, 1)), from a uniform start; Discrete: `held`.

    The step is that port's for the car; any other Box is walked in units of half its range. On the car the walk
    averages gas 0.5 AND brake 0.5: it hardly moves.
    """
    if not isinstance(actions, Box):
        return (yield from held(actions, rng))
    step = np.sqrt(TIME_STEP) * actions.walk
    action = rng.uniform(actions.low, actions.high)
    while True:
        for change in step * rng.standard_normal((BLOCK, actions.size)):
            yield action.astype(np.float32)
            action = np.minimum(np.maximum(action + change, actions.low), actions.high)


def white(actions: Actions, rng: np.random.Generator) -> Stream:
    """Uniform samples of the action space, one per step."""
    while True:
        yield from actions.noise(rng, BLOCK)


def gas(actions: Actions, rng: np.random.Generator) -> Stream:
    """C's squashing over smooth noise, its size and smoothness drawn once a rollout; Discrete: `held`.

    As in the paper's code, where an untrained V, M and C drive: gas around 0.5, almost no brake, a little steering.
    The outputs are Ornstein-Uhlenbeck noise of 1–30 steps. Over 400 steps from the start line the car does 41 units/s
    and 17 tiles, against 5 and 10 of `brown` (60 tracks of Gymnasium's physics).
    """
    if not isinstance(actions, Box):
        return (yield from held(actions, rng))
    size = actions.gas * rng.uniform(size=actions.size)
    keep = np.exp(-1 / np.exp(rng.uniform(np.log(1), np.log(30))))  # share of the noise that is left after a step
    noise = rng.standard_normal(actions.size)
    while True:
        outputs = np.empty((BLOCK, actions.size))
        for row, draw in enumerate(np.sqrt(1 - keep**2) * rng.standard_normal((BLOCK, actions.size))):
            outputs[row] = noise
            noise = keep * noise + draw
        yield from actions.squash(size * outputs).astype(np.float32)


def held(actions: Actions, rng: np.random.Generator) -> Stream:
    """Random actions held for 1–10 steps: what the paper's code collects with in Take Cover.

    A new one is drawn whenever the step is a multiple of a number from 1 to 10, which is drawn anew with it.
    """
    action, every = np.empty(0, np.float32), 1
    for step in itertools.count():
        if step % every == 0:
            action, every = actions.noise(rng, 1)[0], int(rng.integers(1, LONGEST_HOLD + 1))
        yield action


def legs(actions: Actions, rng: np.random.Generator) -> Stream:
    """C's outputs held on one side and on the other in turn, 30–149 steps each: unlike `held`, it meets the walls."""
    side = rng.choice([-1, 1])
    while True:
        outputs = side * np.arctanh(rng.uniform(1 / 3, 1, size=(1, actions.outputs)))
        action = actions.squash(outputs).astype(np.float32)[0]
        for _ in range(rng.integers(*LEG)):
            yield action
        side = -side


def stays(actions: Actions, rng: np.random.Generator) -> Stream:
    """Random actions held for 30–399 steps: what becomes of one who stands still, or walks against a wall."""
    while True:
        action = actions.noise(rng, 1)[0]
        for _ in range(rng.integers(*STAY)):
            yield action


def mixed(actions: Actions, rng: np.random.Generator) -> Stream:
    """Two episodes of `legs` and two of `held` for one of `stays`: the walls of the one, the small steps of the other,
    and the third, without which M takes a corner for a safe place."""
    kind = np.searchsorted((0.4, 0.6), rng.random(), side="right")
    return (legs, stays, held)[kind](actions, rng)


STREAMS: dict[str, Callable[[Actions, np.random.Generator], Stream]] = {
    "brown": brown, "white": white, "gas": gas, "held": held, "legs": legs, "stays": stays, "mixed": mixed,
}  # fmt: skip
