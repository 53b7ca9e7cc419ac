"""Write report.html: one page of curves, reconstructions, a dream, the scores and a drive.

    worldmodels report --logdir exp_dir

The page holds everything it shows (pictures and video as data URIs) and loads nothing: it can be mailed. A stage
that has not run yet is replaced by a sentence that names the command to run.
"""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from worldmodels import __version__
from worldmodels.commands.train_mdrnn import DREAM_STRIDE, DREAM_WARM_UP
from worldmodels.envs.seeds import HELD_OUT
from worldmodels.errors import UserError
from worldmodels.runs import checkpoint
from worldmodels.runs import metrics as logs
from worldmodels.runs.files import read_json, write_atomically
from worldmodels.runs.settings import STAGES, Report
from worldmodels.show import diagram
from worldmodels.show.charts import Band, Line, bar_chart, line_chart, number

TEMPLATE = Path(__file__).with_name("report_template.html")
MOST_VIDEO = 5_000_000  # bytes; a longer video stays beside the page
Row = dict[str, Any]

PUBLISHED = (  # CarRacing-v0 over 100 tracks: Ha & Schmidhuber 2018, table 1; github.com/ctallec/world-models
    ("the paper, z and h", 906.0, 21.0),
    ("the paper, z alone", 632.0, 251.0),
    ("an earlier PyTorch port", 860.0, 120.0),
)


def main(cfg: Report) -> None:
    """Write <logdir>/report.html and print its path."""
    print(f"Open {write_report(Path(cfg.logdir))}")


def write_report(logdir: Path) -> Path:
    """Write the page of a run, whatever stages it has; returns its path.

    Raises:
        UserError: there is no such run.
    """
    if not logdir.is_dir():
        raise UserError(f"{logdir} does not exist: `worldmodels run --logdir {logdir}` makes it.")
    path = logdir / "report.html"
    write_atomically(path, page(logdir).encode())
    return path


def page(logdir: Path) -> str:
    """The whole page."""
    evaluation = _json(logdir / "evaluation.json")
    sizes, picture = model_sizes(logdir), newest(logdir / "vae" / "samples", "reconstruction")
    frame = first_frame(picture) if picture else None
    drawings = "".join(diagram.pipeline(sizes, frame, vertical) for vertical in (False, True))
    sections = [
        vision(logdir),
        memory(logdir),
        controller(logdir),
        tracks(logdir, evaluation),
        settings(logdir, evaluation),
    ]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"World Models · {logdir.resolve().name}"),
        hero=hero(logdir, evaluation),
        drive=drive(logdir, evaluation),
        pipeline=f'<section class="card pipeline">{drawings}</section>',
        sections="".join(sections),
        footer=f"Written by worldmodels {__version__} from <code>{escape(str(logdir))}</code>.",
    )


# ------------------------------------------------------------------------------------------------- sections


def hero(logdir: Path, evaluation: Row | None) -> str:
    """The score in large type and what it means."""
    if evaluation is None:
        sentence = missing(
            "This run has no score yet:", f"worldmodels evaluate --logdir {logdir}", "drives the held-out tracks."
        )
        return f"<h1><b>World Models</b> · {escape(logdir.resolve().name)}</h1>{sentence}"
    spread = "" if evaluation["std"] is None else f" <small>± {evaluation['std']:.0f}</small>"
    parts = [
        f"<h1><b>World Models</b> on {escape(evaluation['env'].rpartition(':')[2])}</h1>",
        f'<div class="score">{signed(evaluation["mean"])}{spread}</div>',
        f"<p>{meaning(evaluation)}</p>",
    ]
    if evaluation["max_steps"]:
        parts.append(
            f'<p class="warn">Episodes were cut after {evaluation["max_steps"]} steps: '
            "this score is not comparable with any other.</p>"
        )
    elif "CarRacing" in evaluation["env"]:
        parts.append(comparison(evaluation))
    return "".join(parts)


def meaning(evaluation: Row) -> str:
    """What the number in large type is."""
    count, seeds = evaluation["episodes"], evaluation["seeds"]
    held_out = "held-out " if seeds[0] >= HELD_OUT else ""
    if evaluation["std"] is None:
        return f"Score of a single {held_out}track: one drive says little about the next."
    return (
        f"Mean score and standard deviation over {count} {held_out}tracks"
        f"{', none of which was driven in training' if held_out else ''}. "
        f"The mean is known to within ± {evaluation['stderr']:.1f} (standard error); "
        f"the worst track gave {signed(evaluation['min'])}, the best {signed(evaluation['max'])}."
    )


def signed(score: float, digits: int = 0) -> str:
    """A rounded score with a true minus sign."""
    return f"{score:.{digits}f}".replace("-", "−")


