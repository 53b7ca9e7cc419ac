"""Take Cover against ViZDoom's own wrapper, against itself, and against what kills engines and parents."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import worldmodels  # noqa: F401  (registers the environment)
from worldmodels.envs import TAKECOVER, World, actions_for, as_frames, make, takecover
from worldmodels.envs.takecover import BASELINES, Engine, TakeCover, TakeCoverVectorEnv
from worldmodels.errors import UserError

SMALL = "160x120"  # what happens does not depend on the resolution, and this one is the fastest
SURVIVOR = 21  # a seed on which `sweep-115` lives until the timeout
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def with_vizdoom(request: pytest.FixtureRequest) -> None:
    if "vizdoom_free" not in request.keywords:
        pytest.importorskip("vizdoom")


def play(
    env: gymnasium.Env, seed: int, actions: Iterator[int], steps: int = 10_000
) -> tuple[np.ndarray, float, bool, bool]:
    """An episode of at most so many steps: frames uint8 (T + 1, 64, 64, 3), score, terminated, truncated."""
    frame, _ = env.reset(seed=seed)
    frames, score, terminated, truncated = [frame], 0.0, False, False
    while not (terminated or truncated) and len(frames) <= steps:
        frame, reward, terminated, truncated, _ = env.step(next(actions))
        frames.append(frame)
        score += reward
    return np.stack(frames), score, terminated, truncated


def thirds(raw: Sequence[float]) -> list[int]:
    """The actions that C's outputs choose."""
    return actions_for(World(TAKECOVER), takecover.ACTIONS).to_env(np.array(raw)[:, None]).tolist()


def actions(name: str, seed: int = 0) -> Iterator[int]:
    return (thirds([raw])[0] for raw in BASELINES[name](np.random.default_rng(seed)))


def engines(parent: int) -> list[int]:
    """Processes of the Doom engine whose parent is this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (process / "status").read_text(), (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if f"PPid:\t{parent}\n" in status and b"viz_controlled" in command and "State:\tZ" not in status:
            found.append(int(process.name))
    return found


# -------------------------------------------------------------------------------------------- the game


def vizdooms_own(resolution: str) -> gymnasium.Env:
    """The wrapper that comes with ViZDoom, with the paper's settings."""
    pytest.importorskip("pygame")
    import vizdoom.gymnasium_wrapper  # noqa: F401

    return gymnasium.make(
        "VizdoomTakeCover-v1", screen_resolution=f"RES_{resolution.upper()}", render_hud=True,
        render_screen_flashes=True, episode_start_time=14, episode_timeout=2100, doom_skill=4,
    )  # fmt: skip


