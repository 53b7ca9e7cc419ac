"""The registration table: importing `worldmodels` makes these ids known to Gymnasium."""

import gymnasium


def register_environments() -> None:
    """Register our environments with Gymnasium (importing twice is harmless)."""
    if "worldmodels/CarRacing-v3" not in gymnasium.registry:
        gymnasium.register(
            id="worldmodels/CarRacing-v3",
            entry_point="worldmodels.envs.carracing.env:CarRacing",
            vector_entry_point="worldmodels.envs.carracing.env:CarRacingVectorEnv",
            max_episode_steps=1000,
            reward_threshold=900,
        )
