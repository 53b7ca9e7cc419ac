"""The page of a run: report.html.j2 says what stands where, of what its files hold (found.py), in `parts`."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from worldmodels import __version__
from worldmodels.envs.seeds import HELD_OUT
from worldmodels.show import parts, top
from worldmodels.show.found import Found, used


def page(logdir: Path, playable: bool = False) -> str:
    """The page of the run in `logdir`, whatever stages it has; `playable`: its playground lies beside the page."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    run = Found(logdir)
    return templates.get_template("report.html.j2").render(
        run=run, playable=playable, used=used(run), held_out_from=HELD_OUT, version=__version__, top=top, parts=parts
    )
