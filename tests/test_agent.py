"""V, M and C acting together: the loop of the paper, whatever the lanes; and the errors of models that do not fit."""

from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest
import torch

from worldmodels import envs, pretrained, quantized
from worldmodels.agent import Agent, Eyes
from worldmodels.controller import Controller
from worldmodels.envs import World
from worldmodels.envs.actions import OneHot
from worldmodels.errors import UserError
from worldmodels.memory import MDRNN
from worldmodels.rollout import Episode
from worldmodels.vision import VAE
from worldmodels.workers import places
from worldmodels.workers.driver import ROWS

CAR = envs.actions_in(World("worldmodels/CarRacing-v3"))
C = Controller()
EPISODES = [Episode(seed, candidate) for candidate in (0, 1, 2) for seed in (7, 8)]


@pytest.fixture(scope="module")
def models() -> tuple[VAE, MDRNN]:
    torch.manual_seed(0)
    return VAE().requires_grad_(False), MDRNN().requires_grad_(False)


def population(parameters: int = 867) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, parameters)).astype(np.float32)


def make(models, sample_z: bool = False, seed: int = 0) -> Agent:
    vae, mdrnn = models
    return Agent(Eyes(vae, sample_z), mdrnn, C, population(), CAR, seed)


def frames(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(256, size=(6, 64, 64, 3), dtype=np.uint8)


def driven(models, lanes: list[list[int]], **settings) -> np.ndarray:
    """Actions (steps, 6, 3) of six lanes whose episodes are driven in the given groups, one agent a group."""
    actions = np.zeros((4, 6, 3))
    for group in lanes:
        agent = make(models, **settings)
        index = np.arange(len(group))
        agent.begin(index, [EPISODES[i] for i in group])
        for step in range(4):
            actions[step, group] = agent.act(index, frames(step)[group])
    return actions


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((96, 96, 3), np.float32), np.zeros((3, 96, 96), np.uint8), np.zeros((96, 96, 4), np.uint8),
        np.zeros((1, 96, 96, 3), np.uint8), np.zeros((0, 96, 3), np.uint8), np.zeros(96, np.uint8), None,
    ],
    ids=["floats", "channels first", "opacity", "batch", "empty", "line", "nothing"],
)  # fmt: skip
def test_an_observation_of_another_kind_is_refused(models, image) -> None:
    """Floats in [0, 1] would pass for a black picture."""
    with pytest.raises(UserError, match=r"an agent sees uint8 \(height, width, 3\)"):
        make(models)(image)


@pytest.mark.parametrize("settings", [{}, {"sample_z": True, "seed": 3}])
def test_a_lane_does_not_feel_the_others(models, settings) -> None:
    together = driven(models, [[0, 1, 2, 3, 4, 5]], **settings)
    apart = driven(models, [[5, 0, 3], [1], [4, 2]], **settings)
    np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("precision", [
    "float32",
    pytest.param("bfloat16", marks=pytest.mark.skipif(
        not places.choose_bfloat16("auto", torch.device("cpu")), reason="a processor with bfloat16")),
    pytest.param("int8", marks=pytest.mark.skipif(not quantized.supported(), reason="a processor with VNNI")),
])  # fmt: skip
def test_bits_depend_neither_on_how_many_lanes_act_nor_on_the_threads(models, precision: str) -> None:
    """Products of 8 rows and more, filled up where there are fewer: each lane is rounded as it is alone."""
    vae, mdrnn = VAE().requires_grad_(False), models[1]
    vae.load_state_dict(models[0].state_dict())
    vae.use_bfloat16 = precision == "bfloat16"
    eyes = Eyes(vae, True)
    if precision == "int8":
        eyes = Eyes(vae, True, quantized.QuantizedVAE(vae, quantized.largest_activations(vae, frames(0))).encode)
    images = np.random.default_rng(0).integers(256, size=(3, 70, 64, 64, 3), dtype=np.uint8)

    def acted(lanes: list[int], threads: int = 1) -> np.ndarray:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            agent = Agent(eyes, mdrnn, C, population(), CAR, 3, rows=ROWS, threads=threads, each=pool.map)
            agent.begin(np.array(lanes), [Episode(lane, lane % 3) for lane in lanes])
            return np.stack([agent.act(np.array(lanes), step[lanes]) for step in images])

    everyone = acted(list(range(70)))
    assert np.array_equal(acted(list(range(70)), threads=3), everyone)
    for lanes in ([5], [69, 3], *(list(range(60 - count, 60)) for count in (7, 9, 10, 11, 13, 15, 17, 23, 33, 51))):
        assert np.array_equal(acted(lanes), everyone[:, lanes]), f"{len(lanes)} lanes"


