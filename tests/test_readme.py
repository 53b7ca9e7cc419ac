"""The documents do what they say: each block runs, each command is understood, what is named is there."""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium
import pytest

from tests.helpers.documents import DOCUMENTS, ROOT, blocks, commands, lines, without_ray
from worldmodels import cli, envs
from worldmodels.cli import parse
from worldmodels.envs import seeds

README = ROOT / "README.md"
PLACEHOLDERS = {"ID": "CarRacing-v3", "N": "0", "NAME": "laptop", "RUN": "exp_dir", "OUTPUT": "exp_output"}
SCRIPTS = {
    "data/generation_script.py": "collect", "trainvae.py": "train-vae", "trainmdrnn.py": "train-mdrnn",
    "traincontroller.py": "train-controller", "test_controller.py": "evaluate",
}  # fmt: skip
names = functools.partial(pytest.mark.parametrize, "path", ids=lambda path: str(path.relative_to(ROOT)))


# ---------------------------------------------------------------------------------------------- what is named


@names(DOCUMENTS)
def test_every_command_is_understood(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    for words in commands(path):
        assert_understood(tuple(PLACEHOLDERS.get(word, word) for word in words))


@functools.cache
def assert_understood(words: tuple[str, ...]) -> None:
    """Fail unless the program, its command and each of its flags exist."""
    match words[1:] if "=" in words[0] else words:
        case ["worldmodels" | ".venv/bin/worldmodels", command, *flags]:
            if command not in (*cli.COMMANDS, "COMMAND", "help", "--version"):
                pytest.fail(f"no command: {words}")
            if command in cli.COMMANDS and "--help" not in flags:
                parse(command, list(flags))
        case ["python", script, *flags] if script in SCRIPTS:
            assert (ROOT / script).exists()
            parse(SCRIPTS[script], list(flags))
        case ["python", script, *_] if script.startswith("examples/"):
            assert (ROOT / script).exists()
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), words
        case ["make", *rest]:
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert all(word in targets for word in rest if "=" not in word), words
        case ["pip", "install", "-r", file]:
            for option, what in (line.split() for line in (ROOT / file).read_text().splitlines()):
                assert (ROOT / what.partition("[")[0]).exists() and option in ("-c", "-e")
                assert set(extras(what)) <= set(project()["optional-dependencies"])
        case ["pip", "install", *what]:
            assert what[-1] == "." or what[-1].startswith((".[", "worldmodels-pytorch")), words
            assert set(extras(what[-1])) <= set(project()["optional-dependencies"]), words
        case ["source", where]:
            assert where == ".venv/bin/activate"
        case ["torchrun", "--nproc-per-node", _, "-m", "worldmodels", *rest]:
            assert_understood(("worldmodels", *rest))
        case ["ray", *_] | ["git" | "cd" | "mv" | "rmdir" | "touch" | "hf" | "/usr/bin/time", *_]:
            pass  # other people's programs
        case _:
            pytest.fail(f"nobody knows how to try {words}")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def extras(requirement: str) -> list[str]:
    found = re.search(r"\[(.*)\]", requirement)
    return found[1].split(",") if found else []


@names(DOCUMENTS)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Links to files and, inside a document, to headings."""
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, heading = target.partition("#")
            found = path.parent / file if file else path
            assert found.exists(), f"{path.name}: {target}"
            headings = re.findall(r"^#+ (.*)", found.read_text(encoding="utf-8"), re.M) if heading else []
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]
            assert not heading or heading in slugs, f"{path.name}: {target}"


def test_the_tree_is_the_package() -> None:
    """All that lies in worldmodels/ is named, and what is named is there."""
    (tree,) = (block for block in blocks(README, "") if block.startswith("worldmodels/"))
    named = [line.split("   ")[0] if line.lstrip() == line else line[:38] for line in tree.splitlines()]
    inside, outside = (
        {word for line in named if line.startswith("  ") == inner for word in re.findall(r"[a-z_]+(?:/|\.py)", line)}
        for inner in (True, False)
    )
    package = ROOT / "worldmodels"
    lying = {path.name + "/" * path.is_dir() for path in package.iterdir()} - {"__pycache__/", "py.typed"}
    assert inside == {name for name in lying if not name.startswith("__")}
    assert {"worldmodels/", "tests/", "docs/"} < outside and all((ROOT / name).is_dir() for name in outside)


def test_the_doors_are_where_the_readme_says() -> None:
    text = " ".join(README.read_text().split())
    for name, file in re.findall(r"`([\w.]+)` in (?:the )?`([\w/]+\.py)`", text):
        source = (ROOT / "worldmodels" / file).read_text()
        for part in name.split("."):
            assert re.search(rf"^ *(def|class) {part}\b", source, re.M), f"{name} in {file}"


def test_contributing_has_the_seeds_table_and_its_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = [line for line in (seeds.__doc__ or "").splitlines() if line.startswith("|")]
    assert len(table) == 6 and "\n".join(table) in text
    monkeypatch.setattr(envs, "DESCRIPTIONS", {})
    (example,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    exec(example, {})
    assert envs.DESCRIPTIONS["Corridor-v0"].time_limit == 500


def test_what_a_user_can_install_is_listed() -> None:
    """Every extra but the developers' has a row."""
    listed = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", README.read_text(), re.M))))
    assert set(project()["optional-dependencies"]) - {"dev"} <= listed


