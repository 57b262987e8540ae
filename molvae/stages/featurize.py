"""Stage `featurize`: SMILES to tokens, in shards of rows that any number of cores and nodes may share.

`featurize_shard` standardises and tokenises a shard of the rows; `featurize` makes one token store of all shards:
it drops duplicates, builds the vocabulary and writes the ids. Memory does not grow with the number of rows but
for a byte a row; the result does not depend on the number of shards.

With `finetune.model` the vocabulary is that of a trained model, its merges included, and none is learned; what becomes
of molecules with symbols that it lacks `finetune.unknown_symbols` says.

A training molecule may have augmentations: randomised SMILES of it, which an encoder may read in its place. They are no
rows of their own and do not count as molecules.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute

from molvae.chemistry.selfies_codec import build_constraints
from molvae.chemistry.standardise import STANDARDISE_SETTINGS
from molvae.data.accounting import COUNTS_FILE, write_counts
from molvae.data.bpe import MergeEncoder, learn_merges
from molvae.data.parquet import open_table
from molvae.data.readers import RowGroupWriter
from molvae.data.rows import RowRules, featurize_row_group, reject_row, renumber_ids
from molvae.data.sharding import Shard
from molvae.data.shards import (
    SHARD_SCHEMA,
    compute_first_occurrence_mask,
    count_losses,
    count_reasons,
    count_unknown_symbols,
    fill_duplicate_reasons,
    iter_batches,
    iter_rows,
    read_metadata,
)
from molvae.data.token_store import TOKENS_FILE, VOCABULARY_FILE, TokenStoreWriter
from molvae.data.unreadable import explain_unreadable
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.errors import DataError
from molvae.model_io.card import CARD_FILE, read_card, read_vocabulary
from molvae.model_io.pretrained import resolve_model_folder
from molvae.runtime.files import read_json, write_json
from molvae.runtime.workers import Workers, map_in_order

if TYPE_CHECKING:
    from molvae.config import FeaturizeSettings, FinetuneSettings

log = logging.getLogger(__name__)
MAX_MERGE_MOLECULES = 100_000  # training molecules that the merges are learned from
MIN_READABLE = 0.05  # of the rows; fewer are more likely a misread file than bad molecules
FAILED_REJECTED_FILE = "rejected_rows.parquet"  # not rejected.parquet: Snakemake deletes the outputs of a failed job
REJECTED_SCHEMA = pyarrow.schema([SHARD_SCHEMA.field(name) for name in ("row", "smiles", "reason", "detail")])
MOLECULE_SCHEMA = pyarrow.schema(
    [SHARD_SCHEMA.field(name) for name in ("row", "smiles", "split", "dropped", "is_mixture")]
)


def featurize_rows(
    dataset: Path,
    settings: FeaturizeSettings,
    out: Path,
    *,
    finetune: FinetuneSettings | None = None,
    workers: int | Workers = 1,
) -> dict[str, Any]:
    """Featurise a whole data set in one go; see `featurize` for what it writes and returns.

    Args:
        dataset: table that `fetch` wrote.
        settings: of the stage.
        out: folder to write.
        finetune: a trained model whose vocabulary is to be used; none if its `model` is None.
        workers: processes.
    """
    with tempfile.TemporaryDirectory(prefix="molvae-") as folder:
        shard = Path(folder) / "shard.parquet"
        featurize_shard(dataset, settings, shard, finetune=finetune, workers=workers)
        return featurize([shard], settings, out, finetune=finetune)


def featurize_shard(
    dataset: Path,
    settings: FeaturizeSettings,
    out: Path,
    *,
    finetune: FinetuneSettings | None = None,
    shard: Shard = Shard(),
    workers: int | Workers = 1,
) -> None:
    """Standardise and tokenise one shard of a data set's rows into the file `out`.

    Args:
        dataset: table that `fetch` wrote.
        settings: of the stage.
        out: shard file to write.
        finetune: a trained model whose vocabulary is to be used; none if its `model` is None. Unless that vocabulary
            may be extended, molecules with symbols that it lacks are rejected, `unknown_symbol`, the symbols in the
            detail.
        shard: which rows.
        workers: processes.
    """
    counts = read_json(dataset.with_suffix(".json"))
    vocabulary = _read_base_vocabulary(finetune)
    is_closed = vocabulary and finetune and finetune.unknown_symbols != "extend"
    allowed_symbols = frozenset(vocabulary.symbols) if vocabulary and is_closed else None
    rules = RowRules(settings, tuple(sorted(counts["splits"])), allowed_symbols)
    metadata = open_table(dataset).metadata
    groups = shard.range(metadata.num_row_groups)
    symbols: dict[str, int] = {}
    with RowGroupWriter(out, SHARD_SCHEMA) as writer:
        tasks = [(range(metadata.row_group(group).num_rows), dataset, group, rules) for group in groups]
        for table, group_symbols in map_in_order(featurize_row_group, tasks, workers, reject_row):
            ids = np.array([symbols.setdefault(symbol, len(symbols)) for symbol in group_symbols], dtype=np.uint16)
            writer.write(renumber_ids(table, ids))
        origin = {name: counts[name] for name in ("dataset", "source", "sha256")}
        writer.file.add_key_value_metadata({"symbols": "\n".join(symbols), "dataset": json.dumps(origin)})


def _read_base_vocabulary(finetune: FinetuneSettings | None) -> Vocabulary | None:
    """Read the vocabulary of the model to fine-tune, if there is one."""
    return read_vocabulary(resolve_model_folder(finetune.model)) if finetune and finetune.model else None


def _warn_of_different_rules(settings: FeaturizeSettings, model: str) -> None:
    """Warn where molecules are standardised otherwise than those that the model to fine-tune was trained on."""
    before = read_card(resolve_model_folder(model) / CARD_FILE)["settings"].get("featurize", {})
    for name in STANDARDISE_SETTINGS:
        now = getattr(settings, name)
        if before.get(name, now) != now:
            log.warning("featurize.%s is %s here and was %s for %s", name, now, before[name], model)


def featurize(
    shards: Sequence[Path], settings: FeaturizeSettings, out: Path, *, finetune: FinetuneSettings | None = None
) -> dict[str, Any]:
    """Merge all shards of a data set into one token store.

    Writes tokens.safetensors, vocabulary.json, molecules.parquet (row, smiles, split, dropped, is_mixture, properties
    by name), rejected.parquet (row, smiles, reason, detail; duplicates too) and counts.json, which keeps the settings:
    by them a model reads molecules as those that it was trained on. `dropped` has the fragments that the row had
    beside the molecule, as a SMILES, null if none; `is_mixture` says whether one may be a compound of its own, null if
    none was dropped.

    Args:
        shards: files, in order.
        settings: of the stage.
        out: folder to write.
        finetune: as the shards were made with.

    Returns:
        the counts.

    Raises:
        DataError: no molecule is left to train on, or none held out, and rejected_rows.parquet is written; or there are
            unknown symbols where `finetune.unknown_symbols` is "error".
    """
    base = _read_base_vocabulary(finetune)
    dropped: Counter[str] = Counter()
    if base and finetune and finetune.model:
        _warn_of_different_rules(settings, finetune.model)
        dropped = count_unknown_symbols(shards)
        if dropped and finetune.unknown_symbols == "error":
            raise DataError(
                f"{out}: {finetune.model} does not know all symbols of the molecules: {_format_symbols(dropped)}. Set "
                "finetune.unknown_symbols to extend, or to drop, which lists the molecules in rejected.parquet."
            )
    kept = compute_first_occurrence_mask(shards)
    symbols, splits = _count_symbols(shards, kept)
    _require_molecules(shards, kept, splits, out)
    extra: dict[str, Any] = {}
    if base and finetune:
        # new elements get the most bonds RDKit gives them: fewer would cut molecules of these data short when they are
        # decoded, more would decode to what RDKit refuses
        vocabulary = base.extend(symbols, build_constraints(symbols))
        new = {symbol: symbols[symbol] for symbol in vocabulary.symbols[len(base.symbols) :]}
        extra = {"base_model": finetune.model, "new_symbols": new, "dropped_symbols": dict(dropped)}
        log.info(
            "vocabulary of %s; new symbols: %s; dropped: %s",
            finetune.model, _format_symbols(new), _format_symbols(dropped),
        )  # fmt: skip
    else:
        vocabulary = _build_vocabulary(shards, kept, symbols, settings.merges)
    counts = _write_tokens(shards, kept, vocabulary, splits, settings, out)
    write_json(out / VOCABULARY_FILE, vocabulary.to_json())
    duplicates = counts.rejected.pop("duplicate", 0)
    if settings.augmentations:
        extra |= {
            "augmentations": settings.augmentations * splits["train"],
            "augmentations_replaced_by_canonical": counts.fallbacks,
        }
    n_kept = int(kept.sum())
    return write_counts(
        out / COUNTS_FILE, "featurize", rows_in=len(kept), kept=n_kept, duplicates=duplicates,
        rejected=dict(sorted(counts.rejected.items())), splits=dict(sorted(splits.items())),
        vocabulary_size=len(vocabulary), mean_tokens=counts.tokens / n_kept,
        unknown_symbols=dict(counts.unknown_symbols), **count_losses(shards, kept),
        dataset=json.loads(read_metadata(shards[0], "dataset")),
        settings=settings.model_dump(), **extra,
    )  # fmt: skip


def _require_molecules(shards: Sequence[Path], kept: np.ndarray, splits: Mapping[str, int], out: Path) -> None:
    """Refuse data that leave nothing to train on, or nothing held out; their rejected rows are written all the same."""
    if splits["train"] and splits["valid"]:
        if (n_readable := count_reasons(shards)[None]) < MIN_READABLE * len(kept):
            log.warning("only %d of %d rows were not rejected. %s", n_readable, len(kept), _explain_rejection(shards))
        return
    rejected_file = out / FAILED_REJECTED_FILE
    with RowGroupWriter(rejected_file, REJECTED_SCHEMA) as rejected:
        for *_, batch in iter_rows(shards, kept, REJECTED_SCHEMA.names):
            rejected.write(fill_duplicate_reasons(batch).select(REJECTED_SCHEMA.names))
    if splits["train"]:
        raise DataError(
            f"{out}: {splits['train']} molecules to train on, but none held out. Raise featurize.valid_fraction."
        )
    present = ", ".join(f"{name} {count}" for name, count in splits.items()) or "none"
    parts = [
        f"{out}: no molecule is left to train on. {_format_reasons(shards)}",
        "" if kept.any() else _explain_rejection(shards),
        f"Molecules by split: {present}; those of 'train' and those without a split are trained on.",
        f"See featurize and data.split_column in the config. The rejected rows are in {rejected_file}.",
    ]
    raise DataError(" ".join(filter(None, parts)))


def _explain_rejection(shards: Sequence[Path]) -> str:
    """Explain why the first rejected row was rejected, which stands for the others."""
    for batch in iter_batches(shards, ["smiles", "reason"]):
        if len(rejected := batch.filter(batch.column("reason").is_valid())):
            row = rejected.slice(0, 1).to_pylist()[0]
            source = json.loads(read_metadata(shards[0], "dataset"))["source"]
            return explain_unreadable(Path(source), row["smiles"], row["reason"])
    return ""


def _build_vocabulary(
    shards: Sequence[Path], kept: np.ndarray, symbols: Mapping[str, int], n_merges: int
) -> Vocabulary:
    """Build the vocabulary of the symbols, with merges learned from the training molecules."""
    vocabulary = Vocabulary.build(symbols, build_constraints(symbols))
    if not n_merges:
        return vocabulary
    ids, lengths = _read_for_merges(shards, kept, vocabulary)
    return replace(vocabulary, merges=learn_merges(ids, lengths, vocabulary, n_merges))


def _format_symbols(symbols: Mapping[str, int]) -> str:
    """How often each symbol occurs, the most frequent first, for a message."""
    return ", ".join(f"{symbol} {count}" for symbol, count in Counter(symbols).most_common()) or "none"


def _count_symbols(shards: Sequence[Path], kept: np.ndarray) -> tuple[Counter[str], Counter[str]]:
    """How often the training molecules and their augmentations hold each symbol, and molecules a split."""
    symbols: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for shard_symbols, batch, _ in iter_rows(shards, kept, ["split", "ids", "augmentations"]):
        splits.update(batch.column("split").to_pylist())
        for column in _select_training(batch).select(["ids", "augmentations"]).columns:
            value_counts = column.flatten(recursive=True).value_counts().to_pylist()
            symbols.update({shard_symbols[entry["values"]]: entry["counts"] for entry in value_counts})
    return symbols, splits


def _read_for_merges(shards: Sequence[Path], kept: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Collect the first training molecules: concatenated ids of single symbols, and the length of each."""
    ids, lengths, count = [], [], 0
    for shard_symbols, batch, _ in iter_rows(shards, kept, ["split", "ids"]):
        column = _select_training(batch).column("ids").slice(0, MAX_MERGE_MOLECULES - count)
        batch_ids, batch_lengths = _convert_ids(shard_symbols, column, vocabulary)
        ids.append(batch_ids)
        lengths.append(batch_lengths)
        count += len(column)
        if count == MAX_MERGE_MOLECULES:
            break
    return np.concatenate(ids), np.concatenate(lengths)


