"""All figures of a set of samples beside what they stand between, as metrics.json has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from molvae.metrics import moses
from molvae.metrics.comparison import GROWS_WITH_N
from molvae.metrics.intervals import values_only
from molvae.metrics.reference_sets import Reference, Training
from molvae.metrics.suite import (
    Figure,
    SampleSet,
    compute,
    entry,
    further_figures,
    guacamol_figures,
    moses_figures,
)
from molvae.runtime.seeds import derive

LEAST_SHARE = 0.8  # of as many molecules: FCD's excess goes by 1/n


class Baseline(NamedTuple):
    """A set of other molecules that figures stand beside; `only` names the kinds of figures it is asked for."""

    name: str
    samples: SampleSet
    only: tuple[str, ...] = ()


def evaluate(
    samples: SampleSet,
    references: Mapping[str, Reference],
    training: Training | None,
    baselines: Iterable[Baseline] = (),
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure that has enough molecules, with its interval and its baselines; and why others have none.

    A baseline of many fewer molecules than there are samples has no figure that moves with their number: a ceiling at a
    tenth of them would make any model look as good.

    Returns:
        "metrics": the entries; "not_computed": name -> reason.
    """
    figures = figures_of(samples, references, training)
    estimates, refused = compute(figures)
    values: dict[str, dict[str, float | None]] = {name: {} for name in estimates}
    for name, others, only in baselines:
        wanted = [
            figure
            for figure in figures_of(others, references, training)
            if figure.name in estimates and (not only or figure.kind_name in only)
        ]
        if 0 < len(others.valid) < LEAST_SHARE * len(samples.valid):
            wanted = [figure for figure in wanted if figure.kind_name not in GROWS_WITH_N]
            refused[f"{', '.join(GROWS_WITH_N)} of {name}"] = (
                f"move with n: {len(others.valid)} molecules for {len(samples.valid)} samples"
            )
        with values_only():
            for figure_name, estimate in compute(wanted)[0].items():
                values[figure_name][name] = estimate.value
    if "SNN/Train" in values and references:
        values["SNN/Train"]["held_out"] = _held_out(next(iter(references.values())), training, samples, seed)
    entries = [
        entry(figure, estimates[figure.name], values[figure.name]) for figure in figures if figure.name in estimates
    ]
    return {"metrics": entries, "not_computed": refused}


def figures_of(samples: SampleSet, references: Mapping[str, Reference], training: Training | None) -> list[Figure]:
    """Those of MOSES, those of GuacaMol, and ours."""
    return [
        *moses_figures(samples, references, training),
        *further_figures(samples, references, training),
        *(guacamol_figures(samples, training) if training is not None else []),
    ]


def _held_out(reference: Reference, training: Training, samples: SampleSet, seed: int) -> float:
    """How near held-out molecules are to the training set: samples that are nearer were learned by heart."""
    random = np.random.default_rng(derive(seed, "held-out molecules"))
    rows = random.choice(reference.n, min(reference.n, len(samples.valid)), replace=False)
    return moses.snn(reference.fingerprints[np.sort(rows)], training.fingerprints, samples.device).value
