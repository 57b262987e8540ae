"""Figures about a set of samples: valid, unique, novel, kept tokens, FCD. Names and definitions as in MOSES.

Source: Polykovskiy et al. 2020 (arXiv:1811.12823).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from molvae.metrics import fcd
from molvae.metrics.rows import canonical_rows
from molvae.parallel import in_order

TASK_ROWS = 500


@dataclass(frozen=True)
class SampleSet:
    """Samples in their order, reduced to what the figures need.

    Attributes:
        canonical: canonical SMILES of each, "" where invalid.
        kept_token_fraction: (n,), see `molvae.chemistry.describe`.
        stable_share: of all strings written for them, see `molvae.chemistry.stable`.
        is_first: (n,) valid and no sample before it is the same molecule.
        is_novel: (n,) valid and no training molecule, both sides canonical.
        fcd: Fréchet ChemNet distance of the valid samples to the reference; None where fewer than two are valid.
    """

    canonical: list[str]
    kept_token_fraction: np.ndarray
    stable_share: float
    is_first: np.ndarray
    is_novel: np.ndarray
    fcd: float | None

    @classmethod
    def of(
        cls,
        canonical: list[str],
        kept: np.ndarray,
        stable_share: float,
        molecules: Path,
        reference: fcd.Statistics,
    ) -> SampleSet:
        """Compute it. `molecules` is the parquet of `featurize`, whose training molecules define novelty."""
        seen: set[str] = {""}
        is_first = np.array([not (one in seen or seen.add(one)) for one in canonical], dtype=bool)
        known = _in_training(set(canonical), molecules) | {""}
        is_novel = np.array([one not in known for one in canonical], dtype=bool)
        valid = [one for one in canonical if one]
        distance = fcd.frechet_distance(reference, fcd.statistics(valid)) if len(valid) > 1 else None
        return cls(canonical, kept, stable_share, is_first, is_novel, distance)

    def valid(self, first: int | None = None) -> list[str]:
        """The valid samples, or the first so many of them."""
        return [one for one in self.canonical if one][:first]


@dataclass(frozen=True)
class Figure:
    """What a figure is and how to read it."""

    value: Callable[[SampleSet], float | None]
    count: Callable[[SampleSet], int]
    better: Literal["higher", "lower", "none"]
    description: str
    reference: Literal["distribution", "training", "none"] = "none"
    implementation: str = "molvae"
    least: int = 1  # samples it needs to mean anything


def _unique(first: int) -> Callable[[SampleSet], float | None]:
    def share(samples: SampleSet) -> float | None:
        valid = samples.valid(first)
        return len(set(valid)) / len(valid) if valid else None

    return share


def _novelty(samples: SampleSet) -> float | None:
    unique = int(samples.is_first.sum())
    return float((samples.is_first & samples.is_novel).sum()) / unique if unique else None


FIGURES = {
    "FCD/Test": Figure(
        lambda s: s.fcd, lambda s: len(s.valid()), "lower",
        "Fréchet ChemNet distance of the valid samples, duplicates kept; falls with n, compare at equal n only",
        "distribution", fcd.IMPLEMENTATION, least=1000,
    ),
    "kept_tokens": Figure(
        lambda s: float(np.mean(s.kept_token_fraction)), lambda s: len(s.canonical), "higher",
        "mean share of a sample's tokens that survive decoding and encoding again: what 'valid' cannot say for SELFIES",
    ),
    "Novelty": Figure(
        _novelty, lambda s: int(s.is_first.sum()), "higher",
        "share of unique valid samples that are no training molecule", "training",
    ),
    "stable": Figure(
        lambda s: s.stable_share, lambda s: len(s.canonical), "higher",
        "share of the strings written, those that were written again too, that come back unchanged from decoding and "
        "encoding",
    ),
    "unique@1000": Figure(
        _unique(1000), lambda s: min(1000, len(s.valid())), "higher",
        "share of distinct molecules among the first 1000 valid samples", least=1000,
    ),
    "unique@10000": Figure(
        _unique(10000), lambda s: min(10000, len(s.valid())), "higher",
        "share of distinct molecules among the first 10000 valid samples", least=10000,
    ),
    "valid": Figure(
        lambda s: len(s.valid()) / len(s.canonical), lambda s: len(s.canonical), "higher",
        "share of samples that RDKit accepts and that hold an atom; near 1 by construction of SELFIES",
        implementation="RDKit",
    ),
}  # fmt: skip


def canonical_forms(
    symbols: Sequence[Sequence[str]], caps: dict[str, int], workers: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Of strings of symbols: canonical SMILES ("" where none), kept-token fraction, and whether they are stable."""
    tasks = [(symbols[start : start + TASK_ROWS], caps) for start in range(0, len(symbols), TASK_ROWS)]
    rows = [row for part in in_order(canonical_rows, tasks, workers) for row in part]
    forms, kept, is_stable = zip(*rows, strict=True) if rows else ((), (), ())
    return list(forms), np.array(kept), np.array(is_stable, dtype=bool)


def _in_training(smiles: set[str], molecules: Path) -> set[str]:
    """Those of `smiles` that are training molecules; the file is read as a stream."""
    found: set[str] = set()
    for batch in pyarrow.parquet.ParquetFile(molecules).iter_batches(65_536, columns=["smiles", "split"]):
        train = batch.filter(pyarrow.compute.equal(batch.column("split"), "train"))
        found.update(smiles.intersection(train.column("smiles").to_pylist()))
    return found
