"""Runs that the tests share. Tests of one session see one state of the checkout, whoever edits it meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from workspace import Place, copy_of_checkout, write_molecules


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout that nobody changes."""
    return copy_of_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Place:
    """A finished run of the default experiment `example`. Tests read it, and leave it as it is."""
    place = Place(tmp_path_factory.mktemp("finished"), checkout)
    write_molecules(place.folder / "molecules.csv")
    (place.folder / "output.txt").write_text(place.snakemake("--set-threads", "train=1"))
    return place


@pytest.fixture
def copy(finished: Place, tmp_path: Path) -> Place:
    """A copy of the finished run, to do something to."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Place(tmp_path / "copy", finished.checkout)


@pytest.fixture
def empty(checkout: Path, tmp_path: Path) -> Place:
    """A working directory with nothing but the molecules."""
    write_molecules(tmp_path / "molecules.csv")
    return Place(tmp_path, checkout)
