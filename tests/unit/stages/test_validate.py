"""Stage `validate`: a row for each sample, and metrics with all that is needed to read them."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from molvae.config import SampleSettings, ValidateSettings
from molvae.data.sharding import Shard
from molvae.data.vocabulary import Vocabulary
from molvae.errors import DataError
from molvae.model_io.folder import save_model
from molvae.nn.vae import init_vae
from molvae.runtime.files import read_json
from molvae.stages.reference import reference
from molvae.stages.sample import sample_shard
from molvae.stages.validate import collect_metrics, validate, validate_shard

SETTINGS = ValidateSettings(reference="test")
SAMPLE_SETTINGS = SampleSettings(max_tokens=12, max_tries=2)
METRIC_KEYS = {
    *("name", "value", "interval", "standard_error", "n", "better", "reference"),
    *("implementation", "source", "description", "baselines"),
}


@pytest.fixture
def tokens(featurised):
    return featurised(train=20, valid=4)


@pytest.fixture
def folder(tmp_path, tokens, sizes):
    """The folder of a model of these tokens."""
    vocabulary = Vocabulary.from_json(read_json(tokens / "vocabulary.json"), "")
    card = {"settings": {"model": sizes.model_dump()}}
    save_model(tmp_path / "model", init_vae(len(vocabulary), sizes, 0), vocabulary, card)
    return tmp_path / "model"


@pytest.fixture
def samples(tmp_path):
    """Eight samples, so few that all their metrics can be computed by hand."""
    smiles = ["CCO", "OCC", "C", "", "C(C)(C)(C)(C)C", "[CH2]C", "C1CCCCCCCC1", "CC[NH3+]"]
    selfies = ["[C][C][O]", "[O][C][C]", "[C]", "[nop]", "[C]", "[CH2][C]", "[C]", "[C][C][NH3+1]"]
    pd.DataFrame({"index": range(8), "smiles": smiles, "selfies": selfies}).to_parquet(tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


def validate_in_shards(samples, tokens, folder, out, n_shards=1, settings=SETTINGS):
    """Validate samples in so many shards; returns the counts."""
    shards = [out.parent / f"{out.name}-{number}.parquet" for number in range(1, n_shards + 1)]
    for number, path in enumerate(shards, start=1):
        validate_shard(samples, path, shard=Shard(number, n_shards))
    return validate(shards, tokens, folder, settings, out, sample_settings=SAMPLE_SETTINGS, threads=1)


def read_metrics(out):
    """The content of a metrics.json, and its metrics by name."""
    content = json.loads((out / "metrics.json").read_text())
    return content, {metric["name"]: metric for metric in content["metrics"]}


def test_validation_metrics_are_those_computed_by_hand(tmp_path, samples, tokens, folder):
    counts = validate_in_shards(samples, tokens, folder, tmp_path / "out")
    assert (counts["rows_in"], counts["kept"], counts["duplicates"]) == (8, 5, 1)
    assert counts["rejected"] == {"empty": 1, "unphysical": 1}
    content, metrics = read_metrics(tmp_path / "out")
    assert content["n_samples"] == 8 and content["seed"] == 0 and content["temperature"] == 1
    assert {"torch", "rdkit", "selfies"} <= set(content["versions"])
    expected = {
        "round_trip_rate": 4 / 8,
        "valid": 6 / 8,
        "Novelty": 1,
        "radicals": 1 / 6,
        "large_rings": 1 / 6,
        "charged": 1 / 6,
    }
    assert {name: metrics[name]["value"] for name in expected} == pytest.approx(expected)
    assert content["not_computed"]["FCD/Test"] == "needs 1000 molecules, there are 6"
    assert content["not_computed"]["SNN/Test"] == "needs 100 molecules, there are 6"
    table = pd.read_parquet(tmp_path / "out" / "molecules.parquet")
    assert table["index"].tolist() == list(range(8))
    assert table["canonical"].tolist() == ["CCO", "CCO", "C", "", "", "[CH2]C", "C1CCCCCCCC1", "CC[NH3+]"]
    assert table["is_first"].tolist() == [True, False, True, False, False, True, True, True]
    assert table["reason"].tolist() == ["", "", "", "empty", "unphysical", "", "", ""]


def test_every_metric_describes_itself_and_stands_beside_its_baselines(tmp_path, samples, tokens, folder):
    settings = SETTINGS.model_copy(update={"latent_baselines": True})
    validate_in_shards(samples, tokens, folder, tmp_path / "out", settings=settings)
    _, metrics = read_metrics(tmp_path / "out")
    for name, metric in metrics.items():
        assert set(metric) == METRIC_KEYS
        assert metric["n"] <= 8, name
    baselines = {name: metric["baselines"] for name, metric in metrics.items()}
    of_all_metrics = {"random_baseline", "training_set_reference"}
    assert all(set(baselines[name]) == of_all_metrics for name in ("Filters", "GuacaMol/novelty", "Novelty_no_stereo"))
    of_the_model = {"shuffled_baseline", "unfiltered_samples", "aggregate_posterior"}
    for name in ("valid", "Novelty", "token_survival", "round_trip_rate"):
        assert set(baselines[name]) == of_all_metrics | of_the_model
    assert baselines["token_survival"]["training_set_reference"] == 1
    round_trip_rates = baselines["round_trip_rate"]
    assert round_trip_rates["training_set_reference"] == 1 > round_trip_rates["unfiltered_samples"]
    assert round_trip_rates["aggregate_posterior"] < 1  # of all strings that were decoded for it
    assert baselines["token_survival"]["random_baseline"] < 0.9
    assert baselines["Novelty"]["training_set_reference"] == 0
    assert collect_metrics(tmp_path / "out" / "metrics.json")["Novelty/training_set_reference"] == 0


@pytest.mark.parametrize("is_data_asked_for", [False, True])
def test_each_kind_of_baselines_is_computed_where_asked_for_and_the_same_alone(
    tmp_path, samples, tokens, folder, is_data_asked_for
):
    def compute(name, **update):
        validate_in_shards(samples, tokens, folder, tmp_path / name, settings=SETTINGS.model_copy(update=update))
        return {name: metric["baselines"] for name, metric in read_metrics(tmp_path / name)[1].items()}

    both = compute("both", baselines=True, latent_baselines=True)
    alone = compute("alone", baselines=is_data_asked_for, latent_baselines=not is_data_asked_for)
    of_latent_points = {"shuffled_baseline", "aggregate_posterior"}
    for name, values in alone.items():
        assert values == {
            key: value
            for key, value in both[name].items()
            if key == "held_out" or (key in of_latent_points) != is_data_asked_for
        }


def test_metrics_have_no_baselines_where_none_are_asked_for(tmp_path, samples, tokens, folder):
    settings = SETTINGS.model_copy(update={"baselines": False})
    validate_in_shards(samples, tokens, folder, tmp_path / "out", settings=settings)
    assert all(metric["baselines"] == {} for metric in read_metrics(tmp_path / "out")[1].values())


@pytest.mark.parametrize("n_shards", [2, 3, 11])
def test_validation_metrics_do_not_depend_on_the_number_of_shards(tmp_path, samples, tokens, folder, n_shards):
    whole = validate_in_shards(samples, tokens, folder, tmp_path / "whole")
    assert validate_in_shards(samples, tokens, folder, tmp_path / "parts", n_shards) == whole
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")
    tables = [pd.read_parquet(tmp_path / name / "molecules.parquet") for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*tables)


def test_samples_without_a_molecule_are_counted_and_have_no_metrics_of_molecules(tmp_path, tokens, folder):
    pd.DataFrame({"smiles": ["", "xx", ""], "selfies": ["", "", ""]}).to_parquet(tmp_path / "none.parquet")
    counts = validate_in_shards(tmp_path / "none.parquet", tokens, folder, tmp_path / "out")
    assert (counts["kept"], counts["rejected"]) == (0, {"empty": 2, "not_smiles": 1})
    content, metrics = read_metrics(tmp_path / "out")
    assert metrics["valid"]["value"] == metrics["GuacaMol/validity"]["value"] == metrics["token_survival"]["value"] == 0
    assert set(metrics) == {"valid", "GuacaMol/validity", "token_survival", "round_trip_rate"}
    assert content["not_computed"]["Novelty"] == "needs 1 molecules, there are 0"


def test_a_single_sample_in_two_shards_is_validated_once(tmp_path, tokens, folder):
    settings = SampleSettings(n=1, max_tokens=12)
    for number in (1, 2):
        sample_shard(folder, settings, tmp_path / f"{number}.parquet", shard=Shard(number, 2))
    table = pd.concat([pd.read_parquet(tmp_path / f"{number}.parquet") for number in (1, 2)])
    table.to_parquet(tmp_path / "samples.parquet")
    counts = validate_in_shards(tmp_path / "samples.parquet", tokens, folder, tmp_path / "out", n_shards=2)
    assert counts["rows_in"] == 1


def test_a_reference_that_is_no_split_is_an_error_that_names_the_nearest_split(tmp_path, samples, tokens, folder):
    settings = SETTINGS.model_copy(update={"reference": "tests"})
    with pytest.raises(DataError, match=r"validate\.reference: no split 'tests'\. Did you mean 'test'\?"):
        validate_in_shards(samples, tokens, folder, tmp_path / "out", settings=settings)


def test_a_model_of_different_tokens_is_refused_by_validate(tmp_path, samples, tokens, network, vocabulary, sizes):
    save_model(tmp_path / "different", network, vocabulary, {"settings": {"model": sizes.model_dump()}})
    with pytest.raises(DataError, match="not the tokens that .*different was trained on"):
        validate_in_shards(samples, tokens, tmp_path / "different", tmp_path / "out")


def test_training_molecules_are_described_for_comparison_with_the_samples(tmp_path, samples, tokens, folder):
    validate_in_shards(samples, tokens, folder, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "reference.parquet")
    training = pd.read_parquet(tokens / "molecules.parquet").query("split == 'train'")["smiles"]
    assert table["smiles"].tolist() == training.tolist()
    assert table["is_valid"].all() and (table["qed"] > 0).all()


def test_a_file_of_reference_molecules_takes_the_place_of_a_split(tmp_path, samples, tokens, folder):
    (tmp_path / "three.smi").write_text("CCO\nCCN\nc1ccccc1\n")
    reference(str(tmp_path / "three.smi"), tmp_path / "three.safetensors")
    validate_shard(samples, tmp_path / "shard.parquet")
    settings = ValidateSettings(reference=str(tmp_path / "three.smi"), baselines=False)
    assert not settings.reference_is_split
    validate(
        [tmp_path / "shard.parquet"],
        tokens,
        folder,
        settings,
        tmp_path / "out",
        sample_settings=SAMPLE_SETTINGS,
        references=tmp_path / "three.safetensors",
        threads=1,
    )
    assert "SNN/Test" in read_metrics(tmp_path / "out")[0]["not_computed"]


def test_validation_tables_whose_writing_breaks_off_leave_no_partial_file(
    tmp_path, samples, tokens, folder, monkeypatch
):
    to_parquet = pd.DataFrame.to_parquet

    def break_off(table, path, **options):
        to_parquet(table, path, **options)
        if broken.name in path.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", break_off)
    out = tmp_path / "out"
    for broken in (tmp_path / "out-1.parquet", out / "molecules.parquet", out / "reference.parquet"):
        with pytest.raises(OSError, match="No space"):
            validate_in_shards(samples, tokens, folder, out)
        assert not broken.exists()
