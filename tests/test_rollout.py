"""The loop: every episode once, each by its own candidate, whatever the number of lanes."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.toy import TOY, Toy
from worldmodels import envs
from worldmodels.envs import World
from worldmodels.envs.frames import area_weights, as_frames
from worldmodels.envs.seeds import DEVELOPMENT, HELD_OUT, SELECTION, training_seeds
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, GiveUp, Rollout, drive, ending


class Steady:
    """Candidate k always takes action k; remembers which frames it was shown."""

    def begin(self, lanes, episodes) -> None:
        if not hasattr(self, "candidate"):
            self.candidate = {}
        for lane, episode in zip(lanes, episodes, strict=True):
            self.candidate[lane] = episode.candidate

    def act(self, lanes, frames):
        assert frames.shape == (len(lanes), 64, 64, 3) and frames.dtype == np.uint8
        return np.eye(3, dtype=np.float32)[[self.candidate[lane] for lane in lanes]]


def driven(num_envs: int, episodes: list[Episode], record: bool = False):
    env = envs.make(World(TOY), num_envs)
    kind = envs.actions_for(World(TOY), env.single_action_space)
    rollouts = {}
    result = drive(env, kind, Steady(), episodes, on_rollout=rollouts.__setitem__ if record else None)
    return *result, rollouts


def alone(episode: Episode) -> tuple[float, int]:
    """The same episode on the plain Gymnasium environment."""
    env = gymnasium.make(TOY, max_episode_steps=18)
    env.reset(seed=episode.seed)
    score, steps, over = 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(episode.candidate)
        score, steps, over = score + reward, steps + 1, terminated or truncated
    return score, steps


EPISODES = [Episode(seed, candidate) for seed in (3, 1, 4) for candidate in (0, 2, 1, 2)]


@pytest.mark.parametrize("num_envs", [1, 5, 12])
def test_scores_are_those_of_each_episode_driven_alone(num_envs: int) -> None:
    scores, lengths, _ = driven(num_envs, EPISODES)
    expected = [alone(episode) for episode in EPISODES]
    assert scores.tolist() == [score for score, _ in expected]
    assert lengths.tolist() == [steps for _, steps in expected]
    assert len(set(lengths.tolist())) > 1, "episodes of one length would not test lanes that rest"


def test_recorded_rollouts_do_not_depend_on_the_lanes() -> None:
    *_, one = driven(1, EPISODES, record=True)
    *_, many = driven(7, EPISODES, record=True)
    assert one.keys() == many.keys() == set(range(len(EPISODES)))
    for index, rollout in one.items():
        for name in ("frames", "actions", "rewards", "terminals"):
            np.testing.assert_array_equal(getattr(rollout, name), getattr(many[index], name))
        assert len(rollout.frames) == len(rollout.actions) + 1
        assert rollout.terminals[-1] == (rollout.rewards.sum() == 12)
        assert not rollout.terminals[:-1].any()


def test_how_episodes_end() -> None:
    """The toy: at the edge after 12 steps, else cut; CarRacing: our lanes and Gymnasium's say that the car left."""
    env = envs.make(World(TOY), 5)
    endings: dict[int, str] = {}
    _, lengths = drive(env, envs.actions_for(World(TOY), env.single_action_space), Steady(), EPISODES,
                       on_end=endings.__setitem__)  # fmt: skip
    assert [endings[i] for i in range(12)] == ["terminated" if length < 18 else "time" for length in lengths]
    assert set(endings.values()) == {"terminated", "time"}
    assert (ending(True, True), ending(True, False), ending(False, None)) == ("lap", "off", "time")


@pytest.mark.parametrize("env_id", ["worldmodels/CarRacing-v3", "CarRacing-v3"])
def test_a_car_that_leaves_the_playfield_is_off(env_id: str) -> None:
    """Thrown out there, since driving takes hundreds of steps."""

    class Thrown(Steady):
        def act(self, lanes, frames):
            if self.step == 1:
                throw(env)
            self.step += 1
            return np.zeros((len(lanes), 3), np.float32)

    env, endings = envs.make(World(env_id), 2, max_steps=5), {}
    policy = Thrown()
    policy.step = 0
    kind = envs.actions_for(World(env_id), env.single_action_space)
    drive(env, kind, policy, [Episode(1), Episode(2)], on_end=endings.__setitem__)
    assert endings == {0: "off", 1: "time"}


