"""Evolve C with V and M held fixed.

    worldmodels train-controller --logdir exp_dir
    (ctallec's port: python traincontroller.py --logdir exp_dir --n-samples 4 --pop-size 4 --target-return 950)

Every candidate of a generation drives the same episodes. Every few generations the distribution's MEAN drives the
selection tracks, which training never sees: best.safetensors is the mean that did best there. Writes <logdir>/ctrl:
best.safetensors, last.safetensors, metrics.jsonl and TensorBoard events.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from worldmodels import envs, memory, vision
from worldmodels.agent import fitted, load
from worldmodels.controller import Controller
from worldmodels.data.latents import say_of_another_v
from worldmodels.dream import Starts
from worldmodels.envs import Description, World
from worldmodels.envs.seeds import SELECTION, training_seeds
from worldmodels.errors import UserError
from worldmodels.evolution.fitness import fitness
from worldmodels.evolution.standing import State, resume, save_best
from worldmodels.rollout import GiveUp
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone
from worldmodels.runs.metrics import Metrics
from worldmodels.runs.progress import machines, progress
from worldmodels.runs.settings import TrainController
from worldmodels.show.dreamed import film
from worldmodels.workers.dreamer import Dreamers
from worldmodels.workers.driver import Course, Drivers, Models
from worldmodels.workers.places import Place, choose_bfloat16, choose_device, choose_places
from worldmodels.workers.pool import Pool, open_pool, try_cluster

CPU = torch.device("cpu")  # where dreams are dreamed


def main(cfg: TrainController, begin: Callable[[], None] = lambda: None) -> None:
    """Evolve; `begin` is called when all is known to be good (the run then remembers what it was asked)."""
    check(cfg)
    run, description = RunDir.of(cfg.logdir), envs.find(cfg.env)
    refuse(cfg, description)
    shape = shape_of_c(cfg, run)
    if cfg.noreload:
        try_cluster(cfg.ray)
    places = choose_places(choose_device(cfg.device), cfg.max_workers, description.batched)
    models = Models.of(run, shape, cfg.sample_z, cfg.seed).computing(cfg.precision, places[0])
    world = World.practice(cfg.env)
    real = Drivers(world, cfg.batch_size, models)
    dream = dreamers(cfg, run, shape) if cfg.dream else None
    with alone(run.ctrl, "evolving C"):
        state = resume(cfg, run, shape)
        begin()
        if state.finished(cfg, description):
            print(
                f"C in {run.ctrl} is trained already ({state.loop.generation} generations, {state.loop.best_so_far}): "
                "more --epochs, --env-steps or a higher --target-return train it further, --noreload starts over."
            )
            return
        evolve(cfg, run, state, real, dream, places, description)
        if dream is not None:
            driver = load(run, dream.actions)
            number = state.loop.generation
            film(run, driver, dream.starts, cfg.temperature, cfg.horizon, SELECTION, number, cfg.death)
    loop = state.loop
    dreamed = f" and {loop.dream_steps:,} in the dream" if cfg.dream else ""
    print(f"C drove {loop.env_steps:,} steps{dreamed} in {loop.generation} generations; best mean {loop.best_so_far}.")


def evolve(
    cfg: TrainController, run: RunDir, state: State, drivers: Drivers, dreamers: Dreamers | None,
    places: tuple[Place, ...], description: Description,
) -> None:  # fmt: skip
    """ask → fitness → tell, until the evolution has what it was asked for; selection is always real.

    A few selection tracks keep a few workers of a cluster busy: there the next generation is driven beside them, and
    forgotten if they say that the evolution is finished.
    """
    with ExitStack() as stack:
        real = stack.enter_context(open_pool(drivers, places, ray=cfg.ray, most=cfg.max_workers))
        practice: Pool = real
        if dreamers is not None:
            cores = choose_places(CPU, cfg.max_workers, batched=True)
            practice = stack.enter_context(open_pool(dreamers, cores, ray=cfg.ray, most=cfg.max_workers))
        trials = Trials(cfg, state, description, practice, real)
        diary = stack.enter_context(Diary(cfg, run, state, real))
        beside = stack.enter_context(ThreadPoolExecutor(1))
        selecting: Future[Selection] | None = None
        while not state.finished(cfg, description):
            scores, steps = trials.practise()
            if selecting is not None:
                diary.close(selecting.result())
                selecting = None
                if state.finished(cfg, description):
                    break
            state.tell(scores, steps, dreamed=cfg.dream)
            due = state.loop.generation % cfg.select_every == 0 or state.loop.generation == 1
            if not due and not state.finished(cfg, description):
                diary.close(None)
            elif cfg.ray:
                selecting = beside.submit(trials.select, state.parameters)
            else:
                diary.close(trials.select(state.parameters))
        if selecting is not None:
            diary.close(selecting.result())


class Selection(NamedTuple):
    """What the distribution's mean is worth."""

    score: float
    """On the selection tracks."""
    gate: dict[str, float]
    """What M promised of it and what it was then paid; empty where C does not dream."""


