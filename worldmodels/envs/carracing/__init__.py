"""CarRacing-v3, bit for bit and a hundred times as fast: see docs/carracing.md."""

from worldmodels.envs.carracing.batch import forget_stale_kernels
from worldmodels.envs.carracing.env import CarRacing, CarRacingVectorEnv

__all__ = ["CarRacing", "CarRacingVectorEnv"]

forget_stale_kernels()
