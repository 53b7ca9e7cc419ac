"""`worldmodels <command>`: the only file that parses arguments.

What wins: defaults < preset < the run's saved config < flags. A command imports what it needs when it runs, so that
`--help` answers at once.
"""

import argparse
import dataclasses
import errno
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from worldmodels.errors import UserError
from worldmodels.runs import settings as config
from worldmodels.runs.files import read_json, write_atomically, write_json

COMMANDS: dict[str, tuple[type, str]] = {
    "run": (config.Run, "worldmodels.commands.run"),
    "collect": (config.Collect, "worldmodels.commands.collect"),
    "train-vae": (config.TrainVAE, "worldmodels.commands.train_vae"),
    "train-mdrnn": (config.TrainMDRNN, "worldmodels.commands.train_mdrnn"),
    "train-controller": (config.TrainController, "worldmodels.commands.train_controller"),
    "evaluate": (config.Evaluate, "worldmodels.commands.evaluate"),
    "report": (config.Report, "worldmodels.commands.report"),
}
REMEMBERED = ("run", "train-vae", "train-mdrnn", "train-controller")  # a run's settings; other commands are asked anew
NOT_SAVED = ("noreload", "logdir", "render", "display")  # said anew each time, or where the config itself lies

USAGE = """usage: worldmodels COMMAND [--preset smoke|laptop|overnight|paper] [options]

World Models (Ha & Schmidhuber 2018): a driver that learns inside its own model of the world.

  run                the whole pipeline: collect, train V, M and C, evaluate, report   (start here)
  collect            drive with a random policy (or a trained agent) and store the episodes
  train-vae          train V on the frames
  train-mdrnn        train M on the episodes as V sees them
  train-controller   evolve C
  evaluate           drive held-out tracks of Gymnasium's own CarRacing-v3
  report             write report.html

`worldmodels COMMAND --help` lists a command's options and their defaults.
Presets: smoke (seconds), laptop (two cores, eight minutes; the default of `run`), overnight (two cores, 80 minutes: a
driver that beats the paper's), paper (the paper's numbers).
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command; a user's mistake ends in one sentence and exit code 2."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    try:
        command = arguments[0]
        if command not in COMMANDS:
            raise UserError(f"There is no command {command!r}: it is one of {', '.join(COMMANDS)}.")
        cfg, preset = parse(command, arguments[1:])
        start(command, cfg, preset)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EDQUOT):
            raise
        fail(f"{error.filename or 'A file'} cannot be written ({error.strerror}): mend that and run the command again; "
             "what was finished is kept.")  # fmt: skip
    except KeyboardInterrupt:
        fail("Stopped. The same command continues.", code=130)


def start(command: str, cfg: Any, preset: str | None) -> None:
    """Do it, and remember what was asked; after a mistake the run remembers what it was asked before."""
    module, path = importlib.import_module(COMMANDS[command][1]), Path(cfg.logdir) / "config.json"
    before = path.read_bytes() if saved_config(command, cfg.logdir, noreload=False) else None
    if command in REMEMBERED:
        save_config(command, config.resolve(cfg) if command == "run" else cfg, preset)
    try:
        module.main(cfg)
    except UserError:
        if before is not None:
            write_atomically(path, before)
        raise


def fail(sentence: str, code: int = 2) -> None:
    print(f"\n{sentence}", file=sys.stderr)
    sys.exit(code)


def parse(command: str, arguments: list[str]) -> tuple[Any, str | None]:
    """(the command's config, the preset's name): defaults < preset < the run's saved config < flags.

    Exits with code 2 and one sentence for an unknown flag or value, as argparse does; UserError for a number that
    cannot be.
    """
    import tyro

    cls = COMMANDS[command][0]
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--preset")
    early.add_argument("--logdir")
    known, rest = early.parse_known_args(arguments)
    saved = saved_config(command, known.logdir or "exp_dir", "--noreload" in rest)
    earlier = saved.pop("preset", None)
    if command == "run" and known.preset and earlier and known.preset != earlier:
        raise UserError(
            f"{known.logdir or 'exp_dir'} holds a run of the preset {earlier}: give {known.preset} another --logdir, "
            "or leave --preset out to continue that run."
        )
    preset = known.preset or earlier or ("laptop" if command == "run" else None)
    default = updated(preset_config(command, preset), saved)
    if known.logdir is not None:
        rest = ["--logdir", known.logdir, *rest]
    description = (cls.__doc__ or "") + f"\n\nPresets (--preset): {', '.join(config.PRESETS)}."
    cfg = tyro.cli(
        cls, args=rest, default=default, prog=f"worldmodels {command}", description=description,
        config=() if command == "run" else (tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    config.check(cfg)
    return cfg, preset


def preset_config(command: str, preset: str | None) -> Any:
    """The command's settings in a preset (None: the dataclass defaults, the paper's values)."""
    if preset is None:
        return COMMANDS[command][0]()
    if preset not in config.PRESETS:
        raise UserError(f"There is no preset {preset!r}: it is one of {', '.join(config.PRESETS)}.")
    run = config.PRESETS[preset]
    if command == "run":
        return run
    return getattr(run, config.STAGES[command]) if command in config.STAGES else COMMANDS[command][0]()


def saved_config(command: str, logdir: str, noreload: bool) -> dict[str, Any]:
    """What config.json of the run says about this command; nothing where there is none, or with --noreload."""
    path = Path(logdir) / "config.json"
    if command not in REMEMBERED or noreload or not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()).get(command, {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the command again.") from error


def updated(default: Any, saved: dict[str, Any]) -> Any:
    """A config with the saved values put in, nested configs included; names that are gone are left out.

    Raises:
        UserError: a value is of another type than the setting.
    """
    changes = {}
    for field in dataclasses.fields(default):
        if field.name in saved:
            value, old = getattr(default, field.name), saved[field.name]
            nested, numbers = dataclasses.is_dataclass(value), (int, float)
            expected = dict if nested else numbers if isinstance(value, numbers) else type(value)
            if None not in (value, old) and not isinstance(old, expected):
                raise UserError(f"config.json says {field.name} is {old!r}: mend that, or delete the file.")
            changes[field.name] = updated(value, old) if nested else old
    return dataclasses.replace(default, **changes)


def save_config(command: str, cfg: Any, preset: str | None = None) -> None:
    """Record what was asked, with versions and the commit, in <logdir>/config.json."""
    from worldmodels.runs.versions import versions

    path = Path(cfg.logdir) / "config.json"
    known = read_json(path) if path.exists() else {}
    write_json(path, {**known, command: {"preset": preset, **settings(cfg)}, "versions": versions()})


def settings(cfg: Any) -> dict[str, Any]:
    """What a run remembers of a config, nested configs included."""
    values = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg) if field.name not in NOT_SAVED}
    return {name: settings(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}
