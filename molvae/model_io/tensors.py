"""Tensors in safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from molvae.errors import ModelFileError
from molvae.runtime.files import atomic_write


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file.

    Raises:
        ModelFileError: there is no such file, or it is damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file.") from None
    except (SafetensorError, OSError) as err:
        raise ModelFileError(f"{path}: damaged or no safetensors file ({err}).") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors into a file, whole or not at all."""
    content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        # bytes: `save_file` makes a file that nobody else may read, and its own error of a full disk
        temporary.write_bytes(save(content, metadata))
