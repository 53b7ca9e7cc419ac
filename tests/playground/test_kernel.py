"""kernel.wasm is what kernel.ts says, and the page's types fit: both need the tools that `npm ci` installs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.playground.conftest import TOOLS
from worldmodels.playground import site

SOURCE = site.STATIC.parent / "kernel.ts"


def tool(name: str) -> Path:
    path = TOOLS / ".bin" / name
    if shutil.which("node") is None or not path.exists():
        pytest.skip(f"{name} is not installed: npm ci --prefix tests/playground")
    return path


def test_kernel_is_rebuilt_byte_for_byte(tmp_path):
    options = ["-O3", "--noAssert", "--runtime", "stub", "--enable", "simd", "--importMemory"]
    subprocess.run([tool("asc"), SOURCE, *options, "--outFile", tmp_path / "kernel.wasm"], check=True, cwd=tmp_path)
    assert (tmp_path / "kernel.wasm").read_bytes() == (site.STATIC / "kernel.wasm").read_bytes()


def test_types_of_the_page():
    answer = subprocess.run([tool("tsc"), "-p", TOOLS.parent / "tsconfig.json"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
