"""The weights that `train` brings back: one torch file cut into parts no larger than what may be brought back."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

PART_BYTES = 15 * 2**20
MANY_PARTS = 3  # of float32; where there are more, bfloat16 is written beside it
Weights = dict[str, dict[str, Tensor]]  # state dicts by name: model, flow, mixture


def write_weights(out: Path, weights: Weights) -> None:
    """Write weights-float32.pt.0 and on; weights-bfloat16.pt.0 and on as well where these are many."""
    for path in out.glob("weights-*.pt.*"):
        path.unlink()
    for dtype in (torch.float32, torch.bfloat16):
        buffer = io.BytesIO()
        torch.save({module: _cast(tensors, dtype) for module, tensors in weights.items()}, buffer)
        content = buffer.getvalue()
        starts = range(0, len(content), PART_BYTES)
        for number, start in enumerate(starts):
            _make_path(out, dtype, number).write_bytes(content[start : start + PART_BYTES])
        if len(starts) <= MANY_PARTS:
            return


def read_weights(folder: Path) -> Weights:
    """Read the float32 ones if their first part is there, else the bfloat16 ones, as float32 on the CPU."""
    dtype = torch.float32 if _make_path(folder, torch.float32, 0).exists() else torch.bfloat16
    content, number = b"", 0
    while (part := _make_path(folder, dtype, number)).exists():
        content, number = content + part.read_bytes(), number + 1
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {module: _cast(tensors, torch.float32) for module, tensors in weights.items()}


def _make_path(folder: Path, dtype: torch.dtype, number: int) -> Path:
    return folder / f"weights-{str(dtype).removeprefix('torch.')}.pt.{number}"


def _cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu() for name, tensor in tensors.items()
    }