# ------------------------------------------------------------------------------------------------ what it does


def test_the_python_blocks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, as somebody who copies them does, in episodes of five steps and without a window."""
    monkeypatch.setattr(gymnasium, "make", functools.partial(gymnasium.make, max_episode_steps=5))
    first, dreaming, driving = blocks(README, "python")
    here: dict = {}
    exec(first, here)
    assert here["frames"].shape == (64, 64, 64, 3)
    exec(dreaming, here)
    assert here["frame"].shape == (64, 64, 3) and here["frame"].dtype == here["frames"].dtype
    assert len([line for line in driving.splitlines() if line.strip()]) <= 8
    exec(driving.replace('render_mode="human"', 'render_mode="rgb_array"'), here)
    assert here["truncated"] and not here["terminated"]


SMALL = {  # what makes a command of a block small: added to it, or put in place of `laptop`
    "collect": "--rollouts 3 --max-steps 40",
    "train-vae": "--epochs 1 --batch-size 16",
    "train-mdrnn": "--epochs 1 --batch-size 16",
    "train-controller": "--epochs 1 --max-steps 20 --select-tracks 1",
    "evaluate": "--episodes 1 --max-steps 20",
}


@pytest.fixture
def shell(tmp_path: Path) -> functools.partial:
    """Runs a command as a reader's shell does who has activated .venv; no display."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, arguments in (("worldmodels", "-m worldmodels"), ("python", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (bin_folder / name).chmod(0o755)
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in displays}
    environment |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return functools.partial(run_words, environment)


def run_words(environment: dict[str, str], cwd: Path, words: list[str]) -> str:
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def small(words: list[str]) -> list[str]:
    """The same command in seconds: preset smoke where it names one, else with SMALL's flags."""
    if "laptop" in words:
        return ["smoke" if word == "laptop" else word for word in words]
    command = SCRIPTS.get(words[1], words[1])
    return words + SMALL.get(command, "").split()


@pytest.mark.slow
def test_the_shell_blocks_run_in_order(tmp_path: Path, shell: functools.partial) -> None:
    """From an empty folder. The pipeline command by command leaves what `make run` leaves, to the last bit."""
    install, make, pipeline, afterwards, port = blocks(README, "sh")
    here, apart, checkout = tmp_path / "here", tmp_path / "apart", tmp_path / "checkout"
    for folder in (here, apart, checkout):
        folder.mkdir()

    pip, play, evaluate = lines(install)
    assert pip == ["pip", "install", "worldmodels-pytorch"]
    assert play[1] == "play", "serves until it is stopped: tests/playground runs it"
    shell(here, small(evaluate))

    run, test = lines(make)
    assert (run, test) == (["make", "run"], ["make", "test"])
    installed = ["-f", str(ROOT / "Makefile"), "-o", ".venv/installed", f"BIN={tmp_path / 'bin'}"]
    said = shell(here, ["make", *installed, "PRESET=smoke", *run[1:]])
    assert "exp_dir/report.html" in said and (here / "exp_dir" / "report.html").exists()

    for words in lines(pipeline):
        shell(apart, small(words))
    for stage in ("vae", "mdrnn", "ctrl"):
        alone, together = (folder / "exp_dir" / stage / "best.safetensors" for folder in (apart, here))
        assert alone.read_bytes() == together.read_bytes(), stage
    scores = [json.loads((folder / "exp_dir" / "evaluation.json").read_text())["scores"] for folder in (apart, here)]
    assert scores[0] == scores[1]

    for words in lines(afterwards):
        shell(here, small(words))
    assert (here / "exp_dir" / "evaluation.mp4").exists() and list((here / "datasets" / "driven").glob("*.npz"))

    for script in SCRIPTS:
        (checkout / script).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / script, checkout / script)
    for words in lines(port):
        shell(checkout, small(words))
    assert list((checkout / "exp_dir").glob("evaluation.mp4")), "--render without a display writes an mp4"
