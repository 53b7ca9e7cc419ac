"""A real browser for the playground's tests, tiny runs to show in it, and a server for both."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.episodes import save_rollout
from worldmodels import controller, envs
from worldmodels.memory import MDRNN
from worldmodels.playground import server, site
from worldmodels.pretrained import folder
from worldmodels.rollout import Rollout
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.vision import VAE

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
QUIET = (  # as root, and without a word to anybody
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
TOOLS = Path(__file__).parent / "node_modules"


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, one for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="There is no playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("There is no Chromium: apt-get install chromium, or name one in CHROMIUM.")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@contextmanager
def serving(files: site.Files) -> Iterator[str]:
    """The address at which `files` are served."""
    running = server.open_server(files, 8700)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield running.url
    finally:
        running.shutdown()
        running.server_close()


@pytest.fixture(scope="session")
def shipped() -> site.Files:
    """The page of the driver that comes with the package."""
    return site.build(folder("carracing"))


@pytest.fixture(scope="session")
def address(shipped) -> Iterator[str]:
    with serving(shipped) as url:
        yield url


@contextmanager
def opened(browser, url: str, script: str = "", **context):
    """A page whose dream stands still at its start; complains of whatever the console complains of.

    `script` runs before anything of the page does.
    """
    settings = {"reduced_motion": "reduce", "viewport": {"width": 1100, "height": 800}, **context}
    with browser.new_context(**settings) as window:
        page, complaints = window.new_page(), []
        page.add_init_script(script)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        page.wait_for_selector("html[data-ready]", timeout=20_000)
        yield page
        assert complaints == []


@pytest.fixture(scope="session")
def shared_window(browser, address):
    """One page of the shipped driver, still, for all tests that only need it new."""
    with opened(browser, f"{address}#seed=7&start=2&temperature=0.5") as page:
        yield page


@pytest.fixture
def page(shared_window):
    """The shipped page at the start of seed 7, paused, with nothing held."""
    shared_window.evaluate(
        """playground.mode(false);
        playground.pause(true);
        history.replaceState(null, "", "#seed=7&start=2&temperature=0.5");
        playground.open();
        document.activeElement.blur();"""
    )
    return shared_window


def make_run(
    path: Path, env: str, *, z: int = 6, hidden: int = 10, inputs: str = "zh", c_hidden: int = 0, steps: int = 40, **m
) -> Path:
    """A run directory with untrained V, M and C of any size, and three rollouts of noise."""
    torch.manual_seed(0)
    actions = site.CAR if env == envs.CARRACING else envs.actions_in(envs.World(env))
    vae, mdrnn = VAE(z), MDRNN(z, actions.size, hidden, **m)
    m_settings = {"z_size": z, "action_size": actions.size, "hidden_size": hidden, "gaussians": mdrnn.gaussians, **m}
    checkpoint.save(path / "vae" / "best.safetensors", checkpoint.pack("vae", vae.state_dict()), {"vae": {"z_size": z}})
    checkpoint.save(
        path / "mdrnn" / "best.safetensors", checkpoint.pack("mdrnn", mdrnn.state_dict()), {"mdrnn": m_settings}
    )
    shape = controller.Controller(z, hidden, actions.outputs, inputs, bias=True, hidden=c_hidden)
    parameters = 0.5 * torch.randn(shape.size).numpy()
    controller.save(RunDir(path), shape, parameters, {"env": env, "agent": {"sample_z": False, "seed": 0}})
    rng = np.random.default_rng(0)
    for index in range(3):
        vectors = actions.noise(rng, steps)
        noise = rng.integers(256, size=(steps + 1, 8, 8, 3), dtype=np.uint8)
        frames = noise.repeat(8, axis=1).repeat(8, axis=2)
        rollout = Rollout(frames, vectors, rng.standard_normal(steps).astype(np.float32), np.zeros(steps, bool))
        save_rollout(path / "rollouts" / f"rollout_{index:06d}.npz", rollout)
    return path
