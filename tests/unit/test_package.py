"""What importing the package costs, and who may import whom."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import molvae

HEAVY = [
    "torch",
    "numpy",
    "rdkit",
    "selfies",
    "pandas",
    "pyarrow",
    "mlflow",
    "pydantic",
    "safetensors",
    "sklearn",
    "typer",
]
CORE = [
    "training.trainer", "data.dataset", "nn.rnn", "nn.encoder_decoder", "nn.priors", "nn.vae", "nn.losses",
    "inference.decoding", "inference.posterior", "inference.posterior_diagnostics", "training.distributed",
    "inference.sampling", "data.vocabulary", "runtime.seeds",
]  # fmt: skip


def imported_by(*modules: str) -> set[str]:
    """Those of the heavy packages that importing these modules brings."""
    code = (
        f"import json, sys, {', '.join(modules)}; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("molvae", "molvae.runtime.provenance", "molvae.runtime.files") == set()


def test_the_core_imports_torch_and_numpy_only():
    assert imported_by(*(f"molvae.{name}" for name in CORE)) == {"torch", "numpy"}


def test_the_chemistry_imports_no_torch_so_that_workers_start_fast():
    found = imported_by("molvae.metrics.molecule_table", "molvae.stages.featurize")
    assert "rdkit" in found and not {"torch", "mlflow", "sklearn"} & found


def test_the_commands_are_listed_without_waiting_for_what_they_need():
    assert imported_by("molvae.cli.main") <= {"typer", "pydantic"}


def test_every_public_name_is_there_and_no_other():
    for name in molvae.__all__:
        assert getattr(molvae, name) is not None
    assert molvae.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="module 'molvae' has no attribute 'lode'"):
        molvae.lode  # noqa: B018
