"""Conditional sampling: latent points of molecules with target properties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.errors import MolvaeError
from molvae.inference.conditioning import check_targets, compute_distance, sample_conditioned
from molvae.inference.sampling import CHUNK_SIZE, SamplingOptions, sample_prior
from molvae.nn.priors import build_prior
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import init_vae
from molvae.runtime.seeds import make_generator

TARGETS = {"logp": 3.4, "tpsa": 61.0}
OPTIONS = SamplingOptions(seed=5, max_tokens=9)
N = CHUNK_SIZE + 100


def add_head(network):
    """Add a head for three properties whose directions in z overlap."""
    head = PropertyHead(["logp", "qed", "tpsa"], network.latent_dim)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        head.linear.weight.copy_(0.6 * torch.randn(head.linear.weight.shape, generator=random))
        head.linear.bias.copy_(torch.tensor([0.3, 0.0, -0.2]))
        head.mean.copy_(torch.tensor([2.5, 0.5, 70.0]))
        head.sd.copy_(torch.tensor([1.2, 0.1, 20.0]))
    network.head = head
    return network


@pytest.fixture(scope="module")
def model(vocabulary, sizes):
    return add_head(init_vae(len(vocabulary), sizes, 1).eval())


@pytest.mark.parametrize("targets", [TARGETS, {"tpsa": 95.0}])
def test_conditioned_points_are_distributed_as_draws_of_the_prior_that_are_predicted_near_the_targets(model, targets):
    head, random = model.head, make_generator(0, "test")
    values = torch.tensor(list(targets.values()))
    z = torch.randn((2_000_000, model.latent_dim), generator=random)
    with torch.no_grad():
        predicted = head(z)
    rows = [head.names.index(name) for name in targets]
    is_near = ((predicted[:, rows] - values) / head.sd[rows]).abs().amax(1) < 0.08
    accepted, conditioned = z[is_near], sample_conditioned(model, targets, 50_000, random)
    assert len(accepted) > 2000
    predicted = head(conditioned).detach()[:, rows]
    torch.testing.assert_close(predicted, values.expand_as(predicted), rtol=1e-4, atol=0)
    torch.testing.assert_close(conditioned.mean(0), accepted.mean(0), rtol=0, atol=0.07)
    torch.testing.assert_close(torch.cov(conditioned.T), torch.cov(accepted.T), rtol=0, atol=0.08)
    assert (accepted.mean(0) - z.mean(0)).abs().max() > 0.2  # the prior itself would not pass


def test_target_properties_far_from_the_prior_are_warned_of(model, caplog):
    near, far = {"logp": 2.5 + 1.2 * 0.3}, {"logp": 40.0}
    assert compute_distance(model, near) == pytest.approx(0, abs=1e-6)  # the head predicts it at the origin
    weight = model.head.linear.weight[0].detach().norm().item()
    assert compute_distance(model, far) == pytest.approx(((40.0 - 2.5) / 1.2 - 0.3) / weight, rel=1e-5)
    check_targets(model, near)
    assert not caplog.text
    check_targets(model, far)
    assert f"lie {compute_distance(model, far):.1f} standard deviations from the prior's mean" in caplog.text


def test_order_of_the_target_properties_does_not_matter(model):
    reverse = dict(reversed(TARGETS.items()))
    points, points_of_reverse = (
        sample_conditioned(model, targets, 9, make_generator(0, "test")) for targets in (TARGETS, reverse)
    )
    assert torch.equal(points, points_of_reverse)


@settings(max_examples=8)
@given(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), st.integers(1, 2))
def test_conditional_samples_are_the_same_whatever_the_range_and_the_threads(model, span, threads):
    start, stop = span
    options = replace(OPTIONS, target_properties=TARGETS)
    samples = sample_prior(model, 0, N, options)
    part = sample_prior(model, start, stop, replace(options, threads=threads))
    assert np.array_equal(part.ids, samples.ids[start:stop])
    assert not np.array_equal(samples.ids, sample_prior(model, 0, N, OPTIONS).ids)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"logP": 3.0}, r"does not predict the property 'logP'\. Did you mean 'logp'\?"),
        ({"logp": 3.0, "xyzzy": 1.0}, r"'xyzzy'\. Known: logp, qed, tpsa\."),
        ({"qed": "high"}, "the target of qed is 'high'; give a finite number"),
        ({"qed": float("nan")}, "the target of qed is nan; give a finite number"),
    ],
)
def test_impossible_target_properties_are_refused(model, targets, message):
    with pytest.raises(MolvaeError, match=message):
        sample_prior(model, 0, 1, replace(OPTIONS, target_properties=targets))


def test_target_properties_are_refused_for_a_model_without_a_head_or_a_normal_prior(vocabulary, sizes):
    options = replace(OPTIONS, target_properties=TARGETS)
    model = init_vae(len(vocabulary), sizes, 0).eval()
    with pytest.raises(MolvaeError, match="this model predicts no properties; featurize and train with"):
        sample_prior(model, 0, 1, options)
    add_head(model).prior = build_prior("flow", 1, model.encoder)
    with pytest.raises(MolvaeError, match="samples come from a normal prior; this one is a FlowPrior"):
        sample_prior(model, 0, 1, options)
    autoencoder = init_vae(len(vocabulary), sizes.model_copy(update={"variational": False}), 0).eval()
    with pytest.raises(MolvaeError, match="this one is a plain autoencoder"):
        sample_prior(add_head(autoencoder), 0, 1, options)
