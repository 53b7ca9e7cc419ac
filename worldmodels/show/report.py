"""The page of a run: what its files hold (found.py) → plain values → report.html.j2.

A section of the page is a function Run → Section in SECTIONS; the template prints whatever parts a section has.
"""

import base64
import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from worldmodels import __version__
from worldmodels.envs.seeds import HELD_OUT
from worldmodels.runs.metrics import Row
from worldmodels.show.charts import Band, Line, bar_chart, line_chart, number
from worldmodels.show.found import FRAME, Run, data, meta, training_seconds, used
from worldmodels.show.pictures import DREAM_STRIDE, DREAM_WARM_UP
from worldmodels.training.quality import trusted

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

Fact = tuple[str, str]  # (value, what it is)


def page(logdir: Path, playable: bool = False) -> str:
    """The page of the run in `logdir`, whatever stages it has; `playable`: its playground lies beside the page."""
    run = Run.read(logdir)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return templates.get_template("report.html.j2").render(
        run=run,
        playable=playable,
        version=__version__,
        score=score(run),
        drive=drive(run),
        frame=first_frame(run),
        sizes=sizes(run),
        glance=glance(run),
        sections=[section(run) for section in SECTIONS],
    )


# ----------------------------------------------------------------------------------------- the top of the page


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


@dataclass(frozen=True)
class Video:
    source: str
    caption: str


def drive(run: Run) -> Video | None:
    """The video of one evaluated drive, inside the page where it is not too large."""
    video = (run.evaluation or {}).get("video")
    path = run.logdir / Path(str(video["file"])).name if isinstance(video, dict) and "file" in video else None
    if not isinstance(video, dict) or path is None or not path.is_file():
        return None
    small = path.stat().st_size <= MOST_VIDEO
    caption = (
        f"{run.episode.capitalize()} {video['seed']}, {video['length']} steps, score {signed(video['score'])}. Below: "
        "the frame that V sees, V's reconstruction of it from z, and the frame that M expects next."
    )
    return Video(data_uri("video/mp4", path.read_bytes()) if small else path.name, caption)


def sizes(run: Run) -> dict[str, str]:
    """What is written under z, h, C and the action: from the run's checkpoints, the paper's where there is none."""
    mdrnn = meta(run.logdir / "mdrnn", "mdrnn")
    z, h, action = (
        mdrnn.get(name, paper) for name, paper in (("z_size", 32), ("hidden_size", 256), ("action_size", 3))
    )
    hidden = meta(run.logdir / "ctrl", "controller").get("hidden")
    car = action == 3 and (run.evaluation is None or "CarRacing" in run.evaluation["env"])
    numbers = f"{action} number{'' if action == 1 else 's'}"
    return {
        "z": f"{z} numbers", "h": f"{h} numbers", "c": f"{hidden} units" if hidden else "linear",
        "action": "steer, gas, brake" if car else numbers,
    }  # fmt: skip


def glance(run: Run) -> list[Fact]:
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


# ------------------------------------------------------------------------------------------------- sections


@dataclass(frozen=True)
class Film:
    """A grid of frames."""

    source: str
    rows: Sequence[str]
    """names, from the top"""
    caption: str
    wake: str | None = None
    """CSS: where a dashed line marks a moment in the lowest row"""


@dataclass(frozen=True)
class Section:
    """A part of the page; the template shows what is there, in this order."""

    title: str
    intro: str = ""
    model: str = ""
    """v, m or c: its letter and colour"""
    missing: tuple[str, str, str] | None = None
    """in place of all that follows: what is missing, the command, what that does"""
    facts: Sequence[Fact] = ()
    charts: Sequence[Markup] = ()
    note: tuple[str, str] | None = None
    """in bold, then the rest: a card beside the charts"""
    listing: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None
    """summary, head and rows of a table"""
    command: str = ""
    """repeats what is shown"""
    remark: str = ""
    films: Sequence[Film] = ()
    groups: dict[str, dict[str, Any]] | None = None
    """name → settings, folded away"""


