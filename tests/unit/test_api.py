"""A trained model as a Python object."""

from __future__ import annotations

import inspect
import json
import logging
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import molvae
from molvae.api import Model
from molvae.chemistry.tokenization import tokenize
from molvae.config import SampleSettings
from molvae.data.vocabulary import EOS, UNK
from molvae.errors import ModelFileError, MolvaeError
from molvae.inference.decoding import TokenStrings
from molvae.nn.vae import init_vae


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


OUT_OF_RANGE = [
    ("sample", {"n": 0}, "n is 0; give a whole number, at least 1"),
    ("sample", {"n": 2.0}, "n is 2.0; give a whole number"),
    ("sample", {"n": True}, "n is True; give a whole number"),
    ("sample", {"temperature": -1.0}, "temperature is -1.0; give a finite number, at least 0"),
    ("sample", {"temperature": float("nan")}, "temperature is nan"),
    ("sample", {"temperature": "1"}, "temperature is '1'"),
    ("sample", {"max_tokens": 0}, "max_tokens is 0; give a whole number, at least 1"),
    ("sample", {"max_tries": 0}, "max_tries is 0"),
    ("sample", {"mcmc_steps": -1}, "mcmc_steps is -1"),
    ("sample", {"threads": 0}, "threads is 0"),
    ("sample", {"seed": 1.5}, "seed is 1.5"),
    ("decode", {"temperature": -1}, "temperature is -1; give a finite number, at least 0"),
    ("decode", {"max_tokens": 0}, "max_tokens is 0; give a whole number, at least 1"),
    ("decode", {"max_tokens": 10**9}, "max_tokens is 1000000000; give a whole number, at least 1, at most 4097"),
    ("fit_predictor", {"seed": 2**33}, "seed is 8589934592; give a whole number, at least 0, at most 4294967295"),
    ("decode", {"seed": "x"}, "seed is 'x'"),
    ("decode", {"z": [["a", "b"]]}, "z holds what is no number"),
    ("decode_to_table", {"temperature": float("inf")}, "temperature is inf"),
    ("decode_round_trip", {"max_tokens": -3}, "max_tokens is -3"),
    ("decode_round_trip", {"z": np.zeros((2, 4))}, r"z has shape \(2, 4\)"),
    ("encode", {"smiles": "CCO"}, "smiles is one string, 'CCO'; put it into a list"),
    ("encode", {"smiles": 7}, "smiles is 7; give a list"),
    ("encode", {"smiles": pd.DataFrame({"S": ["CCO"]})}, "smiles is a DataFrame; give one column of it"),
    ("encode", {"smiles": {"S": 1}}, "smiles is a dict; give one column of it"),
    ("optimize", {"history": []}, "history is no table with columns smiles and score"),
    ("optimize", {"history": pd.DataFrame({"a": [1]})}, "history is no table with columns smiles and score"),
    ("optimize", {"save": "x.csv"}, "save is 'x.csv'; give a function"),
    ("fit_predictor", {"values": np.ones((1, 1))}, "1 molecules and 1 values"),
    ("log_likelihood", {"smiles": "CCO"}, "smiles is one string"),
    ("log_likelihood", {"draws": 2.5}, "draws is 2.5; give a whole number, at least 1"),
    ("interpolate", {"steps": 1}, "steps is 1; give a whole number, at least 2"),
    ("interpolate", {"temperature": -1}, "temperature is -1"),
    ("interpolate", {"max_tokens": 1.5}, "max_tokens is 1.5"),
    ("neighbors", {"n": 0}, "n is 0"),
    ("neighbors", {"radius": -1}, "radius is -1; give a finite number, at least 0"),
    ("neighbors", {"seed": -1}, "seed is -1; give a whole number, at least 0"),
    ("neighbors", {"max_tokens": 0}, "max_tokens is 0"),
    ("optimize", {"calls": 0}, "calls is 0"),
    ("optimize", {"calls": 10.0}, "calls is 10.0"),
    ("optimize", {"min_similarity": 1.1}, "min_similarity is 1.1; give a finite number, at least 0, at most 1"),
    ("optimize", {"start": "CCO"}, "start is one string"),
    ("optimize", {"seed": -1}, "seed is -1"),
    ("optimize", {"max_tokens": 0}, "max_tokens is 0"),
    ("fit_predictor", {"smiles": "CCO"}, "smiles is one string"),
    ("fit_predictor", {"values": 3.0}, "values is 3.0; give a list"),
]


@pytest.mark.parametrize(("call", "options", "message"), OUT_OF_RANGE)
def test_every_call_refuses_an_argument_out_of_range_and_names_it(model, call, options, message):
    valid = {
        "sample": {"n": 2},
        "decode": {"z": np.zeros((1, 5))},
        "decode_to_table": {"z": np.zeros((1, 5))},
        "decode_round_trip": {"z": np.zeros((1, 5))},
        "encode": {},
        "log_likelihood": {"smiles": ["CCO"]},
        "interpolate": {"start": "CCO", "end": "CC#N"},
        "neighbors": {"smiles": "CCO"},
        "optimize": {"objective": len},
        "fit_predictor": {"smiles": ["CCO"], "values": [1.0]},
    }
    with pytest.raises(MolvaeError, match=message):
        getattr(model, call)(**valid[call] | options)


