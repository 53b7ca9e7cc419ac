"""Environments that others wrote: limits, packages that are missing, odd actions."""

import sys

import gymnasium
import numpy as np
import pytest

from tests.helpers.toy import Toy
from worldmodels import envs
from worldmodels.envs import World, actions_of
from worldmodels.envs.world import limit_of, make_one
from worldmodels.errors import UserError

Box = gymnasium.spaces.Box


@pytest.mark.parametrize(("registered", "asked", "limit"), [(-1, 7, 7), (9, 7, 7), (9, None, 9), (None, None, None)])
def test_minus_one_is_no_limit(registered: int | None, asked: int | None, limit: int | None) -> None:
    env_id = f"worldmodels-tests/Limit{registered}-v0".replace("-1", "Minus")
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, Toy, max_episode_steps=registered)
    assert limit_of(envs.describe(env_id), asked) == limit
    lanes = envs.make(World(env_id), 1, max_steps=asked)
    assert lanes.envs[0].endless == (limit is None)


def test_a_module_of_the_working_directory_is_found(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m` finds it: the path of our own script does not begin there."""
    lines = (
        "import gymnasium", "from tests.helpers.toy import Toy",
        "gymnasium.register('worldmodels-tests/Mine-v0', Toy)",
    )  # fmt: skip
    (tmp_path / "worldmodels_tests_mine.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".", str(tmp_path))])
    assert envs.find("worldmodels_tests_mine:worldmodels-tests/Mine-v0").env_id == "worldmodels-tests/Mine-v0"


def test_minus_one_is_no_limit_of_the_simulator_either() -> None:
    batch = gymnasium.make_vec("worldmodels/CarRacing-v3", num_envs=1, max_episode_steps=-1)
    batch.reset(seed=1)
    assert not any(batch.step(np.zeros((1, 3), np.float32))[3][0] for _ in range(2))


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if they were not installed."""
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("packages", [("Box2D",), ("pygame",), ("Box2D", "pygame")])
def test_without_box2d_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...]) -> None:
    without(monkeypatch, *packages)
    with pytest.raises(UserError, match=r"is not installed: pip install 'worldmodels-pytorch\[box2d\]'") as said:
        make_one(World("CarRacing-v3"), render_mode="rgb_array").reset()
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("mode", ["rgb_array", "human"])
def test_without_pygame_the_simulator_drives_and_a_picture_names_the_extra(monkeypatch, mode: str) -> None:
    without(monkeypatch, "pygame")
    env = gymnasium.make("worldmodels/CarRacing-v3", render_mode="rgb_array").unwrapped
    env.reset(seed=1)
    env.render_mode = mode
    with pytest.raises(UserError, match=r"pip install 'worldmodels-pytorch\[box2d\]'"):
        env.render()


@pytest.mark.parametrize(
    "space",
    [
        Box(-128, 127, (2,), np.int8),
        Box(0, 4, (1,), np.int64),
        Box(0, 255, (2, 2), np.uint8),
        Box(0.0, 0.1, (2,), np.float64),
        Box(-0.3, 0.7, (3,), np.float32),
        Box(np.array([-1.0, 5.0]), np.array([1.0, 5.0]), dtype=np.float32),
        Box(-1.0, 1.0, (), np.float32),
        gymnasium.spaces.Discrete(1),
        gymnasium.spaces.Discrete(3, start=-7),
    ],
)
def test_every_output_of_c_is_an_action_of_the_space(space: gymnasium.Space) -> None:
    actions, rng = actions_of("Odd-v0", space), np.random.default_rng(0)
    raw = np.concatenate([rng.normal(size=(500, actions.outputs)) * 3, np.full((2, actions.outputs), 50.0)])
    raw[-1] *= -1
    taken = actions.to_env(actions.squash(raw.astype(np.float32)))
    assert all(np.asarray(action, space.dtype) in space for action in taken)
    assert all(np.asarray(action, space.dtype) in space for action in actions.to_env(actions.noise(rng, 500)))
    if isinstance(space, Box):
        middle = actions.to_env(actions.squash(np.zeros((1, actions.outputs), np.float32)))[0]
        half = (space.low.astype(np.float64) + space.high) / 2
        assert (np.abs(middle - half) <= (0.5 if actions.whole else 1e-6)).all()
        assert (taken.min(axis=0) == space.low).all() and (taken.max(axis=0) == space.high).all()


@pytest.mark.parametrize("space", [Box(-3.4e38, 3.4e38, (1,)), Box(-np.inf, 1, (1,)), Box(0, 1, (0,))])
def test_a_range_without_a_width_is_no_range(space: Box) -> None:
    with pytest.raises(UserError, match="only Discrete and bounded Box"):
        actions_of("Odd-v0", space)


def test_what_cannot_be_learned_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images without a pixel, and bounds that are no numbers."""
    monkeypatch.setitem(gymnasium.registry, "Odd-v0", gymnasium.envs.registration.EnvSpec("Odd-v0", Toy))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="V needs images"):
        patch.setattr(Toy, "observation_space", Box(0, 255, (0, 16, 3), np.uint8))
        make_one(World("Odd-v0"))
    nowhere = Box(-1, 1, (2,))
    nowhere.low[0] = np.nan
    monkeypatch.setattr(Toy, "action_space", nowhere)
    with pytest.raises(UserError, match="only Discrete and bounded Box"):
        envs.make(World("Odd-v0"), 1)


def test_many_choices_take_no_square_of_memory() -> None:
    actions = actions_of("Odd-v0", gymnasium.spaces.Discrete(10**6, start=-5))
    vectors = actions.noise(np.random.default_rng(0), 2)
    assert vectors.shape == (2, 10**6) and vectors.dtype == np.float32 and vectors.sum(axis=1).tolist() == [1, 1]
    assert (actions.squash(vectors) == vectors).all() and (actions.to_env(vectors) == vectors.argmax(axis=1) - 5).all()
