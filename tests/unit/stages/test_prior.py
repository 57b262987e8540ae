"""Stage `prior`: fitted to the aggregate posterior, loaded with the model, bound to its weights."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from molvae.config import ModelSettings, PriorSettings, TrainSettings
from molvae.data.token_store import read_tokens
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, DataError, ModelFileError
from molvae.inference.posterior import posterior_draws
from molvae.inference.sampling import sample_prior
from molvae.model_io.folder import PRIOR_CARD, PRIOR_WEIGHTS, WEIGHTS, load_model, load_trained, save_model, save_prior
from molvae.nn.priors import Flow, Mixture, StandardNormal, Vamp
from molvae.nn.vae import untrained
from molvae.runtime.files import read_json, sha256
from molvae.stages.prior import prior
from molvae.training.trainer import Run

CPU = torch.device("cpu")
SIZES = ModelSettings(embedding_dim=12, latent_dim=6, encoder_hidden=24, decoder_hidden=24)
KINDS = {"normal": StandardNormal, "mixture": Mixture, "vamp": Vamp, "flow": Flow}
LEARNED = ["mixture", "vamp", "flow"]
SETTINGS = PriorSettings(kind="mixture", components=4, draws=1000, steps=80, batch_size=128, learning_rate=0.02, seed=3)


@pytest.fixture
def tokens(featurised):
    return featurised(train=22, valid=6, merges=0)


KNOWN: dict = {}  # settings -> weights: the tokens are the same each time


def trained(folder, tokens, sizes=SIZES, steps=60):
    """A model folder, trained far enough that its aggregate posterior is not the prior."""
    vocabulary = Vocabulary.from_json(read_json(tokens / "vocabulary.json"), "")
    model = untrained(len(vocabulary), sizes, 0)
    if (key := (sizes.model_dump_json(), steps)) not in KNOWN:
        splits = read_tokens(tokens / "tokens.safetensors")
        settings = TrainSettings(epochs=steps, batch_size=22, learning_rate=0.02, kl_weight=0.2, free_nats=0, dropout=0)
        run = Run(model, splits["train"], splits["valid"], settings, CPU)
        for _ in range(steps):
            run.step(np.arange(22))
            run.progress.step += 1
        KNOWN[key] = model.state_dict()
    model.load_state_dict(KNOWN[key])
    save_model(folder, model, vocabulary, {"settings": {"model": sizes.model_dump()}})
    return folder


@pytest.fixture
def model(tmp_path, tokens):
    return trained(tmp_path / "model", tokens)


def drawn(network, n=60):
    return sample_prior(network, 0, n, seed=1, temperature=1.0, max_tokens=20).ids


@pytest.mark.parametrize("kind", LEARNED)
def test_a_fitted_prior_is_nearer_to_the_latent_points_and_samples_come_from_it(tokens, model, kind):
    before, _, card = load_model(model)
    assert "prior" not in card
    figures = prior(tokens, model, SETTINGS.model_copy(update={"kind": kind}), threads=1)
    assert figures["after_nats"] < figures["before_nats"] - 0.5  # of molecules that it was not fitted to
    after, _, card = load_model(model)
    assert type(after.prior) is KINDS[kind] and type(load_trained(model)[0].prior) is StandardNormal
    assert card["prior"]["metrics"] == figures and card["prior"]["settings"]["kind"] == kind
    assert not after.prior.training and not (drawn(after) == drawn(before)).all()
    for name, weight in before.encoder.state_dict().items():
        assert torch.equal(weight, after.encoder.state_dict()[name]), name
    with torch.no_grad():
        unseen = posterior_draws(after, read_tokens(tokens / "tokens.safetensors")["valid"], 1000, 3)
        assert -after.prior.log_density(unseen).mean().item() == pytest.approx(figures["after_nats"], rel=1e-5)
        if kind == "vamp":  # made of the encoder of this very model
            assert after.prior._encoder[0] is after.encoder


def test_the_figures_are_those_of_the_aggregate_posterior(tokens, model):
    figures = prior(tokens, model, PriorSettings(draws=5000), threads=1)
    network, *_ = load_model(model)
    points = posterior_draws(network, read_tokens(tokens / "tokens.safetensors")["train"], 5000, 0)
    assert figures["aggregate_mean_norm"] == pytest.approx(points.mean(0).norm().item())
    assert figures["aggregate_mean_variance"] == pytest.approx(points.var(0).mean().item())
    assert figures["after_nats_on_training_molecules"] == pytest.approx(
        -network.prior.log_density(points).mean().item(), rel=1e-5
    )
    assert figures["before_nats"] == figures["after_nats"]


@pytest.mark.parametrize("sizes", [SIZES, SIZES.model_copy(update={"prior": "flow"})])
def test_the_prior_of_training_stays_where_it_is_asked_to(tokens, tmp_path, sizes):
    folder = trained(tmp_path / "model", tokens, sizes, steps=2)
    before, *_ = load_model(folder)
    figures = prior(tokens, folder, SETTINGS.model_copy(update={"kind": "as_trained"}), threads=1)
    after, _, card = load_model(folder)
    assert (drawn(after) == drawn(before)).all() and type(after.prior) is type(before.prior)
    assert figures["before_nats"] == figures["after_nats"] and card["prior"]["settings"]["kind"] == "as_trained"


def test_a_learned_prior_can_be_replaced_by_the_standard_normal(tokens, tmp_path):
    folder = trained(tmp_path / "model", tokens, SIZES.model_copy(update={"prior": "flow"}), steps=2)
    prior(tokens, folder, SETTINGS.model_copy(update={"kind": "normal"}), threads=1)
    assert type(load_model(folder)[0].prior) is StandardNormal


@pytest.mark.parametrize("kind", LEARNED)
def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tokens, model, kind):
    found = []
    for seed in (1, 1, 2):
        before = torch.rand(3), torch.get_rng_state()  # whatever was drawn until then
        prior(tokens, model, SETTINGS.model_copy(update={"kind": kind, "seed": seed, "steps": 5}), threads=1)
        assert torch.equal(torch.get_rng_state(), before[1])
        found.append(((model / PRIOR_WEIGHTS).read_bytes(), (model / PRIOR_CARD).read_bytes()))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_a_prior_of_other_weights_is_refused_and_can_be_deleted(tokens, model):
    prior(tokens, model, SETTINGS, threads=1)
    network, vocabulary, card = load_trained(model)
    with torch.no_grad():
        network.decoder.state_to_logits.bias += 1
    save_model(model.parent / "other", network, vocabulary, card)
    shutil.copy(model.parent / "other" / WEIGHTS, model / WEIGHTS)
    with pytest.raises(ModelFileError, match=r"prior\.json: .*other weights.* Run `molvae prior` again, or delete"):
        load_model(model)
    prior(tokens, model, SETTINGS, threads=1)  # which reads the weights without it
    load_model(model)
    (model / PRIOR_CARD).unlink()
    assert type(load_model(model)[0].prior) is StandardNormal
    prior(tokens, model, SETTINGS, threads=1)
    save_model(model, network, vocabulary, card)  # as training anew does: the prior goes with the weights
    assert type(load_model(model)[0].prior) is StandardNormal and not (model / PRIOR_WEIGHTS).exists()


@pytest.mark.parametrize("name", [PRIOR_CARD, PRIOR_WEIGHTS])
@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "replace_by_a_list"])
def test_a_damaged_file_of_the_prior_is_named(folder, network, damage, harm, name):
    settings = PriorSettings(kind="mixture", components=3).model_dump()
    card = {"settings": settings, "weights_sha256": sha256(folder / WEIGHTS)}
    save_prior(folder, Mixture(network.latent_dim, 3), card)
    assert type(load_model(folder)[0].prior) is Mixture
    damage[harm](folder / name)
    with pytest.raises(ModelFileError, match=rf"{name}: "):
        load_model(folder)


def test_weights_of_another_prior_and_settings_out_of_range_are_named(folder, network):
    card = {"settings": PriorSettings(kind="flow").model_dump(), "weights_sha256": sha256(folder / WEIGHTS)}
    save_prior(folder, Mixture(network.latent_dim, 3), card)
    with pytest.raises(
        ModelFileError, match=r"prior\.safetensors: the weights do not fit the networks that prior\.json"
    ):
        load_model(folder)
    save_prior(folder, None, card | {"settings": {"kind": "flow", "components": -1}})
    with pytest.raises(ModelFileError, match=r"prior\.json: settings\.components: Input should be"):
        load_model(folder)
    save_prior(folder, None, {"weights_sha256": card["weights_sha256"]})
    with pytest.raises(ModelFileError, match=r"prior\.json: the settings are missing"):
        load_model(folder)


def test_a_plain_autoencoder_gets_a_prior_afterwards_but_no_mixture_of_its_points(tokens, tmp_path):
    folder = trained(tmp_path / "model", tokens, SIZES.model_copy(update={"variational": False}))
    for kind in ("mixture", "flow"):
        figures = prior(tokens, folder, SETTINGS.model_copy(update={"kind": kind}), threads=1)
        assert figures["after_nats_on_training_molecules"] < figures["before_nats"]
        assert type(load_model(folder)[0].prior) is KINDS[kind]
    with pytest.raises(ConfigError, match=r"prior\.kind: a vamp prior .* Take mixture or flow"):
        prior(tokens, folder, SETTINGS.model_copy(update={"kind": "vamp"}), threads=1)


def test_tokens_of_another_vocabulary_are_refused(tokens, model, featurised, tmp_path):
    content = read_json(tokens / "vocabulary.json")
    shutil.copytree(tokens, tmp_path / "other")
    symbols = content["symbols"]
    (tmp_path / "other" / "vocabulary.json").write_text(json.dumps({**content, "symbols": [*symbols[1:], symbols[0]]}))
    with pytest.raises(
        ModelFileError, match="other/vocabulary.json: not the vocabulary of .*Give the tokens that it was"
    ):
        prior(tmp_path / "other", model, SETTINGS, threads=1)


def test_a_prior_that_is_worse_than_that_of_training_is_said_aloud(tokens, model, caplog, monkeypatch):
    prior(tokens, model, SETTINGS, threads=1)
    assert "WORSE" not in caplog.text
    monkeypatch.setattr("molvae.stages.prior._cross_entropy", lambda of, _: 9.0 if isinstance(of, Mixture) else 8.0)
    prior(tokens, model, SETTINGS, threads=1)
    assert "the fitted prior is WORSE for held-out molecules" in caplog.text


def test_a_folder_that_lacks_its_model_or_its_tokens_is_an_error_that_names_the_file(tokens, model, tmp_path):
    with pytest.raises(ModelFileError, match=r"model\.json: no such file"):
        prior(tokens, tmp_path / "nowhere", SETTINGS, threads=1)
    with pytest.raises(DataError, match=r"tokens\.safetensors: no token store"):
        prior(tmp_path / "nowhere", model, SETTINGS, threads=1)
    assert json.loads((model / "model.json").read_text())["format_version"] == 2
