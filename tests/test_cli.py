"""The command line: help without torch, what wins, and a user's mistakes as one sentence with exit code 2."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodels import __version__ as worldmodels_version
from worldmodels import cli
from worldmodels.errors import UserError
from worldmodels.runs import bounds, presets, record
from worldmodels.runs import settings as config
from worldmodels.runs import stages as plan
from worldmodels.runs.presets.carracing import LAPTOP, SMOKE

ROOT = Path(__file__).parent.parent


def worldmodels(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "worldmodels", *arguments], cwd=cwd, capture_output=True, text=True)


def test_help_answers_without_torch() -> None:
    """Of every command, in one process that imports neither it nor numba for any of them."""
    code = (
        "import sys\nfrom worldmodels.cli import COMMANDS, main\n"
        "for command in ('', *COMMANDS):\n"
        "    try: main([*command.split(), '--help'])\n    except SystemExit as e: assert not e.code\n"
        "    print('slow' if {'torch', 'numba', 'matplotlib'} & set(sys.modules) else 'quick')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert said.count("quick") == 1 + len(cli.COMMANDS) and "slow" not in said, done.stderr
    for command in cli.COMMANDS:
        assert f"usage: worldmodels {command} [" in done.stdout


def test_home_is_found_where_no_shell_looks(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for flags in (["--logdir=~/run", "--rootdir", "~/episodes"], ["--rootdir=~/episodes", "--logdir", "~/run"]):
        cfg, _ = cli.parse("train-vae", flags)
        assert (cfg.logdir, cfg.rootdir) == (f"{tmp_path}/run", f"{tmp_path}/episodes")
    assert cli.parse("train-vae", ["--logdir=a=~"])[0].logdir == "a=~"


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 3 TiB"), RuntimeError("can't allocate memory: you")])
def test_too_little_memory_is_one_sentence(monkeypatch, capsys, error: Exception) -> None:
    def main(cfg: config.Report) -> None:
        raise error

    monkeypatch.setattr("worldmodels.commands.report.main", main)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report"])
    assert stopped.value.code == 2 and "The memory is too small" in capsys.readouterr().err


def test_flags_over_saved_config_over_preset_over_defaults(tmp_path) -> None:
    logdir = tmp_path / "run"
    logdir.mkdir()

    def asked(*flags: str) -> config.TrainVAE:
        return cli.parse("train-vae", ["--logdir", str(logdir), *flags])[0]

    assert asked().epochs == config.TrainVAE().epochs
    assert asked("--preset", "smoke").epochs == SMOKE.vae.epochs
    (logdir / "config.json").write_text(json.dumps({"train-vae": {"preset": "smoke", "epochs": 77, "gone": 1}}))
    assert asked().epochs == asked("--preset", "smoke").epochs == 77
    assert asked().batch_size == asked("--preset", "smoke").batch_size == SMOKE.vae.batch_size
    assert asked("--preset", "laptop").epochs == LAPTOP.vae.epochs, "what is said counts, where nothing is trained yet"
    (logdir / "vae").mkdir()
    (logdir / "vae" / "last.safetensors").touch()
    with pytest.raises(UserError, match="holds a run of the preset smoke: give laptop another --logdir"):
        asked("--preset", "laptop")
    assert asked("--epochs", "5").epochs == 5
    assert asked("--noreload").epochs == 77, "another start of the same training"
    assert asked("--preset", "laptop", "--noreload").epochs == LAPTOP.vae.epochs


def test_the_same_command_again_asks_the_same_and_a_switch_can_be_turned_off(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may hold an exp_dir

    def asked(*flags: str) -> config.TrainMDRNN:
        cfg, _ = cli.parse("train-mdrnn", ["--logdir", str(tmp_path), "--rootdir", str(tmp_path / "data"), *flags])
        record.write("train-mdrnn", cfg, None)
        return cfg

    assert asked("--include_reward") == asked("--include_reward") == asked()
    assert not asked("--no-include-reward").include_reward and not asked().include_reward
    assert cli.parse("train-controller", ["--preset", "paper", "--sample-z"])[0].sample_z


@pytest.mark.parametrize(
    "flag", ["--vae.seed 3", "--vae.noreload", "--collect.rootdir x", "--controller.env A-v0", "--mdrnn.device cpu"]
)
def test_what_a_run_decides_for_its_stages_cannot_be_said_for_one(flag: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.parse("run", ["--logdir", "nowhere", *flag.split()])
    assert stopped.value.code == 2 and flag.split()[0].lstrip("-") in capsys.readouterr().err


def test_where_a_command_ran_is_not_remembered(tmp_path) -> None:
    where = ["--logdir", str(tmp_path)]
    asked, _ = cli.parse(
        "train-controller", [*where, "--device", "cpu", "--max-workers", "3", "--precision", "float32"]
    )
    record.write("train-controller", asked, None)
    again, _ = cli.parse("train-controller", where)
    assert (again.device, again.max_workers, again.precision) == ("auto", 0, "auto")


def test_a_run_that_is_moved_finds_its_episodes(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    record.write("train-vae", config.TrainVAE(logdir="here/run", rootdir="here/run/rollouts"), None)
    record.write("train-mdrnn", config.TrainMDRNN(logdir="here/run", rootdir="here/data"), None)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert cli.parse("train-vae", ["--logdir", "run"])[0].rootdir == "run/rollouts"
    assert cli.parse("train-mdrnn", ["--logdir", "../there/run"])[0].rootdir == "../there/data"


def test_a_run_behind_a_link_finds_its_episodes(tmp_path, monkeypatch) -> None:
    """By the link and by its own path, as the system follows both."""
    (tmp_path / "store/run").mkdir(parents=True)
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk/link").symlink_to("../store/run")
    monkeypatch.chdir(tmp_path / "desk")
    for rootdir, found in (("data", "desk/data"), ("link/rollouts", "store/run/rollouts")):
        record.write("train-vae", config.TrainVAE(logdir="link", rootdir=rootdir), None)
        for logdir in ("link", str(tmp_path / "store/run"), "../store/run"):
            rootdir = cli.parse("train-vae", ["--logdir", logdir])[0].rootdir
            assert os.path.abspath(rootdir) == str(tmp_path / found), logdir


def test_a_mistake_leaves_what_the_run_remembers(tmp_path, capsys) -> None:
    settings = {"epochs": 3, "test_fraction": 0.2}
    (tmp_path / "config.json").write_text(json.dumps({"train-vae": settings}))
    command = ["train-vae", "--logdir", str(tmp_path), "--rootdir", str(tmp_path / "missing"), "--epochs"]
    with pytest.raises(SystemExit):
        cli.main([*command, "7"])
    assert "no rollouts" in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text()) == {"train-vae": settings}
    with pytest.raises(SystemExit):
        cli.main(["train-mdrnn", *command[1:], "5"])
    assert "train-mdrnn" not in json.loads((tmp_path / "config.json").read_text()), "nothing is kept of what failed"
    with pytest.raises(SystemExit):
        cli.main(["train-vae", "--logdir", str(tmp_path / "new"), "--rootdir", str(tmp_path / "missing")])
    assert not (tmp_path / "new").exists()


def test_run_defaults_to_the_laptop_preset_and_takes_nested_flags() -> None:
    run, preset = cli.parse("run", ["--logdir", "nowhere", "--vae.epochs", "3"])
    assert preset == "laptop" and run.vae.epochs == 3 and run.collect == LAPTOP.collect
    assert cli.parse("run", ["--logdir=-odd"])[0].logdir == "-odd"


def test_a_run_keeps_its_preset(tmp_path) -> None:
    where = ["--logdir", str(tmp_path)]
    record.write("run", cli.parse("run", ["--preset", "smoke", *where])[0], "smoke")
    assert cli.parse("run", where) == cli.parse("run", ["--preset", "smoke", *where])
    with pytest.raises(UserError, match="holds a run of the preset smoke: give overnight another --logdir"):
        cli.parse("run", ["--preset", "overnight", *where])


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ("--env CarRacing-v3", True),
        ("--env CartPole-v1", True),
        ("--env worldmodels/CarRacing-v3", False),  # many cars side by side in this process
        ("--env CarRacing-v3 --policy mine.py:policy", False),
        ("--env CarRacing-v3 --render", False),
        ("", False),
    ],
)
def test_workers_are_prepared_for_an_evaluation_that_needs_them(tmp_path, arguments: str, needed: bool) -> None:
    cfg, _ = cli.parse("evaluate", ["--logdir", str(tmp_path), *arguments.split()])
    assert cli.needs_workers(cfg) == needed


def test_underscores_and_hyphens_are_the_same() -> None:
    assert cli.parse("train-mdrnn", ["--include_reward"])[0] == cli.parse("train-mdrnn", ["--include-reward"])[0]
    assert cli.parse("train-mdrnn", ["--include_reward"])[0].include_reward


def test_a_run_hands_its_settings_to_every_stage() -> None:
    run = plan.stages(plan.Run(logdir="x", seed=5, env="A-v0"))
    assert {run.collect.rootdir, run.vae.rootdir, run.mdrnn.rootdir} == {"x/rollouts"}
    assert {s.seed for s in (run.collect, run.vae, run.mdrnn, run.controller)} == {5}
    assert run.controller.env == run.evaluate.env == "A-v0"
    assert plan.stages(plan.Run()).evaluate.env == config.CARRACING
    elsewhere = plan.Run(env="A-v0", evaluate=config.Evaluation(env="B-v0"))
    assert plan.stages(elsewhere).evaluate.env == "B-v0", "what is said counts"


def test_an_iteration_drives_with_the_driver_before_and_learns_from_all_episodes() -> None:
    last = plan.Run(logdir="x", seed=5, iterations=3, early_generations=7)
    before = plan.previous(last)
    second, third = plan.stages(before), plan.stages(last)
    assert (third.collect.policy, third.collect.logdir, third.collect.rootdir) == ("agent", "x/previous", "x/rollouts")
    assert (before.logdir, before.iterations, second.controller.epochs) == ("x/previous", 2, 7)
    assert {third.vae.rootdir, third.mdrnn.rootdir} == {"x"} and second.vae.rootdir == "x/previous"
    first = plan.stages(plan.previous(before))
    assert (first.collect.policy, first.vae.rootdir) == ("brown", "x/previous/previous/rollouts")
    assert len({first.collect.seed, second.collect.seed, third.collect.seed}) == 3, "each on tracks of its own"
    random = dataclasses.replace(last, again=config.Collection(policy="gas"))
    assert plan.stages(random).collect.policy == "gas", "what is said is obeyed"
    assert (third.vae.warm, third.controller.warm) == (None, None)


def test_a_warm_iteration_begins_with_the_v_and_c_before_it() -> None:
    evolution = config.Evolution(sigma=0.2, start="anywhere", max_steps=300, whole_after=9, n_samples=3)
    last = plan.Run(logdir="x", iterations=2, warm=True, controller=evolution)
    first, second = plan.stages(plan.previous(last)), plan.stages(last)
    assert (first.vae.warm, first.controller.warm, first.controller.sigma) == (None, None, 0.2)
    assert (second.vae.warm, second.controller.warm) == ("x/previous", "x/previous")
    found = second.controller
    assert (found.sigma, found.start, found.max_steps, found.whole_after, found.n_samples) == (0.1, "line", None, 0, 3)


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
def test_a_mistake_is_one_sentence_and_exit_code_2(
    tmp_path, monkeypatch, capsys, arguments: list[str], sentence: str
) -> None:
    if "cuda" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("collect --rollouts 0", "--rollouts is 0: it must be at least 1."),
        ("evaluate --seed -1", "--seed is -1: it must be at least 0."),
        ("train-vae --learning-rate nan", "--learning-rate is nan: it must be a number above zero."),
        ("train-controller --target-return nan", "--target-return is nan: it must be a number."),
        ("train-vae --micro-batches 3", "--micro-batches is 3: pairs are added up, so say 1, 2, 4, 8, …"),
        ("run --mdrnn.micro-batches 6", "--mdrnn.micro-batches is 6: pairs"),
        ("train-controller --pop-size 2", "--pop-size is 2: it must be at least 3."),
        ("run --controller.select-every 0", "--controller.select-every is 0: it must be at least 1."),
        ("train-vae --anneal 1.5", "--anneal is 1.5: it must be at most 1."),
        ("train-controller --select-tracks 60000", "--select-tracks is 60000: it must be at most 50000."),
        ("train-controller --dream --temperature 1e40", "--temperature is 1e.40: it must be below 1000000000."),
        ("train-vae --z-size 900000000", "--z-size is 900000000: it must be below 100000."),
        ("run --iterations 9999", "--iterations is 9999: it must be below 100."),
    ],
)
def test_a_number_that_cannot_be_is_named_by_its_flag(tmp_path, arguments: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cli.parse(arguments.split()[0], ["--logdir", str(tmp_path), *arguments.split()[1:]])


@pytest.mark.parametrize(
    ("arguments", "needs"),
    [
        ("collect --logdir exp", "--logdir says nothing without --policy agent"),
        ("collect --device cuda", "--device says nothing without --policy agent"),
        ("run --dream.horizon 10", "--dream.… says nothing without --dream.rounds"),
        ("train-in-dream --fragment 100", "--fragment says nothing without --start anywhere"),
        ("train-controller --dream --max-steps 100", "--max-steps says nothing without --no-dream"),
        ("train-controller --dream --give-up 5", "--give-up says nothing without --no-dream"),
        ("train-mdrnn --reward-scale 2", "--reward-scale says nothing without --include-reward"),
        ("train-vae --warm exp --init he", "--init says nothing without first weights of its own: leave --warm out"),
        ("report --preset laptop", "report does the same in every preset"),
        ("train-controller --temperature 1.15", "--temperature says nothing without --dream"),
        ("train-controller --horizon 100", "--horizon says nothing without --dream"),
        ("train-controller --sigma-decay 0.9", "--sigma-decay says nothing without --strategy openai-es or pgpe"),
        ("train-controller --whole-after 3", "--whole-after says nothing without --max-steps or --start anywhere"),
        ("train-controller --dream --start anywhere --whole-after 3", "--whole-after says nothing without --no-dream"),
        (
            "train-controller --max-steps 9 --epochs 9 --whole-after 9",
            "--whole-after says nothing without --epochs above it",
        ),
        ("train-in-dream --rounds 5 --afresh 5", "--afresh says nothing without --rounds above it"),
        ("train-in-dream --start anywhere --whole 16", "--start says nothing without --whole below --episodes"),
        (
            "run --preset dream --dream.rounds 9 --dream.afresh 40",
            "--dream.afresh says nothing without --dream.rounds above it",
        ),
        (
            "run --preset dream --dream.episodes 3 --dream.fragment 9",
            "--dream.fragment says nothing without --dream.whole below --dream.episodes",
        ),
        (
            "run --preset dream --iterations 2 --early-generations 5",
            "--early-generations says nothing without --dream.rounds 0",
        ),
        ("run --again.rollouts 5", "--again.… says nothing without --iterations"),
        ("run --early-generations 5", "--early-generations says nothing without --iterations"),
        ("run --controller.horizon 100", "--controller.horizon says nothing without --controller.dream"),
        ("run --preset dream --controller.sigma 0.2", "--controller.… says nothing without --dream.rounds 0"),
        ("evaluate --pretrained carracing --logdir exp", "--pretrained and --logdir both say who drives"),
        ("play --pretrained carracing --logdir exp", "--pretrained and --logdir both say who drives"),
        ("export --pretrained carracing --logdir exp", "--pretrained and --logdir both say who drives"),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(tmp_path, monkeypatch, arguments: str, needs: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(needs)):
        cli.parse(arguments.split()[0], arguments.split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        "collect --policy agent --logdir exp", "train-controller --dream --temperature 1.15 --horizon 100",
        "train-controller --strategy pgpe --sigma-decay 0.9", "train-controller --start anywhere --whole-after 3",
        "train-controller --max-steps 300 --whole-after 3", "run --iterations 2 --again.rollouts 5",
        "run --controller.dream --controller.horizon 100", "run --dream.rounds 2 --dream.horizon 50",
        "run --preset dream --dream.horizon 50", "run --preset dream --dream.rounds 0 --controller.sigma 0.2",
        "evaluate --pretrained carracing", "train-controller --horizon 250", "train-vae --micro-batches 8",
        "run --preset laptop --controller.dream", "train-vae --init he", "train-vae --preset takecover --warm exp",
        "run --iterations 2 --warm --vae.init he", "run --preset takecover --iterations 2 --warm",
        "train-in-dream --rounds 5 --afresh 4", "train-in-dream --start anywhere --whole 15 --fragment 9",
        "train-in-dream --preset dream --start line --episodes 3", "run --preset dream --dream.rounds 9",
        "train-controller --start anywhere --epochs 9 --whole-after 8",
    ],
)  # fmt: skip
def test_what_it_needs_may_be_said_with_it(tmp_path, monkeypatch, arguments: str) -> None:
    monkeypatch.chdir(tmp_path)
    command, *words = arguments.split()
    cfg, _ = cli.parse(command, words)
    for word, value in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and word != "--preset":
            found = functools.reduce(getattr, word[2:].replace("-", "_").split("."), cfg)
            assert str(found) == ("True" if value.startswith("--") else value), word


def test_every_number_has_a_bound_on_either_side() -> None:
    """What overflows float32, or memory, would be remembered with the run before it fails."""
    for cls in cli.COMMANDS.values():
        for name, hint in get_type_hints(cls, include_extras=True).items():
            kinds = {int, float} & {hint, *getattr(hint, "__args__", ()), getattr(hint, "__origin__", None)}
            if kinds and name not in ("target_return", "env_steps"):
                for number in (-1e20, 1e20):
                    with pytest.raises(UserError, match="--flag is"):
                        for bound in bounds.bounds(hint):
                            bounds.check_bound("--flag", number, bound)
                        pytest.fail(f"{cls.__name__}.{name} may be {number}")


def test_presets_are_within_their_bounds() -> None:
    for name in presets.NAMES:
        bounds.check(presets.preset(name))
    assert SMOKE.again.rollouts * (SMOKE.again.max_steps or 1000) < 100, "seconds, in further iterations too"


def test_take_cover_s_presets_bring_their_environment(tmp_path) -> None:
    where = ["--logdir", str(tmp_path / "run")]
    for name in ("takecover", "takecover-night", "takecover-paper"):
        run = presets.preset(name)
        assert cli.parse("run", ["--preset", name, *where])[0].env == run.env == config.TAKECOVER
        assert (run.vae.z_size, run.controller.inputs, run.controller.horizon) == (64, "zch", 2100)
        assert run.controller.dream and run.mdrnn.include_terminal and run.mdrnn.include_restart
        assert run.collect.longer_than == 100
    assert cli.parse("collect", ["--preset", "takecover"])[0].env == config.TAKECOVER
    for command in ("train-controller", "train-in-dream"):
        assert cli.parse(command, ["--preset", "takecover", *where])[0].env == config.TAKECOVER
    assert presets.PRESETS["takecover-paper"].mdrnn.hidden_size == 512
    with pytest.raises(UserError, match="The preset takecover is for worldmodels/TakeCover-v0, not for CarRacing-v3"):
        cli.parse("run", ["--preset", "takecover", "--env", "CarRacing-v3", *where])


def test_other_environments_start_where_they_start_and_have_no_target() -> None:
    for env in ("CarRacing-v3", "gymnasium.envs.box2d:CarRacing-v3", "Some-v0"):
        run = presets.preset("laptop", env)
        assert {run.collect.start, run.again.start, run.controller.start} == {"line"} and not run.controller.give_up
    assert presets.preset("laptop", "worldmodels/CarRacing-v3") == LAPTOP
    assert LAPTOP.controller.target_return is None


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
    assert "cannot be used" in capsys.readouterr().err


def test_an_unwritable_logdir_is_one_sentence(tmp_path) -> None:
    (tmp_path / "file").touch()
    done = worldmodels("train-vae", "--logdir", str(tmp_path / "file" / "exp_dir"))
    assert done.returncode == 2 and "is a file" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "{half", "[]", '{"train-vae": 3}', '{"train-vae": {"epochs": "many"}}',
        pytest.param("[" * 100_000, id="deep"), pytest.param(f'{{"a": {"1" * 5000}}}', id="long number"),
    ],
)  # fmt: skip
def test_a_damaged_config_is_one_sentence(tmp_path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json (is damaged|says epochs is 'many')"):
        cli.parse("train-vae", ["--logdir", str(tmp_path)])


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "latin-1", "ascii"])
def test_every_console_shows_what_it_can(encoding: str) -> None:
    code = "from worldmodels.cli import speak_plainly; speak_plainly(); print('1 ± 2 │ … ok')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    shown = {"utf-8": "1 ± 2 │ … ok", "cp1252": "1 ± 2 | … ok", "latin-1": "1 ± 2 | ... ok", "ascii": "1 +- 2 | ... ok"}
    assert done.stdout.decode(encoding).strip() == shown[encoding], done.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m worldmodels --help | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("usage") and not done.stderr


@pytest.mark.parametrize("words", ["--version", "version", "-V"])
def test_the_version(words: str, capsys) -> None:
    cli.main([words])
    assert capsys.readouterr().out == f"worldmodels {worldmodels_version}\n"


def test_help_is_a_command_too(capsys) -> None:
    cli.main(["help"])
    assert capsys.readouterr().out == cli.USAGE + "\n"
    with pytest.raises(SystemExit):
        cli.main(["help", "train-vae"])
    assert "--free-bits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train-vae --logdir", "Argument --logdir: expected one argument."),
        ("train-vae --logdir= --rootdir x", "--logdir is empty: name a folder."),
        ("train-vae --logdir un\udcffder", "whose name is no UTF-8, which TensorBoard needs: choose another folder."),
        ("collect --env a:b:c", "The module a:b of a:b:c cannot be imported"),
        (
            "collect --env broken_module:X-v0",
            "The module broken_module of broken_module:X-v0 cannot be imported (Synta",
        ),
        (
            "collect --env module_that_exits:X-v0",
            "The module module_that_exits of module_that_exits:X-v0 cannot be imported (SystemExit: usage: mine)",
        ),
        ("report --logdir nowhere", "nowhere does not exist"),
    ],
)
def test_more_mistakes_in_one_sentence(tmp_path, monkeypatch, capsys, arguments: str, sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_module.py").write_text("def half(:")
    (tmp_path / "module_that_exits.py").write_text("raise SystemExit('usage: mine')")  # argparse without a main guard
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments.split(" "))
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_a_module_that_only_a_file_names_is_not_imported(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted.py").write_text("raise SystemExit('executed')")
    asked = {"train-controller": {"env": "planted:Evil-v0"}}
    (tmp_path / "config.json").write_text(json.dumps(asked))
    with pytest.raises(UserError, match="names the environment planted:Evil-v0: say --env planted:Evil-v0 again"):
        cli.parse("train-controller", ["--logdir", str(tmp_path)])


@pytest.mark.parametrize(("command", "code"), [("--version >&-", 0), ("fly >&-", 2), ("train-vae --logdir= 2>&-", 2)])
def test_closed_streams_are_no_error(tmp_path, command: str, code: int) -> None:
    script = f"cd {shlex.quote(str(tmp_path))} && exec {sys.executable} -m worldmodels {command}"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == code and "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["1" + "0" * 400, str(2**64), "1" + "0" * 12])
@pytest.mark.parametrize("flag", ["collect --rollouts", "train-vae --seed", "train-controller --pop-size"])
def test_a_number_beyond_all_use_is_refused(tmp_path, flag: str, value: str) -> None:
    command, name = flag.split()
    if name == "--seed" and len(value) < 20:
        pytest.skip("a seed")
    with pytest.raises(UserError, match=f"{name} is {value}: it must be below"):
        cli.parse(command, ["--logdir", str(tmp_path), name, value])


def test_a_command_in_a_sentence_can_be_copied(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--logdir", str(tmp_path / "a run")])
    assert f"worldmodels train-vae --logdir '{tmp_path}/a run'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "--logdir", str(tmp_path / "a run")])
    assert f"worldmodels run --logdir '{tmp_path}/a run'" in capsys.readouterr().err


def test_the_episodes_of_an_environment_and_of_a_driver_have_a_folder_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may hold an exp_dir
    assert cli.parse("collect", [])[0].folder == Path("datasets/carracing")
    assert cli.parse("collect", ["--env", "CarRacing-v3"])[0].folder == Path("datasets/carracing")
    assert cli.parse("collect", ["--env", "worldmodels/TakeCover-v0"])[0].folder == Path("datasets/takecover")
    assert cli.parse("collect", ["--preset", "takecover"])[0].folder == Path("datasets/takecover")
    for command in ("train-vae", "train-mdrnn"):
        assert cli.parse(command, [])[0].rootdir == "datasets/carracing"
        assert cli.parse(command, ["--preset", "takecover"])[0].rootdir == "datasets/takecover"
    assert config.episodes_of("a.module:ALE/Ms-v1-Pacman-v5") == "datasets/ms-v1-pacman"
    assert cli.parse("collect", ["--policy", "agent"])[0].folder == Path("datasets/driven")
    assert cli.parse("collect", ["--policy", "agent", "--rootdir", "x"])[0].folder == Path("x")


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["laptop", "line", "cma", "agent", "worldmodels/CarRacing-v3", "planted:Evil-v0"])
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=4), v, max_size=2))


@st.composite
def entries(draw) -> tuple[str, object]:
    """A command and what config.json says of it: real names, any values."""
    command = draw(st.sampled_from(sorted(cli.REMEMBERED)))
    cls = cli.COMMANDS[command]
    names = [field.name for field in dataclasses.fields(cls)] + ["preset", record.FROM_RUN]
    entry = draw(VALUES | st.dictionaries(st.sampled_from(names), VALUES, max_size=4))
    if command == "run" and isinstance(entry, dict):
        stage = draw(st.sampled_from(sorted(plan.STAGES.values())))
        inner = [field.name for field in dataclasses.fields(getattr(cls(), stage))]
        entry = {**entry, stage: draw(st.dictionaries(st.sampled_from(inner), VALUES, max_size=3))}
    return command, entry


@given(entries())
@hypothesis.settings(max_examples=150, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_config_is_read_or_refused_in_a_sentence(tmp_path, entry: tuple[str, object]) -> None:
    command, said = entry
    (tmp_path / "config.json").write_text(json.dumps({command: said}))
    with contextlib.suppress(UserError):
        cfg, _ = cli.parse(command, ["--logdir", str(tmp_path)])
        for field in dataclasses.fields(cfg):
            if not dataclasses.is_dataclass(value := getattr(cfg, field.name)):
                assert record.fits(value, get_type_hints(type(cfg))[field.name]), field.name


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
def test_a_working_directory_that_is_gone_is_one_sentence(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report"])
    assert stopped.value.code == 2 and "The folder you are in has been deleted" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="makes a link")
@pytest.mark.parametrize("target", ["gone", "link"])
def test_a_link_to_nothing_is_no_folder(tmp_path, target: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="--logdir is .*link/run, and .*link is a link to nothing"):
        cli.parse("train-vae", ["--logdir", str(tmp_path / "link" / "run")])
