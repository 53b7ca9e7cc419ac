"""The top of a run's page: the score in large type and what it is read beside, a drive, the pipeline's sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodels.envs.seeds import HELD_OUT
from worldmodels.runs.metrics import is_number
from worldmodels.show.found import FRAME, Found, data, meta, training_seconds
from worldmodels.show.parts import Fact, data_uri, duration, png_uri, signed

MOST_VIDEO = 5_000_000  # bytes; a longer video stays beside the page


@dataclass(frozen=True)
class Scale:
    """What a score is read beside."""

    most: float
    """about the most that an episode can give"""
    others: Sequence[tuple[str, float, float | None]]
    """name, mean, standard deviation"""
    remark: str


SCALES = {  # part of the environment's id → what is known of it
    "CarRacing": Scale(
        950,
        (  # CarRacing-v0 over 100 tracks: Ha & Schmidhuber 2018, table 1; github.com/ctallec/world-models
            ("the paper, z and h", 906.0, 21.0),
            ("the paper, z alone", 632.0, 251.0),
            ("an earlier PyTorch port", 860.0, 120.0),
        ),
        "The others drove 100 tracks of CarRacing-v0. 900 counts as solved; about 948 is the most a lap can give.",
    ),
    "TakeCover": Scale(
        2100,
        (  # Ha & Schmidhuber 2018, table 2; docs/takecover.md
            ("the paper, at temperature 1.15", 1092.0, 556.0),
            ("to and fro, eyes closed", 751.0, 512.0),
            ("a random action per tic", 217.0, 103.0),
            ("standing still", 149.0, 51.0),
        ),
        "The paper played 100 games. 750 counts as solved, and walking from wall to wall with closed eyes gives as "
        "much; 2,100 tics are a whole game.",
    ),
}


def score(run: Found) -> dict[str, Any] | None:
    """The score in large type and what it means."""
    found = run.evaluation
    if found is None:
        return None
    one, held_out = run.episode, "held-out " if found["seeds"][0] >= HELD_OUT else ""
    if found.get("std") is None:
        meaning = f"Score of a single {held_out}{one}: one drive says little about the next."
    else:
        unseen = ", none of which was driven in training" if held_out else ""
        meaning = (
            f"Mean score and standard deviation over {found['episodes']} {held_out}{one}s{unseen}. "
            f"The mean is known to within ± {found['stderr']:.1f} (standard error); "
            f"the worst {one} gave {signed(found['min'])}, the best {signed(found['max'])}."
        )
    if run.outdated:
        meaning += f" An earlier driver of this run drove; {run.command('evaluate')} scores the one that is there now."
    own = ("this run", found["mean"], found.get("std"))
    scale = next((scale for name, scale in SCALES.items() if name in found["env"]), None)
    scale = None if found.get("max_steps") else scale
    return {
        "env": found["env"].rpartition(":")[2],
        "mean": signed(found["mean"]),
        "spread": "" if found.get("std") is None else f"± {found['std']:.0f}",
        "meaning": meaning,
        "cut": found.get("max_steps"),
        "scale": [bar(*row, scale.most) for row in (own, *scale.others)] if scale else [],
        "remark": scale.remark if scale else "",
    }


def bar(name: str, mean: float, spread: float | None, most: float) -> dict[str, str]:
    """A score as a bar: how far it is to the most that an episode can give."""
    text = signed(mean) + ("" if spread is None else f" ± {spread:.0f}")
    return {"name": name, "width": f"{max(0.0, min(1.0, mean / most)):.1%}", "text": text}


def drive(run: Found) -> dict[str, str] | None:
    """The video of one evaluated drive, inside the page where it is not too large, and its caption."""
    video = (run.evaluation or {}).get("video")
    name = Path(str(video.get("file"))).name if isinstance(video, dict) else ""
    path = next((path for path in (run.logdir / "evaluation" / name, run.logdir / name) if path.is_file()), None)
    if not isinstance(video, dict) or path is None or not all(is_number(video.get(n)) for n in ("length", "score")):
        return None
    small = path.stat().st_size <= MOST_VIDEO
    caption = (
        f"{run.episode.capitalize()} {video.get('seed')}, {video['length']} steps, score {signed(video['score'])}. "
        "Below: the frame that V sees, V's reconstruction of it from z, and the frame that M expects next."
    )
    source = data_uri("video/mp4", path.read_bytes()) if small else path.relative_to(run.logdir).as_posix()
    return {"source": source, "caption": caption}


def first_frame(run: Found) -> str | None:
    """A real frame, as a data URI."""
    picture = run.picture("vae", "reconstruction")
    return png_uri(picture.crop((0, 0, FRAME, FRAME))) if picture else None


def sizes(run: Found) -> dict[str, str]:
    """What is written under z, h, C and the action: from the run's checkpoints, the paper's where there is none."""
    mdrnn = meta(run.logdir / "mdrnn", "mdrnn")
    z, h, action = (
        mdrnn.get(name, paper) for name, paper in (("z_size", 32), ("hidden_size", 256), ("action_size", 3))
    )
    hidden = meta(run.logdir / "ctrl", "controller").get("hidden")
    car = action == 3 and (not run.env or "CarRacing" in run.env)
    numbers = f"{action} number{'' if action == 1 else 's'}"
    return {
        "z": f"{z} numbers", "h": f"{h} numbers", "c": f"{hidden} units" if hidden else "linear",
        "action": "steer, gas, brake" if car else numbers,
    }  # fmt: skip


def glance(run: Found) -> list[Fact]:
    """The size of the data, and how long the models were trained."""
    found, facts = data(run), []
    if found:
        facts.append((f"{found.episodes:,}", "episode of data" if found.episodes == 1 else "episodes of data"))
        facts += [(f"{found.steps:,}", "steps")] if found.steps is not None else []
        facts.append((f"{found.size / 1e6:,.0f}" if found.size >= 1e6 else "< 1", "MB"))
    spent = {"V": 0.0, "M": 0.0, "C": 0.0}
    for letter, seconds in training_seconds(run):
        spent[letter] += seconds
    if any(spent.values()):
        parts = ", ".join(f"{letter} {duration(seconds)}" for letter, seconds in spent.items() if seconds)
        facts.append((duration(sum(spent.values())), f"of training by the clock: {parts}"))
    return facts