def vision(run: Run) -> Section:
    """V: what it lost while learning, and what it sees."""
    section = Section(
        "sees",
        "A variational auto-encoder presses every frame into z, a few numbers, and paints the frame again from them.",
        "v",
        missing=("V is not trained yet:", run.command("train-vae"), "trains it."),
    )
    if not run.vae:
        return section
    rows, last = run.vae, run.vae[-1]
    parts = [
        Line("squared error, test", column(rows, "epoch", "test_reconstruction"), "v"),
        Line("KL, test", column(rows, "epoch", "test_kl"), "v dashed"),
    ]
    return replace(
        section,
        missing=None,
        facts=facts(last, ("epoch", "epochs"), ("test_reconstruction", "error per image"), ("test_kl", "KL, nats"))
        + pace(last, "frames_per_second", "frames/s"),
        charts=charts(
            curves("Loss per image", rows, "loss", "v"), line_chart("What the loss is made of", "epoch", parts)
        ),
        films=films(
            film(run.picture("vae", "reconstruction"), ["real", "V's"],
                 "Frames of test episodes, and what V paints from their z."),
            film(run.picture("vae", "samples"), ["V's"], "Frames that never were: V paints from z drawn at random."),
        ),
    )  # fmt: skip


def memory(run: Run) -> Section:
    """M: what it lost while learning, and a dream."""
    section = Section(
        "remembers and predicts",
        "A recurrent network reads z and the action, keeps h, and says how likely every next z is.",
        "m",
        missing=("M is not trained yet:", run.command("train-mdrnn"), "trains it."),
    )
    if not run.mdrnn:
        return section
    rows, last = run.mdrnn, run.mdrnn[-1]
    return replace(
        section,
        missing=None,
        facts=facts(last, ("epoch", "epochs"), ("test_nll", "test NLL, nats per dimension"))
        + pace(last, "transitions_per_second", "transitions/s"),
        charts=charts(
            curves("Negative log-likelihood of the next z", rows, "nll", "m"),
            curves("Squared error of the reward", rows, "reward", "m"),
            curves("Cross-entropy of the end", rows, "terminal", "m"),
            foresight(run),
        ),
        listing=ranking(run),
        note=(
            "How to read it.",
            "Nats for each number of z, so that models of all sizes compare. A standard normal, which remembers "
            f"nothing, scores {math.log(2 * math.pi * math.e) / 2:.2f}. Most of z is noise that nobody can foresee: "
            "values near 1 are usual, and what M has learned shows in its dream below.",
        ),
        films=films(dream(run.picture("mdrnn", "dream"))),
    )


def foresight(run: Run) -> str:
    """How far ahead M foresees rewards, on its own z; nothing where that was not measured."""
    measured = run.quality.get("open_loop")
    r2 = measured.get("r2") if isinstance(measured, dict) else None
    if not isinstance(r2, list) or not r2 or not all(isinstance(value, (int, float)) for value in r2):
        return ""
    points = [(20.0 * (i + 1), float(value)) for i, value in enumerate(r2)]
    return line_chart("Share of 20 steps' reward that M foresees", "steps ahead", [Line("R²", points, "m")])


def ranking(run: Run) -> tuple[str, Sequence[str], Sequence[Sequence[str]]] | None:
    """What fixed policies earn in the world and in M's dream; nothing where that was not measured."""
    measured = run.quality.get("ranking")
    number = (int, float)
    policies = measured.get("policies") if isinstance(measured, dict) else None
    if (
        not isinstance(measured, dict)
        or not isinstance(policies, dict)
        or not all(isinstance(measured.get(name), number) for name in ("rank", "slope"))
    ):
        return None
    pairs = [(name, pair) for name, pair in policies.items() if isinstance(pair, list) and len(pair) == 2]
    rows = [(name, *map(signed, pair)) for name, pair in pairs if all(isinstance(value, number) for value in pair)]
    wrong = "" if trusted(measured) else ": not the world's order, C may learn the wrong thing"
    agree = f"rank correlation {measured['rank']:.2f}, slope {measured['slope']:.2f}"
    return f"Fixed policies, {agree}{wrong}", ("policy", "real", "dreamed"), rows


def dream(picture: Image.Image | None) -> Film | None:
    """M's dream beside the real sequence, the moment marked when it is left alone."""
    caption = (
        f"Every {DREAM_STRIDE}th step of a test episode. M watches the first {DREAM_WARM_UP} steps; from the dashed "
        "line on it is left alone with its own dream and the real actions."
    )
    shown = film(picture, ["real", "V's", "M's dream"], caption)
    watched, columns = math.ceil(DREAM_WARM_UP / DREAM_STRIDE), picture.width // FRAME if picture else 0
    if shown is None or watched >= columns:
        return shown
    return replace(shown, wake=f"left:calc({watched / columns:.2%} - 2px);height:{1 / len(shown.rows):.2%}")


