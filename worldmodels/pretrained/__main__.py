"""`python -m worldmodels.pretrained LOGDIR NAME` packs the best V, M and C of a run into the package."""

import argparse
from pathlib import Path

from worldmodels.cli import as_a_command
from worldmodels.errors import UserError
from worldmodels.pretrained import HERE, pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logdir", type=Path, help="the run")
    parser.add_argument("name", help="of the driver in the package")
    asked = parser.parse_args()
    if not asked.name.isidentifier():
        raise UserError(f"{asked.name!r} is no name of a driver: take letters, digits and underscores.")
    pack(asked.logdir, HERE / asked.name)


if __name__ == "__main__":
    with as_a_command():
        main()