def comparison(evaluation: Row) -> str:
    """This run's score as a bar beside published ones."""
    own = ("this run", evaluation["mean"], evaluation["std"], "own")
    rows = [own, *((name, mean, spread, "") for name, mean, spread in PUBLISHED)]
    bars = "".join(
        f'<div class="{css}"><span>{escape(name)}</span>'
        f'<span class="rail"><i style="width:{max(0.0, min(1.0, mean / 950)):.1%}"></i></span>'
        f"<span>{signed(mean)}{'' if spread is None else f' ± {spread:.0f}'}</span></div>"
        for name, mean, spread, css in rows
    )
    note = "The others drove 100 tracks of CarRacing-v0. 900 counts as solved; about 948 is the most a lap can give."
    return f'<div class="scale">{bars}</div><p class="soft small">{note}</p>'


def drive(logdir: Path, evaluation: Row | None) -> str:
    """The video of one evaluated drive."""
    video = evaluation and evaluation.get("video")
    path = logdir / "evaluation.mp4"
    if not video or not path.exists():
        command = f"worldmodels evaluate --logdir {logdir} --video"
        return f"<section>{missing('There is no video of a drive yet:', command, 'films one.')}</section>"
    small = path.stat().st_size <= MOST_VIDEO
    source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() if small else escape(path.name)
    caption = (
        f"Track {video['seed']}, {video['length']} steps, score {signed(video['score'])}. Below: "
        "the frame that V sees, V's reconstruction of it from z, and the frame that M expects next."
    )
    return (
        f'<section class="card drive"><video controls autoplay muted loop playsinline src="{source}"></video>'
        f'<p class="soft small">{caption}</p></section>'
    )


def vision(logdir: Path) -> str:
    """V: what it lost while learning, and what it sees."""
    head = heading(
        "v",
        "V",
        "sees",
        "A variational auto-encoder presses every frame into z, a few numbers, and paints the frame again from them.",
    )
    rows = logs.read(logdir / "vae" / "metrics.jsonl")
    if not rows:
        return head + missing("V is not trained yet:", f"worldmodels train-vae --logdir {logdir}", "trains it.")
    last = rows[-1]
    facts = [("epochs", number(last["epoch"])), ("error an image", number(last["test_reconstruction"])),
             ("KL, nats", number(last["test_kl"])), *pace(last, "frames_per_second", "frames/s")]  # fmt: skip
    charts = [
        curves("Loss of an image", rows, "epoch", "loss", "v"),
        line_chart("What the loss is made of", "epoch", [
            Line("squared error, test", column(rows, "epoch", "test_reconstruction"), "v"),
            Line("KL, test", column(rows, "epoch", "test_kl"), "v dashed"),
        ]),
    ]  # fmt: skip
    body = fact_list(facts) + cards(charts)
    folder = logdir / "vae" / "samples"
    if path := newest(folder, "reconstruction"):
        body += filmstrip(path, ["real", "V's"], "Frames of test episodes, and what V paints from their z.")
    if path := newest(folder, "samples"):
        body += filmstrip(path, ["V's"], "Frames that never were: V paints from z drawn at random.")
    return head + body


def memory(logdir: Path) -> str:
    """M: what it lost while learning, and a dream."""
    head = heading(
        "m",
        "M",
        "remembers and predicts",
        "A recurrent network reads z and the action, keeps h, and says how likely every next z is.",
    )
    rows = logs.read(logdir / "mdrnn" / "metrics.jsonl")
    if not rows:
        return head + missing("M is not trained yet:", f"worldmodels train-mdrnn --logdir {logdir}", "trains it.")
    last = rows[-1]
    facts = [("epochs", number(last["epoch"])), ("test NLL, nats a dimension", number(last["test_nll"])),
             *pace(last, "transitions_per_second", "transitions/s")]  # fmt: skip
    charts = [curves("Negative log-likelihood of the next z", rows, "epoch", "nll", "m")]
    charts += [
        curves(title, rows, "epoch", name, "m")
        for name, title in (("reward", "Squared error of the reward"), ("terminal", "Cross-entropy of the end"))
        if f"test_{name}" in last
    ]
    note = (
        "<b>How to read it.</b> Nats for each number of z, so that models of all sizes compare. A standard normal, "
        f"which remembers nothing, scores {math.log(2 * math.pi * math.e) / 2:.2f}. Most of z is noise that nobody can "
        "foresee: values near 1 are usual, and what M has learned shows in its dream below."
    )
    body = fact_list(facts) + cards([*charts, f"<p>{note}</p>"])
    if path := newest(logdir / "mdrnn" / "samples", "dream"):
        body += dream(path)
    return head + body


