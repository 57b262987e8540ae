"""Stage `featurize`: SMILES to tokens, in blocks of rows that any number of cores and nodes may share.

`featurize_block` standardises and tokenises a share of the rows; `featurize` makes one token store of all shares:
it drops duplicates, builds the vocabulary and writes the ids. Memory does not grow with the number of rows but
for a byte a row; the result does not depend on the number of shares.

With `start.model` the vocabulary is that of a trained model, its merges included, and none is learned; what becomes of
molecules with symbols that it lacks `start.unknown` says.

A training molecule may have variants: randomised spellings of it, which an encoder may read in its place. They are no
rows of their own: no book counts them as molecules.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from molvae.chemistry.descriptors import describe
from molvae.chemistry.selfies_codec import caps_for, encode
from molvae.chemistry.standardise import Rejected, parse, randomise, standardise
from molvae.chemistry.tokenization import bracketed
from molvae.data import bpe
from molvae.data.accounting import close_books
from molvae.data.readers import EvenWriter
from molvae.data.sharding import Share
from molvae.data.shards import (
    BLOCK,
    UNKNOWN,
    first_of_each,
    metadata,
    read_rows,
    reasons,
    unknown_symbols,
    with_reason,
)
from molvae.data.token_store import TokenStoreWriter
from molvae.data.vocabulary import UNK, Vocabulary
from molvae.errors import DataError
from molvae.model_io.card import CARD, read_card, vocabulary_of
from molvae.model_io.pretrained import folder_of
from molvae.runtime.files import read_json, write_json
from molvae.runtime.workers import in_order

if TYPE_CHECKING:
    from molvae.config import FeaturizeSettings, StartSettings

log = logging.getLogger(__name__)
MERGES_LEARN_FROM = 100_000  # training molecules that the merges are learned from
REJECTED = pyarrow.schema([BLOCK.field(name) for name in ("row", "smiles", "reason", "detail")])
MOLECULES = pyarrow.schema([BLOCK.field(name) for name in ("row", "smiles", "split")])


def featurize_block(
    dataset: Path,
    settings: FeaturizeSettings,
    out: Path,
    *,
    start: StartSettings | None = None,
    share: Share = Share(),
    workers: int = 1,
) -> None:
    """Standardise and tokenise one share of a data set's rows into the block file `out`.

    Args:
        start: a trained model whose vocabulary is to be used; none if its `model` is None. Unless that vocabulary may
            be extended, molecules with symbols that it lacks are rejected, `unknown_symbol`, the symbols in the detail.
    """
    books = read_json(dataset.with_suffix(".json"))
    vocabulary = _vocabulary_of(start)
    known = frozenset(vocabulary.symbols) if vocabulary and start.unknown != "extend" else None
    groups = share.range(pyarrow.parquet.ParquetFile(dataset).num_row_groups)
    tasks = [(dataset, group, settings, tuple(sorted(books["splits"])), known) for group in groups]
    symbols: dict[str, int] = {}
    with EvenWriter(out, BLOCK) as writer:
        for table, own in in_order(_featurize_rows, tasks, workers):
            ids = np.array([symbols.setdefault(symbol, len(symbols)) for symbol in own], dtype=np.uint16)
            writer.write(_renumber(table, ids))
        dataset = {name: books[name] for name in ("dataset", "source", "sha256")}
        writer.file.add_key_value_metadata({"symbols": "\n".join(symbols), "dataset": json.dumps(dataset)})


def _vocabulary_of(start: StartSettings | None) -> Vocabulary | None:
    """The vocabulary of the model to start from, if there is one."""
    return vocabulary_of(folder_of(start.model)) if start and start.model else None


def _warn_of_other_rules(settings: FeaturizeSettings, start: StartSettings) -> None:
    """Say where molecules are standardised otherwise than those that the model to start from was trained on."""
    before = read_card(folder_of(start.model) / CARD)["settings"].get("featurize", {})
    for name in ("largest_fragment", "neutralise", "stereo"):
        now = getattr(settings, name)
        if before.get(name, now) != now:
            log.warning("featurize.%s is %s here and was %s for %s", name, now, before[name], start.model)


def _featurize_rows(
    task: tuple[Path, int, FeaturizeSettings, tuple[str, ...], frozenset[str] | None],
) -> tuple[pyarrow.Table, list[str]]:
    """One row group: a table of BLOCK rows, and the symbols that its ids are positions in."""
    dataset, group, settings, given, known = task
    symbols: dict[str, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in BLOCK.names}
    for row in pyarrow.parquet.ParquetFile(dataset).read_row_group(group).to_pylist():
        for name, value in zip(BLOCK.names, _featurize_row(row, settings, given, known, symbols), strict=True):
            columns[name].append(value)
    return pyarrow.table(columns, schema=BLOCK), list(symbols)


def _featurize_row(
    row: dict[str, Any],
    settings: FeaturizeSettings,
    given: tuple[str, ...],
    known: frozenset[str] | None,
    symbols: dict[str, int],
) -> tuple[Any, ...]:
    """One row as the values of BLOCK; new symbols are added to `symbols`. If given, only `known` ones are kept."""
    try:
        if row["problem"]:
            raise Rejected(row["problem"])
        smiles = standardise(
            row["smiles"],
            largest_fragment=settings.largest_fragment,
            neutralise=settings.neutralise,
            stereo=settings.stereo,
        )
        found = bracketed(encode(smiles))
        if len(found) > settings.max_tokens:
            raise Rejected("too_long", f"{len(found)} symbols, featurize.max_tokens is {settings.max_tokens}")
        if known is not None and (unknown := sorted(set(found) - known)):
            raise Rejected(UNKNOWN, ", ".join(unknown))
    except Rejected as why:
        return row["row"], row["smiles"], row["split"], why.reason, why.detail, *[None] * 5
    digest = hashlib.blake2b(smiles.encode(), digest_size=16).digest()
    split = _split(row["split"], int.from_bytes(digest[8:], "big") / 2**64, given, settings)
    variants, replaced = (
        _variants(smiles, found, known, settings) if split == "train" and settings.variants else ([], 0)
    )
    ids, *others = ([symbols.setdefault(one, len(symbols)) for one in string] for string in (found, *variants))
    key, values = int.from_bytes(digest[:8], "big"), _properties(smiles, settings.properties)
    return row["row"], smiles, split, None, None, key, ids, others, replaced, values


def _properties(smiles: str, names: Sequence[str]) -> list[float]:
    """Descriptors of a molecule by name."""
    if not names:
        return []
    described = describe(parse(smiles))
    return [described[name] for name in names]


def _variants(
    smiles: str, canonical: list[str], known: frozenset[str] | None, settings: FeaturizeSettings
) -> tuple[list[list[str]], int]:
    """Symbols of the variants of a molecule, and how many of them had to be its canonical ones."""
    variants = []
    for spelling in randomise(smiles, settings.variants):
        try:
            found = bracketed(encode(spelling))
        except Rejected:
            continue
        if len(found) <= settings.max_tokens and (known is None or known.issuperset(found)):
            variants.append(found)
    replaced = settings.variants - len(variants)
    return variants + [canonical] * replaced, replaced


def _split(own: str | None, fraction: float, given: tuple[str, ...], settings: FeaturizeSettings) -> str:
    """The split of a molecule: the data's own word where it has one, else by `fraction`, a hash in [0, 1)."""
    test = 0.0 if given else settings.test_fraction
    if fraction < test:
        return "test"
    if (own or "train") == "train" and "valid" not in given and fraction < test + settings.valid_fraction:
        return "valid"
    return own or "train"


