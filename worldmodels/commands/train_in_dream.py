"""Let C learn in M's dream, and M from what C tries; V is held fixed.

    worldmodels train-in-dream --logdir exp_dir        (M trained with --include-reward --discount 0.997)

A round: C climbs the reward of short dreams that begin in states of the newest episodes, M's value standing for what
comes after; C and candidates around it drive real episodes, on which nothing is selected; what the dream promised them
is held against what they were paid; M learns from all the episodes so far, and C is carried over to what h now means.
Where the dream promised too much, C rests and only M learns.

Every few rounds C drives the selection tracks; the best is kept, with the M whose h it reads. Writes <logdir>/ctrl:
best.safetensors, last.safetensors, the rounds' episodes as V saw them, metrics.jsonl and TensorBoard events; and
<logdir>/mdrnn/best.safetensors and starts.safetensors.
"""

import copy
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch

from worldmodels import envs, memory
from worldmodels.agent import load
from worldmodels.data.latents import Latents, Sequences
from worldmodels.dream import bank, states
from worldmodels.envs.seeds import SELECTION
from worldmodels.errors import UserError
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone
from worldmodels.runs.metrics import Metrics
from worldmodels.runs.progress import progress
from worldmodels.runs.settings import TrainInDream
from worldmodels.show.dreamed import film
from worldmodels.training.dreaming import Climber, carry_over
from worldmodels.training.fit import generator
from worldmodels.training.learner import Learner, age_of
from worldmodels.workers.explorer import Road

NEW = 5  # rounds whose episodes are half of what M learns from,
BEGUN_IN = 8  # and rounds in whose states dreams begin
SLOWER = 0.96  # the steps of C and M from one round to the next
UNPAID = 40  # steps without a reward at the end of an episode that was lost,
BEFORE = (15, 90)  # and how many before that a quarter of the dreams begin
LONGEST = 1.0  # gradient of M's loss, cut to this length


def main(cfg: TrainInDream, begin: Callable[[], None] = lambda: None) -> None:
    """Learn; `begin` is called when all is known to be good (the run then remembers what it was asked)."""
    check(cfg)
    run, description = RunDir.of(cfg.logdir), envs.find(cfg.env)
    for model in ("vae", "mdrnn"):  # a mistyped --logdir is not to be made
        run.trained(model)
    with alone(run.ctrl, "learning in the dream"):
        learner = Learner.of(cfg, run)
        begin()
        if learner.loop.generation >= cfg.rounds:
            print(f"C in {run.ctrl} has learned already ({learner.loop.generation} rounds): more --rounds go on.")
            if learner.best and not run.dream.exists():  # killed in the end
                finish(cfg, run, learner)
            return
        run.dream.unlink(missing_ok=True)
        with (
            closing(Road(cfg, learner.actions, horizon=description.time_limit or 1000)) as road,
            closing(Metrics(run.ctrl, "generation", learner.loop.generation)) as metrics,
            progress(total=cfg.rounds, initial=learner.loop.generation, unit="round", desc="C dreams") as bar,
        ):
            while learner.loop.generation < cfg.rounds:
                row = round_of(cfg, run, learner, road)
                metrics.write(row)
                learner.save(run)
                bar.set_postfix_str(learner.summary(row), refresh=False)
                bar.update()
        finish(cfg, run, learner)
    loop = learner.loop
    print(f"C has seen {loop.env_steps:,} real steps and {loop.dream_steps:,} dreamed ones; best {loop.best_so_far}.")


def round_of(cfg: TrainInDream, run: RunDir, learner: Learner, road: Road) -> dict[str, Any]:
    """Dream, drive, compare, learn, carry over; returns the round's metrics."""
    loop, began = learner.loop, time.perf_counter()
    loop.generation += 1
    number, draw = loop.generation, generator(torch.device("cpu"), cfg.seed, loop.generation)
    age = age_of(cfg, number)
    if age == 1:
        learner.begin(cfg)
    m = copy.deepcopy(learner.mdrnn).requires_grad_(False).eval()  # as it is before it learns
    climber = Climber(m, learner.shape, learner.actions, cfg.temperature, cfg.horizon)
    near = cfg.spread * max(SLOWER**age, 1 / 4)

    if not loop.resting:
        count = cfg.dreams * cfg.climbs
        episodes = learner.newest(BEGUN_IN)
        starts = states(m, episodes, *beginnings(episodes, count, np.random.default_rng([cfg.seed, number, 2])))
        rate = cfg.step_size * max(SLOWER**age, 1 / 6)
        learner.parameters = climber.climb(learner.parameters, starts, cfg.dreams, rate, near, draw)
        loop.dream_steps += count * cfg.horizon

    spread = np.random.default_rng([cfg.seed, number]).standard_normal((cfg.episodes, learner.shape.size))
    spread[:2] = 0.0
    population = (learner.parameters + near * spread).astype(np.float32)
    episodes, scores, whole = road.explore(learner.vae, m, learner.shape, population, number)
    loop.env_steps += sum(len(episode.actions) for episode in episodes)
    promise = climber.promise(population[::2], episodes[::2], draw)  # of those that do not waver

    learner.keep_episodes(run, number, episodes)
    lost = learn(cfg, learner, number)
    both = np.stack([learner.parameters, learner.average])
    learner.parameters, both[1] = carry_over(learner.shape, both, m, learner.mdrnn, learner.newest(BEGUN_IN))
    learner.average = both[1] + (learner.parameters - both[1]) / min(age, cfg.average)
    scale = 0.1 * learner.mdrnn.value_scale  # of a return that is nearly none
    too_much = promise is not None and promise["promised"] > cfg.gate * max(promise["paid"], scale)
    loop.resting = int(too_much and not loop.resting)

    selected = None
    if number % cfg.select_every == 0 or number == cfg.rounds:
        tracks, steps = road.select(learner.driver())
        loop.env_steps += steps
        selected = float(tracks.mean())
        learner.keep_best(run, selected)
    laps = scores[whole]
    loop.seconds += time.perf_counter() - began
    return {
        "generation": number, "env_steps": loop.env_steps, "dream_steps": loop.dream_steps,
        "best": float(laps.max()), "mean": float(laps.mean()), "std": float(laps.std()), "worst": float(laps.min()),
        "selected": selected, "discount": m.discount, **(promise or {}), "resting": loop.resting, **lost,
        "seconds": loop.seconds,
    }  # fmt: skip


