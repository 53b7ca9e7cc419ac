"""Environments as the pipeline sees them: 64×64 frames in, action vectors out, ended lanes at rest."""

from typing import Any

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


HOMES: dict[str, tuple[str, str, dict[str, Any]]] = {
    CARRACING: (
        "carracing.env:CarRacing", "carracing.vector_env:CarRacingVectorEnv",
        {"max_episode_steps": 1000, "reward_threshold": 900},
    ),
    DREAM: ("dream:Dream", "dream:DreamVectorEnv", {}),
    TAKECOVER: ("takecover:TakeCover", "takecover:TakeCoverVectorEnv", {"reward_threshold": 750}),
}  # fmt: skip
"""Our environments: one lane, many lanes, and what Gymnasium is told besides."""


def register() -> None:
    """Register our environments with Gymnasium (twice is harmless)."""
    for env_id, (one, many, told) in HOMES.items():
        if env_id not in gymnasium.registry:
            one, many = f"{__name__}.{one}", f"{__name__}.{many}"
            gymnasium.register(env_id, entry_point=one, vector_entry_point=many, **told)
