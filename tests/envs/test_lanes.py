"""Lanes against each of their environments alone."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode

from tests.helpers.toy import Toy
from worldmodels.envs import lanes
from worldmodels.envs.frames import Crop, as_frames
from worldmodels.envs.lanes import Lanes, Seen
from worldmodels.errors import UserError

CROP = (4, 36, 0, 48)
SEEDS = [7, 3, 11]


class Told(Toy):
    """Begins where the options say, and remembers what it was told."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.told: dict[str, Any] | None = options
        self.at = (options or {}).get("at", self.at)
        return self.render(), {}


def side_by_side(make: Callable[[], gymnasium.Env], count: int, crop: Crop | None = None) -> Lanes:
    return Lanes([lambda: Seen(make(), crop)] * count)


def make() -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(Told(), 20)


def assert_lane(batch: np.ndarray, lane: int, image: np.ndarray) -> None:
    np.testing.assert_array_equal(batch[lane], as_frames(image[None], CROP)[0])


def test_each_lane_is_its_environment_alone_and_rests_at_its_end() -> None:
    """Lane 0 is over after 12 steps at the edge, lane 1 and 2 are cut after 20; all are stepped on to 25."""
    together, alone = side_by_side(make, 3, CROP), [make() for _ in SEEDS]
    frames, info = together.reset(seed=SEEDS)
    images = [env.reset(seed=seed)[0] for env, seed in zip(alone, SEEDS, strict=True)]
    assert info == {} and frames.dtype == np.uint8 and frames.shape == (3, 64, 64, 3)
    over = [(False, False)] * 3
    for step in range(25):
        actions = np.array([2, 0, (step % 3 == 0) * 2])
        frames, rewards, terminated, truncated, _ = together.step(actions)
        for lane, env in enumerate(alone):
            reward = 0.0
            if not any(over[lane]):
                images[lane], reward, *ending, _ = env.step(actions[lane])
                over[lane] = tuple(ending)
            assert_lane(frames, lane, images[lane])
            assert (rewards[lane], terminated[lane], truncated[lane]) == (reward, *over[lane])
    assert over == [(True, False), (False, True), (False, True)]


def test_a_reset_reaches_the_lanes_of_its_mask_with_all_other_options() -> None:
    together = side_by_side(make, 3, CROP)
    before, _ = together.reset(seed=5)
    kept = before.copy()
    alone = make()
    assert_lane(before, 2, alone.reset(seed=7)[0])  # one number: 5, 6, 7
    for _ in range(20):
        before, *_, truncated, _ = together.step(np.array([0, 2, 0]))
    assert truncated[0] and truncated[2]
    after, _ = together.reset(options={"reset_mask": np.array([True, False, False]), "at": 20})
    assert together.envs[0].unwrapped.told == {"at": 20} and together.envs[1].unwrapped.told is None
    np.testing.assert_array_equal(after[1:], before[1:])
    assert not np.array_equal(after[0], kept[0])
    moved, rewards, terminated, truncated, _ = together.step(np.array([0, 0, 0]))
    assert (terminated | truncated).tolist() == [False, True, True] and rewards.tolist() == [0, 0, 0]
    assert not np.array_equal(moved[0], after[0])
    np.testing.assert_array_equal(moved[1:], after[1:])


def test_what_is_handed_out_does_not_change_afterwards() -> None:
    together = side_by_side(make, 2)
    frames, _ = together.reset(seed=1)
    first = frames.copy()
    _, _, terminated, truncated, _ = together.step(np.array([2, 0]))
    for _ in range(20):
        together.step(np.array([2, 0]))
    np.testing.assert_array_equal(frames, first)
    assert not (terminated | truncated).any()


def test_spaces_are_those_of_a_vector_of_frames() -> None:
    together = side_by_side(make, 4)
    assert together.metadata["autoreset_mode"] == AutoresetMode.DISABLED and together.metadata["render_fps"] == 30
    assert together.observation_space.shape == (4, 64, 64, 3) and together.observation_space.dtype == np.uint8
    assert together.observation_space.contains(together.reset(seed=0)[0])
    assert together.action_space == gymnasium.spaces.MultiDiscrete([3] * 4)
    assert together.single_action_space == gymnasium.spaces.Discrete(3)


def endless() -> gymnasium.Env:
    """Registered without a time limit."""
    return gymnasium.make("worldmodels-tests/Endless-v0")


gymnasium.register("worldmodels-tests/Endless-v0", Told)


