"""`evaluate --policy`: anyone's policy scores as on plain Gymnasium, and its mistakes cost no other episode."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from tests.helpers.toy import TOY, Toy
from worldmodels.commands import evaluate
from worldmodels.errors import UserError
from worldmodels.runs.book import Score
from worldmodels.runs.settings import Evaluate

POLICY = '''
import numpy as np

GAIN, FAILS = 0.02, {}  # seed → (step, what goes wrong there)


class Steering:
    """By the grass on both sides; it remembers its last steering, and its episode's noise."""

    def reset(self, seed):
        self.seed, self.step, self.steer, self.noise = seed, 0, 0.0, np.random.default_rng(seed)

    def __call__(self, observation):
        assert observation.shape == (96, 96, 3) and observation.dtype == np.uint8
        self.step += 1
        step, wrong = FAILS.get(self.seed, (None, None))
        if step == self.step:
            return {"raises": lambda: 1 / 0, "nan": lambda: np.full(3, np.nan), "shape": lambda: np.zeros(2),
                    "text": lambda: "left", "exits": lambda: exit(3)}[wrong]()
        green = observation[60, :, 1].astype(float)
        self.steer = 0.5 * self.steer + GAIN * (green[48:].mean() - green[:48].mean())
        return np.array([self.steer, self.noise.uniform(0.2, 0.5), 0.0])


def pole(observation):
    return int(observation[2] > 0)


def toy(observation):
    return 2


number = 7
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(POLICY)
    return tmp_path / "mine.py"


def policy(mine: Path, name: str = "Steering"):
    here: dict = {}
    exec(mine.read_text(), here)
    return here[name]() if isinstance(here[name], type) else here[name]


def play(driver, env_id: str, seed: int, max_steps: int | None = None) -> tuple[float, int]:
    """The reference: a loop on plain Gymnasium; (score, length)."""
    env = gymnasium.make(env_id, max_episode_steps=max_steps)
    if hasattr(driver, "reset"):
        driver.reset(seed)
    observation, _ = env.reset(seed=seed)
    score, length, over = 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(driver(observation))
        score, length, over = score + float(reward), length + 1, terminated or truncated
    env.close()
    return score, length


