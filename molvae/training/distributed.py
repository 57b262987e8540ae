"""Several processes that train one model, one a GPU, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; alone it is the first of one."""

    rank: int = 0
    size: int = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap a model, so that its gradients are averaged over the processes at each backward pass."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def average(self, values: Tensor) -> Tensor:
        """Average `values` over the processes; the gradient is that of this process's own values.

        Averaged by `wrap`, these gradients are those of the mean over all molecules of the batch.
        """
        if self.size == 1:
            return values
        total = values.detach().clone()
        torch.distributed.all_reduce(total)
        return values + (total / self.size - values.detach())

    def is_any(self, flag: bool) -> bool:
        """Tell whether the flag is true in any process."""
        if self.size == 1:
            return flag
        flags: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(flags, flag)
        return any(flags)

    def broadcast(self, value: Value) -> Value:
        """Give every process the value of the first one."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def join_process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the group that `torchrun` started this process in; without torchrun, a group of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()