def test_without_a_time_limit_an_episode_ends_in_a_sentence_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane that has rested since its end is not taken for one that never ends; a reset starts the count anew."""
    assert lanes.ENDLESS == 10_000
    monkeypatch.setattr(lanes, "ENDLESS", 30)
    together = side_by_side(endless, 2)
    together.reset(seed=0)
    for _ in range(29):
        *_, terminated, _, _ = together.step(np.array([2, 0]))
    assert terminated.tolist() == [True, False]
    together.reset(options={"reset_mask": np.array([False, True])})
    for _ in range(29):
        together.step(np.array([2, 0]))
    with pytest.raises(UserError, match=r"Endless-v0 has not ended after 30 steps, .* --max-steps"):
        together.step(np.array([2, 0]))

    limited = side_by_side(lambda: gymnasium.make("worldmodels-tests/Endless-v0", max_episode_steps=40), 1)
    limited.reset(seed=0)
    for _ in range(40):
        *_, truncated, _ = limited.step(np.array([0]))
    assert truncated.all()


@pytest.mark.parametrize("image", [np.zeros((40, 47, 3), np.uint8), np.zeros((40, 48, 3), np.float32)])
def test_an_image_that_was_not_promised_is_named(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Told, "render", lambda self: image)
    with pytest.raises(UserError, match=r"Told returned an observation .* where its observation_space says uint8"):
        side_by_side(Told, 1).reset(seed=0)


def test_of_an_info_the_lap_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lane whose episode it ended."""
    step = Told.step
    monkeypatch.setattr(Told, "step", lambda self, action: (*step(self, action)[:4], {"other": 1} | self.told_at_edge))
    monkeypatch.setattr(
        Told, "told_at_edge", property(lambda self: {"lap_finished": True} if self.at == 40 else {}), raising=False
    )
    together = side_by_side(make, 3)
    together.reset(seed=[7, 3, 11], options={"at": 36})
    *_, infos = together.step(np.array([0, 2, 1]))
    assert set(infos) == {"lap_finished", "_lap_finished"}
    assert infos["_lap_finished"].tolist() == [False, True, False] and infos["lap_finished"][1]


def test_closing_closes_every_environment() -> None:
    together, closed = side_by_side(Told, 3), []
    for env in together.envs:
        env.close = lambda env=env: closed.append(env)  # type: ignore[method-assign]
    together.close()
    assert closed == together.envs
    for late in (together.reset, lambda: together.step(np.array([0, 0, 0]))):
        with pytest.raises(ClosedEnvironmentError):
            late()


@pytest.mark.parametrize("reward", [None, [1.0], np.zeros(2), "much", 10**400])
def test_a_reward_that_is_no_number_is_named(reward, monkeypatch: pytest.MonkeyPatch) -> None:
    together = side_by_side(make, 1)
    together.reset(seed=0)
    monkeypatch.setattr(together.envs[0].unwrapped, "step", lambda action: (Told().render(), reward, False, False, {}))
    with pytest.raises(UserError, match="paid .*: a reward must be a number"):
        together.step(np.array([0]))


class Faulty(Toy):
    """Breaks a promise of Gymnasium's at its third step."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault, self.steps = fault, 0

    def reset(self, **options):
        if self.fault == "reset":
            return None
        return super().reset(**options)

    def step(self, action):
        self.steps += 1
        found = super().step(action)
        if self.steps < 3:
            return found
        if self.fault == "raises":
            raise KeyError("engine")
        changed = {
            "four": (*found[:3], found[4]), "info": (*found[:4], None), "ragged": ([[1, 2], [3]], *found[1:]),
            "several": (*found[:2], np.array([True, False]), *found[3:]), "text": (*found[:3], "no", found[4]),
        }  # fmt: skip
        return changed[self.fault]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raises", r"Faulty raised KeyError: 'engine' \(test_lanes.py:\d+\) after 2 steps.*correct the environment"),
        ("four", r"Faulty raised ValueError: not enough values to unpack.* after 2 steps"),
        ("info", r"Faulty raised AttributeError: .*NoneType.* after 2 steps"),
        ("ragged", r"Faulty raised ValueError: .*inhomogeneous.* after 2 steps"),
        ("several", r"Faulty said array\(\[ True, False\]\) of an episode's end: terminated and truncated must be"),
        ("text", r"Faulty said 'no' of an episode's end"),
        ("reset", r"Faulty raised TypeError: .*NoneType.* after 0 steps"),
    ],
)
def test_what_an_environment_raises_is_one_sentence(fault: str, sentence: str) -> None:
    together = side_by_side(lambda: Faulty(fault), 2, CROP)
    with pytest.raises(UserError, match=sentence):
        together.reset(seed=SEEDS[:2])
        for _ in range(3):
            together.step(np.array([0, 1]))


class Foreign(Toy):
    """`lap_finished` means something else here, and the engine cannot be closed."""

    def step(self, action):
        return (*super().step(action)[:4], {"lap_finished": np.zeros(3)})

    def close(self):
        raise RuntimeError("no engine")


def test_another_game_s_info_and_a_close_that_fails_cost_nothing() -> None:
    together = side_by_side(Foreign, 2)
    together.reset(seed=SEEDS[:2])
    assert together.step(np.array([0, 1]))[-1] == {}
    together.close()
