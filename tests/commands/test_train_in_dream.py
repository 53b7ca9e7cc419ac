"""C learns in the dream: rounds resume, real steps are counted, M and C of the best driver belong together."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands.test_run import small
from tests.helpers.toy import TOY
from worldmodels import envs
from worldmodels.agent import load
from worldmodels.commands import run, train_in_dream
from worldmodels.data.latents import encode_rollout
from worldmodels.data.episodes import load_rollout
from worldmodels.envs import World
from worldmodels.errors import UserError
from worldmodels.rollout import Episode, GiveUp
from worldmodels.runs import metrics
from worldmodels.runs.settings import Dreaming, MDRNNTraining, TrainInDream
from worldmodels.workers.explorer import Explorer, explore

ROUNDS = Dreaming(
    rounds=4, horizon=4, dreams=8, climbs=2, episodes=4, fragment=10, give_up=6, updates=2, batch_size=3,
    sequence_length=8, select_every=2, select_tracks=2,
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
    env = envs.make(World(TOY), 1)
    load(whole).act(np.array([0]), env.reset(seed=[1])[0]) if load(whole).noise else load(whole)(env.reset(seed=[1])[0][0])


def test_every_real_step_is_counted(before: Path, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    first = metrics.read(logdir / "rollouts" / "metrics.jsonl", "rollout")
    rows = learn(logdir, rounds=2)
    driven = 0
    for number in (1, 2):
        episodes = train_in_dream.load_episodes(train_in_dream.RunDir(logdir), number)
        assert len(episodes) == 4
        driven += sum(len(episode.actions) for episode in episodes)
    collected = sum(int(row["length"] or 0) for row in first)
    selection = int(rows[-1]["env_steps"] or 0) - collected - driven
    assert 2 * 12 <= selection <= 2 * 18, "two selection tracks, 12 to 18 steps each"


def test_an_explorer_sees_what_v_sees(before: Path) -> None:
    """Its latents against V's own pass over the frames; only odd candidates waver, and M reads what is done."""
    agent = load_with_random_c(before)
    episodes = [Episode(seed, candidate) for candidate, seed in enumerate((3, 4))]
    calm, wavering = (
        explore(
            envs.make(World(TOY), 2),
            Explorer(agent.encoder.vae, agent.memory, agent.controller, np.zeros((2, agent.controller.size)), agent.actions, waver),
            episodes, None, GiveUp(0, 18),
        )[0]
        for waver in (0.0, 1.0)
    )  # fmt: skip
    assert torch.equal(calm[0].actions, wavering[0].actions) and not torch.equal(calm[1].actions, wavering[1].actions)
    env, driven = envs.make(World(TOY), 1), wavering[1]
    frames = [env.reset(seed=[4])[0][0].copy()]
    for action in driven.actions.numpy():
        frames.append(env.step(agent.actions.to_env(action[None]))[0][0].copy())
    mean, logvar = agent.encoder.vae.encode(np.stack(frames))
    torch.testing.assert_close(driven.mean, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(driven.logvar, logvar, atol=1e-4, rtol=1e-4)
    assert len(driven.rewards) == len(driven.actions) == len(driven.terminals)


def load_with_random_c(logdir: Path):
    from worldmodels import memory, vision
    from worldmodels.agent import Agent, Eyes
    from worldmodels.controller import Controller

    vae, mdrnn, actions = vision.load(logdir), memory.load(logdir), envs.actions_in(World(TOY))
    shape = Controller(mdrnn.z_size, mdrnn.hidden_size, actions.outputs)
    return Agent(Eyes(vae), mdrnn, shape, np.zeros((1, shape.size)), actions)


def test_what_cannot_be_is_refused_in_a_sentence(before: Path, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(before, tmp_path / "run"))
    learn(logdir, rounds=1)
    with pytest.raises(UserError, match="other settings .horizon."):
        learn(logdir, horizon=5)
    with pytest.raises(UserError, match="predicts rewards and their value"):
        run.refuse(replace(small(tmp_path / "new"), dream=ROUNDS, mdrnn=MDRNNTraining(include_reward=True)))
