"""The iterative procedure: the driver of one iteration gathers the episodes of the next."""

import json
from dataclasses import replace
from pathlib import Path

from tests.helpers.toy import TOY
from worldmodels.commands import run
from worldmodels.runs import metrics as logs
from worldmodels.runs import settings as config
from worldmodels.runs.presets.carracing import SMOKE


def test_two_iterations_on_a_toy(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # workers import the toy
    small = SMOKE
    cfg = replace(
        small,
        logdir=str(tmp_path / "run"),
        env=TOY,
        device="cpu",
        iterations=2,
        early_generations=1,
        again=config.Collection(rollouts=2, threads=1),
        collect=replace(small.collect, rollouts=3, policy="white"),
        controller=replace(small.controller, max_workers=1),
        evaluate=replace(small.evaluate, video=False),
    )
    run.main(cfg)
    last, first = tmp_path / "run", tmp_path / "run" / "previous"
    assert json.loads((last / "rollouts" / "collect.json").read_text())["policy"] == "agent"
    assert [len(logs.read(logdir / "rollouts" / "metrics.jsonl")) for logdir in (first, last)] == [3, 2]
    assert len(list((last / "mdrnn" / "latents").iterdir())) == 5, "M learns from the episodes of both"
    assert [len(logs.read(logdir / "ctrl" / "metrics.jsonl")) for logdir in (first, last)] == [1, 2]
    assert (last / "report.html").exists() and not (first / "evaluation.json").exists()
    capsys.readouterr()
    run.main(cfg)
    assert capsys.readouterr().out.count("trained already") == 3, "running again says that it is done"

    gathered = (first / "vae" / "best.safetensors").read_bytes()
    run.main(replace(cfg, vae=replace(cfg.vae, epochs=cfg.vae.epochs + 1)))
    assert len(logs.read(last / "vae" / "metrics.jsonl")) == cfg.vae.epochs + 1
    assert (first / "vae" / "best.safetensors").read_bytes() == gathered, "the driver that collected stays as it was"
