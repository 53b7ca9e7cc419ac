"""`worldmodels <command>`: the only file that parses arguments.

What wins: defaults < preset < what the run was asked before < flags. A command imports what it needs when it runs, so
that `--help` answers at once.
"""

import argparse
import codecs
import dataclasses
import importlib
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldmodels import __version__
from worldmodels.envs import describe, find, registered
from worldmodels.errors import UserError
from worldmodels.runs import bounds, presets, record, settings, stages
from worldmodels.runs.directory import RunDir
from worldmodels.workers.pool import import_ahead

COMMANDS: dict[str, type] = {
    "run": stages.Run, "collect": settings.Collect, "train-vae": settings.TrainVAE, "train-mdrnn": settings.TrainMDRNN,
    "train-controller": settings.TrainController, "train-in-dream": settings.TrainInDream,
    "evaluate": settings.Evaluate, "report": settings.Report, "play": settings.Play, "export": settings.Export,
}  # fmt: skip
"""Command → its settings; its `main` is in worldmodels/commands/."""
REMEMBERED = {
    "run": "run", "train-vae": "vae", "train-mdrnn": "mdrnn", "train-controller": "ctrl", "train-in-dream": "ctrl",
}  # fmt: skip
"""Commands whose settings a run keeps → what holds the work they were asked for; other commands are asked anew."""

ABOUT = "\n".join(
    textwrap.fill(str(cls.__doc__), 100, initial_indent=f"  {command:<19}", subsequent_indent=" " * 21)
    for command, cls in COMMANDS.items()
)
USAGE = f"""usage: worldmodels COMMAND [--preset NAME] [options]

World Models (Ha & Schmidhuber 2018): a driver that sees and remembers through its own
model of the world.

{ABOUT}

Start with `run`. `worldmodels COMMAND --help` lists a command's options and their defaults; `worldmodels --version`
the version.
Presets: smoke (seconds), laptop (two cores, seven minutes; the default of `run`), sprint (two cores, half an hour: a
driver that beats the paper's), overnight (80 minutes: one as good as the package's), dream (C learns in the dream
alone), paper (the paper's numbers); for the paper's second world, Doom, takecover (two cores, a coffee break),
takecover-night and takecover-paper.
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command; a user's mistake ends in one sentence and exit code 2."""
    arguments = sys.argv[1:] if argv is None else argv
    with as_a_command("Stopped. The same command continues."):
        start(arguments)


@contextmanager
def as_a_command(stopped: str = "Stopped.") -> Iterator[None]:
    """Run a program of ours as a command is: what a user can mend is said in one sentence (exit code 2), and Ctrl-C is
    answered (`stopped`, 130)."""
    open_closed_streams()
    speak_plainly()
    with hearing_ctrl_c() as pressed:
        try:
            yield
            sys.stdout.flush()
        except BrokenPipeError:  # `| head`: whoever read has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except KeyboardInterrupt:
            fail(stopped, code=130)
        except Exception as error:
            if pressed.is_set():
                fail(stopped, code=130)
            if isinstance(error, UserError):
                fail(str(error))
            if isinstance(error, MemoryError) or "allocate memory" in str(error):  # PyTorch's is a RuntimeError
                fail(f"The memory is too small for that ({error}): ask for less, such as a smaller --batch-size; what "
                     "was finished is kept.")  # fmt: skip
            if not isinstance(error, OSError) or (error.filename is None and error.errno is None):
                raise
            fail(f"{error.filename or 'A file'} cannot be used ({error.strerror}): correct that and run the command "
                 "again; what was finished is kept.")  # fmt: skip


@contextmanager
def hearing_ctrl_c() -> Iterator[threading.Event]:
    """Notice Ctrl-C: who compiles the simulator passes the KeyboardInterrupt over and fails a moment later."""
    pressed, usual = threading.Event(), signal.getsignal(signal.SIGINT)

    def press(*signal_and_frame: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    if ours := usual is signal.default_int_handler and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, usual)


