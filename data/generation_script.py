"""The command of ctallec's port: the same as `worldmodels collect`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worldmodels.cli import main

if __name__ == "__main__":
    main(["collect", *sys.argv[1:]])
