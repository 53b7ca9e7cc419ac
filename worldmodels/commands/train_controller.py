"""Evolve C with V and M held fixed.

    worldmodels train-controller --logdir exp_dir
    (ctallec's port: python traincontroller.py --logdir exp_dir --n-samples 4 --pop-size 4 --target-return 950)

Every candidate of a generation drives the same episodes. Every few generations the distribution's MEAN drives the
selection tracks, which training never sees: best.safetensors is the mean that did best there. Writes <logdir>/ctrl:
best.safetensors, last.safetensors, metrics.jsonl and TensorBoard events.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from worldmodels import controller, envs, memory, vision
from worldmodels.agent import Eyes, check_fit, load
from worldmodels.controller import Controller
from worldmodels.data.latents import stored_latents
from worldmodels.dream import Starts
from worldmodels.envs import Description, World
from worldmodels.envs.seeds import SELECTION, training_seeds
from worldmodels.errors import UserError
from worldmodels.evolution import strategies
from worldmodels.evolution.fitness import fitness
from worldmodels.evolution.search import Search, whitened_directions
from worldmodels.rollout import GiveUp
from worldmodels.runs import checkpoint
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone
from worldmodels.runs.metrics import Metrics
from worldmodels.runs.progress import machines, progress
from worldmodels.runs.settings import TrainController, check
from worldmodels.show.dreamed import film
from worldmodels.workers.dreamer import Dreamers
from worldmodels.workers.driver import Course, Drivers, Job, Models, Outcome
from worldmodels.workers.places import Place, choose_bfloat16, choose_device, choose_places
from worldmodels.workers.pool import Pool, open_pool

WHITENING_SAMPLE = 20_000  # features the principal directions are computed from
FIXED = (
    "env",
    "dream",
    "temperature",
    "horizon",
    "strategy",
    "pop_size",
    "sigma",
    "sigma_decay",
    "seed",
    "directions",
    "inputs",
    "hidden",
    "sample_z",
)
"""Settings that an evolution keeps from its first generation to its last."""


def main(cfg: TrainController, begin: Callable[[], None] = lambda: None) -> None:
    """Evolve; `begin` is called when all is known to be good (the run then remembers what it was asked)."""
    check(cfg)
    run, description = RunDir.of(cfg.logdir), envs.find(cfg.env)
    refuse(cfg, description)
    shape = shape_of_c(cfg, run)
    places = choose_places(choose_device(cfg.device), cfg.max_workers, description.batched)
    models = Models.of(run, shape, cfg.sample_z, cfg.seed, precision_of(cfg, places))
    world = World.practice(cfg.env)
    real = Drivers(world, cfg.batch_size, models)
    dream = dreamers(cfg, run, shape, places) if cfg.dream else None
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
            film(run, driver, dream.starts, cfg.temperature, cfg.horizon, SELECTION, state.loop.generation)
    loop = state.loop
    dreamed = f" and {loop.dream_steps:,} in the dream" if cfg.dream else ""
    print(f"C drove {loop.env_steps:,} steps{dreamed} in {loop.generation} generations; best mean {loop.best_so_far}.")


def evolve(
    cfg: TrainController,
    run: RunDir,
    state: "State",
    drivers: Drivers,
    dreamers: Dreamers | None,
    places: tuple[Place, ...],
    description: Description,
) -> None:
    """ask → fitness → tell, until the evolution has what it was asked for; selection is always real.

    A few selection tracks keep a few workers of a cluster busy: there the next generation is driven beside them, and
    forgotten if they say that the evolution is finished.
    """
    loop, strategy, space = state.loop, state.strategy, state.space
    metrics = Metrics(run.ctrl, "generation", loop.generation)
    started = time.perf_counter() - loop.seconds
    began, steps_before = time.perf_counter(), loop.env_steps + loop.dream_steps
    bar = progress(total=cfg.epochs, initial=loop.generation, unit="generation", desc="C")
    with open_pool(drivers, places, ray=cfg.ray, most=cfg.max_workers) as real, ExitStack() as stack, bar:
        practice, beside = real, stack.enter_context(ThreadPoolExecutor(1))
        if dreamers is not None:
            practice = stack.enter_context(open_pool(dreamers, places, ray=cfg.ray, most=cfg.max_workers))

        def drive() -> tuple[np.ndarray, int]:
            """(scores (P,) of the next generation, steps)."""
            tracks = training_seeds(cfg.seed, loop.generation, count=cfg.n_samples)
            with progress(inner=True, unit=" steps", desc=f"generation {loop.generation + 1}") as steps:
                candidates = space.parameters(strategy.ask())
                course = training_course(cfg, description, loop.generation)
                scores, driven = fitness(practice, candidates, tracks, course, cfg.batch_size, steps.update)
            return scores.mean(axis=1), driven

        def select(mean: np.ndarray) -> tuple[float, dict[str, float] | None]:
            """(the mean's score on the selection tracks, what M promises of it if C evolves in the dream)."""
            with progress(inner=True, unit=" steps", desc="selection tracks") as steps:
                selection = range(SELECTION, SELECTION + cfg.select_tracks)
                results, driven = fitness(real, mean[None], selection, Course(), cfg.batch_size, steps.update)
            selected = float(results.mean())
            loop.env_steps += driven
            if dreamers is None:
                return selected, None
            return selected, gate(practice, real, mean, cfg, state, selected if whole(cfg, description) else None)

        def close(selected: float | None, dreamed: dict[str, float] | None) -> None:
            """Enter the last generation: the best so far, its row, the checkpoint."""
            nonlocal began, steps_before
            if selected is not None and (loop.best is None or selected > loop.best):
                loop.best = selected
                save_best(run, state, space.parameters(state.mean), cfg)
            now, steps = time.perf_counter(), loop.env_steps + loop.dream_steps
            loop.seconds, pace = now - started, (steps - steps_before) / (now - began)
            began, steps_before = now, steps
            metrics.write(state.row(selected) | (dreamed or {}) | {"steps_per_second": pace, "seconds": loop.seconds})
            state.save(run)
            where = f"{pace:,.0f} steps/s{machines(real)}, " if cfg.ray else ""
            bar.set_postfix_str(where + state.summary(dreamed), refresh=False)
            bar.update()
            if cfg.display:
                show(state, selected)

        selecting: Future[tuple[float, dict[str, float] | None]] | None = None
        while not state.finished(cfg, description):
            scores, driven = drive()
            if selecting is not None:
                close(*selecting.result())
                selecting = None
                if state.finished(cfg, description):
                    break
            strategy.tell(scores)
            state.count(scores, driven, dreamed=cfg.dream)
            due = loop.generation % cfg.select_every == 0 or loop.generation == 1
            if not due and not state.finished(cfg, description):
                close(None, None)
            elif cfg.ray:
                selecting = beside.submit(select, space.parameters(state.mean))
            else:
                close(*select(space.parameters(state.mean)))
        if selecting is not None:
            close(*selecting.result())
    metrics.close()


def gate(
    practice: Pool[Job, Outcome],
    real: Pool[Job, Outcome],
    mean: np.ndarray,
    cfg: TrainController,
    state: "State",
    selected: float | None,
) -> dict[str, float]:
    """The mean in dreams it has not met, and over as many real steps from the same kind of start: what M promises, and
    what the world then pays. A ratio far above one says that C has learned M's mistakes. `selected`: its score on the
    selection tracks where that is what would be driven; None otherwise."""
    seeds = range(SELECTION, SELECTION + cfg.select_tracks)
    promised, dreamed_steps = fitness(practice, mean[None], seeds, Course(max_steps=cfg.horizon), cfg.batch_size)
    state.loop.dream_steps += dreamed_steps
    if selected is None:
        paid, steps = fitness(real, mean[None], seeds, Course(cfg.start, cfg.horizon), cfg.batch_size)
        state.loop.env_steps += steps
        selected = float(paid.mean())
    return {"dreamed": float(promised.mean()), "real": selected, "dream_steps": state.loop.dream_steps}


def whole(cfg: TrainController, description: Description) -> bool:
    """Whether a dream may last as long as an episode, and begins as one."""
    return cfg.start == "line" and description.time_limit is not None and cfg.horizon >= description.time_limit


# --------------------------------------------------------------------------------------- where it stands


@dataclass
class Loop:
    """Where the evolution stands; JSON-able."""

    generation: int = 0
    """Finished generations."""
    env_steps: int = 0
    """Steps driven for them, selection included,"""
    dream_steps: int = 0
    """and steps dreamed."""
    best: float | None = None
    """Highest mean score on the selection tracks,"""
    select_tracks: int = 0
    """which were so many,"""
    models: str = ""
    """driven with this V and M."""
    seconds: float = 0.0

    @property
    def best_so_far(self) -> str:
        """For people."""
        return "not selected yet" if self.best is None else f"{self.best:.1f} on the selection tracks"


@dataclass
class State:
    """An evolution: the loop, and the strategy, which is rebuilt from the scores it was told."""

    loop: Loop
    settings: dict[str, Any]
    """The values of FIXED."""
    shape: Controller
    space: Search
    strategy: strategies.Strategy
    means: deque[np.ndarray]
    """The distribution's mean after each of the last generations."""
    history: list[np.ndarray] = field(default_factory=list)
    """The scores (P,) of every generation."""
    told: dict[str, np.ndarray] = field(default_factory=dict)
    """The strategy's state after the last of them."""

    @property
    def mean(self) -> np.ndarray:
        """The point that is evaluated and kept."""
        return np.mean(self.means, axis=0)

    def count(self, scores: np.ndarray, steps: int, dreamed: bool) -> None:
        """Enter a generation that the strategy was told."""
        self.means.append(self.strategy.mean)
        self.told = self.strategy.state()
        self.history.append(scores)
        self.loop.generation += 1
        if dreamed:
            self.loop.dream_steps += steps
        else:
            self.loop.env_steps += steps

    def finished(self, cfg: TrainController, description: Description) -> bool:
        """Whether the evolution has what it was asked for: generations, steps, or the score."""
        loop = self.loop
        target = description.target_return if cfg.target_return is None else cfg.target_return
        spent = loop.generation >= cfg.epochs or (cfg.env_steps and loop.env_steps >= cfg.env_steps)
        return bool(spent) or (loop.best is not None and target is not None and loop.best >= target)

    def summary(self, dreamed: dict[str, float] | None) -> str:
        """For the progress bar."""
        text = f"population {self.history[-1].mean():.0f}, best mean {self.loop.best_so_far}"
        return text + (f", dreamed {dreamed['dreamed']:.0f} real {dreamed['real']:.0f}" if dreamed else "")

    def row(self, selected: float | None) -> dict[str, Any]:
        """The last generation's metrics."""
        scores = self.history[-1]
        return {
            "generation": self.loop.generation, "env_steps": self.loop.env_steps,
            "best": float(scores.max()), "mean": float(scores.mean()), "std": float(scores.std()),
            "worst": float(scores.min()), "sigma": self.strategy.sigma, "selected": selected,
        }  # fmt: skip

    def save(self, run: RunDir) -> None:
        """The scores, from which the strategy can be replayed, and its state, which makes that unnecessary."""
        arrays = {"history": np.array(self.history), "means": np.array(self.means)}
        if self.space.basis is not None:
            arrays["basis"] = self.space.basis
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        strategy = {name: torch.from_numpy(np.array(array)) for name, array in self.told.items()}
        meta = {"settings": self.settings, "loop": asdict(self.loop)}
        checkpoint.save(run.ctrl / "last.safetensors", {**tensors, **checkpoint.pack("strategy", strategy)}, meta)


def resume(cfg: TrainController, run: RunDir, shape: Controller) -> State:
    """The evolution in last.safetensors; a fresh one where there is none, or with --noreload.

    Raises:
        UserError: the evolution there was started with other settings, or is damaged.
    """
    settings = {name: getattr(cfg, name) for name in FIXED}
    path = run.ctrl / "last.safetensors"
    loop, history, arrays = Loop(), [], {}
    if path.exists() and not cfg.noreload:
        tensors, meta = checkpoint.load(path)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        try:
            refuse_other_settings(run, settings, meta["settings"])
            loop, history = Loop(**meta["loop"]), list(arrays["history"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} holds no evolution: delete it, or start over with --noreload.") from error
        print(f"Continuing C in {run.ctrl} at generation {loop.generation + 1}.")
    space = Search(shape, arrays.get("basis"))
    if cfg.directions and space.basis is None:
        space = Search(shape, basis_of(cfg, run, shape))
    if cfg.noreload:
        start_over(run.ctrl)
    strategy = strategies.make(cfg.strategy, space.size, cfg.pop_size, cfg.sigma, cfg.seed, cfg.sigma_decay)
    means = deque(bring_back(strategy, history, arrays, run), maxlen=cfg.average)
    forget_best_of_another_course(cfg, run, loop)
    return State(loop, settings, shape, space, strategy, means, history)


def bring_back(
    strategy: strategies.Strategy, history: list[np.ndarray], arrays: dict[str, np.ndarray], run: RunDir
) -> Iterable[np.ndarray]:
    """Make a fresh strategy the one that was told `history`; returns its latest means.

    Raises:
        UserError: neither its state nor its scores lead there with the versions installed.
    """
    state = {name.removeprefix("strategy."): array for name, array in arrays.items() if name.startswith("strategy.")}
    try:
        if state:
            strategy.restore(state)
            return list(arrays["means"])
    except (KeyError, ValueError):  # another version of cma
        pass
    means = list(strategies.replay(strategy, history))
    if "means" in arrays and not np.allclose(strategy.mean, arrays["means"][-1], rtol=0, atol=1e-6 * strategy.sigma):
        raise UserError(
            f"The evolution in {run.ctrl} cannot be continued: its scores lead elsewhere with the cma and NumPy that "
            "are installed. Install the versions in config.json, or start over with --noreload."
        )
    return means


def refuse_other_settings(run: RunDir, settings: dict[str, Any], before: dict[str, Any]) -> None:
    """UserError for an evolution that was started with other settings."""
    plain = {name: getattr(TrainController(), name) for name in settings} | {"env": settings["env"]}  # version 0.1
    changed = [name for name, value in settings.items() if {**plain, **before}[name] != value]
    if changed:
        raise UserError(
            f"C in {run.ctrl} was started with other settings ({', '.join(changed)}): "
            "use the same ones, another --logdir, or --noreload to start over."
        )


def forget_best_of_another_course(cfg: TrainController, run: RunDir, loop: Loop) -> None:
    """Scores on other selection tracks, or with another V or M, do not compare."""
    models = checkpoint.digest(run.trained("vae"), run.trained("mdrnn"))
    if loop.models not in ("", models):
        print("V or M has changed since C evolved: it goes on with the new ones.")
        loop.best = None
    if loop.select_tracks != cfg.select_tracks:
        loop.best = None
    loop.select_tracks, loop.models = cfg.select_tracks, models


def start_over(folder: Path) -> None:
    for old in [*folder.glob("*.safetensors"), *folder.glob("events.out.tfevents.*"), folder / "metrics.jsonl"]:
        old.unlink(missing_ok=True)


def save_best(run: RunDir, state: State, parameters: np.ndarray, cfg: TrainController) -> None:
    """The weights that act, with what an agent needs to know about them."""
    agent = {"sample_z": cfg.sample_z, "seed": cfg.seed}
    origin = {"env": cfg.env, "generation": state.loop.generation, "selected": state.loop.best}
    controller.save(run, state.shape, parameters, {"agent": agent, **origin})


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
    if cfg.hidden and (cfg.directions or cfg.inputs == "zch"):
        raise UserError("--hidden searches all the weights of [z] or [z, h]: leave --directions and --inputs zch out.")


def shape_of_c(cfg: TrainController, run: RunDir) -> Controller:
    """C as this V, M and environment need it; UserError when they do not fit each other."""
    vae, mdrnn, actions = vision.load(run), memory.load(run), envs.actions_in(World(cfg.env))
    shape = Controller(mdrnn.z_size, mdrnn.hidden_size, actions.outputs, cfg.inputs, cfg.inputs != "zch", cfg.hidden)
    check_fit(Eyes(vae), mdrnn, shape, np.zeros((1, shape.size)), actions)
    return shape


def dreamers(cfg: TrainController, run: RunDir, shape: Controller, places: tuple[Place, ...]) -> Dreamers:
    """What a worker needs to dream.

    Raises:
        UserError: M's dream pays nothing, it has no starts, or M learned another kind of actions.
    """
    mdrnn, actions = memory.load(run), envs.actions_in(World(cfg.env))
    if not mdrnn.pays:
        head = "--include-terminal" if mdrnn.step_reward else "--include-reward"
        raise UserError(
            f"The M of {run.path} predicts no {head.removeprefix('--include-')}, so that nothing can be learned in its "
            f"dream: `worldmodels train-mdrnn --noreload {head}` trains one that does."
        )
    if mdrnn.action_kind not in (None, actions.name):
        raise UserError(
            f"The M of {run.path} learned actions of the kind {mdrnn.action_kind}, and {cfg.env} takes {actions.name}: "
            "choose the environment it was trained on."
        )
    if cfg.hidden:
        raise UserError("A C with a hidden layer cannot act in the dream: leave --hidden out.")
    starts = Starts.load(run.mdrnn / "starts.safetensors", mdrnn)
    if mdrnn.include_restart:  # it dreams episodes from their first step on, as the paper's Take Cover
        starts = starts.first()
    weights = run.trained("mdrnn").read_bytes()
    bfloat16 = choose_bfloat16(cfg.precision, torch.device(places[0].device))
    return Dreamers(weights, starts, shape, actions, cfg.temperature, cfg.horizon, bfloat16)


def precision_of(cfg: TrainController, places: tuple[Place, ...]) -> str:
    """Decided once, here: workers on unlike machines must not decide differently."""
    return "bfloat16" if choose_bfloat16(cfg.precision, torch.device(places[0].device)) else "float32"


def training_course(cfg: TrainController, description: Description, generation: int) -> Course:
    """Where the generation's episodes start, how long they go on, and when a hopeless one is given up."""
    if cfg.dream:
        return Course(max_steps=cfg.horizon)
    uncut = bool(cfg.whole_after) and generation >= cfg.whole_after
    max_steps = None if uncut else cfg.max_steps
    horizon = max_steps or description.time_limit
    give_up = GiveUp(cfg.give_up, horizon) if cfg.give_up and horizon else None
    return Course("line" if uncut else cfg.start, max_steps, give_up)


def basis_of(cfg: TrainController, run: RunDir, shape: Controller) -> np.ndarray:
    """The principal directions of what C sees in M's episodes."""
    sample = seen_by_c(shape, memory.load(run), run)
    most = min(shape.features, len(sample) - 1)
    if cfg.directions > most:
        raise UserError(f"--directions is {cfg.directions}: what C sees in M's episodes has {most} at most.")
    return whitened_directions(sample, cfg.directions, shape.outputs)


def seen_by_c(shape: Controller, mdrnn: memory.MDRNN, run: RunDir) -> np.ndarray:
    """A sample of what C sees, float64 (M, F): z and M's state over the episodes that M was trained on."""
    seen: list[torch.Tensor] = []
    for episode in stored_latents(run.latents, run.trained("vae")):
        state, z = mdrnn.initial_state(1), episode.mean
        for t in range(len(episode.actions)):
            seen.append(shape.see(z[t : t + 1], state))
            with torch.no_grad():
                state = mdrnn.step(z[t : t + 1], episode.actions[t : t + 1], state)
        if len(seen) >= WHITENING_SAMPLE:
            break
    if not seen:
        raise UserError(f"{run.latents} holds no episodes as V sees them: run `worldmodels train-mdrnn` again first.")
    return torch.cat(seen).double().numpy()


def show(state: State, selected: float | None) -> None:
    """--display: every candidate's score, best first."""
    ranked = " ".join(f"{score:.0f}" for score in sorted(state.history[-1], reverse=True))
    mean = f" | mean {selected:.1f}" if selected is not None else ""
    tqdm.write(f"generation {state.loop.generation}: {ranked}{mean}")
