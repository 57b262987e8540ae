"""Fine-tuning: what `featurize` and `train` take from a trained model, and what they do about symbols that it lacks."""

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
from molvae.chemistry.selfies_codec import decode_selfies, encode_smiles
from molvae.chemistry.standardise import standardise
from molvae.config import DataSettings, FeaturizeSettings, FinetuneSettings, ModelSettings, PriorSettings, TrainSettings
from molvae.data.token_store import TokenStore
from molvae.data.tokenizer import tokenize_smiles
from molvae.data.vocabulary import SPECIAL, UNK, Vocabulary
from molvae.errors import DataError, Interrupted, ModelFileError, TrainingError
from molvae.model_io.folder import load_model, load_model_as_trained
from molvae.runtime.files import compute_sha256, read_json
from molvae.stages import train as stage
from molvae.stages.featurize import featurize, featurize_shard
from molvae.stages.fetch import fetch
from molvae.stages.prior import prior

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=2, batch_size=8, learning_rate=0.01, patience=9)
SELENIUM, IODINE, BORON = "CCC[Se]C", "OCc1ccccc1I", "OB(O)c1ccccc1"
HELD_OUT = {  # molecules without a symbol of their own
    "CCCCO",
    "OCCN1CCNCC1",
    "CN(C)c1ccccc1",
    "CCOC(=O)c1ccccc1",
    "CC1CCCCC1O",
}
NEW_ROWS = [(SELENIUM, "train"), (IODINE, "train"), (f"C{IODINE}", "train"), (BORON, "test")]


def featurize_rows(folder, rows, name="tokens", finetune=None, **settings):
    """Featurise (SMILES, split) rows into the token folder of that name."""
    featurize_settings = FeaturizeSettings(**settings)
    (folder / f"{name}.tsv").write_text("\n".join(["SMILES\tSPLIT", *("\t".join(row) for row in rows)]) + "\n")
    fetch(DataSettings(source=str(folder / f"{name}.tsv")), folder / f"{name}-data.parquet")
    shard = folder / f"{name}-shard.parquet"
    featurize_shard(folder / f"{name}-data.parquet", featurize_settings, shard, finetune=finetune)
    featurize([shard], featurize_settings, folder / name, finetune=finetune)
    return folder / name


def train(folder, tokens, sizes, name, finetune=None, settings=SETTINGS, **options):
    """Train on tokens into the model folder of that name."""
    shared = {"checkpoints": folder / "checkpoints", "device": CPU, "threads": 1}
    stage.train(tokens, sizes, settings, folder / name, **shared, finetune=finetune, **options)
    return folder / name


@pytest.fixture(scope="module")
def base_rows(smiles):
    """(SMILES, split) rows of what the base model learns."""
    return [(text, "valid" if text in HELD_OUT else "train") for text in smiles]


@pytest.fixture(scope="module")
def base(tmp_path_factory, base_rows, sizes):
    """The folder of the model to fine-tune: two epochs, merged tokens."""
    folder = tmp_path_factory.mktemp("base")
    return train(folder, featurize_rows(folder, base_rows), sizes, "model")


@pytest.fixture
def finetune(base):
    """The settings that fine-tune it."""
    return FinetuneSettings(model=str(base))


@pytest.fixture
def initial_network(monkeypatch):
    """A function that gives the network that `train` begins with, before its first step."""
    networks = []

    def stop(trainer, **_):
        networks.append(trainer.model)
        raise TrainingError("stopped before the first step")

    def begin(*arguments, **options):
        monkeypatch.setattr(stage.Trainer, "fit", stop)
        with pytest.raises(TrainingError, match="stopped before the first step"):
            train(*arguments, **options)
        return networks[-1].eval()

    return begin


def with_policy(finetune, unknown_symbols) -> FinetuneSettings:
    return finetune.model_copy(update={"unknown_symbols": unknown_symbols})


def read_vocabulary(tokens) -> Vocabulary:
    return Vocabulary.from_json(read_json(tokens / "vocabulary.json"), "")


def read_splits(tokens):
    return TokenStore.open(tokens / "tokens.safetensors").splits


