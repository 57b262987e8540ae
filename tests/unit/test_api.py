"""A trained model as a Python object."""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

import molvae
from molvae.api import Model
from molvae.chemistry.tokenization import tokenize
from molvae.config import SampleSettings
from molvae.data.vocabulary import UNK
from molvae.errors import ModelFileError, MolvaeError
from molvae.inference.decoding import TokenStrings


@pytest.fixture
def model(folder) -> Model:
    return molvae.load(folder)


def test_samples_of_a_model_are_exactly_as_many_as_asked_for_and_the_same_each_time(model, folder):
    samples = model.sample(20, seed=1, max_tokens=12)
    assert len(samples) == 20
    assert model.sample(20, seed=1, max_tokens=12) == samples
    assert molvae.load(str(folder)).sample(20, seed=1, max_tokens=12) == samples
    assert model.sample(7, seed=1, max_tokens=12) == samples[:7]
    assert model.sample(20, seed=2, max_tokens=12) != samples
    with pytest.raises(MolvaeError, match="n is 0; ask for at least one"):
        model.sample(0)


def test_encoded_molecules_have_a_row_each_in_the_order_of_the_input(model, smiles):
    mu, logvar = model.encode(smiles)
    assert mu.shape == logvar.shape == (len(smiles), model.latent_dim) and mu.dtype == np.float32
    assert np.isfinite(mu).all() and len(np.unique(mu.round(5), axis=0)) == len(smiles)
    for row in (0, 7, 30):
        for whole, alone in zip((mu, logvar), model.encode([smiles[row]]), strict=True):
            np.testing.assert_allclose(alone[0], whole[row], rtol=1e-4, atol=1e-5)


def test_a_molecule_is_standardised_before_it_is_encoded(model):
    for text, standardised in (("OCC", "CCO"), ("CC(=O)[O-].[Na+]", "CC(=O)O")):
        assert (model.encode([text])[0] == model.encode([standardised])[0]).all()


def test_a_row_that_is_no_molecule_is_encoded_as_nan_and_named_in_a_warning(model, caplog):
    with caplog.at_level(logging.WARNING):
        mu, logvar = model.encode(["CCO", "nonsense", "", "[Xe]"])
    assert np.isnan(mu).all(1).tolist() == np.isnan(logvar).all(1).tolist() == [False, True, True, True]
    first, second, third = (record.getMessage() for record in caplog.records)
    assert "row 2, 'nonsense': not_smiles" in first
    assert "row 3, '': empty" in second
    assert "row 4, '[Xe]': unknown_symbol: the model does not know [Xe]" in third


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"max_tokens": 0},
        {"max_tries": 0},
        {"mcmc_steps": -1},
    ],
)
def test_sampling_options_out_of_range_are_refused(model, options):
    with pytest.raises(MolvaeError, match="temperature and mcmc_steps are at least 0, the others 1"):
        model.sample(2, **options)


def test_encoding_or_decoding_nothing_gives_nothing(model):
    assert model.encode([])[0].shape == (0, model.latent_dim)
    assert np.isnan(model.encode(["", "x"])[0]).all()
    assert model.decode(np.empty((0, model.latent_dim))) == []


def test_a_single_smiles_is_not_encoded_as_a_list_of_letters(model):
    with pytest.raises(MolvaeError, match="this takes a list of SMILES"):
        model.encode("CCO")


def test_a_latent_point_decodes_to_the_same_molecule_alone_and_beside_further_points(model):
    z = np.random.default_rng(0).normal(size=(9, model.latent_dim))
    together = model.decode(z, max_tokens=12)
    assert [model.decode(z[[k]], max_tokens=12)[0] for k in range(9)] == together
    assert model.decode(z, max_tokens=12, seed=5) == together  # temperature 0 draws nothing
    at_random = model.decode(z, temperature=2.0, max_tokens=12)
    assert at_random == model.decode(z, temperature=2.0, max_tokens=12) != together


@pytest.mark.parametrize("z", [np.zeros(5), np.zeros((2, 4)), np.full((1, 5), np.nan), np.full((1, 5), np.inf)])
def test_decoding_points_of_another_shape_or_not_finite_is_refused_with_the_shape_expected(model, z):
    with pytest.raises(MolvaeError, match=r"expected finite values of shape \(n, 5\)"):
        model.decode(z)


def test_each_model_decodes_under_its_own_bond_constraints(model, monkeypatch):
    vocabulary = model.vocabulary
    changed = replace(vocabulary, constraints=vocabulary.constraints | {"S": 2})
    ids = vocabulary.encode(tokenize(["[C]", "[S]", "[=Branch1]", "[C]", "[=O]", "[=O]"]))
    assert UNK not in ids
    strings = TokenStrings(np.array([ids]), np.zeros(1), np.ones(1, bool))
    monkeypatch.setattr("molvae.api.decode_latents", lambda *_: strings)
    z = np.zeros((1, model.latent_dim))
    assert model.decode(z) == ["CS(=O)=O"]
    assert Model(model.network, changed, {}).decode(z) == ["CSC=O"]
    assert model.decode(z) == ["CS(=O)=O"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("symbols", "[foo]"),
        ("symbols", "[C"),
        ("constraints", {"C": 4}),
        ("constraints", {"?": 1, "Zz": 4}),
    ],
)
def test_a_model_with_symbols_or_constraints_that_selfies_refuses_is_an_error_on_loading(folder, key, value):
    card = json.loads((folder / "model.json").read_text())
    if key == "symbols":
        card["vocabulary"]["symbols"][3] = value
    else:
        card["vocabulary"]["constraints"] = value
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match=r"model\.json: SELFIES refuses"):
        molvae.load(folder)


def test_using_a_model_leaves_the_global_random_state_alone(folder):
    state = torch.get_rng_state()
    model = molvae.load(folder)
    model.sample(3, max_tokens=3)
    model.decode(np.zeros((2, 5)), temperature=1.0, max_tokens=3)
    model.encode(["CCO"])
    assert torch.equal(state, torch.get_rng_state())


def test_sampling_from_python_and_from_the_command_line_has_the_same_defaults():
    defaults = {name: parameter.default for name, parameter in inspect.signature(Model.sample).parameters.items()}
    settings = SampleSettings()
    for name in ("seed", "temperature", "max_tokens", "max_tries", "mcmc_steps"):
        assert defaults[name] == getattr(settings, name), name
