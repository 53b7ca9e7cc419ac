"""The page as files: the page's own (`static/`), and the weights, starts and drive of one run.

    playground.json        what the page must know before anything else
    model.safetensors      decoder, M, C and the starts: all that the first picture needs
    encoder.safetensors    V's other half and the drive's actions: drawing, and real beside dream
    starts.webp drive.webp real frames, side by side

As a folder it goes on any static host. As one HTML file everything lies inside as text, and it runs from a disk.
"""

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

from worldmodels import __version__, agent, envs
from worldmodels.agent import Agent
from worldmodels.envs.actions import Car, car_space
from worldmodels.errors import UserError
from worldmodels.playground import starts, weights
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import write_atomically

STATIC = Path(__file__).parent / "static"
MANIFEST = "playground.json"
SERVED = (".html", ".css", ".js", ".wasm", ".svg")  # of `static/`; the kernel's source stays at home
CAR = Car(car_space())
"""Actions of CarRacing without its simulator, which takes half a minute to compile the first time."""
Files = dict[str, bytes]


def build(run: Path) -> Files:
    """All files of the page that drives in the dream of a run, which it calls by its folder's name.

    Raises:
        UserError: V, M or C is missing or damaged, or there is no rollout to start from.
    """
    driver = load(run)
    vae, real = driver.encoder.vae, starts.recordings(run, driver.env_id, driver.actions.size)
    chosen, mean, std = starts.choose(driver, real.short)
    files = static()
    files["model.safetensors"] = weights.pack(
        weights.decoder(vae) | weights.memory(driver.memory) | weights.controller(driver)
        | {f"start.{name}": torch.stack([getattr(start, name) for start in chosen]) for name in ("z", "h", "c")}
        | {"latent.mean": mean, "latent.std": std}
    )  # fmt: skip
    files["encoder.safetensors"] = weights.pack(
        weights.encoder(vae) | {"drive.actions": torch.from_numpy(real.drive.actions)}
    )
    files["starts.webp"] = starts.sprite(np.stack([start.frame for start in chosen]), quality=90)
    files["drive.webp"] = real.picture
    manifest = {
        "version": __version__,
        "name": run.resolve().name,
        "env": driver.env_id.rpartition(":")[2],
        **weights.sizes(driver),
        "starts": len(chosen),
        "drive": len(real.drive.frames),
        "columns": starts.COLUMNS,
        "files": {
            path: {"bytes": len(content), "adler32": zlib.adler32(content)}
            for path, content in files.items()
            if path.endswith((".safetensors", ".webp"))
        },
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def load(run: Path) -> Agent:
    """The driver of a run.

    Raises:
        UserError: V, M or C is missing, damaged or does not fit.
    """
    RunDir(run).require()
    driver = RunDir(run).ctrl / "best.safetensors"
    env_id = checkpoint.load(driver)[1].get("env", "") if driver.exists() else ""
    return agent.load(run, CAR if envs.describe(env_id).action == "car" else None)


def static() -> Files:
    """The page's own files."""
    return {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.suffix in SERVED}


# -------------------------------------------------------------------------------------------------- writing


def check_folder(folder: Path, signed: str = MANIFEST) -> None:
    """UserError unless the folder is new, empty, or holds what we wrote: the file `signed`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --to, nothing was changed.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / signed).exists():
        raise UserError(f"{folder} holds other files: choose a new folder for --to, nothing was changed.")


def write_folder(files: Files, folder: Path) -> None:
    """Write the page into a folder that `check_folder` allows; what else lies beside a page there stays."""
    for name, content in files.items():
        write_atomically(folder / name, content)


MARK = b'<meta name="generator" content="worldmodels playground">'


def check_page(path: Path) -> None:
    """UserError unless the file is new, or a page already."""
    if path.exists() and not (path.is_file() and MARK in path.read_bytes()[:1000]):
        raise UserError(f"{path} is something else than a playground: choose another --to, nothing was changed.")


def write_page(files: Files, path: Path) -> None:
    """Write the page as one HTML file, where `check_page` allows it."""
    check_page(path)
    write_atomically(path, one_page(files).encode())


def one_page(files: Files) -> str:
    """The whole page in one HTML file that loads nothing: modules as data URLs, weights as base64 text."""
    page = files["index.html"].decode()
    scripts = [name for name in files if name.endswith(".js")]
    text = {name: base64.b64encode(content).decode() for name, content in files.items()}
    modules = {f"playground/{name}": f"data:text/javascript;base64,{text[name]}" for name in scripts}
    assets = "".join(
        f'<script type="text/plain" data-file="{name}">{text[name]}</script>\n'
        for name in files
        if not name.endswith((".html", ".css", ".js"))
    )
    style = f"<style>\n{files['style.css'].decode()}</style>"
    page = replace_once(page, r'<link rel="stylesheet" href="style.css">', style)
    page = re.sub(r'<link rel="(?:module)?preload"[^\n]*\n', "", page)
    imports = f'<script type="importmap">{json.dumps({"imports": modules})}</script>'
    page = replace_once(page, r'<script type="importmap">.*?</script>', imports)
    return replace_once(page, r"(?=</body>)", assets)


def replace_once(text: str, pattern: str, new: str) -> str:
    """`text` with the one match of `pattern` replaced."""
    changed, count = re.subn(pattern, lambda _: new, text, flags=re.DOTALL)
    assert count == 1, f"{pattern} occurs {count} times"
    return changed
