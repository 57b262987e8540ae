"""Where molecules lie in the latent space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from molvae.inference import posterior as module
from molvae.inference.posterior import posterior, posterior_draws
from molvae.nn.vae import untrained


@pytest.fixture
def model(network):
    return network


@pytest.mark.parametrize("size", [1, 5, 512])
def test_the_posterior_of_each_molecule_is_in_its_row_whatever_the_batches(model, tokens, monkeypatch, size):
    monkeypatch.setattr(module, "BATCH", size)
    mu, logvar = posterior(model, tokens)
    with torch.no_grad():
        for row in (0, 7, 30):
            expected = model.encoder(*tokens.batch(np.array([row])).read)
            torch.testing.assert_close(torch.stack([mu[row], logvar[row]]), torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert posterior(model, tokens.select(np.array([], dtype=np.int64)))[0].shape == (0, model.latent_dim)


def test_draws_of_the_aggregate_posterior_take_each_molecule_as_often_and_from_its_own_posterior(model, tokens):
    each = 400
    draws = posterior_draws(model, tokens, each * len(tokens), seed=3)
    with torch.inference_mode():
        mu, logvar = model.encoder(*tokens.batch(np.arange(len(tokens))).read)
    assert torch.equal(draws, posterior_draws(model, tokens, each * len(tokens), seed=3))
    assert not torch.equal(draws, posterior_draws(model, tokens, each * len(tokens), seed=4))
    spread = (mu.var(0, unbiased=False) + logvar.exp().mean(0)).sqrt()  # of the mixture of the posteriors
    error = spread / len(draws) ** 0.5
    assert ((draws.mean(0) - mu.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.05, atol=0)


def test_draws_of_the_posterior_of_a_plain_autoencoder_are_its_points(vocabulary, sizes, tokens):
    plain = untrained(len(vocabulary), sizes.model_copy(update={"variational": False}), 0).eval()
    draws = posterior_draws(plain, tokens, 2 * len(tokens), seed=0)
    with torch.inference_mode():
        mu, _ = plain.encoder(*tokens.batch(np.arange(len(tokens))).read)
    distance = (draws[:, None] - mu).abs().amax(-1)
    assert (distance.amin(1) < 1e-6).all()
    assert (distance.argmin(1).bincount(minlength=len(tokens)) == 2).all()
