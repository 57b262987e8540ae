"""Stage `validate`: what RDKit says of each sample, and what the samples are worth as a set.

Every sample keeps its row. A figure stands beside its null (random tokens, an untrained model) and its ceiling
(training molecules), computed in the same way on as many molecules.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from molvae.books import close_books
from molvae.checkpoints import load_model
from molvae.config import ModelSettings, parse
from molvae.errors import DataError, did_you_mean
from molvae.files import read_json, write_json
from molvae.lineage import versions
from molvae.metrics import baselines, fcd
from molvae.metrics.sampleset import FIGURES, SampleSet, canonical_forms
from molvae.model import stable
from molvae.parallel import Workers, in_order
from molvae.seeds import derive
from molvae.share import Share
from molvae.tokenstore import read_tokens
from molvae.vocabulary import Vocabulary

if TYPE_CHECKING:
    from molvae.config import SampleSettings, ValidateSettings
    from molvae.dataset import TokenSet
    from molvae.vae import VAE

log = logging.getLogger(__name__)
TASK_ROWS = 500
REFERENCE_MOLECULES = 2000  # training molecules described for the property histograms


def validate_block(samples: Path, out: Path, *, share: Share = Share(), workers: int = 1) -> None:
    """Describe one share of the samples, a row each, into `out` (parquet)."""
    table = pd.read_parquet(samples)
    rows = share.range(len(table))
    _describe(table.iloc[rows.start : rows.stop], workers).to_parquet(out, index=False)


def _describe(table: pd.DataFrame, workers: int) -> pd.DataFrame:
    """The rows of a table with a column `smiles` (and `selfies`, if there) and what RDKit says of each."""
    from molvae.metrics.rows import describe_rows

    columns = [table[name].tolist() if name in table else [None] * len(table) for name in ("smiles", "selfies")]
    pairs = list(zip(*columns, strict=True))
    tasks = [pairs[start : start + TASK_ROWS] for start in range(0, len(pairs), TASK_ROWS)]
    found = [row for part in in_order(describe_rows, tasks, workers) for row in part]
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(found)], axis=1)


def validate(
    blocks: Sequence[Path],
    tokens: Path,
    model: Path,
    settings: ValidateSettings,
    out: Path,
    *,
    drawn: SampleSettings,
    threads: int,
) -> dict[str, Any]:
    """Put all shares together and score them.

    Writes molecules.parquet (a row a sample), reference.parquet (descriptors of training molecules), metrics.json
    and books.json.

    Args:
        drawn: the settings that the samples were drawn with; the baselines are drawn with the same.
    """
    import torch

    torch.set_num_threads(threads)
    tables = [pd.read_parquet(block) for block in blocks]
    molecules = pd.concat([table for table in tables if len(table)], ignore_index=True)  # an empty one has no types
    splits = read_tokens(tokens / "tokens.safetensors")
    network, vocabulary, card = load_model(model)
    if Vocabulary.from_json(read_json(tokens / "vocabulary.json"), str(tokens / "vocabulary.json")) != vocabulary:
        raise DataError(f"{tokens}: not the tokens that {model} was trained on. Give --tokens and --model of one run.")
    reference, described_as = _reference(settings, tokens)
    train = tokens / "molecules.parquet"

    log.info("scoring %d samples", len(molecules))
    written = molecules["attempts"].sum() if "attempts" in molecules else len(molecules)
    own = SampleSet.of(
        molecules["canonical"].tolist(), molecules["kept_token_fraction"].to_numpy(),
        float(molecules["is_stable"].sum() / written), train, reference,
    )  # fmt: skip
    molecules["is_first"], molecules["is_novel"] = own.is_first, own.is_novel
    others: dict[str, SampleSet] = {}
    if settings.baselines:
        for name, symbols, number in _baselines(
            network, vocabulary, card, splits["train"], len(molecules), drawn, threads
        ):
            log.info("scoring %d strings of %s", len(symbols), name.replace("_", " "))
            others[name] = _score(symbols, number, vocabulary, train, reference, threads)
    enough = [name for name, figure in FIGURES.items() if len(molecules) >= figure.least]
    content = {
        "metrics": [_figure(name, own, others, described_as) for name in enough] + _alerts(molecules),
        "not_computed": {name: f"needs {FIGURES[name].least} samples" for name in FIGURES if name not in enough},
        "n_samples": len(molecules),
        "seed": drawn.seed,
        "temperature": drawn.temperature,
        "attempts": drawn.attempts,
        "versions": versions(),
    }
    write_json(out / "metrics.json", content)
    molecules.to_parquet(out / "molecules.parquet", index=False)
    _training_draw(train, drawn.seed, threads).to_parquet(out / "reference.parquet", index=False)
    reasons = Counter(molecules.loc[~molecules["is_valid"], "reason"])
    kept = int((molecules["is_valid"] & molecules["is_first"]).sum())
    return close_books(
        out / "books.json", "validate", rows_in=len(molecules), kept=kept, rejected=dict(sorted(reasons.items())),
        duplicates=int((molecules["is_valid"] & ~molecules["is_first"]).sum()),
    )  # fmt: skip


def _baselines(
    network: VAE,
    vocabulary: Vocabulary,
    card: dict[str, Any],
    train: TokenSet,
    n: int,
    drawn: SampleSettings,
    threads: int,
) -> Iterator[tuple[str, list[list[str]], int]]:
    """Of each set that the samples stand beside: name, strings, and how many were written to get them.

    The latent points of training molecules are decoded as those of the prior were, unstable strings written again. The
    nulls are taken as they come: hardly any of their strings is stable.
    """
    architecture = parse(ModelSettings, card["settings"]["model"], "settings.model.")
    rules = {"seed": drawn.seed, "max_tokens": drawn.max_tokens, "threads": threads}
    several = drawn.attempts > 1
    yield "random_tokens", baselines.random_tokens(vocabulary, train.lengths, n, drawn.seed), n
    yield "untrained_model", baselines.untrained_model(vocabulary, architecture, n, **rules), n
    if several:
        first = baselines.first_strings(network, vocabulary, n, temperature=drawn.temperature, **rules)
        yield "first_strings", first, n
    with Workers(threads) as workers:
        strings, written = baselines.aggregate_posterior(
            network, train, vocabulary, n, temperature=drawn.temperature, **rules,
            accept=stable(vocabulary, workers) if several else None, attempts=drawn.attempts,
        )  # fmt: skip
    yield "aggregate_posterior", strings, written
    strings = baselines.training_molecules(train, vocabulary, n, drawn.seed)
    yield "training_molecules", strings, len(strings)


def headline(metrics: Path) -> dict[str, float]:
    """The figures of a metrics.json and their baselines, as a tracker takes them."""
    found: dict[str, float] = {}
    for figure in read_json(metrics)["metrics"]:
        values = {"": figure["value"], **{f"/{name}": value for name, value in figure["baselines"].items()}}
        found |= {figure["name"] + name: value for name, value in values.items() if value is not None}
    return found


def _score(
    symbols: list[list[str]],
    written: int,
    vocabulary: Vocabulary,
    train: Path,
    reference: fcd.Statistics,
    workers: int,
) -> SampleSet:
    canonical, kept, is_stable = canonical_forms(symbols, vocabulary.caps, workers)
    return SampleSet.of(canonical, kept, float(is_stable.sum() / written), train, reference)


def _reference(settings: ValidateSettings, tokens: Path) -> tuple[fcd.Statistics, str]:
    """The statistics samples are held against, and what they are of."""
    if settings.reference == "moses":
        return fcd.moses_test(), "MOSES test, 176074 molecules"
    table = pyarrow.parquet.read_table(tokens / "molecules.parquet", columns=["smiles", "split"])
    there = table.column("split").unique().to_pylist()
    if settings.reference not in there:
        raise DataError(
            f"validate.reference: no split {settings.reference!r}.{did_you_mean(settings.reference, [*there, 'moses'])}"
        )
    smiles = table.filter(pyarrow.compute.equal(table.column("split"), settings.reference)).column("smiles").to_pylist()
    return fcd.statistics(smiles), f"split {settings.reference!r} of the data, {len(smiles)} molecules"


def _figure(name: str, own: SampleSet, others: dict[str, SampleSet], reference: str) -> dict[str, Any]:
    """One entry of metrics.json: a value with all that is needed to read it."""
    figure = FIGURES[name]
    values = {other: figure.value(samples) for other, samples in others.items()}
    return {
        "name": name,
        "value": _json(figure.value(own)),
        "n": figure.count(own),
        "better": figure.better,
        "reference": {"distribution": reference, "training": "training molecules", "none": None}[figure.reference],
        "implementation": figure.implementation,
        "description": figure.description,
        "baselines": {other: _json(value) for other, value in values.items()},
    }


def _alerts(molecules: pd.DataFrame) -> list[dict[str, Any]]:
    """Shares of the valid samples that raise an alert."""
    valid = molecules[molecules["is_valid"]]
    alerts = {
        "radicals": ((valid["radical_electrons"] > 0), "lower", "share of valid samples with unpaired electrons"),
        "rings over 8": (
            (valid["largest_ring"] > 8),
            "lower",
            "share of valid samples with a ring of more than 8 atoms",
        ),
        "charged": ((valid["charge"] != 0), "none", "share of valid samples with a net charge"),
        "MCF": (valid["passes_mcf"].astype(bool), "higher", "share of valid samples that no MOSES MCF filter matches"),
        "PAINS": (valid["passes_pains"].astype(bool), "higher", "share of valid samples that no PAINS filter matches"),
    }
    return [
        {
            "name": name, "value": _json(float(mask.mean())) if len(valid) else None, "n": len(valid), "better": better,
            "reference": None, "implementation": "RDKit", "description": description, "baselines": {},
        }
        for name, (mask, better, description) in alerts.items()
    ]  # fmt: skip


def _training_draw(train: Path, seed: int, workers: int) -> pd.DataFrame:
    """Descriptors of a random draw of training molecules."""
    table = pyarrow.parquet.read_table(train, columns=["smiles", "split"])
    table = table.filter(pyarrow.compute.equal(table.column("split"), "train"))
    random = np.random.default_rng(derive(seed, "reference molecules"))
    rows = np.sort(random.choice(len(table), min(REFERENCE_MOLECULES, len(table)), replace=False))
    return _describe(pd.DataFrame({"smiles": table.column("smiles").take(pyarrow.array(rows)).to_pylist()}), workers)


def _json(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
