"""What a run's page says of dreams: how good a world M is, and a C that learned or was tried in it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from worldmodels.runs.metrics import is_number
from worldmodels.show.charts import Line, line_chart
from worldmodels.show.found import FRAME, Found
from worldmodels.show.parts import Fact, Film, Section, charts, column, facts, film, pace, selected, signed
from worldmodels.show.pictures import DREAM_STRIDE, DREAM_WARM_UP
from worldmodels.training.quality import trusted

# ------------------------------------------------------------------------------------------------ M as a world


def measured(run: Found, name: str) -> dict[str, Any]:
    """A part of quality.json; empty where it was not measured."""
    found = run.quality.get(name)
    return found if isinstance(found, dict) else {}


def foresight(run: Found) -> str:
    """How far ahead M foresees rewards, on its own z."""
    r2 = measured(run, "open_loop").get("r2")
    if not isinstance(r2, list) or not r2 or not all(map(is_number, r2)):
        return ""
    points = [(20.0 * (i + 1), float(value)) for i, value in enumerate(r2)]
    return line_chart("Share of 20 steps' reward that M foresees", "steps ahead", [Line("R²", points, "m")])


def ranking(run: Found) -> tuple[str, Sequence[str], Sequence[Sequence[str]]] | None:
    """What fixed policies earn in the world and in M's dream."""
    found = measured(run, "ranking")
    policies = found.get("policies")
    if not isinstance(policies, dict) or not all(is_number(found.get(name)) for name in ("rank", "slope")):
        return None
    pairs = [(name, pair) for name, pair in policies.items() if isinstance(pair, list) and len(pair) == 2]
    rows = [(name, *map(signed, pair)) for name, pair in pairs if all(map(is_number, pair))]
    wrong = "" if trusted(found) else ": not the world's order, C may learn the wrong thing"
    agree = f"rank correlation {found['rank']:.2f}, slope {found['slope']:.2f}"
    return f"Fixed policies, {agree}{wrong}", ("policy", "real", "dreamed"), rows


def left_alone(run: Found) -> Film | None:
    """M's dream beside the real sequence, the moment marked when it is left alone."""
    caption = (
        f"Every {DREAM_STRIDE}th step of a test episode. M watches the first {DREAM_WARM_UP} steps; from the dashed "
        "line on it is left alone with its own dream and the real actions."
    )
    picture = run.picture("mdrnn", "dream")
    shown = film(picture, ["real", "V's", "M's dream"], caption)
    watched, columns = math.ceil(DREAM_WARM_UP / DREAM_STRIDE), picture.width // FRAME if picture else 0
    if shown is None or watched >= columns:
        return shown
    return replace(shown, wake=f"left:calc({watched / columns:.2%} - 2px);height:{1 / len(shown.rows):.2%}")


# ------------------------------------------------------------------------------------------------ C in the dream


def both(run: Found, dreamed: str, real: str) -> list[Line]:
    """A figure as it was dreamed, and as it was paid."""
    return [Line(name, column(run.ctrl, "generation", name), css) for name, css in ((dreamed, "m"), (real, "ink"))]


def gate(run: Found) -> str:
    """The evolution's mean driver in the dream and in the world."""
    lines = both(run, "dreamed", "real")
    return line_chart("The mean driver, dreamed and real", "generation", lines) if lines[0].points else ""


def steps(run: Found) -> list[Fact]:
    """How long an evolution has dreamed."""
    return [
        (f"{row['dream_steps']:,}", "steps in the dream") for row in run.ctrl if row.get("dream_steps") is not None
    ][-1:]


def learned_in_rounds(run: Found, section: Section) -> Section:
    """A C that learned in the dream (`train-in-dream`): what the dream promised beside what was paid."""
    rows, last = run.ctrl, run.ctrl[-1]
    selection, best = selected(run)
    laps = [Line("mean", column(rows, "generation", "mean"), "c"), selection]
    return replace(
        section,
        intro="A linear layer turns z and h into the action. It climbs the reward of short dreams and learns from "
        "nothing else: what the world pays teaches M.",
        facts=facts(last, ("generation", "rounds")) + best
        + facts(last, ("env_steps", "environment steps"), ("dream_steps", "steps in the dream"))
        + pace(last, "steps_per_second", "steps/s"),
        charts=charts(
            line_chart(f"Whole {run.episode}s of C and candidates close to it", "round", laps),
            line_chart("Reward of a dream, and of the same steps in the world", "round", both(run, "dreamed", "real")),
            line_chart("The same with what comes after", "round", both(run, "promised", "paid")),
        ),
        remark=f"Selection: every few rounds the average of C over the last of them drives {run.episode}s of its own; "
        "its highest score there is the driver that is kept.",
    )  # fmt: skip


def dreamed_and_driven(run: Found) -> Film | None:
    """A dream of C beside what it then drives."""
    caption = "What C dreams, and what it then drives, from the start of an episode (ctrl/dream.mp4 is the film)."
    return film(run.picture("ctrl", "dream"), ["dreamed", "real"], caption)