@pytest.mark.parametrize(("resolution", "rows", "steps"), [("640x480", 400, 30), (SMALL, 100, 2100)])
def test_a_game_is_the_one_of_vizdooms_own_wrapper(resolution, rows, steps, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where the wrapper's engine writes its settings
    theirs, ours, doing = vizdooms_own(resolution), TakeCover(resolution), actions("held")
    observation, frame = theirs.reset(seed=7)[0], ours.reset(seed=7)[0]
    for step in range(steps):
        crop = (0, rows, 0, observation["screen"].shape[1])
        difference = frame.astype(int) - as_frames(observation["screen"][None], crop)[0]
        assert np.abs(difference).max() <= 1 and np.mean(difference != 0) < 0.001, step  # .5 may round either way
        last, action = frame, next(doing)
        observation, *theirs_outcome = theirs.step(action)
        frame, *outcome = ours.step(action)
        assert outcome == theirs_outcome == [1.0, outcome[1], False, {}]
        if outcome[1]:
            break
    assert outcome[1] == (steps == 2100)
    if outcome[1]:
        assert not observation["screen"].any() and np.array_equal(frame, last) and last.any()
    theirs.close(), ours.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory of an engine has no name")
def test_a_screen_is_that_of_its_own_engine():
    """Another program's engine in the same process, at the same first frame, draws on memory that stays its own."""
    theirs, ours = takecover.import_vizdoom().DoomGame(), TakeCover(SMALL)
    theirs.load_config(str(Path(takecover.import_vizdoom().scenarios_path) / "take_cover.cfg"))
    theirs.set_screen_resolution(takecover.import_vizdoom().ScreenResolution.RES_160X120)
    theirs.set_screen_format(takecover.import_vizdoom().ScreenFormat.RGB24)
    theirs.set_window_visible(False)
    theirs.set_doom_config_path(os.devnull)
    theirs.init()
    before = takecover.shared_memory()
    ours.reset(seed=1)
    assert before and takecover.shared_memory() == before and all(Path(name).exists() for name in before)
    for step in range(30):
        theirs.make_action([True, False])
        ours.step(1)
        assert np.array_equal(ours.engine.screen, ours.engine.game.get_state().screen_buffer), step
    theirs.close(), ours.close()


def test_a_timeout_is_a_truncation():
    frames, score, terminated, truncated = play(TakeCover(SMALL), SURVIVOR, actions("sweep-115"))
    assert (len(frames) - 1, score, terminated, truncated) == (2100, 2100, False, True)
    assert np.array_equal(frames[-1], frames[-2]) and frames[-1].any()


def test_a_hit_is_seen():
    """The screen flashes red for a while."""
    frames, _, terminated, _ = play(TakeCover(SMALL), 0, actions("stay"))
    redness = frames[..., 0].mean((1, 2)) - frames[..., 1].mean((1, 2))
    assert terminated and (redness > redness[0] + 50).sum() >= 3


def test_an_episode_depends_on_its_seed_and_actions_alone():
    env = TakeCover(SMALL)
    expected = {seed: play(env, seed, actions("legs", seed), 60)[0] for seed in (1, 2, 3)}
    assert np.array_equal(expected[1][0], expected[2][0]) and not np.array_equal(expected[1], expected[2])
    assert np.array_equal(play(env, 1, actions("legs", 1), 60)[0], expected[1])
    lanes, doing = TakeCoverVectorEnv(3, SMALL, num_threads=2), [actions("legs", seed) for seed in (3, 1, 2)]
    frames = [lanes.reset(seed=[3, 1, 2])[0]]
    frames += [lanes.step(np.array([next(lane) for lane in doing]))[0] for _ in range(60)]
    for lane, seed in enumerate((3, 1, 2)):
        assert np.array_equal(np.stack(frames)[:, lane], expected[seed])
    env.close(), lanes.close()


def test_a_reset_without_seed_goes_on():
    env = TakeCover(SMALL)
    first = [play(env, 5, actions("stay"), 80)[0], play(env, None, actions("stay"), 80)[0]]
    again = [play(env, 5, actions("stay"), 80)[0], play(env, None, actions("stay"), 80)[0]]
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], first[1])


