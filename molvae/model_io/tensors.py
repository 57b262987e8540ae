"""Tensors in safetensors files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from molvae.errors import ModelFileError
from molvae.runtime.files import atomic_write

MAX_HEADER_BYTES = 10_000_000  # as JSON it would take up to fifty times as much memory
DTYPES = {"BF16", "F16", "F32"}  # of weights, as the format names them


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file.

    Raises:
        ModelFileError: there is no such file, or it is damaged.
    """
    with _explain_damage(path):
        return load_file(path)


def read_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read the data type and the shape of each tensor of a file, and none of its data.

    Raises:
        ModelFileError: as `read_tensors`.
    """
    with _explain_damage(path), safe_open(path, framework="pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Raise a ModelFileError for a file that cannot be read, before a device, a pipe or a huge header is."""
    try:
        if not path.is_file() and path.exists():
            raise ModelFileError(f"{path}: no ordinary file. Copy the model folder afresh.")
        with open(path, "rb") as file:
            n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > MAX_HEADER_BYTES:
            raise ModelFileError(f"{path}: damaged or no safetensors file (it claims a header of {n_bytes} bytes).")
        yield
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file.") from None
    except (SafetensorError, OSError, MemoryError) as err:
        raise ModelFileError(f"{path}: damaged or no safetensors file ({err}).") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors into a file, whole or not at all."""
    content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        # bytes: `save_file` makes a file that nobody else may read, and its own error of a full disk
        temporary.write_bytes(save(content, metadata))
