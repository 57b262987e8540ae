"""Stage `prior`: fitted to the aggregate posterior, loaded with the model, bound to its weights."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from molvae.config import ModelSettings, PriorSettings, TrainSettings
from molvae.data.token_store import TokenStore
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, DataError, ModelFileError
from molvae.inference.posterior import sample_aggregate_posterior
from molvae.inference.sampling import SamplingOptions, sample_prior
from molvae.model_io.card import CARD_FILE, WEIGHTS_FILE
from molvae.model_io.folder import (
    PRIOR_CARD_FILE,
    PRIOR_WEIGHTS_FILE,
    load_model,
    load_model_as_trained,
    save_model,
    save_prior,
)
from molvae.nn.priors import FlowPrior, GaussianMixture, StandardNormal, VampPrior
from molvae.nn.vae import init_vae
from molvae.runtime.files import compute_sha256, read_json
from molvae.stages.prior import prior
from molvae.training.trainer import Trainer

CPU = torch.device("cpu")
SIZES = ModelSettings(embedding_dim=12, latent_dim=6, encoder_hidden=24, decoder_hidden=24)
KINDS = {"normal": StandardNormal, "mixture": GaussianMixture, "vamp": VampPrior, "flow": FlowPrior}
LEARNED = ["mixture", "vamp", "flow"]
SETTINGS = PriorSettings(kind="mixture", components=4, draws=1000, steps=80, batch_size=128, learning_rate=0.02, seed=3)


@pytest.fixture
def tokens(featurised):
    return featurised(train=22, valid=6, merges=0)


TRAINED_WEIGHTS: dict = {}  # by settings: the tokens are the same each time


def read_splits(tokens):
    return TokenStore.open(tokens / "tokens.safetensors").splits


def write_trained_model(folder, tokens, sizes=SIZES, steps=60):
    """Write a model folder, trained far enough that its aggregate posterior is not the prior."""
    vocabulary = Vocabulary.from_json(read_json(tokens / "vocabulary.json"), "")
    model = init_vae(len(vocabulary), sizes, 0)
    if (key := (sizes.model_dump_json(), steps)) not in TRAINED_WEIGHTS:
        splits = read_splits(tokens)
        settings = TrainSettings(epochs=steps, batch_size=22, learning_rate=0.02, kl_weight=0.2, free_nats=0, dropout=0)
        trainer = Trainer(model, splits["train"], splits["valid"], settings, CPU)
        for _ in range(steps):
            trainer.step(np.arange(22))
            trainer.progress.step += 1
        TRAINED_WEIGHTS[key] = model.state_dict()
    model.load_state_dict(TRAINED_WEIGHTS[key])
    save_model(folder, model, vocabulary, {"settings": {"model": sizes.model_dump()}})
    return folder


@pytest.fixture
def model(tmp_path, tokens):
    """The folder of a trained model."""
    return write_trained_model(tmp_path / "model", tokens)


def draw_ids(network, n=60):
    """Token ids of samples from the prior of a network."""
    return sample_prior(network, 0, n, SamplingOptions(seed=1, max_tokens=20)).ids


@pytest.mark.parametrize("kind", LEARNED)
def test_a_fitted_prior_is_nearer_to_the_aggregate_posterior_and_samples_come_from_it(tokens, model, kind):
    before, _, card = load_model(model)
    assert "prior" not in card
    metrics = prior(tokens, model, SETTINGS.model_copy(update={"kind": kind}), threads=1)
    assert metrics["after_nats"] < metrics["before_nats"] - 0.5  # of held-out molecules
    after, _, card = load_model(model)
    assert type(after.prior) is KINDS[kind] and type(load_model_as_trained(model)[0].prior) is StandardNormal
    assert card["prior"]["metrics"] == metrics and card["prior"]["settings"]["kind"] == kind
    assert not after.prior.training and not (draw_ids(after) == draw_ids(before)).all()
    for name, weight in before.encoder.state_dict().items():
        assert torch.equal(weight, after.encoder.state_dict()[name]), name
    with torch.no_grad():
        held_out = sample_aggregate_posterior(after, read_splits(tokens)["valid"], 1000, 3)
        assert -after.prior.log_density(held_out).mean().item() == pytest.approx(metrics["after_nats"], rel=1e-5)
        if kind == "vamp":  # which reads its pseudo-inputs with the encoder of the model itself
            assert after.prior._encoder[0] is after.encoder


def test_prior_metrics_are_those_of_the_aggregate_posterior(tokens, model):
    metrics = prior(tokens, model, PriorSettings(draws=5000), threads=1)
    network, *_ = load_model(model)
    points = sample_aggregate_posterior(network, read_splits(tokens)["train"], 5000, 0)
    assert metrics["aggregate_mean_norm"] == pytest.approx(points.mean(0).norm().item())
    assert metrics["aggregate_mean_variance"] == pytest.approx(points.var(0).mean().item())
    assert metrics["after_nats_on_training_molecules"] == pytest.approx(
        -network.prior.log_density(points).mean().item(), rel=1e-5
    )
    assert metrics["before_nats"] == metrics["after_nats"]


@pytest.mark.parametrize("sizes", [SIZES, SIZES.model_copy(update={"prior": "flow"})])
def test_the_prior_of_training_stays_if_the_kind_is_as_trained(tokens, tmp_path, sizes):
    folder = write_trained_model(tmp_path / "model", tokens, sizes, steps=2)
    before, *_ = load_model(folder)
    metrics = prior(tokens, folder, SETTINGS.model_copy(update={"kind": "as_trained"}), threads=1)
    after, _, card = load_model(folder)
    assert (draw_ids(after) == draw_ids(before)).all() and type(after.prior) is type(before.prior)
    assert metrics["before_nats"] == metrics["after_nats"] and card["prior"]["settings"]["kind"] == "as_trained"


def test_a_learned_prior_can_be_replaced_by_the_standard_normal(tokens, tmp_path):
    folder = write_trained_model(tmp_path / "model", tokens, SIZES.model_copy(update={"prior": "flow"}), steps=2)
    prior(tokens, folder, SETTINGS.model_copy(update={"kind": "normal"}), threads=1)
    assert type(load_model(folder)[0].prior) is StandardNormal


@pytest.mark.parametrize("kind", LEARNED)
def test_a_prior_fitted_with_the_same_seed_has_the_same_bytes_and_with_another_seed_different_ones(tokens, model, kind):
    contents = []
    for seed in (1, 1, 2):
        torch.rand(3)  # the global random state does not matter
        state = torch.get_rng_state()
        prior(tokens, model, SETTINGS.model_copy(update={"kind": kind, "seed": seed, "steps": 5}), threads=1)
        assert torch.equal(torch.get_rng_state(), state)
        contents.append(((model / PRIOR_WEIGHTS_FILE).read_bytes(), (model / PRIOR_CARD_FILE).read_bytes()))
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0]


def test_a_prior_fitted_to_different_weights_is_refused_and_can_be_deleted(tokens, model):
    prior(tokens, model, SETTINGS, threads=1)
    network, vocabulary, card = load_model_as_trained(model)
    with torch.no_grad():
        network.decoder.state_to_logits.bias += 1
    save_model(model.parent / "changed", network, vocabulary, card)
    for name in (WEIGHTS_FILE, CARD_FILE):
        shutil.copy(model.parent / "changed" / name, model / name)
    with pytest.raises(ModelFileError, match=r"prior\.json: .*other weights.* Run `molvae prior` again, or delete"):
        load_model(model)
    prior(tokens, model, SETTINGS, threads=1)  # which reads the weights without it
    load_model(model)
    (model / PRIOR_CARD_FILE).unlink()
    with pytest.raises(ModelFileError, match=r"prior\."):
        load_model(model)
    (model / PRIOR_WEIGHTS_FILE).unlink()
    assert type(load_model(model)[0].prior) is StandardNormal
    prior(tokens, model, SETTINGS, threads=1)
    save_model(model, network, vocabulary, card)  # as new training does: the prior goes with the weights
    assert type(load_model(model)[0].prior) is StandardNormal and not (model / PRIOR_WEIGHTS_FILE).exists()


@pytest.mark.parametrize("name", [PRIOR_CARD_FILE, PRIOR_WEIGHTS_FILE])
@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "replace_by_a_list"])
def test_a_damaged_file_of_a_prior_is_named(folder, network, damage, harm, name):
    settings = PriorSettings(kind="mixture", components=3).model_dump()
    card = {"settings": settings, "weights_sha256": compute_sha256(folder / WEIGHTS_FILE)}
    save_prior(folder, GaussianMixture(network.latent_dim, 3), card)
    assert type(load_model(folder)[0].prior) is GaussianMixture
    damage[harm](folder / name)
    with pytest.raises(ModelFileError, match=rf"{name}: "):
        load_model(folder)


def test_a_prior_with_weights_of_another_kind_or_settings_out_of_range_is_refused(folder, network):
    card = {
        "settings": PriorSettings(kind="flow").model_dump(),
        "weights_sha256": compute_sha256(folder / WEIGHTS_FILE),
    }
    save_prior(folder, GaussianMixture(network.latent_dim, 3), card)
    message = r"prior\.safetensors: the weights do not fit the networks that prior\.json"
    with pytest.raises(ModelFileError, match=message):
        load_model(folder)
    save_prior(folder, None, card | {"settings": {"kind": "flow", "components": -1}})
    with pytest.raises(ModelFileError, match=r"prior\.json: settings\.components: Input should be"):
        load_model(folder)
    save_prior(folder, None, {"weights_sha256": card["weights_sha256"]})
    with pytest.raises(ModelFileError, match=r"prior\.json: the settings are missing"):
        load_model(folder)


def test_a_plain_autoencoder_gets_a_mixture_or_flow_prior_afterwards_but_no_vamp_prior(tokens, tmp_path):
    folder = write_trained_model(tmp_path / "model", tokens, SIZES.model_copy(update={"variational": False}))
    for kind in ("mixture", "flow"):
        metrics = prior(tokens, folder, SETTINGS.model_copy(update={"kind": kind}), threads=1)
        assert metrics["after_nats_on_training_molecules"] < metrics["before_nats"]
        assert type(load_model(folder)[0].prior) is KINDS[kind]
    with pytest.raises(ConfigError, match=r"prior\.kind: a vamp prior .* Take mixture or flow"):
        prior(tokens, folder, SETTINGS.model_copy(update={"kind": "vamp"}), threads=1)


def test_a_prior_is_not_fitted_to_tokens_of_another_vocabulary(tokens, model, tmp_path):
    content = read_json(tokens / "vocabulary.json")
    shutil.copytree(tokens, tmp_path / "changed")
    symbols = [*content["symbols"][1:], content["symbols"][0]]
    (tmp_path / "changed" / "vocabulary.json").write_text(json.dumps({**content, "symbols": symbols}))
    message = "changed/vocabulary.json: not the vocabulary of .*Give the tokens that it was"
    with pytest.raises(ModelFileError, match=message):
        prior(tmp_path / "changed", model, SETTINGS, threads=1)


def test_a_fitted_prior_that_is_worse_than_that_of_training_is_warned_of(tokens, model, caplog, monkeypatch):
    prior(tokens, model, SETTINGS, threads=1)
    assert "WORSE" not in caplog.text

    def compute_cross_entropy(fitted, _):
        return 9.0 if isinstance(fitted, GaussianMixture) else 8.0

    monkeypatch.setattr("molvae.stages.prior._compute_cross_entropy", compute_cross_entropy)
    prior(tokens, model, SETTINGS, threads=1)
    assert "the fitted prior is WORSE for held-out molecules" in caplog.text


def test_a_missing_model_or_token_store_is_an_error_that_names_the_file(tokens, model, tmp_path):
    with pytest.raises(ModelFileError, match=r"model\.json: no such file"):
        prior(tokens, tmp_path / "nowhere", SETTINGS, threads=1)
    with pytest.raises(DataError, match=r"tokens\.safetensors: no token store"):
        prior(tmp_path / "nowhere", model, SETTINGS, threads=1)
    assert json.loads((model / "model.json").read_text())["format_version"] == 3
