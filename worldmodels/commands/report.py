"""Write report.html: one page of curves, reconstructions, a dream, the scores and a drive.

    worldmodels report --logdir exp_dir

The page holds everything it shows (pictures and video as data URIs) and loads nothing: it can be mailed. A stage
that has not run yet is replaced by a sentence that names the command to run. Once V, M and C are there, playground.html
lies beside it, the page that drives inside the run's dream, and the report links to it.
"""

from contextlib import suppress
from pathlib import Path

from worldmodels.errors import UserError
from worldmodels.playground import site
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import write_atomically
from worldmodels.runs.settings import Report
from worldmodels.show.report import page


def main(cfg: Report) -> None:
    """Write <logdir>/report.html, and playground.html where there is a dream to drive in; print the report's path.

    Raises:
        UserError: there is no such run.
    """
    run = RunDir(Path(cfg.logdir))
    run.require()
    playable = False
    with suppress(UserError):  # without V, M, C or a frame to start from there is no dream yet
        site.write_page(site.build(run.path), run.playground)
        playable = True
    write_atomically(run.report, page(run.path, playable).encode(errors="replace"))
    print(f"Open {run.report}")
