"""Stage `sample`: exactly n samples, the same from any number of shards."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow
import pytest
import torch

import molvae
from molvae.chemistry.round_trip import is_round_trip
from molvae.chemistry.selfies_codec import split_selfies
from molvae.config import SampleSettings
from molvae.data.sharding import Shard
from molvae.errors import DataError, ModelFileError, MolvaeError
from molvae.inference.sampling import CHUNK_SIZE
from molvae.model_io.folder import save_model
from molvae.nn.property_head import PropertyHead
from molvae.stages.sample import _protect_texts, sample, sample_shard, sample_to_file

SETTINGS = SampleSettings(n=CHUNK_SIZE + 60, seed=3, max_tokens=9, max_tries=3)


def sample_in_shards(folder, out, n_shards, settings=SETTINGS):
    """Sample in so many shards; returns the counts."""
    shards = [out.parent / f"{n_shards}-{number}.parquet" for number in range(1, n_shards + 1)]
    for number, path in enumerate(shards, start=1):
        sample_shard(folder, settings, path, shard=Shard(number, n_shards))
    return sample(shards, settings, out)


def test_samples_do_not_depend_on_the_number_of_shards(folder, tmp_path):
    counts = [sample_in_shards(folder, tmp_path / f"of{n_shards}", n_shards) for n_shards in (1, 2, 5)]
    assert counts[0] == counts[1] == counts[2]
    files = [(tmp_path / f"of{n_shards}" / "samples.parquet").read_bytes() for n_shards in (1, 2, 5)]
    assert files[0] == files[1] == files[2]


def test_each_sample_has_a_row_with_its_string_tries_and_log_probability(folder, tmp_path):
    counts = sample_in_shards(folder, tmp_path / "out", 1)
    table = pd.read_parquet(tmp_path / "out" / "samples.parquet")
    model = molvae.load(folder)
    assert table["index"].tolist() == list(range(SETTINGS.n)) and set(table["seed"]) == {3}
    assert table["smiles"].tolist() == model.sample(SETTINGS.n, seed=3, max_tokens=9, max_tries=3)
    assert (table["tokens"] == table["selfies"].str.count(r"\[")).all()
    assert 0 < table["finished"].mean() < 1
    assert (table["log_probability"] < 0).all()
    assert not table["selfies"].str.contains("<").any()  # no special token is written
    assert counts["kept"] == counts["rows_in"] == SETTINGS.n
    assert table["tries"].between(1, 3).all() and counts["strings_decoded"] == table["tries"].sum() > SETTINGS.n
    assert table["round_trip"].tolist() == [
        is_round_trip(split_selfies(string), model.vocabulary.constraints) for string in table["selfies"]
    ]
    assert table["round_trip"][table["tries"] < 3].all() and counts["round_trips"] == table["round_trip"].sum() > 0
    assert counts["truncated"] == (~table["finished"]).sum() > 0
    assert counts == json.loads((tmp_path / "out" / "counts.json").read_text())


def test_samples_with_a_single_try_are_the_first_strings_and_their_round_trip_is_not_tested(folder, tmp_path):
    counts = sample_in_shards(folder, tmp_path / "single", 1, SETTINGS.model_copy(update={"max_tries": 1}))
    single = pd.read_parquet(tmp_path / "single" / "samples.parquet")
    sample_in_shards(folder, tmp_path / "several", 1)
    several = pd.read_parquet(tmp_path / "several" / "samples.parquet")
    assert counts["strings_decoded"] == SETTINGS.n and single["round_trip"].isna().all() and counts["round_trips"] == 0
    is_first_string = several["tries"] == 1
    assert 0 < is_first_string.sum() < SETTINGS.n
    assert single["selfies"][is_first_string].tolist() == several["selfies"][is_first_string].tolist()


def test_fewer_samples_than_shards_are_exactly_as_many_as_asked_for(folder, tmp_path):
    settings = SETTINGS.model_copy(update={"n": 2})
    assert sample_in_shards(folder, tmp_path / "out", 4, settings)["kept"] == 2
    assert len(pd.read_parquet(tmp_path / "out" / "samples.parquet")) == 2


def test_sample_shards_that_are_missing_out_of_order_or_of_another_seed_are_refused(folder, tmp_path):
    halves = [tmp_path / f"{number}.parquet" for number in (1, 2)]
    for number, half in enumerate(halves, 1):
        sample_shard(folder, SETTINGS, half, shard=Shard(number, 2))
    with pytest.raises(DataError, match="the shards hold 286 samples, and 572 are asked for"):
        sample(halves[:1], SETTINGS, tmp_path / "out")
    with pytest.raises(DataError, match=r"2\.parquet: not the samples from number 0 on of seed 3"):
        sample(halves[::-1], SETTINGS, tmp_path / "out")
    with pytest.raises(DataError, match=r"1\.parquet: not the samples from number 0 on of seed 4"):
        sample(halves, SETTINGS.model_copy(update={"seed": 4}), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_sample_file_that_cannot_be_written_is_an_error_before_anything_is_drawn(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("molvae.stages.sample.sample_prior", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        sample_to_file(folder, SETTINGS, str(tmp_path / "file" / "x.csv"))


@pytest.mark.parametrize("out", ["x.txt", "x", "x.csv.gz", ".csv"])
def test_a_sample_file_with_another_suffix_is_refused_before_the_model_is_opened(tmp_path, out):
    with pytest.raises(MolvaeError, match=r"give a name that ends in \.csv, \.parquet or \.smi, or - for stdout"):
        sample_to_file(tmp_path / "no model", SETTINGS, str(tmp_path / out))


def test_sampling_from_a_missing_model_writes_no_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"model\.json: no such file"):
        sample_to_file(tmp_path / "no model", SETTINGS, str(tmp_path / "x.csv"))
    assert not list(tmp_path.iterdir())


def test_target_properties_reach_the_samples_and_the_counts(network, vocabulary, sizes, tmp_path):
    network.head = PropertyHead(["logp"], sizes.latent_dim)
    torch.nn.init.ones_(network.head.linear.weight)
    save_model(tmp_path / "model", network, vocabulary, {"settings": {"model": sizes.model_dump()}})
    settings = SETTINGS.model_copy(update={"target_properties": {"logp": 4.0}})
    counts = sample_in_shards(tmp_path / "model", tmp_path / "conditioned", 2, settings)
    smiles = pd.read_parquet(tmp_path / "conditioned" / "samples.parquet")["smiles"].tolist()
    options = {"seed": 3, "max_tokens": 9, "max_tries": 3}
    assert smiles == molvae.load(tmp_path / "model").sample(SETTINGS.n, target_properties={"logp": 4.0}, **options)
    assert smiles != molvae.load(tmp_path / "model").sample(SETTINGS.n, **options)
    assert counts["target_properties"] == {"logp": 4.0}
    assert "target_properties" not in sample_in_shards(tmp_path / "model", tmp_path / "any", 1)


def test_texts_of_samples_in_csv_are_no_formulas_and_numbers_stay_numbers():
    table = pyarrow.table({"smiles": ["CCO", "=C", ""], "log_probability": [-1.5, -2.0, None]})
    protected = _protect_texts(table)
    assert protected.schema == table.schema
    assert protected.to_pydict() == {"smiles": ["CCO", "'=C", ""], "log_probability": [-1.5, -2.0, None]}
