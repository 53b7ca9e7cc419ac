"""The files of examples/cluster: their syntax, Ray's schema, and every command of ours in them.

No cloud, no Slurm and no Kubernetes is here to run them.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT, without_ray
from worldmodels.cli import parse

FOLDER = ROOT / "examples" / "cluster"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_of_ours_is_understood(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    text = (
        path.read_text(encoding="utf-8")
        .replace("$address:$PORT", "10.0.0.1:6379")
        .replace('"', "" if path.suffix == ".sh" else "\n")
    )
    found = re.findall(r"worldmodels (run|evaluate) ([^&#\n\\]*)", text)
    assert found
    for command, flags in found:
        parse(command, shlex.split(flags))


def test_the_shell_understands_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
    head = (FOLDER / "slurm.sh").read_text(encoding="utf-8").split("set -e")[0]
    assert head.startswith("#!/bin/bash\n")
    options = re.findall(r"^#SBATCH --([a-z-]+)=", head, re.M)
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "time", "signal"} <= set(options)


@pytest.mark.parametrize("head", ["comes", "fails"])
def test_the_slurm_script_stops_the_run_in_time_and_ends_when_no_head_comes(tmp_path: Path, head: str) -> None:
    """With programs of ours in place of srun and worldmodels; the port of the head is one of this machine's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if head == "fails":
            server.close()
        programs = {
            "srun": "exec sleep 20" if head == "comes" else "exit 1",
            "hostname": "echo 127.0.0.1",
            "python": "echo token",
            "worldmodels": f"exec {sys.executable} -c 'import time\ntry: print(flush=True); time.sleep(20)\n"
            f'except KeyboardInterrupt: open("{tmp_path}/kept", "w"); raise SystemExit(130)\'',
        }
        (tmp_path / "bin").mkdir()
        for name, line in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "bin" / "activate").touch()
        script = (FOLDER / "slurm.sh").read_text(encoding="utf-8").replace("PORT=6379", f"PORT={port}")
        settings = {
            "VENV": str(tmp_path),
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_CPUS_PER_TASK": "1",
        }
        process = subprocess.Popen(
            ["bash", "-c", script], env=os.environ | settings | {"SLURM_JOB_NUM_NODES": "1", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            if head == "comes":
                assert process.stdout is not None and process.stdout.readline() == b"\n"
                process.send_signal(signal.SIGINT)
            assert process.wait(30) == (130 if head == "comes" else 1)
            assert (tmp_path / "kept").exists() == (head == "comes")
        finally:
            process.kill()


def test_ray_up_s_schema_takes_the_cluster() -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray`")
    jsonschema, yaml = pytest.importorskip("jsonschema"), pytest.importorskip("yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((FOLDER / "cluster.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_the_kubernetes_job_has_a_head_and_workers() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    for template in templates:
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= {variable["name"] for variable in container["env"]}
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in template["spec"].get("volumes", ())}
