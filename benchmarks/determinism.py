"""One seed under other cores, shards, folders, hash seeds, locales, time zones: are the outputs the same bytes?"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import make_parser, write_result

ROOT = Path(__file__).parents[1]
N_MOLECULES = 300
# runs the stages one behind the other as the shell would, in one process, since the imports take seconds
RUN_STAGES = """
import json, os, sys
from molvae.cli.main import main
def run():
    for command in json.loads(sys.argv[1]):
        sys.argv = ["molvae", *command]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
if __name__ == "__main__":
    run()
"""
# what says when and where it was made; all else in a file must be equal
CIRCUMSTANCES = {
    *("seconds", "molecules_per_s", "date", "threads", "checksums", "versions", "machine", "started", "ended"),
    *("peak_memory_mb", "memory_mb", "time", "host", "commit"),
}


@dataclass
class Setting:
    """What one run is made under.

    Attributes:
        environment: variables besides those of the caller; None removes one.
        threads: of all stages but training.
        train_threads: of training.
        cores: the process may run on; 0: all.
        shards: of featurize, sample and validate.
        folder: to run in.
        umask: of the process.
        is_absolute: whether paths are given absolute.
    """

    environment: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    train_threads: int = 1
    cores: int = 0
    shards: int = 1
    folder: str = "run"
    umask: int = 0o022
    is_absolute: bool = False


def list_settings() -> dict[str, list[Setting]]:
    """List the settings to try, by what is changed."""
    locales = [name for name in ("C", "C.UTF-8", "POSIX", *find_locales()) if name]
    return {
        "the same again": [Setting()],
        "threads of the stages besides training": [Setting(threads=2), Setting(threads=3)],
        "cores that the process may use": [Setting(cores=1, threads=2), Setting(cores=1)],
        "shards": [Setting(shards=2), Setting(shards=3, threads=2), Setting(shards=7)],
        "PYTHONHASHSEED": [Setting({"PYTHONHASHSEED": seed}) for seed in ("0", "1", "4242")],
        "locale": [Setting({"LC_ALL": name, "LANG": name}) for name in locales],
        "time zone": [Setting({"TZ": zone}) for zone in ("Asia/Kolkata", "Pacific/Kiritimati", "America/St_Johns")],
        "OMP_NUM_THREADS": [Setting({"OMP_NUM_THREADS": n}) for n in ("1", "2", "5")],
        "working directory and absolute paths": [
            Setting(folder="über a b/c"),
            Setting(folder="d" * 100, is_absolute=True),
        ],
        "umask": [Setting(umask=0o077), Setting(umask=0)],
        "all of them": [
            Setting({"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Kolkata"}, 2, 1, 0, 3, "e f", 0o077, True),
        ],
        TRAIN_THREADS: [Setting(train_threads=2), Setting({"OMP_NUM_THREADS": "2"}, train_threads=2)],
    }


TRAIN_THREADS = "threads of training (sums of floats: not promised)"


def find_locales() -> list[str]:
    """Find installed locales whose rules for letters or numbers are others than English ones."""
    listed = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    return [name for name in listed if name.startswith(("tr_TR", "de_DE", "lt_LT"))][:3]


def make_commands(setting: Setting, folder: Path) -> list[list[str]]:
    """Make the commands of all stages."""
    where = f"{folder}/" if setting.is_absolute else ""
    threads, options = ["--threads", str(setting.threads)], ["--seed", "3", "--gpus", "0"]
    sizes = ["--embedding-dim", "8", "--latent-dim", "8", "--encoder-hidden", "16", "--decoder-hidden", "16"]
    featurize = ["--merges", "30", "--valid-fraction", "0.1", "--test-fraction", "0.2", "--properties", '["logp"]']
    commands = [
        ["fetch", "--source", f"{where}rows.csv", "--out", f"{where}rows.parquet"],
        *shard("featurize", [f"{where}rows.parquet"], featurize, threads, f"{where}tokens", setting),
        [
            *("train", f"{where}tokens", "--out", f"{where}model", "--epochs", "2", "--batch-size", "16", *options),
            *("--threads", str(setting.train_threads), "--augmentation-prob", "0", *sizes),
        ],
        [
            "prior",
            f"{where}model",
            "--tokens",
            f"{where}tokens",
            "--kind",
            "mixture",
            "--components",
            "2",
            "--draws",
            "1000",
            *threads,
        ],
    ]
    sampling = ["--model", f"{where}model", "-n", "40", "--max-tries", "2", *options]
    commands += shard("sample", [], sampling, threads, f"{where}samples", setting)
    samples = f"{where}samples/samples.parquet" if setting.shards > 1 else f"{where}samples.parquet"
    scoring = ["--tokens", f"{where}tokens", "--model", f"{where}model", "--no-baselines", "-n", "40"]
    return commands + shard("validate", [samples], scoring, threads, f"{where}validation", setting)


def shard(
    stage: str, inputs: list[str], options: list[str], threads: list[str], out: str, setting: Setting
) -> list[list[str]]:
    """Make the commands of a stage: one, or one for each shard and one that merges."""
    suffix = ".parquet"
    if setting.shards == 1:
        return [[stage, *inputs, "--out", out + suffix * (stage == "sample"), *options, *threads]]
    names = [f"{out}-{k}{suffix}" for k in range(1, setting.shards + 1)]
    parts = [
        [stage, *inputs, "--shard", f"{k}-of-{setting.shards}", "--out", name, *options, *threads]
        for k, name in enumerate(names, 1)
    ]
    return [*parts, [stage, *names, "--merge", "--out", out, *options, *threads]]


def run(setting: Setting, folder: Path) -> dict[str, str]:
    """Run all stages in a folder: a checksum of each file that they wrote."""
    folder.mkdir(parents=True)
    write_molecules(folder / "rows.csv")

    def prepare() -> None:
        os.umask(setting.umask)
        if setting.cores:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setting.cores])

    unset = ("PYTHONHASHSEED", "LC_ALL", "LANG", "TZ", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"MOLVAE_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT), **setting.environment}
    (folder / "run_stages.py").write_text(RUN_STAGES)
    command = [sys.executable, "run_stages.py", json.dumps(make_commands(setting, folder))]
    process = subprocess.run(
        command, cwd=folder, env=environment, preexec_fn=prepare, capture_output=True, text=True, errors="replace"
    )
    if process.returncode:
        raise SystemExit(f"{setting}: ended with {process.returncode}\n{process.stdout}{process.stderr}"[-4000:])
    return digest_folder(folder)


def write_molecules(file: Path) -> None:
    """Write some of the shipped molecules, and rows that are rejected or occur twice."""
    with gzip.open(ROOT / "data/moses-small.csv.gz", "rt") as stream:
        rows = [line.split(",")[0] for line in stream.read().splitlines()[1:40_000:130]][:N_MOLECULES]
    odd = ["not a molecule", "C1CC", "", rows[3], "[Na+].[Cl-]", "CC(=O)[O-].[Na+]", "F/C=C/F", "C[C@H](N)O"]
    file.write_text("\n".join(["SMILES", *rows, *(text or '""' for text in odd)]) + "\n")


def digest_folder(folder: Path) -> dict[str, str]:
    """Compute a checksum of each output, without what says when and where it was made."""
    digests = {}
    names = [*folder.glob("tokens/*"), *folder.glob("model/*"), *folder.glob("validation/*"), folder / "rows.parquet"]
    samples = [folder / "samples.parquet", folder / "samples/samples.parquet"]
    for path in [*names, *(path for path in samples if path.exists())]:
        if path.is_file():
            name = path.name if path in samples else str(path.relative_to(folder))
            digests[name] = hashlib.sha256(read_comparable(path, folder)).hexdigest()
    return digests


def read_comparable(path: Path, folder: Path) -> bytes:
    """Read what must be equal of a file: its bytes, of JSON and CSV without their circumstances."""
    content = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(drop_circumstances(json.loads(content), folder), sort_keys=True).encode()
    if path.name == "history.csv":
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        return json.dumps(drop_circumstances(rows, folder)).encode()
    return content


def drop_circumstances(value: Any, folder: Path) -> Any:
    """Drop the entries of a JSON value that say when and where it was made."""
    if isinstance(value, dict):
        return {key: drop_circumstances(item, folder) for key, item in value.items() if key not in CIRCUMSTANCES}
    if isinstance(value, list):
        return [drop_circumstances(item, folder) for item in value]
    return value.replace(f"{folder}/", "") if isinstance(value, str) else value


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", default="", help="changes whose name contains this")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="molvae-determinism-"))
    reference = run(Setting(), root / "reference")
    rows = []
    changes = {name: settings for name, settings in list_settings().items() if arguments.only in name}
    if arguments.quick:
        changes = {"all of them": changes["all of them"]}
    for name, settings in changes.items():
        outcomes: Counter[str] = Counter()
        lost = wrong = 0
        different: set[str] = set()
        for k, setting in enumerate(settings):
            base = root / f"{len(rows)}-{k}"
            digests = run(setting, base / setting.folder)
            missing = [file for file in reference if file not in digests]
            changed = sorted(file for file in digests if digests[file] != reference.get(file))
            outcomes["same bytes" if not missing + changed else "other bytes"] += 1
            is_promised = name != TRAIN_THREADS or any(file.startswith("tokens/") for file in changed)
            lost += len(missing)
            wrong += bool(changed) and is_promised
            different |= {*changed, *missing}
            if not different:
                shutil.rmtree(base)
        row = {"fault": name, "tried": len(settings), "outcomes": dict(outcomes), "lost": lost, "wrong": wrong}
        rows.append({**row, "files": len(reference), "different_files": sorted(different)})
        print(rows[-1], flush=True)
    write_result(arguments.json, {"rows": rows})
    if sum(row["lost"] + row["wrong"] for row in rows):
        print(f"the outputs are in {root}")
        sys.exit(1)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
