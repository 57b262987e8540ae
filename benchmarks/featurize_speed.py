"""Featurising against the bare loop that nobody can do without: RDKit parse, canonical SMILES, selfies.encoder.

The bare loop runs on one core and writes nothing; ours also standardises, deduplicates, splits, and writes the shard.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import selfies
from example import read_example
from rdkit import Chem
from record import compute_median, make_parser, print_ratio, run_measured, write_result

from molvae.config import DataSettings, FeaturizeSettings
from molvae.stages.featurize import featurize_shard
from molvae.stages.fetch import fetch


def run_bare_loop(smiles: list[str]) -> None:
    """Parse, canonicalise and encode molecules, and keep nothing."""
    for text in smiles:
        selfies.encoder(Chem.MolToSmiles(Chem.MolFromSmiles(text)))


def compare_with_bare_loop(rows: int, rounds: int, folder: Path) -> dict[str, float]:
    """Measure the rows a second of both sides in turn, and the ratio round by round."""
    smiles = read_example(rows)
    source, dataset = folder / "rows.smi", folder / "rows.parquet"
    source.write_text("\n".join(smiles))
    fetch(DataSettings(source=str(source)), dataset)
    rates: dict[str, list[float]] = {"bare": [], "one_core": [], "two_cores": []}
    for _ in range(rounds):
        for name, work in (
            ("bare", lambda: run_bare_loop(smiles)),
            ("one_core", lambda: featurize_shard(dataset, FeaturizeSettings(), folder / "shard", workers=1)),
            ("two_cores", lambda: featurize_shard(dataset, FeaturizeSettings(), folder / "shard", workers=2)),
        ):
            began = time.monotonic()
            work()
            rates[name].append(rows / (time.monotonic() - began))
            print(f"{name:10} {rates[name][-1]:7.0f} rows/s")
    result = {f"{name}_rows_per_s": compute_median(values) for name, values in rates.items()}
    for name in ("one_core", "two_cores"):
        ratios = [rate / bare for rate, bare in zip(rates[name], rates["bare"], strict=True)]
        result[f"{name}_ratio"] = compute_median(ratios)
    return result


def measure_command(rows: int, folder: Path) -> dict[str, float]:
    """Measure rows a second and peak memory of `molvae featurize`, start-up included, on the first rows of MOSES."""
    downloads = folder / "moses.parquet"
    if not downloads.exists():
        fetch(DataSettings(source="moses"), downloads)
    import pyarrow.parquet as parquet

    source, dataset = folder / f"{rows}.parquet", folder / f"{rows}-rows.parquet"
    parquet.write_table(parquet.read_table(downloads, columns=["smiles", "split"]).slice(0, rows), source)
    fetch(DataSettings(source=str(source), column="smiles", split_column="split"), dataset)
    command = [sys.executable, "-m", "molvae", "featurize", str(dataset), "--out", str(folder / f"tokens{rows}")]
    usage = run_measured([*command, "--threads", "2", "--valid-fraction", "0.01"])
    print(f"{rows} rows: {rows / usage['seconds']:.0f} rows/s, peak {usage['peak_mb']:.0f} MB")
    return {"rows": rows, "rows_per_s": rows / usage["seconds"], **usage}


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep the fetched data here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = compare_with_bare_loop(2000 if arguments.quick else 10_000, 3, folder)
        if not arguments.quick:
            result["sizes"] = [measure_command(rows, folder) for rows in (50_000, 200_000)]
    write_result(arguments.json, result)
    print_ratio(result["one_core_ratio"])


if __name__ == "__main__":
    main()
