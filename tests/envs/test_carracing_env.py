"""The CarRacing environments against Gymnasium's own, and against each other: any number of lanes and threads."""

import pickle
import resource
import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import worldmodels  # noqa: F401  (registers the environment)
from conformance.closed_loop import drive
from worldmodels.envs.carracing.env import CarRacing
from worldmodels.envs.carracing.vector_env import CarRacingVectorEnv
from worldmodels.errors import UserError

OURS, THEIRS = "worldmodels/CarRacing-v3", "CarRacing-v3"
PLAYFIELD_SEED, PLAYFIELD_STEPS = 658, 161  # full gas from this start line leaves the playfield so soon
FRAME_ERROR = 0.5  # mean absolute error of one frame, of 255; conformance.frames holds the mean over many to 0.10


def assert_frames_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    error = np.abs(ours.astype(np.int64) - theirs).mean(axis=(-3, -2, -1))
    assert np.max(error) <= FRAME_ERROR, f"frame error {np.max(error):.2f} of 255"


def noise_actions(seed: int, steps: int, lanes: int | None = None) -> np.ndarray:
    """Gas-biased noise float32 (steps[,lanes],3): drives, brakes a little and leaves the road now and then."""
    shape = (steps, 3) if lanes is None else (steps, lanes, 3)
    walk = np.random.default_rng(seed).normal(0, 0.3, shape).cumsum(axis=0)
    return np.stack(
        [np.sin(walk[..., 0]), 0.5 + 0.5 * np.sin(walk[..., 1]), 0.5 * (np.sin(walk[..., 2]) > 0.8)], axis=-1
    ).astype(np.float32)


# ------------------------------------------------------------------------------ the scalar against Gymnasium


def episodes_agree(theirs: gymnasium.Env, ours: gymnasium.Env, policy, seeds: list[int | None]) -> list[dict]:
    """Drive both with the same actions; returns the last info of each episode."""
    endings = []
    for seed in seeds:
        their_frame, their_info = theirs.reset(seed=seed)
        our_frame, our_info = ours.reset(seed=seed)
        step, ended = 0, False
        while not ended:
            assert our_info == their_info
            assert_frames_agree(our_frame, their_frame)
            action = policy(their_frame, step)
            their_frame, their_reward, *their_flags, their_info = theirs.step(action)
            our_frame, our_reward, *our_flags, our_info = ours.step(action)
            assert our_reward == their_reward and our_flags == their_flags, (seed, step)
            step, ended = step + 1, any(their_flags)
        assert our_info == their_info
        endings.append(their_info)
    return endings


@pytest.mark.slow  # `make conformance-sample` drives one too
def test_a_driven_lap_equals_gymnasiums():
    endings = episodes_agree(
        gymnasium.make(THEIRS), gymnasium.make(OURS), lambda frame, step: drive(frame), seeds=[3]
    )  # fmt: skip
    assert endings == [{"lap_finished": True}]


def test_leaving_the_playfield_equals_gymnasiums():
    straight = np.array([0, 1, 0], np.float32)
    endings = episodes_agree(
        gymnasium.make(THEIRS), gymnasium.make(OURS), lambda frame, step: straight, [PLAYFIELD_SEED]
    )
    assert endings == [{"lap_finished": False}]


def test_discrete_actions_in_random_colours_equal_gymnasiums():
    """Two episodes on one generator: the second reset goes on where the first one left it, colours included."""
    keywords = {"continuous": False, "domain_randomize": True, "max_episode_steps": 120}
    actions = np.random.default_rng(0).choice(5, 120, p=[0.1, 0.2, 0.2, 0.45, 0.05])
    theirs, ours = gymnasium.make(THEIRS, **keywords), gymnasium.make(OURS, **keywords)
    episodes_agree(theirs, ours, lambda frame, step: actions[step], seeds=[11, None])
    assert ours.unwrapped.np_random.bit_generator.state == theirs.unwrapped.np_random.bit_generator.state
    for option in (True, False):
        their_frame, _ = theirs.reset(options={"randomize": option})
        assert_frames_agree(ours.reset(options={"randomize": option})[0], their_frame)


