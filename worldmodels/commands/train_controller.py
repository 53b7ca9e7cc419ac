"""Evolve C with V and M held fixed.

    worldmodels train-controller --logdir exp_dir
    (the seed: python traincontroller.py --logdir exp_dir --n-samples 4 --pop-size 4 --target-return 950 --display)

Every candidate of a generation drives the same tracks. Every few generations the distribution's MEAN drives the
selection tracks, which training never sees: best.safetensors is the mean that did best there. Writes <logdir>/ctrl:
best.safetensors, last.safetensors, metrics.jsonl and TensorBoard events.
"""

import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from worldmodels import controller, envs, memory, vision
from worldmodels.agent import choose_device
from worldmodels.data.latents import stored_latents
from worldmodels.errors import UserError
from worldmodels.evolution import strategies as evolution
from worldmodels.evolution.fitness import Crew, Setting, choose_devices
from worldmodels.rollout import SELECTION, Episode, GiveUp, track_seeds
from worldmodels.runs import checkpoint
from worldmodels.runs.metrics import Metrics
from worldmodels.runs.settings import TrainController

WHITENING_SAMPLE = 20_000  # features the principal directions are computed from


@dataclass
class Loop:
    """Where the evolution stands; JSON-able."""

    generation: int = 0
    """Finished generations."""
    env_steps: int = 0
    """Steps driven for them, selection included."""
    best: float | None = None
    """Highest mean score on the selection tracks,"""
    select_tracks: int = 0
    """which were so many."""
    seconds: float = 0.0

    @property
    def best_so_far(self) -> str:
        """For people."""
        return "not selected yet" if self.best is None else f"{self.best:.1f} on the selection tracks"