def _select_training(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    return batch.filter(pyarrow.compute.equal(batch.column("split"), "train"))


class _WriteCounts(NamedTuple):
    """What was counted while the store was written.

    Attributes:
        rejected: rows by reason, duplicates among them.
        unknown_symbols: how often each symbol that the vocabulary lacks occurs.
        tokens: of all molecules.
        fallbacks: augmentations that are the canonical string.
    """

    rejected: Counter[str]
    unknown_symbols: Counter[str]
    tokens: int
    fallbacks: int


def _write_tokens(
    shards: Sequence[Path],
    kept: np.ndarray,
    vocabulary: Vocabulary,
    splits: Counter[str],
    settings: FeaturizeSettings,
    out: Path,
) -> _WriteCounts:
    """Stream all rows into the store, then the augmentations of those to train on."""
    rejected_counts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    names = settings.properties
    columns = [*MOLECULE_SCHEMA.names, "reason", "detail", "ids", "properties"]
    schema = pyarrow.schema([*MOLECULE_SCHEMA, *((name, pyarrow.float32()) for name in names)])
    merge = MergeEncoder(vocabulary).apply if vocabulary.merges else _keep_ids
    n_augmentations = settings.augmentations * splits["train"]
    store_file = out / TOKENS_FILE
    with (
        TokenStoreWriter(store_file, len(vocabulary), int(kept.sum()), sorted(splits), n_augmentations, names) as store,
        RowGroupWriter(out / "molecules.parquet", schema) as molecules,
        RowGroupWriter(out / "rejected.parquet", REJECTED_SCHEMA) as rejected,
    ):
        for shard_symbols, batch, rejected_batch in iter_rows(shards, kept, columns):
            table = fill_duplicate_reasons(rejected_batch)
            rejected_counts.update(table.column("reason").to_pylist())
            rejected.write(table.select(REJECTED_SCHEMA.names))
            ids, lengths = _convert_ids(shard_symbols, batch.column("ids"), vocabulary)
            unknown.update(shard_symbols[k] for k in batch.column("ids").flatten().to_numpy()[ids == UNK])
            values = batch.column("properties").flatten().to_numpy().reshape(len(batch), len(names))
            store.write(*merge(ids, lengths), batch.column("split").to_pylist(), values)
            molecules.write(pyarrow.table([*batch.select(MOLECULE_SCHEMA.names).columns, *values.T], schema=schema))
        fallbacks = 0
        if n_augmentations:
            for ids, lengths, batch_fallbacks in _iter_augmentations(shards, kept, vocabulary, settings.augmentations):
                fallbacks += batch_fallbacks
                store.write_augmentations(*merge(ids, lengths))
    return _WriteCounts(rejected_counts, unknown, store.written["ids"], fallbacks)


def _keep_ids(ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nothing merged."""
    return ids, lengths


def _iter_augmentations(
    shards: Sequence[Path], kept: np.ndarray, vocabulary: Vocabulary, per_molecule: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Ids and lengths of the augmentations of the training molecules, and how many are the canonical string."""
    columns = ["split", "augmentations", "fallbacks"]
    for shard_symbols, batch, _ in iter_rows(shards, kept, columns, per_molecule):
        training = _select_training(batch)
        ids, lengths = _convert_ids(shard_symbols, training.column("augmentations").flatten(), vocabulary)
        yield ids, lengths, sum(training.column("fallbacks").to_pylist())


def _convert_ids(
    shard_symbols: list[str], lists: pyarrow.ListArray, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Convert lists of positions in a shard's symbols to concatenated ids of single symbols, and each list's length."""
    ids = np.array(vocabulary.encode(shard_symbols), np.uint16)[lists.flatten().to_numpy()]
    return ids, pyarrow.compute.list_value_length(lists).to_numpy()


def _format_reasons(shards: Sequence[Path]) -> str:
    """Rows by reason, for a message."""
    counts = count_reasons(shards).most_common()
    return "Rows by reason: " + ", ".join(f"{reason or 'kept'}: {count}" for reason, count in counts) + "."
