"""Figures that tell a collapsed posterior from a healthy one, on posteriors of which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from molvae.config import ModelSettings, TrainSettings
from molvae.inference.posterior_diagnostics import (
    ACTIVE_VARIANCE,
    MUTUAL_MOLECULES,
    active_units,
    free_running,
    kl_by_dimension,
    mutual_information,
)
from molvae.nn.vae import untrained
from molvae.training.trainer import Run

CPU = torch.device("cpu")


def drawn(mu, logvar, seed=0):
    """The posteriors with a draw of each."""
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed))
    return mu, logvar, mu + noise * (0.5 * logvar).exp()


@given(st.integers(2, 200), st.integers(1, 9), st.floats(-3, 3), st.floats(-3, 3))
def test_posteriors_that_are_all_alike_tell_nothing_of_their_molecules(n, dims, mean, logvar):
    found = mutual_information(*drawn(torch.full((n, dims), mean), torch.full((n, dims), logvar)))
    assert found == pytest.approx(0, abs=1e-6)


@given(st.integers(2, 200), st.integers(1, 9))
def test_posteriors_far_from_each_other_tell_which_of_n_molecules_it_is(n, dims):
    mu = 100 * torch.arange(n, dtype=torch.float32)[:, None].expand(n, dims)
    assert mutual_information(*drawn(mu, torch.zeros(n, dims))) == pytest.approx(math.log(n), abs=1e-6)


def test_two_groups_of_posteriors_tell_one_bit():
    mu = torch.tensor([[-50.0], [50.0]]).repeat(300, 1)
    assert mutual_information(*drawn(mu, torch.zeros_like(mu))) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(("dims", "spread", "bias"), [(1, 1.0, 0.06), (1, 0.1, 0.06), (2, 0.5, 0.1), (4, 1.0, 0.15)])
def test_the_mutual_information_of_a_channel_with_gaussian_noise_is_shannons(dims, spread, bias):
    """Capacity d/2 log(1 + 1/s²), far below log 2000 = 7.6; the standard error of 2000 draws is about 0.02 √d."""
    source = torch.randn(2000, dims, generator=torch.Generator().manual_seed(1))
    found = mutual_information(*drawn(source, torch.full_like(source, 2 * math.log(spread))))
    assert found == pytest.approx(dims / 2 * math.log(1 + 1 / spread**2), abs=bias)


def test_the_mutual_information_is_that_of_the_first_molecules_and_of_no_plain_float32_sum():
    mu = torch.randn(MUTUAL_MOLECULES + 500, 2, generator=torch.Generator().manual_seed(1))
    posterior = drawn(mu, torch.zeros_like(mu))
    assert mutual_information(*posterior) == mutual_information(*(part[:MUTUAL_MOLECULES] for part in posterior))
    far = [part + shift for part, shift in zip(posterior, (1000.0, 0.0, 1000.0), strict=True)]
    assert mutual_information(*far) == pytest.approx(mutual_information(*posterior), abs=1e-3)


def test_a_unit_is_active_if_its_mean_varies_over_the_molecules():
    signs = torch.tensor([1.0, -1.0]).repeat(50)[:, None]  # variance 1
    scales = torch.tensor([0, 0.5, 0.99, 1.01, 2, 30]) * ACTIVE_VARIANCE**0.5
    assert active_units(signs * scales + 7) == 3
    assert active_units(torch.ones(1, 4)) == 0  # of one molecule nothing varies


def test_the_kl_of_each_dimension_worked_by_hand():
    mu, logvar = torch.tensor([[1.0, 0, 0], [-1, 0, 0]]), torch.tensor([[0.0, 0, 2 * math.log(2)], [0, 0, 0]])
    assert kl_by_dimension(mu, logvar) == pytest.approx([0.5, 0, 0.5 * (1.5 - math.log(2))])


@pytest.fixture(scope="module")
def scholar(tokens, vocabulary):
    """A plain autoencoder that knows five molecules by heart, and these."""
    rows = np.argsort(tokens.lengths)[:5]
    sizes = ModelSettings(
        variational=False, embedding_dim=16, latent_dim=8, encoder_hidden=32, decoder_hidden=48, decoder_layers=1
    )
    settings = TrainSettings(epochs=80, batch_size=5, learning_rate=0.03, dropout=0.0, patience=999)
    run = Run(untrained(len(vocabulary), sizes, 0), tokens.select(rows), tokens.select(rows), settings, CPU)
    for _ in range(80):
        run.step(np.arange(5))
        run.progress.step += 1
    return run.model.eval(), tokens.select(rows)


def test_a_model_that_learned_by_heart_writes_each_molecule_token_for_token(scholar):
    assert free_running(*scholar, CPU) == (1.0, 1.0)


def test_one_wrong_token_costs_its_molecule_and_what_follows_it(scholar, monkeypatch):
    model, five = scholar
    other = five.select(np.array([0, 1, 2, 3, 4]))
    last = other.offsets[5] - 1
    encoded = model.encoder(*five.batch(np.arange(5)).read)
    monkeypatch.setattr(model.encoder, "forward", lambda *given: encoded)
    other.ids = other.ids.copy()
    other.ids[last] = 4 if other.ids[last] != 4 else 5  # the last token of the last molecule is another one
    exact, in_place = free_running(model, other, CPU)
    assert exact == pytest.approx(4 / 5)
    assert in_place == pytest.approx((4 + other.lengths[4] / (other.lengths[4] + 1)) / 5)


def test_an_untrained_model_writes_none_and_a_string_cut_short_is_none(scholar, tokens, vocabulary, sizes):
    exact, in_place = free_running(untrained(len(vocabulary), sizes, 0).eval(), tokens, CPU)
    assert exact == 0 and in_place < 0.5
    model, five = scholar
    longer = five.select(np.array([0, 0]))
    longer = type(longer).of([[*longer[0].tolist(), 5], longer[1].tolist()])  # one token more than is written
    encoded = tuple(part[[0, 0]] for part in model.encoder(*five.batch(np.array([0])).read))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.encoder, "forward", lambda *given: encoded)
        assert free_running(model, longer, CPU)[0] == 0.5
