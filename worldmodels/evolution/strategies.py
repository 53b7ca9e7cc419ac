"""Evolution strategies behind ask / tell; higher scores are better.

Shapes: P population, n parameters.

The whole state of a strategy is its settings and the scores it was told: all its randomness comes from its own
generator, so replaying ask and tell rebuilds it to the last bit, and nothing but numbers has to be stored.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

with warnings.catch_warnings():  # of a plotting library that only cma's own plots need
    warnings.filterwarnings("ignore", message="Could not import matplotlib")
    import cma


class Strategy(Protocol):
    """ask → evaluate → tell; that is all."""

    def ask(self) -> np.ndarray:
        """The generation's candidates, float64 (P, n)."""

    def tell(self, scores: np.ndarray) -> None:
        """The scores (P,) of the candidates last asked for."""

    @property
    def mean(self) -> np.ndarray:
        """The distribution's mean (n,)."""

    @property
    def sigma(self) -> float:
        """The step size (the mean one, where every parameter has its own)."""


def make(name: str, size: int, population: int, sigma: float, seed: int, decay: float = 1.0) -> Strategy:
    """The strategy `name` (config.TrainController.strategy) on `size` parameters, started at zero.

    `decay` multiplies the step sizes of `openai-es` and `pgpe` in every generation; CMA-ES adapts its own.
    """
    if name in ("cma", "sep-cma"):
        return CMAES(size, population, sigma, seed, diagonal=name == "sep-cma")
    mirrored: dict[str, type[OpenAIES] | type[PGPE]] = {"openai-es": OpenAIES, "pgpe": PGPE}
    return mirrored[name](size, population, sigma, seed, decay)


def replay(strategy: Strategy, history: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Bring a fresh strategy to where it was told the scores in `history`, each (P,); yields its mean after each."""
    for scores in history:
        strategy.ask()
        strategy.tell(scores)
        yield strategy.mean


class CMAES:
    """Covariance matrix adaptation by the `cma` package: the paper's strategy.

    With 867 parameters and a population of 64 the covariance hardly adapts in a thousand generations; the diagonal
    one (`sep-cma`) does.
    """

    def __init__(self, size: int, population: int, sigma: float, seed: int, diagonal: bool = False):
        generator = np.random.default_rng(seed)
        options = {
            "popsize": population,
            "randn": lambda *shape: generator.standard_normal(shape),
            "seed": np.nan,  # leave NumPy's global generator alone
            "CMA_diagonal": diagonal,
            "verbose": -9,
        }
        self.strategy = cma.CMAEvolutionStrategy(np.zeros(size), sigma, options)
        self.candidates: list[np.ndarray] = []

    def ask(self) -> np.ndarray:
        self.candidates = self.strategy.ask()
        return np.array(self.candidates)

    def tell(self, scores: np.ndarray) -> None:
        self.strategy.tell(self.candidates, list(-np.asarray(scores)))

    @property
    def mean(self) -> np.ndarray:
        return np.array(self.strategy.mean)

    @property
    def sigma(self) -> float:
        return float(self.strategy.sigma)


def centered_ranks(scores: np.ndarray) -> np.ndarray:
    """Scores (P,) → their ranks spread evenly over [−0.5, 0.5] (Salimans et al. 2017)."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    return ranks / (len(scores) - 1) - 0.5


class OpenAIES:
    """Salimans et al. 2017: mirrored Gaussian noise, centred ranks, Adam."""

    def __init__(self, size: int, population: int, sigma: float, seed: int, decay: float):
        assert population % 2 == 0, "mirrored sampling needs an even population"
        self.generator, self.half, self.decay = np.random.default_rng(seed), population // 2, decay
        self._sigma = sigma
        self._mean, self.moment1, self.moment2 = np.zeros(size), np.zeros(size), np.zeros(size)
        self.noise = np.zeros((self.half, size))
        self.generation = 0
        self.learning_rate = 0.5 * sigma  # Adam moves each parameter by about this much a generation

    def ask(self) -> np.ndarray:
        self.noise = self.generator.standard_normal((self.half, len(self._mean)))
        return self._mean + self._sigma * np.concatenate([self.noise, -self.noise])

    def tell(self, scores: np.ndarray) -> None:
        ranks = centered_ranks(np.asarray(scores))
        gradient = (ranks[: self.half] - ranks[self.half :]) @ self.noise / (2 * self.half * self._sigma)
        self.generation += 1
        self.moment1 = 0.9 * self.moment1 + 0.1 * gradient
        self.moment2 = 0.999 * self.moment2 + 0.001 * gradient**2
        step = self.moment1 / (1 - 0.9**self.generation)
        scale = np.sqrt(self.moment2 / (1 - 0.999**self.generation)) + 1e-8
        self._mean = self._mean + self.learning_rate * step / scale
        self._sigma *= self.decay
        self.learning_rate *= self.decay

    @property
    def mean(self) -> np.ndarray:
        return self._mean

    @property
    def sigma(self) -> float:
        return self._sigma


class PGPE:
    """Parameter-exploring policy gradients with ClipUp (Sehnke et al. 2010; Toklu et al. 2020).

    Mirrored noise, centred ranks, one step size a parameter. ClipUp normalises the gradient, so that a step's length
    is the learning rate whatever the scale of the scores, and clips the velocity.
    """

    MOMENTUM = 0.9
    SIGMA_RATE = 0.1  # Toklu et al. 2020, table 1
    SIGMA_CHANGE = 0.2  # a step size changes by at most this share in a generation

    def __init__(self, size: int, population: int, sigma: float, seed: int, decay: float):
        assert population % 2 == 0, "mirrored sampling needs an even population"
        self.generator, self.half, self.decay = np.random.default_rng(seed), population // 2, decay
        self._mean, self.velocity, self.sigmas = np.zeros(size), np.zeros(size), np.full(size, sigma)
        self.noise = np.zeros((self.half, size))
        self.max_speed = sigma * np.sqrt(size) / 15  # Toklu et al.: the first radius over 15
        self.step_length = self.max_speed / 2

    def ask(self) -> np.ndarray:
        self.noise = self.generator.standard_normal((self.half, len(self._mean))) * self.sigmas
        return self._mean + np.concatenate([self.noise, -self.noise])

    def tell(self, scores: np.ndarray) -> None:
        ranks = centered_ranks(np.asarray(scores))
        plus, minus = ranks[: self.half], ranks[self.half :]
        gradient = (plus - minus) @ self.noise / (2 * self.half)
        length = np.linalg.norm(gradient)
        if length > 0:
            self.velocity = self.MOMENTUM * self.velocity + self.step_length * gradient / length
        speed = np.linalg.norm(self.velocity)
        if speed > self.max_speed:
            self.velocity *= self.max_speed / speed
        self._mean = self._mean + self.velocity
        surprise = (plus + minus) / 2  # (P/2,), mean zero by the ranks' centring
        growth = surprise @ (self.noise**2 / self.sigmas - self.sigmas) / self.half
        change = np.clip(self.SIGMA_RATE * growth, -self.SIGMA_CHANGE * self.sigmas, self.SIGMA_CHANGE * self.sigmas)
        self.sigmas = (self.sigmas + change) * self.decay
        self.max_speed *= self.decay
        self.step_length *= self.decay

    @property
    def mean(self) -> np.ndarray:
        return self._mean

    @property
    def sigma(self) -> float:
        return float(self.sigmas.mean())