def controller(run: Run) -> Section:
    """C: the population's scores, and the score that picks the best."""
    section = Section(
        "decides",
        "A linear layer turns z and h into the action. Evolution finds its weights: V and M stay as they are.",
        "c",
        missing=("C is not trained yet:", run.command("train-controller"), "evolves it."),
    )
    if not run.ctrl:
        return section
    rows, last = run.ctrl, run.ctrl[-1]
    if "resting" in last:
        return learned_in_rounds(run, section)
    selected = column(rows, "generation", "selected")
    best = [(signed(max(score for _, score in selected)), f"best on the selection {run.episode}s")] if selected else []
    mean, spread = column(rows, "generation", "mean"), dict(column(rows, "generation", "std"))
    lines = [
        Line("best", column(rows, "generation", "best"), "c faint"),
        Line("mean ± spread", mean, "c"),
        Line("selection", selected, "ink", dots_only=True),
    ]
    band = Band([(x, y - spread[x], y + spread[x]) for x, y in mean if x in spread], "c")
    dreamt = [(f"{row['dream_steps']:,}", "steps in the dream") for row in rows if "dream_steps" in row][-1:]
    dreams = [Line(name, column(rows, "generation", name), css) for name, css in (("dreamed", "m"), ("real", "ink"))]
    sigma = [Line("sigma", column(rows, "generation", "sigma"), "c")]
    return replace(
        section,
        missing=None,
        facts=facts(last, ("generation", "generations")) + best
        + facts(last, ("env_steps", "environment steps"))
        + dreamt + pace(last, "steps_per_second", "steps/s"),
        charts=charts(
            line_chart("Scores of the population", "generation", lines, band),
            line_chart("The mean driver, dreamed and real", "generation", dreams) if dreams[0].points else "",
            line_chart("Step size of the search", "generation", sigma),
        ),
        films=films(dreamed_and_driven(run)),
        remark=f"Selection: every few generations the mean of the search distribution drives {run.episode}s of its "
        "own; its highest score there is the driver that is kept.",
    )  # fmt: skip


def learned_in_rounds(run: Run, section: Section) -> Section:
    """A C that learned in the dream (`train-in-dream`): what the dream promised beside what was paid."""
    rows, last = run.ctrl, run.ctrl[-1]
    selected = column(rows, "generation", "selected")
    best = [(signed(max(score for _, score in selected)), f"best on the selection {run.episode}s")] if selected else []
    laps = [
        Line("mean", column(rows, "generation", "mean"), "c"), Line("selection", selected, "ink", dots_only=True),
    ]  # fmt: skip
    short, far = (
        [Line(name, column(rows, "generation", name), css) for name, css in zip(pair, ("m", "ink"), strict=True)]
        for pair in (("dreamed", "real"), ("promised", "paid"))
    )
    return replace(
        section,
        intro="A linear layer turns z and h into the action. It climbs the reward of short dreams and learns from "
        "nothing else: what the road pays teaches M.",
        missing=None,
        facts=facts(last, ("generation", "rounds")) + best
        + facts(last, ("env_steps", "environment steps"), ("dream_steps", "steps in the dream"))
        + pace(last, "steps_per_second", "steps/s"),
        charts=charts(
            line_chart(f"Whole {run.episode}s of C and candidates close to it", "round", laps),
            line_chart("Reward of a dream, and of the same steps on the road", "round", short),
            line_chart("The same with what comes after", "round", far),
        ),
        films=films(dreamed_and_driven(run)),
        remark=f"Selection: every few rounds the average of C over the last of them drives {run.episode}s of its own; "
        "its highest score there is the driver that is kept.",
    )  # fmt: skip


def dreamed_and_driven(run: Run) -> Film | None:
    """A dream of C beside what it then drives."""
    caption = "What C dreams, and what it then drives, from the start of an episode (ctrl/dream.mp4 is the film)."
    return film(run.picture("ctrl", "dream"), ["dreamed", "real"], caption)


