"""`python -m worldmodels.pretrained LOGDIR NAME` packs the best V, M and C of a run into the package."""

import sys
from pathlib import Path

from worldmodels.pretrained import pack

if __name__ == "__main__":
    pack(Path(sys.argv[1]), sys.argv[2])