@dataclass
class Trials:
    """Where candidates drive: a generation in `practice`, real or the dream, and the mean in selection, which is
    `real`."""

    cfg: TrainController
    state: State
    description: Description
    practice: Pool
    real: Pool

    def practise(self) -> tuple[np.ndarray, int]:
        """(scores (P,) of the next generation, steps)."""
        cfg, generation = self.cfg, self.state.loop.generation
        tracks = training_seeds(cfg.seed, generation, count=cfg.n_samples)
        with progress(inner=True, unit=" steps", desc=f"generation {generation + 1}") as bar:
            candidates = self.state.space.parameters(self.state.strategy.ask())
            course = training_course(cfg, self.description, generation)
            scores, steps = fitness(self.practice, candidates, tracks, course, self.lanes(self.practice), bar.update)
        return scores.mean(axis=1), steps

    def select(self, mean: np.ndarray) -> Selection:
        """The mean's score on the selection tracks, and the gate if C evolves in the dream."""
        with progress(inner=True, unit=" steps", desc=f"selection {self.description.episode}s") as bar:
            score = self.driven(self.real, mean, Course(), bar.update)
        if not self.cfg.dream:
            return Selection(score, {})
        cfg = self.cfg
        promised = self.driven(self.practice, mean, Course(max_steps=cfg.horizon))
        paid = score if self.whole else self.driven(self.real, mean, Course(cfg.start, cfg.horizon))
        return Selection(score, {"dreamed": promised, "real": paid, "dream_steps": self.state.loop.dream_steps})

    def driven(
        self, pool: Pool, mean: np.ndarray, course: Course, on_step: Callable[[int], None] | None = None
    ) -> float:
        """The mean's score over the seeds of selection; its steps are counted."""
        seeds = range(SELECTION, SELECTION + self.cfg.select_tracks)
        scores, steps = fitness(pool, mean[None], seeds, course, self.lanes(pool), on_step)
        self.state.count(steps, dreamed=pool is not self.real)
        return float(scores.mean())

    def lanes(self, pool: Pool) -> int | None:
        """Those of a worker that drives; one that dreams has as many as it likes."""
        return self.cfg.batch_size if pool is self.real else None

    @property
    def whole(self) -> bool:
        """Whether a dream may last as long as an episode, and begins as one: the selection tracks say what it pays."""
        limit = self.description.time_limit
        return self.cfg.start == "line" and limit is not None and self.cfg.horizon >= limit


class Diary(AbstractContextManager["Diary"]):
    """What is written of every generation: its row, the best so far, the checkpoint, a line for people."""

    def __init__(self, cfg: TrainController, run: RunDir, state: State, pool: Pool):
        self.cfg, self.run, self.state, self.pool = cfg, run, state, pool
        self.metrics = Metrics(run.ctrl, "generation", state.loop.generation)
        self.bar = progress(total=cfg.epochs, initial=state.loop.generation, unit="generation", desc="C")
        self.before, self.steps = time.perf_counter(), state.loop.steps

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        self.metrics.close()

    def close(self, selection: Selection | None) -> None:
        """Enter the last generation, with what the mean is worth where it was tried."""
        state, loop, now = self.state, self.state.loop, time.perf_counter()
        score, gate = selection or (None, {})
        if score is not None and (loop.best is None or score > loop.best):
            loop.best = score
            save_best(self.run, state, self.cfg)
        loop.seconds += now - self.before
        pace = (loop.steps - self.steps) / (now - self.before)
        self.before, self.steps = now, loop.steps
        self.metrics.write(state.row(score) | gate | {"steps_per_second": pace, "seconds": loop.seconds})
        state.save(self.run)
        where = f"{pace:,.0f} steps/s{machines(self.pool)}, " if self.cfg.ray else ""
        said = f", dreamed {gate['dreamed']:.0f} real {gate['real']:.0f}" if gate else ""
        self.bar.set_postfix_str(f"{where}{state.summary}{said}", refresh=False)
        self.bar.update()
        if self.cfg.display:
            show(state, score)


