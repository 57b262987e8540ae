"""Posteriors of molecules, and draws of the aggregate posterior."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from molvae.inference import posterior
from molvae.inference.posterior import compute_posterior, sample_aggregate_posterior
from molvae.nn.vae import init_vae


@pytest.mark.parametrize("size", [1, 5, 512])
def test_posteriors_stand_in_the_rows_of_their_molecules_whatever_the_batch_size(network, tokens, monkeypatch, size):
    monkeypatch.setattr(posterior, "BATCH_SIZE", size)
    mu, logvar = compute_posterior(network, tokens)
    with torch.no_grad():
        for row in (0, 7, 30):
            expected = network.encoder(*tokens.collate(np.array([row])).encoder_inputs)
            torch.testing.assert_close(torch.stack([mu[row], logvar[row]]), torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert compute_posterior(network, tokens.select(np.array([], dtype=np.int64)))[0].shape == (0, network.latent_dim)


def test_aggregate_posterior_draws_take_each_molecule_equally_often_and_from_its_posterior(network, tokens):
    n = 400 * len(tokens)
    draws = sample_aggregate_posterior(network, tokens, n, seed=3)
    with torch.inference_mode():
        mu, logvar = network.encoder(*tokens.collate(np.arange(len(tokens))).encoder_inputs)
    assert torch.equal(draws, sample_aggregate_posterior(network, tokens, n, seed=3))
    assert not torch.equal(draws, sample_aggregate_posterior(network, tokens, n, seed=4))
    spread = (mu.var(0, unbiased=False) + logvar.exp().mean(0)).sqrt()  # of the mixture of the posteriors
    error = spread / len(draws) ** 0.5
    assert ((draws.mean(0) - mu.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.05, atol=0)


def test_aggregate_posterior_draws_of_a_plain_autoencoder_are_its_points(vocabulary, sizes, tokens):
    autoencoder = init_vae(len(vocabulary), sizes.model_copy(update={"variational": False}), 0).eval()
    draws = sample_aggregate_posterior(autoencoder, tokens, 2 * len(tokens), seed=0)
    with torch.inference_mode():
        mu, _ = autoencoder.encoder(*tokens.collate(np.arange(len(tokens))).encoder_inputs)
    distance = (draws[:, None] - mu).abs().amax(-1)
    assert (distance.amin(1) < 1e-6).all()
    assert (distance.argmin(1).bincount(minlength=len(tokens)) == 2).all()