def dream(path: Path) -> str:
    """M's dream beside the real sequence, the moment marked when it is left alone."""
    with Image.open(path) as image:
        columns = image.width // 64
    watched = math.ceil(DREAM_WARM_UP / DREAM_STRIDE)
    caption = (
        f"Every {DREAM_STRIDE}th step of a test episode. M watches the first {DREAM_WARM_UP} steps; from the dashed "
        "line on it is left alone with its own dream and the real actions."
    )
    return filmstrip(path, ["real", "V's", "M's dream"], caption, wake=watched / columns if watched < columns else None)


def controller(logdir: Path) -> str:
    """C: the population's scores, and the score that picks the best."""
    head = heading(
        "c",
        "C",
        "decides",
        "A linear layer turns z and h into the action. Evolution finds its weights: V and M stay as they are.",
    )
    rows = logs.read(logdir / "ctrl" / "metrics.jsonl")
    if not rows:
        return head + missing("C is not trained yet:", f"worldmodels train-controller --logdir {logdir}", "evolves it.")
    last = rows[-1]
    selected = [(r["generation"], r["selected"]) for r in rows if r.get("selected") is not None]
    facts = [("generations", number(last["generation"])), ("environment steps", f"{last['env_steps']:,}"),
             *pace(last, "steps_per_second", "steps/s")]  # fmt: skip
    if selected:
        facts.insert(1, ("best on the selection tracks", signed(max(score for _, score in selected))))
    band = Band([(r["generation"], r["mean"] - r["std"], r["mean"] + r["std"]) for r in rows], "c")
    lines = [
        Line("best", column(rows, "generation", "best"), "c faint"),
        Line("mean ± spread", column(rows, "generation", "mean"), "c"),
        Line("selection", selected, "ink", dots_only=True),
    ]
    charts = [
        line_chart("Scores of the population", "generation", lines, band),
        line_chart("Step size of the search", "generation", [Line("sigma", column(rows, "generation", "sigma"), "c")]),
    ]
    note = (
        '<p class="soft small">Selection: every few generations the mean of the search distribution drives tracks of '
        "its own; its highest score there is the driver that is kept.</p>"
    )
    return head + fact_list(facts) + cards(charts) + note


def tracks(logdir: Path, evaluation: Row | None) -> str:
    """Every evaluated track and its score."""
    if evaluation is None:
        return ""
    pairs = list(zip(evaluation["seeds"], evaluation["scores"], evaluation["lengths"], strict=True))
    count = f"{len(pairs)} track{'s' if len(pairs) > 1 else ''}"
    ranked = [(f"track {seed}", score) for seed, score, _ in sorted(pairs, key=lambda pair: pair[1])]
    marks = [(f"mean {evaluation['mean']:.0f}", evaluation["mean"])] if len(pairs) > 1 else []
    chart = bar_chart("Score of every track, lowest first", count, ranked, marks, "c")
    rows = "".join(
        f"<tr><td>{seed}</td><td>{signed(score, 1)}</td><td>{length}</td></tr>" for seed, score, length in pairs
    )
    listing = f"<table><tr><th>track</th><th>score</th><th>steps</th></tr>{rows}</table>"
    opened = " open" if len(pairs) <= 12 else ""
    return (
        f'<h2>The evaluation</h2><p class="soft">Every track was driven once; none was left out.</p>'
        f'<div class="grid"><div class="card">{chart}</div><div class="card">'
        f'<details{opened}><summary>{count}, in order</summary><div class="columns">{listing}</div></details>'
        f"<p>Repeat it:</p><pre>{escape(evaluation['command'])}</pre></div></div>"
    )


def settings(logdir: Path, evaluation: Row | None) -> str:
    """What was asked for, and with which versions."""
    asked = _json(logdir / "config.json") or {}
    for stage, name in STAGES.items():
        if stage in asked:
            asked.get("run", {}).pop(name, None)  # the command's own entry is the later one
    groups = dict(grouped(asked))
    if evaluation:
        groups["versions of the evaluation"] = {**evaluation["versions"], "commit": evaluation["commit"]}
    if not groups:
        return ""
    tables = "".join(
        f'<div class="card"><h3>{escape(name)}</h3><table>'
        + "".join(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in group.items())
        + "</table></div>"
        for name, group in groups.items()
    )
    return (
        '<h2>Settings and versions</h2><details class="settings">'
        f'<summary>Everything this run was asked for</summary><div class="grid">{tables}</div></details>'
    )


