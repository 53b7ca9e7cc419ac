"""The examples: what a driver sees while it trains is what it sees when it is scored, and each trains and drives."""

import importlib
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from worldmodels.commands import evaluate
from worldmodels.runs.files import read_json
from worldmodels.runs.settings import Evaluate

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def cars(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("cars")
    for name in ("cars", "ppo_sb3", "ppo_cleanrl"):
        sys.modules.pop(name, None)


def test_training_and_scoring_show_the_same(cars) -> None:
    """Ten actions: exact frames made grey and stacked by a driver are the training cars' within fast frames' error."""
    training = cars.Cars(1, seed=7)
    seen = [training.reset()]
    steering = [np.array([np.sin(i), 0.5, 0.0]) for i in range(10)]
    for action in steering:
        seen.append(training.step(action[None])[0])

    class Shown(cars.Driver):
        def choose(self, stack):
            looked.append(stack)
            return steering[min(len(looked), 10) - 1]

    looked: list[np.ndarray] = []
    driver, env = Shown(), gymnasium.make("worldmodels/CarRacing-v3", frames="exact")
    driver.reset()
    frame, _ = env.reset(seed=7)
    for _ in range(41):
        frame = env.step(driver(frame))[0]
    assert len(looked) == len(seen) == 11
    for one, other in zip(looked, seen, strict=True):
        assert np.abs(one.astype(int) - other[0].astype(int)).mean() < 0.5
    assert np.abs(seen[5].astype(int) - seen[6]).mean() > 2, "a stack late would pass"


def test_lost_cars_begin_again(cars) -> None:
    training = cars.Cars(2, seed=0)
    training.reset()
    overs = [training.step(np.zeros((2, 3)))[3].tolist() for _ in range(cars.LOST + 1)]
    assert overs.index([True, True]) == cars.LOST, "the first step pays for the tiles of the start"
    assert len(training.scores) == 2 and (training.score == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo_sb3", "ppo_cleanrl"])
def test_an_example_trains_and_its_driver_is_scored(
    cars, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = importlib.import_module(name)
    small = {"actions": 2048, "seed": 1, "threads": 1}
    example.main(example.Args(**small)) if name == "ppo_cleanrl" else example.main(**small)
    policy = f"{EXAMPLES / name}.py:PPODriver"
    evaluate.main(Evaluate(policy=policy, episodes=2, max_steps=20, output="out", max_workers=1))
    assert read_json(Path("out/evaluation.json"))["lengths"] == [20, 20]
