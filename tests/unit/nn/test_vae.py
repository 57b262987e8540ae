"""The VAE as a whole: its terms are those of the objective, and do not depend on padding, order and batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from molvae.data.dataset import Batch
from molvae.data.vocabulary import BOS, PAD
from molvae.nn.losses import compute_kl_per_dimension, compute_normal_log_density, compute_reconstruction_nats
from molvae.nn.vae import init_vae

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order


@pytest.fixture
def z(network, tokens):
    return torch.randn(len(tokens), network.latent_dim, generator=torch.Generator().manual_seed(0))


def encode(network, batch):
    """Mean and log-variance of each posterior, side by side."""
    with torch.inference_mode():
        return torch.cat(network.encoder(*batch.encoder_inputs), dim=1)


def compute_nats_per_molecule(network, batch, z):
    """Reconstruction loss of each molecule."""
    with torch.inference_mode():
        logits = network.decoder(batch.inputs, z)
        return torch.stack(
            [compute_reconstruction_nats(logits[:, [k]], batch.targets[:, [k]]) for k in range(len(batch))]
        )


def test_vae_gives_the_same_loss_and_posterior_whatever_the_length_of_the_padding(network, everything, z):
    extra = torch.full((13, len(everything)), PAD)
    longer = Batch(*(torch.cat([part, extra]) for part in (everything.inputs, everything.targets)), everything.lengths)
    losses = compute_nats_per_molecule(network, everything, z)
    torch.testing.assert_close(compute_nats_per_molecule(network, longer, z), losses, **CLOSE)
    torch.testing.assert_close(encode(network, longer), encode(network, everything), **CLOSE)


def test_vae_gives_the_same_loss_and_posterior_whatever_tokens_the_padding_holds(network, everything, z):
    inputs = everything.inputs.clone()
    inputs[1:][everything.targets[1:] == PAD] = 7  # the inputs at the step of EOS are the last that count
    changed = Batch(inputs, everything.targets, everything.lengths)
    losses = compute_nats_per_molecule(network, everything, z)
    torch.testing.assert_close(compute_nats_per_molecule(network, changed, z), losses, **CLOSE)
    torch.testing.assert_close(encode(network, changed), encode(network, everything), **CLOSE)


def test_vae_gives_the_same_loss_and_posterior_of_a_molecule_alone_and_in_a_batch(network, tokens, everything, z):
    together, losses = encode(network, everything), compute_nats_per_molecule(network, everything, z)
    for row in range(len(tokens)):
        alone = tokens.collate(np.array([row]))
        torch.testing.assert_close(encode(network, alone)[0], together[row], **CLOSE)
        torch.testing.assert_close(compute_nats_per_molecule(network, alone, z[[row]])[0], losses[row], **CLOSE)


def test_encoder_gives_the_same_posteriors_whatever_the_order_of_the_batch(network, tokens, everything):
    rows = np.random.default_rng(0).permutation(len(tokens))
    torch.testing.assert_close(encode(network, tokens.collate(rows)), encode(network, everything)[rows], **CLOSE)


def test_decoder_logits_depend_on_earlier_tokens_only(network, everything, z):
    changed = everything.inputs.clone()
    changed[6:] = 9
    with torch.inference_mode():
        logits, changed_logits = (network.decoder(inputs, z) for inputs in (everything.inputs, changed))
    torch.testing.assert_close(logits[:6], changed_logits[:6], **CLOSE)
    assert (logits[6:] - changed_logits[6:]).abs().max() > 0.01


def test_decoder_depends_on_the_latent_point(network, everything, z):
    losses, losses_at_opposite = (compute_nats_per_molecule(network, everything, points) for points in (z, -z))
    assert (losses - losses_at_opposite).abs().min() > 1e-3


@pytest.mark.parametrize("place", ["first", "last"])
def test_encoder_reads_from_the_first_to_the_last_token(network, everything, place):
    at = torch.ones_like(everything.lengths) if place == "first" else everything.lengths  # BOS is at 0
    inputs, columns = everything.inputs.clone(), torch.arange(len(everything))
    inputs[at, columns] = torch.where(inputs[at, columns] == 9, 10, 9)
    moved = encode(network, Batch(inputs, everything.targets, everything.lengths)) - encode(network, everything)
    assert (moved.abs().amax(1) > (1e-7 if place == "first" else 1e-3)).float().mean() > 0.9


def test_vae_terms_are_those_of_the_objective(network, everything):
    with torch.inference_mode():
        output = network(everything, torch.randn(len(everything), network.latent_dim))
    expected = compute_reconstruction_nats(output.logits, everything.targets)
    torch.testing.assert_close(output.terms.reconstruction, expected)
    torch.testing.assert_close(output.terms.kl, compute_kl_per_dimension(output.mu, output.logvar).sum(1).mean())
    torch.testing.assert_close(torch.cat([output.mu, output.logvar], 1), encode(network, everything), **CLOSE)


def test_vae_scales_the_given_noise_by_the_posterior(network, everything, z):
    with torch.inference_mode():
        output, same_noise, opposite_noise = (network(everything, noise) for noise in (z, z, -z))
        mu, logvar = network.encoder(*everything.encoder_inputs)
    reconstruction = output.terms.reconstruction
    assert reconstruction == same_noise.terms.reconstruction != opposite_noise.terms.reconstruction
    torch.testing.assert_close(output.z, mu + z * (logvar / 2).exp())
    torch.testing.assert_close(reconstruction, compute_nats_per_molecule(network, everything, output.z).mean(), **CLOSE)


def test_vae_decoder_reads_the_decoder_inputs_and_the_loss_stays_that_of_the_molecules(network, everything, z):
    decoder_inputs = torch.where(everything.inputs == 9, 10, everything.inputs)
    with torch.inference_mode():
        plain, changed = network(everything, z), network(everything, z, decoder_inputs=decoder_inputs)
        logits = network.decoder(decoder_inputs, changed.z)
    assert torch.equal(plain.mu, changed.mu) and plain.terms.reconstruction != changed.terms.reconstruction
    torch.testing.assert_close(changed.logits, logits)
    torch.testing.assert_close(changed.terms.reconstruction, compute_reconstruction_nats(logits, everything.targets))


def test_vae_encoder_reads_the_augmented_batch_where_there_is_one_and_the_decoder_never(network, tokens, everything, z):
    rows = np.arange(len(tokens))
    augmented = tokens.collate(np.roll(rows, 1))
    assert len(augmented.inputs) == len(everything.inputs)
    with torch.inference_mode():
        plain, changed = network(everything, z), network(replace(everything, encoder_batch=augmented), z)
        logits = network.decoder(everything.inputs, changed.z)
    torch.testing.assert_close(changed.mu, plain.mu.roll(1, 0), **CLOSE)
    torch.testing.assert_close(changed.terms.reconstruction, compute_reconstruction_nats(logits, everything.targets))


def test_plain_autoencoder_has_no_noise_and_no_kl_term(vocabulary, sizes, everything, z):
    autoencoder = init_vae(len(vocabulary), sizes.model_copy(update={"variational": False}), 0)
    output = autoencoder(everything, z)
    terms = output.terms
    assert torch.equal(output.z, output.mu) and terms.kl == 0 and not terms.kl.requires_grad
    assert torch.equal(terms.reconstruction, autoencoder(everything, -z).terms.reconstruction)
    terms.reconstruction.backward()
    assert all(parameter.grad.isfinite().all() for parameter in autoencoder.parameters())


@pytest.mark.parametrize("prior", ["mixture", "vamp", "flow"])
def test_vae_trains_a_learned_prior_by_the_kl_term_estimated_at_the_draw(vocabulary, sizes, everything, prior):
    settings = sizes.model_copy(update={"prior": prior, "prior_components": 3})
    model = init_vae(len(vocabulary), settings, 0)
    noise = torch.randn(len(everything), settings.latent_dim, generator=torch.Generator().manual_seed(0))
    output = model(everything, noise)
    posterior_density = compute_normal_log_density(output.z, output.mu, output.logvar).sum(1)
    expected = posterior_density - model.prior.log_density(output.z)
    torch.testing.assert_close(output.terms.kl, expected.mean())
    output.terms.kl.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.prior.parameters())
    assert model.encoder.to_latent.weight.grad.abs().sum() > 0


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(sizes):
    before = torch.get_rng_state()
    model = init_vae(30, sizes, 7)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    same_seed, next_seed = init_vae(30, sizes, 7), init_vae(30, sizes, 8)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, same_seed.state_dict()[name]), name
        assert not torch.equal(weight, next_seed.state_dict()[name]), name


def test_vae_has_the_sizes_of_its_settings(sizes):
    model = init_vae(30, sizes, 0)
    mu, logvar = model.encoder(torch.full((3, 2), 5), torch.tensor([1, 3]))
    assert mu.shape == logvar.shape == (2, sizes.latent_dim)
    assert model.decoder.compute_first_state(mu).shape == (sizes.decoder_layers, 1, 2, sizes.decoder_hidden)
    assert model.decoder(torch.full((4, 2), BOS), mu).shape == (4, 2, 30)
