"""Weights, config and loop state in one safetensors file, written atomically.

A checkpoint is a dictionary of tensors and a JSON text in the file's metadata. Nothing in it can run code when it
is loaded, and one rename replaces the whole of it: a run killed at any instant finds either the old or the new.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors

from worldmodels.errors import UserError
from worldmodels.runs.files import write_atomically


def save(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-able `meta` to `path` (safetensors), atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Its save_file would leave a file that only its owner can read.
    write_atomically(path, safetensors.save(contiguous, metadata={"json": json.dumps(meta)}))


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors on the CPU, meta) of a checkpoint; the tensors are pages of the file, which the system may drop.

    Raises:
        UserError: the file is missing, truncated, or none of ours.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with _damage(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _meta(file.metadata())  # noqa: SIM118


def parse(data: bytes, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """`load` of a checkpoint's bytes, which `name` names in the UserError: workers get models as bytes."""
    with _damage(name):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # the format's own layout
        return safetensors.load(data), _meta(header["__metadata__"])


def _meta(metadata: dict[str, str] | None) -> dict[str, Any]:
    return dict(json.loads((metadata or {})["json"]))


@contextmanager
def _damage(name: object) -> Iterator[None]:
    """What reading a file of another kind raises, as one sentence."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{name} is damaged or no checkpoint of ours ({error}): delete it, or start over with --noreload."
        ) from error


def digest(*paths: Path) -> str:
    """Names the content of checkpoints, in 16 hexadecimal digits."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def pack(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under `prefix.`: several state dictionaries share one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that `pack(prefix, …)` wrote, under their own names."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's moments as flat tensors `optimizer.<parameter>.<moment>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, moments in state.items()
        for name, value in moments.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], learning_rate: float) -> None:
    """Put the moments that `pack_optimizer` wrote, and the learning rate, back into `optimizer`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in unpack("optimizer", tensors).items():
        index, moment = name.split(".")
        if tensor.ndim:  # the fused Adam reads memory in order: moments need their parameter's layout
            tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
        state.setdefault(int(index), {})[moment] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": [{**group, "lr": learning_rate} for group in groups]})
