"""Encoder, decoder and both together: what a batch, its padding and its steps must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from molvae.dataset import Batch
from molvae.objective import kl_nats, reconstruction_nats
from molvae.vae import untrained
from molvae.vocabulary import BOS, PAD

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order


@pytest.fixture
def everything(tokens):
    return tokens.batch(np.arange(len(tokens)))


@pytest.fixture
def z(network, tokens):
    return torch.randn(len(tokens), network.latent_dim, generator=torch.Generator().manual_seed(0))


def posterior(network, batch):
    with torch.inference_mode():
        return torch.cat(network.encoder(batch.inputs[1:], batch.lengths), dim=1)


def nats_each(network, batch, z):
    """Reconstruction loss of each molecule."""
    with torch.inference_mode():
        logits, _ = network.decoder(batch.inputs, z, network.decoder.start(z))
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


def test_decoding_step_by_step_gives_the_scores_of_decoding_at_once(network, everything, z):
    with torch.inference_mode():
        at_once, last = network.decoder(everything.inputs, z, network.decoder.start(z))
        state, steps = network.decoder.start(z), []
        for token in everything.inputs:
            logits, state = network.decoder(token[None], z, state)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps), at_once, **CLOSE)
    torch.testing.assert_close(state, last, **CLOSE)


def test_a_score_depends_on_earlier_tokens_only(network, everything, z):
    changed = everything.inputs.clone()
    changed[6:] = 9
    with torch.inference_mode():
        one, other = (network.decoder(i, z, network.decoder.start(z))[0] for i in (everything.inputs, changed))
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
        terms = network(everything, torch.Generator().manual_seed(3))
    torch.testing.assert_close(terms.kl, kl_nats(terms.mu, terms.logvar))
    torch.testing.assert_close(terms.reconstruction, reconstruction_nats(terms.logits, everything.targets))
    torch.testing.assert_close(torch.cat([terms.mu, terms.logvar], 1), posterior(network, everything), **CLOSE)


def test_the_noise_is_that_of_the_generator_and_scaled_by_the_posterior(network, everything):
    with torch.inference_mode():
        a, b, c = (network(everything, torch.Generator().manual_seed(seed)).reconstruction for seed in (3, 3, 4))
        assert a == b != c
        mu, logvar = network.encoder(everything.inputs[1:], everything.lengths)
        noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(3))
        losses = nats_each(network, everything, mu + noise * (logvar / 2).exp())
    torch.testing.assert_close(a, losses.mean(), **CLOSE)


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
    state = model.decoder.start(mu)
    assert state.shape == (sizes.decoder_layers, 2, sizes.decoder_hidden)
    logits, after = model.decoder(torch.full((4, 2), BOS), mu, state)
    assert logits.shape == (4, 2, 30) and after.shape == state.shape
