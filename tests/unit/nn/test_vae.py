"""Encoder, decoder and both together: what a batch, its padding and its steps must not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from molvae.data.dataset import Batch
from molvae.data.vocabulary import BOS, PAD
from molvae.nn.losses import kl_per_dimension, normal_log_density, reconstruction_nats
from molvae.nn.vae import untrained

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order


@pytest.fixture
def z(network, tokens):
    return torch.randn(len(tokens), network.latent_dim, generator=torch.Generator().manual_seed(0))


def posterior(network, batch):
    with torch.inference_mode():
        return torch.cat(network.encoder(*batch.read), dim=1)


def nats_each(network, batch, z):
    """Reconstruction loss of each molecule."""
    with torch.inference_mode():
        logits = network.decoder(batch.inputs, z)
        return torch.stack([reconstruction_nats(logits[:, [k]], batch.targets[:, [k]]) for k in range(len(batch))])


def test_padding_does_not_change_the_loss_nor_the_posterior(network, everything, z):
    extra = torch.full((13, len(everything)), PAD)
    longer = Batch(*(torch.cat([part, extra]) for part in (everything.inputs, everything.targets)), everything.lengths)
    torch.testing.assert_close(nats_each(network, longer, z), nats_each(network, everything, z), **CLOSE)
    torch.testing.assert_close(posterior(network, longer), posterior(network, everything), **CLOSE)


def test_what_stands_in_the_padding_does_not_matter(network, everything, z):
    inputs = everything.inputs.clone()
    inputs[1:][everything.targets[1:] == PAD] = 7  # EOS's own column of the inputs is the last that counts
    other = Batch(inputs, everything.targets, everything.lengths)
    torch.testing.assert_close(nats_each(network, other, z), nats_each(network, everything, z), **CLOSE)
    torch.testing.assert_close(posterior(network, other), posterior(network, everything), **CLOSE)


def test_a_batch_is_its_molecules_one_by_one(network, tokens, everything, z):
    together, losses = posterior(network, everything), nats_each(network, everything, z)
    for row in range(len(tokens)):
        alone = tokens.batch(np.array([row]))
        torch.testing.assert_close(posterior(network, alone)[0], together[row], **CLOSE)
        torch.testing.assert_close(nats_each(network, alone, z[[row]])[0], losses[row], **CLOSE)


def test_the_order_of_a_batch_does_not_matter(network, tokens, everything):
    rows = np.random.default_rng(0).permutation(len(tokens))
    torch.testing.assert_close(posterior(network, tokens.batch(rows)), posterior(network, everything)[rows], **CLOSE)


def test_a_score_depends_on_earlier_tokens_only(network, everything, z):
    changed = everything.inputs.clone()
    changed[6:] = 9
    with torch.inference_mode():
        one, other = (network.decoder(inputs, z) for inputs in (everything.inputs, changed))
    torch.testing.assert_close(one[:6], other[:6], **CLOSE)
    assert (one[6:] - other[6:]).abs().max() > 0.01


def test_the_decoder_listens_to_the_latent_point(network, everything, z):
    assert (nats_each(network, everything, z) - nats_each(network, everything, -z)).abs().min() > 1e-3


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_encoder_reads_from_the_first_to_the_last_token(network, everything, place):
    at = torch.ones_like(everything.lengths) if place == "first" else everything.lengths  # BOS stands at 0
    inputs, columns = everything.inputs.clone(), torch.arange(len(everything))
    inputs[at, columns] = torch.where(inputs[at, columns] == 9, 10, 9)
    moved = posterior(network, Batch(inputs, everything.targets, everything.lengths)) - posterior(network, everything)
    assert (moved.abs().amax(1) > (1e-7 if place == "first" else 1e-3)).float().mean() > 0.9


def test_the_two_terms_are_those_of_the_objective(network, everything):
    with torch.inference_mode():
        terms = network(everything, torch.randn(len(everything), network.latent_dim))
    torch.testing.assert_close(terms.kl, kl_per_dimension(terms.mu, terms.logvar).sum(1).mean())
    torch.testing.assert_close(terms.reconstruction, reconstruction_nats(terms.logits, everything.targets))
    torch.testing.assert_close(torch.cat([terms.mu, terms.logvar], 1), posterior(network, everything), **CLOSE)


def test_the_noise_is_what_is_given_and_scaled_by_the_posterior(network, everything, z):
    with torch.inference_mode():
        a, b, c = (network(everything, noise) for noise in (z, z, -z))
        mu, logvar = network.encoder(*everything.read)
    assert a.reconstruction == b.reconstruction != c.reconstruction
    torch.testing.assert_close(a.z, mu + z * (logvar / 2).exp())
    torch.testing.assert_close(a.reconstruction, nats_each(network, everything, a.z).mean(), **CLOSE)


def test_the_decoder_is_told_what_is_said_to_be_written_and_the_loss_is_still_of_the_molecules(network, everything, z):
    written = torch.where(everything.inputs == 9, 10, everything.inputs)
    with torch.inference_mode():
        plain, told = network(everything, z), network(everything, z, written=written)
        logits = network.decoder(written, told.z)
    assert torch.equal(plain.mu, told.mu) and plain.reconstruction != told.reconstruction
    torch.testing.assert_close(told.logits, logits)
    torch.testing.assert_close(told.reconstruction, reconstruction_nats(logits, everything.targets))


def test_the_encoder_reads_the_other_spelling_where_there_is_one_and_the_decoder_never(network, tokens, everything, z):
    rows = np.arange(len(tokens))
    other = tokens.batch(np.roll(rows, 1))
    assert len(other.inputs) == len(everything.inputs)
    with torch.inference_mode():
        plain, swapped = network(everything, z), network(replace(everything, source=other), z)
        logits = network.decoder(everything.inputs, swapped.z)
    torch.testing.assert_close(swapped.mu, plain.mu.roll(1, 0), **CLOSE)
    torch.testing.assert_close(swapped.reconstruction, reconstruction_nats(logits, everything.targets))


def test_a_plain_autoencoder_has_no_noise_and_no_kl_term(vocabulary, sizes, everything, z):
    plain = untrained(len(vocabulary), sizes.model_copy(update={"variational": False}), 0)
    terms = plain(everything, z)
    assert torch.equal(terms.z, terms.mu) and terms.kl == 0 and not terms.kl.requires_grad
    assert torch.equal(terms.reconstruction, plain(everything, -z).reconstruction)
    terms.reconstruction.backward()
    assert all(parameter.grad.isfinite().all() for parameter in plain.parameters())


@pytest.mark.parametrize("prior", ["mixture", "vamp", "flow"])
def test_a_learned_prior_is_trained_by_the_kl_term_which_is_estimated_at_the_draw(vocabulary, sizes, everything, prior):
    chosen = sizes.model_copy(update={"prior": prior, "prior_components": 3})
    model = untrained(len(vocabulary), chosen, 0)
    noise = torch.randn(len(everything), chosen.latent_dim, generator=torch.Generator().manual_seed(0))
    terms = model(everything, noise)
    expected = normal_log_density(terms.z, terms.mu, terms.logvar).sum(1) - model.prior.log_density(terms.z)
    torch.testing.assert_close(terms.kl, expected.mean())
    terms.kl.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.prior.parameters())
    assert model.encoder.to_latent.weight.grad.abs().sum() > 0


def test_first_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(sizes):
    before = torch.get_rng_state()
    one = untrained(30, sizes, 7)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    same, other = untrained(30, sizes, 7), untrained(30, sizes, 8)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name]), name
        assert not torch.equal(weight, other.state_dict()[name]), name


def test_the_sizes_are_those_of_the_settings(sizes):
    model = untrained(30, sizes, 0)
    mu, logvar = model.encoder(torch.full((3, 2), 5), torch.tensor([1, 3]))
    assert mu.shape == logvar.shape == (2, sizes.latent_dim)
    assert model.decoder.start(mu).shape == (sizes.decoder_layers, 1, 2, sizes.decoder_hidden)
    assert model.decoder(torch.full((4, 2), BOS), mu).shape == (4, 2, 30)
