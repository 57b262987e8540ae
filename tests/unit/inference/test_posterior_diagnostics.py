"""Measures that tell a collapsed posterior from a healthy one, on posteriors of which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from molvae.config import ModelSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.inference.posterior_diagnostics import (
    ACTIVE_VARIANCE,
    MAX_MI_MOLECULES,
    compute_mean_kl_by_dimension,
    count_active_units,
    estimate_mutual_information,
    measure_free_running,
)
from molvae.nn.vae import init_vae
from molvae.training.trainer import Trainer

CPU = torch.device("cpu")


def add_draws(mu, logvar):
    """The posteriors, and a draw of each."""
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    return mu, logvar, mu + noise * (0.5 * logvar).exp()


@given(st.integers(2, 200), st.integers(1, 9), st.floats(-3, 3), st.floats(-3, 3))
def test_mutual_information_of_equal_posteriors_is_zero(n, dims, mean, logvar):
    posteriors = add_draws(torch.full((n, dims), mean), torch.full((n, dims), logvar))
    assert estimate_mutual_information(*posteriors) == pytest.approx(0, abs=1e-6)


@given(st.integers(2, 200), st.integers(1, 9))
def test_mutual_information_of_n_distant_posteriors_is_log_n(n, dims):
    mu = 100 * torch.arange(n, dtype=torch.float32)[:, None].expand(n, dims)
    assert estimate_mutual_information(*add_draws(mu, torch.zeros(n, dims))) == pytest.approx(math.log(n), abs=1e-6)


def test_mutual_information_of_two_groups_of_posteriors_is_one_bit():
    mu = torch.tensor([[-50.0], [50.0]]).repeat(300, 1)
    assert estimate_mutual_information(*add_draws(mu, torch.zeros_like(mu))) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(("dims", "spread", "bias"), [(1, 1.0, 0.06), (1, 0.1, 0.06), (2, 0.5, 0.1), (4, 1.0, 0.15)])
def test_mutual_information_of_a_gaussian_channel_is_that_of_shannon(dims, spread, bias):
    """Capacity d/2 log(1 + 1/s²), far below log 2000 = 7.6; the standard error of 2000 draws is about 0.02 √d."""
    source = torch.randn(2000, dims, generator=torch.Generator().manual_seed(1))
    information = estimate_mutual_information(*add_draws(source, torch.full_like(source, 2 * math.log(spread))))
    assert information == pytest.approx(dims / 2 * math.log(1 + 1 / spread**2), abs=bias)


def test_mutual_information_takes_the_first_molecules_only_and_is_precise_far_from_zero():
    mu = torch.randn(MAX_MI_MOLECULES + 500, 2, generator=torch.Generator().manual_seed(1))
    posteriors = add_draws(mu, torch.zeros_like(mu))
    information = estimate_mutual_information(*posteriors)
    assert information == estimate_mutual_information(*(part[:MAX_MI_MOLECULES] for part in posteriors))
    far = [part + shift for part, shift in zip(posteriors, (1000.0, 0.0, 1000.0), strict=True)]
    assert estimate_mutual_information(*far) == pytest.approx(information, abs=1e-3)


def test_latent_unit_is_active_if_its_mean_varies_over_the_molecules():
    signs = torch.tensor([1.0, -1.0]).repeat(50)[:, None]  # variance 1
    scales = torch.tensor([0, 0.5, 0.99, 1.01, 2, 30]) * ACTIVE_VARIANCE**0.5
    assert count_active_units(signs * scales + 7) == 3
    assert count_active_units(torch.ones(1, 4)) == 0  # of one molecule


def test_mean_kl_of_each_dimension_is_that_worked_by_hand():
    mu, logvar = torch.tensor([[1.0, 0, 0], [-1, 0, 0]]), torch.tensor([[0.0, 0, 2 * math.log(2)], [0, 0, 0]])
    assert compute_mean_kl_by_dimension(mu, logvar) == pytest.approx([0.5, 0, 0.5 * (1.5 - math.log(2))])


@pytest.fixture(scope="module")
def memoriser(tokens, vocabulary):
    """A plain autoencoder that has memorised five molecules, and these."""
    rows = np.argsort(tokens.lengths)[:5]
    sizes = ModelSettings(
        variational=False, embedding_dim=16, latent_dim=8, encoder_hidden=32, decoder_hidden=48, decoder_layers=1
    )
    settings = TrainSettings(epochs=80, batch_size=5, learning_rate=0.03, dropout=0.0, patience=999)
    molecules = tokens.select(rows)
    trainer = Trainer(init_vae(len(vocabulary), sizes, 0), molecules, tokens.select(rows), settings, CPU)
    for _ in range(80):
        trainer.step(np.arange(5))
        trainer.progress.step += 1
    return trainer.model.eval(), tokens.select(rows)


def test_free_running_reconstruction_of_memorised_molecules_is_exact(memoriser):
    assert measure_free_running(*memoriser, CPU) == (1.0, 1.0)


def test_free_running_reconstruction_counts_a_molecule_with_one_wrong_token_as_wrong(memoriser, monkeypatch):
    model, molecules = memoriser
    changed = molecules.select(np.array([0, 1, 2, 3, 4]))
    last = changed.offsets[5] - 1
    encoded = model.encoder(*molecules.collate(np.arange(5)).encoder_inputs)
    monkeypatch.setattr(model.encoder, "forward", lambda *arguments: encoded)
    changed.ids = changed.ids.copy()
    changed.ids[last] = 4 if changed.ids[last] != 4 else 5  # the last token of the last molecule
    exact, token_accuracy = measure_free_running(model, changed, CPU)
    assert exact == pytest.approx(4 / 5)
    assert token_accuracy == pytest.approx((4 + changed.lengths[4] / (changed.lengths[4] + 1)) / 5)


def test_free_running_reconstruction_of_an_untrained_model_is_never_exact(tokens, vocabulary, sizes):
    exact, token_accuracy = measure_free_running(init_vae(len(vocabulary), sizes, 0).eval(), tokens, CPU)
    assert exact == 0 and token_accuracy < 0.5


def test_free_running_reconstruction_counts_a_string_that_ends_too_early_as_wrong(memoriser, monkeypatch):
    model, molecules = memoriser
    ids = molecules[0].tolist()
    longer = TokenSet.from_lists([[*ids, 5], ids])  # the first has one token more than is decoded
    encoded = tuple(part[[0, 0]] for part in model.encoder(*molecules.collate(np.array([0])).encoder_inputs))
    monkeypatch.setattr(model.encoder, "forward", lambda *arguments: encoded)
    assert measure_free_running(model, longer, CPU)[0] == 0.5
