"""C learns in the dream: rounds resume, real steps are counted, M and C of the best driver belong together."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands.test_run import small
from tests.helpers.toy import TOY
from worldmodels import envs, memory, vision
from worldmodels.agent import load
from worldmodels.commands import run, train_in_dream
from worldmodels.controller import Controller
from worldmodels.data.latents import Latents
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.rollout import Episode
from worldmodels.runs import checkpoint, metrics
from worldmodels.runs.directory import RunDir
from worldmodels.runs.settings import Dreaming, MDRNNTraining, TrainInDream
from worldmodels.training.learner import load_episodes
from worldmodels.workers.explorer import Explorer

ROUNDS = Dreaming(
    rounds=4, horizon=4, dreams=8, climbs=2, episodes=4, fragment=10, give_up=0, updates=2, batch_size=3,
    sequence_length=8, select_every=2, select_tracks=2, discount=0.9, supply=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy that is ready to dream, and has not."""
    logdir = tmp_path_factory.mktemp("dreaming") / "run"
    cfg = small(logdir)
    mdrnn = replace(cfg.mdrnn, include_reward=True, discount=0.9, hidden_size=8, gaussians=2, dropout=0.1)
    cfg = replace(cfg, mdrnn=mdrnn, dream=ROUNDS)
    for _, command, stage, settings in run.training(cfg)[:3]:
        stage(settings)
        assert command in ("collect", "train-vae", "train-mdrnn")
    return logdir


def learn(logdir: Path, **changes) -> list[metrics.Row]:
    train_in_dream.main(TrainInDream(**vars(replace(ROUNDS, **changes)), logdir=str(logdir), env=TOY))
    return metrics.read(logdir / "ctrl" / "metrics.jsonl", "generation")


def test_a_mistyped_run_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no trained V"):
        learn(tmp_path / "rnu")
    assert not (tmp_path / "rnu").exists()


