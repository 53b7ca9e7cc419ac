"""The whole pipeline on a GPU, C at the paper's population of 64 candidates × 16 tracks.

    python -m benchmarks.gpu OUTPUT [--minutes 9]

Runs `worldmodels run` in OUTPUT/run. After --minutes it is stopped, and the same command continues it. Either way the
figures so far are printed and written, with the best V, M and C in 16-bit floats, into OUTPUT/results.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from conformance.arguments import above_zero
from experiments.shipped import pack
from worldmodels.cli import as_a_command
from worldmodels.errors import UserError
from worldmodels.runs import metrics as logs
from worldmodels.runs.files import write_json

FLAGS = (
    "--preset overnight --collect.rollouts 1600 --again.rollouts 1600 --vae.batch-size 256 --vae.learning-rate 1.4e-3 "
    "--mdrnn.batch-size 128 --mdrnn.learning-rate 2e-3 --controller.n-samples 16 --controller.batch-size 1024"
)
RATES = {"vae": "frames_per_second", "mdrnn": "transitions_per_second", "ctrl": "steps_per_second"}


def train(run: Path, minutes: float, flags: list[str]) -> bool:
    """Run the pipeline, or go on with it, for so many minutes; whether it came to its end. Its errors end this too."""
    command = [sys.executable, "-m", "worldmodels", "run", "--logdir", str(run), *flags]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            code = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            return process.wait() == 0
    if code:
        raise SystemExit(code)
    return True


def figures(run: Path, earlier: float = 0.0) -> tuple[dict[str, Any], float]:
    """What the run has measured, the iterations before it included, and the seconds that V, M and C took."""
    found: dict[str, Any] = {}
    if (run / "previous").exists():
        found["previous"], earlier = figures(run / "previous", earlier)
    for stage, rate in RATES.items():
        rows = logs.read(run / stage / "metrics.jsonl")
        if not rows:
            continue
        found[stage] = {"seconds": rows[-1]["seconds"], rate: max(row[rate] for row in rows)}
        if stage == "ctrl":
            selected = [row for row in rows if row["selected"] is not None]
            found[stage] |= {name: rows[-1][name] for name in ("generation", "env_steps")}
            found[stage]["selected"] = max((row["selected"] for row in selected), default=None)
            for score in (850, 900):
                times = [earlier + row["seconds"] for row in selected if row["selected"] >= score]
                found[stage][f"minutes_to_{score}"] = times[0] / 60 if times else None
        earlier += rows[-1]["seconds"]
    return found, earlier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=above_zero, default=9.0)
    asked, more = parser.parse_known_args()
    run, results = asked.output / "run", asked.output / "results"
    finished = train(run, asked.minutes, [*FLAGS.split(), *more])
    found, seconds = figures(run)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    summary = {"device": name, "cores": os.cpu_count(), "finished": finished, "training_seconds": seconds, **found}
    write_json(results / "summary.json", summary)
    print(json.dumps(summary, indent=1))
    try:
        pack(run, results)
    except UserError as error:
        print(f"No driver to bring back yet: {error}")


if __name__ == "__main__":
    with as_a_command():
        main()
