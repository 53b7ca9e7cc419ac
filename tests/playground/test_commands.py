"""`worldmodels play` and `export`: what they write and serve, and one sentence for every mistake."""

import http.client
import importlib.util
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from urllib.request import urlopen

import numpy as np
import pytest
import torch

from tests.helpers.toy import TOY
from tests.playground.conftest import make_run
from worldmodels import cli, envs
from worldmodels.commands import play
from worldmodels.errors import UserError
from worldmodels.playground import server, site, starts, weights
from worldmodels.pretrained import folder
from worldmodels.runs import checkpoint
from worldmodels.runs.settings import Play

PRETRAINED = ["--pretrained", "carracing"]


def refused(capsys, *arguments: str) -> str:
    """The one sentence on stderr of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments])
    assert ended.value.code == 2
    [sentence] = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    return sentence


def test_export_a_folder(shipped, tmp_path, capsys):
    """Every file of the page, with the sizes and checksums that the page itself checks; again in place of itself."""
    for _ in range(2):
        cli.main(["export", *PRETRAINED, "--to", str(tmp_path / "site")])
    written = {path.name: path.read_bytes() for path in (tmp_path / "site").iterdir()}
    assert written == shipped
    for name, content in shipped.items():
        if name.endswith((".safetensors", ".webp")):
            known = json.loads(shipped["playground.json"])["files"][name]
            assert known == {"bytes": len(content), "adler32": zlib.adler32(content)}


def test_first_picture_is_small(shipped):
    """Bytes until the dream begins, and in all; the wheel holds the page's own files and the recordings."""
    late = ("encoder.safetensors", "drive.webp", "starts.webp")
    assert sum(len(content) for name, content in shipped.items() if name not in late) < 1_800_000
    assert sum(map(len, shipped.values())) < 3_500_000
    shipped_too = [path.read_bytes() for path in (starts.HERE / "carracing").iterdir()]
    assert sum(len(zlib.compress(content)) for content in [*site.static().values(), *shipped_too]) < 480_000


def test_the_page_asks_for_all_its_modules_at_once(shipped):
    """Those that are preloaded are all that there are: else a browser finds them one after the other."""
    preloaded = re.findall(r'<link rel="modulepreload" href="(.*?)">', shipped["index.html"].decode())
    assert sorted(preloaded) == [name for name in sorted(shipped) if name.endswith(".js")]


def test_one_file_holds_everything(shipped):
    page = site.one_page(shipped)
    assert not re.search(r'(?:src|href)="(?!data:|https://worldmodels\.github\.io|#)', page)
    assert len(page) < 5_000_000


@pytest.mark.parametrize("stage, letter", [("vae", "V"), ("mdrnn", "M"), ("ctrl", "C")])
def test_a_run_without_a_part(tmp_path, capsys, stage, letter):
    run = make_run(tmp_path / "run", TOY)
    (run / stage / "best.safetensors").unlink()
    assert refused(capsys, "export", "--logdir", str(run), "--to", str(tmp_path / "site")).startswith(
        f"There is no trained {letter} in {run}"
    )
    assert not (tmp_path / "site").exists()


def test_a_run_that_is_none(tmp_path, capsys):
    assert "does not exist" in refused(capsys, "play", "--logdir", str(tmp_path / "none"), "--no-browser")
    assert "no pretrained driver" in refused(capsys, "play", "--pretrained", "none", "--no-browser")


def test_a_run_without_rollouts(tmp_path, capsys):
    """A toy has none; CarRacing starts from the drives that come with the package."""
    run = make_run(tmp_path / "toy", TOY)
    for path in (run / "rollouts").iterdir():
        path.unlink()
    assert "There are no rollouts" in refused(capsys, "export", "--logdir", str(run), "--to", str(tmp_path / "site"))
    assert len(starts.recordings(run, envs.CARRACING, 3).short) == starts.STARTS
    with pytest.raises(UserError, match="no episode of worldmodels/TakeCover-v0, .* with --logdir"):
        starts.recordings(folder("takecover"), envs.TAKECOVER, 1)  # not: collect some into the package