def read_symbols(tokens) -> dict[str, list[str]]:
    """The symbols of each molecule of a token folder, by SMILES."""
    vocabulary, table = read_vocabulary(tokens), pd.read_parquet(tokens / "molecules.parquet")
    symbols = {}
    for split, part in read_splits(tokens).items():
        for smiles, k in zip(table.loc[table["split"] == split, "smiles"], range(len(part)), strict=True):
            symbols[smiles] = vocabulary.decode(part[k].tolist())
    return symbols


def read_closed_counts(tokens, n_rows: int) -> dict:
    """The counts of a token folder, in which each row must be accounted for, by number and reason."""
    counts = read_json(tokens / "counts.json")
    rejected = pd.read_parquet(tokens / "rejected.parquet")
    kept = pd.read_parquet(tokens / "molecules.parquet")
    assert sorted([*kept["row"], *rejected["row"]]) == list(range(1, n_rows + 1))
    assert len(kept) == counts["kept"] and Counter(rejected["reason"]) == Counter(counts["rejected"])
    return counts


# featurize


def test_an_extended_vocabulary_begins_with_that_of_the_base_model_and_every_molecule_is_kept(
    tmp_path, base_rows, base, finetune
):
    tokens = featurize_rows(tmp_path, [*base_rows, *NEW_ROWS], finetune=finetune)
    base_vocabulary, vocabulary = load_model(base)[1], read_vocabulary(tokens)
    assert base_vocabulary.merges, "without merges this test says nothing of them"
    assert vocabulary.symbols == (*base_vocabulary.symbols, "[I]", "[Se]")
    ids = vocabulary.map_ids_from(base_vocabulary, "")
    assert [vocabulary.decode([new]) for new in ids] == [
        base_vocabulary.decode([old]) for old in range(len(base_vocabulary))
    ]
    new_ids = {*vocabulary.encode(["[I]", "[Se]"])}
    assert len(vocabulary) == len(base_vocabulary) + 2 and set(range(len(vocabulary))) - set(ids) == new_ids
    counts = read_closed_counts(tokens, len(base_rows) + 4)
    assert counts["rejected"] == {} and counts["kept"] == len(base_rows) + 4
    assert counts["new_symbols"] == {"[I]": 2, "[Se]": 1} and counts["dropped_symbols"] == {}
    assert counts["unknown_symbols"] == {"[B]": 1} and counts["base_model"] == str(base)
    for smiles, symbols in read_symbols(tokens).items():
        assert symbols == [symbol if symbol != "[B]" else SPECIAL[UNK] for symbol in tokenize_smiles(smiles)]
    token_ids = read_splits(tokens)["train"].ids
    merged = [k for k in token_ids if k >= len(SPECIAL) + len(vocabulary.symbols)]
    assert len(merged) > len(token_ids) / 4, "the merges are not applied"


def test_a_new_element_has_the_bonds_that_rdkit_gives_it_and_a_known_one_those_of_the_base_model(
    tmp_path, base_rows, base
):
    card = read_json(base / "model.json")
    card["vocabulary"]["constraints"]["S"] = 4  # not what this version would choose
    (tmp_path / "changed").mkdir()
    card.pop("checksums", None)
    (tmp_path / "changed" / "model.json").write_text(json.dumps(card))
    finetune = FinetuneSettings(model=str(tmp_path / "changed"))
    constraints = read_vocabulary(featurize_rows(tmp_path, [*base_rows, *NEW_ROWS], finetune=finetune)).constraints
    assert constraints["Se"] == 6 and constraints["S"] == 4 and "Se" not in card["vocabulary"]["constraints"]
    assert standardise(decode_selfies(encode_smiles(standardise(SELENIUM)), constraints)) == standardise(SELENIUM)