def test_gymnasium_finds_nothing_wrong():
    env = gymnasium.make("worldmodels/TakeCover-v0", resolution=SMALL, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape == (120, 160, 3)
    copy = pickle.loads(pickle.dumps(env.unwrapped))
    assert np.array_equal(copy.reset(seed=0)[0], env.reset(seed=0)[0])
    env.close(), copy.close()


# ---------------------------------------------------------------------------------------------- lanes


def test_ended_lanes_rest_until_their_reset():
    env = gymnasium.make_vec("worldmodels/TakeCover-v0", num_envs=2, resolution=SMALL, max_episode_steps=20)
    frames, _ = env.reset(seed=0)
    for _ in range(20):
        frames, rewards, terminated, truncated, _ = env.step(np.array([1, 2]))
    assert rewards.tolist() == [1, 1] and not terminated.any() and truncated.all()
    resting, rewards, _, truncated, _ = env.step(np.array([0, 0]))
    assert np.array_equal(resting, frames) and rewards.tolist() == [0, 0] and truncated.all()
    begun, _ = env.reset(seed=[None, 9], options={"reset_mask": np.array([False, True])})
    assert np.array_equal(begun[0], frames[0]) and not np.array_equal(begun[1], frames[1])
    moved, rewards, _, truncated, _ = env.step(np.array([0, 0]))
    assert np.array_equal(moved[0], frames[0]) and rewards.tolist() == [0, 1] and truncated.tolist() == [True, False]
    env.close()


def test_the_pipeline_makes_lanes_of_it():
    env = make(World(TAKECOVER, {"resolution": SMALL}), 2, threads=1, max_steps=3)
    assert isinstance(env, TakeCoverVectorEnv)
    frames, _ = env.reset(seed=[4, 5])
    for _ in range(3):
        frames, _, _, truncated, _ = env.step(np.array([1, 2]))
    assert frames.shape == (2, 64, 64, 3) and truncated.all()
    env.close()
    with pytest.raises(ValueError, match="DISABLED only"):
        TakeCoverVectorEnv(1, SMALL, autoreset_mode="NextStep")


# ---------------------------------------------------------------------------------- what goes wrong


def test_an_engine_that_dies_is_replaced_unnoticed():
    expected = play(TakeCover(SMALL), 4, actions("held"), 60)[0]
    env, doing = TakeCover(SMALL), actions("held")
    before = engines(os.getpid())
    frames = [env.reset(seed=4)[0]]
    for step in range(len(expected) - 1):
        if step in (10, 40):
            (engine,) = set(engines(os.getpid())) - set(before)
            os.kill(engine, signal.SIGKILL)
        frames.append(env.step(next(doing))[0])
    assert np.array_equal(np.stack(frames), expected)
    env.close()


def test_engines_that_die_again_and_again_are_an_error(monkeypatch):
    class Dying:
        def __getattr__(self, name):
            return lambda *_: None

        def new_episode(self):
            raise takecover.import_vizdoom().ViZDoomErrorException

    monkeypatch.setattr(Engine, "_start", lambda self: Dying())
    with pytest.raises(UserError, match="died 3 times in a row"):
        TakeCover(SMALL).reset(seed=0)


ORPHANS = """
import os, time
from worldmodels.envs.takecover import TakeCoverVectorEnv
env = TakeCoverVectorEnv(2, "160x120")
env.reset(seed=0)
env.step([1, 1])
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_engines_end_with_a_parent_that_is_killed_and_leave_nothing(tmp_path):
    shared = set(os.listdir("/dev/shm"))
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout.readline() == b"ready\n"
    children = engines(parent.pid)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    for _ in range(100):
        alive = [child for child in children if Path(f"/proc/{child}/cmdline").exists()]
        if not alive:
            break
        time.sleep(0.05)
    assert not alive
    assert not list(tmp_path.iterdir())
    assert not [name for name in set(os.listdir("/dev/shm")) - shared if "ViZDoom" in name]


@pytest.mark.vizdoom_free
@pytest.mark.parametrize(
    ("version", "sentence"), [(None, "needs ViZDoom: .*doom"), ("1.2.4", "1.2.4 is installed.*doom")]
)
def test_vizdoom_missing_or_too_old_is_one_sentence(monkeypatch, version, sentence):
    module = types.SimpleNamespace(__version__=version) if version else None
    monkeypatch.setitem(sys.modules, "vizdoom", module)
    with pytest.raises(UserError, match=sentence):
        TakeCover()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no resolution 64x64: choose one of 640x480"):
        TakeCover("64x64")
    env = TakeCover(SMALL)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="3 is no action"):
        env.step(3)
    env.close()


@pytest.mark.parametrize("make_env", [TakeCover, lambda resolution: TakeCoverVectorEnv(1, resolution)])
def test_nothing_begins_after_close(make_env):
    env = make_env(SMALL)
    before = engines(os.getpid())
    env.reset(seed=0)
    env.close(), env.close()
    for late in (lambda: env.reset(seed=0), lambda: env.step([0])):
        with pytest.raises(ClosedEnvironmentError):
            late()
    assert engines(os.getpid()) == before


# ------------------------------------------------------------------------------------------ baselines


def test_practice_is_drawn_smaller_than_what_counts():
    for world, resolution in ((World.practice(TAKECOVER), "320x240"), (World(TAKECOVER), "640x480")):
        env = make(world, 1)
        assert env.envs[0].unwrapped.engine.resolution == resolution
        env.close()


@pytest.mark.vizdoom_free
def test_thirds_choose_left_stay_and_right():
    assert thirds([-1, -0.34, -0.33, 0, 0.33, 0.34, 1]) == [2, 2, 0, 0, 0, 1, 1]


@pytest.mark.vizdoom_free
def test_baselines_do_what_they_say():
    def runs(name: str, steps: int = 20_000) -> list[tuple[float, int]]:
        raw = itertools.islice(BASELINES[name](np.random.default_rng(0)), steps)
        return [(output, len(list(same))) for output, same in itertools.groupby(raw)][:-1]

    assert {length for _, length in runs("random")} == {1}
    lengths = [length for _, length in runs("held")]
    changes = [0, *itertools.accumulate(lengths)]
    assert all(any((tic // k + 1) * k == then for k in range(1, 11)) for tic, then in itertools.pairwise(changes))
    assert min(lengths) == 1 and max(lengths) == 10 and abs(np.mean(lengths) - 3.6) < 0.2
    assert set(thirds([output for output, _ in runs("held")])) == {0, 1, 2}
    chosen, lengths = zip(*[(thirds([output])[0], length) for output, length in runs("legs")], strict=True)
    assert all({a, b} == {1, 2} for a, b in itertools.pairwise(chosen))
    assert min(lengths) >= 30 and max(lengths) <= 149
    assert runs("sweep-115", 500) == [(-1, 115), (1, 115), (-1, 115), (1, 115)]
    assert set(itertools.islice(actions("stay"), 100)) == {0} and set(itertools.islice(actions("left"), 100)) == {2}
