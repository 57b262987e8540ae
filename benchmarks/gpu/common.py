"""What the commands of the GPU suite share: tokens, settings, precisions, a clock, and how results are written.

Needs torch, numpy and those modules of molvae that need no more.
"""

from __future__ import annotations

import datetime
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import Vocabulary
from molvae.nn.vae import VAE, init_vae
from molvae.runtime.files import compute_json_hash, write_json
from molvae.runtime.provenance import get_git_commit

PRECISIONS = ("float32", "tf32", "bfloat16")
MOSES_SIZES = {
    "embedding_dim": 32,
    "latent_dim": 128,
    "encoder_hidden": 256,
    "encoder_layers": 1,
    "decoder_hidden": 512,
    "decoder_layers": 3,
}
LARGE_SIZES = {
    "embedding_dim": 64,
    "latent_dim": 128,
    "encoder_hidden": 384,
    "encoder_layers": 1,
    "decoder_hidden": 768,
    "decoder_layers": 3,
}
SIZES = {"moses": MOSES_SIZES, "default": {}, "large": LARGE_SIZES}  # "default" is what the packed file says


@dataclass(frozen=True)
class Packed:
    """What pack.py wrote."""

    splits: dict[str, TokenSet]
    augmentations: TokenSet | None
    vocabulary: Vocabulary
    defaults: dict[str, dict[str, Any]]
    commit: str | None

    @property
    def train(self) -> TokenSet:
        """The training molecules."""
        return self.splits["train"]

    @property
    def held_out(self) -> TokenSet:
        """Molecules that no training run evaluates on, or else those of early stopping."""
        return self.splits["test"] if len(self.splits.get("test", ())) else self.splits["valid"]

    def make_settings(self, section: str, **overrides: Any) -> SimpleNamespace:
        """Make settings: the defaults of a section with these changed."""
        unknown = set(overrides) - set(self.defaults[section])
        if unknown:
            raise SystemExit(f"{section}: there is no setting {', '.join(sorted(unknown))}.")
        return SimpleNamespace(**{**self.defaults[section], **overrides})

    def make_model_settings(self, name: str) -> SimpleNamespace:
        """Make the model settings of one of SIZES."""
        return self.make_settings("model", **SIZES[name])

    def init_network(self, settings: SimpleNamespace, seed: int = 0) -> VAE:
        """Initialise a model of these settings."""
        return init_vae(len(self.vocabulary), settings, seed)


def read_packed(path: Path, merges: int | None = None) -> Packed:
    """Read a file that pack.py wrote.

    Args:
        path: the file.
        merges: merged tokens that are kept, the first ones; 0: a token a symbol; None: all.
    """
    with np.load(path) as file:
        arrays = dict(file)
    content = json.loads(arrays["about"].tobytes())
    molecules = _make_token_set(arrays["ids"], arrays["lengths"])
    ends = np.cumsum(list(content["splits"].values()))
    splits = {
        name: molecules.select(np.arange(end - count, end))
        for (name, count), end in zip(content["splits"].items(), ends, strict=True)
    }
    augmentations = None
    if "augmentation_ids" in arrays:
        augmentations = _make_token_set(arrays["augmentation_ids"], arrays["augmentation_lengths"])
    vocabulary = Vocabulary.from_json(content["vocabulary"], str(path))
    if merges is not None:
        splits = {name: _undo_merges(part, vocabulary, merges) for name, part in splits.items()}
        augmentations = None if augmentations is None else _undo_merges(augmentations, vocabulary, merges)
        vocabulary = replace(vocabulary, merges=vocabulary.merges[:merges])
    return Packed(splits, augmentations, vocabulary, content["defaults"], content["commit"])


def _undo_merges(molecules: TokenSet, vocabulary: Vocabulary, merges: int) -> TokenSet:
    """The molecules as the first so many merges alone would have made them."""
    n_kept = len(vocabulary) - len(vocabulary.merges) + merges
    parts: list[tuple[int, ...]] = [(token,) for token in range(n_kept)]
    for left, right in vocabulary.merges[merges:]:
        parts.append(parts[left] + parts[right])
    sizes = np.array([len(part) for part in parts])
    starts, flat = np.cumsum(sizes) - sizes, np.array([token for part in parts for token in part], np.uint16)
    counts = sizes[molecules.ids]
    ends = np.cumsum(counts)
    ids = flat[np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[molecules.ids] - (ends - counts), counts)]
    return TokenSet(ids, np.concatenate([[0], ends])[molecules.offsets])


def _make_token_set(ids: np.ndarray, lengths: np.ndarray) -> TokenSet:
    return TokenSet(ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def allow_tf32(allowed: bool) -> None:
    """Allow TF32 in float32 products and RNN kernels, or not. By torch's default RNN kernels may, products may not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def use_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in one of PRECISIONS in this block."""
    allow_tf32(precision != "float32")
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def list_precisions(device: torch.device, precisions: list[str]) -> list[str]:
    """List those of the precisions that the device knows: a CPU has one here."""
    return precisions if device.type == "cuda" else ["float32"]


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_rate(work: Callable[[], object], device: torch.device, seconds: float, warm_up: int = 10) -> float:
    """Measure how often a second `work` runs; the device is waited for before and behind the timed block only."""
    for _ in range(warm_up):
        work()
    estimate = time_calls(work, device, 3)
    # a fixed number of calls: a launch does not wait for its end, so that a clock would stop too late
    calls = math.ceil(estimate * seconds)
    return time_calls(work, device, calls) if calls > 3 else estimate


def time_calls(work: Callable[[], object], device: torch.device, calls: int) -> float:
    """Measure how often a second `work` runs, of so many calls."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(device)
    return calls / (time.perf_counter() - began)


def describe_circumstances(device: torch.device) -> dict[str, Any]:
    """Describe where and when a result was measured."""
    circumstances = {
        "device": "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": get_git_commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        circumstances |= {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30),
            "cudnn": torch.backends.cudnn.version(),
        }
    return circumstances


def write_result(out: Path, name: str, result: dict[str, Any], packed: Packed, device: torch.device) -> None:
    """Write a result to `out`/name.json. What is not finite becomes null."""
    inputs = {
        "molecules": {split: len(part) for split, part in packed.splits.items()},
        "vocabulary": {
            "tokens": len(packed.vocabulary),
            "fingerprint": compute_json_hash(packed.vocabulary.to_json()),
        },
        "packed_commit": packed.commit,
    }
    content = {**result, **inputs, "measured": describe_circumstances(device)}
    write_json(out / f"{name}.json", _replace_infinite(content))


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _replace_infinite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_infinite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_line(*parts: object) -> None:
    """Print a line at once."""
    print(*parts, flush=True)
