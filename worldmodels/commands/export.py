"""Write what a run has learned for use elsewhere: the page that drives in its dream, or its networks for other tools.

    worldmodels export --to site                            a folder for any static web host
    worldmodels export --to dream.html                      one file that runs from a disk, offline
    worldmodels export --format onnx --to networks          encoder, decoder, M's step and C (needs the extra `export`)

`--pretrained carracing` takes the driver that comes with the package instead of the run in exp_dir.
"""

from pathlib import Path

from worldmodels.commands.play import run_of
from worldmodels.playground import site
from worldmodels.runs.settings import Export


def main(cfg: Export) -> None:
    """Write the page or the networks and say where they are."""
    run, to = run_of(cfg), Path(cfg.to)
    if cfg.format == "onnx":
        from worldmodels.playground import graphs  # needs the extra

        written = graphs.write(site.load(run), to)
        print(f"Wrote {', '.join(written)} to {to}.")
    elif to.suffix.lower() in (".html", ".htm"):
        site.check_page(to)
        site.write_page(site.build(run), to)
        print(f"Open {to} in a browser.")
    else:
        site.check_folder(to)
        site.write_folder(site.build(run), to)
        print(f"Wrote the page to {to}: any static web host shows it, docs/playground.md says how.")
