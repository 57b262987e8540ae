"""How often a 95 % interval holds what it should: the mean of the figure over many sets of as many molecules.

Two generators whose molecules are known: random MOSES training molecules, for which most figures are at their best and
hardest to give an error for, and strings of random SELFIES tokens; or that of `--samples`, a file of SMILES, in their
place. Sets of 1000 are drawn from 20 000 of each, and all figures are computed of each set; the reference is 20 000
molecules of the MOSES test set.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import options, write

from molvae.commands.evaluate import random_strings
from molvae.metrics import fcd
from molvae.metrics.evaluation import figures_of
from molvae.metrics.molecule_table import describe_all, describe_strings
from molvae.metrics.reference_sets import PROPERTIES, Reference, Training
from molvae.metrics.suite import SampleSet, compute
from molvae.stages.reference import cache_folder, cached_references, cached_training


def part_of(reference: Reference, n: int) -> Reference:
    """A reference with fewer molecules, so that a hundred sets take minutes."""
    properties = {name: reference.properties[name][:n] for name in PROPERTIES}
    return dataclasses.replace(reference, n=n, fingerprints=reference.fingerprints[:n], properties=properties)


def populations(training: Training, size: int, threads: int) -> dict[str, pd.DataFrame]:
    """The molecules of both generators, described."""
    random, caps = random_strings(training.draw, size, seed=0)
    return {
        "training_molecules": describe_all(training.draw[-size:], workers=threads),
        "random_tokens": describe_strings(random, caps, workers=threads),
    }


def coverage(
    rows: pd.DataFrame, reference: Reference, training: Training, n: int, sets: int
) -> dict[str, dict[str, float]]:
    """Of each figure with an interval: how often it covers, and the mean standard error over the true spread."""
    rows = rows[rows["is_valid"]].reset_index(drop=True)
    activations = fcd.activations(rows["canonical"].tolist())
    random = np.random.default_rng(0)
    found = defaultdict(list)
    for number in range(sets):
        chosen = random.choice(len(rows), n, replace=False)
        samples = SampleSet(rows.iloc[chosen].reset_index(drop=True))
        samples.activations = activations[chosen]
        for name, estimate in compute(figures_of(samples, {"Test": reference}, training))[0].items():
            if estimate.low is not None:
                found[name].append(estimate)
        print(f"{number + 1} of {sets} sets", end="\r", flush=True)
    result = {}
    for name, estimates in found.items():
        values = np.array([estimate.value for estimate in estimates])
        if values.std() == 0:
            continue  # the same in all sets
        covers = [estimate.low <= values.mean() <= estimate.high for estimate in estimates]
        errors = np.mean([estimate.error for estimate in estimates])
        result[name] = {"coverage": float(np.mean(covers)), "error_over_spread": float(errors / values.std(ddof=1))}
    return result


def measure(size: int, n: int, sets: int, threads: int, file: Path | None) -> dict[str, Any]:
    """The coverage of all figures for both generators, or for that of a file."""
    torch.set_num_threads(threads)
    training = cached_training("moses", cache_folder(), workers=threads)
    training = dataclasses.replace(training, fingerprints=training.fingerprints[:20_000])
    reference = part_of(cached_references("moses", cache_folder(), workers=threads)["Test"], 20_000)
    if file:
        of_each = {file.name: describe_all(file.read_text().split(), workers=threads)}
    else:
        of_each = populations(training, size, threads)
    found = {name: coverage(rows, reference, training, n, sets) for name, rows in of_each.items()}
    sizes = {name: len(rows) for name, rows in of_each.items()}
    return {"population": sizes, "n": n, "sets": sets, "generators": found}


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=Path, help="file .smi of another generator")
    arguments = parser.parse_args()
    sizes = (2000, 1000, 5) if arguments.quick else (20_000, 1000, 100)
    result = measure(*sizes, arguments.threads, arguments.samples)
    write(arguments.json, result)
    for generator, figures in result["generators"].items():
        for name, found in figures.items():
            print(f"{generator:20} {name:34} {found['coverage']:.2f}  {found['error_over_spread']:.2f}")


if __name__ == "__main__":
    main()
