"""CarRacing-v3 for batches: tracks, physics and rewards bit for bit, frames exact or fast (docs/carracing.md)."""

from worldmodels.envs.carracing import kernels

with kernels.writable_cache():
    from worldmodels.envs.carracing import physics
    from worldmodels.envs.carracing.env import CarRacing
    from worldmodels.envs.carracing.vector_env import CarRacingVectorEnv

__all__ = ["CarRacing", "CarRacingVectorEnv"]

kernels.forget_stale(str(physics.off_playfield.stats.cache_path))
