"""CarRacing-v3 for batches: its tracks, physics and rewards bit for bit, its frames exactly or fast (docs/carracing.md)."""

from worldmodels.envs.carracing import kernels

with kernels.writable_cache():
    from worldmodels.envs.carracing import physics
    from worldmodels.envs.carracing.env import CarRacing, CarRacingVectorEnv

__all__ = ["CarRacing", "CarRacingVectorEnv"]

kernels.forget_stale(physics.off_playfield.stats.cache_path)
