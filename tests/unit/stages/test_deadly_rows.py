"""A molecule that ends the process that reads it costs that molecule, in each stage that reads molecules."""

from __future__ import annotations

import os
import signal

import pandas as pd
import pytest

from molvae.chemistry import standardise
from molvae.config import FeaturizeSettings
from molvae.metrics import molecule_table, training_index
from molvae.metrics.molecule_table import describe_selfies, describe_smiles
from molvae.metrics.reference_sets import build_training_set, hash_texts
from molvae.runtime.workers import Workers
from molvae.stages.featurize import featurize_rows

DEADLY = "CCCCCCF"


def make_deadly() -> None:
    """Make one molecule end the process that reads it, as a fault in RDKit would."""
    parse = standardise.parse_smiles

    def parse_or_die(text, **options):
        if text == DEADLY:
            os.kill(os.getpid(), signal.SIGSEGV)
        return parse(text, **options)

    for module in (standardise, molecule_table, training_index):
        module.parse_smiles = parse_or_die


@pytest.fixture
def workers():
    with Workers(1, isolated=True) as workers:
        workers.start(make_deadly)
        yield workers


def test_featurize_rejects_the_row_that_ends_its_process(tmp_path, write_dataset, smiles, workers):
    rows = [*smiles[:20], DEADLY, *smiles[20:]]
    dataset = write_dataset([(text, "") for text in rows])
    settings = FeaturizeSettings(max_tokens=60, valid_fraction=0.2, test_fraction=0.2)
    counts = featurize_rows(dataset, settings, tmp_path / "tokens", workers=workers)
    rejected = pd.read_parquet(tmp_path / "tokens" / "rejected.parquet")
    assert counts["rejected"]["process_died"] == 1
    assert counts["rows_in"] == len(rows) == counts["kept"] + counts["duplicates"] + sum(counts["rejected"].values())
    row = rejected[rejected["reason"] == "process_died"].iloc[0]
    assert (row["row"], row["smiles"], row["detail"]) == (21, DEADLY, "signal 11, Segmentation fault")
    whole = featurize_rows(dataset, settings, tmp_path / "whole")
    assert whole["kept"] == counts["kept"] + 1


def test_sample_that_ends_its_process_is_not_valid_and_the_reason_is_told(workers):
    table = describe_smiles(["CCO", DEADLY, "CCN"], workers=workers)
    assert table["canonical"].tolist() == ["CCO", "", "CCN"]
    assert table["reason"].tolist() == ["", "process_died", ""]
    strings = [["[C]"], ["[C]"] * 6 + ["[F]"], ["[O]"]]
    table = describe_selfies(strings, {"C": 4, "F": 1, "O": 2, "?": 8}, workers=workers)
    assert table["reason"].tolist() == ["", "process_died", ""]
    assert table["token_survival"].tolist() == [1, 0, 1]


def test_training_molecule_that_ends_its_process_counts_as_one_that_cannot_be_read(workers):
    training = build_training_set(["CCO", DEADLY, "CCN"], "three", workers=workers)
    assert training.smiles == build_training_set(["CCO", "not a SMILES", "CCN"], "three").smiles
    assert training.given.tolist() == hash_texts(["CCO", DEADLY, "CCN"]).tolist()
