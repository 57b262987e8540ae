"""Encoders and decoders of every make: what a batch, its padding and its steps must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from molvae.data.vocabulary import PAD
from molvae.nn.encoder_decoder import Writer, dropout
from molvae.nn.vae import VAE, untrained

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order
MAKES = [(cell, both, layers) for cell in ("gru", "lstm") for both in (False, True) for layers in (1, 3)]


@pytest.fixture(params=MAKES, ids=lambda make: f"{make[0]}-{'both' if make[1] else 'one'}-{make[2]}")
def make(request, vocabulary, sizes) -> VAE:
    """Random weights, larger than at the start of a training so that no two molecules are alike."""
    cell, both, layers = request.param
    chosen = sizes.model_copy(
        update={"encoder_cell": cell, "encoder_bidirectional": both, "encoder_layers": layers,
                "decoder_cell": cell, "decoder_layers": layers}
    )  # fmt: skip
    model = untrained(len(vocabulary), chosen, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    return model


@pytest.fixture
def z(everything, sizes):
    return torch.randn(len(everything), sizes.latent_dim, generator=torch.Generator().manual_seed(0))


def posterior(model, tokens, lengths):
    with torch.no_grad():
        return torch.cat(model.encoder(tokens, lengths), dim=1)


def test_neither_padding_nor_the_rest_of_the_batch_changes_a_posterior(make, tokens, everything):
    ids, lengths = everything.read
    whole = posterior(make, ids, lengths)
    assert len(whole.round(decimals=4).unique(dim=0)) == len(tokens)
    longer = torch.cat([ids, torch.full((7, len(everything)), PAD)])
    torch.testing.assert_close(posterior(make, longer, lengths), whole, **CLOSE)
    noisy = torch.where(torch.arange(len(ids))[:, None] < lengths, ids, 9)
    torch.testing.assert_close(posterior(make, noisy, lengths), whole, **CLOSE)
    rows = np.random.default_rng(0).permutation(len(tokens))
    torch.testing.assert_close(posterior(make, *tokens.batch(rows).read), whole[rows], **CLOSE)
    for row in range(0, len(tokens), 5):
        torch.testing.assert_close(posterior(make, *tokens.batch(np.array([row])).read)[0], whole[row], **CLOSE)


def test_training_and_reading_give_the_same_posterior(make, everything):
    with_gradients = torch.cat(make.encoder(*everything.read), dim=1)
    torch.testing.assert_close(with_gradients.detach(), posterior(make, *everything.read), **CLOSE)


def reversed_order(ids, lengths):
    """Each molecule from its last token to its first."""
    return torch.stack([torch.cat([i[:n].flip(0), i[n:]]) for i, n in zip(ids.T, lengths, strict=True)]).T


def test_an_encoder_of_both_directions_is_one_that_reads_the_string_and_one_that_reads_it_backwards(
    vocabulary, sizes, everything
):
    """With one layer the states at both ends are those of two encoders of one direction."""
    ids, lengths = everything.read
    both = untrained(len(vocabulary), sizes.model_copy(update={"encoder_bidirectional": True}), 0).encoder
    one = untrained(len(vocabulary), sizes, 0).encoder
    ends = []
    for direction, order in enumerate((ids, reversed_order(ids, lengths))):
        one.layers[0][0].load_state_dict(both.layers[0][direction].state_dict())
        states = one.layers[0][0](both.embedding(order))
        ends.append(states[lengths - 1, torch.arange(len(lengths))])
    expected = both.to_latent(torch.cat(ends, dim=1))
    torch.testing.assert_close(torch.cat(both(ids, lengths), dim=1), expected, **CLOSE)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_above_the_first_layer_each_step_sees_the_whole_string_in_an_encoder_of_both_directions(
    vocabulary, sizes, cell, everything
):
    """Equal to torch's own stack of both directions, packed, which knows where each string ends."""
    ids, lengths = everything.read
    chosen = sizes.model_copy(update={"encoder_bidirectional": True, "encoder_layers": 3, "encoder_cell": cell})
    encoder = untrained(len(vocabulary), chosen, 0).encoder
    theirs = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](6, 9, num_layers=3, bidirectional=True)
    for number, layer in enumerate(encoder.layers):
        for direction, suffix in zip(layer, ("", "_reverse"), strict=True):
            for name, weight in direction.rnn.named_parameters():
                getattr(theirs, name.replace("l0", f"l{number}") + suffix).data.copy_(weight)
    packed = torch.nn.utils.rnn.pack_padded_sequence(encoder.embedding(ids), lengths, enforce_sorted=False)
    last = theirs(packed)[1]
    ends = (last if cell == "gru" else last[0])[-2:]
    expected = encoder.to_latent(torch.cat([ends[0], ends[1]], dim=1))
    torch.testing.assert_close(torch.cat(encoder(ids, lengths), dim=1), expected, **CLOSE)


