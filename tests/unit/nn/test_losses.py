"""The terms of the loss and the schedules of training."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from molvae.config import TrainSettings
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import EOS, PAD
from molvae.nn.losses import (
    compute_kl_penalty,
    compute_kl_per_dimension,
    compute_normal_log_density,
    compute_reconstruction_nats,
    reparameterise,
)
from molvae.training.schedules import compute_kl_weight, compute_learning_rate

ids = st.lists(st.integers(4, 19), min_size=1, max_size=9)


@given(st.lists(ids, min_size=1, max_size=5))
def test_reconstruction_of_uniform_logits_is_log_vocabulary_size_for_each_token_and_the_end(molecules):
    targets = TokenSet.from_lists(molecules).collate(range(len(molecules))).targets
    logits = torch.full((*targets.shape, 20), 3.7)
    expected = sum(len(molecule) + 1 for molecule in molecules) / len(molecules) * math.log(20)
    assert compute_reconstruction_nats(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_reconstruction_is_that_worked_by_hand_and_ignores_padding():
    p = torch.tensor([[[0.1, 0.1, 0.3, 0.1, 0.4]], [[0.1, 0.1, 0.5, 0.1, 0.2]]])  # (T, B, V): B = 1, V = 5
    targets = torch.tensor([[4], [EOS]])
    assert compute_reconstruction_nats(p.log(), targets).item() == pytest.approx(-math.log(0.4) - math.log(0.5))
    targets = torch.tensor([[EOS], [PAD]])  # logits where PAD is the target do not count
    assert compute_reconstruction_nats(p.log(), targets).item() == pytest.approx(-math.log(0.3))


def test_reconstruction_is_the_mean_over_molecules_not_over_tokens():
    logits = torch.randn(8, 3, 20, generator=torch.Generator().manual_seed(0))
    batch = TokenSet.from_lists([[5] * 7, [6], [7] * 3]).collate([0, 1, 2])
    one_by_one = [compute_reconstruction_nats(logits[:, [k]], batch.targets[:, [k]]).item() for k in range(3)]
    assert compute_reconstruction_nats(logits, batch.targets).item() == pytest.approx(sum(one_by_one) / 3, rel=1e-6)


def test_reconstruction_sums_half_precision_logits_in_full_precision():
    targets = torch.full((400, 1), 5)
    logits = torch.zeros(400, 1, 20)
    assert compute_reconstruction_nats(logits.half(), targets).item() == pytest.approx(400 * math.log(20), rel=1e-5)


def test_kl_of_the_standard_normal_to_itself_is_zero():
    assert (compute_kl_per_dimension(torch.zeros(3, 4), torch.zeros(3, 4)) == 0).all()


@given(st.integers(0, 10**6))
def test_kl_per_dimension_and_normal_density_are_those_of_torch(seed):
    mu, logvar = 2 * torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed))
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0, 1))
    torch.testing.assert_close(compute_kl_per_dimension(mu, logvar), expected, rtol=1e-4, atol=1e-5)
    z = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed + 1))
    density = Normal(mu, (0.5 * logvar).exp()).log_prob(z)
    torch.testing.assert_close(compute_normal_log_density(z, mu, logvar), density, rtol=1e-4, atol=1e-4)
    density_of_draws = compute_normal_log_density(reparameterise(mu, logvar, z), mu, logvar)
    torch.testing.assert_close(density_of_draws, Normal(0, 1).log_prob(z) - 0.5 * logvar, rtol=1e-4, atol=1e-4)


def test_kl_per_dimension_is_that_worked_by_hand():
    mu, logvar = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2 * math.log(2)]])
    assert compute_kl_per_dimension(mu, logvar).sum().item() == pytest.approx(0.5 + (0.5 * (4 - 1) - math.log(2)))


@pytest.mark.parametrize(
    ("warmup", "step", "expected"),
    [(0.5, 0, 0), (0.5, 25, 1.0), (0.5, 50, 2), (0.5, 99, 2), (0, 0, 2), (0, 99, 2), (1, 50, 1), (1, 99, 1.98)],
)
def test_linear_kl_weight_at_steps_of_a_run_of_a_hundred(warmup, step, expected):
    settings = TrainSettings(kl_weight=2, kl_warmup=warmup, kl_schedule="linear")
    assert compute_kl_weight(step, 100, settings) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("warmup", "step", "expected"),
    [
        (0.5, 0, 0),
        (0.5, 5, 0.8),
        (0.5, 12, 1.92),
        (0.5, 13, 2),
        (0.5, 24, 2),
        (0.5, 25, 0),
        (0.5, 30, 0.8),
        (0.5, 75, 0),
        (0.5, 99, 2),
        (1, 99, 1.92),
        (0, 25, 2),
    ],
)
def test_cyclical_kl_weight_starts_from_zero_in_each_of_four_cycles(warmup, step, expected):
    settings = TrainSettings(kl_weight=2, kl_warmup=warmup, kl_schedule="cyclical", kl_cycles=4)
    assert compute_kl_weight(step, 100, settings) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 400), st.integers(1, 9), st.floats(0.01, 1))
def test_cyclical_kl_weight_of_one_cycle_is_linear_and_all_cycles_are_equal(steps, cycles, warmup):
    cyclical, linear = (
        TrainSettings(kl_warmup=warmup, kl_schedule=name, kl_cycles=1) for name in ("cyclical", "linear")
    )
    for step in range(steps):
        assert compute_kl_weight(step, steps, cyclical) == pytest.approx(compute_kl_weight(step, steps, linear))
    several, length = cyclical.model_copy(update={"kl_cycles": cycles}), steps * cycles
    weights = [compute_kl_weight(step, length, several) for step in range(length)]
    assert weights[:steps] * cycles == pytest.approx(weights, abs=1e-6)


@given(st.integers(0, 99), st.floats(0, 1))
def test_constant_kl_weight_is_the_same_at_every_step(step, warmup):
    assert compute_kl_weight(step, 100, TrainSettings(kl_weight=2, kl_warmup=warmup, kl_schedule="constant")) == 2


@pytest.mark.parametrize(
    ("warmup", "step", "expected"),
    [
        (0.1, 0, 0.1 / 11),  # never 0: the first step learns too
        (0.1, 9, 0.1 * 10 / 11),
        (0.1, 10, 0.1),  # the peak
        (0.1, 55, 0.1 * (0.2 + 0.8 * 0.5)),  # halfway down the cosine
        (0.1, 100, 0.02),
        (0, 0, 0.1),
        (0, 50, 0.1 * 0.6),
        (0, 200, 0.02),  # constant beyond the end
    ],
)
def test_learning_rate_at_steps_of_a_run_of_a_hundred(warmup, step, expected):
    settings = TrainSettings(learning_rate=0.1, warmup=warmup, final_learning_rate=0.2)
    assert compute_learning_rate(step, 100, settings) == pytest.approx(expected)


@given(st.integers(1, 400), st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_schedules_of_kl_weight_and_learning_rate_rise_to_their_peak_and_stay_in_range(steps, warmup, final, kl_warmup):
    settings = TrainSettings(
        learning_rate=1, warmup=warmup, final_learning_rate=final, kl_warmup=kl_warmup, kl_schedule="linear"
    )
    rates = [compute_learning_rate(step, steps, settings) for step in range(steps)]
    weights = [compute_kl_weight(step, steps, settings) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates) or final == 0
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert weights == sorted(weights) and weights[0] >= 0 and weights[-1] <= 1


def test_free_nats_take_the_gradient_only_from_a_kl_below_them():
    for kl, expected in ((2.0, 0.0), (4.0, 0.5)):
        term = torch.tensor(kl, requires_grad=True)
        penalty = compute_kl_penalty(term, 0.5, TrainSettings(free_nats=3.0))
        assert penalty.item() == 0.5 * max(kl, 3.0)
        penalty.backward()
        assert term.grad.item() == expected


def test_kl_penalty_of_weight_one_without_free_nats_is_the_kl_term_of_the_elbo():
    assert compute_kl_penalty(torch.tensor(0.2), 1.0, TrainSettings(free_nats=0)).item() == pytest.approx(0.2)


@pytest.mark.parametrize(("kl", "value", "slope"), [(7.0, 1.0, 0.5), (3.0, 1.0, -0.5), (5.0, 0.0, 0.0)])
def test_target_kl_pulls_the_kl_from_both_sides_whatever_the_free_nats(kl, value, slope):
    term = torch.tensor(kl, requires_grad=True)
    penalty = compute_kl_penalty(term, 0.5, TrainSettings(target_kl=5.0, free_nats=100.0))
    penalty.backward()
    assert (penalty.item(), term.grad.item()) == (value, slope)


def test_target_kl_of_zero_counts_as_a_target():
    assert compute_kl_penalty(torch.tensor(2.0), 1.0, TrainSettings(target_kl=0.0, free_nats=3.0)).item() == 2
