"""A set of samples, and what metrics need of it, computed when first asked for."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from molvae.chemistry.descriptors import remove_stereo
from molvae.metrics import fcd, moses
from molvae.metrics.intervals import Estimate
from molvae.metrics.reference_sets import stack_fingerprints
from molvae.runtime.workers import Workers


class SampleSet:
    """Samples in their order.

    Attributes:
        rows: a row a sample, as `molvae.metrics.molecule_table` describes them.
        round_trip_rate: of all strings decoded for the samples; None where nothing is known about them.
        workers: processes for what takes long.
        device: for ChemNet and similarities.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        *,
        round_trip_rate: float | None = None,
        workers: int | Workers = 1,
        device: str = "cpu",
    ) -> None:
        self.rows, self.round_trip_rate, self.workers, self.device = rows, round_trip_rate, workers, device

    @cached_property
    def valid(self) -> pd.DataFrame:
        """The rows that are molecules, duplicates among them."""
        return self.rows[self.rows["is_valid"].astype(bool)].reset_index(drop=True)

    @cached_property
    def distinct(self) -> list[str]:
        """Canonical SMILES, each once, in order of appearance."""
        return list(dict.fromkeys(self.valid["canonical"]))

    @cached_property
    def distinct_without_stereo(self) -> list[str]:
        """The same without stereo marks."""
        return [remove_stereo(smiles) for smiles in self.distinct]

    @cached_property
    def activations(self) -> np.ndarray:
        """ChemNet activations of the valid rows, (n, 512)."""
        return fcd.compute_activations(self.valid["canonical"].tolist(), device=self.device)

    @cached_property
    def fingerprints(self) -> np.ndarray:
        """Packed fingerprints of the valid rows, (n, 128) uint8."""
        return stack_fingerprints(self.valid["fingerprint"])

    @property
    def fragments(self) -> list[list[str]]:
        """BRICS fragments of each valid row."""
        return [text.split(".") for text in self.valid["fragments"]]

    @property
    def scaffolds(self) -> list[list[str]]:
        """The Murcko scaffold of each valid row, if it has one."""
        return [[scaffold] if scaffold else [] for scaffold in self.valid["scaffold"]]

    @cached_property
    def diversities(self) -> tuple[Estimate, Estimate]:
        """IntDiv and IntDiv2."""
        return moses.compute_internal_diversities(self.fingerprints, self.device)