def test_rounds_resume_where_they_stopped(before: Path, tmp_path: Path) -> None:
    """Two rounds and two more are four; what is kept can drive and be dreamed in."""
    whole, halves = (Path(shutil.copytree(before, tmp_path / name)) for name in ("whole", "halves"))
    rows = learn(whole)
    learn(halves, rounds=2)
    again = learn(halves)
    for one, other in zip(rows, again, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    for name in ("mdrnn", "ctrl"):
        assert (whole / name / "best.safetensors").read_bytes() == (halves / name / "best.safetensors").read_bytes()
    assert rows[-1]["selected"] is not None and rows[0]["selected"] is None and rows[1]["selected"] is not None
    assert (whole / "ctrl" / "dream.mp4").stat().st_size > 1000
    m = load(whole).memory
    assert (m.discount, m.supply) == (0.9, 30), "the driver reads the M that it learned in"


def test_m_looks_farther_from_round_to_round(before: Path, tmp_path: Path) -> None:
    """From the 0.9 that M was trained with to 0.99, by the same factor of steps; M of the best C says its own."""
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    rows = learn(logdir, rounds=4, discount=0.99, farther=2)
    np.testing.assert_allclose([row["discount"] for row in rows], [0.9, 1 - 0.1 / 10**0.5, 0.99, 0.99])
    assert load(logdir).memory.discount == pytest.approx(0.99)
    shutil.rmtree(logdir / "ctrl")
    learn(logdir, rounds=1, discount=0.99, farther=2, select_every=1)
    assert load(logdir).memory.discount == pytest.approx(1 - 0.1 / 10**0.5)


def test_another_c_begins_from_nothing(before: Path, tmp_path: Path) -> None:
    """M stays and looks as far as in the beginning; a run that was stopped there goes on alike."""
    whole, halves = (Path(shutil.copytree(before, tmp_path / name)) for name in ("whole", "halves"))
    changes = {"afresh": 2, "discount": 0.99, "farther": 2, "climbs": 1, "step_size": 1e-3}
    rows = learn(whole, **changes)
    np.testing.assert_allclose([row["discount"] for row in rows], [0.9, 1 - 0.1 / 10**0.5, 0.9, 1 - 0.1 / 10**0.5])
    learn(halves, **changes | {"rounds": 2})
    learn(halves, **changes | {"rounds": 3})
    tensors, _ = checkpoint.load(halves / "ctrl" / "last.safetensors")
    assert torch.equal(tensors["average"], tensors["parameters"]), "of one round"
    learn(halves, **changes)
    for name in ("ctrl/last.safetensors", "ctrl/best.safetensors", "mdrnn/best.safetensors"):
        one, other = (checkpoint.load(run / name)[0] for run in (whole, halves))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_average_of_c_is_kept(before: Path, tmp_path: Path) -> None:
    """Of one round it is C itself; of more it is another C, and carried over like it."""
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    learn(logdir, rounds=1, average=3, select_every=1)
    tensors, _ = checkpoint.load(logdir / "ctrl" / "last.safetensors")
    assert torch.equal(tensors["average"], tensors["parameters"])
    learn(logdir, rounds=2, average=3, select_every=1)
    tensors, _ = checkpoint.load(logdir / "ctrl" / "last.safetensors")
    assert not torch.equal(tensors["average"], tensors["parameters"])


def test_what_was_learned_stays_when_the_run_is_asked_again(before: Path, tmp_path: Path) -> None:
    """Also the starts of dreams, which train-mdrnn makes of random episodes; and what a kill left out is made."""
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    learn(logdir)
    starts = (logdir / "mdrnn" / "starts.safetensors").read_bytes()
    cfg = small(logdir)
    mdrnn = replace(cfg.mdrnn, include_reward=True, discount=0.9, hidden_size=8, gaussians=2, dropout=0.1)
    for _, _, stage, settings in run.training(replace(cfg, mdrnn=mdrnn, dream=ROUNDS)):
        stage(settings)
    assert (logdir / "mdrnn" / "starts.safetensors").read_bytes() == starts
    (logdir / "ctrl" / "dream.mp4").unlink()
    (logdir / "mdrnn" / "starts.safetensors").unlink()
    learn(logdir)
    assert (logdir / "mdrnn" / "starts.safetensors").read_bytes() == starts
    assert (logdir / "ctrl" / "dream.mp4").exists()


def test_dreams_begin_on_the_road_and_before_it_was_left() -> None:
    """One episode paid to its end, one lost after 150 of 300 steps."""

    def paid_until(steps: int, length: int) -> Latents:
        rewards = torch.where(torch.arange(length) < steps, 1.0, -0.1)
        return Latents(
            torch.zeros(length + 1, 2), torch.zeros(length + 1, 2), torch.zeros(length, 1), rewards, rewards * 0
        )

    owner, step = train_in_dream.beginnings([paid_until(200, 200), paid_until(150, 300)], 800, np.random.default_rng(0))
    assert step[owner == 0].max() > 190 and step[owner == 1].max() < 150
    assert (step[::8] == 0).all() and 90 < (step == 0).sum() < 130
    assert ((owner == 1) & (step > 60) & (step <= 135))[1::4].all()
    whole, _ = train_in_dream.beginnings([paid_until(200, 200)], 80, np.random.default_rng(0))
    assert (whole == 0).all()


def test_every_real_step_is_counted(before: Path, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    first = metrics.read(logdir / "rollouts" / "metrics.jsonl", "rollout")
    rows = learn(logdir, rounds=2)
    driven = 0
    for number in (1, 2):
        episodes = load_episodes(RunDir(logdir), number)
        assert len(episodes) == 4
        driven += sum(len(episode.actions) for episode in episodes)
    collected = sum(int(row["length"] or 0) for row in first)
    selection = int(rows[-1]["env_steps"] or 0) - collected - driven
    assert 2 * 12 <= selection <= 2 * 18, "two selection tracks, 12 to 18 steps each"


def test_an_explorer_sees_what_v_sees(before: Path) -> None:
    """Its latents against V's own pass over the frames; only odd candidates waver, and M reads what is done."""
    vae, mdrnn, actions = vision.load(before), memory.load(before), envs.actions_in(World(TOY))
    shape = Controller(mdrnn.z_size, mdrnn.hidden_size, actions.outputs)
    population = np.zeros((2, shape.size))
    episodes = [Episode(seed, candidate) for candidate, seed in enumerate((3, 4))]
    calm, wavering = (
        Explorer(vae, mdrnn, shape, population, actions, waver).drive(envs.make(World(TOY), 2), episodes, None, None)[0]
        for waver in (0.0, 1.0)
    )
    assert torch.equal(calm[0].actions, wavering[0].actions) and not torch.equal(calm[1].actions, wavering[1].actions)
    env, driven = envs.make(World(TOY), 1), wavering[1]
    frames = [env.reset(seed=[4])[0][0].copy()]
    for action in driven.actions.numpy():
        frames.append(env.step(actions.to_env(action[None]))[0][0].copy())
    mean, logvar = vae.encode(np.stack(frames))
    torch.testing.assert_close(driven.mean, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(driven.logvar, logvar, atol=1e-4, rtol=1e-4)
    assert len(driven.rewards) == len(driven.actions) == len(driven.terminals)


def test_a_c_that_is_started_over_is_deleted_when_nothing_is_refused_any_more(before: Path, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    learn(logdir, rounds=1)
    kept = {path: path.read_bytes() for path in (logdir / "ctrl").rglob("*.safetensors")}
    (logdir / "mdrnn" / "latents").rename(logdir / "elsewhere")
    with pytest.raises(UserError, match="holds no episodes as V sees them"):
        train_in_dream.main(TrainInDream(**vars(ROUNDS), logdir=str(logdir), env=TOY, noreload=True))
    assert kept == {path: path.read_bytes() for path in (logdir / "ctrl").rglob("*.safetensors")}
    (logdir / "ctrl" / "best.safetensors").unlink()
    with pytest.raises(UserError, match="no trained C in .*: run `worldmodels train-in-dream"):
        load(logdir)


def test_what_cannot_be_is_refused_in_a_sentence(before: Path, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    learn(logdir, rounds=1)
    with pytest.raises(UserError, match="other settings .horizon."):
        learn(logdir, horizon=5)
    shutil.copy(logdir / "vae" / "last.safetensors", logdir / "vae" / "best.safetensors")
    with pytest.raises(UserError, match="other settings .V."):
        learn(logdir)
    with pytest.raises(UserError, match="--give-up is 20: .* last 50 steps"):
        learn(logdir, give_up=20)
    with pytest.raises(UserError, match="predicts rewards and their value"):
        run.refuse(replace(small(tmp_path / "new"), dream=ROUNDS, mdrnn=MDRNNTraining(include_reward=True)))
