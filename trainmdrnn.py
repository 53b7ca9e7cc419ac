"""The command of ctallec's port: the same as `worldmodels train-mdrnn`."""

import sys

from worldmodels.cli import main

if __name__ == "__main__":
    main(["train-mdrnn", *sys.argv[1:]])