def test_constructor_colours_are_drawn_as_gymnasiums(monkeypatch):
    """The constructor draws colours from the unseeded generator; a reset that keeps colours shows them."""
    fresh = lambda seed=None: (np.random.default_rng(77 if seed is None else seed), 77 if seed is None else seed)  # noqa: E731
    monkeypatch.setattr("gymnasium.utils.seeding.np_random", fresh)
    frames = []
    for env_id in (THEIRS, OURS):
        env = gymnasium.make(env_id, domain_randomize=True)
        frames.append(env.reset(seed=4, options={"randomize": False})[0])
    assert_frames_agree(frames[1], frames[0])


def test_steps_without_action_equal_gymnasiums():
    """`step(None)`, as Gymnasium's reset uses it: pedals stay where they are and nothing is paid."""
    theirs, ours = gymnasium.make(THEIRS).unwrapped, gymnasium.make(OURS).unwrapped
    theirs.reset(seed=2), ours.reset(seed=2)
    for action in [*noise_actions(1, 20), *[None] * 20, *noise_actions(2, 10)]:
        their_frame, their_reward, *their_rest = theirs.step(action)
        our_frame, our_reward, *our_rest = ours.step(action)
        assert our_reward == their_reward and our_rest == their_rest
    assert_frames_agree(our_frame, their_frame)
    assert np.array_equal(ours.batch.cars.position[0, 0], np.float32(theirs.car.hull.position))


def test_driving_on_after_the_end_equals_gymnasiums():
    """Gymnasium does not stop at an ending; neither does the scalar environment."""
    theirs, ours = (gymnasium.make(env_id, lap_complete_percent=0.0).unwrapped for env_id in (THEIRS, OURS))
    theirs.reset(seed=2), ours.reset(seed=2)
    for action in noise_actions(1, 30):
        their_answer, our_answer = theirs.step(action)[1:], ours.step(action)[1:]
        assert our_answer == their_answer
        assert our_answer[1] and our_answer[3] == {"lap_finished": True}


