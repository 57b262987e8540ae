"""Stage `evaluate`: anyone's file of samples, readable or not, and the known answers of both published suites."""

from __future__ import annotations

import csv
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from molvae.commands.evaluate import evaluate
from molvae.errors import DataError
from molvae.metrics import guacamol
from molvae.metrics.molecule_table import describe_all
from molvae.metrics.reference_sets import PROPERTIES, hashes, known, training_of
from molvae.metrics.suite import SampleSet, guacamol_figures
from molvae.stages.fetch import moses_wheel
from molvae.stages.reference import cached_references

CASE = Path(__file__).parents[2] / "data/moses_case"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for what is computed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def others(tmp_path, smiles):
    """A file of reference molecules, which are the training molecules, too."""
    (tmp_path / "others.smi").write_text("\n".join(smiles) + "\n")
    return str(tmp_path / "others.smi")


@pytest.fixture
def score(tmp_path, others, cache):
    """score(text, name) evaluates a file with that text against the fixture's molecules."""

    def run(text: str, name: str = "samples.smi", **more):
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
        found = evaluate(tmp_path / name, others, train=others, cache=cache, **{"with_baselines": False, **more})
        json.dumps(found, allow_nan=False)
        books = found["books"]
        assert books["rows_in"] == books["kept"] + sum(books["rejected"].values()) + books["duplicates"]
        return found, {metric["name"]: metric for metric in found["metrics"]}

    return run


def test_every_row_is_accounted_for(score):
    found, metrics = score("CCO name of it\nOCC\n\nxx\nC(C)(C)(C)(C)C\n   \n[Fe]\tiron\nc1ccccc1\n")
    assert found["books"] == {
        "rows_in": 8, "kept": 3, "rejected": {"empty": 2, "not_smiles": 1, "unphysical": 1}, "duplicates": 1,
    }  # fmt: skip
    assert metrics["valid"]["value"] == 0.5 and metrics["valid"]["n"] == 8
    assert metrics["Novelty"]["value"] == 1 and metrics["Filters"]["value"] < 1  # iron is no usual element


@pytest.mark.parametrize("text", ["xx\n\n?\n", "C(C)(C)(C)(C)C\n"], ids=["nonsense", "unphysical"])
def test_a_set_without_a_molecule_gets_no_best_score(score, text):
    found, metrics = score(text)
    assert {name: metric["value"] for name, metric in metrics.items()} == {"valid": 0, "GuacaMol/validity": 0}
    assert found["not_computed"]["FCD/Test"] == "needs 1000 molecules, there are 0"
    assert found["not_computed"]["Novelty"] == "needs 1 molecules, there are 0"


def test_one_molecule_has_shares_and_no_distances(score):
    found, metrics = score("CCO\n")
    assert metrics["valid"]["value"] == 1 and metrics["valid"]["interval"][0] < 0.3
    assert "unique@1000" in found["not_computed"] and "SNN/Test" in found["not_computed"]


def test_an_empty_file_is_an_error(score):
    with pytest.raises(DataError, match="holds no row"):
        score("")


