"""How C's outputs become the action that M sees, and the one that the environment takes.

Shapes: L lanes, O outputs of C, A numbers of an action vector as M sees it.
"""

from typing import Any, Protocol

import gymnasium
import numpy as np

from worldmodels.errors import UserError


class Actions(Protocol):
    """One kind of action; M's and C's checkpoints hold its name."""

    name: str
    outputs: int
    """O"""
    size: int
    """A"""

    def squash(self, raw: np.ndarray) -> np.ndarray:
        """C's outputs (L, O) → action vectors float32 (L, A)."""

    def to_env(self, vectors: np.ndarray) -> np.ndarray:
        """Action vectors (L, A) → what the environment's `step` takes, L of them."""

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """Uniform random action vectors float32 (steps, A)."""


class Box:
    """tanh, scaled to the bounds of a Box."""

    name = "box"
    gas: float | np.ndarray = 2.0
    """Size of the smooth noise behind the data policy `gas`, before tanh: it gets near the bounds."""

    def __init__(self, space: gymnasium.spaces.Box):
        self.space = space
        self.whole = not np.issubdtype(space.dtype, np.floating)
        kind = np.float64 if self.whole else space.dtype  # the range of an int8 does not fit an int8
        self.low, self.high = (bound.reshape(-1).astype(kind) for bound in (space.low, space.high))  # (A,)
        self.outputs = self.size = len(self.low)
        self.walk: np.ndarray = (self.high - self.low) / 2
        """(A,): the unit of the Brownian walk, half the range"""

    def squash(self, raw: np.ndarray) -> np.ndarray:
        return (self.low + (np.tanh(raw) + 1) / 2 * (self.high - self.low)).astype(np.float32)

    def to_env(self, vectors: np.ndarray) -> np.ndarray:
        inside = np.clip(np.rint(vectors) if self.whole else vectors, self.low, self.high)  # float32 rounds over edges
        return inside.reshape(len(vectors), *self.space.shape).astype(self.space.dtype)

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        return rng.uniform(self.low, self.high, size=(steps, self.size)).astype(np.float32)


def car_space() -> gymnasium.spaces.Box:
    """CarRacing's: steer, gas, brake."""
    return gymnasium.spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))


class Car(Box):
    """CarRacing as the paper's code drives it: steer = tanh, gas = (tanh + 1) / 2, brake = clip(tanh, 0, 1)."""

    name = "car"
    gas = np.array([0.3, 1.0, 0.05])  # little steering, almost no brake

    def __init__(self, space: gymnasium.spaces.Box):
        super().__init__(space)
        self.walk = np.ones(3)  # ctallec's port walks all three in the same steps

    def squash(self, raw: np.ndarray) -> np.ndarray:
        action = np.tanh(raw)
        return np.stack([action[:, 0], (action[:, 1] + 1) / 2, np.clip(action[:, 2], 0, 1)], axis=1)


class OneHot:
    """Discrete: the largest output, as a one-hot vector."""

    name = "discrete"

    def __init__(self, space: gymnasium.spaces.Discrete):
        self.space = space
        self.outputs = self.size = int(space.n)

    def squash(self, raw: np.ndarray) -> np.ndarray:
        return self.one_hot(raw.argmax(axis=1))

    def to_env(self, vectors: np.ndarray) -> np.ndarray:
        return vectors.argmax(axis=1) + int(self.space.start)

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        return self.one_hot(rng.integers(self.size, size=steps))

    def one_hot(self, chosen: np.ndarray) -> np.ndarray:
        return (chosen[:, None] == np.arange(self.size)).astype(np.float32)


class Threshold:
    """Discrete from ONE number: equal parts of [−1, 1], from left to right, choose the action (the paper's Take Cover).

    M sees the number itself.
    """

    name = "threshold"
    outputs = size = 1

    def __init__(self, order: tuple[int, ...]):
        """`order`: the environment's actions from the lowest part of [−1, 1] to the highest."""
        self.order = np.array(order)

    def squash(self, raw: np.ndarray) -> np.ndarray:
        return np.tanh(raw).astype(np.float32)

    def to_env(self, vectors: np.ndarray) -> np.ndarray:
        part = ((vectors[:, 0] + 1) / 2 * len(self.order)).astype(np.int64)
        return self.order[np.clip(part, 0, len(self.order) - 1)]

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        return rng.uniform(-1, 1, size=(steps, 1)).astype(np.float32)


def actions_of(
    env_id: str, space: gymnasium.Space[Any], name: str | None = None, order: tuple[int, ...] = ()
) -> Actions:
    """The actions of an environment with this (single) action space; UserError for a space that cannot be learned.

    `name` and `order` are what the environment's `Description` says; without a name the space decides.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        return Threshold(order) if name == "threshold" else OneHot(space)
    if isinstance(space, gymnasium.spaces.Box) and bounded(space):
        return Car(space) if name == "car" else Box(space)
    raise UserError(f"{env_id} has actions {space}: only Discrete and bounded Box actions can be learned.")


def bounded(space: gymnasium.spaces.Box) -> bool:
    """Whether every action lies in a range that has a width; a Box without a number has none."""
    with np.errstate(over="ignore", invalid="ignore"):
        width = space.high.astype(np.float32) - space.low.astype(np.float32)
    return bool(width.size and np.isfinite(width).all())