def test_molecules_with_unknown_symbols_are_dropped_in_every_split_and_the_symbols_named(
    tmp_path, base_rows, base, finetune
):
    rows = [*base_rows, *NEW_ROWS, ("CC[Se]B", "train")]
    tokens = featurize_rows(tmp_path, rows, finetune=with_policy(finetune, "drop"))
    assert read_vocabulary(tokens) == load_model(base)[1]
    counts = read_closed_counts(tokens, len(base_rows) + 5)
    assert counts["rejected"] == {"unknown_symbol": 5} and counts["kept"] == len(base_rows)
    assert counts["dropped_symbols"] == {"[Se]": 2, "[I]": 2, "[B]": 2}
    rejected = pd.read_parquet(tokens / "rejected.parquet")
    assert dict(zip(rejected["smiles"], rejected["detail"], strict=True))[BORON] == "[B]"
    assert counts["unknown_symbols"] == {} == counts["new_symbols"]


def test_an_augmentation_with_an_unknown_symbol_is_the_canonical_string(tmp_path, base, finetune):
    rows = [("C[C@H](N)C(=O)O", "train"), ("CCO", "valid")]  # read from its other end it holds [C@@H1]
    extended = featurize_rows(tmp_path, rows, "extended", augmentations=16)
    assert set(read_vocabulary(extended).symbols) - set(load_model(base)[1].symbols) == {"[C@@H1]"}
    tokens = featurize_rows(tmp_path, rows, "dropped", with_policy(finetune, "drop"), augmentations=16)
    assert UNK not in TokenStore.open(tokens / "tokens.safetensors").augmentations.ids
    assert 0 < read_json(tokens / "counts.json")["augmentations_replaced_by_canonical"] < 16


def test_unknown_symbols_may_be_an_error_that_names_them(tmp_path, base_rows, finetune):
    policy = with_policy(finetune, "error")
    message = r"does not know all symbols of the molecules: \[I\] 2, .*Set finetune\.unknown_symbols to"
    with pytest.raises(DataError, match=message):
        featurize_rows(tmp_path, [*base_rows, *NEW_ROWS], finetune=policy)
    assert not (tmp_path / "tokens").exists()
    tokens = featurize_rows(tmp_path, base_rows, finetune=policy)
    assert read_json(tokens / "counts.json")["kept"] == len(base_rows)


def test_data_whose_molecules_are_all_dropped_for_unknown_symbols_are_an_error_with_the_reason(tmp_path, finetune):
    with pytest.raises(DataError, match="no molecule is left to train on. Rows by reason: unknown_symbol: 4"):
        featurize_rows(tmp_path, NEW_ROWS, finetune=with_policy(finetune, "drop"))


@pytest.mark.parametrize("policy", ["extend", "drop", "error"])
def test_data_without_a_new_symbol_keep_the_vocabulary_of_the_base_model(tmp_path, base_rows, base, finetune, policy):
    tokens = featurize_rows(tmp_path, base_rows[::2], finetune=with_policy(finetune, policy))
    assert read_vocabulary(tokens) == load_model(base)[1]


def test_featurize_settings_that_differ_from_those_of_the_base_model_are_named(tmp_path, base_rows, finetune, caplog):
    featurize_rows(tmp_path, base_rows, finetune=finetune)
    assert "was" not in caplog.text
    featurize_rows(tmp_path, base_rows, "stripped", finetune, stereo="strip")
    assert f"featurize.stereo is strip here and was keep for {finetune.model}" in caplog.text


def test_finetune_settings_without_a_model_change_no_file(tmp_path, base_rows):
    rows = [*base_rows, *NEW_ROWS]
    without = featurize_rows(tmp_path, rows, "without")
    with_policy_only = featurize_rows(tmp_path, rows, "policy", FinetuneSettings(unknown_symbols="drop"))
    for name in ("tokens.safetensors", "vocabulary.json", "molecules.parquet", "rejected.parquet"):
        assert (without / name).read_bytes() == (with_policy_only / name).read_bytes()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_base_model_that_cannot_be_read_is_an_error_that_names_its_file(tmp_path, base_rows, sizes, damaged):
    missing = FinetuneSettings(model=str(tmp_path / "nowhere"))
    if damaged:
        (tmp_path / "nowhere").mkdir()
        (tmp_path / "nowhere" / "model.json").write_text("[]")
    message = r"nowhere/model\.json: " + ("format None" if damaged else r"no such file\. A model folder holds")
    with pytest.raises(ModelFileError, match=message):
        featurize_rows(tmp_path, base_rows, finetune=missing)
    with pytest.raises(ModelFileError, match=message):
        train(tmp_path, featurize_rows(tmp_path, base_rows), sizes, "model", missing)


