"""Featurising against the bare loop that nobody can do without: RDKit parse, canonical SMILES, selfies.encoder.

The bare loop runs on one core and writes nothing; ours also standardises, deduplicates, splits, and writes the block.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import selfies
from rdkit import Chem
from record import median, options, run_measured, write

from molvae.config import DataSettings, FeaturizeSettings
from molvae.data.readers import read_rows
from molvae.stages.featurize import featurize_block
from molvae.stages.fetch import fetch

EXAMPLE = Path(__file__).parent.parent / "data/moses-small.csv.gz"


def bare(smiles: list[str]) -> None:
    for one in smiles:
        selfies.encoder(Chem.MolToSmiles(Chem.MolFromSmiles(one)))


def against_bare(rows: int, rounds: int, folder: Path) -> dict[str, float]:
    """Rows a second of both sides in turn, and the ratio round by round."""
    smiles = [row.smiles for row, _ in zip(read_rows(EXAMPLE, "SMILES"), range(rows), strict=False)]
    source, dataset = folder / "rows.smi", folder / "rows.parquet"
    source.write_text("\n".join(smiles))
    fetch(DataSettings(source=str(source)), dataset)
    rates: dict[str, list[float]] = {"bare": [], "one_core": [], "two_cores": []}
    for _ in range(rounds):
        for name, work in (
            ("bare", lambda: bare(smiles)),
            ("one_core", lambda: featurize_block(dataset, FeaturizeSettings(), folder / "block", workers=1)),
            ("two_cores", lambda: featurize_block(dataset, FeaturizeSettings(), folder / "block", workers=2)),
        ):
            began = time.monotonic()
            work()
            rates[name].append(rows / (time.monotonic() - began))
            print(f"{name:10} {rates[name][-1]:7.0f} rows/s")
    found = {f"{name}_rows_per_s": median(values) for name, values in rates.items()}
    for name in ("one_core", "two_cores"):
        found[f"{name}_ratio"] = median([own / other for own, other in zip(rates[name], rates["bare"], strict=True)])
    return found


def at_size(rows: int, folder: Path) -> dict[str, float]:
    """Rows a second and peak memory of `molvae featurize` on the first so many rows of MOSES, start-up included."""
    downloads = folder / "moses.parquet"
    if not downloads.exists():
        fetch(DataSettings(source="moses"), downloads)
    import pyarrow.parquet as parquet

    source, dataset = folder / f"{rows}.parquet", folder / f"{rows}-rows.parquet"
    parquet.write_table(parquet.read_table(downloads, columns=["smiles", "split"]).slice(0, rows), source)
    fetch(DataSettings(source=str(source), column="smiles", split_column="split"), dataset)
    command = [sys.executable, "-m", "molvae", "featurize", str(dataset), "--out", str(folder / f"tokens{rows}")]
    found = run_measured([*command, "--threads", "2", "--valid-fraction", "0.01"])
    print(f"{rows} rows: {rows / found['seconds']:.0f} rows/s, peak {found['peak_mb']:.0f} MB")
    return {"rows": rows, "rows_per_s": rows / found["seconds"], **found}


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep the fetched data here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = against_bare(4000 if arguments.quick else 10_000, 3, folder)
        if not arguments.quick:
            result["sizes"] = [at_size(rows, folder) for rows in (50_000, 200_000)]
    write(arguments.json, result)
    print(f"ratio {result['one_core_ratio']:.2f}")


if __name__ == "__main__":
    main()
