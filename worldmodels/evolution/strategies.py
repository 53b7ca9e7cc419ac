"""Evolution strategies behind ask / tell; higher scores are better.

Shapes: P population, n parameters.

All the randomness of a strategy comes from its own generator. So its whole state is its settings and the scores it was
told: replaying ask and tell rebuilds it. Its `state` is a dictionary of plain arrays that does the same at once, and
proves that a replay arrived. Nothing but numbers has to be stored.

Scores are compared, never measured: equal ones have equal ranks and say nothing (they leave the mean of OpenAI-ES and
PGPE where it is), and one that is no number is refused.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from worldmodels.errors import UserError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cma misses matplotlib, which we do not use
    import cma


class Strategy(Protocol):
    """ask → evaluate → tell; that is all."""

    def ask(self) -> np.ndarray:
        """The generation's candidates, float64 (P, n)."""

    def tell(self, scores: np.ndarray) -> None:
        """The scores (P,) of the candidates last asked for; UserError, and no change, when one is not finite."""

    @property
    def mean(self) -> np.ndarray:
        """The distribution's mean (n,)."""

    @property
    def sigma(self) -> float:
        """The step size (the mean one, where every parameter has its own)."""

    def state(self) -> dict[str, np.ndarray]:
        """All that the next generations depend on, between a `tell` and an `ask`; or enough to prove a replay."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Make a strategy of the same settings the one that `state` was taken of.

        Raises:
            KeyError, ValueError: it was taken of another strategy, or of CMA-ES: replay instead.
        """


def make(name: str, size: int, population: int, sigma: float, seed: int, decay: float = 1.0) -> Strategy:
    """The strategy `name` (config.TrainController.strategy) on `size` parameters, started at zero.

    `decay` multiplies the step sizes of `openai-es` and `pgpe` in every generation; CMA-ES adapts its own.
    """
    if name in ("cma", "sep-cma"):
        return CMAES(size, population, sigma, seed, diagonal=name == "sep-cma")
    mirrored: dict[str, type[OpenAIES] | type[PGPE]] = {"openai-es": OpenAIES, "pgpe": PGPE}
    return mirrored[name](size, population, sigma, seed, decay)


