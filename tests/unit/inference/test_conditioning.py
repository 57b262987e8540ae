"""Latent points of molecules with wanted values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.errors import MolvaeError
from molvae.inference.conditioning import check, distance, draw
from molvae.inference.sampling import CHUNK, sample_prior
from molvae.nn.priors import make_prior
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import untrained
from molvae.runtime.seeds import generator

WANTED = {"logp": 3.4, "tpsa": 61.0}
RULES = {"seed": 5, "temperature": 1.0, "max_tokens": 9}
N = CHUNK + 100


def with_head(network):
    """Three properties whose directions in z overlap."""
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
    return with_head(untrained(len(vocabulary), sizes, 1).eval())


@pytest.mark.parametrize("wanted", [WANTED, {"tpsa": 95.0}])
def test_the_closed_form_is_what_is_left_of_the_prior_when_all_other_draws_are_rejected(model, wanted):
    head, random = model.head, generator(0, "test")
    z = torch.randn((2_000_000, model.latent_dim), generator=random)
    with torch.no_grad():
        values = head(z)
    rows = [head.names.index(name) for name in wanted]
    near = ((values[:, rows] - torch.tensor(list(wanted.values()))) / head.sd[rows]).abs().amax(1) < 0.08
    left, found = z[near], draw(model, wanted, 50_000, random)
    assert len(left) > 2000
    told = model.head(found).detach()[:, rows]
    torch.testing.assert_close(told, torch.tensor(list(wanted.values())).expand_as(told), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.mean(0), left.mean(0), rtol=0, atol=0.07)
    torch.testing.assert_close(torch.cov(found.T), torch.cov(left.T), rtol=0, atol=0.08)
    assert (left.mean(0) - z.mean(0)).abs().max() > 0.2  # that is no draw of the prior


def test_a_condition_far_from_the_prior_is_said_aloud(model, caplog):
    near, far = {"logp": 2.5 + 1.2 * 0.3}, {"logp": 40.0}
    assert distance(model, near) == pytest.approx(0, abs=1e-6)  # what the head says of the origin
    weight = model.head.linear.weight[0].detach().norm().item()
    assert distance(model, far) == pytest.approx(((40.0 - 2.5) / 1.2 - 0.3) / weight, rel=1e-5)
    check(model, near)
    assert not caplog.text
    check(model, far)
    assert f"lie {distance(model, far):.1f} standard deviations from the prior's mean" in caplog.text


def test_the_order_of_the_wanted_values_does_not_count(model):
    one, other = (draw(model, wanted, 9, generator(0, "test")) for wanted in (WANTED, dict(reversed(WANTED.items()))))
    assert torch.equal(one, other)


@settings(max_examples=8)
@given(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), st.integers(1, 2))
def test_any_stretch_of_samples_is_that_stretch_of_all(model, stretch, threads):
    start, stop = stretch
    whole = sample_prior(model, 0, N, wanted=WANTED, **RULES)
    part = sample_prior(model, start, stop, wanted=WANTED, threads=threads, **RULES)
    assert np.array_equal(part.ids, whole.ids[start:stop])
    assert not np.array_equal(whole.ids, sample_prior(model, 0, N, **RULES).ids)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"logP": 3.0}, r"does not tell the property 'logP'\. Did you mean 'logp'\?"),
        ({"logp": 3.0, "xyzzy": 1.0}, r"'xyzzy'\. Known: logp, qed, tpsa\."),
        ({"qed": "high"}, "qed is to be 'high'; give a finite number"),
        ({"qed": float("nan")}, "qed is to be nan; give a finite number"),
    ],
)
def test_what_cannot_be_wanted_is_refused(model, wanted, message):
    with pytest.raises(MolvaeError, match=message):
        sample_prior(model, 0, 1, wanted=wanted, **RULES)


def test_a_model_without_a_head_or_a_normal_prior_cannot_be_asked(vocabulary, sizes):
    model = untrained(len(vocabulary), sizes, 0).eval()
    with pytest.raises(MolvaeError, match="this model tells no properties; featurize and train with"):
        sample_prior(model, 0, 1, wanted=WANTED, **RULES)
    with_head(model).prior = make_prior("flow", 1, model.encoder)
    with pytest.raises(MolvaeError, match="samples come from a normal prior; this one is a Flow"):
        sample_prior(model, 0, 1, wanted=WANTED, **RULES)
    plain = untrained(len(vocabulary), sizes.model_copy(update={"variational": False}), 0).eval()
    with pytest.raises(MolvaeError, match="this one is a plain autoencoder"):
        sample_prior(with_head(plain), 0, 1, wanted=WANTED, **RULES)