def evaluation(run: Run) -> Section | None:
    """Every evaluated episode and its score."""
    found, one = run.evaluation, run.episode
    if found is None:
        return None
    drives = list(zip(found["seeds"], found["scores"], found["lengths"], strict=True))
    count = f"{len(drives)} {one}{'s' if len(drives) > 1 else ''}"
    ranked = [(f"{one} {seed}", score) for seed, score, _ in sorted(drives, key=lambda drive: drive[1])]
    marks = [(f"mean {found['mean']:.0f}", found["mean"])] if len(drives) > 1 else []
    return Section(
        "The evaluation",
        f"Every {one} was driven once; none was left out.",
        charts=charts(bar_chart(f"Score of every {one}, lowest first", count, ranked, marks, "c")),
        listing=(
            f"{count}, in order",
            (one, "score", "steps"),
            [(str(seed), signed(score, 1), str(length)) for seed, score, length in drives],
        ),
        command=found["command"],
    )


def settings(run: Run) -> Section | None:
    """What the run used, and with which versions."""
    groups = used(run)
    if run.evaluation:
        commit = run.evaluation.get("commit")
        groups["versions of the evaluation"] = run.evaluation["versions"] | ({"commit": commit} if commit else {})
        if groups.get("versions") == groups["versions of the evaluation"]:
            del groups["versions of the evaluation"]
    return Section("Settings and versions", groups=groups) if groups else None


SECTIONS: tuple[Callable[[Run], Section | None], ...] = (vision, memory, controller, evaluation, settings)


# --------------------------------------------------------------------------------------------- parts of a section


def signed(score: float, digits: int = 0) -> str:
    """A rounded score with a true minus sign."""
    return f"{score:.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """48 s · 12 min · 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def facts(row: Row, *names: tuple[str, str]) -> list[Fact]:
    """(value, what it is) of the columns that a row has."""
    return [(number(value), what) for name, what in names if (value := row.get(name)) is not None]


def pace(row: Row, rate: str, unit: str) -> list[Fact]:
    """How long a stage took and how fast it went, where the metrics tell."""
    seconds, speed = row.get("seconds"), row.get(rate)
    took = [(duration(seconds), "training")] if seconds is not None else []
    return took + ([(f"{speed:,.0f}", unit)] if speed is not None else [])


def column(rows: Sequence[Row], axis: str, name: str) -> list[tuple[float, float]]:
    """The points (axis, value) of the rows that have the value."""
    return [(x, y) for row in rows if (x := row.get(axis)) is not None and (y := row.get(name)) is not None]


def curves(title: str, rows: Sequence[Row], name: str, css: str) -> str:
    """Train and test of one metric by epoch."""
    return line_chart(title, "epoch", [
        Line("train", column(rows, "epoch", f"train_{name}"), f"{css} faint"),
        Line("test", column(rows, "epoch", f"test_{name}"), css),
    ])  # fmt: skip


def charts(*drawn: str) -> list[Markup]:
    """The charts that have something to show."""
    return [Markup(chart) for chart in drawn if chart]  # ours: names in them are escaped


def films(*found: Film | None) -> list[Film]:
    return [film for film in found if film is not None]


def film(picture: Image.Image | None, rows: Sequence[str], caption: str) -> Film | None:
    """A grid of frames with its rows named."""
    return None if picture is None else Film(png_uri(spaced(picture)), rows, caption)


def spaced(picture: Image.Image, gap: int = 3) -> Image.Image:
    """A grid of frames with a transparent gap of `gap` pixels around each."""
    columns, rows = picture.width // FRAME, picture.height // FRAME
    grid = Image.new("RGBA", (columns * (FRAME + gap), rows * (FRAME + gap)))
    for column, row in itertools.product(range(columns), range(rows)):
        frame = picture.crop((FRAME * column, FRAME * row, FRAME * (column + 1), FRAME * (row + 1)))
        grid.paste(frame, ((FRAME + gap) * column + gap // 2, (FRAME + gap) * row + gap // 2))
    return grid


def first_frame(run: Run) -> str | None:
    """A real frame, as a data URI."""
    picture = run.picture("vae", "reconstruction")
    return png_uri(picture.crop((0, 0, FRAME, FRAME))) if picture else None


def png_uri(image: Image.Image) -> str:
    with io.BytesIO() as buffer:
        image.save(buffer, "PNG", optimize=True)
        return data_uri("image/png", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()
