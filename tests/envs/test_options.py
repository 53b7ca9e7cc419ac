"""Each option of the CarRacing environments against its plain definition.

Legend: N lanes, S the frame's side.
"""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d import car_racing
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation

import worldmodels  # noqa: F401  (registers the environment)
from conformance.physics import BLANK, lap_driver
from tests.envs.test_carracing_env import equal, noise_actions
from worldmodels.envs.carracing.env import CarRacing
from worldmodels.envs.carracing.observe import AHEAD_POINTS, AHEAD_TILES, STATE
from worldmodels.envs.carracing.vector_env import CarRacingVectorEnv
from worldmodels.errors import UserError

OURS = "worldmodels/CarRacing-v3"


# ------------------------------------------------------------------------------------------------- state


def plain_state(batch, lane: int) -> np.ndarray:
    """What docs/carracing.md says of the state vector, in numpy and float64."""
    cars, tracks = batch.cars, batch.tracks
    angle = float(cars.angle[lane, 0])
    forward, left = np.array([-math.sin(angle), math.cos(angle)]), np.array([-math.cos(angle), -math.sin(angle)])
    position = cars.position[lane, 0].astype(float)
    centre = tracks.centre[lane, : tracks.count[lane], 2:]
    nearest = int(np.argmin(((centre - position) ** 2).sum(axis=1)))
    points = centre[(nearest + AHEAD_TILES * np.arange(AHEAD_POINTS)) % len(centre)] - position
    velocity = cars.velocity[lane, 0].astype(float)
    parts = {
        "position": position,
        "angle": [angle],
        "velocity": [velocity @ forward, velocity @ left],
        "spin": [cars.spin[lane, 0]],
        "omega": cars.omega[lane],
        "steering": cars.joint_angle[lane],
        "on_road": cars.on_road[lane],
        "progress": [tracks.visited[lane].sum() / tracks.count[lane]],
        "ahead": np.stack([points @ forward, points @ left], axis=1).ravel(),
    }
    assert list(parts) == list(STATE)
    return np.concatenate([np.asarray(parts[name], float) for name in STATE])


def test_the_state_is_what_its_parts_say():
    env = CarRacingVectorEnv(3, observation="state")
    states = [env.reset(seed=3)[0]]
    for step, actions in enumerate(noise_actions(1, 150, lanes=3)):
        states.append(env.step(actions)[0])
        if step % 10 == 0:
            expected = np.stack([plain_state(env.batch, lane) for lane in range(3)])
            np.testing.assert_allclose(states[-1], expected, rtol=1e-6, atol=1e-4)
    assert env.single_observation_space.contains(states[-1][0]) and states[-1].dtype == np.float32
    scalar = gymnasium.make(OURS, observation="state")
    assert np.array_equal(scalar.reset(seed=4)[0], states[0][1])
    ahead = states[0][0, STATE["ahead"]].reshape(-1, 2)
    assert (ahead[1:5, 0] > 0).all()  # the road lies before the car


# -------------------------------------------------------------------------------------------- frame skip


@pytest.mark.parametrize("frames", ["fast", "exact"])
def test_frame_skip_is_that_many_steps(frames):
    skipping, stepping = CarRacing(frame_skip=4, frames=frames), CarRacing(frames=frames)
    assert np.array_equal(skipping.reset(seed=5)[0], stepping.reset(seed=5)[0])
    for action in noise_actions(2, 12):
        frame, reward, *_ = skipping.step(action)
        expected = 0.0
        for _ in range(4):
            one, part, *_ = stepping.step(action)
            expected += part
        assert np.array_equal(frame, one) and reward == expected


def test_frame_skip_stops_at_an_ending():
    """Lanes end in different steps of a skip; each shows the frame of its own last step."""
    full_gas = np.array([0, 1, 0], np.float32)
    alone = []
    for seed in (658, 659):  # 658 leaves the playfield after 161 steps
        env = CarRacing()
        env.reset(seed=seed)
        history = [env.step(full_gas) for _ in range(164)]
        alone.append(history)
    batch = CarRacingVectorEnv(2, frame_skip=4, autoreset_mode="Disabled")
    batch.reset(seed=[658, 659])
    for _ in range(41):
        frames, rewards, terminated, _, infos = batch.step(np.stack([full_gas] * 2))
    assert terminated.tolist() == [True, False] and infos["lap_finished"].tolist() == [False, False]
    assert np.array_equal(frames[0], alone[0][160][0]) and np.array_equal(frames[1], alone[1][163][0])
    assert rewards[0] == -100.0 and rewards[1] == sum(step[1] for step in alone[1][160:164])
    assert (50 * batch.batch.cars.time).round().tolist() == [162, 165], "steps, the reset's included"


