"""Stage `sample`: exactly n, the same from any number of shares."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from molvae import api as models
from molvae.chemistry.round_trip import is_stable
from molvae.chemistry.selfies_codec import split
from molvae.config import SampleSettings
from molvae.data.sharding import Share
from molvae.errors import DataError, ModelFileError, MolvaeError
from molvae.inference.sampling import CHUNK
from molvae.model_io.folder import save_model
from molvae.nn.property_head import PropertyHead
from molvae.stages.sample import sample, sample_block, sample_file

SETTINGS = SampleSettings(n=CHUNK + 60, seed=3, max_tokens=9, attempts=3)


def in_shares(folder, out, shares, settings=SETTINGS):
    blocks = [out.parent / f"{shares}-{number}.parquet" for number in range(1, shares + 1)]
    for number, block in enumerate(blocks, start=1):
        sample_block(folder, settings, block, share=Share(number, shares))
    return sample(blocks, settings, out)


def test_the_samples_do_not_depend_on_the_number_of_shares(folder, tmp_path):
    books = [in_shares(folder, tmp_path / f"of{shares}", shares) for shares in (1, 2, 5)]
    assert books[0] == books[1] == books[2]
    files = [(tmp_path / f"of{shares}" / "samples.parquet").read_bytes() for shares in (1, 2, 5)]
    assert files[0] == files[1] == files[2]


def test_each_sample_has_a_row_with_all_that_is_known_of_it(folder, tmp_path):
    books = in_shares(folder, tmp_path / "out", 1)
    table = pd.read_parquet(tmp_path / "out" / "samples.parquet")
    model = models.load(folder)
    assert table["index"].tolist() == list(range(SETTINGS.n)) and set(table["seed"]) == {3}
    assert table["smiles"].tolist() == model.sample(SETTINGS.n, seed=3, max_tokens=9, attempts=3)
    assert (table["tokens"] == table["selfies"].str.count(r"\[")).all()
    assert 0 < table["finished"].mean() < 1
    assert (table["log_probability"] < 0).all()
    assert not table["selfies"].str.contains("<").any()  # no special token is written
    assert books["kept"] == books["rows_in"] == SETTINGS.n
    assert table["attempts"].between(1, 3).all() and books["strings_written"] == table["attempts"].sum() > SETTINGS.n
    assert table["stable"].tolist() == [is_stable(split(one), model.vocabulary.caps) for one in table["selfies"]]
    assert table["stable"][table["attempts"] < 3].all() and books["stable"] == table["stable"].sum() > 0
    assert books["cut_at_max_tokens"] == (~table["finished"]).sum() > 0
    assert books == json.loads((tmp_path / "out" / "books.json").read_text())


def test_with_one_attempt_the_first_string_is_taken_and_nobody_asks_whether_it_is_stable(folder, tmp_path):
    books = in_shares(folder, tmp_path / "first", 1, SETTINGS.model_copy(update={"attempts": 1}))
    first = pd.read_parquet(tmp_path / "first" / "samples.parquet")
    in_shares(folder, tmp_path / "several", 1)
    several = pd.read_parquet(tmp_path / "several" / "samples.parquet")
    assert books["strings_written"] == SETTINGS.n and first["stable"].isna().all() and books["stable"] == 0
    kept = several["attempts"] == 1
    assert 0 < kept.sum() < SETTINGS.n
    assert first["selfies"][kept].tolist() == several["selfies"][kept].tolist()


def test_fewer_samples_than_shares_are_still_that_many(folder, tmp_path):
    few = SETTINGS.model_copy(update={"n": 2})
    assert in_shares(folder, tmp_path / "out", 4, few)["kept"] == 2
    assert len(pd.read_parquet(tmp_path / "out" / "samples.parquet")) == 2


def test_shares_that_are_missing_out_of_order_or_of_another_seed_are_refused(folder, tmp_path):
    halves = [tmp_path / f"{number}.parquet" for number in (1, 2)]
    for number, half in enumerate(halves, 1):
        sample_block(folder, SETTINGS, half, share=Share(number, 2))
    with pytest.raises(DataError, match="the blocks hold 286 samples, and 572 are asked for"):
        sample(halves[:1], SETTINGS, tmp_path / "out")
    with pytest.raises(DataError, match=r"2\.parquet: not the samples from number 0 on of seed 3"):
        sample(halves[::-1], SETTINGS, tmp_path / "out")
    with pytest.raises(DataError, match=r"1\.parquet: not the samples from number 0 on of seed 4"):
        sample(halves, SETTINGS.model_copy(update={"seed": 4}), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_place_that_cannot_be_written_is_said_before_anything_is_drawn(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("molvae.stages.sample.sample_prior", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        sample_file(folder, SETTINGS, str(tmp_path / "file" / "x.csv"))


@pytest.mark.parametrize("out", ["x.txt", "x", "x.csv.gz", ".csv"])
def test_a_file_of_another_kind_is_refused_before_the_model_is_opened(tmp_path, out):
    with pytest.raises(MolvaeError, match=r"give a name that ends in \.csv, \.parquet or \.smi, or - for stdout"):
        sample_file(tmp_path / "no model", SETTINGS, str(tmp_path / out))


def test_a_model_that_is_not_there_writes_no_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"model\.json: no such file"):
        sample_file(tmp_path / "no model", SETTINGS, str(tmp_path / "x.csv"))
    assert not list(tmp_path.iterdir())


def test_wanted_values_reach_the_samples_and_the_books(network, vocabulary, sizes, tmp_path):
    network.head = PropertyHead(["logp"], sizes.latent_dim)
    torch.nn.init.ones_(network.head.linear.weight)
    save_model(tmp_path / "model", network, vocabulary, {"settings": {"model": sizes.model_dump()}})
    wanted = SETTINGS.model_copy(update={"wanted": {"logp": 4.0}})
    books = in_shares(tmp_path / "model", tmp_path / "wanted", 2, wanted)
    found = pd.read_parquet(tmp_path / "wanted" / "samples.parquet")["smiles"].tolist()
    rules = {"seed": 3, "max_tokens": 9, "attempts": 3}
    assert found == models.load(tmp_path / "model").sample(SETTINGS.n, wanted={"logp": 4.0}, **rules)
    assert found != models.load(tmp_path / "model").sample(SETTINGS.n, **rules)
    assert books["wanted"] == {"logp": 4.0}
    assert "wanted" not in in_shares(tmp_path / "model", tmp_path / "any", 1)
