"""The command line: help without torch, what wins, and a user's mistakes as one sentence with exit code 2."""

import dataclasses
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from worldmodels import cli
from worldmodels.errors import UserError
from worldmodels.runs import settings as config

ROOT = Path(__file__).parent.parent


def worldmodels(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "worldmodels", *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_answers_without_torch(command: str) -> None:
    code = (
        "import sys\nfrom worldmodels.cli import main\n"
        f"try: main([*{command!r}.split(), '--help'])\nexcept SystemExit as e: assert not e.code\n"
        "print('slow' if {'torch', 'numba', 'matplotlib'} & set(sys.modules) else 'quick')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "quick", done.stderr
    assert "usage: worldmodels" in done.stdout


def test_flags_over_saved_config_over_preset_over_defaults(tmp_path) -> None:
    logdir = tmp_path / "run"
    logdir.mkdir()

    def asked(*flags: str) -> config.TrainVAE:
        return cli.parse("train-vae", ["--logdir", str(logdir), *flags])[0]

    assert asked().epochs == config.TrainVAE().epochs
    assert asked("--preset", "smoke").epochs == config.SMOKE.vae.epochs
    (logdir / "config.json").write_text(json.dumps({"train-vae": {"epochs": 77, "gone": 1}}))
    assert asked("--preset", "smoke").epochs == 77
    assert asked("--preset", "smoke").batch_size == config.SMOKE.vae.batch_size
    assert asked("--epochs", "5").epochs == 5
    assert asked("--noreload").epochs == config.TrainVAE().epochs


def test_the_same_command_again_asks_the_same_and_a_switch_can_be_turned_off(tmp_path) -> None:
    def asked(*flags: str) -> config.TrainMDRNN:
        cfg, _ = cli.parse("train-mdrnn", ["--logdir", str(tmp_path), *flags])
        cli.save_config("train-mdrnn", cfg)
        return cfg

    assert asked("--include_reward") == asked("--include_reward") == asked()
    assert not asked("--no-include-reward").include_reward and not asked().include_reward
    assert cli.parse("train-controller", ["--preset", "paper", "--sample-z"])[0].sample_z


def test_a_run_that_started_a_model_over_does_not_do_so_again(tmp_path) -> None:
    flags = ["--logdir", str(tmp_path), "--vae.noreload", "--controller.display", "--mdrnn.include-reward"]
    cli.save_config("run", config.resolve(cli.parse("run", flags)[0]))
    again, _ = cli.parse("run", flags[:2])
    assert not again.vae.noreload and not again.controller.display and again.mdrnn.include_reward


def test_a_mistake_leaves_what_the_run_remembers(tmp_path, capsys) -> None:
    settings = {"epochs": 3, "test_fraction": 0.2}
    (tmp_path / "config.json").write_text(json.dumps({"train-vae": settings}))
    command = ["train-vae", "--logdir", str(tmp_path), "--rootdir", str(tmp_path / "missing"), "--test-fraction"]
    with pytest.raises(SystemExit):
        cli.main([*command, "7"])
    assert "no rollouts" in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text()) == {"train-vae": settings}
    with pytest.raises(SystemExit):  # asked for the first time: remembered, so that it need not be said again
        cli.main(["train-mdrnn", *command[1:-1], "--epochs", "5"])
    assert json.loads((tmp_path / "config.json").read_text())["train-mdrnn"]["epochs"] == 5


def test_run_defaults_to_the_laptop_preset_and_takes_nested_flags() -> None:
    run, preset = cli.parse("run", ["--logdir", "nowhere", "--vae.epochs", "3"])
    assert preset == "laptop" and run.vae.epochs == 3 and run.collect == config.LAPTOP.collect


def test_a_run_keeps_its_preset(tmp_path) -> None:
    where = ["--logdir", str(tmp_path)]
    cli.save_config("run", cli.parse("run", ["--preset", "smoke", *where])[0], "smoke")
    assert cli.parse("run", where) == cli.parse("run", ["--preset", "smoke", *where])
    with pytest.raises(UserError, match="holds a run of the preset smoke: give overnight another --logdir"):
        cli.parse("run", ["--preset", "overnight", *where])


def test_underscores_and_hyphens_are_the_same() -> None:
    assert cli.parse("train-mdrnn", ["--include_reward"])[0] == cli.parse("train-mdrnn", ["--include-reward"])[0]
    assert cli.parse("train-mdrnn", ["--include_reward"])[0].include_reward


def test_a_run_hands_its_settings_to_every_stage() -> None:
    run = config.resolve(config.Run(logdir="x", seed=5, env="A-v0"))
    assert {run.collect.rootdir, run.vae.rootdir, run.mdrnn.rootdir} == {"x/rollouts"}
    assert {s.seed for s in (run.collect, run.vae, run.mdrnn, run.controller)} == {5}
    assert run.controller.env == run.evaluate.env == "A-v0"
    assert config.resolve(config.Run()).evaluate.env == "CarRacing-v3", "ours is evaluated on Gymnasium's own"


def test_an_iteration_drives_with_the_driver_before_and_learns_from_all_episodes() -> None:
    last = config.Run(logdir="x", seed=5, iterations=3, early_generations=7)
    before = config.previous(last)
    second, third = config.resolve(before), config.resolve(last)
    assert (third.collect.policy, third.collect.logdir, third.collect.rootdir) == ("agent", "x/previous", "x/rollouts")
    assert (second.logdir, second.iterations, second.controller.epochs) == ("x/previous", 2, 7)
    assert {third.vae.rootdir, third.mdrnn.rootdir} == {"x"} and second.vae.rootdir == "x/previous"
    first = config.resolve(config.previous(before))
    assert (first.collect.policy, first.vae.rootdir) == ("brown", "x/previous/previous/rollouts")
    assert len({first.collect.seed, second.collect.seed, third.collect.seed}) == 3, "each on tracks of its own"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "There is no command 'fly'"),
        (["run", "--preset", "huge"], "There is no preset 'huge'"),
        (["train-vae", "--rootdir", "nowhere"], "worldmodels collect"),
        (["train-mdrnn", "--logdir", "empty"], "worldmodels train-vae --logdir empty"),
        (["train-controller", "--logdir", "empty"], "worldmodels train-vae --logdir empty"),
        (["evaluate", "--logdir", "empty"], "worldmodels train-vae --logdir empty"),
        (["train-vae", "--device", "cuda"], "No CUDA device"),
        (["collect", "--env", "NoSuch-v0", "--rollouts", "1"], "NoSuch-v0"),
        (["train-vae", "--no-such-flag"], "no-such-flag"),
        (["train-vae", "--epochs", "many"], "many"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, arguments: list[str], sentence: str) -> None:
    if "cuda" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from worldmodels.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("collect --rollouts 0", "--rollouts is 0: it must be at least 1."),
        ("evaluate --seed -1", "--seed is -1: it must be at least 0."),
        ("train-vae --learning-rate nan", "--learning-rate is nan: it must be a number above zero."),
        ("train-controller --pop-size 2", "--pop-size is 2: it must be at least 3."),
        ("run --controller.select-every 0", "--controller.select-every is 0: it must be at least 1."),
    ],
)
def test_a_number_that_cannot_be_is_named_by_its_flag(tmp_path, arguments: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cli.parse(arguments.split()[0], ["--logdir", str(tmp_path), *arguments.split()[1:]])


def test_every_number_has_a_bound() -> None:
    bounded = {*config.ABOVE_ZERO, *(name for names in config.AT_LEAST.values() for name in names)}
    numbers = {
        field.name
        for settings in (cls for cls, _ in cli.COMMANDS.values())
        for field in dataclasses.fields(settings)
        if field.type in (int, float, int | None)
    }
    assert numbers - bounded == {"test_fraction", "target_return"}  # the first is bounded where the episodes are split
    assert bounded <= numbers
    for preset in config.PRESETS.values():
        config.check(preset)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "x.npz"), PermissionError(errno.EACCES, "denied", "x")]
)
def test_a_full_disk_or_an_unwritable_folder_is_one_sentence(monkeypatch, capsys, error: OSError) -> None:
    from worldmodels.commands import report

    def fail(cfg: config.Report) -> None:
        raise error

    monkeypatch.setattr(report, "main", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report"])
    assert stopped.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_unwritable_logdir_is_one_sentence(tmp_path) -> None:
    (tmp_path / "file").touch()
    done = worldmodels("train-vae", "--logdir", str(tmp_path / "file" / "exp_dir"))
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["{half", "[]", '{"train-vae": 3}', '{"train-vae": {"epochs": "many"}}'])
def test_a_damaged_config_is_one_sentence(tmp_path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json (is damaged|says epochs is 'many')"):
        cli.parse("train-vae", ["--logdir", str(tmp_path)])