def found(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def evaluated(mine: Path, **settings) -> dict:
    settings = {"policy": f"{mine}:Steering", "episodes": 3, "max_steps": 25, "output": str(mine.parent / "out"),
                "max_workers": 1, **settings}  # fmt: skip
    evaluate.main(Evaluate(**settings))
    return found(Path(settings["output"]))


def test_a_policy_scores_as_on_gymnasium(mine: Path) -> None:
    """One worker or two, the policy remembers its own episode only."""
    result = evaluated(mine, max_workers=1)
    expected = [play(policy(mine), "CarRacing-v3", seed, 25) for seed in result["seeds"]]
    assert list(zip(result["scores"], result["lengths"], strict=True)) == expected
    assert result["seeds"] == [1_000_000, 1_000_001, 1_000_002] and len(set(result["scores"])) == 3
    assert result["env"] == "worldmodels/CarRacing-v3" and result["kwargs"] == {"frames": "exact"}
    two = evaluated(mine, max_workers=2, output=str(mine.parent / "two"))
    assert two == result


@pytest.mark.parametrize(("env", "name"), [("CartPole-v1", "pole"), (TOY, "toy")])
def test_any_environment_will_do(mine: Path, env: str, name: str) -> None:
    """A module in the working directory, a function, other observations and actions."""
    result = evaluated(mine, policy=f"mine:{name}", env=env, max_steps=None)
    expected = [play(policy(mine, name), env, seed, 18 if env == TOY else None) for seed in result["seeds"]]
    assert list(zip(result["scores"], result["lengths"], strict=True)) == expected
    assert result["endings"] == ["terminated"] * 3 and result["crash_rate"] is result["lap_rate"] is None


MISTAKES = [
    ("raises", r"raised ZeroDivisionError: division by zero \(mine.py:18\) at step 4"),
    ("nan", r"returned \[nan, nan, nan\] at step 4"),
    ("shape", r"returned float64 \(2,\), where the environment takes Box\(.*\), at step 4"),
    ("text", r"returned <U4 \(\), where"),
    ("exits", r"raised SystemExit: 3"),
]


@pytest.mark.parametrize(("wrong", "sentence"), MISTAKES)
def test_a_mistake_is_named_and_costs_no_other_episode(mine: Path, wrong: str, sentence: str) -> None:
    good = evaluated(mine, output=str(mine.parent / "good"))
    mine.write_text(POLICY.replace("FAILS = 0.02, {}", f"FAILS = 0.02, {{1_000_001: (4, {wrong!r})}}"))
    with pytest.raises(UserError, match=sentence) as error:
        evaluated(mine)
    assert "of the episode with seed 1000001" in str(error.value) and "2 of 3 episodes are kept" in str(error.value)
    (partial,) = (mine.parent / "out" / "evaluation").glob("*.json")
    kept = json.loads(partial.read_text())
    assert kept["scores"] == [good["scores"][0], None, good["scores"][2]] and not (mine.parent / "out.json").exists()

    mine.write_text(POLICY)  # corrected: the same driver goes on
    driven: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        call = evaluate.Guests.__call__

        def counted(self, place):
            guest = call(self, place)
            begin = guest.drive
            guest.drive = lambda seed, *rest: (driven.append(seed), begin(seed, *rest))[1]
            return guest

        patch.setattr(evaluate.Guests, "__call__", counted)
        assert evaluated(mine) == {**good, "command": good["command"]}
    assert driven == [950_000, 1_000_001]


@pytest.mark.parametrize(("method", "where"), [("step", "at step 1"), ("reset", "in the reset")])
def test_an_environment_that_raises_is_named(mine: Path, monkeypatch, method: str, where: str) -> None:
    def breaks(self, *_, **options):
        raise ValueError("the track is gone")

    monkeypatch.setattr(Toy, method, breaks)
    sentence = (
        rf"The environment raised ValueError: the track is gone \(test_policy.py:\d+\) {where} of the episode with"
    )
    with pytest.raises(UserError, match=sentence):
        evaluated(mine, policy="mine:toy", env=TOY, max_steps=None)
    assert not (mine.parent / "out").exists(), "nothing was driven"


@pytest.mark.parametrize(
    ("ending", "info", "sentence"),
    [
        (np.array([True, False]), {}, "The environment said array"),
        ("no", {}, "The environment said 'no' of an episode's end"),
        (True, None, r"The environment raised .*NoneType.* at step 1"),
    ],
)
def test_an_environment_that_does_not_say_how_it_ends_is_named(mine: Path, monkeypatch, ending, info, sentence) -> None:
    monkeypatch.setattr(Toy, "step", lambda self, action: (self.render(), 0.0, ending, False, info))
    with pytest.raises(UserError, match=sentence):
        evaluated(mine, policy="mine:toy", env=TOY, max_steps=None)


def test_another_game_s_info_and_a_close_that_fails_cost_nothing(mine: Path, monkeypatch) -> None:
    monkeypatch.setattr(Toy, "step", lambda self, _: (self.render(), 1.0, True, False, {"lap_finished": np.zeros(3)}))
    monkeypatch.setattr(Toy, "close", lambda self: 1 / 0)
    assert evaluated(mine, policy="mine:toy", env=TOY, max_steps=None)["endings"] == ["terminated"] * 3


def test_a_worker_process_brings_the_mistake_home(mine: Path) -> None:
    mine.write_text(
        POLICY.replace("FAILS = 0.02, {}", "FAILS = 0.02, {1_000_001: (4, 'raises'), 1_000_002: (2, 'nan')}")
    )
    with pytest.raises(UserError, match=r"at step 4 of the episode with seed 1000001 \(and failed in 1 more\)"):
        evaluated(mine, max_workers=2)


def test_another_driver_of_the_same_name_starts_anew(mine: Path) -> None:
    first = evaluated(mine)
    mine.write_text(POLICY.replace("GAIN, FAILS = 0.02", "GAIN, FAILS = 0.021"))
    second = evaluated(mine)
    assert second["model"] != first["model"]
    assert len(list((mine.parent / "out" / "evaluation").glob("*.json"))) == 2, "each has a file of its own"
    assert second["scores"][0] == play(policy(mine), "CarRacing-v3", 1_000_000, 25)[0]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"policy": "mine"}, "--policy is mine: say module:name"),
        ({"policy": "nowhere:policy"}, "nowhere:policy cannot be loaded .*No module named 'nowhere'"),
        ({"policy": "nowhere.py:policy"}, r"nowhere\.py:policy cannot be loaded"),
        ({"policy": "mine:nobody"}, "has no attribute 'nobody'"),
        ({"policy": "mine:number"}, "mine:number is int, which cannot be called"),
        ({"policy": "mine:pole"}, r"mine:pole raised .* at step 1 of a trial episode \(seed 950000\)"),
        ({"pretrained": "carracing"}, "--policy and --pretrained both say who drives"),
        ({"logdir": "mine"}, "--policy and --logdir both say who drives"),
        ({"video": True}, "--render and --video show what V and M see"),
        ({"device": "cpu"}, "--device is for V and M"),
    ],
)
def test_what_cannot_be_is_one_sentence(mine: Path, settings: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        evaluated(mine, **settings)
    assert not list(mine.parent.glob("out/**/*.json"))


def test_laps_and_crashes_follow_from_score_and_ending() -> None:
    """960 of 1,000 points of tiles is around; Gymnasium's lap_complete_percent is 0.95."""
    assert not Score(930.0, 700, "lap").crashed
    assert Score(300.0, 400, "off").crashed
    assert Score(849.0, 1000, "time").crashed and not Score(860.0, 1000, "time").crashed
