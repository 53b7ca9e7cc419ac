"""Which tracks are for what: one table, so that no score comes from tracks that helped to make the driver.

| seeds | for |
|---|---|
| below 900,000 | training: collecting episodes, scoring the candidates of a generation |
| 900,000 – 949,999 | selection: which driver of an evolution is kept |
| 950,000 – 999,999 | development: presets, ablations, every comparison that decides something |
| from 1,000,000 | held out: driven once, after everything was decided |
"""

import numpy as np

SELECTION = 900_000
DEVELOPMENT = 950_000
HELD_OUT = 1_000_000


def training_seeds(*key: int, count: int) -> list[int]:
    """`count` training seeds that depend on `key` alone, e.g. (seed, generation)."""
    draws = np.random.default_rng(key).integers(SELECTION, size=count)
    return [int(seed) for seed in draws]