def test_one_step_is_the_paper_s(models) -> None:
    """z = V(frame), a = C([z, h]), h = M(z, a, h), written out for one lane."""
    vae, mdrnn = models
    parameters = torch.from_numpy(population()[1])
    weights, bias = parameters[:864].reshape(3, 288), parameters[864:]
    h, c = mdrnn.initial_state(1)
    expected = []
    for step in range(4):
        z, _ = vae.encode(frames(step)[2:3])
        action = CAR.squash((torch.cat([z, h], 1) @ weights.T + bias).numpy())
        _, hidden = mdrnn(z[:, None], torch.from_numpy(action)[:, None], (h, c))
        h, c = mdrnn.step(z, torch.from_numpy(action), (h, c))
        torch.testing.assert_close(hidden[:, 0], h, rtol=1e-4, atol=1e-5)
        expected.append(action[0])
    np.testing.assert_allclose(driven(models, [[0, 1, 2, 3, 4, 5]])[:, 2], expected, atol=1e-5)


def test_a_new_episode_forgets_the_last(models) -> None:
    agent = make(models)
    lanes = np.arange(6)
    agent.begin(lanes, EPISODES)
    first = agent.act(lanes, frames(0))
    agent.act(lanes, frames(1))
    agent.begin(lanes[2:4], EPISODES[2:4])
    again = agent.act(lanes, frames(0))
    np.testing.assert_array_equal(again[2:4], first[2:4])
    assert (again[[0, 1, 4, 5]] != first[[0, 1, 4, 5]]).any()


def test_samples_of_z_depend_on_the_track_and_candidate(models) -> None:
    actions = driven(models, [[0, 1, 2, 3, 4, 5]], sample_z=True)
    assert (actions[0] != driven(models, [[0, 1, 2, 3, 4, 5]])[0]).any()
    assert (actions != driven(models, [[0, 1, 2, 3, 4, 5]], sample_z=True, seed=1)).any()


def test_models_that_do_not_fit_are_one_sentence(models) -> None:
    vae, mdrnn = models
    with pytest.raises(UserError, match="C has 100 parameters where .* need 867"):
        Agent(Eyes(vae), mdrnn, C, population(100), CAR)
    with pytest.raises(UserError, match="C has 291 parameters where .* need 867"):
        Agent(Eyes(vae), mdrnn, Controller(hidden_size=64), population(291), CAR)
    with pytest.raises(UserError, match="V makes z of 16 numbers and M expects 32"):
        Agent(Eyes(VAE(16)), mdrnn, C, population(), CAR)
    with pytest.raises(UserError, match="M was trained on actions of 3 numbers, and this environment takes 2"):
        Agent(Eyes(vae), mdrnn, C, population(), OneHot(gymnasium.spaces.Discrete(2)))


def test_a_missing_gpu_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert places.choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="--device cpu"):
        places.choose_device("cuda")


def test_an_unknown_driver_is_one_sentence() -> None:
    with pytest.raises(UserError, match="no pretrained driver 'nobody'"):
        pretrained.load_pretrained("nobody")
