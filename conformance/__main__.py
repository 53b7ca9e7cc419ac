"""The whole comparison with Gymnasium's CarRacing: tracks, physics, frames, and the loop closed by a driver.

    python -m conformance              # everything: about 30 minutes on two idle cores
    python -m conformance --sample     # a sample for CI: under 2 minutes

Ends with exit code 1 and the reasons if anything is beyond its limit: tracks, physics and exact frames must be equal to
the last bit, random use and the trained driver's episodes as well, fast frames within the limits of conformance.frames,
and a driver's actions replayed on ours must earn the same rewards.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conformance import closed_loop, driver, fingerprint, frames, fuzz, physics
from worldmodels.cli import as_a_command


@contextmanager
def part(title: str) -> Iterator[None]:
    """A heading before, the seconds after."""
    print(f"\n== {title}", flush=True)
    begin = time.perf_counter()
    yield
    print(f"   ({time.perf_counter() - begin:.0f} s)", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as text, the differences last."""
    cells = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def unequal(rows: list[dict[str, Any]]) -> list[str]:
    """The first difference of each row that has one."""
    return [f"{next(iter(row.values()))}: {row['first difference']}" for row in rows if row["differing"]]


def main() -> int:
    """Print the tables; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="a sample")
    sample = parser.parse_args().sample
    failures = []

    with part("tracks: centreline, quads, borders, Box2D polygons and generator, bit for bit"):
        rows = physics.run_tracks(30 if sample else 1000)
        print(table(rows))
        failures += unequal(rows)
    with part("physics: everything Gymnasium's car and world hold after every step, bit for bit"):
        rows = physics.run(10, 200) if sample else physics.run(200, 1000)
        print(table(rows))
        failures += unequal(rows)
    with part(
        "frames: pixels of exact ones that differ; of fast ones mean error of 255, pixels off by more than 16, ..."
    ):
        compared = frames.run(80 if sample else 3500)
        print(frames.table(compared))
        failures += frames.failures(compared)
    with part("random use: arguments, seeds, actions, autoreset, resets amid episodes; and faults that must be found"):
        failures += fuzz.run(3 if sample else 60)
        for fault, case in fuzz.controls(seconds=5 if sample else 60):
            print(f"broken {fault}: {'found' if case else 'NOT FOUND'}")
            failures += [] if case else [f"a broken {fault} was not found"]
    with part("the trained driver on Gymnasium and on exact frames: every frame, action and reward"):
        failures += driver.run(1 if sample else 20)
    with part("closed loop on fast frames: they become actions"):
        drives = closed_loop.run(1 if sample else 20)
        if not sample:
            drives += closed_loop.run(20, policy=closed_loop.marginal, name="marginal")
        failures += [f"track {row.seed}: replayed actions earn other rewards" for row in drives if not row.replayed]

    with part("fingerprint of this platform"):
        fingerprint.main()

    print("\n" + ("\n".join(["BEYOND THE LIMITS:", *failures]) if failures else "all within the limits"))
    return 1 if failures else 0


if __name__ == "__main__":
    with as_a_command():
        sys.exit(main())
