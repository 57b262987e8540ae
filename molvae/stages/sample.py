"""Stage `sample`: sample molecules from the prior, exactly as many as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from molvae.chemistry.selfies_codec import decode_selfies
from molvae.data.accounting import COUNTS_FILE, write_counts
from molvae.data.formats import SAMPLE_SUFFIXES, has_suffix
from molvae.data.parquet import read_table
from molvae.data.readers import RowGroupWriter
from molvae.data.sharding import Shard
from molvae.errors import DataError, MolvaeError
from molvae.inference.round_trip_filter import iter_selfies, make_round_trip_filter
from molvae.inference.sampling import SamplingOptions, sample_prior, warn_of_cut_strings
from molvae.model_io.card import get_max_tokens
from molvae.model_io.loading import open_model
from molvae.runtime.files import atomic_write
from molvae.runtime.plain_text import protect_cell
from molvae.runtime.workers import Workers

if TYPE_CHECKING:
    from molvae.config import SampleSettings

SAMPLE_SCHEMA = pyarrow.schema(
    {
        "index": pyarrow.int64(),
        "seed": pyarrow.int64(),
        "selfies": pyarrow.string(),
        "smiles": pyarrow.string(),  # as decoded, not canonical; "" where the string stands for no atom
        "log_probability": pyarrow.float64(),  # nats, of the tokens given their latent point, at temperature 1
        "tokens": pyarrow.int32(),  # symbols of the SELFIES string
        "finished": pyarrow.bool_(),  # false: cut at sample.max_tokens
        "round_trip": pyarrow.bool_(),  # the same string after decoding and encoding; null where it was not tested
        "tries": pyarrow.int32(),  # strings decoded for this sample, this one last
    }
)


def sample_to_file(folder: Path, settings: SampleSettings, out: str, *, device: str = "cpu", threads: int = 1) -> None:
    """Draw all samples into a file for people: .csv and .parquet with all columns, .smi with SMILES; "-" is stdout.

    Args:
        folder: of the model, or pretrained:NAME.
        settings: of the stage.
        out: file to write.
        device: to decode on.
        threads: of the CPU.

    Raises:
        MolvaeError: the suffix is none of these; before anything is drawn.
    """
    if not has_suffix(out, SAMPLE_SUFFIXES):
        raise MolvaeError(f"--out {out}: give a name that ends in .csv, .parquet or .smi, or - for stdout.")
    if out == "-":
        print("\n".join(_sample_table(folder, settings, Shard(), device, threads).column("smiles").to_pylist()))
        return
    with atomic_write(Path(out)) as temporary:
        temporary.touch()  # a file that cannot be written is an error before anything is drawn
        table = _sample_table(folder, settings, Shard(), device, threads)
        if out.endswith(".parquet"):
            pyarrow.parquet.write_table(table, temporary)
        elif out.endswith(".csv"):
            pyarrow.csv.write_csv(_protect_texts(table), temporary)
        else:
            temporary.write_text("\n".join(table.column("smiles").to_pylist()) + "\n", "utf-8")


def _protect_texts(table: pyarrow.Table) -> pyarrow.Table:
    for place, field in enumerate(table.schema):
        if field.type == pyarrow.string():
            table = table.set_column(place, field, [list(map(protect_cell, table.column(place).to_pylist()))])
    return table


def sample_shard(
    folder: Path, settings: SampleSettings, out: Path, *, shard: Shard = Shard(), device: str = "cpu", threads: int = 1
) -> None:
    """Draw one shard of the samples and write them to `out` (parquet, columns as in SAMPLE_SCHEMA).

    Args:
        folder: of the model, or pretrained:NAME.
        settings: of the stage.
        out: shard file to write.
        shard: which samples.
        device: to decode on.
        threads: of the CPU.
    """
    with RowGroupWriter(out, SAMPLE_SCHEMA) as writer:
        writer.write(_sample_table(folder, settings, shard, device, threads))


def _sample_table(folder: Path, settings: SampleSettings, shard: Shard, device: str, threads: int) -> pyarrow.Table:
    network, vocabulary, card = open_model(folder, device)
    indices, is_filtered = shard.range(settings.n), settings.max_tries > 1
    options = SamplingOptions.from_settings(settings, get_max_tokens(card), threads)
    with Workers(threads) as workers:
        accept = make_round_trip_filter(vocabulary, workers) if is_filtered else None
        samples = sample_prior(network, indices.start, indices.stop, options, accept)
    n_cut = int((~samples.finished).sum())
    warn_of_cut_strings(n_cut, len(indices), options.max_tokens, "sample.max_tokens")
    selfies = list(iter_selfies(vocabulary, samples))
    columns = {
        "index": list(indices),
        "seed": [settings.seed] * len(indices),
        "selfies": ["".join(symbols) for symbols in selfies],
        "smiles": [decode_selfies(symbols, vocabulary.constraints) for symbols in selfies],
        "log_probability": samples.log_probability,
        "tokens": [len(symbols) for symbols in selfies],
        "finished": samples.finished,
        "round_trip": (
            pyarrow.array(samples.accepted) if is_filtered else pyarrow.nulls(len(indices), pyarrow.bool_())
        ),
        "tries": samples.tries,
    }
    return pyarrow.table(columns, schema=SAMPLE_SCHEMA)


def sample(shards: Sequence[Path], settings: SampleSettings, out: Path) -> dict[str, Any]:
    """Merge all shards, given in order, into `out`/samples.parquet and write their counts.

    Returns:
        the counts.

    Raises:
        DataError: they are not all samples of these settings, each once and in order.
    """
    truncated = count = round_trips = decoded = 0
    with RowGroupWriter(out / "samples.parquet", SAMPLE_SCHEMA) as writer:
        for shard in shards:
            table = read_table(shard)
            expected = {"index": list(range(count, count + len(table))), "seed": [settings.seed] * len(table)}
            if table.select(["index", "seed"]).to_pydict() != expected:
                raise DataError(
                    f"{shard}: not the samples from number {count} on of seed {settings.seed}. "
                    "Give all shards in order, with the seed that they were drawn with."
                )
            writer.write(table)
            count += len(table)
            truncated += len(table) - _sum_column(table, "finished")
            round_trips, decoded = round_trips + _sum_column(table, "round_trip"), decoded + _sum_column(table, "tries")
        if count != settings.n:
            raise DataError(f"{out}: the shards hold {count} samples, and {settings.n} are asked for (sample.n, -n).")
    targets = {"target_properties": settings.target_properties} if settings.target_properties else {}
    return write_counts(
        out / COUNTS_FILE, "sample", rows_in=settings.n, kept=count, rejected={}, seed=settings.seed,
        temperature=settings.temperature, mcmc_steps=settings.mcmc_steps, truncated=truncated,
        strings_decoded=decoded, round_trips=round_trips, **cast(dict[str, Any], targets),
    )  # fmt: skip


def _sum_column(table: pyarrow.Table, column: str) -> int:
    return int(pyarrow.compute.sum(table.column(column)).as_py() or 0)
