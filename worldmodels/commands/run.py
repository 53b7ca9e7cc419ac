"""The whole pipeline in order, each stage where the last one stopped.

worldmodels run --preset laptop --logdir exp_dir
worldmodels run --iterations 2 --logdir exp_dir      (the paper's iterative procedure, section 5)
"""

import re
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from worldmodels import envs
from worldmodels.commands import collect, evaluate, report, train_controller, train_in_dream, train_mdrnn, train_vae
from worldmodels.controller import Controller
from worldmodels.errors import UserError
from worldmodels.runs import record
from worldmodels.runs.bounds import check
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import alone, write_atomically
from worldmodels.runs.settings import Report
from worldmodels.runs.stages import STAGES, Run, previous, stages
from worldmodels.training import learner
from worldmodels.workers.places import choose_device

Stage = tuple[str, str, Callable[..., None], Any]  # title, command, its main, its settings


def main(cfg: Run, begin: Callable[[], None] = lambda: None) -> None:
    """Run every stage; `begin` is called when the first is known to be good."""
    check(cfg)
    refuse(cfg)
    run, started = RunDir.of(cfg.logdir), time.perf_counter()
    with alone(run.path, "running the pipeline"):
        earlier = record.known(run).get("run")
        move_to_previous(cfg)
        title = f"Evaluating on held-out {envs.describe(cfg.env).episode}s"
        todo = [*training(cfg), (title, "evaluate", evaluate.main, stages(cfg).evaluate)]
        for number, (title, command, stage, settings) in enumerate(todo, start=1):
            print(f"\n[{number}/{len(todo)}] {title}  ({time.perf_counter() - started:.0f} s so far)")
            try:
                if command.startswith("train"):
                    train(command, stage, settings, run, earlier)
                else:
                    stage(settings)
            except UserError as error:
                raise UserError(in_words_of_run(str(error), command, settings)) from error
            if number == 1:
                begin()
        report.main(Report(logdir=cfg.logdir))
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at {run.report}")


def refuse(cfg: Run) -> None:
    """UserError for what a later stage would refuse after hours."""
    todo = stages(cfg)
    for settings in todo:
        check(settings)
    description = envs.find(cfg.env)
    pays = todo.mdrnn.include_reward or bool(description.step_reward and todo.mdrnn.include_terminal)
    choose_device(cfg.device)
    if cfg.warm and cfg.dream.rounds:
        raise UserError("--warm carries over a C that evolved, and here it learns in the dream: leave --warm out.")
    if cfg.collect.rollouts < 2:
        raise UserError("--collect.rollouts is 1, where two are needed: one to train on, one to test.")
    if cfg.dream.rounds:
        learner.refuse(todo.dream, pays, todo.mdrnn.discount)
    else:
        train_controller.refuse(todo.controller, description)
        train_controller.refuse_dream(todo.controller, pays, description.step_reward)
        seen = Controller(todo.vae.z_size, todo.mdrnn.hidden_size, 1, todo.controller.inputs).features
        if todo.controller.directions > seen:
            raise UserError(f"--controller.directions is {todo.controller.directions}: C sees {seen} numbers.")
    collect.try_out(todo.collect)
    if cfg.iterations > 1:
        collect.refuse(stages(previous(cfg)).collect)
    evaluate.try_out(todo.evaluate)


def training(cfg: Run) -> list[Stage]:
    """The stages that make V, M and C, after those of the iteration before, until its driver has begun to collect."""
    todo = stages(cfg)
    before: list[Stage] = []
    who = "at random" if todo.collect.policy != "agent" else f"with the driver of {todo.collect.logdir}"
    if cfg.iterations > 1:
        if (todo.collect.folder / "collect.json").exists():
            who += ", which stays as it is"
        else:
            before = training(previous(cfg))
    learning: Stage = ("Evolving C", "train-controller", train_controller.main, todo.controller)
    if cfg.dream.rounds:
        learning = ("C learns in the dream", "train-in-dream", train_in_dream.main, todo.dream)
    return [
        *before,
        (f"Collecting episodes {who}", "collect", collect.main, todo.collect),
        ("Training V", "train-vae", train_vae.main, todo.vae),
        ("Training M", "train-mdrnn", train_mdrnn.main, todo.mdrnn),
        learning,
    ]


def train(command: str, stage: Callable[..., None], settings: Any, run: RunDir, earlier: Any) -> None:
    """A stage that remembers its settings, so that the single command continues with them. When it refuses them, the
    run is again what it was asked before (`earlier`)."""
    accepted = False

    def begin() -> None:
        nonlocal accepted
        record.write(command, settings, record.read("run", run).get("preset"))
        accepted = True

    try:
        stage(settings, begin=begin)
    except UserError:
        if not accepted:
            record.put("run", run, earlier)
        raise


def in_words_of_run(sentence: str, command: str, settings: Any) -> str:
    """What a stage says to its user, with the flags that `run` has for it; `commands` in it stay as they are."""
    told, field = vars(settings), STAGES[command]

    def flag(said: re.Match[str]) -> str:
        name = said[1].replace("-", "_")
        if name == "noreload":
            return f"`worldmodels {command} --logdir {shlex.quote(told['logdir'])} --noreload`"
        if name == "rootdir":
            return "--logdir"
        return f"--{field}.{said[1]}" if name in told and name not in vars(Run()) else said[0]

    parts = sentence.split("`")
    parts[::2] = [re.sub(r"(?<![\w-])--([a-z][a-z-]*)", flag, part) for part in parts[::2]]
    return "`".join(parts)


# ------------------------------------------------------------------------------------------- more iterations


def move_to_previous(cfg: Run) -> None:
    """A run of fewer iterations becomes the iteration before: what it holds moves to <logdir>/previous."""
    run = RunDir.of(cfg.logdir)
    parts = [run.rollouts, run.vae, run.mdrnn, run.ctrl, run.evaluations, run.evaluation, run.video, run.report,
             run.playground, run.previous.path]  # fmt: skip
    moving = run.path / ".previous"  # a move that was interrupted goes on
    if moving.exists() or 0 < iteration(run) < cfg.iterations:
        with ExitStack() as locks:
            for folder in (run.rollouts, run.vae, run.mdrnn, run.ctrl, run.evaluations):
                if folder.exists():
                    locks.enter_context(alone(folder, "working"))
            moving.mkdir(exist_ok=True)
            for part in parts:
                if part.exists():
                    part.rename(moving / part.name)
            if run.config.exists():
                write_atomically(moving / run.config.name, run.config.read_bytes())
            moving.rename(run.previous.path)
    if cfg.iterations > 1:
        move_to_previous(previous(cfg))


def iteration(run: RunDir) -> int:
    """The iteration that a run directory has begun: 0 where it has no episodes yet."""
    return 1 + iteration(run.previous) if (run.rollouts / "collect.json").exists() else 0
