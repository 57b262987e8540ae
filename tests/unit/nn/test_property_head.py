"""The head that tells properties from latent points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from molvae.errors import TrainingError
from molvae.nn.property_head import PropertyHead

NAN = float("nan")


@pytest.fixture
def head():
    """Two properties of very different size, from three latent dimensions."""
    made = PropertyHead(["logp", "tpsa"], 3)
    made.standardise_by(np.array([[1.0, 40.0], [3.0, NAN], [NAN, 100.0], [2.0, 70.0]], np.float32))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return made


@pytest.fixture
def z():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


def test_properties_are_standardised_by_the_molecules_they_are_known_of(head):
    np.testing.assert_allclose(head.mean, [2.0, 70.0])
    np.testing.assert_allclose(head.sd, [np.std([1, 3, 2]), np.std([40, 100, 70])], rtol=1e-6)


@pytest.mark.parametrize("values", [[1.0, 1.0, NAN], [1.0, NAN, NAN], [NAN] * 3])
def test_a_property_in_which_molecules_do_not_differ_is_refused_by_name(values):
    table = np.stack([np.arange(3), values], 1)
    with pytest.raises(TrainingError, match=r"do not differ in qed\. Leave it out of featurize\.properties"):
        PropertyHead(["logp", "qed"], 3).standardise_by(table)


def test_the_term_is_the_density_of_standardised_values_summed_over_properties(head, z):
    values = torch.tensor([[1.5, 30.0], [2.5, 60.0], [0.0, 80.0], [4.0, 71.0]])
    told = (head(z) - head.mean) / head.sd  # in own units, hence standardised again
    density = Normal(told, head.log_noise.exp()).log_prob((values - head.mean) / head.sd)
    torch.testing.assert_close(head.nats(z, values), -density.sum(1).mean(), rtol=1e-5, atol=1e-5)


def test_what_is_unknown_has_no_part_in_the_term_nor_in_its_gradient(head, z):
    values = torch.tensor([[1.5, NAN], [NAN, NAN], [NAN, 80.0], [4.0, 71.0]])
    z.requires_grad_()
    found = head.nats(z, values)
    by_hand = sum(
        Normal(head.linear(z)[row, k], head.log_noise[k].exp()).log_prob((values[row, k] - head.mean[k]) / head.sd[k])
        for row, k in ((0, 0), (2, 1), (3, 0), (3, 1))
    )
    expected = -by_hand / 4  # a mean over all molecules, as of the other terms
    torch.testing.assert_close(found, expected)
    wanted = [z, *head.parameters()]
    for one, other in zip(*(torch.autograd.grad(loss, wanted) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_r_squared_is_of_known_values_and_left_out_where_it_says_nothing(head):
    values = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, NAN], [NAN, NAN]])
    assert head.r_squared(values.nan_to_num(9.0), values) == {"logp": 1.0}
    mean = torch.full((4, 2), 3.0)
    assert head.r_squared(mean, values)["logp"] == pytest.approx(0)
    off = torch.tensor([[2.0, 0.0], [2.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    assert head.r_squared(off, values)["logp"] == pytest.approx(1 - (1 + 0 + 4) / 14)
