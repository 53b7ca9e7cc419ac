"""World Models (Ha & Schmidhuber, 2018): V sees, M remembers and predicts, C decides."""

from worldmodels.envs import register_environments
from worldmodels.pretrained import load_pretrained

__all__ = ["__version__", "load_pretrained"]
__version__ = "0.1.0"

register_environments()