def beginnings(episodes: list[Latents], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where `count` dreams begin: which episode, and before which of its steps, int64 (count,) each.

    An eighth at the beginning of an episode, a quarter shortly before one was lost, the rest anywhere before that:
    in the grass there is nothing to learn.
    """
    paid = [np.flatnonzero(episode.rewards.numpy() > 0) for episode in episodes]
    length = np.array([len(episode.actions) for episode in episodes])
    lost = np.array([steps[-1] + 1 if len(steps) else 1 for steps in paid])  # the step after the last reward
    failed = np.flatnonzero(length - lost >= UNPAID)
    driven = np.where(length - lost >= UNPAID, lost, length)
    owner = rng.choice(len(episodes), size=count, p=driven / driven.sum())
    step = rng.integers(driven[owner])
    step[::8] = 0
    if len(failed):
        hard = np.flatnonzero(np.arange(count) % 4 == 1)
        owner[hard] = rng.choice(failed, size=len(hard))
        step[hard] = np.maximum(lost[owner[hard]] - rng.integers(*BEFORE, size=len(hard)), 0)
    return owner, step


def learn(cfg: TrainInDream, learner: Learner, number: int) -> dict[str, float]:
    """M learns from all the episodes so far, half of the sequences from the newest; returns the parts of its loss."""
    m, old = learner.mdrnn, [episode for episodes in learner.rounds for episode in episodes]
    learner.look_ahead(cfg, number)
    sequences = Sequences(old, cfg.sequence_length, cfg.batch_size, m.discount, m.include_terminal, m.supply)
    lengths = np.array([len(episode.actions) for episode in old], dtype=np.float64)
    new = np.arange(len(old)) >= len(old) - len(learner.newest(NEW))
    share = (lengths / lengths.sum() + new * lengths / (new * lengths).sum()) / 2
    rng = np.random.default_rng([cfg.seed, number, 1])
    for group in learner.optimizer.param_groups:
        group["lr"] = cfg.learning_rate * max(SLOWER ** age_of(cfg, number), 1 / 10)
    sums: dict[str, float] = {}
    m.train()
    for update in range(cfg.updates):
        chosen = rng.choice(len(old), size=cfg.batch_size, p=share)
        first = rng.integers(np.maximum(lengths[chosen] - cfg.sequence_length, 0) + 1)
        first[::10] = 0  # a long episode's first steps would hardly be met
        end = np.minimum(first + cfg.sequence_length, lengths[chosen])
        batch = sequences.batch(np.stack([chosen, first, end], axis=1).astype(int).tolist())
        told = torch.from_numpy(new[chosen])[:, None]  # what came after an earlier C is not what comes after this one
        batch = batch._replace(value=batch.value.masked_fill(~told, torch.nan))
        loss, parts, _ = memory.loss_of(m, batch, generator(m.device, cfg.seed, number, update))
        if not bool(loss.isfinite()):
            raise UserError(
                f"M's loss is {float(loss)} in round {number}: the last good state in {cfg.logdir}/ctrl is kept; "
                "run again with a lower --learning-rate."
            )
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), LONGEST)
        learner.optimizer.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) / cfg.updates
    m.eval()
    return {f"train_{name}": value for name, value in sums.items()}


def finish(cfg: TrainInDream, run: RunDir, learner: Learner) -> None:
    """Make the best C's world ready to dream in, and film both."""
    best = memory.load(run)
    starts = bank(best, learner.newest(BEGUN_IN), 1024, cfg.seed)
    starts.save(run.mdrnn / "starts.safetensors")
    film(run, load(run, learner.actions), starts, cfg.temperature, 250, SELECTION, learner.loop.generation)