def _renumber(table: pyarrow.Table, ids: np.ndarray) -> pyarrow.Table:
    """The same rows with each id k replaced by ids[k]."""

    def renumbered(column: pyarrow.Array) -> pyarrow.Array:
        if column.type == pyarrow.uint16():
            return pyarrow.array(ids[column.to_numpy()], column.type)
        return pyarrow.ListArray.from_arrays(column.offsets, renumbered(column.flatten()), mask=column.is_null())

    for name in ("ids", "variants"):
        column = renumbered(table.column(name).combine_chunks())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def featurize(
    blocks: Sequence[Path], settings: FeaturizeSettings, out: Path, *, start: StartSettings | None = None
) -> dict[str, Any]:
    """Make the token store `out` of all blocks of a data set, given in order.

    Writes tokens.safetensors, vocabulary.json, molecules.parquet (row, smiles, split, properties by name),
    rejected.parquet (row, smiles, reason, detail; duplicates too) and books.json, which keeps the settings: by them a
    model reads molecules as those that it was trained on.

    Args:
        start: as the blocks were made with.
    Raises:
        DataError: no molecule is left to train on; or there are unknown symbols where `start.unknown` is "error".
    """
    own = _vocabulary_of(start)
    if own:
        _warn_of_other_rules(settings, start)
    dropped = unknown_symbols(blocks) if own else Counter()
    if dropped and start.unknown == "error":
        raise DataError(
            f"{out}: {start.model} does not know all symbols of the molecules: {_listed(dropped)}. Set start.unknown "
            "to extend, or to drop, which lists the molecules in rejected.parquet."
        )
    kept = first_of_each(blocks)
    symbols, splits = _count(blocks, kept)
    if not splits["train"]:
        there = ", ".join(f"{name} {count}" for name, count in splits.items()) or "none"
        raise DataError(
            f"{out}: no molecule is left to train on. {_why(blocks)} Molecules by split: {there}; those of 'train' and "
            "those without a split are trained on. See featurize and data.split_column in the config."
        )
    if not splits["valid"]:
        raise DataError(
            f"{out}: {splits['train']} molecules to train on, but none held out. Raise featurize.valid_fraction."
        )
    more: dict[str, Any] = {}
    if own:
        # new elements get the most bonds RDKit gives them: fewer would cut molecules of these data short when they are
        # decoded, more would decode to what RDKit refuses
        vocabulary = own.extended(symbols, caps_for(symbols))
        new = {symbol: symbols[symbol] for symbol in vocabulary.symbols[len(own.symbols) :]}
        more = {"start": start.model, "new_symbols": new, "dropped_symbols": dict(dropped)}
        log.info("vocabulary of %s; new symbols: %s; dropped: %s", start.model, _listed(new), _listed(dropped))
    else:
        vocabulary = Vocabulary.build(symbols, caps_for(symbols))
        if settings.merges:
            ids, lengths = _for_learning(blocks, kept, vocabulary)
            vocabulary = replace(vocabulary, merges=bpe.learn(ids, lengths, vocabulary, settings.merges))
    rejected, unknown, tokens, replaced = _write(blocks, kept, vocabulary, splits, settings, out)
    write_json(out / "vocabulary.json", vocabulary.to_json())
    duplicates = rejected.pop("duplicate", 0)
    if settings.variants:
        more |= {"variants": settings.variants * splits["train"], "variants_replaced_by_canonical": replaced}
    return close_books(
        out / "books.json", "featurize", rows_in=len(kept), kept=int(kept.sum()), duplicates=duplicates,
        rejected=dict(sorted(rejected.items())), splits=dict(sorted(splits.items())), vocabulary_size=len(vocabulary),
        mean_tokens=tokens / int(kept.sum()), unknown_symbols=dict(unknown),
        dataset=json.loads(metadata(blocks[0], "dataset")), settings=settings.model_dump(), **more,
    )  # fmt: skip