# train


def test_fine_tuning_without_a_new_symbol_begins_with_exactly_the_base_model(
    tmp_path, base_rows, base, finetune, initial_network
):
    ignored_sizes = ModelSettings(embedding_dim=3, decoder_hidden=4)
    tokens = featurize_rows(tmp_path, base_rows, finetune=finetune)
    network = initial_network(tmp_path, tokens, ignored_sizes, "model", finetune)
    base_network, base_vocabulary, card = load_model(base)
    for name, weights in base_network.state_dict().items():
        assert torch.equal(weights, network.state_dict()[name]), name
    smiles = [row[0] for row in base_rows]
    before, after = Model(base_network, base_vocabulary, card), Model(network, read_vocabulary(tokens), card)
    points = before.encode(smiles)
    assert all(map(np.array_equal, points, after.encode(smiles)))
    assert before.decode(points[0]) == after.decode(points[0])


def test_new_tokens_get_rows_of_their_own_and_known_ones_keep_theirs(
    tmp_path, base_rows, base, finetune, initial_network
):
    tokens = featurize_rows(tmp_path, [*base_rows, *NEW_ROWS], finetune=finetune)
    network = initial_network(tmp_path, tokens, ModelSettings(), "model", finetune)
    base_network, base_vocabulary, _ = load_model(base)
    vocabulary = read_vocabulary(tokens)
    id_by_symbols = {tuple(vocabulary.decode([k])): k for k in range(UNK, len(vocabulary))}
    # the new id of each known token, by the symbols that it stands for
    known = [0, 1, 2, *(id_by_symbols[tuple(base_vocabulary.decode([k]))] for k in range(UNK, len(base_vocabulary)))]
    new = vocabulary.encode(["[I]", "[Se]"])
    for name, weights in base_network.state_dict().items():
        larger = network.state_dict()[name]
        if weights.shape == larger.shape:
            assert torch.equal(weights, larger), name
        else:
            assert torch.equal(larger[known], weights), name
            torch.testing.assert_close(larger[new], weights[len(SPECIAL) :].mean(0).expand_as(larger[new]))
    z = torch.randn(50, base_network.latent_dim, generator=torch.Generator().manual_seed(0))
    inputs = torch.full((1, 50), id_by_symbols[("[C]",)])
    before, after = base_network.decoder(inputs, z)[0], network.decoder(inputs, z)[0]
    torch.testing.assert_close(after[:, known], before)
    probabilities = after.softmax(-1)
    mean_known = probabilities[:, known[len(SPECIAL) :]].mean(-1, keepdim=True)
    assert (probabilities[:, new] <= mean_known * (1 + 1e-5)).all()


def test_the_card_of_a_fine_tuned_model_names_its_base_model_and_its_actual_sizes(
    tmp_path, base_rows, base, finetune, sizes, caplog
):
    caplog.set_level("INFO")
    tokens = featurize_rows(tmp_path, [*base_rows, *NEW_ROWS], finetune=finetune)
    folder = train(tmp_path, tokens, ModelSettings(decoder_hidden=7), "model", finetune)
    network, vocabulary, card = load_model(folder)
    assert card["settings"]["model"] == sizes.model_dump() and card["settings"]["finetune"] == finetune.model_dump()
    assert card["provenance"]["base_model"] == str(base)
    assert card["provenance"]["base_model_sha256"] == compute_sha256(base / "model.safetensors")
    assert vocabulary == read_vocabulary(tokens) and network.vocabulary_size == len(vocabulary)
    assert card["metrics"]["valid_loss_nats"] < card["metrics_before"]["valid_loss_nats"]
    assert f"fine-tuning {base}: its weights, its networks (the section `model` does not count)" in caplog.text
    assert f"2 of {len(vocabulary)} tokens are new" in caplog.text
    assert f"before training: held-out {card['metrics_before']['valid_loss_nats']:.2f} nats" in caplog.text
    assert "no likelier" not in caplog.text
    base_card = load_model(base)[2]
    assert base_card["provenance"]["id"] != card["provenance"]["id"]
    assert not {"base_model", "base_model_sha256"} & set(base_card["provenance"])
    assert "metrics_before" not in base_card and "finetune" not in base_card["settings"]