def start(arguments: list[str]) -> None:
    """Say what there is, or run a command."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("The folder you are in has been deleted: go to another and run the command again.") from error
    command = arguments[0] if arguments else "help"
    if command in ("-h", "--help", "help"):
        if arguments[1:]:
            start([*arguments[1:2], "--help"])
        print(USAGE)
        return
    if command in ("-V", "--version", "version"):
        print(f"worldmodels {__version__}")
        return
    if command not in COMMANDS:
        raise UserError(f"There is no command {command!r}: it is one of {', '.join(COMMANDS)}.")
    if os.environ.get("WORLD_SIZE", "1") != "1" and command not in ("train-vae", "train-mdrnn"):
        raise UserError(f"torchrun trains V and M (train-vae, train-mdrnn): start {command} without it.")
    cfg, preset = parse(command, arguments[1:])
    if command == "evaluate" and needs_workers(cfg):
        import_ahead()
    stage = importlib.import_module(f"worldmodels.commands.{command.replace('-', '_')}").main
    if command in REMEMBERED:
        stage(cfg, begin=lambda: record.write(command, cfg, preset))
    else:
        stage(cfg)


def needs_workers(cfg: settings.Evaluate) -> bool:
    """Whether it is said that V, M and C are to drive one episode at a time, and so in other processes."""
    return cfg.env is not None and cfg.policy is None and not cfg.render and not describe(cfg.env).batched


def fail(sentence: str, code: int = 2) -> None:
    print(f"\n{sentence}", file=sys.stderr)
    sys.exit(code)


def parse(command: str, arguments: list[str]) -> tuple[Any, str | None]:
    """(the command's config, the preset's name): defaults < preset < what the run was asked before < flags.

    Exits with code 2 and one sentence for an unknown flag or value, as argparse does; UserError for what cannot be.
    """
    import tyro

    cls = COMMANDS[command]
    arguments = [at_home(word) for word in arguments]
    said, rest = said_early(arguments)
    run = RunDir(Path(said.logdir if said.logdir is not None else "exp_dir"))
    saved = record.read(command, run) if command in REMEMBERED else {}
    preset, saved = choose_preset(command, said.preset, saved, run, over="--noreload" in arguments)
    default = record.updated(cls(), saved)
    if preset is not None:
        env_id = said.env or saved.get("env")
        default = record.updated(preset_config(command, preset, env_id), saved)
    description = cls.__doc__ or ""
    if command in ("run", *stages.STAGES):
        description += f"\n\nPresets (--preset): {', '.join(presets.NAMES)}."
    cfg = tyro.cli(
        cls, args=rest, default=default, prog=f"worldmodels {command}", description=description,
        config=None if command == "run" else (tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    bounds.check(cfg)
    bounds.check_said(cfg, default)
    check_env(getattr(cfg, "env", None), said.env is not None, run)
    return cfg, preset


def at_home(word: str) -> str:
    """~ is the home folder also where no shell sees to it: in `--logdir=~/run`, and between quotes."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + os.path.expanduser(value)


def said_early(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """`preset`, `logdir` and `env` as they are said, and the arguments without the preset."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("preset", "logdir", "env"):
        parser.add_argument(f"--{name}")
    try:
        said, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
    again = [f"--{name}={value}" for name, value in vars(said).items() if name != "preset" and value is not None]
    return said, again + rest


def choose_preset(
    command: str, said: str | None, saved: dict[str, Any], run: RunDir, over: bool
) -> tuple[str | None, dict[str, Any]]:
    """(the preset that counts, what counts of the saved settings).

    A preset that is said wins over what the run was asked before; when the run has work of other settings already and
    does not start `over`, it is refused.
    """
    earlier = saved.pop("preset", None)
    if said is None or said == earlier or not saved:
        return said or earlier or ("laptop" if command == "run" else None), saved
    if command == "run" or (not over and (run.path / REMEMBERED[command] / "last.safetensors").exists()):
        raise UserError(
            f"{run.path} holds a run of {f'the preset {earlier}' if earlier else 'no preset'}: give {said} another "
            "--logdir, or leave --preset out to continue that run."
        )
    return said, {}


def preset_config(command: str, preset: str, env_id: str | None) -> Any:
    """The command's settings in a preset."""
    run = presets.preset(preset, env_id)
    if command == "run":
        return run
    if command not in stages.STAGES:
        raise UserError(f"{command} does the same in every preset: leave --preset out.")
    default = COMMANDS[command]()
    place = {"env": run.env, "rootdir": settings.episodes_of(run.env)}
    place = {name: value for name, value in place.items() if getattr(default, name, None) is not None}
    return dataclasses.replace(default, **place, **vars(getattr(run, stages.STAGES[command])))


def check_env(env_id: str | None, said: bool, run: RunDir) -> None:
    """UserError for an environment that cannot be found; a module that only a file names is not imported."""
    if env_id is None:
        return
    if not said and not registered(env_id):
        raise UserError(f"{run.config} names the environment {env_id}: say --env {env_id} again to import its module.")
    find(env_id)


# ------------------------------------------------------------------------------------------------------ text

PLAIN = str.maketrans({"│": "|", "─": "-", "┼": "+", "±": "+-", "×": "x", "−": "-", "–": "-", "…": "...", "·": "-"})


def open_closed_streams() -> None:
    """A program started without stdout or stderr (`>&-`, a service) speaks to nobody."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def speak_plainly() -> None:
    """Where stdout or stderr cannot hold a character (cp1252, Latin-1, ASCII), say it with plain ones."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        text = error.object[error.start : error.end].translate(PLAIN)
        return text.encode("ascii", "replace").decode(), error.end

    codecs.register_error("plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")
