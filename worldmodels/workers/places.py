"""Where work runs: cores, devices, precision, and the threads that a worker may use."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from worldmodels.errors import UserError

if TYPE_CHECKING:
    import torch

ROWS = 8  # fewest rows of a product: on one thread, from 4 on, a row's rounding does not depend on their number


@dataclass(frozen=True)
class Place:
    """One worker's share of the machine."""

    device: str
    """cpu, or cuda:0, cuda:1, …"""
    threads: int


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> "torch.device":
    """`auto` is the GPU when there is one; UserError when `cuda` is asked for and missing."""
    import torch  # whoever only drives at random does without it: 0.2 GB and two seconds per worker

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device is visible to PyTorch: use --device cpu, or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def gpu(index: int) -> str:
    """The device of the worker with this number on its machine."""
    import torch

    return f"cuda:{index % torch.cuda.device_count()}"


def choose_bfloat16(precision: str, device: "torch.device") -> bool:
    """Whether to compute in bfloat16; `auto` does where it is faster: on a GPU, and on processors that have it."""
    import torch

    if precision == "auto":
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: absent from some versions of PyTorch
        return device.type == "cuda" or any(getattr(torch.cpu, name, bool)() for name in asked)
    return precision == "bfloat16"


def choose_places(device: "torch.device", workers: int, batched: bool) -> tuple[Place, ...]:
    """Where the workers of a stage run.

    Args:
        device: on a GPU there is one worker for each of CUDA_VISIBLE_DEVICES.
        workers: how many instead (0: the number that suits).
        batched: the environment steps its lanes on all the threads of one process, which is then the only one; any
            other environment gets a process per core.
    """
    if device.type == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        return tuple(Place(gpu(i), max(1, cores() // gpus)) for i in range(workers or gpus))
    count = workers or (1 if batched else cores())
    return (Place("cpu", max(1, cores() // count) if batched else 1),) * count


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Compute on so many threads inside the block, in PyTorch and in NumPy's BLAS.

    Workers that each take every core wait for one another: evaluating on Gymnasium's CarRacing takes twice the time.
    """
    with torch_threads(threads), threadpool_limits(threads):
        yield


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Compute on so many threads inside the block in PyTorch, where it is imported."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
