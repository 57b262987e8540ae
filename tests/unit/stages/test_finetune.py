"""Fine-tuning: what `featurize` and `train` take over from a trained model, and what they do about what it lacks."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from molvae.api import Model
from molvae.chemistry.selfies_codec import decode, encode
from molvae.chemistry.standardise import standardise
from molvae.chemistry.tokenization import bracketed
from molvae.config import DataSettings, FeaturizeSettings, ModelSettings, PriorSettings, StartSettings, TrainSettings
from molvae.data.token_store import read_tokens, read_variants
from molvae.data.vocabulary import SPECIAL, UNK, Vocabulary
from molvae.errors import DataError, Interrupted, ModelFileError, TrainingError
from molvae.model_io.folder import load_model, load_trained
from molvae.runtime.files import read_json, sha256
from molvae.stages import train as stage
from molvae.stages.featurize import featurize, featurize_block
from molvae.stages.fetch import fetch
from molvae.stages.prior import prior

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=2, batch_size=8, learning_rate=0.01, patience=9)
SELENIUM, IODINE, BORON = "CCC[Se]C", "OCc1ccccc1I", "OB(O)c1ccccc1"
HELD_OUT = {"CCCCO", "OCCN1CCNCC1", "CN(C)c1ccccc1", "CCOC(=O)c1ccccc1", "CC1CCCCC1O"}  # whose symbols others have, too
WITH_NEW = [(SELENIUM, "train"), (IODINE, "train"), (f"C{IODINE}", "train"), (BORON, "test")]


def tokens_of(folder, rows, name="tokens", start=None, **settings):
    """The token folder of (SMILES, split) rows."""
    chosen = FeaturizeSettings(**settings)
    (folder / f"{name}.tsv").write_text("\n".join(["SMILES\tSPLIT", *("\t".join(row) for row in rows)]) + "\n")
    fetch(DataSettings(source=str(folder / f"{name}.tsv")), folder / f"{name}-data.parquet")
    featurize_block(folder / f"{name}-data.parquet", chosen, folder / f"{name}-block.parquet", start=start)
    featurize([folder / f"{name}-block.parquet"], chosen, folder / name, start=start)
    return folder / name


def trained(folder, tokens, sizes, name, start=None, settings=SETTINGS, **more):
    """The model folder of a training on tokens."""
    where = {"checkpoints": folder / "checkpoints", "device": CPU, "threads": 1}
    stage.train(tokens, sizes, settings, folder / name, **where, start=start, **more)
    return folder / name


@pytest.fixture(scope="module")
def known(smiles):
    """(SMILES, split) rows of what the first model learns."""
    return [(one, "valid" if one in HELD_OUT else "train") for one in smiles]


@pytest.fixture(scope="module")
def origin(tmp_path_factory, known, sizes):
    """The model to start from: two epochs, merged tokens."""
    folder = tmp_path_factory.mktemp("origin")
    return trained(folder, tokens_of(folder, known), sizes, "model")


@pytest.fixture
def start(origin):
    """start(policy) are the settings."""
    return lambda unknown="extend": StartSettings(model=str(origin), unknown=unknown)


@pytest.fixture
def before_training(monkeypatch):
    """before_training(…) is the network as `trained(…)` would begin with it."""
    seen = []

    def stop(run, **more):
        seen.append(run.model)
        raise TrainingError("enough")

    def begin(*given, **more):
        monkeypatch.setattr(stage.Run, "fit", stop)
        with pytest.raises(TrainingError, match="enough"):
            trained(*given, **more)
        return seen[-1].eval()

    return begin


def vocabulary_in(tokens) -> Vocabulary:
    return Vocabulary.from_json(read_json(tokens / "vocabulary.json"), "")


def written(tokens) -> dict[str, list[str]]:
    """The symbols of each molecule of a token folder, by SMILES."""
    vocabulary, table = vocabulary_in(tokens), pd.read_parquet(tokens / "molecules.parquet")
    found = {}
    for split, part in read_tokens(tokens / "tokens.safetensors").items():
        for smiles, k in zip(table.loc[table["split"] == split, "smiles"], range(len(part)), strict=True):
            found[smiles] = vocabulary.text(part[k].tolist())
    return found


def assert_closed(tokens, rows: int) -> dict:
    """The books of a token folder, of which each row must be accounted for, by number and reason."""
    books = read_json(tokens / "books.json")
    rejected = pd.read_parquet(tokens / "rejected.parquet")
    kept = pd.read_parquet(tokens / "molecules.parquet")
    assert sorted([*kept["row"], *rejected["row"]]) == list(range(1, rows + 1))
    assert len(kept) == books["kept"] and Counter(rejected["reason"]) == Counter(books["rejected"])
    return books


# featurize


def test_an_extended_vocabulary_begins_with_the_models_own_and_every_molecule_is_kept(tmp_path, known, origin, start):
    tokens = tokens_of(tmp_path, [*known, *WITH_NEW], start=start())
    own, vocabulary = load_model(origin)[1], vocabulary_in(tokens)
    assert own.merges, "else this says nothing of them"
    assert vocabulary.symbols == (*own.symbols, "[I]", "[Se]")
    places = vocabulary.ids_of(own, "")
    assert [vocabulary.text([there]) for there in places] == [own.text([here]) for here in range(len(own))]
    assert len(vocabulary) == len(own) + 2 and set(range(len(vocabulary))) - set(places) == {
        *vocabulary.ids(["[I]", "[Se]"])
    }
    books = assert_closed(tokens, len(known) + 4)
    assert books["rejected"] == {} and books["kept"] == len(known) + 4
    assert books["new_symbols"] == {"[I]": 2, "[Se]": 1} and books["dropped_symbols"] == {}
    assert books["unknown_symbols"] == {"[B]": 1} and books["start"] == str(origin)
    spelt = written(tokens)
    for smiles, symbols in spelt.items():
        assert symbols == [one if one != "[B]" else SPECIAL[UNK] for one in bracketed(encode(smiles))]
    ids = read_tokens(tokens / "tokens.safetensors")["train"].ids
    merged = [k for k in ids if k >= len(SPECIAL) + len(vocabulary.symbols)]
    assert len(merged) > len(ids) / 4, "the merges are applied"


def test_a_new_element_has_the_bonds_that_rdkit_gives_it_and_an_old_one_those_of_the_model(tmp_path, known, origin):
    card = read_json(origin / "model.json")
    card["vocabulary"]["caps"]["S"] = 4  # not what this version would take
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.json").write_text(json.dumps(card))
    tokens = tokens_of(tmp_path, [*known, *WITH_NEW], start=StartSettings(model=str(tmp_path / "other")))
    caps = vocabulary_in(tokens).caps
    assert caps["Se"] == 6 and caps["S"] == 4 and "Se" not in card["vocabulary"]["caps"]
    assert standardise(decode(encode(standardise(SELENIUM)), caps)) == standardise(SELENIUM)


def test_molecules_of_unknown_symbols_are_dropped_by_name_in_every_split(tmp_path, known, origin, start):
    tokens = tokens_of(tmp_path, [*known, *WITH_NEW, ("CC[Se]B", "train")], start=start("drop"))
    assert vocabulary_in(tokens) == load_model(origin)[1]
    books = assert_closed(tokens, len(known) + 5)
    assert books["rejected"] == {"unknown_symbol": 5} and books["kept"] == len(known)
    assert books["dropped_symbols"] == {"[Se]": 2, "[I]": 2, "[B]": 2}
    rejected = pd.read_parquet(tokens / "rejected.parquet")
    assert dict(zip(rejected["smiles"], rejected["detail"], strict=True))[BORON] == "[B]"
    assert books["unknown_symbols"] == {} == books["new_symbols"]


def test_a_variant_with_a_symbol_that_is_unknown_is_the_canonical_string(tmp_path, origin, start):
    rows = [("C[C@H](N)C(=O)O", "train"), ("CCO", "valid")]  # from its other end [C@@H1] stands in it
    own = load_model(origin)[1]
    free = tokens_of(tmp_path, rows, "free", variants=16)
    assert set(vocabulary_in(free).symbols) - set(own.symbols) == {"[C@@H1]"}
    tokens = tokens_of(tmp_path, rows, "dropped", start("drop"), variants=16)
    assert UNK not in read_variants(tokens / "tokens.safetensors").ids
    assert 0 < read_json(tokens / "books.json")["variants_replaced_by_canonical"] < 16


def test_unknown_symbols_may_be_an_error_that_names_them(tmp_path, known, start):
    with pytest.raises(
        DataError, match=r"does not know all symbols of the molecules: \[I\] 2, .*Set start\.unknown to"
    ):
        tokens_of(tmp_path, [*known, *WITH_NEW], start=start("error"))
    assert not (tmp_path / "tokens").exists()
    assert read_json(tokens_of(tmp_path, known, start=start("error")) / "books.json")["kept"] == len(known)


def test_if_all_molecules_are_dropped_the_error_says_for_what(tmp_path, start):
    with pytest.raises(DataError, match="no molecule is left to train on. Rows by reason: unknown_symbol: 4"):
        tokens_of(tmp_path, WITH_NEW, start=start("drop"))


def test_a_data_set_without_anything_new_keeps_the_vocabulary_as_it_is(tmp_path, known, origin, start):
    own = load_model(origin)[1]
    for policy in ("extend", "drop", "error"):
        assert vocabulary_in(tokens_of(tmp_path, known[::2], policy, start(policy))) == own


def test_other_rules_than_the_models_are_named(tmp_path, known, start, caplog):
    tokens_of(tmp_path, known, start=start())
    assert "was" not in caplog.text
    tokens_of(tmp_path, known, name="stripped", start=start(), stereo="strip")
    assert f"featurize.stereo is strip here and was keep for {start().model}" in caplog.text


def test_without_a_model_to_start_from_the_section_does_nothing(tmp_path, known):
    none = StartSettings(unknown="drop")
    one, other = tokens_of(tmp_path, [*known, *WITH_NEW], "a"), tokens_of(tmp_path, [*known, *WITH_NEW], "b", none)
    for name in ("tokens.safetensors", "vocabulary.json", "molecules.parquet", "rejected.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_model_to_start_from_that_cannot_be_read_is_named(tmp_path, known, sizes, damaged):
    nowhere = StartSettings(model=str(tmp_path / "nowhere"))
    if damaged:
        (tmp_path / "nowhere").mkdir()
        (tmp_path / "nowhere" / "model.json").write_text("[]")
    message = r"nowhere/model\.json: " + ("format None" if damaged else r"no such file\. A model folder holds")
    with pytest.raises(ModelFileError, match=message):
        tokens_of(tmp_path, known, start=nowhere)
    with pytest.raises(ModelFileError, match=message):
        trained(tmp_path, tokens_of(tmp_path, known), sizes, "model", nowhere)


# train


def test_with_nothing_new_training_begins_with_the_very_model(tmp_path, known, origin, start, before_training):
    other = ModelSettings(embedding_dim=3, decoder_hidden=4)  # of the config, and without effect
    tokens = tokens_of(tmp_path, known, start=start())
    network = before_training(tmp_path, tokens, other, "model", start())
    model, vocabulary, card = load_model(origin)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, network.state_dict()[name]), name
    ready = [row[0] for row in known]
    one, again = Model(model, vocabulary, card), Model(network, vocabulary_in(tokens), card)
    points = one.encode(ready)
    assert all(map(np.array_equal, points, again.encode(ready)))
    assert one.decode(points[0]) == again.decode(points[0])


def test_new_tokens_get_rows_of_their_own_and_old_ones_keep_theirs(tmp_path, known, origin, start, before_training):
    tokens = tokens_of(tmp_path, [*known, *WITH_NEW], start=start())
    network = before_training(tmp_path, tokens, ModelSettings(), "model", start())
    model, own, _ = load_model(origin)
    vocabulary = vocabulary_in(tokens)
    by_text = {tuple(vocabulary.text([k])): k for k in range(UNK, len(vocabulary))}
    there = [0, 1, 2, *(by_text[tuple(own.text([k]))] for k in range(UNK, len(own)))]  # found by what they stand for
    new = vocabulary.ids(["[I]", "[Se]"])
    for name, weights in model.state_dict().items():
        larger = network.state_dict()[name]
        if weights.shape == larger.shape:
            assert torch.equal(weights, larger), name
        else:
            assert torch.equal(larger[there], weights), name
            torch.testing.assert_close(larger[new], weights[len(SPECIAL) :].mean(0).expand_as(larger[new]))
    z = torch.randn(50, model.latent_dim, generator=torch.Generator().manual_seed(0))
    before = model.decoder(torch.full((1, 50), by_text["[C]",]), z)[0]
    after = network.decoder(torch.full((1, 50), by_text["[C]",]), z)[0]
    torch.testing.assert_close(after[:, there], before)
    chances = after.softmax(-1)
    assert (chances[:, new] <= chances[:, there[len(SPECIAL) :]].mean(-1, keepdim=True) * (1 + 1e-5)).all()


def test_the_card_of_a_model_says_what_it_started_from_and_its_true_networks(
    tmp_path, known, origin, start, sizes, caplog
):
    caplog.set_level("INFO")
    tokens = tokens_of(tmp_path, [*known, *WITH_NEW], start=start())
    folder = trained(tmp_path, tokens, ModelSettings(decoder_hidden=7), "model", start())
    network, vocabulary, card = load_model(folder)
    assert card["settings"]["model"] == sizes.model_dump() and card["settings"]["start"] == start().model_dump()
    assert card["lineage"]["start"] == str(origin)
    assert card["lineage"]["start_sha256"] == sha256(origin / "model.safetensors")
    assert vocabulary == vocabulary_in(tokens) and network.vocabulary_size == len(vocabulary)
    assert card["metrics"]["valid_loss_nats"] < card["metrics_before"]["valid_loss_nats"]
    assert f"starting from {origin}: its weights, its networks (the section `model` does not count)" in caplog.text
    assert f"2 of {len(vocabulary)} tokens are new" in caplog.text
    assert f"before training: held-out {card['metrics_before']['valid_loss_nats']:.2f} nats" in caplog.text
    assert "no likelier" not in caplog.text
    first = load_model(origin)[2]
    assert first["lineage"]["id"] != card["lineage"]["id"] and "start" not in first["lineage"]
    assert "metrics_before" not in first and "start" not in first["settings"]


def test_a_training_that_gains_nothing_says_so(tmp_path, known, start, sizes, caplog):
    settings = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 1.0})
    trained(tmp_path, tokens_of(tmp_path, known, start=start()), sizes, "model", start(), settings)
    assert "held-out molecules are no likelier than before training" in caplog.text


def test_a_checkpoint_of_another_start_is_not_taken_up_and_one_of_the_same_is(tmp_path, known, start, sizes, caplog):
    caplog.set_level("INFO")
    tokens = tokens_of(tmp_path, known, start=start())
    whole = trained(tmp_path, tokens, sizes, "whole", start())
    other = trained(tmp_path, tokens, sizes, "other", start(), SETTINGS.model_copy(update={"seed": 1}))
    with pytest.raises(Interrupted):
        trained(tmp_path, tokens, sizes, "a", start(), on_epoch=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
    caplog.clear()
    trained(tmp_path, tokens, sizes, "b", StartSettings(model=str(other)))
    assert "going on from" not in caplog.text
    resumed = trained(tmp_path, tokens, sizes, "a", start())
    assert "going on from" in caplog.text
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_tokens_of_another_vocabulary_than_the_models_are_refused(tmp_path, known, start, sizes):
    tokens = tokens_of(tmp_path, [*known, *WITH_NEW])
    with pytest.raises(
        ModelFileError, match=r"vocabulary\.json: does not begin with the symbols, merges and bonding caps"
    ):
        trained(tmp_path, tokens, sizes, "model", start())


def test_a_prior_that_was_fitted_to_the_model_is_left_behind_and_that_of_training_goes_on(
    tmp_path, known, sizes, before_training
):
    learned = sizes.model_copy(update={"prior": "vamp", "prior_components": 3})
    tokens = tokens_of(tmp_path, known)
    origin = trained(tmp_path, tokens, learned, "origin")
    prior(tokens, origin, PriorSettings(kind="flow", draws=1000, steps=2), threads=1)
    assert type(load_model(origin)[0].prior).__name__ == "Flow"
    network = before_training(tmp_path, tokens, sizes, "model", StartSettings(model=str(origin)))
    for name, weights in load_trained(origin)[0].prior.state_dict().items():
        assert torch.equal(weights, network.prior.state_dict()[name]), name


def test_properties_go_on_from_a_model_with_them_or_without_but_do_not_change(
    tmp_path, known, start, sizes, before_training
):
    tokens = tokens_of(tmp_path, known, start=start(), properties=["logp", "tpsa"])
    first = StartSettings(model=str(trained(tmp_path, tokens, sizes, "first", start())))  # from a model without
    head = load_model(tmp_path / "first")[0].head
    assert head.names == ("logp", "tpsa") and head.linear.weight.abs().min() > 0
    rows = [(one, split) for one, split in known if split == "valid" or len(one) < 12]
    others = tokens_of(tmp_path, rows, "others", start=first, properties=["logp", "tpsa"])
    network = before_training(tmp_path, others, sizes, "second", first)
    assert network.head.names == head.names
    for name, weights in head.state_dict().items():  # what it standardises by, too
        assert torch.equal(weights, network.head.state_dict()[name]), name
    for properties, said in (([], "none"), (["tpsa", "logp"], "tpsa, logp")):
        other = tokens_of(tmp_path, known, "other", start=first, properties=properties)
        with pytest.raises(TrainingError, match=rf"properties {said}, but the .* to \[logp, tpsa\] and featurize"):
            trained(tmp_path, other, sizes, "third", first)
