"""World Models (Ha & Schmidhuber, 2018): V sees, M remembers and predicts, C decides.

    agent = worldmodels.load("exp_dir")                 # the driver of a run; load_pretrained("carracing") ours
    agent.reset(); action = agent(frame)                # frame uint8 (height, width, 3) → what env.step takes

`VAE`, `MDRNN` and `Controller` are V, M and C, `Agent` is the three acting together, `drive` the loop over lanes.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Before PyTorch loads: OpenMP's threads, which spin for a while after each operation, leave the cores to the
# simulator's threads and to other programs sooner. Evolution is a third faster so (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from worldmodels.envs import register

if TYPE_CHECKING:
    from worldmodels.agent import Agent, load
    from worldmodels.controller import Controller
    from worldmodels.memory import MDRNN
    from worldmodels.pretrained import load_pretrained
    from worldmodels.rollout import drive
    from worldmodels.vision import VAE

__all__ = ["MDRNN", "VAE", "Agent", "Controller", "__version__", "drive", "load", "load_pretrained"]
__version__ = "0.1.0"

_HOMES = {
    "VAE": "vision", "MDRNN": "memory", "Controller": "controller", "Agent": "agent", "load": "agent",
    "load_pretrained": "pretrained", "drive": "rollout",
}  # fmt: skip

register()


def __getattr__(name: str) -> Any:
    """The front door's names, imported when they are asked for: PyTorch takes a second to load."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"worldmodels.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'worldmodels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
