"""Training in one process or in many (torchrun), with the same bits.

Shapes: N processes (ranks), M micro-batches, P parameters, B rows of a batch.

A batch is cut into M micro-batches. Each is computed on one thread, wherever it is, and their sums are added along one
tree of pairs, whose lower levels lie inside the processes and whose upper ones between them. So the result depends on M
and not on N, and all processes keep equal weights without sending any. M belongs to a training: its checkpoint has it.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldmodels.errors import UserError
from worldmodels.workers.places import cores, gpu, limited_threads

TIMEOUT = timedelta(hours=12)  # the first process encodes, draws and measures while the others wait


class Ranks:
    """This process among those that train together; without torchrun it is the only one."""

    def __init__(self, device: torch.device):
        """Join the others, on the device (this process's own GPU, where it is one); UserError where there are not 2, 4,
        8, … processes."""
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.first = self.rank == 0
        """Whether this process writes files and speaks."""
        self.device = device
        self.other = torch.empty(0)  # what a neighbour has summed
        if self.count == 1:
            return
        if not self.first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if self.count & (self.count - 1):
            raise UserError(f"{self.count} processes: their gradients are added pair by pair, so start 2, 4, 8, …")
        if device.type == "cuda":
            self.device = torch.device(gpu(int(os.environ.get("LOCAL_RANK", 0))))
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        atexit.register(dist.destroy_process_group)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process runs the block on all cores, then the others, who find what it has left."""
        if not self.first:
            dist.barrier()
        with limited_threads(cores()) if self.first and self.count > 1 else contextlib.nullcontext():
            yield
        if self.first and self.count > 1:
            dist.barrier()

    def check(self, parts: int) -> None:
        """UserError for a number of micro-batches that these processes cannot share."""
        if self.count > parts:
            raise UserError(
                f"{self.count} processes cannot share the {parts} micro-batches of this training: start {parts}, or "
                f"continue it with --micro-batches {self.count}."
            )

    def backward(
        self, model: nn.Module, batch: Any, parts: int,
        loss: Callable[[Any, int], tuple[Tensor, dict[str, Tensor], float]],
    ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
        """Give the parameters the gradient of a whole batch; returns its metrics and its weight, scalars.

        Args:
            model: that learns.
            batch: an array, or a named tuple of tensors, of B rows.
            parts: M.
            loss: (micro-batch, its number) → loss, metrics, weight.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        size = len(batch[0]) if isinstance(batch, tuple) else len(batch)
        bounds = np.linspace(0, size, parts + 1).astype(int)
        names: list[str] = []

        def part(number: int) -> Tensor:
            """[gradient · weight, metrics · weight, weight] of a micro-batch: (P + metrics + 1,)."""
            begin, end = bounds[number], bounds[number + 1]
            value, metrics, weight = loss(rows(batch, slice(begin, max(end, begin + 1))), number)
            weight = weight if end > begin else 0.0  # a micro-batch without rows: a row that does not count
            gradients = torch.autograd.grad(value * weight, trained)
            names[:] = metrics
            numbers = [metric.float() * weight for metric in metrics.values()] + [value.new_tensor(weight)]
            return torch.cat([*(gradient.flatten() for gradient in gradients), torch.stack(numbers)])

        own = parts // self.count
        total = self.add_up(tree(part, self.rank * own, own))
        weight = total[-1].clone()
        sizes = [parameter.numel() for parameter in trained]
        *gradients, numbers = total[:-1].div_(weight).split([*sizes, len(names)])
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))  # laid out as the weights
        return dict(zip(names, numbers.unbind(), strict=True)), weight

    def add_up(self, x: Tensor) -> Tensor:
        """The sum of every process's x: neighbours first, then pairs of them, and so on."""
        if self.other.shape != x.shape:
            self.other = torch.empty_like(x)  # kept: the heap would grow around it
        for level in range(self.count.bit_length() - 1):
            partner = self.rank ^ (1 << level)
            exchange = [dist.P2POp(dist.isend, x, partner), dist.P2POp(dist.irecv, self.other, partner)]
            for request in dist.batch_isend_irecv(exchange):
                request.wait()
            x += self.other  # the same bits on both sides
        return x


def tree(part: Callable[[int], Tensor], first: int, count: int) -> Tensor:
    """The sum of the `count` micro-batches from `first` on, pair by pair."""
    if count == 1:
        return part(first)
    return tree(part, first, count // 2).add_(tree(part, first + count // 2, count // 2))


def rows(batch: Any, some: slice) -> Any:
    """Some rows of an array, or of each tensor in a named tuple."""
    return type(batch)(*(column[some] for column in batch)) if isinstance(batch, tuple) else batch[some]