def _listed(symbols: Mapping[str, int]) -> str:
    """How often each symbol occurs, the most frequent first, for a message."""
    return ", ".join(f"{symbol} {count}" for symbol, count in Counter(symbols).most_common()) or "none"


def _count(blocks: Sequence[Path], kept: np.ndarray) -> tuple[Counter[str], Counter[str]]:
    """How often the training molecules and their variants hold each symbol, and molecules a split."""
    symbols: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for own, batch, _ in read_rows(blocks, kept, ["split", "ids", "variants"]):
        splits.update(batch.column("split").to_pylist())
        for column in _training(batch).select(["ids", "variants"]).columns:
            counted = column.flatten(recursive=True).value_counts().to_pylist()
            symbols.update({own[one["values"]]: one["counts"] for one in counted})
    return symbols, splits


def _for_learning(blocks: Sequence[Path], kept: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """The first training molecules, in ids of single symbols one behind the other, and the length of each."""
    ids, lengths, count = [], [], 0
    for own, batch, _ in read_rows(blocks, kept, ["split", "ids"]):
        column = _training(batch).column("ids").slice(0, MERGES_LEARN_FROM - count)
        some, their_lengths = _in_vocabulary(own, column, vocabulary)
        ids.append(some)
        lengths.append(their_lengths)
        count += len(column)
        if count == MERGES_LEARN_FROM:
            break
    return np.concatenate(ids), np.concatenate(lengths)


def _training(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    return batch.filter(pyarrow.compute.equal(batch.column("split"), "train"))


def _write(
    blocks: Sequence[Path],
    kept: np.ndarray,
    vocabulary: Vocabulary,
    splits: Counter[str],
    settings: FeaturizeSettings,
    out: Path,
) -> tuple[Counter[str], Counter[str], int, int]:
    """Stream all rows into the store, then the variants of those to train on.

    Returns:
        rejected rows by reason, unknown symbols by symbol, tokens of all molecules, variants that were replaced.
    """
    gone_by: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    replaced, variants, names = 0, settings.variants, settings.properties
    schema = pyarrow.schema([*MOLECULES, *((name, pyarrow.float32()) for name in names)])
    merge = bpe.Merger(vocabulary).apply if vocabulary.merges else lambda *tokens: tokens
    with (
        TokenStoreWriter(
            out / "tokens.safetensors",
            len(vocabulary),
            int(kept.sum()),
            sorted(splits),
            variants * splits["train"],
            names,
        ) as store,  # fmt: skip
        EvenWriter(out / "molecules.parquet", schema) as molecules,
        EvenWriter(out / "rejected.parquet", REJECTED) as rejected,
    ):
        for own, batch, gone in read_rows(blocks, kept, [*MOLECULES.names, "reason", "detail", "ids", "properties"]):
            table = with_reason(gone)
            gone_by.update(table.column("reason").to_pylist())
            rejected.write(table.select(REJECTED.names))
            ids, lengths = _in_vocabulary(own, batch.column("ids"), vocabulary)
            unknown.update(own[k] for k in batch.column("ids").flatten().to_numpy()[ids == UNK])
            values = batch.column("properties").flatten().to_numpy().reshape(len(batch), len(names))
            store.write(*merge(ids, lengths), batch.column("split").to_pylist(), values)
            molecules.write(pyarrow.table([*batch.select(MOLECULES.names).columns, *values.T], schema=schema))
        if variants:
            for own, batch, _ in read_rows(blocks, kept, ["split", "variants", "replaced"], variants):
                training = _training(batch)
                replaced += sum(training.column("replaced").to_pylist())
                ids, lengths = _in_vocabulary(own, training.column("variants").flatten(), vocabulary)
                store.write_variants(*merge(ids, lengths))
    return gone_by, unknown, store.written["ids"], replaced


def _in_vocabulary(own: list[str], lists: pyarrow.ListArray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Lists of positions in `own` as ids of single symbols one behind the other, and the length of each list."""
    ids = np.array(vocabulary.ids(own), np.uint16)[lists.flatten().to_numpy()]
    return ids, pyarrow.compute.list_value_length(lists).to_numpy()


def _why(blocks: Sequence[Path]) -> str:
    """Rows by reason, for a message."""
    counts = reasons(blocks).most_common()
    return "Rows by reason: " + ", ".join(f"{reason or 'kept'}: {count}" for reason, count in counts) + "."
