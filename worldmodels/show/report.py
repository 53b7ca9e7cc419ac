"""The page of a run: what its files hold (found.py) → plain values → report.html.j2.

A section of the page is a function Found → Section in SECTIONS; the template prints whatever parts a section has.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from worldmodels import __version__
from worldmodels.show import dream_parts
from worldmodels.show.charts import Band, Line, bar_chart, line_chart
from worldmodels.show.found import Found, used
from worldmodels.show.parts import Section, charts, column, curves, facts, film, films, pace, selected, signed
from worldmodels.show.top import drive, first_frame, glance, score, sizes


def page(logdir: Path, playable: bool = False) -> str:
    """The page of the run in `logdir`, whatever stages it has; `playable`: its playground lies beside the page."""
    run = Found.read(logdir)
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


# ------------------------------------------------------------------------------------------------- sections


def vision(run: Found) -> Section:
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


def memory(run: Found) -> Section:
    """M: what it lost while learning, how good a world it is, and a dream."""
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
            dream_parts.foresight(run),
        ),
        listing=dream_parts.ranking(run),
        note=(
            "How to read it.",
            "Nats for each number of z, so that models of all sizes compare. A standard normal, which remembers "
            f"nothing, scores {math.log(2 * math.pi * math.e) / 2:.2f}. Most of z is noise that nobody can foresee: "
            "values near 1 are usual, and what M has learned shows in its dream below.",
        ),
        films=films(dream_parts.left_alone(run)),
    )


def controller(run: Found) -> Section:
    """C: how it was found, by evolution or in the dream, and the score that picks the best."""
    section = Section(
        "decides",
        "A linear layer turns z and h into the action. Evolution finds its weights: V and M stay as they are.",
        "c",
        missing=("C is not trained yet:", run.command("train-controller"), "evolves it."),
    )
    if not run.ctrl:
        return section
    found = dream_parts.learned_in_rounds if "resting" in run.ctrl[-1] else evolved
    return replace(found(run, section), missing=None, films=films(dream_parts.dreamed_and_driven(run)))


def evolved(run: Found, section: Section) -> Section:
    """The population's scores."""
    rows, last = run.ctrl, run.ctrl[-1]
    mean, spread = column(rows, "generation", "mean"), dict(column(rows, "generation", "std"))
    selection, best = selected(run)
    lines = [Line("best", column(rows, "generation", "best"), "c faint"), Line("mean ± spread", mean, "c"), selection]
    band = Band([(x, y - spread[x], y + spread[x]) for x, y in mean if x in spread], "c")
    sigma = [Line("sigma", column(rows, "generation", "sigma"), "c")]
    return replace(
        section,
        facts=facts(last, ("generation", "generations")) + best + facts(last, ("env_steps", "environment steps"))
        + dream_parts.steps(run) + pace(last, "steps_per_second", "steps/s"),
        charts=charts(
            line_chart("Scores of the population", "generation", lines, band),
            dream_parts.gate(run),
            line_chart("Step size of the search", "generation", sigma),
        ),
        remark=f"Selection: every few generations the mean of the search distribution drives {run.episode}s of its "
        "own; its highest score there is the driver that is kept.",
    )  # fmt: skip


def evaluation(run: Found) -> Section | None:
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


def settings(run: Found) -> Section | None:
    """What the run used, and with which versions."""
    groups = used(run)
    if run.evaluation:
        commit = run.evaluation.get("commit")
        groups["versions of the evaluation"] = run.evaluation["versions"] | ({"commit": commit} if commit else {})
        if groups.get("versions") == groups["versions of the evaluation"]:
            del groups["versions of the evaluation"]
    return Section("Settings and versions", groups=groups) if groups else None


SECTIONS: tuple[Callable[[Found], Section | None], ...] = (vision, memory, controller, evaluation, settings)
