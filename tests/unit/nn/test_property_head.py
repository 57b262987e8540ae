"""The head that predicts properties from latent points."""

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
    """A head with random weights for two properties of very different size, from three latent dimensions."""
    property_head = PropertyHead(["logp", "tpsa"], 3)
    property_head.fit_scaler(np.array([[1.0, 40.0], [3.0, NAN], [NAN, 100.0], [2.0, 70.0]], np.float32))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in property_head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return property_head


@pytest.fixture
def z():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


def test_property_head_standardises_each_property_by_the_molecules_with_a_known_value(head):
    np.testing.assert_allclose(head.mean, [2.0, 70.0])
    np.testing.assert_allclose(head.sd, [np.std([1, 3, 2]), np.std([40, 100, 70])], rtol=1e-6)


@pytest.mark.parametrize("values", [[1.0, 1.0, NAN], [1.0, NAN, NAN], [NAN] * 3])
def test_property_head_refuses_by_name_a_property_in_which_molecules_do_not_differ(values):
    table = np.stack([np.arange(3), values], 1)
    with pytest.raises(TrainingError, match=r"do not differ in qed\. Leave it out of featurize\.properties"):
        PropertyHead(["logp", "qed"], 3).fit_scaler(table)


def test_property_loss_is_the_density_of_standardised_values_summed_over_properties(head, z):
    values = torch.tensor([[1.5, 30.0], [2.5, 60.0], [0.0, 80.0], [4.0, 71.0]])
    predicted = (head(z) - head.mean) / head.sd  # the head predicts in the properties' units
    density = Normal(predicted, head.log_noise.exp()).log_prob((values - head.mean) / head.sd)
    torch.testing.assert_close(head.compute_nll(z, values), -density.sum(1).mean(), rtol=1e-5, atol=1e-5)


def test_property_loss_and_its_gradient_leave_out_unknown_values(head, z):
    values = torch.tensor([[1.5, NAN], [NAN, NAN], [NAN, 80.0], [4.0, 71.0]])
    z.requires_grad_()
    nll = head.compute_nll(z, values)
    by_hand = sum(
        Normal(head.linear(z)[row, k], head.log_noise[k].exp()).log_prob((values[row, k] - head.mean[k]) / head.sd[k])
        for row, k in ((0, 0), (2, 1), (3, 0), (3, 1))
    )
    expected = -by_hand / 4  # a mean over all molecules, like the other terms of the loss
    torch.testing.assert_close(nll, expected)
    inputs = [z, *head.parameters()]
    gradients, expected_gradients = (torch.autograd.grad(loss, inputs) for loss in (nll, expected))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_r_squared_is_of_known_values_and_left_out_where_values_do_not_differ(head):
    values = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, NAN], [NAN, NAN]])
    assert head.compute_r_squared(values.nan_to_num(9.0), values) == {"logp": 1.0}
    mean = torch.full((4, 2), 3.0)
    assert head.compute_r_squared(mean, values)["logp"] == pytest.approx(0)
    inexact = torch.tensor([[2.0, 0.0], [2.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    assert head.compute_r_squared(inexact, values)["logp"] == pytest.approx(1 - (1 + 0 + 4) / 14)
