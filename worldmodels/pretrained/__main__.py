"""`python -m worldmodels.pretrained LOGDIR NAME` packs the best V, M and C of a run into the package."""

import sys
from pathlib import Path

from worldmodels.pretrained import HERE, pack

if __name__ == "__main__":
    pack(Path(sys.argv[1]), HERE / sys.argv[2])