def replay(strategy: Strategy, history: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Bring a strategy to where it was told the scores in `history`, each (P,); yields its mean after each."""
    for scores in history:
        strategy.ask()
        strategy.tell(scores)
        yield strategy.mean


def arrived(strategy: Strategy, mean: np.ndarray, sigma: float) -> bool:
    """Whether a replay led to the mean (n,) and the step size that were there: but for rounding, which is another on
    another processor."""
    near = np.abs(strategy.mean - mean).max() < 1e-6 * sigma  # wrong noise is off by about sigma
    return bool(near and abs(strategy.sigma - sigma) < 1e-6 * sigma)


def checked(scores: Sequence[float] | np.ndarray, population: int) -> np.ndarray:
    """The scores (P,) as float64; UserError names the first that is not finite."""
    numbers = np.asarray(scores, dtype=np.float64)
    assert numbers.shape == (population,), f"scores {numbers.shape} of {population} candidates"
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise UserError(
            f"Candidate {wrong[0]} scored {numbers[wrong[0]]}, which cannot be compared: an environment pays rewards "
            "that are not finite. Everything up to the generation before is kept."
        )
    return numbers


class CMAES:
    """Covariance matrix adaptation by the `cma` package: the paper's strategy. The package ranks equal scores by index.

    With 867 parameters and a population of 64 the covariance hardly adapts in a thousand generations; the diagonal
    one (`sep-cma`) does. The package keeps more than can be put back: a state only proves that a replay arrived.
    """

    def __init__(self, size: int, population: int, sigma: float, seed: int, diagonal: bool):
        generator = np.random.default_rng(seed)
        options = {
            "popsize": population,
            "randn": lambda *shape: generator.standard_normal(shape),
            "seed": np.nan,  # leave NumPy's global generator alone
            "CMA_diagonal": diagonal,
            "verbose": -9,
        }
        self.population = population
        self.strategy = cma.CMAEvolutionStrategy(np.zeros(size), sigma, options)
        self.candidates: list[np.ndarray] = []

    def ask(self) -> np.ndarray:
        self.candidates = self.strategy.ask()
        return np.array(self.candidates)

    def tell(self, scores: np.ndarray) -> None:
        self.strategy.tell(self.candidates, list(-checked(scores, self.population)))

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "sigma": np.array(self.sigma)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        raise ValueError("CMA-ES is replayed")

    @property
    def mean(self) -> np.ndarray:
        return np.array(self.strategy.mean)

    @property
    def sigma(self) -> float:
        return float(self.strategy.sigma)


def centered_ranks(scores: np.ndarray) -> np.ndarray:
    """Scores (P,) → their ranks spread evenly over [−0.5, 0.5] (Salimans et al. 2017); equal scores share the mean of
    their ranks."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts + 1) / 2  # of each distinct score, from 0
    return ranks[which] / (len(scores) - 1) - 0.5


class Mirrored:
    """Mirrored Gaussian noise and centred ranks (Salimans et al. 2017). The state is some attributes, and that of the
    generator."""

    STATE: tuple[str, ...]
    """Names of attributes,"""
    DECAYING: tuple[str, ...]
    """and of those that shrink in every generation."""

    def __init__(self, size: int, population: int, sigma: float, seed: int, decay: float):
        assert population % 2 == 0, "mirrored sampling needs an even population"
        self.generator, self.half, self.decay = np.random.default_rng(seed), population // 2, decay
        self.mean = np.zeros(size)
        self.sigmas: float | np.ndarray = sigma  # one for all parameters, or one for each (n,)

    @property
    def sigma(self) -> float:
        return float(np.mean(self.sigmas))

    def ask(self) -> np.ndarray:
        self.noise = self.generator.standard_normal((self.half, len(self.mean)))
        return self.mean + self.sigmas * np.concatenate([self.noise, -self.noise])

    def tell(self, scores: np.ndarray) -> None:
        ranks = centered_ranks(checked(scores, 2 * self.half))
        self.learn(ranks[: self.half], ranks[self.half :])
        for name in self.DECAYING:
            setattr(self, name, getattr(self, name) * self.decay)

    def learn(self, plus: np.ndarray, minus: np.ndarray) -> None:
        """Move by the ranks (P/2,) of the candidates and of their mirror images."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        arrays = {name: np.array(getattr(self, name)) for name in self.STATE}
        drawn: Any = self.generator.bit_generator.state["state"]
        return arrays | {"generator": np.frombuffer(drawn["state"].to_bytes(16, "little"), np.uint8)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        taken = [state[name] for name in self.STATE]  # KeyError before anything has changed
        for name, before in zip(self.STATE, taken, strict=True):
            value = np.empty_like(getattr(self, name))  # how a matrix lies decides on a product's last bit
            value[...] = before
            setattr(self, name, value if value.ndim else value.item())
        whole: Any = self.generator.bit_generator.state
        whole["state"]["state"] = int.from_bytes(state["generator"].tobytes(), "little")
        self.generator.bit_generator.state = whole


class OpenAIES(Mirrored):
    """Salimans et al. 2017: one step size for all parameters, Adam."""

    STATE = ("mean", "sigmas", "moment1", "moment2", "generation", "learning_rate")
    DECAYING = ("sigmas", "learning_rate")

    def __init__(self, size: int, population: int, sigma: float, seed: int, decay: float):
        super().__init__(size, population, sigma, seed, decay)
        self.moment1, self.moment2 = np.zeros(size), np.zeros(size)
        self.generation = 0  # of those that said something
        self.learning_rate = 0.5 * sigma  # Adam moves each parameter by about this much per generation

    def learn(self, plus: np.ndarray, minus: np.ndarray) -> None:
        gradient = (plus - minus) @ self.noise / (2 * self.half * self.sigmas)
        if gradient.any():  # else every pair tied
            self.climb(gradient)

    def climb(self, gradient: np.ndarray) -> None:
        """A step of Adam (Kingma & Ba 2015)."""
        self.generation += 1
        self.moment1 = 0.9 * self.moment1 + 0.1 * gradient
        self.moment2 = 0.999 * self.moment2 + 0.001 * gradient**2
        step = self.moment1 / (1 - 0.9**self.generation)
        scale = np.sqrt(self.moment2 / (1 - 0.999**self.generation)) + 1e-8
        self.mean = self.mean + self.learning_rate * step / scale


class PGPE(Mirrored):
    """Parameter-exploring policy gradients with ClipUp (Sehnke et al. 2010; Toklu et al. 2020): one step size per
    parameter.

    ClipUp normalises the gradient, so that a step's length is the learning rate whatever the scale of the scores, and
    clips the velocity.
    """

    STATE = ("mean", "velocity", "sigmas", "max_speed", "step_length")
    DECAYING = ("sigmas", "max_speed", "step_length")
    MOMENTUM = 0.9
    SIGMA_RATE = 0.1  # Toklu et al. 2020, table 1
    SIGMA_CHANGE = 0.2  # a step size changes by at most this share in a generation

    def __init__(self, size: int, population: int, sigma: float, seed: int, decay: float):
        super().__init__(size, population, sigma, seed, decay)
        self.velocity, self.sigmas = np.zeros(size), np.full(size, sigma)
        self.max_speed = sigma * np.sqrt(size) / 15  # Toklu et al.: the first radius over 15
        self.step_length = self.max_speed / 2

    def learn(self, plus: np.ndarray, minus: np.ndarray) -> None:
        noise = self.noise * self.sigmas
        gradient = (plus - minus) @ noise / (2 * self.half)
        if gradient.any():  # else every pair tied
            self.climb(gradient)
        surprise = (plus + minus) / 2  # (P/2,), mean zero by the ranks' centring
        growth = surprise @ (noise**2 / self.sigmas - self.sigmas) / self.half
        most = self.SIGMA_CHANGE * self.sigmas
        self.sigmas = self.sigmas + np.clip(self.SIGMA_RATE * growth, -most, most)

    def climb(self, gradient: np.ndarray) -> None:
        """A step of ClipUp (Toklu et al. 2020, algorithm 1)."""
        self.velocity = self.MOMENTUM * self.velocity + self.step_length * gradient / np.linalg.norm(gradient)
        speed = np.linalg.norm(self.velocity)
        if speed > self.max_speed:
            self.velocity *= self.max_speed / speed
        self.mean = self.mean + self.velocity
