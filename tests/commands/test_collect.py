"""Collecting: every rollout a pure function of (seed, number), whatever is killed; Minari."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

import tests.helpers.toy as limited_toy
from tests.helpers.episodes import save_rollout
from worldmodels import envs, pretrained
from worldmodels.commands import collect
from worldmodels.data import minari as minari_export
from worldmodels.data.dataset import open_dataset
from worldmodels.data.episodes import BadFile, inspect, load_rollout
from worldmodels.data.policies import random_policy
from worldmodels.envs import TAKECOVER, World
from worldmodels.envs.seeds import training_seeds
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, Rollout, drive
from worldmodels.runs import metrics as logs
from worldmodels.runs.settings import Collect
from worldmodels.workers.driver import Course, Job
from worldmodels.workers.places import Place

TOY = f"{__name__}:Slide-v0"  # the workers import this module to find it
CAR = "worldmodels/CarRacing-v3"


class Slide(gymnasium.Env):
    """A bright column that the three actions push about; falling off the right edge ends the episode."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(10, 40)
        return self.frame(), {}

    def step(self, action):
        assert action in self.action_space
        time.sleep(float(os.environ.get("SLIDE_SECONDS", "0")))
        assert os.environ.get("SLIDE_WITHOUT") not in sys.modules
        suicide = Path(os.environ.get("SLIDE_SUICIDE", "/nowhere"))
        with contextlib.suppress(FileNotFoundError):  # another worker may have been quicker
            how_often = suicide.read_text()
            if multiprocessing.parent_process() is not None:
                if how_often == "once":
                    suicide.unlink(missing_ok=True)
                os.kill(os.getpid(), signal.SIGKILL)
        self.position = max(self.position + int(action) - 6 + self.np_random.uniform(-0.5, 1.0), 0)
        return self.frame(), self.position / 64, self.position > 60, False, {}

    def frame(self):
        frame = np.zeros((64, 64, 3), dtype=np.uint8)
        frame[:, int(min(self.position, 63))] = 255
        frame[0, 0] = self.np_random.integers(0, 256, 3)
        return frame


gymnasium.register("Slide-v0", entry_point=f"{__name__}:Slide")


def toy(rootdir: Path, **changes) -> Collect:
    return Collect(**{"rollouts": 5, "rootdir": str(rootdir), "threads": 1, "env": TOY, "max_steps": 25, **changes})


def by_hand(cfg: Collect, numbers: list[int], options: dict | None = None) -> list[Rollout]:
    """Each rollout driven alone, in this process."""
    env = envs.make(World(cfg.env), 1, threads=1, max_steps=cfg.max_steps)
    kind = envs.actions_for(World(cfg.env), env.single_action_space)
    driven: list[Rollout] = []
    for number in numbers:
        episode = Episode(training_seeds(cfg.seed, number, count=1)[0], number)
        policy = random_policy(cfg.policy, kind, cfg.seed)
        drive(env, kind, policy, [episode], options=options, on_rollout=lambda _, rollout: driven.append(rollout))
    return driven


def contents(rootdir: Path) -> dict[str, bytes]:
    """Every file but the events, whose names and bytes hold the time."""
    files = {path.name: path.read_bytes() for path in rootdir.iterdir() if path.is_file() and path.name != ".lock"}
    return {name: content for name, content in files.items() if "tfevents" not in name}