def test_64_pixels_are_the_96_averaged():
    large, small = gymnasium.make(OURS), gymnasium.make(OURS, obs_size=64)
    frames = [large.reset(seed=8)[0]], [small.reset(seed=8)[0]]
    for action in noise_actions(8, 60):
        frames[0].append(large.step(action)[0])
        frames[1].append(small.step(action)[0])
    share = np.zeros((64, 96))  # row i: the share of each of 96 pixels in pixel i of 64
    for fine in range(192):
        share[fine // 3, fine // 2] += 1 / 3
    expected = np.floor(np.einsum("ih,nhwc,jw->nijc", share, np.stack(frames[0]), share, optimize=True) + 0.5 + 1e-9)
    assert small.observation_space.shape == (64, 64, 3)
    assert np.array_equal(np.stack(frames[1]), expected)


# ------------------------------------------------------------------------------------- bad input and order


NAN, INF = np.nan, np.inf
ODD_ACTIONS = [
    np.array([0.1, 0.5, 0]), np.array([1, 1, 0]), np.array([True, True, False]), np.array([0.1, 0.5, 0], object),
    np.array(["0.1", "0.5", "0"]), np.array([0.1, 0.5, 0, 9]), np.array([5, 0.5, 0]), np.array([0, 5, 0]),
    np.array([0, -1, 0]), np.array([0, 0.5, 5]), np.array([0, 0.5, -5]), np.array([NAN, 0.5, 0]), np.array([0, NAN, 0]),
    np.array([0, 0.5, NAN]), np.array([INF, 0.5, 0]), np.array([-INF, 0.5, 0]), np.array([0, INF, 0]),
    np.array([0, -INF, 0]), np.array([0, 0.5, INF]), np.array([0, 0.5, -INF]), np.array([1e300, 0.5, -1e300]),
    [0.1, 0.5, 0.0], (0.1, 0.5, 0.0), None, 1, "abc", np.float32(1), np.array(1.0), np.array([0.1, 0.5]),
    np.array([[0.1, 0.5, 0]]), np.array([[0.1], [0.5], [0]]), np.array(["a", "b", "c"]),
]  # fmt: skip
ODD_CHOICES = [
    0, 4, 5, -1, np.int64(2), np.uint8(3), np.array(2), np.array([2]), 2.0, True, "1", np.float32(1), None, [1],
]  # fmt: skip


def outcome(env: gymnasium.Env, action, steps: int = 12) -> object:
    """What `steps` steps with this action earn, or the class of the error they raise."""
    env.reset(seed=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [env.step(action)[1:] for _ in range(steps)]
    except Exception as error:
        return type(error)


@pytest.fixture(scope="module")
def continuous_pair() -> Iterator[tuple[gymnasium.Env, gymnasium.Env]]:
    yield gymnasium.make(THEIRS), gymnasium.make(OURS)


@pytest.mark.parametrize("action", ODD_ACTIONS, ids=repr)
def test_odd_actions_do_what_they_do_in_gymnasium(continuous_pair, action):
    theirs, ours = continuous_pair
    expected = outcome(theirs, action)
    assert outcome(ours, action) == expected
    if not isinstance(expected, type):
        assert np.array_equal(ours.unwrapped.batch.cars.position[0, 0], np.float32(theirs.unwrapped.car.hull.position))


def test_odd_choices_do_what_they_do_in_gymnasium():
    theirs, ours = gymnasium.make(THEIRS, continuous=False), gymnasium.make(OURS, continuous=False)
    for action in ODD_CHOICES:
        assert outcome(ours, action, 3) == outcome(theirs, action, 3), action


ODD_BATCHES = [
    np.zeros((2, 3)), np.zeros((2, 3), int), np.zeros((2, 3)).tolist(), [np.zeros(3), np.zeros(3)], np.zeros((1, 3)),
    np.zeros((3, 3)), np.zeros((2, 4)), np.zeros((2, 2)), np.zeros(2), None, 1.0, np.zeros((2, 3, 1)), "ab",
    np.array([["a"] * 3] * 2), np.array([[0, NAN, 0], [0, 0, 0]]),
]  # fmt: skip
ODD_CHOICE_BATCHES = [
    np.array([1, 2]), np.array([1, 2], np.int32), np.array([1.0, 2.0]), [1, 2], np.array([1, 5]), np.array([-1, 2]),
    np.array([True, False]), np.array([1]), np.array([1, 1, 1]), np.array([[1], [1]]),
]  # fmt: skip


@pytest.mark.parametrize("continuous", [True, False])
def test_odd_batches_do_what_they_do_in_gymnasium(continuous):
    theirs = gymnasium.make_vec(THEIRS, num_envs=2, vectorization_mode="sync", continuous=continuous)
    ours = gymnasium.make_vec(OURS, num_envs=2, continuous=continuous)

    def rewards(env: VectorEnv, actions: object) -> object:
        env.reset(seed=1)
        try:
            return env.step(actions)[1].tolist()
        except Exception as error:
            return type(error)

    for actions in ODD_BATCHES if continuous else ODD_CHOICE_BATCHES:
        assert rewards(ours, actions) == rewards(theirs, actions), repr(actions)


def test_odd_seeds_and_masks_do_what_they_do_in_gymnasium():
    theirs = gymnasium.make_vec(THEIRS, num_envs=2, vectorization_mode="sync")
    ours = gymnasium.make_vec(OURS, num_envs=2)

    def after(env: VectorEnv, **keywords) -> object:
        env.reset(seed=3)
        try:
            env.reset(**keywords)
        except Exception as error:
            return type(error)
        return [generator.bit_generator.state for generator in env.np_random], env.np_random_seed

    mask = np.array([False, True])
    for seed in (None, 1, [1, 2], (3, 4), [None, 3], True, [1], np.array([1, 2]), np.int64(1), -1, 1.5, [1.5, 2]):
        assert after(ours, seed=seed) == after(theirs, seed=seed), repr(seed)
        assert after(ours, seed=seed, options={"reset_mask": mask}) == after(
            theirs, seed=seed, options={"reset_mask": mask}
        ), repr(seed)
    for wrong in ([True, False], np.array([1, 0]), np.zeros(2, bool), np.ones(3, bool)):
        options = {"reset_mask": wrong}
        assert after(ours, options=dict(options)) == after(theirs, options=dict(options)), repr(wrong)
    options = {"reset_mask": mask, "other": 1}
    ours.reset(options=options)
    assert options == {"other": 1}


def test_the_wrong_order_is_an_error():
    for env, action in (
        (CarRacing(), np.zeros(3)),
        (gymnasium.make(OURS), np.zeros(3)),
        (CarRacingVectorEnv(2), np.zeros((2, 3))),
    ):
        with pytest.raises(ResetNeeded):
            env.step(action)
        env.reset(seed=0)
        env.step(action)
        env.close()
        env.close()
        for late in (lambda env=env, action=action: env.step(action), lambda env=env: env.reset()):
            with pytest.raises(ClosedEnvironmentError):
                late()


def test_wrong_arguments_are_one_sentence():
    for keywords in ({"num_envs": 0}, {"obs_size": 100}, {"num_threads": 0}):
        with pytest.raises(UserError):
            CarRacingVectorEnv(**keywords)
    env = CarRacing()
    for options in (
        {"start": 1.5},
        {"start": "here"},
        {"speed": -1},
        {"speed": (9, 3)},
        {"speed": "fast"},
        {"speed": INF},
    ):
        with pytest.raises(UserError):
            env.reset(options=options)
    with pytest.raises(ValueError):
        CarRacingVectorEnv(2, autoreset_mode="sometimes")


# ------------------------------------------------------------------------------------------ the interface


def test_check_env_passes(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # its check of render mode "human" opens a window
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")  # Gymnasium's action space, too
        check_env(gymnasium.make(OURS).unwrapped)
        check_env(gymnasium.make(OURS, continuous=False, obs_size=64).unwrapped)


def test_make_and_make_vec_build_what_gymnasiums_do():
    ours, theirs = gymnasium.make(OURS), gymnasium.make(THEIRS)
    assert (ours.action_space, ours.observation_space) == (theirs.action_space, theirs.observation_space)
    assert ours.metadata == theirs.metadata
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps == 1000
    for continuous in (True, False):
        vector = gymnasium.make_vec(OURS, num_envs=3, continuous=continuous)
        sync = gymnasium.make_vec(THEIRS, num_envs=3, vectorization_mode="sync", continuous=continuous)
        assert (vector.action_space, vector.observation_space) == (sync.action_space, sync.observation_space)
        assert vector.single_action_space == sync.single_action_space
        assert vector.single_observation_space == sync.single_observation_space
        assert vector.metadata == sync.metadata and vector.num_envs == 3
        assert vector.unwrapped.max_episode_steps == 1000
    # Gymnasium's own way of making a batch works on our scalar environment too
    ours_in_sync = gymnasium.make_vec(OURS, num_envs=2, vectorization_mode="sync", obs_size=64)
    assert np.array_equal(
        ours_in_sync.reset(seed=5)[0], gymnasium.make_vec(OURS, num_envs=2, obs_size=64).reset(seed=5)[0]
    )


def test_a_pickled_environment_is_built_anew():
    env = pickle.loads(pickle.dumps(CarRacing("rgb_array", continuous=False, obs_size=64)))
    assert (env.render_mode, env.continuous, env.observation_space.shape) == ("rgb_array", False, (64, 64, 3))


@pytest.mark.parametrize("mode", ["rgb_array", "state_pixels", "human"])
def test_render_modes_show_what_gymnasiums_show(mode, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    theirs, ours = gymnasium.make(THEIRS, render_mode=mode), gymnasium.make(OURS, render_mode=mode)
    assert ours.unwrapped.render() is None  # nothing to show yet
    for env in (theirs, ours):
        env.reset(seed=6)
        for action in noise_actions(6, 40):
            env.step(action)
    expected = theirs.render()
    if mode == "human":
        assert ours.render() is None is expected
        window = ours.unwrapped.vector._window.pygame.surfarray.array3d(ours.unwrapped.vector._window.screen)
        assert window.shape == (1000, 800, 3) and len(np.unique(window.reshape(-1, 3), axis=0)) > 5
    else:
        picture = ours.render()
        assert picture.shape == expected.shape and picture.dtype == expected.dtype
        error = np.abs(picture.astype(np.int64) - expected).mean()
        assert error <= (0.5 if mode == "rgb_array" else FRAME_ERROR), error
        vector = gymnasium.make_vec(OURS, num_envs=2, render_mode=mode)
        vector.reset(seed=[6, 7])
        for action in noise_actions(6, 40):
            vector.step(np.stack([action, action]))
        pictures = vector.render()
        assert len(pictures) == 2 and np.array_equal(pictures[0], picture)
    theirs.close(), ours.close()


# --------------------------------------------------------------------------------------------- autoreset


def equal(ours: object, theirs: object) -> bool:
    """Equal values of equal types and dtypes; frames within tolerance."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and list(ours) == list(theirs) and all(equal(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, np.ndarray):
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return False
        if theirs.dtype == object:
            return all(equal(a, b) for a, b in zip(ours, theirs, strict=True))
        if theirs.ndim >= 3:
            assert_frames_agree(ours, theirs)
            return True
        return np.array_equal(ours, theirs)
    return ours == theirs


def batches_agree(
    mode: AutoresetMode, seeds: list[int], actions: np.ndarray, restart: int | None = None, **keywords
) -> dict[str, int]:
    """Step both batches with `actions` float32 (steps,N,3), resetting ended lanes where the mode leaves that to us.

    At step `restart`, amid an episode, lane 0 is reset without a seed and lane 1 with one.

    Returns how often a lane terminated and was truncated.
    """
    lanes = actions.shape[1]
    theirs = SyncVectorEnv([lambda: gymnasium.make(THEIRS, **keywords)] * lanes, autoreset_mode=mode)
    ours = CarRacingVectorEnv(lanes, autoreset_mode=mode, **keywords)
    counts = {"terminated": 0, "truncated": 0}

    def reset(**arguments) -> None:
        answers = [
            env.reset(**{k: v.copy() if k == "options" else v for k, v in arguments.items()}) for env in (ours, theirs)
        ]
        assert all(equal(a, b) for a, b in zip(*answers, strict=True))

    reset(seed=seeds)
    ended = np.zeros(lanes, bool)
    for step, lane_actions in enumerate(actions):
        if mode is AutoresetMode.DISABLED and ended.any():
            reset(options={"reset_mask": ended.copy()})
        if step == restart:
            reset(seed=[None] + [77] * (lanes - 1), options={"reset_mask": np.arange(lanes) < 2})
        our_answer, their_answer = ours.step(lane_actions), theirs.step(lane_actions)
        for part, a, b in zip(range(5), our_answer, their_answer, strict=True):
            assert equal(a, b), (part, step, a, b)
        ended = our_answer[2] | our_answer[3]
        counts["terminated"] += int(our_answer[2].sum())
        counts["truncated"] += int(our_answer[3].sum())
    assert [g.bit_generator.state for g in ours.np_random] == [g.bit_generator.state for g in theirs.np_random]
    return counts


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_autoreset_equals_sync_vector_env(mode):
    """Time limits of 7 steps; then laps that count as finished at once, cut at the same step or not."""
    counts = batches_agree(mode, [40, 41, 42], noise_actions(5, 24, lanes=3), 11, max_episode_steps=7)
    assert counts["truncated"] >= 6 and not counts["terminated"]
    counts = batches_agree(
        mode, [1, 2], noise_actions(5, 10, lanes=2), 4, max_episode_steps=1, lap_complete_percent=0.0
    )
    assert counts["truncated"] == counts["terminated"] >= 10


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_autoreset_after_leaving_the_playfield(mode):
    full_gas = np.tile(np.array([0, 1, 0], np.float32), (PLAYFIELD_STEPS + 3, 1, 1))
    assert batches_agree(mode, [PLAYFIELD_SEED], full_gas) == {"terminated": 1, "truncated": 0}


def test_a_finished_lane_rests_until_it_is_reset():
    env = CarRacingVectorEnv(3, max_episode_steps=5, autoreset_mode="Disabled")
    env.reset(seed=20)
    actions = noise_actions(3, 40, lanes=3)
    for step in range(5):
        frames, _, _, truncated, _ = env.step(actions[step])
    assert truncated.all()
    mask = np.array([False, True, False])
    env.reset(seed=[None, 9, None], options={"reset_mask": mask})
    state = env.batch.cars.position.copy()
    nan_gas = np.array([0, NAN, 0])
    alone = CarRacing()
    alone.reset(seed=9)
    for step in range(3):
        rested = np.where(mask[:, None], actions[step], nan_gas)  # what a resting lane is told does not matter
        again, rewards, terminated, truncated, infos = env.step(rested)
        frame, reward, *_ = alone.step(actions[step, 1])
        assert np.array_equal(again[~mask], frames[~mask]) and np.array_equal(again[1], frame)
        assert rewards.tolist() == [0, reward, 0]
        assert truncated.tolist() == [True, False, True] and not terminated.any() and infos == {}
    assert np.array_equal(env.batch.cars.position[~mask], state[~mask])


def test_a_terminated_lane_keeps_its_flag_and_tells_its_ending_once():
    env = CarRacingVectorEnv(2, lap_complete_percent=0.0, autoreset_mode="Disabled")
    env.reset(seed=1)
    first, again = env.step(np.zeros((2, 3))), env.step(np.zeros((2, 3)))
    assert first[2].all() and again[2].all() and not again[3].any() and not again[1].any()
    assert first[4]["lap_finished"].all() and again[4] == {}


def test_observations_are_copies_unless_told_otherwise():
    for copy in (True, False):
        env = CarRacingVectorEnv(2, copy=copy)
        first, _ = env.reset(seed=0)
        kept = first.copy()
        for actions in noise_actions(0, 5, lanes=2):
            second, *_ = env.step(actions)
        assert np.shares_memory(first, second) != copy
        assert np.array_equal(first, kept) == copy


# ----------------------------------------------------------------------------------------- batch invariance


class Record:
    """Everything a batch answers in lane order: frames, rewards, flags, for lanes driven through many episodes."""

    def __init__(self, env: CarRacingVectorEnv, seeds: np.ndarray, actions: np.ndarray):
        """`seeds` int (rounds,N) one episode a round and lane; `actions` float32 (rounds,steps,N,3)."""
        frames, rewards, flags = [], [], []
        for round_seeds, round_actions in zip(seeds, actions, strict=True):
            frames.append(env.reset(seed=round_seeds.tolist(), options={"start": "random", "speed": (0, 70)})[0])
            for step_actions in round_actions:
                frame, reward, terminated, truncated, _ = env.step(step_actions)
                frames.append(frame)
                rewards.append(reward)
                flags.append((terminated, truncated))
        self.frames, self.rewards, self.flags = np.stack(frames), np.stack(rewards), np.array(flags)

    def lanes_equal(self, lanes: slice | np.ndarray, other: "Record", other_lanes: slice | np.ndarray) -> bool:
        return (
            np.array_equal(self.frames[:, lanes], other.frames[:, other_lanes])
            and np.array_equal(self.rewards[:, lanes], other.rewards[:, other_lanes])
            and np.array_equal(self.flags[:, :, lanes], other.flags[:, :, other_lanes])
        )


def test_a_lane_does_not_notice_the_batch_it_is_in():
    """64 lanes, 7 of them, one of them, in another order, with one thread: bit for bit the same, after many resets."""
    rng = np.random.default_rng(1)
    seeds = rng.integers(1_000_000, size=(3, 64))
    actions = np.stack([noise_actions(round, 40, lanes=64) for round in range(3)])
    worn = CarRacingVectorEnv(64, num_threads=2, max_episode_steps=2, autoreset_mode="SameStep", obs_size=64)
    worn.reset(seed=1)
    for step_actions in noise_actions(9, 120, lanes=64):  # 60 resets in every lane
        worn.step(step_actions)
    worn.autoreset_mode, worn.max_episode_steps = AutoresetMode.DISABLED, 1000
    whole = Record(worn, seeds, actions)

    def lanes(chosen: np.ndarray, threads: int) -> Record:
        env = CarRacingVectorEnv(len(chosen), num_threads=threads, autoreset_mode="Disabled", obs_size=64)
        return Record(env, seeds[:, chosen], actions[:, :, chosen])

    everything = slice(None)
    for chosen in (np.array([13]), np.array([63]), np.arange(20, 27)):
        assert lanes(chosen, 2).lanes_equal(everything, whole, chosen)
    shuffled = rng.permutation(64)
    assert lanes(shuffled, 1).lanes_equal(everything, whole, shuffled)
    scalar = gymnasium.make(OURS, obs_size=64).unwrapped
    frames = []
    for round in range(3):
        frames.append(scalar.reset(seed=int(seeds[round, 5]), options={"start": "random", "speed": (0, 70)})[0])
        frames.extend(scalar.step(action)[0] for action in actions[round, :, 5])
    assert np.array_equal(np.stack(frames), whole.frames[:, 5])


# ------------------------------------------------------------------------------------------- reset options


def test_a_plain_reset_takes_no_draw_of_ours():
    plain, trained = CarRacing(), CarRacing()
    plain.reset(seed=31)
    trained.reset(seed=31, options={"start": "random", "speed": (10, 60), "zoomed": True})
    assert np.array_equal(trained.batch.tracks.road[0], plain.batch.tracks.road[0])
    generator = plain.np_random  # the track's draws first, then the tile's, then the speed's
    tile, speed = generator.integers(plain.batch.tracks.count[0]), generator.uniform(10, 60)
    assert generator.bit_generator.state == trained.np_random.bit_generator.state
    named = CarRacing()
    named.reset(seed=31, options={"start": int(tile), "speed": float(speed), "zoomed": True})
    assert np.array_equal(named.batch.frames, trained.batch.frames)


def test_reset_options_put_the_car_where_they_say():
    env = CarRacing()
    for tile, speed in ((0, 0.0), (57, 30.0), (-1, 70.0)):
        env.reset(seed=3, options={"start": tile, "speed": speed})
        cars, tracks = env.batch.cars, env.batch.tracks
        _, beta, x, y = tracks.centre[0, tile % tracks.count[0]]
        assert np.hypot(*(cars.position[0, 0] - (x, y))) < 2.5  # one step at 70 units/s is 1.4
        velocity = np.hypot(*cars.velocity[0, 0])
        assert abs(velocity - speed) < max(2.5, 0.05 * speed)
        if speed:
            heading = np.array([-np.sin(beta), np.cos(beta)])
            assert heading @ cars.velocity[0, 0] > 0.98 * velocity
            forward = [env.step(np.array([0, 0.3, 0]))[1] for _ in range(30)]
            assert sum(forward) > 0  # it rolls along the road and meets new tiles
    env.reset(seed=3)
    assert env.batch.cars.time[0] == pytest.approx(0.02)
    env.reset(seed=3, options={"zoomed": True})
    assert env.batch.cars.time[0] == pytest.approx(1.02)


def test_random_starts_are_spread_over_the_track():
    env = CarRacingVectorEnv(200, obs_size=64)
    env.reset(seed=0, options={"start": "random", "speed": (0, 70), "zoomed": True})
    angles = np.arctan2(env.batch.cars.position[:, 0, 1], env.batch.cars.position[:, 0, 0])
    assert np.histogram(angles, bins=6, range=(-np.pi, np.pi))[0].min() >= 10
    speeds = np.hypot(*env.batch.cars.velocity[:, 0].T)
    assert speeds.min() < 10 and speeds.max() > 60


# ---------------------------------------------------------------------------------------------------- soak


def resident_megabytes() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.slow
def test_two_million_steps_with_resets_do_not_grow_in_memory():
    """31,250 steps of 64 lanes in all three autoreset modes, more than 20,000 resets; the first tenth warms up."""
    envs = [CarRacingVectorEnv(64, max_episode_steps=97, autoreset_mode=mode) for mode in AutoresetMode]
    for env in envs:
        env.reset(seed=0)
    actions = noise_actions(0, 500, lanes=64)
    sizes, resets = [], 0
    for step in range(31_250):
        env = envs[step % 3]
        *_, terminated, truncated, _ = env.step(actions[step % 500])
        ended = terminated | truncated
        resets += int(ended.sum())
        if env.autoreset_mode is AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
        if step % 3_125 == 0:
            sizes.append(resident_megabytes())
    assert resets > 20_000
    assert sizes[-1] - sizes[1] < 4, sizes
