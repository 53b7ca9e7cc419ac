"""C: parameter counts, the batched product, and the whitened search space."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodels.controller import Controller
from worldmodels.envs.actions import Box, Car, OneHot, Threshold, actions_of
from worldmodels.errors import UserError
from worldmodels.evolution.search import Search, whitened_directions

CAR = gymnasium.spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))


def test_the_paper_s_parameter_counts() -> None:
    assert Controller().size == 867
    assert Controller(64, 512, 1, inputs="zch", bias=False).size == 1088


@pytest.mark.parametrize("bias", [True, False])
def test_one_product_for_all_lanes_is_a_linear_layer_each(bias: bool) -> None:
    torch.manual_seed(0)
    shape = Controller(z_size=7, inputs="z", bias=bias)
    parameters, seen = torch.randn(5, shape.size), torch.randn(5, 7)
    out = shape.act(parameters, seen)
    for lane in range(5):
        layer = torch.nn.Linear(7, 3, bias=bias)
        torch.nn.utils.vector_to_parameters(parameters[lane], layer.parameters())
        torch.testing.assert_close(out[lane], layer(seen[lane]), rtol=1e-5, atol=1e-5)


def test_a_hidden_layer_is_a_tanh_network_each() -> None:
    torch.manual_seed(0)
    assert Controller(inputs="z", hidden=40).size == 33 * 40 + 41 * 3
    shape = Controller(z_size=7, inputs="z", hidden=4)
    parameters, seen = torch.randn(5, shape.size), torch.randn(5, 7)
    out = shape.act(parameters, seen)
    for lane in range(5):
        network = torch.nn.Sequential(torch.nn.Linear(7, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
        torch.nn.utils.vector_to_parameters(parameters[lane], network.parameters())
        torch.testing.assert_close(out[lane], network(seen[lane]), rtol=1e-5, atol=1e-5)


def test_features_are_what_the_inputs_say() -> None:
    z, h, c = torch.full((2, 3), 1.0), torch.full((2, 4), 2.0), torch.full((2, 4), 3.0)
    assert Controller(3, 4, inputs="z").see(z, (h, c)).shape == (2, 3)
    assert Controller(3, 4, inputs="zh").see(z, (h, c))[0].tolist() == [1] * 3 + [2] * 4
    assert Controller(3, 4, inputs="zch").see(z, (h, c))[0].tolist() == [1] * 3 + [3] * 4 + [2] * 4


def test_the_car_s_squashing_is_the_paper_s() -> None:
    kind = Car(CAR)
    actions = kind.squash(np.array([[-0.5, 0.0, -2.0], [9.0, 9.0, 0.5]], np.float32))
    np.testing.assert_allclose(actions, [[np.tanh(-0.5), 0.5, 0.0], [1.0, 1.0, np.tanh(0.5)]], rtol=1e-6)


def test_a_box_is_reached_to_its_bounds_and_a_discrete_action_is_the_largest_output() -> None:
    box = Box(gymnasium.spaces.Box(np.float32(-2), np.float32(6), (2,)))
    np.testing.assert_allclose(box.squash(np.array([[-99.0, 99.0]])), [[-2, 6]])
    discrete = OneHot(gymnasium.spaces.Discrete(4, start=10))
    actions = discrete.squash(np.array([[0.0, 3.0, 1.0, 2.0]]))
    assert actions.tolist() == [[0, 1, 0, 0]] and discrete.to_env(actions).tolist() == [11]


def test_one_output_chooses_by_thirds_as_the_paper_s_take_cover() -> None:
    thirds = Threshold((2, 0, 1))  # left, nothing, right
    raw = np.arctanh(np.array([[-0.99], [-0.34], [-0.33], [0.0], [0.33], [0.34], [0.99]]))
    vectors = thirds.squash(raw)
    np.testing.assert_allclose(vectors, np.tanh(raw), rtol=1e-6)
    assert vectors.dtype == np.float32 and thirds.outputs == thirds.size == 1
    assert thirds.to_env(vectors).tolist() == [2, 2, 0, 0, 0, 1, 1]
    assert thirds.to_env(np.array([[-1.0], [1.0]])).tolist() == [2, 1]


def test_other_action_spaces_are_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match="only Discrete and bounded Box"):
        actions_of("x", gymnasium.spaces.MultiBinary(3))


@pytest.mark.parametrize(("output", "scale"), [(0, 5), (1, 0.05)])
def test_a_point_of_the_whitened_space_weighs_unit_variance_directions(output: int, scale: float) -> None:
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) * scale + scale * rng.standard_normal(6)
    basis = whitened_directions(seen, 4, outputs=2)
    assert basis.shape == (2 * 5, 2 * 6 + 2)
    shape, outs = Controller(z_size=6, inputs="z", outputs=2), []
    for d in range(4):  # the weight of direction d in the output
        point = np.zeros(10)
        point[4 * output + d] = 1
        parameters = torch.from_numpy(Search(shape, basis).parameters(point))[None].expand(500, -1)
        outs.append(shape.act(parameters, torch.from_numpy(seen.astype(np.float32)))[:, output].numpy())
    np.testing.assert_allclose(np.cov(np.array(outs), bias=True), np.eye(4), atol=1e-4)
    np.testing.assert_allclose(np.mean(outs, axis=1), 0, atol=1e-4)
    biases = Search(shape, basis).parameters(np.array([*[0.0] * 8, 3.0, -4.0]))
    np.testing.assert_array_equal(biases, [*[0.0] * 12, 3.0, -4.0], "the last coordinates are the outputs' biases")
