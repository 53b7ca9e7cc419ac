"""Dream-v0: Gymnasium's interface, autoreset as in SyncVectorEnv, and dreams that depend on nothing but themselves."""

import pickle
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import worldmodels  # noqa: F401  (registers the environment)
from worldmodels import envs, pretrained
from worldmodels.controller import Controller
from worldmodels.dream import DreamStep, Starts
from worldmodels.dream_kernels import noise
from worldmodels.envs.dream import KEYS, DreamVectorEnv
from worldmodels.errors import UserError
from worldmodels.memory import MDRNN
from worldmodels.runs import checkpoint
from worldmodels.vision import VAE

DREAM = "worldmodels/Dream-v0"
CAR = {"z_size": 6, "action_size": 3, "hidden_size": 16, "include_reward": True, "action_kind": "car"}


def make_run(folder: Path, starts: int = 5, **settings) -> Path:
    """A run directory of random models, whose dreams end after a few steps where M predicts the end."""
    settings = CAR | settings
    torch.manual_seed(3)
    vae, mdrnn = VAE(settings["z_size"]), MDRNN(**settings)
    with torch.no_grad():
        mdrnn.head.weight.mul_(6)  # dreams that move
        mdrnn.head.bias[-1] = -0.5
    checkpoint.save(folder / "vae/best.safetensors", checkpoint.pack("vae", vae.state_dict()), {"vae": {"z_size": 6}})
    tensors = checkpoint.pack("mdrnn", mdrnn.state_dict())
    checkpoint.save(folder / "mdrnn/best.safetensors", tensors, {"mdrnn": settings})
    draw = torch.Generator().manual_seed(1)
    z, h, c = (torch.randn(starts, n, generator=draw) for n in (6, 16, 16))
    restart = (torch.arange(starts) % 2).float()
    Starts(z, h.tanh(), c, restart).save(folder / "mdrnn/starts.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("car"))


@pytest.fixture(scope="module")
def mortal(tmp_path_factory) -> Path:
    """Its dreams end, its actions are choices, it reads restarts and has dropout."""
    return make_run(
        tmp_path_factory.mktemp("mortal"), include_terminal=True, include_restart=True, dropout=0.2,
        action_kind="discrete", action_size=4,
    )  # fmt: skip


def actions_of(env, steps: int, seed: int = 0) -> np.ndarray:
    """Random actions (steps, N, …) of a batch."""
    draw = np.random.default_rng(seed)
    if isinstance(env.single_action_space, gymnasium.spaces.Discrete):
        return draw.integers(env.single_action_space.n, size=(steps, env.num_envs))
    low, high = env.single_action_space.low, env.single_action_space.high
    return draw.uniform(low, high, size=(steps, env.num_envs, len(low))).astype(np.float32)


# ------------------------------------------------------------------------------------------ the interface


@pytest.mark.parametrize("observation", ["frame", "z", "zh", "zch"])
def test_check_env_passes(run, mortal, observation) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized|.*infinity")
        for folder in (run, mortal):
            env = gymnasium.make(DREAM, run=folder, observation=observation)
            assert (
                env.observation_space.shape == {"frame": (64, 64, 3), "z": (6,), "zh": (22,), "zch": (38,)}[observation]
            )
            check_env(env.unwrapped, skip_render_check=True)


def test_the_environment_is_the_dream_s_step(mortal) -> None:
    """Observations, rewards and endings of a lane are those of DreamStep with the same start, noise and mask."""
    env = DreamVectorEnv(3, run=mortal, observation="zch", horizon=50, autoreset_mode="Disabled", temperature=0.8)
    starts = Starts.load(mortal / "mdrnn/starts.safetensors", env.mdrnn)
    step, ends = DreamStep(env.mdrnn), 0
    for lane, seed in enumerate((11, 12, 13)):
        draw = np.random.default_rng(seed)
        key, which = draw.integers(KEYS), draw.integers(5)
        mask = torch.from_numpy(((draw.random(16) >= 0.2) / 0.8).astype(np.float32))[None]
        seen, _ = env.reset(seed=[11, 12, 13])
        z, h, c, restart = (x[which : which + 1] for x in (starts.z, starts.h, starts.c, starts.restart))
        for t, actions in enumerate(actions_of(env, 40)):
            expected = torch.cat([z, c, h], dim=1)[0]
            torch.testing.assert_close(torch.from_numpy(seen[lane]), expected, rtol=0, atol=2e-5)
            uniform, normal = (torch.from_numpy(x) for x in noise(np.array([key]), np.array([t]), 6))
            action = torch.eye(4)[actions[lane]][None]
            z, h, c, reward, end = step(z, action, h, c, restart, uniform, normal, 0.8, mask)
            restart = torch.zeros(1)
            seen, rewards, terminated, truncated, _ = env.step(actions)
            assert rewards[lane] == pytest.approx(float(reward), abs=2e-5)
            assert terminated[lane] == bool(end) and not truncated[lane]
            if end:
                ends += 1
                break
    assert ends, "the test needs a dream that ends"


def test_temperature_zero_and_one_start_repeat_themselves_whatever_the_seed(run) -> None:
    env = DreamVectorEnv(2, run=run, observation="zh", temperature=0, start=3)
    seen, _ = env.reset(seed=[1, 2])
    assert np.array_equal(seen[0], seen[1])
    for actions in actions_of(env, 20):
        seen, *_ = env.step(np.stack([actions[0]] * 2))
        assert np.array_equal(seen[0], seen[1])


def test_the_prior_begins_with_a_fresh_memory(mortal) -> None:
    env = DreamVectorEnv(500, run=mortal, observation="zch", start="prior")
    seen, _ = env.reset(seed=0)
    assert not seen[:, 6:].any() and abs(seen[:, :6].mean()) < 0.1 and abs(seen[:, :6].std() - 1) < 0.1


def test_frames_are_v_s_paintings_of_z(run) -> None:
    frames = gymnasium.make(DREAM, run=run, render_mode="rgb_array").unwrapped
    numbers = gymnasium.make(DREAM, run=run, observation="z", render_mode="rgb_array").unwrapped
    frame, _ = frames.reset(seed=5)
    z, _ = numbers.reset(seed=5)
    for action in actions_of(frames.vector, 5)[:, 0]:
        painted = frames.vector.vae.decode(torch.from_numpy(z)[None])[0]
        assert np.abs(frame.astype(int) - painted).max() <= 1
        assert np.array_equal(frames.render(), frame) and np.array_equal(numbers.render(), frame)
        frame, *_ = frames.step(action)
        z, *_ = numbers.step(action)


def test_a_pickled_environment_is_built_anew(run) -> None:
    env = pickle.loads(pickle.dumps(gymnasium.make(DREAM, run=run, observation="z", temperature=0.3).unwrapped))
    assert env.vector.observation == "z" and env.vector.dreams.temperature == np.float32(0.3)


def test_episode_statistics_are_recorded(run) -> None:
    env = RecordEpisodeStatistics(gymnasium.make_vec(DREAM, num_envs=4, run=run, observation="z", horizon=7))
    env.reset(seed=0)
    total = np.zeros(4)
    for actions in actions_of(env, 7):
        _, rewards, _, truncated, infos = env.step(actions)
        total += rewards
    assert truncated.all() and (infos["episode"]["l"] == 7).all()
    np.testing.assert_allclose(infos["episode"]["r"], total, rtol=1e-5)


def test_stable_baselines_learns_in_it_for_a_moment(run) -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    env = gymnasium.make(DREAM, run=run, horizon=20)
    model = stable_baselines3.PPO("CnnPolicy", env, n_steps=16, batch_size=8, n_epochs=1, device="cpu")
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(32)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------- autoreset


def equal(ours: object, theirs: object) -> bool:
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and list(ours) == list(theirs) and all(equal(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, np.ndarray) and theirs.dtype == object:
        return all(equal(a, b) for a, b in zip(ours, theirs, strict=True))  # type: ignore[call-overload]
    return np.array_equal(ours, theirs) and getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_autoreset_equals_sync_vector_env(mortal, mode) -> None:
    keywords = {"run": mortal, "observation": "zh", "horizon": 5}
    ours = gymnasium.make_vec(DREAM, num_envs=3, autoreset_mode=mode, **keywords)
    theirs = SyncVectorEnv([lambda: gymnasium.make(DREAM, **keywords)] * 3, autoreset_mode=mode)
    assert np.array_equal(ours.reset(seed=[7, 8, 9])[0], theirs.reset(seed=[7, 8, 9])[0])
    ended, counts = np.zeros(3, bool), np.zeros(2)
    for step, actions in enumerate(actions_of(ours, 60)):
        if mode is AutoresetMode.DISABLED and ended.any():
            a, b = (env.reset(options={"reset_mask": ended.copy()}) for env in (ours, theirs))
            assert np.array_equal(a[0], b[0])
        a, b = ours.step(actions), theirs.step(actions)
        for part in range(5):
            assert equal(a[part], b[part]), (step, part, a[part], b[part])
        ended = a[2] | a[3]
        counts += a[2].sum(), a[3].sum()
    assert (counts > 3).all(), "the test needs dreams that end and dreams that are cut"


def test_a_finished_lane_rests_until_it_is_reset(mortal) -> None:
    env = DreamVectorEnv(3, run=mortal, observation="zh", horizon=4, autoreset_mode="Disabled")
    env.reset(seed=20)
    for actions in actions_of(env, 4):
        seen, _, terminated, truncated, _ = env.step(actions)
    assert (terminated | truncated).all()
    mask = np.array([False, True, False])
    env.reset(seed=[None, 9, None], options={"reset_mask": mask})
    alone = DreamVectorEnv(1, run=mortal, observation="zh", horizon=4)
    alone.reset(seed=9)
    for actions in actions_of(env, 3):
        again, rewards, was, cut, infos = env.step(actions)
        one, reward, *_ = alone.step(actions[1:2])
        assert np.array_equal(again[~mask], seen[~mask]) and np.array_equal(again[1], one[0])
        assert rewards.tolist() == [0, reward[0], 0] and infos == {}
        assert np.array_equal(was[~mask], terminated[~mask]) and np.array_equal(cut[~mask], truncated[~mask])
        if was[1]:
            break


def test_observations_are_copies_unless_told_otherwise(run) -> None:
    for copy in (True, False):
        env = DreamVectorEnv(2, run=run, observation="z", copy=copy)
        first, _ = env.reset(seed=0)
        kept = first.copy()
        second, *_ = env.step(actions_of(env, 1)[0])
        assert np.shares_memory(first, second) != copy and np.array_equal(first, kept) == copy


# ----------------------------------------------------------------------------------------- batch invariance


def test_a_lane_depends_on_its_seed_and_actions_alone(mortal) -> None:
    """Bit-equal in 1, 7, 64 and 1,000 lanes, in another place and on two threads; frames too."""

    def record(seeds: np.ndarray, lanes: np.ndarray, threads: int, observation: str, steps: int) -> list[np.ndarray]:
        env = DreamVectorEnv(len(seeds), run=mortal, observation=observation, num_threads=threads, horizon=9)
        parts = [env.reset(seed=[int(seed) for seed in seeds])[0]]
        draw = np.random.default_rng(0).integers(4, size=(steps, 1000))
        for actions in draw:
            seen, rewards, terminated, truncated, _ = env.step(actions[lanes])
            parts += [seen, rewards, terminated, truncated]
        env.close()
        return parts

    everyone = np.arange(1000)
    seeds = 100 + everyone
    whole = record(seeds, everyone, 1, "zch", 25)
    for lanes, threads in (
        (everyone[:1], 1),
        (everyone[:7], 2),
        (everyone[:64], 1),
        (everyone, 2),
        (everyone[::-7], 2),
    ):
        part = record(seeds[lanes], lanes, threads, "zch", 25)
        assert all(np.array_equal(a, b[lanes]) for a, b in zip(part, whole, strict=True)), (len(lanes), threads)
    frames = record(seeds[:30], everyone[:30], 2, "frame", 3)
    for lanes in (np.array([3]), np.arange(30)[::-1]):
        part = record(seeds[lanes], lanes, 1, "frame", 3)
        assert all(np.array_equal(a, b[lanes]) for a, b in zip(part, frames, strict=True))


# ------------------------------------------------------------------------------------- bad input and order


def test_the_wrong_order_is_an_error(run) -> None:
    for env, action in ((DreamVectorEnv(2, run=run, observation="z"), np.zeros((2, 3))),
                        (gymnasium.make(DREAM, run=run, observation="z").unwrapped, np.zeros(3))):  # fmt: skip
        with pytest.raises(ResetNeeded):
            env.step(action)
        env.reset(seed=0)
        env.step(action)
        env.close()
        env.close()
        with pytest.raises(ClosedEnvironmentError):
            env.step(action)
        with pytest.raises(ClosedEnvironmentError):
            env.reset()


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"run": None}, "Say whose dream"),
        ({"pretrained": "carracing"}, "one of the two"),
        ({"run": "nowhere"}, "no trained M"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": np.nan}, "temperature is nan"),
        ({"temperature": np.inf}, "temperature is inf"),
        ({"temperature": 1e40}, "temperature is 1e"),  # infinite in float32
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon": np.nan}, "horizon is nan"),  # without end
        ({"horizon": "9"}, "horizon is 9"),
        ({"observation": "pixels"}, "observation is 'pixels'"),
        ({"start": "line"}, "start is 'line'"),
        ({"start": 5}, "the numbers 0 to 4"),
        ({"num_envs": 0}, "at least 1"),
        ({"num_threads": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_one_sentence(run, keywords, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        DreamVectorEnv(**{"run": run, **keywords})


def test_runs_that_cannot_dream_are_one_sentence(tmp_path) -> None:
    for name, settings, sentence in (
        ("silent", {"include_reward": False}, "--include-reward"),
        ("unsaid", {"action_kind": None}, "does not say what its actions mean"),
        ("strange", {"action_kind": "box"}, "does not say what its actions mean"),
        ("empty", {"starts": 0}, "holds no start"),
    ):
        with pytest.raises(UserError, match=sentence):
            DreamVectorEnv(run=make_run(tmp_path / name, **settings))
    (tmp_path / "empty/mdrnn/starts.safetensors").unlink()
    with pytest.raises(UserError, match='start="prior"'):
        DreamVectorEnv(run=tmp_path / "empty")
    DreamVectorEnv(run=tmp_path / "empty", start="prior").reset(seed=0)
    (make_run(tmp_path / "other", hidden_size=8) / "vae/best.safetensors").unlink()
    with pytest.raises(UserError, match="starts of another M"):
        DreamVectorEnv(run=tmp_path / "other", observation="z")
    with pytest.raises(UserError, match="no trained V"):
        DreamVectorEnv(run=tmp_path / "other", start="prior")


def test_a_box_is_clipped_to_its_bounds_and_refuses_what_is_no_number(tmp_path) -> None:
    bounds = ([-2.0, 0.0, 1.0], [2.0, 1.0, 3.0])
    folder = make_run(tmp_path, action_kind="box", action_bounds=bounds)
    env = DreamVectorEnv(2, run=folder, observation="z")
    assert np.array_equal(env.single_action_space.low, bounds[0]) and np.array_equal(
        env.single_action_space.high, bounds[1]
    )
    inside, outside = np.tile([2.0, 0.0, 3.0], (2, 1)), np.tile([9.0, -1.0, 4.0], (2, 1))
    env.reset(seed=0)
    expected = env.step(inside)[0]
    env.reset(seed=0)
    assert np.array_equal(env.step(outside)[0], expected)
    with pytest.raises(ValueError, match="no number in lanes \\[1\\]"):
        env.step(np.array([[0, 0, 1], [np.nan, 0, 1]]))
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(3))
    with pytest.raises(UserError, match="no reset option start"):
        env.reset(options={"start": "random"})
    with pytest.raises(TypeError):
        env.reset(options={"reset_mask": [True, False]})
    with pytest.raises(ValueError):
        env.reset(options={"reset_mask": np.zeros(2, bool)})
    with pytest.raises(ValueError):
        env.reset(seed=[1])


def test_choices_that_do_not_exist_are_refused(mortal) -> None:
    env = DreamVectorEnv(2, run=mortal, observation="z")
    env.reset(seed=0)
    for wrong in (np.array([0, 4]), np.array([-1, 0]), np.array([0.0, 1.0])):
        with pytest.raises(ValueError, match="choices"):
            env.step(wrong)


def test_an_m_that_predicts_no_numbers_is_named_with_lane_and_step(run, tmp_path) -> None:
    env = DreamVectorEnv(70, run=run, observation="z")
    env.reset(seed=0)
    for actions in actions_of(env, 3):
        env.step(actions)
    env.dreams.z[66, 2] = np.nan
    with pytest.raises(UserError, match="in lane 66 at step 3"):
        env.step(actions)


def test_the_package_s_driver_drives_in_its_own_dream() -> None:
    """It earns about 0.93 a step on the road (docs/results.md); no driver at all loses 0.1 a step."""
    tensors, _ = checkpoint.load(pretrained.folder("carracing") / "ctrl/best.safetensors")
    car = envs.actions_in(envs.World(envs.CARRACING))
    env = DreamVectorEnv(16, pretrained="carracing", observation="zh", horizon=100)
    seen, _ = env.reset(seed=0)
    driven = np.zeros(16)
    for _ in range(100):
        raw = Controller().act(tensors["parameters"].float().expand(16, -1), torch.from_numpy(seen))
        seen, rewards, *_ = env.step(car.squash(raw.numpy()))
        driven += rewards
    assert driven.mean() > 60