# -------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("frames", ["fast", "exact"])
@pytest.mark.parametrize("size", [96, 64])
def test_without_hud_only_the_bar_is_black(frames, size):
    plain, bare = CarRacing(frames=frames, obs_size=size), CarRacing(frames=frames, obs_size=size, hud=False)
    pairs = [(plain.reset(seed=1)[0], bare.reset(seed=1)[0])]
    pairs += [(plain.step(action)[0], bare.step(action)[0]) for action in noise_actions(3, 20)]
    bar = size * 84 // 96
    for whole, without in pairs:
        assert whole[bar:].any() and not without[bar:].any()
        assert np.array_equal(whole[:bar], without[:bar])


@pytest.mark.parametrize("size", [96, 64])
def test_grayscale_is_gymnasiums_wrapper(size):
    env = CarRacingVectorEnv(2, grayscale=True, obs_size=size, domain_randomize=True)
    wrapped = GrayscaleObservation(CarRacing(obs_size=size, domain_randomize=True))
    assert env.single_observation_space == wrapped.observation_space
    assert np.array_equal(env.reset(seed=8)[0][0], wrapped.reset(seed=8)[0])
    for action in noise_actions(4, 30):
        assert np.array_equal(env.step(np.stack([action] * 2))[0][0], wrapped.step(action)[0])


def test_frames_stack_through_gymnasiums_wrapper():
    env = FrameStackObservation(gymnasium.make(OURS, grayscale=True, obs_size=64), 4)
    assert env.reset(seed=0)[0].shape == env.step(np.zeros(3))[0].shape == (4, 64, 64)


# -------------------------------------------------------------------------------------------------- tracks


def road(env, lane: int = 0) -> np.ndarray:
    return env.unwrapped.batch.tracks.road[lane, : env.unwrapped.batch.tracks.count[lane]]


def test_a_track_seed_is_the_track_of_that_seed():
    named, plain = CarRacing(), CarRacing()
    named.reset(seed=1)
    before = named.np_random.bit_generator.state
    named.reset(options={"track_seed": 77})
    assert named.np_random.bit_generator.state == before  # nothing was drawn from the lane's own
    plain.reset(seed=77)
    assert np.array_equal(road(named), road(plain))
    named.reset()
    assert not np.array_equal(road(named), road(plain))

    batch = CarRacingVectorEnv(2, obs_size=64)
    batch.reset(seed=1, options={"track_seed": [5, 77]})
    assert np.array_equal(road(batch, 1), road(plain)) and not np.array_equal(road(batch, 0), road(plain))
    batch.reset(options={"track_seed": 77, "reset_mask": np.array([True, False])})
    assert np.array_equal(road(batch, 0), road(plain))


def test_a_list_of_tracks_is_all_that_is_driven():
    wanted = [road(env) for env in (CarRacing(track_seed=seed) for seed in (3, 4, 5)) if env.reset()]
    batch = CarRacingVectorEnv(4, track_seed=[3, 4, 5], max_episode_steps=1, autoreset_mode="SameStep", obs_size=64)
    batch.reset(seed=0)
    seen = []
    for _ in range(12):
        batch.step(np.zeros((4, 3)))
        for lane in range(4):
            matches = [np.array_equal(road(batch, lane), track) for track in wanted]
            assert sum(matches) == 1
            seen.append(matches.index(True))
    assert min(np.bincount(seen, minlength=3)) > 5


