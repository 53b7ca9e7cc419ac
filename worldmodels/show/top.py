"""The top of a run's page: what its score is read beside, a drive, the pipeline's sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodels.envs import FRAME_SIZE
from worldmodels.runs import metrics
from worldmodels.runs.metrics import is_number
from worldmodels.show.found import Found, meta, training_seconds
from worldmodels.show.parts import Fact, data_uri, duration, png_uri

MOST_VIDEO = 5_000_000  # bytes; a longer video stays beside the page


@dataclass(frozen=True)
class Scale:
    """What a score is read beside."""

    most: float  # about the most that an episode can give
    others: list[tuple[str, float, float | None]]  # name, mean, standard deviation
    remark: str


SCALES = {  # part of the environment's id → what is known of it
    "CarRacing": Scale(
        950,
        [  # CarRacing-v0 over 100 tracks: Ha & Schmidhuber 2018, table 1; github.com/ctallec/world-models
            ("the paper, z and h", 906.0, 21.0),
            ("the paper, z alone", 632.0, 251.0),
            ("an earlier PyTorch port", 860.0, 120.0),
        ],
        "The others drove 100 tracks of CarRacing-v0. 900 counts as solved; about 948 is the most a lap can give.",
    ),
    "TakeCover": Scale(
        2100,
        [  # Ha & Schmidhuber 2018, table 2; docs/takecover.md
            ("the paper, at temperature 1.15", 1092.0, 556.0),
            ("to and fro, eyes closed", 751.0, 512.0),
            ("a random action per tic", 217.0, 103.0),
            ("standing still", 149.0, 51.0),
        ],
        "The paper played 100 games. 750 counts as solved, and walking from wall to wall with closed eyes gives as "
        "much; 2,100 tics are a whole game.",
    ),
}


def scale(evaluation: dict[str, Any]) -> Scale | None:
    """What the score is read beside; nothing where episodes were cut."""
    if evaluation.get("max_steps"):
        return None
    return next((scale for name, scale in SCALES.items() if name in evaluation["env"]), None)


def drive(run: Found) -> tuple[str, dict[str, Any]] | None:
    """The video of one evaluated drive, inside the page where it is not too large, and what is known of the drive."""
    video = (run.evaluation or {}).get("video")
    if not isinstance(video, dict) or not all(is_number(video.get(name)) for name in ("length", "score")):
        return None
    name = Path(str(video.get("file"))).name
    path = next((path for path in (run.dir.evaluations / name, run.logdir / name) if path.is_file()), None)
    if path is None:
        return None
    small = path.stat().st_size <= MOST_VIDEO
    return data_uri("video/mp4", path.read_bytes()) if small else path.relative_to(run.logdir).as_posix(), video


def first_frame(run: Found) -> str | None:
    """A real frame, as a data URI."""
    picture = run.picture("vae", "reconstruction")
    return png_uri(picture.crop((0, 0, FRAME_SIZE, FRAME_SIZE))) if picture else None


def sizes(run: Found) -> dict[str, str]:
    """What is written under z, h, C and the action: from the run's checkpoints, the paper's where there is none."""
    found = {"z_size": 32, "hidden_size": 256, "action_size": 3} | meta(run.dir.mdrnn, "mdrnn")
    hidden, action = meta(run.dir.ctrl, "controller").get("hidden"), found["action_size"]
    car = action == 3 and (not run.env or "CarRacing" in run.env)
    numbers = f"{action} number{'' if action == 1 else 's'}"
    return {
        "z": f"{found['z_size']} numbers", "h": f"{found['hidden_size']} numbers",
        "c": f"{hidden} units" if hidden else "linear", "action": "steer, gas, brake" if car else numbers,
    }  # fmt: skip


def glance(run: Found) -> list[Fact]:
    """The size of the data, and how long the models were trained."""
    files, facts = run.rollouts, []
    if files:
        facts.append((f"{len(files):,}", "episode of data" if len(files) == 1 else "episodes of data"))
        folders = sorted({path.parent for path in files})
        rows = [row for folder in folders for row in metrics.read(folder / "metrics.jsonl", "length")]
        if len(rows) == len(files):
            facts.append((f"{sum(int(row['length'] or 0) for row in rows):,}", "steps"))
        size = sum(path.stat().st_size for path in files) / 1e6
        facts.append((f"{size:,.0f}" if size >= 1 else "< 1", "MB"))
    spent = {letter: seconds for letter, seconds in training_seconds(run).items() if seconds}
    if spent:
        parts = ", ".join(f"{letter} {duration(seconds)}" for letter, seconds in spent.items())
        facts.append((duration(sum(spent.values())), f"of training by the clock: {parts}"))
    return facts