def throw(env) -> None:
    """The car of lane 0, far away."""
    if env.spec.id == "CarRacing-v3":
        env.envs[0].unwrapped.car.hull.position = (1000.0, 0.0)
    else:
        env.batch.cars.position[0] += 1000
        env.batch.cars.mass_centre[0] += 1000


def test_area_weights_are_an_exact_area_average() -> None:
    """64 of 96 equals averaging a threefold-doubled image in blocks."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(2, 96, 96, 3), dtype=np.uint8)
    doubled = images.repeat(2, axis=1).repeat(2, axis=2).astype(np.float64)
    expected = np.floor(doubled.reshape(2, 64, 3, 64, 3, 3).mean(axis=(2, 4)) + 0.5)
    assert np.abs(as_frames(images).astype(int) - expected).max() <= 1
    assert (as_frames(images) != expected).mean() < 1e-3  # float32 sums round the other way at a half
    np.testing.assert_allclose(area_weights(40, 64).sum(axis=1), 1, rtol=1e-6)


def test_crop_and_grey_images() -> None:
    images = np.zeros((1, 80, 64), np.uint8)
    images[:, 64:] = 255
    assert as_frames(images[..., None], crop=(0, 64, 0, 64)).max() == 0
    assert as_frames(images).shape == (1, 64, 64, 3)


def test_a_description_crops_and_cuts() -> None:
    """The toy's table entry: 4 rows above and below are cropped, episodes end after 18 steps."""
    env, plain = envs.make(World(TOY), 1), gymnasium.make(TOY)
    frames, _ = env.reset(seed=5)
    image, _ = plain.reset(seed=5)
    np.testing.assert_array_equal(frames[0], as_frames(image[None, 4:36])[0])
    scores, lengths, _ = driven(1, [Episode(5, candidate=0)])
    assert lengths.tolist() == [18] and scores.tolist() == [0]


def test_training_never_draws_a_selection_or_held_out_track() -> None:
    seeds = [seed for generation in range(500) for seed in training_seeds(7, generation, count=16)]
    assert max(seeds) < SELECTION < DEVELOPMENT < HELD_OUT
    assert training_seeds(7, 3, count=16) == training_seeds(7, 3, count=16) != training_seeds(7, 4, count=16)


def test_environments_that_cannot_be_learned_are_one_sentence() -> None:
    with pytest.raises(UserError, match="V needs images"):
        envs.make(World("CartPole-v1"), 1)
    with pytest.raises(UserError, match="NoSuchEnvironment-v0 is not registered"):
        envs.make(World("NoSuchEnvironment-v0"), 1)


def test_a_hopeless_episode_is_given_up_and_scored_to_its_horizon() -> None:
    """Candidate 0 never reaches the edge; candidate 2 does and is left alone: idle steps count anew after a reward."""
    env = envs.make(World(TOY), 3)
    kind = envs.actions_for(World(TOY), env.single_action_space)
    scores, lengths = drive(env, kind, Steady(), EPISODES, give_up=GiveUp(after=11, horizon=18))
    expected = [alone(episode) for episode in EPISODES]
    assert scores.tolist() == [score for score, _ in expected], "the toy pays 0 for idle steps"
    gave_up = [length == 11 for length in lengths]
    assert gave_up == [score == 0 for score, _ in expected] and any(gave_up) and not all(gave_up)


def test_the_score_of_a_given_up_episode_goes_on_at_its_idle_rate(monkeypatch) -> None:
    """−0.5 a step from the start, given up after 4 of 18 steps: −9 in all."""
    from tests.helpers.toy import Toy

    step = Toy.step
    monkeypatch.setattr(Toy, "step", lambda self, action: (*(out := step(self, action))[:1], -0.5, *out[2:]))
    env = envs.make(World(TOY), 1)
    kind = envs.actions_for(World(TOY), env.single_action_space)
    scores, lengths = drive(env, kind, Steady(), EPISODES[:1], give_up=GiveUp(after=4, horizon=18))
    assert scores.tolist() == [-9.0] and lengths.tolist() == [4]


