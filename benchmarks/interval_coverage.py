"""How often a 95 % interval holds what it should: the mean of the metric over many sets of as many molecules.

Two generators whose molecules are known: random MOSES training molecules, for which most metrics are at their best and
hardest to give an error for, and strings of random SELFIES tokens; or that of `--samples`, a file of SMILES, in their
place. Sets of 1000 are drawn from 20 000 of each, and all metrics are computed of each set; the reference is 20 000
molecules of the MOSES test set. With --quick training molecules and reference are a few of the shipped ones.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from example import read_example
from record import make_parser, write_result

from molvae.commands.evaluate import make_random_strings
from molvae.metrics.chemnet import compute_activations
from molvae.metrics.definitions import RANDOM_BASELINE, TRAINING_SET_REFERENCE
from molvae.metrics.evaluation import build_metrics
from molvae.metrics.molecule_table import describe_selfies, describe_smiles
from molvae.metrics.reference_cache import get_cache_folder, load_cached_references, load_cached_training_set
from molvae.metrics.reference_sets import (
    PROPERTY_COLUMNS,
    ReferenceSet,
    TrainingSet,
    build_reference_set,
    build_training_set,
)
from molvae.metrics.sample_set import SampleSet
from molvae.metrics.suite import compute_metrics
from molvae.runtime.workers import Workers

N_REFERENCE = 20_000  # molecules of the reference, and candidates for the nearest training molecule


def load_sets(quick: bool, workers: Workers) -> tuple[ReferenceSet, TrainingSet]:
    """Load the reference and the training molecules: those of MOSES, or a few of the shipped ones."""
    if quick:
        reference = build_reference_set(read_example(300, "test"), "shipped test molecules", workers)
        return reference, build_training_set(read_example(600), "shipped training molecules", workers=workers)
    training = load_cached_training_set("moses", get_cache_folder(), workers=workers)
    training = dataclasses.replace(training, fingerprints=training.fingerprints[:N_REFERENCE])
    references = load_cached_references("moses", get_cache_folder(), workers=workers)
    return take_first(references["Test"], N_REFERENCE), training


def take_first(reference: ReferenceSet, n: int) -> ReferenceSet:
    """Make a reference of the first `n` molecules of one, so that a hundred sets take minutes."""
    properties = {name: reference.properties[name][:n] for name in PROPERTY_COLUMNS}
    return dataclasses.replace(reference, n=n, fingerprints=reference.fingerprints[:n], properties=properties)


def describe_generators(training: TrainingSet, size: int, workers: Workers) -> dict[str, pd.DataFrame]:
    """Describe `size` molecules of both generators."""
    random, constraints = make_random_strings(training.smiles, size, seed=0)
    return {
        TRAINING_SET_REFERENCE: describe_smiles(training.smiles[-size:], workers=workers),
        RANDOM_BASELINE: describe_selfies(random, constraints, workers=workers),
    }


def compute_coverage(
    rows: pd.DataFrame, reference: ReferenceSet, training: TrainingSet, n: int, n_sets: int
) -> dict[str, dict[str, float]]:
    """Compute of each metric with an interval how often it covers, and its mean standard error over the true spread."""
    rows = rows[rows["is_valid"]].reset_index(drop=True)
    activations = compute_activations(rows["canonical"].tolist())
    random = np.random.default_rng(0)
    estimates = defaultdict(list)
    for number in range(n_sets):
        chosen = random.choice(len(rows), n, replace=False)
        samples = SampleSet(rows.iloc[chosen].reset_index(drop=True))
        samples.activations = activations[chosen]
        for name, estimate in compute_metrics(build_metrics(samples, {"Test": reference}, training))[0].items():
            if estimate.low is not None:
                estimates[name].append(estimate)
        print(f"{number + 1} of {n_sets} sets", end="\r", flush=True)
    coverage = {}
    for name, of_sets in estimates.items():
        values = np.array([estimate.value for estimate in of_sets])
        if values.std() == 0:
            continue  # the same in all sets
        covers = [estimate.low <= values.mean() <= estimate.high for estimate in of_sets]
        error = np.mean([estimate.error for estimate in of_sets])
        coverage[name] = {"coverage": float(np.mean(covers)), "error_over_spread": float(error / values.std(ddof=1))}
    return coverage


def measure(quick: bool, size: int, n: int, n_sets: int, threads: int, file: Path | None) -> dict[str, Any]:
    """Measure the coverage of all metrics for both generators, or for that of a file."""
    torch.set_num_threads(threads)
    with Workers(threads) as workers:
        reference, training = load_sets(quick, workers)
        if file:
            tables = {file.name: describe_smiles(file.read_text().split(), workers=workers)}
        else:
            tables = describe_generators(training, size, workers)
    generators = {name: compute_coverage(rows, reference, training, n, n_sets) for name, rows in tables.items()}
    sizes = {name: len(rows) for name, rows in tables.items()}
    return {"population": sizes, "n": n, "sets": n_sets, "generators": generators}


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=Path, help="file .smi of another generator")
    arguments = parser.parse_args()
    sizes = (400, 300, 2) if arguments.quick else (20_000, 1000, 100)
    result = measure(arguments.quick, *sizes, arguments.threads, arguments.samples)
    write_result(arguments.json, result)
    for generator, metrics in result["generators"].items():
        for name, coverage in metrics.items():
            print(f"{generator:22} {name:34} {coverage['coverage']:.2f}  {coverage['error_over_spread']:.2f}")


if __name__ == "__main__":
    main()
