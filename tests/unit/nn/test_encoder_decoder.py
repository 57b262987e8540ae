"""Encoders and decoders of every architecture: padding, batches and single steps do not change the results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from molvae.data.vocabulary import PAD
from molvae.nn.encoder_decoder import StepDecoder, apply_dropout
from molvae.nn.vae import VAE, init_vae

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order
ARCHITECTURES = [
    (cell, bidirectional, layers) for cell in ("gru", "lstm") for bidirectional in (False, True) for layers in (1, 3)
]


@pytest.fixture(params=ARCHITECTURES, ids=lambda param: f"{param[0]}-{'both' if param[1] else 'one'}-{param[2]}")
def model(request, vocabulary, sizes) -> VAE:
    """A network with random weights, larger than at the start of training, so that no two molecules are alike."""
    cell, bidirectional, layers = request.param
    changes = {
        "encoder_cell": cell,
        "encoder_bidirectional": bidirectional,
        "encoder_layers": layers,
        "decoder_cell": cell,
        "decoder_layers": layers,
    }
    network = init_vae(len(vocabulary), sizes.model_copy(update=changes), seed=1).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 2
    return network


@pytest.fixture
def z(everything, sizes):
    return torch.randn(len(everything), sizes.latent_dim, generator=torch.Generator().manual_seed(0))


def encode(model, tokens, lengths):
    """Mean and log-variance of each posterior, side by side."""
    with torch.no_grad():
        return torch.cat(model.encoder(tokens, lengths), dim=1)


def test_encoder_gives_the_same_posterior_whatever_the_padding_and_the_rest_of_the_batch(model, tokens, everything):
    ids, lengths = everything.encoder_inputs
    posteriors = encode(model, ids, lengths)
    assert len(posteriors.round(decimals=4).unique(dim=0)) == len(tokens)
    longer = torch.cat([ids, torch.full((7, len(everything)), PAD)])
    torch.testing.assert_close(encode(model, longer, lengths), posteriors, **CLOSE)
    noisy = torch.where(torch.arange(len(ids))[:, None] < lengths, ids, 9)
    torch.testing.assert_close(encode(model, noisy, lengths), posteriors, **CLOSE)
    rows = np.random.default_rng(0).permutation(len(tokens))
    torch.testing.assert_close(encode(model, *tokens.collate(rows).encoder_inputs), posteriors[rows], **CLOSE)
    for row in range(0, len(tokens), 5):
        alone = tokens.collate(np.array([row]))
        torch.testing.assert_close(encode(model, *alone.encoder_inputs)[0], posteriors[row], **CLOSE)


def test_encoder_gives_the_same_posterior_with_and_without_gradients(model, everything):
    with_gradients = torch.cat(model.encoder(*everything.encoder_inputs), dim=1)
    torch.testing.assert_close(with_gradients.detach(), encode(model, *everything.encoder_inputs), **CLOSE)


def reverse_strings(ids, lengths):
    """Each molecule from its last token to its first."""
    return torch.stack([torch.cat([i[:n].flip(0), i[n:]]) for i, n in zip(ids.T, lengths, strict=True)]).T


def test_bidirectional_encoder_of_one_layer_is_a_forward_and_a_backward_encoder(vocabulary, sizes, everything):
    """With one layer the states at both ends are those of two encoders of one direction."""
    ids, lengths = everything.encoder_inputs
    bidirectional = init_vae(len(vocabulary), sizes.model_copy(update={"encoder_bidirectional": True}), 0).encoder
    layer = init_vae(len(vocabulary), sizes, 0).encoder.layers[0][0]
    ends = []
    for direction, order in enumerate((ids, reverse_strings(ids, lengths))):
        layer.load_state_dict(bidirectional.layers[0][direction].state_dict())
        states = layer(bidirectional.embedding(order))
        ends.append(states[lengths - 1, torch.arange(len(lengths))])
    expected = bidirectional.to_latent(torch.cat(ends, dim=1))
    torch.testing.assert_close(torch.cat(bidirectional(ids, lengths), dim=1), expected, **CLOSE)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_deep_bidirectional_encoder_is_that_of_torch_in_which_each_upper_layer_sees_the_whole_string(
    vocabulary, sizes, cell, everything
):
    """Torch's stack of both directions is given packed strings, so that it knows where each ends."""
    ids, lengths = everything.encoder_inputs
    settings = sizes.model_copy(update={"encoder_bidirectional": True, "encoder_layers": 3, "encoder_cell": cell})
    encoder = init_vae(len(vocabulary), settings, 0).encoder
    reference = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](6, 9, num_layers=3, bidirectional=True)
    for number, layer in enumerate(encoder.layers):
        for direction, suffix in zip(layer, ("", "_reverse"), strict=True):
            for name, weight in direction.rnn.named_parameters():
                getattr(reference, name.replace("l0", f"l{number}") + suffix).data.copy_(weight)
    packed = torch.nn.utils.rnn.pack_padded_sequence(encoder.embedding(ids), lengths, enforce_sorted=False)
    last = reference(packed)[1]
    ends = (last if cell == "gru" else last[0])[-2:]
    expected = encoder.to_latent(torch.cat([ends[0], ends[1]], dim=1))
    torch.testing.assert_close(torch.cat(encoder(ids, lengths), dim=1), expected, **CLOSE)