def events(rootdir: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder: (step, value) of every point by name; none where there are no events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(rootdir), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def times(rootdir: Path) -> dict[str, int]:
    """When each file was written, but collect.json and the lock, which every call writes."""
    files = [path for path in rootdir.iterdir() if path.is_file() and path.name not in ("collect.json", ".lock")]
    return {path.name: path.stat().st_mtime_ns for path in files}


def assert_same(rollout: Rollout, other: Rollout) -> None:
    for field in ("frames", "actions", "rewards", "terminals"):
        assert np.array_equal(getattr(rollout, field), getattr(other, field)), field


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """Ten toy rollouts collected without interruption, two workers."""
    rootdir = tmp_path_factory.mktemp("reference")
    collect.main(toy(rootdir, rollouts=10, threads=2))
    return rootdir


# --------------------------------------------------------------------------------------------- collecting


def test_only_longer_episodes_are_kept_when_asked_for(tmp_path):
    """A rollout is the first of its episodes that is long enough, however many workers, whatever was there already."""
    cfg = toy(tmp_path / "long", rollouts=12, max_steps=150, longer_than=60)
    plain = dataclasses.replace(cfg, rootdir=str(tmp_path / "all"), longer_than=0)
    collect.main(plain)
    collect.main(cfg)
    lengths = [open_dataset(folder).lengths for folder in (tmp_path / "all", tmp_path / "long")]
    assert min(lengths[0]) <= 60 < min(lengths[1])
    for number, length in enumerate(lengths[0]):
        name = f"rollout_{number:06d}.npz"
        same = (tmp_path / "all" / name).read_bytes() == (tmp_path / "long" / name).read_bytes()
        assert same == (length > 60)
    whole = contents(tmp_path / "long")
    for number in (0, lengths[0].index(min(lengths[0]))):
        (tmp_path / "long" / f"rollout_{number:06d}.npz").unlink()
    collect.main(dataclasses.replace(cfg, threads=2))
    assert contents(tmp_path / "long") == whole
    rows = logs.read(tmp_path / "long" / "metrics.jsonl")
    assert [row["seed"] for row in rows] == [head.seed for head in open_dataset(tmp_path / "long").heads]
    with pytest.raises(UserError, match="longer_than 60 there, None asked for"):
        collect.main(dataclasses.replace(cfg, longer_than=0))
    with pytest.raises(UserError, match="No episode of at most 25 steps"):
        collect.main(toy(tmp_path / "none", longer_than=25))
    limited = {"env": limited_toy.TOY, "policy": "white", "max_steps": None}
    with pytest.raises(UserError, match=r"No episode of at most 18 steps \(.*Toy-v0\) is longer than 18"):
        collect.main(toy(tmp_path / "none", **limited, longer_than=18))


def test_exactly_the_rollouts_asked_for(reference, tmp_path, capsys):
    cfg = toy(reference, rollouts=10)
    rollout_names = [f"rollout_{number:06d}.npz" for number in range(10)]
    assert sorted(contents(reference)) == ["collect.json", "metrics.jsonl", *rollout_names]
    for number, expected in enumerate(by_hand(cfg, list(range(10)))):
        path = collect.rollout_path(reference, number)
        assert_same(load_rollout(path), expected)
        assert inspect(path).seed == training_seeds(0, number, count=1)[0]
    lengths = open_dataset(reference).lengths
    assert max(lengths) == 25 and min(lengths) < 25  # some were cut, some ended
    seeds = [head.seed for head in open_dataset(reference).heads]
    assert len(set(seeds)) == 10

    collect.main(toy(tmp_path, rollouts=3))
    assert len(contents(tmp_path)) == 5
    collect.main(toy(tmp_path, rollouts=10))
    assert contents(tmp_path) == contents(reference)  # one worker and in two goes, or two workers at once
    written = times(tmp_path)
    capsys.readouterr()
    collect.main(toy(tmp_path, rollouts=10, threads=2))
    assert times(tmp_path) == written
    assert "holds 10 rollouts" in capsys.readouterr().out


def test_metrics_are_those_of_the_episodes(reference, tmp_path):
    rows = logs.read(reference / "metrics.jsonl")
    driven = by_hand(toy(reference), list(range(10)))
    assert [row.pop("score") for row in rows] == pytest.approx([rollout.rewards.sum() for rollout in driven], rel=1e-6)
    tracks = [training_seeds(0, number, count=1)[0] for number in range(10)]
    expected = zip(tracks, [len(rollout.rewards) for rollout in driven], strict=True)
    assert rows == [{"rollout": i, "seed": seed, "length": n} for i, (seed, n) in enumerate(expected, 1)]
    assert_events_are_the_rows(reference)

    collect.main(toy(tmp_path, rollouts=3))
    assert_events_are_the_rows(tmp_path)
    collect.main(toy(tmp_path, rollouts=10))  # more of them: no point twice
    assert events(tmp_path) == events(reference)


def assert_events_are_the_rows(rootdir: Path) -> None:
    rows, shown = logs.read(rootdir / "metrics.jsonl"), events(rootdir)
    assert len(rows) == len(collect.own_files(rootdir)) and set(shown) == {"score", "length"}
    for name, points in shown.items():
        assert points == [(row["rollout"], pytest.approx(row[name], rel=1e-6)) for row in rows]


@pytest.mark.parametrize("points", range(5))
def test_killed_while_it_writes_metrics(reference, tmp_path, monkeypatch, points):
    """Killed before any point on TensorBoard of the first rows, it ends with the same rows and points."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    for path in collect.metrics_files(tmp_path):
        path.unlink()
    add, left = SummaryWriter.add_scalar, iter(range(points))

    def killed(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(*args)

    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", killed)
        with pytest.raises(KeyboardInterrupt):
            collect.main(toy(tmp_path, rollouts=10))
    assert len(logs.read(tmp_path / "metrics.jsonl")) == points // 2, "a row is there before its points"
    collect.main(toy(tmp_path, rollouts=10))
    assert contents(tmp_path) == contents(reference) and events(tmp_path) == events(reference)


def test_workers_and_repetitions_do_without_torch(tmp_path):
    """Torch is loaded to write events, once the workers are done, and not by a call that has nothing to write."""
    loaded = f"import sys; {RUN}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", loaded, json.dumps(dataclasses.asdict(toy(tmp_path, rollouts=2, threads=2)))]
    path = os.pathsep.join([*filter(None, sys.path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SLIDE_WITHOUT": "torch"}
    for expected in ("True", "False"):
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert run.stdout.split()[-1] == expected


def test_lanes_of_the_simulator_change_nothing(tmp_path):
    """Three and two lanes at once in two workers, starting anywhere, against one car alone."""
    cfg = Collect(rollouts=5, rootdir=str(tmp_path), threads=2, policy="gas", start="anywhere", max_steps=30, seed=7)
    collect.main(cfg)
    rollouts = [load_rollout(path) for path in open_dataset(tmp_path).files]
    for rollout, expected in zip(
        rollouts, by_hand(cfg, list(range(5)), envs.reset_options(CAR, "anywhere")), strict=True
    ):
        assert_same(rollout, expected)
    at_the_line = by_hand(cfg, [0])[0]
    assert not np.array_equal(rollouts[0].frames[0], at_the_line.frames[0])


RUN = "import sys, json; from worldmodels.commands import collect; from worldmodels.runs.settings import Collect; " + (
    "collect.main(Collect(**json.loads(sys.argv[1])))"
)


def start(cfg: Collect, **environment: str) -> subprocess.Popen:
    """The command in a process and a process group of its own."""
    path = os.pathsep.join([*filter(None, sys.path), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(dataclasses.asdict(cfg))],
        env={**os.environ, "PYTHONPATH": path, **environment},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_until(condition, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {what} in vain"
        time.sleep(0.005)


def group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_killed_at_any_moment_it_goes_on_where_it_stopped(reference, tmp_path):
    cfg = toy(tmp_path, rollouts=10, threads=2)
    rng = np.random.default_rng()
    (tmp_path / ".rollout_000003.npz.1.tmp").write_bytes(b"half an episode")
    for _ in range(3):
        before = len(list(tmp_path.glob("*.npz")))
        process = start(cfg, SLIDE_SECONDS="0.012")
        wait_until(lambda count=before: len(list(tmp_path.glob("*.npz"))) > count, "a rollout")
        time.sleep(rng.uniform(0, 0.25))  # less than a rollout takes: two workers cannot finish ten in three rounds
        process.kill()
        process.wait()
        try:
            wait_until(lambda group=process.pid: group_is_empty(group), "the workers to end with their parent", 30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert 3 <= len(list(tmp_path.glob("*.npz"))) < 10
    collect.main(cfg)
    assert contents(tmp_path) == contents(reference)


def test_a_killed_workers_rollouts_are_driven_again(reference, tmp_path, monkeypatch, capfd):
    suicide = tmp_path / "suicide"
    monkeypatch.setenv("SLIDE_SUICIDE", str(suicide))
    suicide.write_text("once")
    collect.main(toy(tmp_path / "data", rollouts=10, threads=2))
    assert "A worker process was killed" in capfd.readouterr().err
    assert contents(tmp_path / "data") == contents(reference)
    suicide.write_text("always")
    with pytest.raises(UserError, match="A worker process was killed .*, 3 times"):
        collect.main(toy(tmp_path / "data", rollouts=12, threads=2))
    assert contents(tmp_path / "data") == contents(reference)


def test_a_damaged_rollout_is_driven_again(reference, tmp_path, capsys):
    for name, content in contents(reference).items():
        (tmp_path / name).write_bytes(content if name != "rollout_000004.npz" else content[: len(content) // 2])
    (tmp_path / "rollout_000006.npz").unlink()
    collect.main(toy(tmp_path, rollouts=10))
    assert "rollout_000004.npz is damaged" in capsys.readouterr().err
    assert contents(tmp_path) == contents(reference)


def test_a_rollout_with_damaged_rewards_is_not_whole(tmp_path, capsys):
    steps, path = 2000, tmp_path / "rollout_000000.npz"
    rewards = np.random.default_rng(0).normal(size=steps).astype(np.float32)
    frames, actions = np.zeros((steps + 1, 64, 64, 3), dtype=np.uint8), np.zeros((steps, 3), dtype=np.float32)
    save_rollout(path, Rollout(frames, actions, rewards, np.zeros(steps, dtype=bool)))
    assert collect.whole(path)
    with zipfile.ZipFile(path) as archive:
        end = archive.getinfo("terminals.npy").header_offset  # the array after the rewards
    content = bytearray(path.read_bytes())
    content[end - 10] ^= 255
    path.write_bytes(content)
    assert not collect.whole(path)
    assert "rollout_000000.npz is damaged" in capsys.readouterr().err


def test_memory_of_a_worker_does_not_grow(tmp_path, monkeypatch):
    """Twenty episodes of 100 frames in one job: no more than the recorded one, its stack and what is compressed."""
    monkeypatch.setattr(Slide, "step", lambda self, action: (self.frame(), 0.0, False, False, {}))
    cfg = toy(tmp_path, rollouts=20, max_steps=100)
    drivers, _ = collect.who_drives(cfg)
    driver = drivers(Place("cpu", 1))
    job = Job(tuple(collect.episode(cfg, i) for i in range(20)), course=Course(cfg.start, cfg.max_steps), record=True)
    tracemalloc.start()
    assert driver(job).lengths.sum() == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 101 * 64 * 64 * 3


@pytest.mark.parametrize("threads", [1, 2, 8, 100])
@pytest.mark.parametrize("count", [1, 7, 80, 1000])
@pytest.mark.parametrize("lanes", [collect.LANES, 1])
def test_shares(threads, count, lanes):
    missing = list(range(5, 5 + 2 * count, 2))
    pool = SimpleNamespace(workers=threads, nodes=1)
    shares = collect.shares(missing, pool, lanes)
    assert len(collect.shares(missing, SimpleNamespace(workers=threads, nodes=threads), lanes)) <= len(shares)
    assert [rollout for share in shares for rollout in share] == missing
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= lanes
    assert max(sizes) * min(threads, len(shares)) <= max(collect.ALL_LANES, threads)
    most = min(collect.LANES, max(1, collect.ALL_LANES // threads))
    assert lanes == 1 or count < threads * most or min(sizes) >= most // 2  # lanes are used
    assert len(shares) % threads == 0 or lanes == 1 or max(sizes) == 1  # no worker is left without work


def test_the_agent_of_a_logdir_collects(tmp_path):
    from tests.helpers.runs import save_agent  # PyTorch: the workers of other tests import this module without
    from worldmodels import agent

    logdir = save_agent(tmp_path / "logdir", actions=3, env=TOY)
    cfg = toy(tmp_path / "data", rollouts=2, policy="agent", logdir=str(logdir), device="cpu")
    collect.main(cfg)
    env = envs.make(World(TOY), 1, max_steps=25)
    kind = envs.actions_for(World(TOY), env.single_action_space)
    episodes = [Episode(training_seeds(0, number, count=1)[0]) for number in range(2)]
    driven: list[Rollout] = []
    drive(env, kind, agent.load(logdir, kind), episodes, on_rollout=lambda _, rollout: driven.append(rollout))
    for number, expected in enumerate(driven):
        assert_same(load_rollout(collect.rollout_path(tmp_path / "data", number)), expected)
    save_agent(logdir, actions=3, seed=2, env=TOY)  # its rollouts do not belong here
    with pytest.raises(UserError, match="driver"):
        collect.main(dataclasses.replace(cfg, rollouts=3))


def test_an_agent_s_collection_resumes_to_the_last_bit(tmp_path):
    car = Collect(
        rollouts=10, policy="agent", logdir=str(pretrained.folder("carracing")), start="anywhere", max_steps=12,
        device="cpu",
    )  # fmt: skip
    whole, broken = (dataclasses.replace(car, rootdir=str(tmp_path / name)) for name in ("whole", "broken"))
    collect.main(dataclasses.replace(whole, threads=1))
    collect.main(dataclasses.replace(broken, threads=2, rollouts=9))
    for lost in (2, 3, 8):
        collect.rollout_path(tmp_path / "broken", lost).unlink()
    collect.main(dataclasses.replace(broken, threads=1))
    files = [collect.rollout_path(tmp_path / "whole", number) for number in range(10)]
    assert sorted((tmp_path / "whole").glob("*.npz")) == files
    for path in files:
        assert path.read_bytes() == (tmp_path / "broken" / path.name).read_bytes(), path.name


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": "white"}, r"other settings \(policy brown there, white asked for\): use --noreload"),
        ({"seed": 1, "max_steps": 9}, r"max_steps 25 there, 9 asked for, seed 0 there, 1 asked for.*another --rootdir"),
        ({"rollouts": 9}, "beyond the 9 asked for: ask for 10 or more"),
        ({"rollouts": 0}, "--rollouts is 0"),
        ({"threads": -1}, "--threads is -1"),
        ({"start": "anywhere"}, "cannot start 'anywhere': --start is one of line"),
        ({"env": "NoSuchEnv-v0"}, "NoSuchEnv-v0 is not registered"),
        ({"env": "CartPole-v1"}, "V needs images"),
        ({"policy": "agent", "logdir": "no_such_logdir"}, "no_such_logdir"),
    ],
)
def test_mistakes_change_nothing(reference, changes, sentence):
    before = contents(reference)
    with pytest.raises(UserError, match=sentence):
        collect.main(toy(reference, **{"rollouts": 10, **changes}))
    assert contents(reference) == before


def test_a_cluster_that_is_not_there_deletes_nothing(reference):
    pytest.importorskip("ray")
    before = contents(reference)
    with pytest.raises(UserError, match="There is no Ray cluster at 127.0.0.1:1"):
        collect.main(toy(reference, rollouts=10, noreload=True, ray="127.0.0.1:1"))
    assert contents(reference) == before


def test_folders_that_are_not_ours(tmp_path):
    save_rollout(collect.rollout_path(tmp_path, 0), by_hand(toy(tmp_path), [0])[0])
    for noreload in (False, True):
        with pytest.raises(UserError, match="no collect.json"):
            collect.main(toy(tmp_path, noreload=noreload))
    assert len(contents(tmp_path)) == 1
    for name in ("metrics.jsonl", "events.out.tfevents.1"):
        (tmp_path / name / name).parent.mkdir()
        (tmp_path / name / name).write_text("theirs")
        with pytest.raises(UserError, match="holds metrics, but no collect.json"):
            collect.main(toy(tmp_path / name, noreload=True))
        assert (tmp_path / name / name).read_text() == "theirs"
    (tmp_path / "collect.json").write_text("{")
    with pytest.raises(UserError, match="collect.json is damaged"):
        collect.main(toy(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: name a folder"):
        collect.main(toy(tmp_path / "file" / "folder"))


def test_noreload_deletes_only_what_collect_made(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    kept = ["notes.txt", "rollout_0.npz", "more/rollout_000000.npz", "minari/theirs/human-v0/data/metadata.json"]
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("theirs")
    collect.main(toy(tmp_path, rollouts=3, format="minari"))
    assert (tmp_path / "minari/Slide-v0/brown-v0/data/metadata.json").exists()
    assert len(collect.metrics_files(tmp_path)) == 2
    again = toy(tmp_path, rollouts=1, policy="white", noreload=True)

    def interrupt(*_):
        raise KeyboardInterrupt

    def files() -> set[str]:
        found = (path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock")
        return {path.relative_to(tmp_path).as_posix() for path in found}

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collect, "collect", interrupt)
        collect.main(again)
    assert files() == {*kept, "collect.json"}
    collect.main(again)
    metrics = {path.name for path in collect.metrics_files(tmp_path)}
    assert files() == {*kept, *metrics, "collect.json", "rollout_000000.npz"} and len(metrics) == 2
    assert_events_are_the_rows(tmp_path)
    assert all((tmp_path / name).read_text() == "theirs" for name in kept)
    assert json.loads((tmp_path / "collect.json").read_text())["policy"] == "white"


# -------------------------------------------------------------------------------------------------- Minari


def test_minari_round_trip(reference, tmp_path, monkeypatch, capsys):
    minari = pytest.importorskip("minari")
    dataset = open_dataset(reference)
    target = minari_export.export(dataset, tmp_path, TOY, "brown")
    exported = minari.MinariDataset(target)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.load_dataset("Slide-v0/brown-v0").total_steps == exported.total_steps == dataset.steps
    assert exported.action_space == Slide.action_space and exported.observation_space == Slide.observation_space
    assert exported.total_episodes == 10
    ends = set()
    for path, episode in zip(dataset.files, exported.iterate_episodes(), strict=True):
        rollout = load_rollout(path)
        assert np.array_equal(episode.observations, rollout.frames) and episode.observations.dtype == np.uint8
        assert np.array_equal(episode.actions, rollout.actions.argmax(axis=1) + 5)
        assert np.array_equal(episode.rewards, rollout.rewards)
        assert np.array_equal(episode.terminations, rollout.terminals)
        assert not episode.truncations[:-1].any() and episode.truncations[-1] != episode.terminations[-1]
        ends.add(bool(episode.truncations[-1]))
    assert ends == {False, True}
    seeds = [metadata["seed"] for metadata in exported.storage.get_episode_metadata(range(10))]
    assert seeds == [head.seed for head in dataset.heads]
    assert isinstance(exported.recover_environment().unwrapped, Slide)  # it shows the stored frames
    assert (target / "main_data.hdf5").stat().st_size < dataset.frames * 64 * 64 * 3 / 10  # compressed

    data = (target / "main_data.hdf5").stat()
    capsys.readouterr()
    minari_export.export(dataset, tmp_path, TOY, "brown")
    assert "already" in capsys.readouterr().out and (target / "main_data.hdf5").stat().st_mtime_ns == data.st_mtime_ns
    fewer = dataset.subset(range(4))
    assert minari.MinariDataset(minari_export.export(fewer, tmp_path, TOY, "brown")).total_episodes == 4
    assert [path.name for path in tmp_path.iterdir()] == ["Slide-v0"]
    minari_export.remove(tmp_path)
    assert not tmp_path.exists()


def test_minari_takes_an_environment_that_a_function_makes(reference, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setitem(gymnasium.registry, "Made-v0", gymnasium.envs.registration.EnvSpec("Made-v0", Slide))
    exported = minari.MinariDataset(minari_export.export(open_dataset(reference), tmp_path, "Made-v0", "brown"))
    assert exported.total_episodes == 10 and exported.env_spec is None, "a function is not written down"


def test_minari_makes_our_simulator_again_with_the_frames_it_stored(tmp_path):
    minari = pytest.importorskip("minari")
    cfg = toy(tmp_path, env=CAR, policy="gas", max_steps=5)
    rollout = by_hand(cfg, [0])[0]
    save_rollout(tmp_path / "rollout_000000.npz", rollout, seed=training_seeds(0, 0, count=1)[0])
    exported = minari.MinariDataset(minari_export.export(open_dataset(tmp_path), tmp_path / "minari", CAR, "gas"))
    env = exported.recover_environment()
    first, _ = env.reset(seed=next(iter(exported.storage.get_episode_metadata([0])))["seed"])
    assert np.array_equal(first, exported[0].observations[0])
    for t, action in enumerate(exported[0].actions):
        assert np.array_equal(env.step(action)[0], exported[0].observations[t + 1])


def test_minari_takes_take_cover_and_a_relative_folder(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    collect.main(Collect(2, 1, env=TAKECOVER, max_steps=4, rootdir="doom", format="minari"))
    exported = minari.MinariDataset("doom/minari/TakeCover-v0/brown-v0/data")
    assert exported.total_steps == 8 and exported.env_spec.id == TAKECOVER


def test_minari_export_holds_one_episode_at_a_time(tmp_path):
    pytest.importorskip("minari")
    steps = 100
    frames = np.zeros((steps + 1, 64, 64, 3), dtype=np.uint8)
    rollout = Rollout(frames, np.eye(3, dtype=np.float32)[np.zeros(steps, int)], np.zeros(steps, np.float32),
                      np.zeros(steps, dtype=bool))  # fmt: skip
    for number in range(20):
        save_rollout(collect.rollout_path(tmp_path, number), rollout)
    dataset = open_dataset(tmp_path)
    tracemalloc.start()
    minari_export.export(dataset, tmp_path / "minari", TOY, "brown")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * frames.nbytes


def test_an_interrupted_export_leaves_nothing(reference, tmp_path, monkeypatch):
    storage = pytest.importorskip("minari.dataset.minari_storage").MinariStorage
    dataset = open_dataset(reference)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "update_metadata", fail)
    with pytest.raises(KeyboardInterrupt):
        minari_export.export(dataset, tmp_path, TOY, "brown")
    assert not list(tmp_path.rglob("*.hdf5"))


def test_minari_is_asked_for_before_anything_is_driven(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"needs Minari .*pip install 'worldmodels-pytorch\[minari\]'"):
        collect.main(toy(tmp_path, format="minari"))
    assert not contents(tmp_path)


def test_a_foreign_rollout_number_is_no_error(tmp_path):
    (tmp_path / "rollout_17.npz").write_bytes(b"theirs")
    assert collect.own_files(tmp_path) == {}
    with pytest.raises(BadFile):
        load_rollout(tmp_path / "rollout_17.npz")
