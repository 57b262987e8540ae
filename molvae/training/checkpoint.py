"""The resume file of a training run: tensors in safetensors, the rest as JSON in its metadata.

Training itself needs no safetensors, so that it is imported only where a file is read or written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from molvae.errors import ModelFileError


@dataclass
class CheckpointState:
    """All of a run that a checkpoint keeps: plain values and tensors by name."""

    progress: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(path: Path, state: CheckpointState, run_id: str) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: file to write.
        state: the run as it stands.
        run_id: digest of settings, data and code: which run it is a checkpoint of.
    """
    from molvae.model_io.tensors import write_tensors

    progress = json.dumps(state.progress)
    checksum = _compute_checksum(progress, state.tensors)
    write_tensors(path, state.tensors, {"run_id": run_id, "progress": progress, "sha256": checksum})


def load_checkpoint(path: Path, run_id: str) -> CheckpointState:
    """Read a checkpoint.

    Raises:
        ModelFileError: damaged, or of another run than `run_id` names.
    """
    from safetensors import safe_open

    from molvae.model_io.tensors import read_tensors

    tensors = read_tensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("run_id") != run_id:
        raise ModelFileError(f"{path}: a checkpoint of other settings, data or code. Delete it to train anew.")
    progress = metadata.get("progress", "")
    if metadata.get("sha256") != _compute_checksum(progress, tensors):
        raise ModelFileError(f"{path}: its checksum is wrong: it was damaged after it was written.")
    return CheckpointState(json.loads(progress), tensors)


def _compute_checksum(progress: str, tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of a checkpoint's content, in hex."""
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
