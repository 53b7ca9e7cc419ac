"""World Models (Ha & Schmidhuber, 2018): V sees, M remembers and predicts, C decides."""

import os

# Before PyTorch loads: OpenMP's threads, which spin for a while after each operation, leave the cores to the
# simulator's threads and to other programs sooner. Evolution is a third faster so (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from worldmodels.envs import register_environments
from worldmodels.pretrained import load_pretrained

__all__ = ["__version__", "load_pretrained"]
__version__ = "0.1.0"

register_environments()
