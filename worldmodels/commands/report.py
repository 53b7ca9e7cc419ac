"""Write report.html: one page of curves, reconstructions, a dream, the scores and a drive.

    worldmodels report --logdir exp_dir

The page holds everything it shows (pictures and video as data URIs) and loads nothing: it can be mailed. A stage
that has not run yet is replaced by a sentence that names the command to run.
"""

import shlex
from pathlib import Path

from worldmodels.errors import UserError
from worldmodels.runs.files import write_atomically
from worldmodels.runs.settings import Report
from worldmodels.show.report import page


def main(cfg: Report) -> None:
    """Write <logdir>/report.html and print its path.

    Raises:
        UserError: there is no such run.
    """
    logdir = Path(cfg.logdir)
    if not logdir.is_dir():
        raise UserError(f"{logdir} does not exist: `worldmodels run --logdir {shlex.quote(str(logdir))}` makes it.")
    path = logdir / "report.html"
    write_atomically(path, page(logdir).encode(errors="replace"))
    print(f"Open {path}")
