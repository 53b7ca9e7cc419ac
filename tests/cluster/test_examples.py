"""The files of examples/cluster: their syntax, Ray's schema, and every command of ours in them.

No cloud, no Slurm and no Kubernetes is here to run them.
"""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT
from worldmodels.cli import parse

FOLDER = ROOT / "examples" / "cluster"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_of_ours_is_understood(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
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
