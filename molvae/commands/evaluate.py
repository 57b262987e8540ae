"""Command `evaluate`: the metrics of anyone's generator, from a file of SMILES."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molvae.chemistry.selfies_codec import Constraints, build_constraints, encode_smiles
from molvae.data.moses import MOSES
from molvae.data.readers import Row, find_smiles_column, read_column_names, read_rows
from molvae.data.unreadable import explain_unreadable, make_unreadable_error
from molvae.data.vocabulary import Vocabulary
from molvae.errors import Rejected
from molvae.metrics.baselines import sample_random_tokens
from molvae.metrics.definitions import RANDOM_BASELINE, TRAINING_SET_REFERENCE
from molvae.metrics.evaluation import Baseline, evaluate_samples, score_baseline
from molvae.metrics.molecule_table import describe_selfies, describe_smiles, warm_up
from molvae.metrics.reference_cache import get_cache_folder, load_cached_references, load_cached_training_set
from molvae.metrics.reference_sets import ReferenceSet, TrainingSet
from molvae.metrics.sample_set import SampleSet
from molvae.runtime.arguments import check_integer, check_path
from molvae.runtime.files import atomic_write, compute_json_hash, read_json, write_json
from molvae.runtime.plain_text import protect_table
from molvae.runtime.provenance import compute_code_digest, get_versions
from molvae.runtime.workers import Workers

log = logging.getLogger(__name__)
MAX_ALPHABET_MOLECULES = 2000  # training molecules whose symbols and lengths the random strings have
NO_TRAINING = "none"  # what settings call it
MIN_VALID = 0.05  # of the samples; fewer are more likely a misread file than a generator
FLAGGED_COLUMNS = ("row", "smiles", "reason", "structural_flags", "alerts", "sa", "qed", "mw", "logp")


def evaluate(
    file: str | Path,
    reference: str | Path = MOSES,
    *,
    train: str | Path | None = None,
    column: str | None = None,
    with_baselines: bool = True,
    with_skeletons: bool = False,
    flagged: str | Path | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Compute the metrics of samples in a file (of READABLE_SUFFIXES, text also .gz), as metrics.json has them.

    Args:
        file: samples, one a row. A column `selfies` says what strings they were decoded from.
        reference: "moses", or a file with reference molecules.
        train: "moses" or a file with the training molecules; None is "moses" where the reference is, else no training
            molecules and no metric that needs them.
        column: column of the SMILES; None is the first that is called so.
        with_baselines: also score random tokens (the random baseline) and training molecules.
        with_skeletons: also compute Novelty_skeleton, from the InChIKeys of all training molecules: 0.3 ms each.
        flagged: a .csv to write of all samples that are no molecule or have structural flags or alerts, worst first.
        seed: of the baselines.
        cache: folder of reference sets; None is $MOLVAE_CACHE or ~/.cache/molvae.
        threads: of the CPU.
        device: for ChemNet and similarities.

    Raises:
        DataError: a file cannot be read or has no row, or no column of that name; or none of its rows is a molecule.
    """
    file, reference = check_path("file", file), str(check_path("reference", reference))
    train = None if train is None else str(check_path("train", train))
    cache = get_cache_folder() if cache is None else check_path("cache", cache)
    flagged = None if flagged is None else check_path("flagged", flagged)
    check_integer("threads", threads, 1)
    check_integer("seed", seed)
    import torch

    torch.set_num_threads(threads)
    rows, strings = _read_samples(file, column)
    with Workers(threads) as workers:
        workers.start(warm_up)
        references = load_cached_references(reference, cache, workers=workers)
        train = train or (MOSES if reference == MOSES else NO_TRAINING)
        training = None
        if train != NO_TRAINING:
            training = load_cached_training_set(train, cache, with_skeletons=with_skeletons, workers=workers)
        log.info("%s: describing %d samples", file, len(rows))
        table = describe_smiles([row.usable_smiles or "" for row in rows], strings, workers=workers)
        for number, row in enumerate(rows):
            if row.problem:
                table.loc[number, "reason"] = row.problem
        samples = SampleSet(table, workers=workers, device=device)
        if flagged:
            _write_flagged(table.assign(row=range(1, len(rows) + 1), smiles=[row.smiles for row in rows]), flagged)
        _require_molecules(file, rows, table)
        baselines: Iterable[Baseline] = ()
        if training and with_baselines:
            baselines = _load_cached_baselines(
                cache, references, training, n=len(rows), seed=seed, workers=workers, device=device
            )
        evaluation = evaluate_samples(samples, references, training, baselines, seed=seed)
    reasons = Counter(table.loc[~table["is_valid"].astype(bool), "reason"])
    return {
        **evaluation,
        "file": str(file),
        "n_samples": len(rows),
        "counts": {
            "rows_in": len(rows), "kept": len(samples.distinct), "rejected": dict(sorted(reasons.items())),
            "duplicates": len(samples.valid) - len(samples.distinct),
        },
        "seed": seed,
        "versions": get_versions(),
    }  # fmt: skip