def test_damaged_weights(tmp_path, capsys):
    """Cut off, or no numbers any more."""
    run, to = make_run(tmp_path / "run", TOY), tmp_path / "site"
    path = run / "mdrnn" / "best.safetensors"
    tensors, meta = checkpoint.load(path)
    tensors["mdrnn.head.weight"][0, 0] = float("nan")
    checkpoint.save(path, tensors, meta)
    assert refused(capsys, "export", "--logdir", str(run), "--to", str(to)).startswith("M holds numbers that are none")
    path.write_bytes(path.read_bytes()[:-9])
    assert "is damaged" in refused(capsys, "export", "--logdir", str(run), "--to", str(to))
    assert not to.exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    """A folder or a file that is no page, and a file where a folder should be."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "index.html").write_text("mine")
    (tmp_path / "mine.html").write_text("<!doctype html>")
    for to, sentence in (
        ("letters", "holds other files"), ("letters/index.html", "something else than a playground"),
        ("mine.html", "something else than a playground"),
    ):  # fmt: skip
        assert sentence in refused(capsys, "export", *PRETRAINED, "--to", str(tmp_path / to))
    (tmp_path / "plain").write_text("mine")
    for form in ("page", *(["onnx"] if importlib.util.find_spec("onnxscript") else [])):
        assert "is a file" in refused(capsys, "export", *PRETRAINED, "--format", form, "--to", str(tmp_path / "plain"))
    assert (tmp_path / "letters" / "index.html").read_text() == (tmp_path / "plain").read_text() == "mine"


def test_unknown_format(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", *PRETRAINED, "--format", "pdf", "--to", str(tmp_path / "site")])
    assert ended.value.code == 2 and re.search("invalid choice:? 'pdf'", capsys.readouterr().err)


@pytest.fixture
def small():
    """A server of two files."""
    running = server.open_server({"index.html": b"<p>", "kernel.wasm": b"\0asm"}, 8750)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_server_knows_its_files_only(small):
    """On the loopback interface, with the types that modules and WebAssembly need; every other path is unknown."""
    assert small.server_address[0] == "127.0.0.1"
    with urlopen(small.url) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8" and answer.read() == b"<p>"
    connection = http.client.HTTPConnection(*small.server_address)
    for path, status, kind in (
        ("/kernel.wasm?x", 200, "application/wasm"), ("/../pyproject.toml", 404, None), ("//etc/passwd", 404, None),
        ("/%2e%2e/README.md", 404, None), ("/playground.py", 404, None),
    ):  # fmt: skip
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status and (kind is None or answer.headers["Content-Type"] == kind), path


def test_the_next_port(small, capsys):
    """A port that is taken is left alone, and the user told."""
    other = server.open_server({}, small.server_address[1])
    assert other.server_address[1] > small.server_address[1]
    other.server_close()
    for port in (0, 70_000):
        assert "--port" in refused(capsys, "play", *PRETRAINED, "--port", str(port), "--no-browser")


def test_play(tmp_path):
    """Serves until Ctrl-C, says where, and says when the port was taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "worldmodels", "play", *PRETRAINED, "--port", str(port), "--no-browser"]
        # Programs started in a shell's background ignore Ctrl-C, and so do those that they start.
        heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
        line = process.stdout.readline()
        assert line.startswith(f"Port {port} is taken. Drive at http://127.0.0.1:")
        with urlopen(re.search(r"http\S+", line)[0] + "playground.json") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0 and process.stderr.read() == ""