def test_fine_tuning_that_gains_nothing_is_warned_of(tmp_path, base_rows, finetune, sizes, caplog):
    settings = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 1.0})
    tokens = featurize_rows(tmp_path, base_rows, finetune=finetune)
    train(tmp_path, tokens, sizes, "model", finetune, settings)
    assert "held-out molecules are no likelier than before training" in caplog.text


def test_fine_tuning_resumes_a_checkpoint_of_the_same_base_model_and_none_of_a_different_one(
    tmp_path, base_rows, finetune, sizes, caplog
):
    caplog.set_level("INFO")
    tokens = featurize_rows(tmp_path, base_rows, finetune=finetune)
    whole = train(tmp_path, tokens, sizes, "whole", finetune)
    different = train(tmp_path, tokens, sizes, "different", finetune, SETTINGS.model_copy(update={"seed": 1}))
    with pytest.raises(Interrupted):
        train(tmp_path, tokens, sizes, "a", finetune, on_epoch=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
    caplog.clear()
    train(tmp_path, tokens, sizes, "b", FinetuneSettings(model=str(different)))
    assert "resuming from" not in caplog.text
    resumed = train(tmp_path, tokens, sizes, "a", finetune)
    assert "resuming from" in caplog.text
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_tokens_of_another_vocabulary_than_that_of_the_base_model_are_refused(tmp_path, base_rows, finetune, sizes):
    tokens = featurize_rows(tmp_path, [*base_rows, *NEW_ROWS])
    message = r"vocabulary\.json: does not begin with the symbols, merges and bond constraints"
    with pytest.raises(ModelFileError, match=message):
        train(tmp_path, tokens, sizes, "model", finetune)


def test_fine_tuning_continues_with_the_prior_of_training_and_not_with_one_fitted_afterwards(
    tmp_path, base_rows, sizes, initial_network
):
    learned = sizes.model_copy(update={"prior": "vamp", "prior_components": 3})
    tokens = featurize_rows(tmp_path, base_rows)
    folder = train(tmp_path, tokens, learned, "vamp")
    prior(tokens, folder, PriorSettings(kind="flow", draws=1000, steps=2), threads=1)
    assert type(load_model(folder)[0].prior).__name__ == "FlowPrior"
    network = initial_network(tmp_path, tokens, sizes, "model", FinetuneSettings(model=str(folder)))
    for name, weights in load_model_as_trained(folder)[0].prior.state_dict().items():
        assert torch.equal(weights, network.prior.state_dict()[name]), name


def test_fine_tuning_adds_a_property_head_or_keeps_that_of_the_base_model_and_refuses_changed_properties(
    tmp_path, base_rows, finetune, sizes, initial_network
):
    tokens = featurize_rows(tmp_path, base_rows, finetune=finetune, properties=["logp", "tpsa"])
    first = FinetuneSettings(model=str(train(tmp_path, tokens, sizes, "first", finetune)))  # from a model without
    head = load_model(tmp_path / "first")[0].head
    assert head.names == ("logp", "tpsa") and head.linear.weight.abs().min() > 0
    rows = [(smiles, split) for smiles, split in base_rows if split == "valid" or len(smiles) < 12]
    fewer = featurize_rows(tmp_path, rows, "fewer", first, properties=["logp", "tpsa"])
    network = initial_network(tmp_path, fewer, sizes, "second", first)
    assert network.head.names == head.names
    for name, weights in head.state_dict().items():  # the values that it standardises by are among them
        assert torch.equal(weights, network.head.state_dict()[name]), name
    for properties, listed in (([], "none"), (["tpsa", "logp"], "tpsa, logp")):
        changed = featurize_rows(tmp_path, base_rows, "changed", first, properties=properties)
        with pytest.raises(TrainingError, match=rf"properties {listed}, but the .* to \[logp, tpsa\] and featurize"):
            train(tmp_path, changed, sizes, "third", first)
