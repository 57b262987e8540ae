"""Runs of the whole workflow in folders of their own, with a copy of the checkout: nobody edits that under a run."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BIN = str(Path(sys.executable).parent)
MOLECULES = 300
BAD = [b"C1CC,train", b",train", b"C" * 200 + b",train", b"CC\xff\xfeC,train"]
SETTINGS: dict[str, Any] = {
    "data": {"source": "molecules.csv"},
    "featurize": {"valid_fraction": 0.1},
    "model": {"embedding_dim": 16, "latent_dim": 16, "encoder_hidden": 16, "decoder_hidden": 16},
    "train": {"epochs": 12, "batch_size": 16, "patience": 100},
    "sample": {"n": 60, "attempts": 2},
    "validate": {"reference": "test", "baselines": False},
    "latent": {"n": 15},
}


@dataclass
class Place:
    """A working directory, and the checkout whose workflow runs in it."""

    folder: Path
    checkout: Path

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a user who has activated nothing and set nothing."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MOLVAE_"))}
        # threads that spin while they wait would bring training to a halt where others use the cores
        mine |= {"PYTHONPATH": str(self.checkout), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_WAIT_POLICY": "passive"}
        return mine | more

    def snakemake(
        self, *arguments: str, settings: dict[str, Any] | None = None, ok: bool = True, **environment: str
    ) -> str:
        """Run snakemake and return all that it printed; fails the test if its exit code is not what `ok` says."""
        return self.shell(*self.command(*arguments, settings=settings), ok=ok, **environment)

    def command(self, *arguments: str, settings: dict[str, Any] | None = None) -> list[str]:
        """The command line that runs snakemake here."""
        (self.folder / "config.json").write_text(json.dumps(settings or SETTINGS))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.checkout / "Snakefile"), "--directory"]
        return [*command, str(self.folder), "--configfile", f"{self.folder}/config.json", "--cores", "2", *arguments]

    def molvae(self, *arguments: str, ok: bool = True, **environment: str) -> str:
        """Run a command of the package in the same way."""
        return self.shell(f"{BIN}/molvae", *arguments, ok=ok, **environment)

    def shell(self, *command: str, ok: bool = True, timeout: float = 600, **environment: str) -> str:
        run = subprocess.run(
            command, cwd=self.folder, env=self.environment(**environment), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=timeout,
        )  # fmt: skip
        assert (run.returncode == 0) is ok, f"exit code {run.returncode} of {' '.join(command)}\n{run.stdout}"
        return run.stdout

    def plan(self, *arguments: str, settings: dict[str, Any] | None = None, **environment: str) -> dict[str, int]:
        """The jobs that snakemake would run now, by rule; `all` left out."""
        text = self.snakemake("-n", "--quiet", "rules", *arguments, settings=settings, **environment)
        if "Nothing to be done" in text:
            return {}
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total +", text, re.M | re.S)
        assert table, text
        jobs = dict(line.split() for line in table[1].splitlines())
        return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "default")}


def with_changes(**sections: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run with some keys of some sections changed."""
    return {**SETTINGS, **{name: {**SETTINGS.get(name, {}), **keys} for name, keys in sections.items()}}


def copy_of_checkout(to: Path) -> Path:
    """All that a run needs of the checkout, as it stands now."""
    to.mkdir(exist_ok=True)
    for name in ("Snakefile", "workflow", "config", "profiles", "molvae", "data"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / name)
    return to


def write_molecules(path: Path) -> int:
    """Real molecules of both splits and, between them, one row of each kind that is refused; returns the rows."""
    with gzip.open(ROOT / "data" / "moses-small.csv.gz", "rb") as file:
        header, *rows = file.read().splitlines()
    train = [row for row in rows if row.endswith(b",train")][: MOLECULES * 4 // 5]
    test = [row for row in rows if row.endswith(b",test")][: MOLECULES // 5]
    body = [*train[:100], *BAD, train[3], *train[100:], *test]
    path.write_bytes(b"\n".join([header, *body]) + b"\n")
    return len(body)