# --------------------------------------------------------------------------------------------- what it needs


def refuse(cfg: TrainController, description: Description) -> None:
    """UserError for settings that do not go together."""
    envs.reset_options(cfg.env, cfg.start)
    if cfg.strategy in ("openai-es", "pgpe") and cfg.pop_size % 2:
        raise UserError(f"{cfg.strategy} draws mirrored pairs: --pop-size must be even, not {cfg.pop_size}.")
    if cfg.give_up and not (description.time_limit or cfg.max_steps):
        raise UserError(f"--give-up needs the length of an episode of {cfg.env}: add --max-steps.")
    if cfg.directions and cfg.inputs == "zch":
        raise UserError("--directions needs C's bias, which [z, c, h] has not: use --inputs zh.")
    if cfg.warm and (cfg.inputs != "zh" or cfg.hidden):
        raise UserError("--warm carries a linear C of [z, h] over: leave --inputs and --hidden out, or --warm.")
    if cfg.hidden and (cfg.directions or cfg.inputs == "zch"):
        raise UserError("--hidden searches all the weights of [z] or [z, h]: leave --directions and --inputs zch out.")


def refuse_dream(cfg: TrainController, pays: bool, step_reward: float) -> None:
    """UserError for a C that cannot evolve in M's dream: nothing is paid there (each step of the world pays
    `step_reward`), or C has a hidden layer."""
    if cfg.dream and not pays:
        head = "--include-terminal" if step_reward else "--include-reward"
        raise UserError(
            f"This M predicts no {head.removeprefix('--include-')}, so that nothing can be learned in its dream: "
            f"`worldmodels train-mdrnn --noreload {head}` trains one that does."
        )
    if cfg.dream and cfg.hidden:
        raise UserError("A C with a hidden layer cannot act in the dream: leave --hidden out.")


def shape_of_c(cfg: TrainController, run: RunDir) -> Controller:
    """C as this V, M and environment need it; UserError when they do not fit each other."""
    vae, mdrnn = vision.load(run), memory.load(run)
    actions = envs.tried(World.practice(cfg.env), cfg.start, cfg.max_steps)
    shape = Controller(inputs=cfg.inputs, bias=cfg.inputs != "zch", hidden=cfg.hidden)
    shape = fitted(shape, vae.z_size, mdrnn, actions)
    if mdrnn.action_kind not in (None, actions.name):
        raise UserError(
            f"The M of {run.path} learned actions of the kind {mdrnn.action_kind}, and {cfg.env} takes {actions.name}: "
            "choose the environment it was trained on."
        )
    say_of_another_v(run)
    return shape


def dreamers(cfg: TrainController, run: RunDir, shape: Controller) -> Dreamers:
    """What a worker needs to dream.

    Raises:
        UserError: M's dream pays nothing, or it has no starts.
    """
    mdrnn, actions = memory.load(run), envs.actions_in(World(cfg.env))
    refuse_dream(cfg, mdrnn.pays, mdrnn.step_reward)
    starts = Starts.load(run.mdrnn / "starts.safetensors", mdrnn)
    if mdrnn.include_restart:  # it dreams episodes from their first step on, as the paper's Take Cover
        starts = starts.first()
    weights = run.trained("mdrnn").read_bytes()
    bfloat16 = choose_bfloat16(cfg.precision.replace("int8", "auto"), CPU)
    return Dreamers(weights, starts, shape, actions, cfg.temperature, cfg.horizon, bfloat16, cfg.death)


def training_course(cfg: TrainController, description: Description, generation: int) -> Course:
    """Where the generation's episodes start, how long they go on, and when a hopeless one is given up."""
    if cfg.dream:
        return Course(max_steps=cfg.horizon)
    uncut = bool(cfg.whole_after) and generation >= cfg.whole_after
    max_steps = None if uncut else cfg.max_steps
    horizon = max_steps or description.time_limit
    give_up = GiveUp(cfg.give_up, horizon) if cfg.give_up and horizon else None
    return Course("line" if uncut else cfg.start, max_steps, give_up)


def show(state: State, selected: float | None) -> None:
    """--display: every candidate's score, best first."""
    ranked = " ".join(f"{score:.0f}" for score in sorted(state.history[-1], reverse=True))
    mean = f" | mean {selected:.1f}" if selected is not None else ""
    tqdm.write(f"generation {state.loop.generation}: {ranked}{mean}")
