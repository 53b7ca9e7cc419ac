"""A population's scores on a pool of workers.

Shapes: P population, n parameters, S episodes per candidate.
"""

from collections.abc import Callable, Sequence

import numpy as np

from worldmodels.rollout import Episode
from worldmodels.workers.driver import Course, Job
from worldmodels.workers.pool import Pool


def fitness(
    pool: Pool,
    population: np.ndarray,
    seeds: Sequence[int],
    course: Course,
    lanes: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, int]:
    """Let every candidate drive the episodes of all `seeds`; returns (scores float64 (P, S), steps driven).

    Args:
        pool: of `worldmodels.workers.driver.Drivers`, or of `worldmodels.workers.dreamer.Dreamers`.
        population: float32 (P, n).
        seeds: S seeds, the same for all candidates.
        course: what is driven of an episode.
        lanes: episodes that one of several workers gets at a time, since it drives them side by side; None: its whole
            share at once, as a dreamer takes it. The shares of several workers are equal.
        on_step: called with numbers of steps as they are driven (from other processes: as jobs end).
    """
    episodes = [Episode(seed, candidate) for candidate in range(len(population)) for seed in seeds]
    share = -(-len(episodes) // pool.workers)
    if lanes is not None and pool.workers > 1:
        share = min(lanes, share)
    parts = [tuple(episodes[i : i + share]) for i in range(0, len(episodes), share)]
    scores, steps = np.zeros(len(episodes)), 0
    for index, outcome in pool.run([Job(part, population, course) for part in parts], on_step):
        scores[index * share : index * share + len(parts[index])] = outcome.scores
        steps += int(outcome.lengths.sum())
    return scores.reshape(len(population), len(seeds)), steps