@pytest.mark.parametrize("folder", [None, 5, b"x", ["x"]])
def test_a_model_folder_that_is_no_path_is_refused(folder):
    with pytest.raises(MolvaeError, match="give a path"):
        molvae.load(folder)


def test_what_is_no_text_among_the_molecules_is_named(model, caplog):
    mu, _ = model.encode(["CCO", b"CCO", 7, ["CCO"], None, float("nan"), pd.NA])
    assert np.isfinite(mu).all(1).tolist() == [True, *[False] * 6]
    messages = [record.getMessage() for record in caplog.records]
    assert "it is a bytes, no text" in messages[0] and "a int" in messages[1] and "a list" in messages[2]
    assert all(message.endswith("empty: ") for message in messages[3:])


def test_latent_points_may_be_a_tensor_with_a_gradient(model):
    z = torch.zeros((2, 5), requires_grad=True)
    assert model.decode(z) == model.decode(np.zeros((2, 5)))


def test_a_generator_an_array_and_a_column_of_smiles_are_read_as_a_list_is(model, smiles):
    expected = model.encode(smiles)[0]
    for values in ((text for text in smiles), np.array(smiles), pd.Series(smiles, index=range(50, 50 + len(smiles)))):
        assert (model.encode(values)[0] == expected).all()
    assert model.sample(np.int64(3), max_tokens=5) == model.sample(3, max_tokens=5)
    bounds = model.log_likelihood(smiles, draws=2)
    assert (model.log_likelihood((text for text in smiles), draws=2) == bounds).all()


def test_strings_are_as_long_as_the_molecules_that_the_model_was_trained_on(vocabulary, sizes, caplog):
    network = init_vae(len(vocabulary), sizes, seed=1).eval()
    with torch.no_grad():
        network.decoder.state_to_logits.bias[EOS] -= 2  # long strings, as of peptides
    model = Model(network, vocabulary, {"settings": {"featurize": {"max_tokens": 400}}})
    assert model.max_tokens == 401
    z = np.random.default_rng(0).normal(size=(30, 5))
    decoded = model.decode_to_table(z, temperature=1.0)
    n_cut = 30 - decoded["finished"].sum()
    assert 0 < n_cut < 20 and f"{n_cut} of 30 strings were cut at 401 tokens (max_tokens)" in caplog.text
    longer, shorter = (model.decode_to_table(z, temperature=1.0, max_tokens=limit) for limit in (4000, 129))
    assert longer["finished"].sum() > decoded["finished"].sum() > shorter["finished"].sum()
    for one, other in ((longer, decoded), (decoded, shorter)):  # what is not cut is the same
        pd.testing.assert_frame_equal(one[other["finished"]], other[other["finished"]])
    assert (
        model.sample(30, seed=1) == model.sample(30, seed=1, max_tokens=401) != model.sample(30, seed=1, max_tokens=9)
    )


@pytest.mark.parametrize("call", ["sample", "decode", "interpolate", "neighbors"])
def test_every_call_says_how_many_strings_were_cut(model, call, caplog):
    arguments = {
        "sample": (5,),
        "decode": (np.zeros((5, 5)),),
        "interpolate": ("CCO", "CC#N", 5),
        "neighbors": ("CCO", 5),
    }
    getattr(model, call)(*arguments[call], max_tokens=1)
    assert re.search(r"[1-5] of 5 strings were cut at 1 tokens \(max_tokens\)", caplog.text)


def test_a_search_scores_no_molecule_whose_string_was_cut():
    model = molvae.load("pretrained:moses-latent")
    z = model.encode(["COc1ccc(NC(=O)CN2CCOCC2)cc1", "CC(=O)Nc1ccc(O)cc1", "CCO"])[0]
    whole = model.decode_round_trip(z)
    lengths = np.diff(model.tokenize(whole)[1].offsets)
    limit = int(np.median(lengths)) + 1
    assert model.decode_round_trip(z, max_tokens=limit) == [
        text if length < limit else "" for text, length in zip(whole, lengths, strict=True)
    ]
    assert all(whole) and (lengths >= limit).any()


def test_the_id_of_a_model_is_that_of_what_gives_its_latent_points_their_meaning(model, folder, vocabulary):
    assert model.id == molvae.load(folder).id and len(model.id) == 16
    swapped = replace(vocabulary, symbols=(*vocabulary.symbols[:-2], *vocabulary.symbols[:-3:-1]))
    assert Model(model.network, swapped, model.card).id != model.id
    with torch.no_grad():
        model.network.encoder.to_latent.bias[0] += 1e-3
    assert Model(model.network, model.vocabulary, model.card).id != model.id


def test_encoding_or_decoding_nothing_gives_nothing(model):
    assert model.encode([])[0].shape == (0, model.latent_dim)
    assert np.isnan(model.encode(["", "x"])[0]).all()
    assert model.decode(np.empty((0, model.latent_dim))) == []


def test_a_single_smiles_is_not_encoded_as_a_list_of_letters(model):
    with pytest.raises(MolvaeError, match="smiles is one string, 'CCO'; put it into a list"):
        model.tokenize("CCO")


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
    monkeypatch.setattr("molvae.inference.sampling.decode_latents", lambda *_: strings)
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
    card.pop("checksums", None)
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
