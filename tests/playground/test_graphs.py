"""The ONNX graphs against torch, run by onnxruntime."""

import json

import numpy as np
import pytest
import torch

from tests.helpers.toy import TOY
from tests.playground.conftest import make_run
from worldmodels import cli
from worldmodels.errors import UserError
from worldmodels.playground import graphs, site

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install onnx onnxscript onnxruntime")


def test_graphs_equal_torch(tmp_path):
    """Every output of every graph, for another batch than the one it was traced with."""
    import onnxruntime

    sizes = {"z": 5, "hidden": 9, "inputs": "zch", "c_hidden": 4}
    run = make_run(tmp_path / "run", TOY, **sizes, include_reward=True, include_terminal=True, discount=0.9)
    cli.main(["export", "--logdir", str(run), "--format", "onnx", "--to", str(tmp_path / "onnx")])
    agent = site.load(run)
    vae, mdrnn = agent.encoder.vae, agent.memory
    draw = torch.Generator().manual_seed(1)
    frames = torch.rand(3, 3, 64, 64, generator=draw)
    z, h, c = (torch.randn(3, size, generator=draw) for size in (5, 9, 9))
    action = torch.eye(3)
    with torch.no_grad():
        state = mdrnn.step(z, action, (h, c))
        features = agent.controller.see(z, (h, c))
        expected = {
            "encoder": ({"frames": frames}, vae.posterior(frames)),
            "decoder": ({"z": z}, [vae.reconstruct(z)]),
            "memory": ({"z": z, "action": action, "h": h, "c": c}, [*state, *mdrnn.predict(state[0])]),
            "controller": (
                {"features": features}, [agent.controller.act(agent.population.expand(3, -1), features)]
            ),
        }  # fmt: skip
    for name, (inputs, outputs) in expected.items():
        session = onnxruntime.InferenceSession(tmp_path / "onnx" / f"{name}.onnx")
        answers = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        assert len(answers) == len(outputs)
        for answer, wanted in zip(answers, outputs, strict=True):
            np.testing.assert_allclose(answer, wanted.numpy(), atol=3e-6, err_msg=name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "encoder.onnx").write_text("of another tool")
    with pytest.raises(UserError, match="mine holds other files"):
        graphs.write(agent, tmp_path / "mine")
    says = json.loads((tmp_path / "onnx" / "controller.json").read_text())
    assert says == {"inputs": "zch", "action": {"kind": "discrete", "size": 3}}


def test_without_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "--pretrained", "carracing", "--format", "onnx", "--to", str(tmp_path / "onnx")])
    assert ended.value.code == 2 and "worldmodels-pytorch[export]" in capsys.readouterr().err