def main(cfg: TrainController) -> None:
    device = choose_device(cfg.device)
    folder = Path(cfg.logdir) / "ctrl"
    vae, mdrnn = vision.load(cfg.logdir), memory.load(cfg.logdir)  # said at once when one is missing
    description = envs.describe(cfg.env)
    if cfg.start == "anywhere" and not description.native:
        raise UserError(f"Only our own simulator starts anywhere: use --start line with --env {cfg.env}.")
    if cfg.strategy in ("openai-es", "pgpe") and cfg.pop_size % 2:
        raise UserError(f"{cfg.strategy} draws mirrored pairs: --pop-size must be even, not {cfg.pop_size}.")
    if cfg.give_up and not (description.time_limit or cfg.max_steps):
        raise UserError(f"--give-up needs the length of an episode of {cfg.env}: add --max-steps.")
    if cfg.directions and cfg.inputs == "zch":
        raise UserError("--directions needs C's bias, which [z, c, h] has not: use --inputs zh.")
    if cfg.hidden and (cfg.directions or cfg.inputs == "zch"):
        raise UserError("--hidden searches all the weights of [z] or [z, h]: leave --directions and --inputs zch out.")
    kind = envs.kind_of(cfg.env)
    if kind.size != mdrnn.lstm.input_size - mdrnn.z_size:
        raise UserError(
            f"M was trained on actions of {mdrnn.lstm.input_size - mdrnn.z_size} numbers, {cfg.env} takes {kind.size}."
        )

    # The search space: all of C's weights, or those of the principal directions of what C sees.
    width = controller.feature_size(cfg.inputs, vae.z_size, mdrnn.hidden_size)
    size = controller.parameter_count(width, kind.size, cfg.inputs != "zch", cfg.hidden)
    fixed = ("strategy", "pop_size", "sigma", "sigma_decay", "seed", "directions", "inputs", "hidden", "sample_z")
    settings = {name: getattr(cfg, name) for name in fixed}
    loop, history, basis = (Loop(), [], None) if cfg.noreload else resume(folder, settings)
    if cfg.directions and basis is None:
        sample = seen_by_c(cfg.inputs, mdrnn, Path(cfg.logdir))
        most = min(width, len(sample) - 1)
        if cfg.directions > most:
            raise UserError(f"--directions is {cfg.directions}: what C sees in M's episodes has {most} at most.")
        basis, _ = controller.whitened_directions(sample, cfg.directions, kind.size)
    if cfg.noreload:
        for old in [*folder.glob("*.safetensors"), folder / "metrics.jsonl"]:
            old.unlink(missing_ok=True)
    searched = size if basis is None else len(basis)
    strategy = evolution.make(cfg.strategy, searched, cfg.pop_size, cfg.sigma, cfg.seed, cfg.sigma_decay)
    means = deque(evolution.replay(strategy, history), maxlen=cfg.average)  # after each generation
    if loop.select_tracks != cfg.select_tracks:  # scores on other tracks do not compare
        loop.best, loop.select_tracks = None, cfg.select_tracks

    def to_parameters(points: np.ndarray) -> np.ndarray:
        return (points if basis is None else points @ basis).astype(np.float32)

    devices = choose_devices(device, cfg.max_workers, description.native)
    setting = Setting(
        cfg.logdir, cfg.env, cfg.inputs, cfg.sample_z, cfg.seed, cfg.batch_size, devices, cfg.precision, cfg.hidden
    )
    if finished(loop, cfg):
        print(
            f"C in {folder} is trained already ({loop.generation} generations, {loop.best_so_far}): "
            "more --epochs, --env-steps or a higher --target-return train it further, --noreload starts over."
        )
        return
    if loop.generation:
        print(f"Continuing C in {folder} at generation {loop.generation + 1}.")
    metrics = Metrics(folder, "generation", loop.generation)
    started = time.perf_counter() - loop.seconds
    selection = [Episode(SELECTION + i) for i in range(cfg.select_tracks)]

    with Crew(setting) as crew, tqdm(
        total=cfg.epochs, initial=loop.generation, unit="generation", desc="C", dynamic_ncols=True
    ) as bar:  # fmt: skip
        while not finished(loop, cfg):
            began, steps_before = time.perf_counter(), loop.env_steps
            tracks = track_seeds(cfg.seed, loop.generation, count=cfg.n_samples)
            episodes = [Episode(track, p) for p in range(cfg.pop_size) for track in tracks]  # P × S

            with tqdm(
                unit=" steps", leave=False, dynamic_ncols=True, desc=f"generation {loop.generation + 1}"
            ) as inner:
                candidates = to_parameters(strategy.ask())
                course = training_course(cfg, description.time_limit, loop.generation)
                scores, steps = crew.scores(candidates, episodes, **course, on_step=inner.update)
            fitness = scores.reshape(cfg.pop_size, cfg.n_samples).mean(axis=1)
            strategy.tell(fitness)
            means.append(strategy.mean)
            history.append(fitness)
            loop.generation += 1
            loop.env_steps += steps

            selected = None
            if loop.generation % cfg.select_every == 0 or loop.generation == 1 or finished(loop, cfg):
                mean = to_parameters(np.mean(means, axis=0)[None])
                with tqdm(unit=" steps", leave=False, dynamic_ncols=True, desc="selection tracks") as inner:
                    results, steps = crew.scores(mean, selection, on_step=inner.update)
                selected = float(results.mean())
                loop.env_steps += steps
                if loop.best is None or selected > loop.best:
                    loop.best = selected
                    save_best(folder, mean[0], cfg, loop)

            now = time.perf_counter()
            loop.seconds = now - started
            metrics.write({
                "generation": loop.generation, "env_steps": loop.env_steps,
                "best": float(fitness.max()), "mean": float(fitness.mean()),
                "std": float(fitness.std()), "worst": float(fitness.min()), "sigma": strategy.sigma,
                "selected": selected,
                "steps_per_second": (loop.env_steps - steps_before) / (now - began), "seconds": loop.seconds,
            })  # fmt: skip
            save_last(folder, settings, loop, history, basis)
            bar.set_postfix_str(f"population {fitness.mean():.0f}, best mean {loop.best_so_far}")
            bar.update()
            if cfg.display:
                show(loop, fitness, selected)
    metrics.close()
    print(f"C drove {loop.env_steps:,} steps in {loop.generation} generations; best mean {loop.best_so_far}.")


