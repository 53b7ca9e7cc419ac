"""Environments as the pipeline sees them: 64×64 frames in, action vectors out, ended lanes at rest."""

import gymnasium

from worldmodels.envs.actions import Actions, actions_of
from worldmodels.envs.frames import FRAME_SIZE, as_frames
from worldmodels.envs.lanes import Lanes
from worldmodels.envs.world import (
    CARRACING,
    DESCRIPTIONS,
    DREAM,
    TAKECOVER,
    Description,
    World,
    actions_for,
    actions_in,
    describe,
    find,
    limit_of,
    make,
    make_any,
    make_one,
    registered,
    reset_options,
    tried,
)

__all__ = [
    "CARRACING", "DESCRIPTIONS", "DREAM", "FRAME_SIZE", "TAKECOVER", "Actions", "Description", "Lanes", "World",
    "actions_for", "actions_in", "actions_of", "as_frames", "describe", "find", "limit_of", "make", "make_any",
    "make_one", "register", "registered", "reset_options", "tried",
]  # fmt: skip


def register() -> None:
    """Register our environments with Gymnasium (twice is harmless)."""
    if CARRACING not in gymnasium.registry:
        gymnasium.register(
            id=CARRACING,
            entry_point="worldmodels.envs.carracing.env:CarRacing",
            vector_entry_point="worldmodels.envs.carracing.vector_env:CarRacingVectorEnv",
            max_episode_steps=1000,
            reward_threshold=900,
        )
    if DREAM not in gymnasium.registry:
        gymnasium.register(
            id=DREAM,
            entry_point="worldmodels.envs.dream:Dream",
            vector_entry_point="worldmodels.envs.dream:DreamVectorEnv",
        )
    if TAKECOVER not in gymnasium.registry:
        gymnasium.register(
            id=TAKECOVER,
            entry_point="worldmodels.envs.takecover:TakeCover",
            vector_entry_point="worldmodels.envs.takecover:TakeCoverVectorEnv",
            reward_threshold=750,
        )