def test_encoder_lets_every_token_change_the_posterior(model, everything):
    ids, lengths = everything.encoder_inputs
    for at in (torch.zeros_like(lengths), lengths // 2, lengths - 1):
        changed, columns = ids.clone(), torch.arange(len(everything))
        changed[at, columns] = torch.where(ids[at, columns] == 9, 10, 9)
        moved = encode(model, changed, lengths) - encode(model, ids, lengths)
        assert (moved.abs().amax(1) > 1e-7).float().mean() > 0.9


def test_encoder_of_a_plain_autoencoder_gives_points_as_posteriors(vocabulary, sizes, everything):
    encoder = init_vae(len(vocabulary), sizes.model_copy(update={"variational": False}), 0).encoder
    mu, logvar = encoder(*everything.encoder_inputs)
    assert mu.shape == logvar.shape == (len(everything), sizes.latent_dim)
    assert (logvar == -torch.inf).all() and not logvar.requires_grad
    assert torch.equal(mu + torch.randn_like(mu) * (0.5 * logvar).exp(), mu)


def test_step_decoder_gives_the_logits_that_the_decoder_gives_for_the_whole_string(model, everything, z):
    with torch.no_grad():
        expected, step_decoder = model.decoder(everything.inputs, z), StepDecoder(model.decoder, z)
        logits = torch.stack([step_decoder.step(tokens) for tokens in everything.inputs])
    torch.testing.assert_close(logits, expected, **CLOSE)
    torch.testing.assert_close(model.decoder(everything.inputs, z).detach(), expected, **CLOSE)


def test_step_decoder_continues_kept_rows_as_if_the_dropped_rows_were_still_there(model, everything, z):
    rows = torch.tensor([30, 2, 3, 17])
    with torch.no_grad():
        expected, step_decoder = model.decoder(everything.inputs, z), StepDecoder(model.decoder, z)
        for tokens in everything.inputs[:4]:
            step_decoder.step(tokens)
        step_decoder.keep_rows(rows)
        later = torch.stack([step_decoder.step(tokens) for tokens in everything.inputs[4:, rows]])
        step_decoder.keep_rows(torch.tensor([], dtype=torch.int64))
        assert step_decoder.step(torch.tensor([], dtype=torch.int64)).shape == (0, expected.shape[2])
    torch.testing.assert_close(later, expected[4:, rows], **CLOSE)


def test_dropout_lies_between_the_layers_of_the_encoder_and_around_those_of_the_decoder(model, everything, z):
    widths = []

    def record_width(values):
        widths.append(values.shape[-1])
        return values

    encoder, decoder = model.encoder, model.decoder
    encoder(*everything.encoder_inputs, record_width)
    assert widths == [encoder.to_latent.in_features] * (len(encoder.layers) - 1)
    widths.clear()
    decoder(everything.inputs, z, record_width)
    assert widths == [6] + [8] * len(decoder.layers)


def test_dropout_keeps_the_mean_and_drops_the_fraction_that_is_asked_for():
    dropped = apply_dropout(torch.ones(200, 200), 0.25, torch.Generator().manual_seed(0))
    assert abs((dropped == 0).float().mean().item() - 0.25) < 0.01  # 40 000 draws: 4.6 standard errors
    assert abs(dropped.mean().item() - 1) < 0.015


def test_dropout_is_a_function_of_its_generator_alone():
    draws = [apply_dropout(torch.ones(50, 50), 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_dropout_of_nothing_returns_the_values_themselves_and_draws_no_random_number():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    values = torch.randn(5, 5)
    assert apply_dropout(values, 0.0, generator) is values
    assert torch.equal(generator.get_state(), before)