def finished(loop: Loop, cfg: TrainController) -> bool:
    """Whether the evolution has what it was asked for: generations, steps, or the score."""
    spent = loop.generation >= cfg.epochs or (cfg.env_steps and loop.env_steps >= cfg.env_steps)
    return bool(spent) or (loop.best is not None and loop.best >= cfg.target_return)


def training_course(cfg: TrainController, time_limit: int | None, generation: int) -> dict[str, Any]:
    """Where the generation's episodes start, how long they go on, and when a hopeless one is given up."""
    whole = cfg.whole_after and generation >= cfg.whole_after
    max_steps = None if whole else cfg.max_steps
    horizon = max_steps or time_limit
    return {
        "options": envs.TRAINING_START if cfg.start == "anywhere" and not whole else None,
        "max_steps": max_steps,
        "give_up": GiveUp(cfg.give_up, horizon) if cfg.give_up and horizon else None,
    }


def seen_by_c(inputs: str, mdrnn: memory.MDRNN, logdir: Path) -> np.ndarray:
    """A sample of what C sees, float64 (M, F): z and M's state over the episodes that M was trained on."""
    seen, count = [], 0
    for episode in stored_latents(logdir / "mdrnn" / "latents", logdir / "vae" / "best.safetensors"):
        state, z = mdrnn.initial_state(1), episode.mean
        for t in range(len(episode.actions)):
            seen.append(controller.features(inputs, z[t : t + 1], state))
            with torch.no_grad():
                state = mdrnn.step(z[t : t + 1], episode.actions[t : t + 1], state)
        count += len(episode.actions)
        if count >= WHITENING_SAMPLE:
            break
    if not seen:
        raise UserError(f"{logdir} holds no episodes as this V sees them: run `worldmodels train-mdrnn` again first.")
    return torch.cat(seen).double().numpy()


def resume(folder: Path, settings: dict) -> tuple[Loop, list[np.ndarray], np.ndarray | None]:
    """(loop, scores told so far, basis of the search space) of last.safetensors; a fresh start where there is none.

    Raises:
        UserError: the evolution there was started with other settings.
    """
    path = folder / "last.safetensors"
    if not path.exists():
        return Loop(), [], None
    tensors, meta = checkpoint.load(path)
    before = {name: getattr(TrainController(), name) for name in settings} | meta.get("settings", {})
    if before != settings:
        changed = [name for name, value in settings.items() if before[name] != value]
        raise UserError(
            f"C in {folder} was started with other settings ({', '.join(changed)}): "
            "use the same ones, another --logdir, or --noreload to start over."
        )
    basis = tensors["basis"].numpy() if "basis" in tensors else None
    return Loop(**meta["loop"]), list(tensors["history"].numpy()), basis


def save_last(folder: Path, settings: dict, loop: Loop, history: list[np.ndarray], basis: np.ndarray | None) -> None:
    """The strategy is rebuilt by replaying `history` (G, P), so its scores are all there is to save."""
    tensors = {"history": torch.from_numpy(np.array(history))}
    if basis is not None:
        tensors["basis"] = torch.from_numpy(basis)
    checkpoint.save(folder / "last.safetensors", tensors, {"settings": settings, "loop": asdict(loop)})


def save_best(folder: Path, parameters: np.ndarray, cfg: TrainController, loop: Loop) -> None:
    """The weights that act, with what an agent needs to know about them."""
    meta = {
        "controller": {"inputs": cfg.inputs, "sample_z": cfg.sample_z, "seed": cfg.seed, "hidden": cfg.hidden},
        "env": cfg.env, "generation": loop.generation, "selected": loop.best,
    }  # fmt: skip
    checkpoint.save(folder / "best.safetensors", {"parameters": torch.from_numpy(parameters)}, meta)


def show(loop: Loop, fitness: np.ndarray, selected: float | None) -> None:
    """--display: every candidate's score, best first."""
    ranked = " ".join(f"{score:.0f}" for score in sorted(fitness, reverse=True))
    tqdm.write(f"generation {loop.generation}: {ranked}" + (f" | mean {selected:.1f}" if selected is not None else ""))
