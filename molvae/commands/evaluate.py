"""Stage `evaluate`: the figures of anyone's generator, from a file of SMILES."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molvae.chemistry.selfies_codec import Caps, caps_for, encode
from molvae.chemistry.standardise import Rejected
from molvae.data.readers import Row, columns_of, read_rows, smiles_column
from molvae.data.vocabulary import Vocabulary
from molvae.metrics import baselines
from molvae.metrics.evaluation import Baseline
from molvae.metrics.evaluation import evaluate as evaluation
from molvae.metrics.molecule_table import describe_all, describe_strings, prepare
from molvae.metrics.reference_sets import Training
from molvae.metrics.suite import SampleSet
from molvae.runtime.files import replacing
from molvae.runtime.provenance import versions
from molvae.runtime.workers import Workers
from molvae.stages.reference import cache_folder, cached_references, cached_training

log = logging.getLogger(__name__)
ALPHABET = 2000  # training molecules whose symbols and lengths the random strings have
LEDGER = ("row", "smiles", "reason", "oddities", "alerts", "sa", "qed", "mw", "logp")


def evaluate(
    file: Path,
    reference: str = "moses",
    *,
    train: str | None = None,
    column: str | None = None,
    with_baselines: bool = True,
    ledger: Path | None = None,
    seed: int = 0,
    cache: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """The figures of the samples in a file (.smi, .csv, .tsv, .parquet, text also .gz), as metrics.json has them.

    Args:
        reference: "moses", or a file with reference molecules.
        train: "moses" or a file with the training molecules; None is "moses" where the reference is, else no training
            molecules and no figure that needs them.
        column: with the SMILES; None is the first that is called so. A column `selfies` beside it says of the tokens.
        with_baselines: also score random tokens (the null) and training molecules (the ceiling).
        ledger: a .csv to write of all samples that are no molecule or that a chemist would object to, worst first.
        cache: where statistics of references are kept; None is $MOLVAE_CACHE or ~/.cache/molvae.
    Raises:
        DataError: a file cannot be read or has no row, or no column of that name.
    """
    import torch

    torch.set_num_threads(threads)
    cache = cache or cache_folder()
    samples_read, strings = _read(file, column)
    smiles = [row.readable or "" for row in samples_read]
    with Workers(threads) as workers:
        workers.start(prepare)
        references = cached_references(reference, cache, workers=workers)
        train = train or ("moses" if reference == "moses" else "none")
        training = None if train == "none" else cached_training(train, cache, workers=workers)
        log.info("%s: looking at %d samples", file, len(smiles))
        rows = describe_all(smiles, strings, workers=workers)
        for number, row in enumerate(samples_read):
            if row.problem:
                rows.loc[number, "reason"] = row.problem
        samples = SampleSet(rows, workers=workers, device=device)
        if ledger:
            _write_ledger(rows.assign(row=range(1, len(rows) + 1), smiles=[row.smiles for row in samples_read]), ledger)
        beside = _baselines(training, len(rows), seed, workers, device) if training and with_baselines else ()
        found = evaluation(samples, references, training, beside, seed=seed)
    reasons = Counter(rows.loc[~rows["is_valid"].astype(bool), "reason"])
    return {
        **found,
        "file": str(file),
        "n_samples": len(rows),
        "books": {
            "rows_in": len(rows), "kept": len(samples.distinct), "rejected": dict(sorted(reasons.items())),
            "duplicates": len(samples.valid) - len(samples.distinct),
        },
        "seed": seed,
        "versions": versions(),
    }  # fmt: skip


def _read(file: Path, column: str | None) -> tuple[list[Row], list[str | None] | None]:
    """All rows, and the SELFIES strings where the file has them; None where a row has none."""
    rows = list(read_rows(file, smiles_column(file, column)))
    if "selfies" not in columns_of(file):
        return rows, None
    return rows, [row.smiles or None for row in read_rows(file, "selfies")]


def random_strings(smiles: Sequence[str], n: int, seed: int) -> tuple[list[list[str]], Caps]:
    """`n` strings of random symbols with the alphabet and the lengths of some molecules, and the caps to decode them.

    No string where SELFIES can write none of these molecules.
    """
    strings = []
    for one in smiles[:ALPHABET]:
        try:
            strings.append(encode(one))
        except Rejected:
            continue
    symbols = {symbol for string in strings for symbol in string}
    if not symbols:
        return [], {}
    vocabulary = Vocabulary.build(symbols, caps_for(symbols))
    return baselines.random_tokens(vocabulary, np.array([*map(len, strings)]), n, seed), vocabulary.caps


def _baselines(training: Training, n: int, seed: int, workers: Workers, device: str) -> Iterator[Baseline]:
    random, caps = random_strings(training.draw, min(n, len(training.draw)), seed)
    if random:
        log.info("scoring random tokens")
        rows = describe_strings(random, caps, workers=workers)
        yield Baseline("random_tokens", SampleSet(rows, workers=workers, device=device))
    log.info("scoring training molecules")
    rows = describe_all(training.draw[-min(n, len(training.draw)) :], workers=workers)
    yield Baseline("training_molecules", SampleSet(rows, workers=workers, device=device))


def _write_ledger(rows: pd.DataFrame, path: Path) -> None:
    """All rows with something to object to, invalid ones first, then by the number of objections and the SA score."""
    texts = rows[["oddities", "alerts"]].fillna("")
    count = sum(texts[name].str.split("; ").map(lambda parts: sum(map(bool, parts))) for name in texts)
    worst = rows.assign(objections=count)[~rows["is_valid"].astype(bool) | (count > 0)]
    worst = worst.sort_values(["is_valid", "objections", "sa"], ascending=[True, False, False], kind="stable")
    with replacing(path) as temporary:
        worst[list(LEDGER)].to_csv(temporary, index=False, quoting=csv.QUOTE_MINIMAL)