def _require_molecules(file: Path, rows: Sequence[Row], table: pd.DataFrame) -> None:
    """Refuse a file without a molecule, and warn of one with hardly any: the wrong column was read, most likely."""
    is_valid = table["is_valid"].to_numpy(bool)
    if n_empty := int((table["reason"] == "empty").sum()):
        log.warning("%s: %d of %d rows are empty, and count as invalid", file, n_empty, len(rows))
    if is_valid.mean() >= MIN_VALID:
        return
    first = int(np.argmin(is_valid))
    text, reason = rows[first].smiles, str(table["reason"].iloc[first])
    if not is_valid.any():
        raise make_unreadable_error(file, len(rows), text, reason)
    explanation = explain_unreadable(file, text, reason)
    log.warning("%s: only %d of %d rows are molecules. %s", file, is_valid.sum(), len(rows), explanation)


def _read_samples(file: Path, column: str | None) -> tuple[list[Row], list[str | None] | None]:
    """All rows, and the SELFIES strings where the file has them; None where a row has none."""
    rows = list(read_rows(file, find_smiles_column(file, column)))
    if "selfies" not in read_column_names(file, column):
        return rows, None
    return rows, [row.usable_smiles or None for row in read_rows(file, "selfies")]


def make_random_strings(smiles: Sequence[str], n: int, seed: int) -> tuple[list[list[str]], Constraints]:
    """Draw `n` strings of random symbols with the alphabet and the lengths of some molecules.

    Returns:
        their symbols, and the constraints to decode them with; no string where SELFIES can write none of the molecules.
    """
    strings = []
    for text in smiles[:MAX_ALPHABET_MOLECULES]:
        try:
            strings.append(encode_smiles(text))
        except Rejected:
            continue
    symbols = {symbol for string in strings for symbol in string}
    if not symbols:
        return [], {}
    vocabulary = Vocabulary.build(symbols, build_constraints(symbols))
    return sample_random_tokens(vocabulary, np.array([*map(len, strings)]), n, seed), vocabulary.constraints


def _load_cached_baselines(
    cache: Path,
    references: Mapping[str, ReferenceSet],
    training: TrainingSet,
    *,
    n: int,
    seed: int,
    workers: Workers,
    device: str,
) -> list[Baseline]:
    """Load the baselines of `n` samples from the cache, or compute them and write them into it.

    Args:
        cache: folder.
        references: what samples are compared with.
        training: the training molecules.
        n: samples.
        seed: of the random tokens.
        workers: processes.
        device: for ChemNet and similarities.
    """
    parts = {
        "references": {name: reference.description for name, reference in references.items()},
        "training": training.description, "with_skeletons": training.skeletons is not None, "n": n, "seed": seed,
        "device": device, "code": compute_code_digest("commands.evaluate"), "versions": get_versions(),
    }  # fmt: skip
    path = cache / f"baselines-{compute_json_hash(parts)[:16]}.json"
    if not path.exists():
        score = partial(score_baseline, references=references, training=training)
        baselines = [score(name, molecules) for name, molecules in _iter_baselines(training, n, seed, workers, device)]
        write_json(path, [baseline._asdict() for baseline in baselines])
    return [Baseline(**content) for content in read_json(path)]


def _iter_baselines(
    training: TrainingSet, n: int, seed: int, workers: Workers, device: str
) -> Iterator[tuple[str, SampleSet]]:
    random, constraints = make_random_strings(training.smiles, min(n, len(training.smiles)), seed)
    if random:
        log.info("scoring random tokens")
        table = describe_selfies(random, constraints, workers=workers)
        yield RANDOM_BASELINE, SampleSet(table, workers=workers, device=device)
    log.info("scoring training molecules")
    table = describe_smiles(training.smiles[-min(n, len(training.smiles)) :], workers=workers)
    yield TRAINING_SET_REFERENCE, SampleSet(table, workers=workers, device=device)


def _write_flagged(table: pd.DataFrame, path: Path) -> None:
    """All rows that are flagged, invalid ones first, then by the number of flags and alerts and the SA score."""
    texts = table[["structural_flags", "alerts"]].fillna("")
    count = sum(texts[name].str.split("; ").map(lambda parts: sum(map(bool, parts))) for name in texts)
    worst = table.assign(n_flags=count)[~table["is_valid"].astype(bool) | (count > 0)]
    worst = worst.sort_values(["is_valid", "n_flags", "sa"], ascending=[True, False, False], kind="stable")
    with atomic_write(path) as temporary:
        protect_table(worst[list(FLAGGED_COLUMNS)]).to_csv(temporary, index=False, quoting=csv.QUOTE_MINIMAL)
