"""The command of ctallec's port: the same as `worldmodels train-controller`."""

import sys

from worldmodels.cli import main

if __name__ == "__main__":
    main(["train-controller", *sys.argv[1:]])