def grouped(config: Row, name: str = "run") -> list[tuple[str, Row]]:
    """Nested settings as (name, flat settings) groups, the outermost first."""
    flat = {key: value for key, value in config.items() if not isinstance(value, dict)}
    inner = [group for key, value in config.items() if isinstance(value, dict) for group in grouped(value, key)]
    return ([(name, flat)] if flat else []) + inner


# --------------------------------------------------------------------------------------------- parts of a page


def heading(css: str, letter: str, does: str, what: str) -> str:
    return f'<h2><span class="letter {css}">{letter}</span>{does}</h2><p class="soft">{what}</p>'


def missing(what: str, command: str, then: str) -> str:
    """The sentence in place of a stage that has not run."""
    return f'<p class="card missing">{escape(what)} <code>{escape(command)}</code> {escape(then)}</p>'


def fact_list(facts: Sequence[tuple[str, str]]) -> str:
    return (
        '<ul class="facts">'
        + "".join(f"<li><b>{escape(value)}</b> {escape(name)}</li>" for name, value in facts)
        + "</ul>"
    )


def pace(row: Row, rate: str, unit: str) -> list[tuple[str, str]]:
    """How long a stage took and how fast it went, where the metrics tell."""
    facts = [("training", duration(row["seconds"]))] if "seconds" in row else []
    return [*facts, *([(unit, f"{row[rate]:,.0f}")] if rate in row else [])]


def duration(seconds: float) -> str:
    """48 s · 12 min · 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cards(charts: Sequence[str]) -> str:
    return '<div class="grid">' + "".join(f'<div class="card">{chart}</div>' for chart in charts if chart) + "</div>"


def column(rows: Sequence[Row], axis: str, name: str) -> list[tuple[float, float]]:
    """The points (axis, value) of the rows that have the value."""
    return [(row[axis], row[name]) for row in rows if row.get(name) is not None]


def curves(title: str, rows: Sequence[Row], axis: str, name: str, css: str) -> str:
    """Train and test of one metric."""
    test = Line("test", column(rows, axis, f"test_{name}"), css)
    return line_chart(title, axis, [Line("train", column(rows, axis, f"train_{name}"), f"{css} faint"), test])


def filmstrip(path: Path, rows: Sequence[str], caption: str, wake: float | None = None) -> str:
    """A grid of frames with its rows named; `wake` (0 … 1) marks a moment in the lowest row."""
    names = "".join(f"<span>{escape(name)}</span>" for name in rows)
    place = "" if wake is None else f"left:calc({wake:.2%} - 2px);height:{1 / len(rows):.2%}"
    mark = f'<span class="wake" style="{place}"></span>' if place else ""
    image = f'<img alt="{escape(caption)}" src="{png_uri(spaced(path))}">'
    return (
        '<figure class="card filmed"><div class="strip">'
        f'<div class="rows">{names}</div><div class="film">{image}{mark}</div></div>'
        f'<p class="soft small">{escape(caption)}</p></figure>'
    )


def spaced(path: Path, gap: int = 3) -> Image.Image:
    """A grid of 64×64 frames with a transparent gap of `gap` pixels around each."""
    with Image.open(path) as image:
        columns, rows = image.width // 64, image.height // 64
        grid = Image.new("RGBA", (columns * (64 + gap), rows * (64 + gap)))
        for column, row in itertools.product(range(columns), range(rows)):
            frame = image.crop((64 * column, 64 * row, 64 * column + 64, 64 * row + 64))
            grid.paste(frame, ((64 + gap) * column + gap // 2, (64 + gap) * row + gap // 2))
    return grid


# ------------------------------------------------------------------------------------------- what a run holds


def newest(folder: Path, name: str) -> Path | None:
    """The picture `<name>_NNNN.png` of the latest epoch."""
    return max(folder.glob(f"{name}_*.png"), default=None, key=lambda path: path.stem.rpartition("_")[2].zfill(9))


def first_frame(picture: Path) -> str:
    """The first frame of a grid of 64×64 frames, as a data URI."""
    with Image.open(picture) as image:
        return png_uri(image.crop((0, 0, 64, 64)))


def png_uri(image: Image.Image) -> str:
    with io.BytesIO() as buffer:
        image.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def model_sizes(logdir: Path) -> diagram.Sizes:
    """Sizes of z, h and the action from the run's checkpoints; the paper's where there is none."""
    try:
        _, meta = checkpoint.load(logdir / "mdrnn" / "best.safetensors")
        model = meta["mdrnn"]
        return diagram.Sizes(model["z_size"], model["hidden_size"], model["action_size"], model["action_size"] == 3)
    except (UserError, KeyError):
        return diagram.Sizes()


def _json(path: Path) -> Row | None:
    """The content of a JSON file; None when it is missing or damaged."""
    try:
        content: Row = read_json(path)
        return content
    except UserError:
        return None