def test_every_token_reaches_the_posterior(make, everything):
    ids, lengths = everything.read
    for at in (torch.zeros_like(lengths), lengths // 2, lengths - 1):
        changed, columns = ids.clone(), torch.arange(len(everything))
        changed[at, columns] = torch.where(ids[at, columns] == 9, 10, 9)
        moved = posterior(make, changed, lengths) - posterior(make, ids, lengths)
        assert (moved.abs().amax(1) > 1e-7).float().mean() > 0.9


def test_a_plain_autoencoder_has_a_point_for_a_posterior(vocabulary, sizes, everything):
    encoder = untrained(len(vocabulary), sizes.model_copy(update={"variational": False}), 0).encoder
    mu, logvar = encoder(*everything.read)
    assert mu.shape == logvar.shape == (len(everything), sizes.latent_dim)
    assert (logvar == -torch.inf).all() and not logvar.requires_grad
    assert torch.equal(mu + torch.randn_like(mu) * (0.5 * logvar).exp(), mu)


def test_writing_a_token_at_a_time_gives_the_scores_of_the_whole_string(make, everything, z):
    with torch.no_grad():
        expected, writer = make.decoder(everything.inputs, z), Writer(make.decoder, z)
        written = torch.stack([writer.step(tokens) for tokens in everything.inputs])
    torch.testing.assert_close(written, expected, **CLOSE)
    torch.testing.assert_close(make.decoder(everything.inputs, z).detach(), expected, **CLOSE)


def test_rows_that_are_kept_go_on_as_if_the_others_were_still_there(make, everything, z):
    rows = torch.tensor([30, 2, 3, 17])
    with torch.no_grad():
        expected, writer = make.decoder(everything.inputs, z), Writer(make.decoder, z)
        for tokens in everything.inputs[:4]:
            writer.step(tokens)
        writer.keep_rows(rows)
        later = torch.stack([writer.step(tokens) for tokens in everything.inputs[4:, rows]])
        writer.keep_rows(torch.tensor([], dtype=torch.int64))
        assert writer.step(torch.tensor([], dtype=torch.int64)).shape == (0, expected.shape[2])
    torch.testing.assert_close(later, expected[4:, rows], **CLOSE)


def test_dropout_lies_between_the_layers_of_the_encoder_and_around_those_of_the_decoder(make, everything, z):
    seen = []

    def spy(values):
        seen.append(values.shape[-1])
        return values

    encoder, decoder = make.encoder, make.decoder
    encoder(*everything.read, spy)
    wide = encoder.to_latent.in_features
    assert seen == [wide] * (len(encoder.layers) - 1)
    seen.clear()
    decoder(everything.inputs, z, spy)
    assert seen == [6] + [8] * len(decoder.layers)


def test_dropout_keeps_the_mean_and_drops_the_fraction_it_is_told():
    dropped = dropout(torch.ones(200, 200), 0.25, torch.Generator().manual_seed(0))
    assert abs((dropped == 0).float().mean().item() - 0.25) < 0.01  # 40 000 draws: 4.6 standard errors
    assert abs(dropped.mean().item() - 1) < 0.015


def test_dropout_is_a_function_of_its_generator_alone():
    draws = [dropout(torch.ones(50, 50), 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_no_dropout_changes_nothing_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    values = torch.randn(5, 5)
    assert dropout(values, 0.0, generator) is values
    assert torch.equal(generator.get_state(), before)
