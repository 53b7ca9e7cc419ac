"""Evaluation: scores are Gymnasium's own whatever the workers, files survive interruptions, videos play."""

import dataclasses
import json
import shutil
from pathlib import Path

import gymnasium
import gymnasium.envs.box2d  # not imported by gymnasium itself
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.runs import save_agent
from tests.helpers.toy import TOY
from worldmodels import agent, envs, memory
from worldmodels.commands import evaluate
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.rollout import Episode
from worldmodels.runs import metrics as logs
from worldmodels.runs.book import Book, Score
from worldmodels.runs.directory import RunDir
from worldmodels.runs.settings import Evaluate
from worldmodels.show import spectator
from worldmodels.show.mp4 import mp4_writer
from worldmodels.show.scores import summarise, table
from worldmodels.workers.driver import Driver, Job, Outcome
from worldmodels.workers.places import limited_threads

CAR = "CarRacing-v3"
STEPS = 20  # of a CarRacing episode here


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_agent(tmp_path_factory.mktemp("toy"), actions=3, env=TOY)


@pytest.fixture(scope="module")
def car_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_agent(tmp_path_factory.mktemp("car"), actions=3)


def play(logdir: Path, env_id: str, seed: int, max_steps: int | None = None) -> tuple[float, int, list[np.ndarray]]:
    """The reference: plain Gymnasium, one frame at a time; (score, length, frames)."""
    description = envs.describe(env_id)
    env = gymnasium.make(env_id, max_episode_steps=max_steps or description.time_limit)
    driver = agent.load(logdir, envs.actions_for(World(env_id), env.action_space))
    lane = np.array([0])
    driver.begin(lane, [Episode(seed)])
    observation, _ = env.reset(seed=seed)
    score, frames, over = 0.0, [], False
    with limited_threads(1):
        while not over:
            frames.append(envs.as_frames(observation[None], description.crop)[0])
            action = driver.actions.to_env(driver.act(lane, frames[-1][None]))[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            score, over = score + float(reward), terminated or truncated
    env.close()
    return score, len(frames), frames


def evaluated(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def probe(video: Path) -> tuple[dict, int]:
    """(ffmpeg's description, number of frames) of an mp4."""
    reader = imageio_ffmpeg.read_frames(str(video))
    meta = next(reader)
    return meta, sum(1 for _ in reader)


# ------------------------------------------------------------------------------------------------ scores


def test_scores_are_those_of_plain_gymnasium(toy_run: Path, tmp_path: Path) -> None:
    evaluate.main(Evaluate(logdir=str(toy_run), env=TOY, episodes=4, seed=7, output=str(tmp_path), max_workers=1))
    result = evaluated(tmp_path)
    expected = [play(toy_run, TOY, seed)[:2] for seed in range(7, 11)]
    assert result["seeds"] == [7, 8, 9, 10]
    assert list(zip(result["scores"], result["lengths"], strict=True)) == expected
    assert len(set(result["scores"])) > 1 or len(set(result["lengths"])) > 1, "a constant would pass"

    rows = logs.read(tmp_path / "evaluation" / "metrics.jsonl")
    assert rows == [
        {"episode": i, "seed": 6 + i, "score": score, "length": length} for i, (score, length) in enumerate(expected, 1)
    ]
    assert_events_are_the_rows(tmp_path / "evaluation")


def assert_events_are_the_rows(folder: Path) -> None:
    shown = EventAccumulator(str(folder)).Reload()
    rows = logs.read(folder / "metrics.jsonl")
    assert set(shown.Tags()["scalars"]) == {"score", "length"}
    for name in ("score", "length"):
        points = [(point.step, point.value) for point in shown.Scalars(name)]
        assert points == [(row.get("track", row.get("episode")), pytest.approx(row[name])) for row in rows]


def test_workers_and_video_change_no_score(car_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shared = {"logdir": str(car_run), "episodes": 3, "max_steps": STEPS}
    evaluate.main(Evaluate(**shared, output=str(tmp_path / "one"), max_workers=1))
    evaluate.main(Evaluate(**shared, output=str(tmp_path / "two"), max_workers=2, video=True))
    one, two = evaluated(tmp_path / "one"), evaluated(tmp_path / "two")
    assert one.pop("video") is None
    first = {"seed": 1_000_000, "score": one["scores"][0], "length": STEPS}
    film = two.pop("video")
    assert film == {"file": film["file"], **first}
    assert (tmp_path / "two" / film["file"]).read_bytes() == (tmp_path / "two" / "evaluation.mp4").read_bytes()
    assert one == two
    assert one["scores"][0] == play(car_run, CAR, 1_000_000, STEPS)[0]
    assert len(set(one["scores"])) == 3 and one["lengths"] == [STEPS] * 3
    output = capfd.readouterr().out
    assert all(f"{score:.1f}" in output for score in one["scores"])


def test_a_video_stays_that_of_its_evaluation(toy_run: Path, tmp_path: Path, capsys) -> None:
    """Another one, of fewer episodes, is kept beside it; and the widest is filmed where it was not."""
    shared = {"logdir": str(toy_run), "env": TOY, "output": str(tmp_path), "max_workers": 1, "video": True}
    evaluate.main(Evaluate(**shared, episodes=2, seed=7))
    shown, first = (tmp_path / "evaluation.mp4").read_bytes(), evaluated(tmp_path)["video"]
    evaluate.main(Evaluate(**shared, episodes=1, seed=11))
    assert (tmp_path / "evaluation.mp4").read_bytes() == shown and evaluated(tmp_path)["video"] == first
    second = next(path for path in (tmp_path / "evaluation").glob("*.mp4") if str(first["file"]) not in str(path))
    assert second.read_bytes() != shown and f"{second}." in capsys.readouterr().out
    evaluate.main(Evaluate(**shared, episodes=3, seed=11))
    assert (tmp_path / "evaluation.mp4").read_bytes() == second.read_bytes(), "of the same drive: not filmed again"
    evaluate.main(Evaluate(**shared, episodes=2, seed=7))
    assert (tmp_path / first["file"]).read_bytes() == shown


def test_our_simulator_drives_in_blocks(car_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "LANES", 2)
    cfg = Evaluate(
        logdir=str(car_run), env="worldmodels/CarRacing-v3", episodes=3, max_steps=STEPS, output=str(tmp_path)
    )
    evaluate.main(cfg)
    scores = evaluated(tmp_path)["scores"]
    assert evaluated(tmp_path)["lengths"] == [STEPS] * 3
    assert scores == pytest.approx([play(car_run, CAR, 1_000_000 + i, STEPS)[0] for i in range(3)], abs=1e-6)

    evaluate.main(dataclasses.replace(cfg, video=True))  # one more drive, for the video alone
    assert evaluated(tmp_path)["scores"] == scores
    assert evaluated(tmp_path)["video"]["seed"] == 1_000_000
    assert probe(tmp_path / "evaluation.mp4")[1] == STEPS // 2


def test_statistics_agree_with_numpy(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(800, 90, size=37)
    key = {"env": "E", "kwargs": {}, "max_steps": None, "model": "", "device": "cpu", "versions": {}}
    book = Book(RunDir(tmp_path), key, range(37))
    book.scores = {i: Score(float(score), 900, "lap" if i else "off") for i, score in enumerate(scores)}
    result = summarise(book, "command")
    assert result["mean"] == pytest.approx(np.mean(scores))
    assert result["std"] == pytest.approx(np.std(scores, ddof=1))
    assert result["stderr"] == pytest.approx(np.std(scores, ddof=1) / np.sqrt(37))
    assert (result["min"], result["max"]) == (scores.min(), scores.max())
    assert result["percentiles"]["5"] == np.percentile(scores, 5) and result["percentiles"]["50"] == np.median(scores)
    assert result["lap_rate"] is result["crash_rate"] is None, "E has no laps"
    book.key["env"] = CAR
    racing = summarise(book, "command")
    assert (racing["lap_rate"], racing["crash_rate"]) == (36 / 37, 1 / 37)
    shown = table(racing)
    assert "laps finished 97.3%, crashes 2.7%" in shown and "over 37 tracks of" in shown and shown.startswith("track │")
    text = table(result)
    assert all(f" {score:.1f}" in text for score in scores)
    assert f"{scores.mean():.1f} ± {np.std(scores, ddof=1):.1f} over 37 episodes of E" in text
    assert text.startswith("episode │")


def test_one_track_has_no_spread(toy_run: Path, tmp_path: Path) -> None:
    evaluate.main(Evaluate(logdir=str(toy_run), env=TOY, episodes=1, output=str(tmp_path)))
    result = evaluated(tmp_path)
    assert (result["std"], result["stderr"]) == (None, None)
    assert result["command"].startswith(
        f"worldmodels evaluate --logdir {toy_run} --env {TOY} --episodes 1 --seed 10000"
    )


# ------------------------------------------------------------------------------------------ interruptions


def interrupt_after(monkeypatch: pytest.MonkeyPatch, tracks: int) -> list[int]:
    """Ctrl-C when so many tracks are driven; returns the list that collects the tracks driven."""
    driven: list[int] = []
    drive = Driver.__call__

    def counted(self: Driver, job: Job, on_step=None) -> Outcome:
        if len(driven) == tracks:
            raise KeyboardInterrupt
        driven.extend(episode.seed for episode in job.episodes)
        return drive(self, job, on_step)

    monkeypatch.setattr(Driver, "__call__", counted)
    return driven


def test_an_interrupted_evaluation_goes_on_to_the_same_file(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cfg(name: str) -> Evaluate:
        return Evaluate(logdir=str(toy_run), env=TOY, episodes=5, output=str(tmp_path / name), max_workers=1)

    evaluate.main(cfg("whole"))
    with monkeypatch.context() as patch:
        driven = interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(cfg("cut"))
    assert driven == [1_000_000, 1_000_001, 1_000_002]
    assert not (tmp_path / "cut" / "evaluation.json").exists()

    driven = interrupt_after(monkeypatch, 99)
    evaluate.main(cfg("cut"))
    assert driven == [1_000_003, 1_000_004]
    assert (tmp_path / "cut" / "evaluation.json").read_bytes() == (tmp_path / "whole" / "evaluation.json").read_bytes()
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"evaluation.json", "evaluation"}
    rows = [(tmp_path / name / "evaluation" / "metrics.jsonl").read_bytes() for name in ("cut", "whole")]
    assert rows[0] == rows[1]

    def written() -> dict[str, int]:
        """When each file was, but the lock, which every call may write."""
        found = (tmp_path / "cut" / "evaluation").iterdir()
        return {path.name: path.stat().st_mtime_ns for path in found if path.name != ".lock"}

    before = written()
    evaluate.main(cfg("cut"))
    assert len(driven) == 2 and "already" in capsys.readouterr().out
    assert written() == before
    shutil.rmtree(tmp_path / "cut" / "evaluation")  # killed before they were written
    evaluate.main(cfg("cut"))
    assert len(driven) == 2 and (tmp_path / "cut" / "evaluation" / "metrics.jsonl").read_bytes() == rows[0]
    evaluate.main(dataclasses.replace(cfg("cut"), episodes=2))  # other tracks: theirs are in place of the others
    assert len(logs.read(tmp_path / "cut" / "evaluation" / "metrics.jsonl")) == 2
    assert_events_are_the_rows(tmp_path / "cut" / "evaluation")


@pytest.mark.parametrize(
    "column",
    [{"endings": ["time"]}, {"scores": ["much", "more"]}, {"video": 3}, {"lengths": ["x", "y"]}, {"endings": [3, {}]}],
)
def test_what_is_no_evaluation_of_ours_is_driven_again(toy_run: Path, tmp_path: Path, column: dict) -> None:
    cfg = Evaluate(logdir=str(toy_run), episodes=2, seed=5, max_workers=1, output=str(tmp_path / "out"))
    evaluate.main(cfg)
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for path in (tmp_path / "out").rglob("*.json"):
        path.write_text(json.dumps({**whole, **column}))
    evaluate.main(cfg)
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (again["scores"], again["endings"]) == (whole["scores"], whole["endings"])


@pytest.mark.parametrize("file", ["../secret", None, 3])
def test_a_file_elsewhere_is_no_video_of_ours(toy_run: Path, tmp_path: Path, file: object) -> None:
    """A run directory from somebody else does not bring a file of ours into the page that is mailed."""
    cfg = Evaluate(logdir=str(toy_run), env=TOY, episodes=1, seed=5, max_workers=1, output=str(tmp_path / "out"))
    evaluate.main(cfg)
    (tmp_path / "secret").write_text("secret")
    for path in (tmp_path / "out").rglob("*.json"):
        video = {"seed": 5, "score": 1.0, "length": 2} | ({} if file is None else {"file": file})
        path.write_text(json.dumps(json.loads(path.read_text()) | {"video": video}))
    evaluate.main(cfg)
    assert not (tmp_path / "out" / "evaluation.mp4").exists()
    evaluate.main(dataclasses.replace(cfg, video=True))
    assert (tmp_path / "out" / "evaluation.mp4").read_bytes()[4:8] == b"ftyp"


def test_scores_of_another_agent_are_not_mixed_in(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    cfg = Evaluate(logdir=str(run), env=TOY, episodes=4, max_workers=1)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(cfg)
    save_agent(run, actions=3, seed=4, env=TOY)
    driven = interrupt_after(monkeypatch, 99)
    evaluate.main(cfg)
    assert len(driven) == 4
    assert evaluated(run)["lengths"] == [play(run, TOY, seed)[1] for seed in evaluated(run)["seeds"]]


# ------------------------------------------------------------------------------------------------ watching


def test_without_a_display_render_writes_a_video_that_browsers_play(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(spectator, "render_modes", lambda world: ["human", "rgb_array"])
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    evaluate.main(Evaluate(logdir=str(toy_run), env=TOY, episodes=1, render=True, output=str(tmp_path)))
    assert "There is no display to open a window on: evaluation.mp4 shows the drive instead." in capsys.readouterr().out
    meta, frames = probe(tmp_path / "evaluation.mp4")
    assert (meta["codec"], meta["pix_fmt"].split("(")[0], meta["size"]) == ("h264", "yuv420p", (600, 644))
    assert frames == evaluated(tmp_path)["lengths"][0]  # 30 steps a second: every one is shown


def test_an_environment_without_a_window_is_filmed(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(Evaluate(logdir=str(toy_run), env=TOY, episodes=1, render=True, output=str(tmp_path)))
    assert "draws no window" in capsys.readouterr().out and (tmp_path / "evaluation.mp4").exists()


def test_a_window_shows_the_drives_and_changes_no_score(
    car_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # SDL's own stand-in for a screen
    shown = []
    render = gymnasium.envs.box2d.car_racing.CarRacing._render
    monkeypatch.setattr(
        gymnasium.envs.box2d.car_racing.CarRacing,
        "_render",
        lambda self, mode: (shown.append(mode), render(self, mode))[1],
    )
    loaded, load = [], agent.load
    monkeypatch.setattr(agent, "load", lambda *arguments: (loaded.append(arguments), load(*arguments))[1])
    evaluate.main(Evaluate(logdir=str(car_run), episodes=2, max_steps=STEPS, render=True, output=str(tmp_path)))
    assert torch.device(evaluated(tmp_path)["device"]) == loaded[-1][2], "it drives where it says that it drove"
    assert shown.count("human") >= 2 * STEPS and "rgb_array" not in shown
    assert evaluated(tmp_path)["scores"] == [play(car_run, CAR, seed, STEPS)[0] for seed in (1_000_000, 1_000_001)]
    assert not (tmp_path / "evaluation.mp4").exists()


@pytest.mark.parametrize("said", [{"max_workers": 2}, {"ray": "local"}])
def test_a_window_refuses_workers(car_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict) -> None:
    if "ray" in said:
        pytest.importorskip("ray")
    monkeypatch.setattr(spectator, "has_display", lambda: True)
    with pytest.raises(UserError, match="leave --max-workers and --ray out"):
        evaluate.main(Evaluate(logdir=str(car_run), episodes=2, render=True, output=str(tmp_path), **said))
    assert not list(tmp_path.iterdir())


def test_the_spectator_shows_what_v_and_m_make_of_the_drive(toy_run: Path) -> None:
    kind = envs.actions_for(World(TOY), gymnasium.make(TOY).action_space)
    driver, actions, seen = agent.load(toy_run, kind), [], []
    act = driver.act
    driver.act = lambda lanes, frames: (actions.append(act(lanes, frames)), actions[-1])[1]  # type: ignore[method-assign]
    score, length = spectator.watch(driver, World(TOY), 3, seen.append)
    expected_score, expected_length, frames = play(toy_run, TOY, 3)
    assert (score, length) == (expected_score, expected_length) and len(seen) == length
    np.testing.assert_array_equal([now.frame for now in seen], frames)
    assert [now.step for now in seen] == list(range(length)) and seen[0].view.shape == (40, 48, 3)

    z, _ = driver.encoder.vae.encode(np.array(frames))  # (T, Z): the whole drive at once is the reference
    with torch.no_grad():
        prediction, _ = driver.memory(z[None], torch.from_numpy(np.concatenate(actions))[None])
    expected = driver.encoder.vae.decode(memory.sample(prediction, temperature=0)[0]).astype(int)
    predictions = np.array([now.prediction for now in seen]).astype(int)
    assert np.abs(predictions - expected).max() <= 1
    assert np.abs(predictions[1:] - expected[:-1]).max() > 10, "a step late would pass"
    reconstructions = np.array([now.reconstruction for now in seen]).astype(int)
    assert np.abs(reconstructions - driver.encoder.vae.decode(z).astype(int)).max() <= 1


def test_a_video_keeps_its_frames_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    frames = [np.broadcast_to(np.roll(ramp, 8 * i)[None, :, None], (48, 64, 3)) for i in range(5)]
    with mp4_writer(tmp_path / "good.mp4", 25) as add:
        for frame in frames:
            add(frame)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "good.mp4"))
    assert next(reader)["fps"] == 25
    decoded = [np.frombuffer(data, np.uint8).reshape(48, 64, 3) for data in reader]
    assert len(decoded) == 5
    for frame, found in zip(frames, decoded, strict=True):
        assert np.abs(frame.astype(int) - found.astype(int)).mean() < 8
    with pytest.raises(RuntimeError), mp4_writer(tmp_path / "bad.mp4", 25) as add:
        add(frames[0])
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["good.mp4"]


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("part", "command"), [("vae", "train-vae"), ("mdrnn", "train-mdrnn"), ("ctrl", "train-controller")]
)
def test_a_missing_model_names_the_command_that_makes_it(
    toy_run: Path, tmp_path: Path, part: str, command: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    (run / part / "best.safetensors").unlink()
    with pytest.raises(UserError, match=f"worldmodels {command}"):
        evaluate.main(Evaluate(logdir=str(run), env=TOY))
    assert not list(run.glob("evaluation*"))


def test_no_episodes_is_a_mistake(toy_run: Path) -> None:
    with pytest.raises(UserError, match="--episodes is 0"):
        evaluate.main(Evaluate(logdir=str(toy_run), env=TOY, episodes=0))