# ------------------------------------------------------------------------------------------------ telemetry


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_telemetry_tells_progress_and_speed(mode):
    keywords = {"telemetry": True, "obs_size": 64, "lap_complete_percent": 0.02, "max_episode_steps": 30}
    ours = CarRacingVectorEnv(2, autoreset_mode=mode, **keywords)
    theirs = SyncVectorEnv([lambda: gymnasium.make(OURS, **keywords)] * 2, autoreset_mode=mode)
    ended = np.zeros(2, bool)
    answers = ours.reset(seed=1), theirs.reset(seed=1)
    for actions in noise_actions(7, 70, lanes=2):
        assert equal(answers[0][-1], answers[1][-1])
        if mode is AutoresetMode.DISABLED and ended.any():
            answers = [env.reset(options={"reset_mask": ended.copy()}) for env in (ours, theirs)]
            assert equal(answers[0][-1], answers[1][-1])
        answers = ours.step(actions), theirs.step(actions)
        ended = answers[0][2] | answers[0][3]
    batch = ours.batch
    expected = [batch.tracks.visited[lane].sum() / batch.tracks.count[lane] for lane in range(2)]
    assert answers[0][-1]["progress"].tolist() == expected
    np.testing.assert_allclose(answers[0][-1]["speed"], np.hypot(*batch.cars.velocity[:, 0].T), rtol=1e-6)


# ------------------------------------------------------------------------------------------------- lap rule


class Crossing(car_racing.FrictionDetector):
    """Gymnasium's pull request 1670: the lap is checked at every contact with tile 0."""

    def _contact(self, contact, begin):
        super()._contact(contact, begin)
        tiles = [fixture.body.userData for fixture in (contact.fixtureA, contact.fixtureB)]
        tile = next((t for t in tiles if t and "road_friction" in t.__dict__), None)
        wheel = next((t for t in tiles if t and "tiles" in t.__dict__), None)
        share = self.env.tile_visited_count / len(self.env.track)
        if begin and tile and wheel and tile.idx == 0 and share > self.lap_complete_percent:
            self.env.new_lap = True


class UndrawnCrossing(car_racing.CarRacing):
    """Gymnasium's CarRacing with that rule, without its renderer."""

    def _render(self, mode: str) -> np.ndarray:
        return BLANK


def test_the_lap_rule_crossing_is_the_pull_requests(monkeypatch):
    """A lap with a detour: at the line one rule ends it, the other drives on for the missed tiles."""
    monkeypatch.setattr(car_racing, "FrictionDetector", Crossing)
    theirs = UndrawnCrossing(lap_complete_percent=0.5)
    theirs.reset(seed=13)
    ours = {rule: CarRacing(observation="state", lap_complete_percent=0.5, lap_rule=rule) for rule in RULES}
    for env in ours.values():
        env.reset(seed=13)
    driver = lap_driver(theirs, np.random.default_rng(13))
    terminated = False
    for step in range(1000):
        action = next(driver)
        if 100 < step < 106:
            action = np.array([0.5, 0.2, 0], np.float32)  # off the road
        answers = {rule: env.step(action) for rule, env in ours.items()}
        _, reward, terminated, _, info = theirs.step(action)
        assert answers["crossing"][1:] == (reward, terminated, False, info)
        assert not answers["gymnasium"][2] and answers["gymnasium"][1] == reward
        if terminated:
            break
    assert terminated and info == {"lap_finished": True}


RULES = ("gymnasium", "crossing")


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "keywords",
    [
        {"frames": "pretty"},
        {"observation": "ram"},
        {"observation": "state", "frames": "exact"},
        {"observation": "state", "obs_size": 64},
        {"observation": "state", "grayscale": True},
        {"observation": "state", "hud": False},
        {"frame_skip": 0},
        {"frame_skip": 1.5},
        {"frame_skip": True},
        {"lap_rule": "mine"},
        {"track_seed": []},
        {"track_seed": "a"},
        {"track_seed": -1},
        {"track_seed": [1, 2.5]},
    ],
)
def test_wrong_options_are_one_sentence(keywords):
    for make in (CarRacing, lambda **k: CarRacingVectorEnv(2, **k)):
        with pytest.raises(UserError) as caught:
            make(**keywords)
        assert next(iter(keywords)) in str(caught.value) or "track_seed" in str(caught.value)


def test_wrong_track_seeds_of_a_reset_are_one_sentence():
    for env, wrong in ((CarRacing(), [1, 2]), (CarRacingVectorEnv(2), [1, 2, 3]), (CarRacing(), "seven")):
        with pytest.raises(UserError, match="track_seed"):
            env.reset(options={"track_seed": wrong})
