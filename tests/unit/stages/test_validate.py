"""Stage `validate`: a row for each sample, figures with all that is needed to read them."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from molvae.config import SampleSettings, ValidateSettings
from molvae.data.sharding import Share
from molvae.data.vocabulary import Vocabulary
from molvae.errors import DataError
from molvae.model_io.folder import save_model
from molvae.nn.vae import untrained
from molvae.runtime.files import read_json
from molvae.stages.reference import reference
from molvae.stages.sample import sample_block
from molvae.stages.validate import headline, validate, validate_block

SETTINGS = ValidateSettings(reference="test")
DRAWN = SampleSettings(max_tokens=12, attempts=2)


@pytest.fixture
def tokens(featurised):
    return featurised(train=20, valid=4)


@pytest.fixture
def folder(tmp_path, tokens, sizes):
    """A model of these tokens."""
    vocabulary = Vocabulary.from_json(read_json(tokens / "vocabulary.json"), "")
    card = {"settings": {"model": sizes.model_dump()}}
    save_model(tmp_path / "model", untrained(len(vocabulary), sizes, 0), vocabulary, card)
    return tmp_path / "model"


@pytest.fixture
def samples(tmp_path):
    """Eight samples of which a person can tell all figures."""
    texts = ["CCO", "OCC", "C", "", "C(C)(C)(C)(C)C", "[CH2]C", "C1CCCCCCCC1", "CC[NH3+]"]
    strings = ["[C][C][O]", "[O][C][C]", "[C]", "[nop]", "[C]", "[CH2][C]", "[C]", "[C][C][NH3+1]"]
    pd.DataFrame({"index": range(8), "smiles": texts, "selfies": strings}).to_parquet(tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


def in_shares(samples, tokens, folder, out, shares=1, settings=SETTINGS):
    blocks = [out.parent / f"{out.name}-{number}.parquet" for number in range(1, shares + 1)]
    for number, block in enumerate(blocks, start=1):
        validate_block(samples, block, share=Share(number, shares))
    return validate(blocks, tokens, folder, settings, out, drawn=DRAWN, threads=1)


def metrics(out):
    content = json.loads((out / "metrics.json").read_text())
    return content, {figure["name"]: figure for figure in content["metrics"]}


def test_figures_worked_by_hand(tmp_path, samples, tokens, folder):
    books = in_shares(samples, tokens, folder, tmp_path / "out")
    assert (books["rows_in"], books["kept"], books["duplicates"]) == (8, 5, 1)
    assert books["rejected"] == {"empty": 1, "unphysical": 1}
    content, found = metrics(tmp_path / "out")
    assert content["n_samples"] == 8 and content["seed"] == 0 and content["temperature"] == 1
    assert {"torch", "rdkit", "selfies"} <= set(content["versions"])
    expected = {
        "stable": 4 / 8,
        "valid": 6 / 8,
        "Novelty": 1,
        "radicals": 1 / 6,
        "large_rings": 1 / 6,
        "charged": 1 / 6,
    }
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected)
    assert content["not_computed"]["FCD/Test"] == "needs 1000 molecules, there are 6"
    assert content["not_computed"]["SNN/Test"] == "needs 100 molecules, there are 6"
    table = pd.read_parquet(tmp_path / "out" / "molecules.parquet")
    assert table["index"].tolist() == list(range(8))
    assert table["canonical"].tolist() == ["CCO", "CCO", "C", "", "", "[CH2]C", "C1CCCCCCCC1", "CC[NH3+]"]
    assert table["is_first"].tolist() == [True, False, True, False, False, True, True, True]
    assert table["reason"].tolist() == ["", "", "", "empty", "unphysical", "", "", ""]


def test_every_figure_says_what_it_is_and_stands_beside_its_null_and_its_ceiling(tmp_path, samples, tokens, folder):
    in_shares(samples, tokens, folder, tmp_path / "out")
    _, found = metrics(tmp_path / "out")
    for name, figure in found.items():
        assert set(figure) == {
            "name",
            "value",
            "interval",
            "standard_error",
            "n",
            "better",
            "reference",
            "implementation",
            "source",
            "description",
            "baselines",
        }
        assert figure["n"] <= 8, name
    whole = {"random_tokens", "training_molecules"}
    assert all(set(found[name]["baselines"]) == whole for name in ("Filters", "GuacaMol/novelty", "Novelty_skeleton"))
    of_the_model = {"shuffled_latents", "first_strings", "aggregate_posterior"}
    for name in ("valid", "Novelty", "kept_tokens", "stable"):
        assert set(found[name]["baselines"]) == whole | of_the_model
    assert found["kept_tokens"]["baselines"]["training_molecules"] == 1
    assert found["stable"]["baselines"]["training_molecules"] == 1 > found["stable"]["baselines"]["first_strings"]
    assert found["stable"]["baselines"]["aggregate_posterior"] < 1  # of all that were written for it
    assert found["kept_tokens"]["baselines"]["random_tokens"] < 0.9
    assert found["Novelty"]["baselines"]["training_molecules"] == 0
    assert headline(tmp_path / "out" / "metrics.json")["Novelty/training_molecules"] == 0


def test_without_baselines_there_are_none(tmp_path, samples, tokens, folder):
    in_shares(samples, tokens, folder, tmp_path / "out", settings=SETTINGS.model_copy(update={"baselines": False}))
    assert all(figure["baselines"] == {} for figure in metrics(tmp_path / "out")[1].values())


@pytest.mark.parametrize("shares", [2, 3, 11])
def test_the_figures_do_not_depend_on_the_number_of_shares(tmp_path, samples, tokens, folder, shares):
    whole = in_shares(samples, tokens, folder, tmp_path / "whole")
    assert in_shares(samples, tokens, folder, tmp_path / "parts", shares) == whole
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    tables = [pd.read_parquet(tmp_path / name / "molecules.parquet") for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*tables)


def test_samples_of_which_none_is_a_molecule_are_counted_and_have_no_figures(tmp_path, tokens, folder):
    pd.DataFrame({"smiles": ["", "xx", ""], "selfies": ["", "", ""]}).to_parquet(tmp_path / "none.parquet")
    books = in_shares(tmp_path / "none.parquet", tokens, folder, tmp_path / "out")
    assert (books["kept"], books["rejected"]) == (0, {"empty": 2, "not_smiles": 1})
    content, found = metrics(tmp_path / "out")
    assert found["valid"]["value"] == found["GuacaMol/validity"]["value"] == found["kept_tokens"]["value"] == 0
    assert set(found) == {"valid", "GuacaMol/validity", "kept_tokens", "stable"}
    assert content["not_computed"]["Novelty"] == "needs 1 molecules, there are 0"


def test_one_sample_in_two_shares_is_one_sample(tmp_path, tokens, folder):
    settings = SampleSettings(n=1, max_tokens=12)
    for number in (1, 2):
        sample_block(folder, settings, tmp_path / f"{number}.parquet", share=Share(number, 2))
    table = pd.concat([pd.read_parquet(tmp_path / f"{number}.parquet") for number in (1, 2)])
    table.to_parquet(tmp_path / "samples.parquet")
    assert in_shares(tmp_path / "samples.parquet", tokens, folder, tmp_path / "out", shares=2)["rows_in"] == 1


def test_a_reference_that_is_no_split_is_named_with_the_nearest(tmp_path, samples, tokens, folder):
    with pytest.raises(DataError, match=r"validate\.reference: no split 'tests'\. Did you mean 'test'\?"):
        in_shares(
            samples, tokens, folder, tmp_path / "out", settings=SETTINGS.model_copy(update={"reference": "tests"})
        )


def test_a_model_of_other_tokens_is_refused(tmp_path, samples, tokens, network, vocabulary, sizes):
    save_model(tmp_path / "other", network, vocabulary, {"settings": {"model": sizes.model_dump()}})
    with pytest.raises(DataError, match="not the tokens that .*other was trained on"):
        in_shares(samples, tokens, tmp_path / "other", tmp_path / "out")


def test_training_molecules_are_described_for_comparison(tmp_path, samples, tokens, folder):
    in_shares(samples, tokens, folder, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "reference.parquet")
    training = pd.read_parquet(tokens / "molecules.parquet").query("split == 'train'")["smiles"]
    assert table["smiles"].tolist() == training.tolist()
    assert table["is_valid"].all() and (table["qed"] > 0).all()


def test_a_file_of_reference_molecules_takes_the_place_of_a_split(tmp_path, samples, tokens, folder):
    (tmp_path / "own.smi").write_text("CCO\nCCN\nc1ccccc1\n")
    reference(str(tmp_path / "own.smi"), tmp_path / "own.safetensors")
    blocks = [tmp_path / "block.parquet"]
    validate_block(samples, blocks[0])
    settings = ValidateSettings(reference=str(tmp_path / "own.smi"), baselines=False)
    assert not settings.reference_is_split
    validate(
        blocks,
        tokens,
        folder,
        settings,
        tmp_path / "out",
        drawn=DRAWN,
        references=tmp_path / "own.safetensors",
        threads=1,
    )
    assert "SNN/Test" in metrics(tmp_path / "out")[0]["not_computed"]


def test_a_write_that_breaks_off_leaves_no_half_of_a_table(tmp_path, samples, tokens, folder, monkeypatch):
    to_parquet = pd.DataFrame.to_parquet

    def break_off(table, path, **options):
        to_parquet(table, path, **options)
        if broken.name in path.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", break_off)
    out = tmp_path / "out"
    for broken in (tmp_path / "out-1.parquet", out / "molecules.parquet", out / "reference.parquet"):
        with pytest.raises(OSError, match="No space"):
            in_shares(samples, tokens, folder, out)
        assert not broken.exists()
