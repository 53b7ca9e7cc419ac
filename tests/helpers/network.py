"""Machines on one machine: network namespaces on a switch, so that a node can die, be cut off, or be slow."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TOKEN = "a token of forty characters for the tests"
PORT = 6379


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def allowed() -> bool:
    """Whether namespaces can be made here."""
    name = f"wm{os.getpid()}t"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    ip("netns", "del", name)
    return True


class Machine:
    """A network namespace with an address of its own."""

    def __init__(self, network: "Network", number: int):
        self.name, self.port = f"{network.prefix}m{number}", f"p{number}"
        self.address, self.network = f"10.77.0.{number}", network
        inside = f"wm{os.getpid() % 10000}e{number}"
        ip("netns", "add", self.name)
        ip("link", "add", inside, "type", "veth", "peer", "name", self.port, "netns", network.switch)
        ip("link", "set", inside, "netns", self.name)
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", inside)
        for link in ("lo", inside):
            ip("-n", self.name, "link", "set", link, "up")
        ip("-n", network.switch, "link", "set", self.port, "master", "switch")
        self.connect(True)

    def connect(self, on: bool) -> None:
        """Plug the cable in, or pull it out."""
        ip("-n", self.network.switch, "link", "set", self.port, "up" if on else "down")

    def start(self, command: list[str], log: Path, **environment: str) -> subprocess.Popen:
        """Run a command on this machine."""
        whole = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0",
                 "OMP_NUM_THREADS": "1", **environment}  # fmt: skip
        with log.open("a") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command], stdout=file, stderr=file, env=whole, cwd=Path.cwd()
            )

    def join(self, head: "Machine", **environment: str) -> None:
        """Start Ray here: as the head, or at one."""
        where = ["--head", "--port", str(PORT), "--include-dashboard", "false", "--temp-dir", str(self.network.folder)]
        if head is not self:
            where = ["--address", f"{head.address}:{PORT}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--node-ip-address", self.address,
                   "--num-cpus", "1", "--object-store-memory", "100000000"]  # fmt: skip
        log = self.network.folder / f"{self.name}.log"
        assert self.start(command, log, **environment).wait(180) == 0, log.read_text()

    def processes(self, text: str = "") -> list[int]:
        """Those of this machine whose command line has this text."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        lines = {int(pid): Path(f"/proc/{pid}/cmdline") for pid in found}
        return [pid for pid, line in lines.items() if line.exists() and text in line.read_text().replace("\0", " ")]

    def kill(self, text: str = "") -> int:
        """Kill them; how many there were. Without a text, until none is left."""
        killed = set[int]()
        while left := [pid for pid in self.processes(text) if not text or pid not in killed]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed.update(left)
            time.sleep(0.1)
        return len(killed)


class Network:
    """A switch, and the machines on it; `close` removes all."""

    def __init__(self, folder: Path):
        self.folder, self.prefix = folder, f"wm{os.getpid() % 10000}"
        self.switch, self.machines = f"{self.prefix}s", list[Machine]()
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        ip("-n", self.switch, "link", "set", "switch", "up")

    def machine(self) -> Machine:
        self.machines.append(Machine(self, len(self.machines) + 1))
        return self.machines[-1]

    def close(self) -> None:
        for machine in self.machines:
            machine.kill()
            ip("netns", "del", machine.name)
        ip("netns", "del", self.switch)
