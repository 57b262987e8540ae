"""Every figure about a set of samples under its published name, with n, interval and what it is held against.

A figure whose n is too small to mean anything is not computed; it says how many samples it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property, lru_cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from molvae.chemistry.descriptors import guacamol_values, skeletons_of, without_stereo
from molvae.chemistry.structural_flags import LARGE_RING
from molvae.metrics import fcd, guacamol, moses
from molvae.metrics.intervals import Estimate, of_mean, of_share, of_uniqueness
from molvae.metrics.reference_sets import PROPERTIES, Reference, Training, known, stacked
from molvae.runtime.workers import Workers, in_order

TASK_ROWS = 500
MOSES, GUACAMOL = "MOSES (Polykovskiy et al. 2020)", "GuacaMol (Brown et al. 2019)"


class Kind(NamedTuple):
    """What figures of a name (up to its first slash) have in common.

    Attributes:
        least: n below which they mean nothing.
    """

    better: Literal["higher", "lower", "none"]
    description: str
    source: str = MOSES
    implementation: str = "molvae"
    least: int = 1


RDKIT = "RDKit"
KINDS = {
    "valid": Kind("higher", "share of samples that RDKit accepts and that hold an atom; SELFIES make it 1",
                  implementation=RDKIT),
    "unique@1000": Kind("higher", "share of distinct molecules among the first 1000 valid samples", least=1000),
    "unique@10000": Kind("higher", "share of distinct molecules among the first 10 000 valid samples, or all of fewer",
                         least=1000),
    "FCD": Kind("lower", "Fréchet ChemNet distance of the valid samples, duplicates kept; falls with n, compare at "
                "equal n only", implementation=fcd.IMPLEMENTATION, least=1000),
    "FCD_novel": Kind("lower", "the same of those that are no training molecule: without what memory earns",
                      "molvae", fcd.IMPLEMENTATION, 1000),
    "SNN": Kind("higher", "mean Tanimoto similarity to the nearest molecule of the reference", least=100),
    "SNN/Train": Kind("none", "mean Tanimoto similarity to the nearest training molecule; above that of held-out "
                      "molecules: learned by heart", "molvae", least=100),
    "Frag": Kind("higher", "cosine similarity of the counts of BRICS fragments", least=100),
    "Scaf": Kind("higher", "cosine similarity of the counts of Murcko scaffolds with two rings or more; rises with n",
                 least=1000),
    "IntDiv": Kind("none", "one less the mean Tanimoto similarity of all pairs", least=100),
    "IntDiv2": Kind("none", "one less the mean over samples of the root of the mean squared similarity", least=100),
    "Filters": Kind("higher", "share of valid samples that pass the filters of MOSES: MCF, PAINS, no ring of eight "
                    "atoms or more, no charge, usual elements", implementation=RDKIT),
    "logP": Kind("lower", "Wasserstein-1 distance of Crippen logP", least=100),
    "SA": Kind("lower", "Wasserstein-1 distance of the synthetic accessibility score", least=100),
    "QED": Kind("lower", "Wasserstein-1 distance of the estimate of drug-likeness", least=100),
    "weight": Kind("lower", "Wasserstein-1 distance of the molecular weight, g/mol", least=100),
    "Novelty": Kind("higher", "share of distinct valid samples whose canonical SMILES is no training molecule's SMILES "
                    "as it was given"),
    "Novelty_canonical": Kind("higher", "the same with the training molecules made canonical, too", "molvae"),
    "Novelty_no_stereo": Kind("higher", "the same without stereo marks on either side", "molvae"),
    "Novelty_skeleton": Kind("higher", "the same by the first block of the InChIKey, which tautomers and stereoisomers "
                             "share", "molvae"),
    "kept_tokens": Kind("higher", "mean share of a sample's tokens that survive decoding and encoding again: what "
                        "'valid' cannot say for SELFIES", "molvae"),
    "stable": Kind("higher", "share of the strings written, those that were written again too, that come back "
                   "unchanged from decoding and encoding", "molvae"),
    "radicals": Kind("lower", "share of valid samples with unpaired electrons", "molvae", RDKIT),
    "large_rings": Kind("lower", "share of valid samples with a ring of more than 8 atoms", "molvae", RDKIT),
    "charged": Kind("none", "share of valid samples with a net charge", "molvae", RDKIT),
    "oddities": Kind("lower", "share of valid samples with a strained or large ring, a radical or an odd valence",
                     "molvae", RDKIT),
    "MCF": Kind("higher", "share of valid samples that no medicinal-chemistry filter matches", "molvae", RDKIT),
    "PAINS": Kind("higher", "share of valid samples that no PAINS filter of MOSES matches", "molvae", RDKIT),
    "validity": Kind("higher", "share of valid ones among the first 10 000 samples", GUACAMOL, RDKIT),
    "uniqueness": Kind("higher", "share of distinct molecules, stereo aside, among the first 10 000 valid samples",
                       GUACAMOL),
    "novelty": Kind("higher", "share of the first 10 000 distinct valid samples, stereo aside, that are no training "
                    "molecule; both sides canonical", GUACAMOL),
    "KL_score": Kind("higher", "mean of exp(-KL divergence) over ten distributions", GUACAMOL, least=1000),
    "KL": Kind("lower", "KL divergence of the training molecules' distribution from that of the samples, nats",
               GUACAMOL, least=1000),
    "FCD_score": Kind("higher", "exp(-FCD / 5) of the first 10 000 valid samples and 10 000 training molecules",
                      GUACAMOL, fcd.IMPLEMENTATION, 1000),
}  # fmt: skip


class Figure(NamedTuple):
    """One figure to compute: a name, the number of samples behind it, and what it is held against (None: nothing)."""

    name: str
    n: int
    compute: Callable[[], Estimate]
    reference: str | None = None

    @property
    def kind_name(self) -> str:
        """Its name without suite and reference."""
        return self.name.removeprefix("GuacaMol/").split("/")[0]

    @property
    def kind(self) -> Kind:
        """What is true of all figures of its name."""
        return KINDS.get(self.name) or KINDS[self.kind_name]


class SampleSet:
    """Samples in their order, and what figures ask of them, computed when first asked for."""

    def __init__(
        self, rows: pd.DataFrame, *, stable_share: float | None = None, workers: int | Workers = 1, device: str = "cpu"
    ) -> None:
        """`rows` as in `molvae.metrics.molecule_table`; `stable_share` is that of all strings written for them."""
        self.rows, self.stable_share, self.workers, self.device = rows, stable_share, workers, device

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
        return [without_stereo(one) for one in self.distinct]

    @cached_property
    def activations(self) -> np.ndarray:
        """ChemNet activations of the valid rows, (n, 512)."""
        return fcd.activations(self.valid["canonical"].tolist(), device=self.device)

    @cached_property
    def fingerprints(self) -> np.ndarray:
        """Packed fingerprints of the valid rows, (n, 128) uint8."""
        return stacked(self.valid["fingerprint"])

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
        return moses.diversities(self.fingerprints, self.device)


def moses_figures(samples: SampleSet, references: Mapping[str, Reference], training: Training | None) -> list[Figure]:
    """Those of MOSES. The property distances are taken to the first reference, as its code does."""
    valid, n = samples.valid, len(samples.valid)
    found = [Figure("valid", len(samples.rows), lambda: of_share(n, len(samples.rows)))]
    for first in (1000, 10_000):
        draws = valid["canonical"].head(first).tolist()
        found.append(Figure(f"unique@{first}", len(draws), lambda draws=draws: of_uniqueness(draws)))
    for name, reference in references.items():
        found += [
            Figure(f"FCD/{name}", n, partial(_fcd, samples, reference), reference.about),
            Figure(f"SNN/{name}", n, partial(_snn, samples, reference), reference.about),
            Figure(f"Frag/{name}", n, partial(_frag, samples, reference), reference.about),
            Figure(f"Scaf/{name}", n, partial(_scaf, samples, reference), reference.about),
        ]
    found += [
        Figure("IntDiv", n, lambda: samples.diversities[0]),
        Figure("IntDiv2", n, lambda: samples.diversities[1]),
        _share("Filters", valid, lambda rows: rows["passes_filters"]),
    ]
    for reference in list(references.values())[:1]:
        found += [
            Figure(name, n, partial(_wasserstein, valid[column], reference.properties[name]), reference.about)
            for name, column in PROPERTIES.items()
        ]
    if training is not None:
        found.append(_novelty("Novelty", samples.distinct, training.given, training))
    return found


def guacamol_figures(samples: SampleSet, training: Training) -> list[Figure]:
    """Those of GuacaMol, each named GuacaMol/…"""
    first = samples.rows["is_valid"].head(guacamol.N)
    flat = samples.distinct_without_stereo
    place = dict(zip(samples.distinct, flat, strict=True))
    draws = [place[one] for one in samples.valid["canonical"].head(guacamol.N)]
    distinct = list(dict.fromkeys(flat[: guacamol.N]))
    n = min(len(samples.valid), guacamol.N)
    return [
        Figure("GuacaMol/validity", len(first), lambda: of_share(int(first.sum()), len(first))),
        Figure("GuacaMol/uniqueness", len(draws), lambda: of_uniqueness(draws)),
        _novelty("GuacaMol/novelty", distinct, training.without_stereo, training),
        *_divergences(distinct, training, samples),
        Figure("GuacaMol/FCD_score", n, lambda: _fcd_score(samples.activations[:n], training, samples.device),
               training.about),
    ]  # fmt: skip


def further_figures(samples: SampleSet, references: Mapping[str, Reference], training: Training | None) -> list[Figure]:
    """What neither suite has: memory, stability of the tokens, chemistry that nobody would make."""
    valid, found = samples.valid, []
    if training is not None:
        is_novel = ~known(valid["canonical"].tolist(), training.canonical)
        found += [
            _novelty("Novelty_canonical", samples.distinct, training.canonical, training),
            _novelty("Novelty_no_stereo", samples.distinct_without_stereo, training.without_stereo, training),
            Figure("Novelty_skeleton", len(samples.distinct),
                   partial(_novel_skeletons, samples, training),
                   training.about),
            Figure("SNN/Train", len(valid), partial(_snn, samples, training),
                   f"{len(training.fingerprints)} of {training.about}"),
        ]  # fmt: skip
        found += [
            Figure(f"FCD_novel/{name}", int(is_novel.sum()), partial(_fcd, samples, one, is_novel), one.about)
            for name, one in references.items()
        ]
    kept = samples.rows["kept_token_fraction"].dropna().to_numpy(float)  # of those whose string is known
    if len(kept):
        found.append(Figure("kept_tokens", len(kept), lambda: of_mean(kept, 0, 1)))
    if samples.stable_share is not None:
        found.append(Figure("stable", len(samples.rows), lambda: Estimate(samples.stable_share)))
    return [
        *found,
        _share("radicals", valid, lambda rows: rows["radical_electrons"] > 0),
        _share("large_rings", valid, lambda rows: rows["largest_ring"] > LARGE_RING),
        _share("charged", valid, lambda rows: rows["charge"] != 0),
        _share("oddities", valid, lambda rows: rows["oddities"] != ""),
        _share("MCF", valid, lambda rows: ~rows["alerts"].astype(str).str.startswith("MCF")),
        _share("PAINS", valid, lambda rows: ~rows["alerts"].astype(str).str.contains("PAINS")),
    ]


def compute(figures: list[Figure]) -> tuple[dict[str, Estimate], dict[str, str]]:
    """The estimates by name, and for what could not be computed the reason."""
    found, refused = {}, {}
    for figure in figures:
        if figure.n < figure.kind.least:
            refused[figure.name] = f"needs {figure.kind.least} molecules, there are {figure.n}"
        else:
            found[figure.name] = figure.compute()
    return found, refused


def entry(figure: Figure, estimate: Estimate, baselines: Mapping[str, float | None]) -> dict[str, Any]:
    """One figure as it stands in metrics.json: a value with all that is needed to read it."""
    kind = figure.kind
    interval = None if estimate.low is None else [_json(estimate.low), _json(estimate.high)]
    return {
        "name": figure.name,
        "value": _json(estimate.value),
        "interval": interval,
        "standard_error": _json(estimate.error),
        "n": figure.n,
        "better": kind.better,
        "reference": figure.reference,
        "implementation": kind.implementation,
        "source": kind.source,
        "description": kind.description,
        "baselines": {name: _json(value) for name, value in baselines.items()},
    }


def _json(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _fcd(samples: SampleSet, reference: Reference, some: np.ndarray | slice = slice(None)) -> Estimate:
    return fcd.estimate(samples.activations[some], reference.chemnet)


def _snn(samples: SampleSet, reference: Reference | Training) -> Estimate:
    return moses.snn(samples.fingerprints, reference.fingerprints, samples.device)


def _frag(samples: SampleSet, reference: Reference) -> Estimate:
    return moses.cosine(samples.fragments, reference.fragments)


def _scaf(samples: SampleSet, reference: Reference) -> Estimate:
    return moses.cosine(samples.scaffolds, reference.scaffolds)


def _wasserstein(values: pd.Series, reference: np.ndarray) -> Estimate:
    return moses.wasserstein(values.to_numpy(float), reference)


def _share(name: str, rows: pd.DataFrame, mask: Callable[[pd.DataFrame], pd.Series]) -> Figure:
    return Figure(name, len(rows), lambda: of_share(int(mask(rows).sum()), len(rows)))


def _novelty(name: str, distinct: list[str], training: np.ndarray, of: Training) -> Figure:
    return Figure(name, len(distinct), lambda: _novel_share(distinct, training), of.about)


def _novel_skeletons(samples: SampleSet, training: Training) -> Estimate:
    is_known = known(samples.distinct, training.canonical)  # and so is then the skeleton
    others = [one for one, knows in zip(samples.distinct, is_known, strict=True) if not knows]
    tasks = [others[start : start + TASK_ROWS] for start in range(0, len(others), TASK_ROWS)]
    found = [one for part in in_order(skeletons_of, tasks, samples.workers) for one in part]
    return of_share(int((~known(found, training.skeletons)).sum()), len(samples.distinct))


def _novel_share(distinct: list[str], training: np.ndarray) -> Estimate:
    return of_share(int((~known(distinct, training)).sum()), len(distinct))


def _divergences(distinct: list[str], training: Training, samples: SampleSet) -> list[Figure]:
    names = (*guacamol.CONTINUOUS, *guacamol.DISCRETE, "internal_similarity")

    @cache
    def all_of_them() -> tuple[Estimate, dict[str, Estimate]]:
        other = _training_values(training, min(guacamol.N, len(distinct)), samples.workers, samples.device)
        return guacamol.divergences(_values(distinct, samples.workers, samples.device), other)

    parts = [
        Figure(f"GuacaMol/KL/{name}", len(distinct), lambda name=name: all_of_them()[1][name], training.about)
        for name in names
    ]
    return [Figure("GuacaMol/KL_score", len(distinct), lambda: all_of_them()[0], training.about), *parts]


@lru_cache(maxsize=4)
def _training_values(training: Training, n: int, workers: int | Workers, device: str) -> dict[str, np.ndarray]:
    return _values(list(dict.fromkeys(map(without_stereo, training.draw[:n]))), workers, device)


def _values(smiles: list[str], workers: int | Workers, device: str) -> dict[str, np.ndarray]:
    tasks = [smiles[start : start + TASK_ROWS] for start in range(0, len(smiles), TASK_ROWS)]
    parts = list(in_order(guacamol_values, tasks, workers))
    values = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    fingerprints = np.concatenate([part[1] for part in parts])
    return {**values, "internal_similarity": guacamol.internal_similarity(fingerprints, device)}


def _fcd_score(activations: np.ndarray, training: Training, device: str) -> Estimate:
    distance = fcd.estimate(activations, _training_statistics(training, len(activations), device))
    score = float(np.exp(-distance.value / 5))
    bounds = [float(np.exp(-bound / 5)) for bound in (distance.high, distance.low)]
    return Estimate(score, score / 5 * distance.error, *bounds)


@lru_cache(maxsize=4)
def _training_statistics(training: Training, n: int, device: str) -> fcd.Statistics:
    return fcd.statistics(training.draw[:n], device=device)
