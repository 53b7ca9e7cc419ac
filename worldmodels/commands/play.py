"""Drive inside the dream of a run, in the browser.

    worldmodels play                            the run in exp_dir
    worldmodels play --pretrained carracing     the driver that comes with the package

Serves the page on this machine alone until it is stopped with Ctrl-C; everything that computes runs in the page.
`worldmodels export` writes the same page for any web host.
"""

import threading
import webbrowser
from pathlib import Path

from worldmodels import pretrained
from worldmodels.playground import server, site
from worldmodels.runs.settings import Play


def main(cfg: Play) -> None:
    """Build the page, serve it and open the browser; returns when it is interrupted."""
    files = site.build(*run_of(cfg.logdir, cfg.pretrained))
    serving = server.open_server(files, cfg.port)
    taken = serving.server_address[1] != cfg.port
    print(f"{f'Port {cfg.port} is taken. ' if taken else ''}Drive at {serving.url} (Ctrl-C ends it)", flush=True)
    if not cfg.no_browser:
        threading.Thread(target=webbrowser.open, args=(serving.url,), daemon=True).start()  # lynx stays until it ends
    try:
        serving.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        serving.server_close()


def run_of(logdir: str, name: str | None) -> tuple[Path, str]:
    """The run directory and what the page calls it: a driver of the package, or the user's own.

    Raises:
        UserError: the package has no driver of that name.
    """
    if name is not None:
        return pretrained.folder(name), name
    return Path(logdir), Path(logdir).resolve().name