@pytest.mark.parametrize("env_id", ["worldmodels/CarRacing-v3", "CarRacing-v3"])
def test_a_lane_that_was_given_up_is_not_driven_on(env_id: str) -> None:
    """Its car stands where it was left, with the flags of an episode that was cut, while the other lane drives on."""

    class Waits(Steady):
        def act(self, lanes, frames):
            return np.array([[0, 1, 0], [0, 0, 0]], np.float32)[lanes]

    env = envs.make(World(env_id), 2, max_steps=60)
    kind = envs.actions_for(World(env_id), env.single_action_space)
    _, lengths = drive(env, kind, Waits(), [Episode(1), Episode(1)], give_up=GiveUp(after=40, horizon=60))
    assert lengths.tolist() == [60, 41], "the first step is paid: the tile at the start"
    _, _, terminated, truncated, _ = env.step(np.zeros((2, 3), np.float32))
    assert not terminated.any() and truncated.all()
    if env_id == "CarRacing-v3":
        assert [round(lane.unwrapped.t * 50) for lane in env.envs] == [61, 42]
    else:
        assert (env.batch.cars.time * 50).round().tolist() == [61, 42], "a reset takes one step"


# ------------------------------------------------------------------------------------------ scripted episodes


class Scripted(VectorEnv):
    """An episode pays what the script of its seed says, and then ends; frames are counted up in one buffer, which is
    handed out again and again; a lane at rest pays what is no number."""

    spec = None

    def __init__(self, lanes: int, scripts: dict[int, list[float]]):
        self.num_envs, self.scripts, self.told, self.rested = lanes, scripts, list[dict](), list[int]()
        self.left: list[list[float]] = [[] for _ in range(lanes)]
        self.frames = np.zeros((lanes, 64, 64, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.told.append(options)
        for lane in np.flatnonzero(options["reset_mask"]):
            self.left[lane], self.frames[lane] = list(self.scripts[seed[lane]]), 10 * lane
        return self.frames, {}

    def step(self, actions):
        rewards, over = np.full(self.num_envs, np.nan), np.zeros(self.num_envs, bool)
        for lane, left in enumerate(self.left):
            if left:
                rewards[lane], over[lane] = left.pop(0), not left
                self.frames[lane] += 1
        return self.frames, rewards, over, np.zeros(self.num_envs, bool), {}

    def rest(self, lanes):
        self.rested += lanes.tolist()


class Counts:
    """Acts with the number of the call; remembers which lanes it was asked about."""

    def __init__(self):
        self.asked: list[list[int]] = []

    def begin(self, lanes, episodes) -> None:
        pass

    def act(self, lanes, frames):
        self.asked.append(lanes.tolist())
        return np.full((len(lanes), 1), len(self.asked), np.float32)


def scripted(lanes: int, *scripts: list[float], **more) -> tuple[list[float], list[int], Scripted, Counts]:
    env, policy = Scripted(lanes, dict(enumerate(scripts))), Counts()
    kind = SimpleNamespace(size=1, to_env=lambda vectors: vectors)
    scores, lengths = drive(env, kind, policy, [Episode(seed) for seed in range(len(scripts))], **more)
    return scores.tolist(), lengths.tolist(), env, policy


def test_the_rate_of_a_given_up_episode_is_that_since_its_last_reward() -> None:
    """Given up after 2 steps without a reward, at step 5 of 10: five more at the −2 a step of the last two. The next
    episode of the lane begins anew, and one that ends in the step in which it would be given up is not."""
    scores, lengths, *_ = scripted(
        1, [-9.0, 3.0, 1.0, -1.0, -3.0, 7.0], [-1.0, -1.0, 9.0], [5.0, -1.0, -1.0], give_up=GiveUp(2, horizon=10)
    )
    assert lengths == [5, 2, 3]
    assert scores == [-9 + 3 + 1 - 1 - 3 + 5 * -2.0, -2 + 8 * -1.0, 3.0]
    assert scripted(1, [-2.0, 0.0, 9.0], give_up=GiveUp(2, horizon=10))[:2] == ([-2 + 8 * -1.0], [2]), "0 is no reward"


def test_the_environment_is_told_of_those_that_were_given_up() -> None:
    *_, env, _ = scripted(2, [1.0] * 5, [-1.0] * 9, give_up=GiveUp(2, horizon=10))
    assert env.rested == [1, 0]
    *_, env, _ = scripted(2, [1.0] * 5, [-1.0] * 9)
    assert not env.rested


def test_every_lane_that_drives_is_asked_and_no_other_and_progress_is_told() -> None:
    steps: list[int] = []
    scores, lengths, env, policy = scripted(2, [1.0], [1.0] * 4, [2.0, 2.0], on_step=steps.append, options={"a": 1})
    assert (scores, lengths) == ([1.0, 4.0, 4.0], [1, 4, 2]) and Episode(1) == Episode(1, candidate=0)
    assert policy.asked == [[0, 1], [0, 1], [0, 1], [1]] and steps == [2, 2, 2, 1]
    assert [told["reset_mask"].tolist() for told in env.told] == [[True, True], [True, False]]
    assert all(told["a"] == 1 for told in env.told)


def test_recordings_are_copies_of_what_is_handed_out() -> None:
    """Also the last frame, and the action vectors, of which there is one buffer for all steps."""
    rollouts: dict[int, Rollout] = {}
    scripted(2, [1.0, 2.0], [3.0] * 3, [0.0], on_rollout=rollouts.__setitem__)
    assert [rollouts[i].frames[:, 0, 0, 0].tolist() for i in range(3)] == [[0, 1, 2], [10, 11, 12, 13], [0, 1]]
    assert [rollouts[i].actions[:, 0].tolist() for i in range(3)] == [[1, 2], [1, 2, 3], [3]]
    assert [rollouts[i].rewards.tolist() for i in range(3)] == [[1, 2], [3, 3, 3], [0]]
    assert all(
        rollout.terminals.tolist() == [False] * (len(rollout.rewards) - 1) + [True] for rollout in rollouts.values()
    )
    assert {x.dtype for r in rollouts.values() for x in (r.actions, r.rewards)} == {np.dtype(np.float32)}
    assert {r.terminals.dtype for r in rollouts.values()} == {np.dtype(bool)}


def test_a_recording_that_is_given_up_has_no_end() -> None:
    rollouts: dict[int, Rollout] = {}
    scripted(1, [0.0] * 9, give_up=GiveUp(3, horizon=9), on_rollout=rollouts.__setitem__)
    assert rollouts[0].terminals.tolist() == [False] * 3 and len(rollouts[0].frames) == 4


def test_the_largest_reward_is_one_that_float32_holds() -> None:
    most = float(np.finfo(np.float32).max)
    assert scripted(1, [most])[0] == [most]
    with pytest.raises(UserError, match="Scripted paid .* at step 1 of the episode with seed 0"):
        scripted(1, [most * (1 + 1e-7)])
    with pytest.raises(UserError, match="Scripted paid inf at step 2 of the episode with seed 1"):
        scripted(2, [1.0, 1.0], [1.0, np.inf])


class Pays(Toy):
    """Pays `reward` at step 3."""

    reward = 0.0

    def step(self, action):
        self.steps = getattr(self, "steps", 0) + 1
        return self.render(), self.reward if self.steps == 3 else 0.5, self.steps == 5, False, {}


@pytest.mark.parametrize("give_up", [None, GiveUp(after=2, horizon=5)])
@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf, 1e39, -1e300])
def test_a_reward_that_cannot_be_stored_names_environment_seed_and_step(
    reward: float, give_up: GiveUp | None, monkeypatch
) -> None:
    monkeypatch.setattr(Pays, "reward", reward)
    if (env_id := "worldmodels-tests/Pays-v0") not in gymnasium.registry:
        gymnasium.register(env_id, Pays)
    lanes = envs.make(World(env_id), 1)
    with pytest.raises(
        UserError, match=r"Pays-v0 paid .* at step 3 of the episode with seed 8: a reward must be a finite"
    ):
        drive(
            lanes, envs.actions_for(World(env_id), lanes.single_action_space), Steady(), [Episode(8)], give_up=give_up
        )


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), channels=st.sampled_from([0, 1, 3]), seed=st.integers(0, 99)
)
@settings(max_examples=60)
def test_images_of_any_size_become_their_area_average(height: int, width: int, channels: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels)[: 3 if channels else 2], np.uint8)
    frame = as_frames(image[None])[0]
    pixels = image.reshape(height, width, -1).astype(np.float64)
    rows = np.repeat(pixels, 64, axis=0).reshape(64, height, width, -1).mean(axis=1)  # 64 copies of each row, whose
    exact = np.repeat(rows, 64, axis=1).reshape(64, 64, width, -1).mean(axis=2)  # averages are what covers a pixel
    assert frame.dtype == np.uint8 and np.abs(frame - exact).max() <= 0.5 + 1e-3
    steady = as_frames(np.full_like(image[None], seed))
    assert (steady == seed).all() and steady.shape == (1, 64, 64, 3)
