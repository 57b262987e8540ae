"""The precision of the matrix products in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from molvae.config import TrainSettings


def use_forward_precision(settings: TrainSettings, device: torch.device) -> AbstractContextManager[object]:
    """Compute the forward pass in the precision of the settings; on a GPU the backward pass follows it."""
    if device.type == "cpu":
        return use_precision(settings, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


def use_precision(settings: TrainSettings, device: torch.device) -> AbstractContextManager[object]:
    """Compute products of float32 matrices on a CPU in the precision of the settings; on a GPU change nothing.

    Operands are rounded, results are float32. A CPU without AMX units goes on in float32.
    """
    return _use_bfloat16() if settings.precision == "bfloat16" and device.type == "cpu" else nullcontext()


@contextmanager
def _use_bfloat16() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
