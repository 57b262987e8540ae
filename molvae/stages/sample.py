"""Stage `sample`: draw molecules from the prior, exactly as many as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from molvae.chemistry.selfies_codec import decode
from molvae.data.accounting import close_books
from molvae.data.readers import EvenWriter
from molvae.data.sharding import Share
from molvae.errors import DataError, MolvaeError
from molvae.inference.sampling import sample_prior
from molvae.model_io.loading import opened, stable, symbols_of
from molvae.runtime.files import replacing
from molvae.runtime.workers import Workers

if TYPE_CHECKING:
    from molvae.config import SampleSettings

SAMPLES = pyarrow.schema(
    {
        "index": pyarrow.int64(),
        "seed": pyarrow.int64(),
        "selfies": pyarrow.string(),
        "smiles": pyarrow.string(),  # as decoded, not canonical; "" where the string stands for no atom
        "log_probability": pyarrow.float64(),  # nats, of the tokens given their latent point, at temperature 1
        "tokens": pyarrow.int32(),  # symbols of the SELFIES string
        "finished": pyarrow.bool_(),  # false: cut at sample.max_tokens
        "stable": pyarrow.bool_(),  # the same string after decoding and encoding; null where it was not asked
        "attempts": pyarrow.int32(),  # strings written for this sample, this one last
    }
)


def sample_file(folder: Path, settings: SampleSettings, out: str, *, device: str = "cpu", threads: int = 1) -> None:
    """Draw all samples into a file for people: .csv and .parquet with all columns, .smi with SMILES; "-" is stdout.

    Raises:
        MolvaeError: the suffix is none of these, said before anything is drawn.
    """
    suffix = Path(out).suffix
    if out != "-" and suffix not in {".csv", ".parquet", ".smi"}:
        raise MolvaeError(f"--out {out}: give a name that ends in .csv, .parquet or .smi, or - for stdout.")
    if out == "-":
        print("\n".join(_draw(folder, settings, Share(), device, threads).column("smiles").to_pylist()))
        return
    with replacing(Path(out)) as temporary:
        temporary.touch()  # what cannot be written is said before anything is drawn
        table = _draw(folder, settings, Share(), device, threads)
        if suffix == ".parquet":
            pyarrow.parquet.write_table(table, temporary)
        elif suffix == ".csv":
            pyarrow.csv.write_csv(table, temporary)
        else:
            temporary.write_text("\n".join(table.column("smiles").to_pylist()) + "\n", "utf-8")


def sample_block(
    folder: Path, settings: SampleSettings, out: Path, *, share: Share = Share(), device: str = "cpu", threads: int = 1
) -> None:
    """Draw one share of the samples and write them to `out` (parquet, columns as in SAMPLES)."""
    with EvenWriter(out, SAMPLES) as writer:
        writer.write(_draw(folder, settings, share, device, threads))


def _draw(folder: Path, settings: SampleSettings, share: Share, device: str, threads: int) -> pyarrow.Table:
    network, vocabulary, _ = opened(folder, device)
    indices, several = share.range(settings.n), settings.attempts > 1
    with Workers(threads) as workers:
        strings = sample_prior(
            network, indices.start, indices.stop, seed=settings.seed, temperature=settings.temperature,
            max_tokens=settings.max_tokens, threads=threads,
            accept=stable(vocabulary, workers) if several else None, attempts=settings.attempts,
            rounds=settings.rounds, wanted=settings.wanted,
        )  # fmt: skip
    symbols = list(symbols_of(vocabulary, strings))
    columns = {
        "index": list(indices),
        "seed": [settings.seed] * len(indices),
        "selfies": ["".join(one) for one in symbols],
        "smiles": [decode(one, vocabulary.caps) for one in symbols],
        "log_probability": strings.log_probability,
        "tokens": [len(one) for one in symbols],
        "finished": strings.finished,
        "stable": pyarrow.array(strings.accepted) if several else pyarrow.nulls(len(indices), pyarrow.bool_()),
        "attempts": strings.attempts,
    }
    return pyarrow.table(columns, schema=SAMPLES)


def sample(blocks: Sequence[Path], settings: SampleSettings, out: Path) -> dict[str, Any]:
    """Put all shares, given in order, into `out`/samples.parquet and close the books.

    Raises:
        DataError: they are not all samples of these settings, each once and in order.
    """
    cut = count = stable = written = 0
    with EvenWriter(out / "samples.parquet", SAMPLES) as writer:
        for block in blocks:
            table = pyarrow.parquet.read_table(block)
            expected = {"index": list(range(count, count + len(table))), "seed": [settings.seed] * len(table)}
            if table.select(["index", "seed"]).to_pydict() != expected:
                raise DataError(
                    f"{block}: not the samples from number {count} on of seed {settings.seed}. "
                    "Give all blocks in order, with the seed that they were drawn with."
                )
            writer.write(table)
            count += len(table)
            cut += len(table) - _sum(table, "finished")
            stable, written = stable + _sum(table, "stable"), written + _sum(table, "attempts")
        if count != settings.n:
            raise DataError(f"{out}: the blocks hold {count} samples, and {settings.n} are asked for (sample.n, -n).")
    return close_books(
        out / "books.json", "sample", rows_in=settings.n, kept=count, rejected={}, seed=settings.seed,
        temperature=settings.temperature, rounds=settings.rounds, cut_at_max_tokens=cut, strings_written=written,
        stable=stable, **({"wanted": settings.wanted} if settings.wanted else {}),
    )  # fmt: skip


def _sum(table: pyarrow.Table, column: str) -> int:
    return int(pyarrow.compute.sum(table.column(column)).as_py() or 0)
