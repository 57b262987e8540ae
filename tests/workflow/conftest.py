"""Runs that the tests share. All tests of a session see one state of the checkout, even if it is edited."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from workspace import Workspace, copy_checkout, copy_molecules


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout that nobody changes."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Workspace:
    """A finished run of the test experiment. Tests read it and do not change it."""
    workspace = Workspace(tmp_path_factory.mktemp("finished"), checkout)
    copy_molecules(workspace.folder)
    (workspace.folder / "output.txt").write_text(workspace.run_snakemake("--set-threads", "train=1"))
    return workspace


@pytest.fixture
def run_copy(finished_run: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished run, which a test may change."""
    shutil.copytree(finished_run.folder, tmp_path / "copy")
    return Workspace(tmp_path / "copy", finished_run.checkout)


@pytest.fixture
def new_workspace(checkout: Path, tmp_path: Path) -> Workspace:
    """A working directory with nothing but the molecules."""
    copy_molecules(tmp_path)
    return Workspace(tmp_path, checkout)