def test_a_hundred_thousand_duplicates_are_one_molecule(score):
    found, metrics = score("CCO\n" * 100_000)
    assert found["books"] == {"rows_in": 100_000, "kept": 1, "rejected": {}, "duplicates": 99_999}
    assert metrics["unique@1000"]["value"] == 1 / 1000 and metrics["unique@10000"]["value"] == 1 / 10_000
    assert metrics["IntDiv"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["GuacaMol/uniqueness"]["value"] == 1 / 10_000


def test_huge_molecules_metals_salts_and_single_atoms_are_described(score):
    huge = ["C" * 4000, "C" * 6000, "NCC(=O)" * 300 + "O", "c1ccccc1" * 150]
    odd = [
        "[Na+].[Cl-]",
        "[H][H]",
        "[H+]",
        "[He]",
        "[2H]C",
        "O=[Os](=O)(=O)=O",
        "[U]",
        "F[P-](F)(F)(F)(F)F",
        "[C-]#[O+]",
    ]
    found, metrics = score("\n".join([*huge, *odd]) + "\n")
    assert found["books"]["rejected"] == {"too_long": 1}
    assert metrics["valid"]["value"] == pytest.approx(12 / 13)


def test_a_table_is_read_by_the_column_of_its_name_and_tokens_count_where_there_are_some(score):
    _, metrics = score("index,smiles,selfies\n0,CCO,[C][C][O]\n1,CCO,[O][C][C][nop]\n", "samples.csv")
    assert metrics["kept_tokens"]["value"] == pytest.approx((1 + 3 / 4) / 2)
    _, metrics = score('n,structure\n0,CCO\n1,"C1CC1"\n', "other.csv", column="structure")
    assert metrics["valid"]["value"] == 1 and "kept_tokens" not in metrics
    with pytest.raises(DataError, match=r"which column holds the SMILES\? Name one of n, structure with --column"):
        score("n,structure\n0,CCO\n", "third.csv")


def test_a_damaged_or_missing_selfies_string_says_nothing_of_the_others(score):
    rows = ["smiles,selfies", "CCO,[C][C][O]", "CC,[C][C", "CCC,", "CO,[C][O]"]
    kept = score("\n".join(rows) + "\n", "samples.csv")[1]["kept_tokens"]
    assert (kept["value"], kept["n"]) == (pytest.approx(2 / 3), 3)


def test_a_row_with_too_few_columns_is_no_molecule_of_another_column(score):
    found, _ = score("id,smiles\nC1,CCO\nN\nO\n3,CCN\n", "samples.csv")
    assert found["books"]["rejected"] == {"too_few_columns": 2} and found["books"]["kept"] == 2


def test_parquet_is_read_too(tmp_path, others, cache):
    pd.DataFrame({"SMILES": ["CCO", None]}).to_parquet(tmp_path / "samples.parquet")
    found = evaluate(tmp_path / "samples.parquet", others, train="none", cache=cache)
    assert found["books"]["rejected"] == {"empty": 1}
    assert not any(metric["name"].startswith(("Novelty", "GuacaMol")) for metric in found["metrics"])


def test_the_ledger_has_all_that_a_chemist_would_object_to_worst_first(score, tmp_path):
    text = "c1ccccc1O\nxx\nC1=CC1\nCCBr\nC1CCCCCCCC1[CH2]\n"
    score(text, ledger=tmp_path / "ledger.csv")
    with open(tmp_path / "ledger.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["2", "5", "3", "4"]
    assert rows[0]["reason"] == "not_smiles"
    assert rows[1]["oddities"] == "1 radical electron; 9-membered ring"
    assert rows[3]["alerts"] == "MCF4"


def test_null_and_ceiling_stand_beside_each_figure(score, smiles):
    random.Random(0).shuffle(rows := list(smiles) * 5)
    _, metrics = score("\n".join(rows) + "\n", with_baselines=True)
    novelty = metrics["Novelty_canonical"]["baselines"]
    assert novelty["training_molecules"] == 0 < novelty["random_tokens"]
    assert metrics["SNN/Train"]["value"] == metrics["SNN/Train"]["baselines"]["held_out"] == 1  # all are the same here


def test_an_absent_reference_is_named(tmp_path):
    with pytest.raises(DataError, match=r"mosses: no such file. Give 'moses' or a file"):
        cached_references("mosses", tmp_path)


@pytest.fixture(scope="module")
def moses(request):
    """A folder with the MOSES wheel and what is computed of it, kept from one run to the next."""
    folder = request.config.cache.mkdir("molvae")
    try:
        moses_wheel(folder / "downloads")
    except DataError as err:
        pytest.skip(f"the wheel with the MOSES sets cannot be had here: {err}")
    return folder


def test_the_published_moses_code_returns_the_same(moses):
    found = evaluate(CASE.with_suffix(".smi"), "moses", train="none", cache=moses)
    values = {metric["name"]: metric["value"] for metric in found["metrics"]}
    expected = json.loads(CASE.with_suffix(".json").read_text())["moses"]
    novelty = expected.pop("Novelty")
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    with zipfile.ZipFile(moses_wheel(moses / "downloads")) as archive:
        with archive.open("moses/dataset/data/train.csv.gz") as file:
            train = hashes(pd.read_csv(file, compression="gzip")["SMILES"])
    distinct = SampleSet(describe_all(CASE.with_suffix(".smi").read_text().splitlines())).distinct
    assert 1 - known(distinct, train).mean() == pytest.approx(novelty)


def test_the_published_statistics_are_those_of_the_molecules(moses):
    references = cached_references("moses", moses)
    for name, split in (("Test", "test"), ("TestSF", "test_scaffolds")):
        with zipfile.ZipFile(moses_wheel(moses / "downloads")) as archive:
            with archive.open(f"moses/dataset/data/{split}.csv.gz") as file:
                rows = describe_all(pd.read_csv(file, compression="gzip", nrows=300)["SMILES"].tolist())
        fingerprints = np.frombuffer(b"".join(rows["fingerprint"]), dtype=np.uint8).reshape(300, -1)
        np.testing.assert_array_equal(fingerprints, references[name].fingerprints[:300])
        for figure, column in PROPERTIES.items():
            np.testing.assert_allclose(rows[column], references[name].properties[figure][:300], rtol=1e-9)
        for column, counts in (("fragments", references[name].fragments), ("scaffold", references[name].scaffolds)):
            parts = [part for text in rows[column] for part in text.split(".") if part]
            assert np.mean([part in counts for part in parts]) > 0.99  # SMILES of a few changed with RDKit


def test_the_published_guacamol_code_returns_the_same(moses, monkeypatch):
    with zipfile.ZipFile(moses_wheel(moses / "downloads")) as archive:
        with archive.open("moses/dataset/data/test.csv.gz") as file:
            training = training_of(pd.read_csv(file, compression="gzip", nrows=10_000)["SMILES"].tolist(), "test")
    samples = SampleSet(describe_all(CASE.with_suffix(".smi").read_text().splitlines()))
    expected = json.loads(CASE.with_suffix(".json").read_text())["guacamol"]
    monkeypatch.setattr(guacamol, "N", 2000)  # what the known answers were taken over
    found = {figure.name: figure for figure in guacamol_figures(samples, training)}
    parts = {name: found[f"GuacaMol/KL/{name}"].compute().value for name in expected["kl_divergences"]}
    assert parts == pytest.approx(expected["kl_divergences"], rel=1e-5)
    assert found["GuacaMol/KL_score"].compute().value == pytest.approx(expected["kl_score"], rel=1e-5)
    for name in ("uniqueness", "novelty"):
        assert found[f"GuacaMol/{name}"].compute().value == pytest.approx(expected[name])
    monkeypatch.setattr(guacamol, "N", 2500)
    found = {figure.name: figure for figure in guacamol_figures(samples, training)}
    assert found["GuacaMol/validity"].compute().value == pytest.approx(expected["validity"])
