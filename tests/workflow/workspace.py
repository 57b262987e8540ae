"""Runs of the whole workflow in folders of their own, with a copy of the checkout that nobody edits during a run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BIN = str(Path(sys.executable).parent)
TEST_CONFIG = ".test/config/config.yaml"
EXPERIMENT = "tiny"
MOLECULES = 300  # rows of the test data that are kept
BAD_ROWS = {101: "not_smiles", 102: "empty", 103: "too_long", 104: "not_utf8", 105: "duplicate"}  # of the test data


def _load_settings() -> dict[str, Any]:
    """The configuration in .test/, of molecules in the working directory, where a test may change them."""
    settings = yaml.safe_load((ROOT / TEST_CONFIG).read_text())
    return settings | {"data": {"source": "molecules.csv"}}


TEST_DATA = ROOT / yaml.safe_load((ROOT / TEST_CONFIG).read_text())["data"]["source"]
SETTINGS = _load_settings()


@dataclass
class Workspace:
    """A working directory, and the checkout whose workflow runs in it."""

    folder: Path
    checkout: Path

    @property
    def experiment(self) -> Path:
        """The folder of the results of the test experiment."""
        return self.folder / "results" / EXPERIMENT

    def build_environment(self, **variables: str) -> dict[str, str]:
        """Build the environment of a user who has activated nothing and set nothing, with some variables added."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MOLVAE_"))}
        environment |= {
            "PYTHONPATH": str(self.checkout),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait stall training on shared cores
        }
        return environment | variables

    def run_snakemake(
        self, *arguments: str, settings: dict[str, Any] | None = None, ok: bool = True, **environment: str
    ) -> str:
        """Run snakemake and return all that it printed; fails the test if its exit code is not what `ok` says."""
        command = self.build_snakemake_command(*arguments, settings=settings)
        return self.run_command(*command, ok=ok, **environment)

    def build_snakemake_command(self, *arguments: str, settings: dict[str, Any] | None = None) -> list[str]:
        """Build the command line that runs snakemake here."""
        (self.folder / "config.json").write_text(json.dumps(settings or SETTINGS))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.checkout / "Snakefile"), "--directory"]
        return [*command, str(self.folder), "--configfile", f"{self.folder}/config.json", "--cores", "2", *arguments]

    def run_molvae(self, *arguments: str, ok: bool = True, **environment: str) -> str:
        """Run a command of the package in the same way."""
        return self.run_command(f"{BIN}/molvae", *arguments, ok=ok, **environment)

    def run_command(self, *command: str, ok: bool = True, timeout: float = 600, **environment: str) -> str:
        """Run any command in the same way."""
        process = subprocess.run(
            command,
            cwd=self.folder,
            env=self.build_environment(**environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        assert (process.returncode == 0) is ok, (
            f"exit code {process.returncode} of {' '.join(command)}\n{process.stdout}"
        )
        return process.stdout

    def plan_jobs(self, *arguments: str, settings: dict[str, Any] | None = None, **environment: str) -> dict[str, int]:
        """List the jobs that snakemake would run now, as a count per rule without `all`."""
        text = self.run_snakemake("-n", "--quiet", "rules", *arguments, settings=settings, **environment)
        if "Nothing to be done" in text:
            return {}
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total +", text, re.M | re.S)
        assert table, text
        jobs = dict(line.split() for line in table[1].splitlines())
        return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "default")}

    def read_counts(self, stage: str, experiment: str = EXPERIMENT) -> dict[str, Any]:
        """Read the row counts in the folder of a stage."""
        return json.loads((self.folder / "results" / experiment / stage / "counts.json").read_text())


def change_settings(**sections: dict[str, Any]) -> dict[str, Any]:
    """Change some keys of some sections of the test settings."""
    return {**SETTINGS, **{name: {**SETTINGS.get(name, {}), **keys} for name, keys in sections.items()}}


def copy_checkout(target: Path) -> Path:
    """Copy all that a run needs of the checkout, as it is now."""
    target.mkdir(exist_ok=True)
    for name in ("Snakefile", "workflow", "config", "profiles", "molvae", "data", ".test"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "results", "logs"))
        else:
            shutil.copy(source, target / name)
    return target


def copy_molecules(folder: Path) -> None:
    """Copy the test data: molecules of both splits and, between them, one row of each kind that is rejected."""
    shutil.copy(TEST_DATA, folder / "molecules.csv")
