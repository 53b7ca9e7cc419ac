"""The score in large type at the top of a run's page, and what it is read beside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worldmodels.envs.seeds import HELD_OUT
from worldmodels.show.found import Run
from worldmodels.show.parts import signed


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


def score(run: Run) -> dict[str, Any] | None:
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