def test_play_serves_a_browser_that_stays_in_the_terminal(monkeypatch):
    """`webbrowser.open` returns when lynx has ended, and lynx waits for the page."""
    opened, serve = {}, server.Server.serve_forever

    def browse(url: str) -> None:
        with urlopen(url, timeout=20) as answer:
            opened[url] = answer.read()
        stop.set()

    def serve_until(serving: server.Server) -> None:
        threading.Thread(target=lambda: (stop.wait(30), serving.shutdown()), daemon=True).start()
        serve(serving)

    stop = threading.Event()
    monkeypatch.setattr(play.webbrowser, "open", browse)
    monkeypatch.setattr(server.Server, "serve_forever", serve_until)
    monkeypatch.setattr(site, "build", lambda run: {"index.html": b"<p>"})
    play.main(Play(pretrained="carracing", port=8770))
    assert opened == {"http://127.0.0.1:8770/": b"<p>"}


def test_a_browser_that_leaves_or_talks_nonsense_is_not_mentioned(small, capsys):
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n"):
        with socket.create_connection(small.server_address) as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset when it is closed
            leaving.sendall(words)
            leaving.recv(10)
    with urlopen(small.url) as answer:
        assert answer.status == 200
    assert capsys.readouterr().err == ""


def test_the_kind_of_action_needs_no_simulator():
    assert site.CAR.space == envs.actions_in(envs.World(envs.CARRACING)).space


def test_starts_are_varied_and_warm():
    """Twenty different moments, each with the memory that torch has after the steps before it."""
    agent = site.load(folder("carracing"))
    real = starts.recordings(folder("carracing"), agent.env_id, 3)
    chosen, mean, std = starts.choose(agent, real.short)
    assert len({start.frame.tobytes() for start in chosen}) == starts.STARTS and len(real.drive.frames) == starts.DRIVE
    assert all(float(start.h.abs().max()) > 0.1 for start in chosen) and int((std > 0.2).sum()) in range(8, 25)
    rollout = real.short[0]
    start = starts.watch(agent, rollout, starts.WARM_UP)
    z = agent.encoder.vae.encode(rollout.frames)[0]
    _, h = agent.memory(z[None, :-1], torch.from_numpy(rollout.actions)[None])
    torch.testing.assert_close(start.h, h[0, -1], atol=1e-5, rtol=1e-4)


def test_starts_of_a_run(tmp_path):
    """Where something was earned before; never the last moment of an episode that ended."""
    run = make_run(tmp_path, "worldmodels/CarRacing-v3", steps=60)
    agent = site.load(run)
    rollouts = starts.recordings(run, agent.env_id, 3).short
    for rollout in rollouts:
        rollout.rewards[:] = np.where(np.arange(60) < 40, 1, -1)
        rollout.terminals[-1] = True
    assert max(t for _, t in starts.candidates(rollouts)) == 59
    chosen, _, _ = starts.choose(agent, rollouts)
    good = {frame.tobytes() for rollout in rollouts for frame in rollout.frames[:50]}
    assert len(chosen) == starts.STARTS and all(start.frame.tobytes() in good for start in chosen)


def test_sprite_keeps_the_frames(tmp_path):
    """In their order, and nearly as they were."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    frames = np.stack([np.full((64, 64, 3), 10 * i, np.uint8) // 2 + ramp[:, None] // 2 for i in range(23)])
    (tmp_path / "frames.webp").write_bytes(starts.sprite(frames, quality=90))
    back = starts.frames_of(tmp_path / "frames.webp", 23).astype(int)
    assert back.shape == frames.shape and np.abs(back - frames).mean() < 3


def test_folded_decoder_is_the_decoder():
    """dense and deconv1 as one map, in float64: V's first layer exactly."""
    vae = site.load(folder("carracing")).encoder.vae
    folded = weights.decoder(vae)
    z = torch.randn(3, 32, dtype=torch.float64)
    layer = (z @ folded["decoder.0.weight"][0] + folded["decoder.0.bias"]).reshape(3, 5, 5, 128).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer, vae.double().first_deconvolution(vae.dense(z)))


def test_ports_run_out(small):
    with pytest.raises(UserError, match="--port"):
        server.open_server({}, 65_536)
