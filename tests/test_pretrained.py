"""The driver that comes with the package: small, loads without a run, drives."""

import gymnasium
import pytest

import worldmodels
from experiments.shipped import pack
from tests.helpers.runs import save_agent
from worldmodels import envs, pretrained
from worldmodels.agent import load
from worldmodels.envs import TAKECOVER, World
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, drive


@pytest.fixture(scope="module")
def driver():
    return worldmodels.load_pretrained("carracing")


@pytest.mark.parametrize(("name", "most"), [("carracing", 10_000_000), ("takecover", 14_000_000)])
def test_it_is_small_and_says_where_it_comes_from(name: str, most: int) -> None:
    folder = pretrained.folder(name)
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= most
    assert "held-out" in (folder / "README.md").read_text()


def test_a_run_without_a_part_replaces_no_driver(tmp_path) -> None:
    packed, run = save_agent(tmp_path / "packed", actions=3), save_agent(tmp_path / "run", actions=3, seed=2)
    before = {path: path.read_bytes() for path in packed.rglob("*.safetensors")}
    (run / "ctrl" / "best.safetensors").unlink()
    with pytest.raises(UserError, match="There is no trained C"):
        pack(run, packed)
    assert {path: path.read_bytes() for path in packed.rglob("*.safetensors")} == before


def test_it_drives_on_gymnasium_s_own_environment(driver) -> None:
    """Three hundred steps of one track: standing still would score −30 + 1 tile."""
    env = gymnasium.make("CarRacing-v3", max_episode_steps=300)
    frame, _ = env.reset(seed=2_000_100)
    driver.reset()
    score, over = 0.0, False
    while not over:
        frame, reward, terminated, truncated, _ = env.step(driver(frame))
        score, over = score + float(reward), terminated or truncated
    assert score > 100


def test_the_one_of_take_cover_outlives_who_stands_still() -> None:
    """Eight games of 160×120: those who stay score 149 ± 51 over 300."""
    pytest.importorskip("vizdoom")
    folder = pretrained.folder("takecover")
    world = World(TAKECOVER, {"resolution": "160x120"})
    agent, env = load(folder, envs.actions_in(world)), envs.make(world, 8, max_steps=300)
    try:
        scores, _ = drive(env, agent.actions, agent, [Episode(2_000_000 + game) for game in range(8)])
    finally:
        env.close()
    assert scores.mean() > 200


def test_packing_a_run_takes_its_starts_along(tmp_path) -> None:
    packed = tmp_path / "again"
    pack(pretrained.folder("carracing"), packed)
    for path in pretrained.folder("carracing").rglob("*.safetensors"):
        assert (packed / path.relative_to(pretrained.folder("carracing"))).read_bytes() == path.read_bytes()
