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
from molvae.nn.vae import VAE, untrained
from molvae.runtime.files import fingerprint, write_json
from molvae.runtime.provenance import git_commit

PRECISIONS = ("float32", "tf32", "bfloat16")
SIZES = {  # "default" is what the packed file says
    "moses": {
        "embedding_dim": 32, "latent_dim": 128, "encoder_hidden": 256, "encoder_layers": 1, "decoder_hidden": 512,
        "decoder_layers": 3,
    },
    "default": {},
    "large": {
        "embedding_dim": 64, "latent_dim": 128, "encoder_hidden": 384, "encoder_layers": 1, "decoder_hidden": 768,
        "decoder_layers": 3,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """What pack.py wrote."""

    splits: dict[str, TokenSet]
    variants: TokenSet | None
    vocabulary: Vocabulary
    defaults: dict[str, dict[str, Any]]
    commit: str | None

    @property
    def train(self) -> TokenSet:
        return self.splits["train"]

    @property
    def held_out(self) -> TokenSet:
        """Molecules that no training run looks at, or else those of early stopping."""
        return self.splits["test"] if len(self.splits.get("test", ())) else self.splits["valid"]

    def settings(self, section: str, **overrides: Any) -> SimpleNamespace:
        """The default settings of a section with some of them changed."""
        unknown = set(overrides) - set(self.defaults[section])
        if unknown:
            raise SystemExit(f"{section}: there is no setting {', '.join(sorted(unknown))}.")
        return SimpleNamespace(**{**self.defaults[section], **overrides})

    def sizes(self, name: str) -> SimpleNamespace:
        """The model settings of one of SIZES."""
        return self.settings("model", **SIZES[name])

    def network(self, sizes: SimpleNamespace, seed: int = 0) -> VAE:
        """A model of these settings before training."""
        return untrained(len(self.vocabulary), sizes, seed)


def read(path: Path, merges: int | None = None) -> Packed:
    """A file that pack.py wrote, with all of its merged tokens or only so many of the first; 0: a token a symbol."""
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes())
    everything = _token_set(arrays["ids"], arrays["lengths"])
    ends = np.cumsum(list(about["splits"].values()))
    splits = {
        name: everything.select(np.arange(end - count, end))
        for (name, count), end in zip(about["splits"].items(), ends, strict=True)
    }
    variants = _token_set(arrays["variant_ids"], arrays["variant_lengths"]) if "variant_ids" in arrays else None
    vocabulary = Vocabulary.from_json(about["vocabulary"], str(path))
    if merges is not None:
        splits = {name: _taken_apart(part, vocabulary, merges) for name, part in splits.items()}
        variants = None if variants is None else _taken_apart(variants, vocabulary, merges)
        vocabulary = replace(vocabulary, merges=vocabulary.merges[:merges])
    return Packed(splits, variants, vocabulary, about["defaults"], about["commit"])


def _taken_apart(molecules: TokenSet, vocabulary: Vocabulary, merges: int) -> TokenSet:
    """The molecules as the first so many merges alone would have made them."""
    first = len(vocabulary) - len(vocabulary.merges)
    parts: list[tuple[int, ...]] = [(k,) for k in range(first + merges)]
    for one, other in vocabulary.merges[merges:]:
        parts.append(parts[one] + parts[other])
    sizes = np.array([len(part) for part in parts])
    starts, flat = np.cumsum(sizes) - sizes, np.array([k for part in parts for k in part], np.uint16)
    counts = sizes[molecules.ids]
    ends = np.cumsum(counts)
    ids = flat[np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[molecules.ids] - (ends - counts), counts)]
    return TokenSet(ids, np.concatenate([[0], ends])[molecules.offsets])


def _token_set(ids: np.ndarray, lengths: np.ndarray) -> TokenSet:
    return TokenSet(ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and RNN kernels may use TF32. Torch's own start: RNN kernels may, products may not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """A block in one of PRECISIONS."""
    allow_tf32(precision != "float32")
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def precisions(device: torch.device, wanted: list[str]) -> list[str]:
    """Those of the precisions that the device knows: a CPU has one here."""
    return wanted if device.type == "cuda" else ["float32"]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def calls_per_second(work: Callable[[], object], device: torch.device, seconds: float, warm_up: int = 10) -> float:
    """How often a second `work` runs; the device is waited for before and behind the timed block only."""
    for _ in range(warm_up):
        work()
    few = rate_of(work, device, 3)
    calls = math.ceil(
        few * seconds
    )  # a fixed number: a launch does not wait for its end, so a clock would come too late
    return rate_of(work, device, calls) if calls > 3 else few


def rate_of(work: Callable[[], object], device: torch.device, calls: int) -> float:
    """How often a second `work` runs, of so many calls."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(device)
    return calls / (time.perf_counter() - began)


def circumstances(device: torch.device) -> dict[str, Any]:
    """Where and when a figure was measured."""
    found = {
        "device": "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": git_commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "device": about.name,
            "memory_gib": round(about.total_memory / 2**30),
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def write(out: Path, name: str, result: dict[str, Any], packed: Packed, device: torch.device) -> None:
    """Write a result to `out`/name.json. What is not finite becomes null."""
    about = {
        "molecules": {split: len(part) for split, part in packed.splits.items()},
        "vocabulary": {"tokens": len(packed.vocabulary), "fingerprint": fingerprint(packed.vocabulary.to_json())},
        "packed_commit": packed.commit,
    }
    write_json(out / f"{name}.json", _finite({**result, **about, "measured": circumstances(device)}))


def _finite(value: Any) -> Any:
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(*parts: object) -> None:
    print(*parts, flush=True)
