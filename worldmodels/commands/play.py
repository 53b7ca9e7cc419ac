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
from worldmodels.runs.settings import OfRun, Play


def main(cfg: Play) -> None:
    """Build the page, serve it and open the browser; returns when it is interrupted."""
    serving = server.open_server(site.build(run_of(cfg)), cfg.port)
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


def run_of(cfg: OfRun) -> Path:
    """The run directory of the user's own driver, or of one of the package; UserError where that has no such driver."""
    return Path(cfg.logdir) if cfg.pretrained is None else pretrained.folder(cfg.pretrained)
