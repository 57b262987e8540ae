"""One recurrent layer: its kernel, its steps and autocast give what torch's own layer gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from molvae.nn.rnn import RNNLayer, _GRUKernel

CLOSE = {"rtol": 1e-4, "atol": 2e-6}  # float32 sums in another order
CELLS = ["gru", "lstm"]
BATCH, INPUTS, HIDDEN = 4, 3, 6


def make_layer(cell: str, steps: int, constants: int, with_state: bool, seed: int = 0):
    """A layer with weights large enough for its nonlinearities to matter, and inputs, state and constant for it."""
    torch.manual_seed(seed)
    layer = RNNLayer(cell, INPUTS, constants, HIDDEN)
    with torch.no_grad():
        for weight in layer.parameters():
            weight *= 3
    state = torch.rand(layer.state_tensors, BATCH, HIDDEN) - 0.5 if with_state else None
    constant = torch.randn(BATCH, constants) if constants else None
    return layer, torch.randn(steps, BATCH, INPUTS), state, constant


def run_torch_layer(layer, inputs, state, constant):
    """The states from `nn.GRU` or `nn.LSTM`, with the constant repeated at every step."""
    if constant is not None:
        inputs = torch.cat([inputs, constant.expand(len(inputs), -1, -1)], dim=-1)
    if state is None:
        return layer.rnn(inputs)[0]
    return layer.rnn(inputs, state if layer.cell == "gru" else (state[:1].contiguous(), state[1:].contiguous()))[0]


def compute_gradients(output, inputs):
    """Gradients of a loss that weighs every step and unit differently."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((output * weights).sum(), inputs)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("constants", [0, 5])
@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("cell", CELLS)
def test_rnn_layer_and_all_its_gradients_are_those_of_torch(cell, steps, constants, with_state):
    layer, *arguments = make_layer(cell, steps, constants, with_state)
    variables = [*layer.parameters(), *(tensor.requires_grad_() for tensor in arguments if tensor is not None)]
    states, expected = layer(*arguments), run_torch_layer(layer, *arguments)
    assert states.shape == (steps, BATCH, HIDDEN)
    torch.testing.assert_close(states, expected, **CLOSE)
    gradients, expected_gradients = compute_gradients(states, variables), compute_gradients(expected, variables)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 9), st.integers(0, 4), st.booleans(), st.integers(0, 10**6))
def test_gru_kernel_gives_the_states_of_inference_and_the_same_whether_or_not_its_input_needs_a_gradient(
    steps, constants, with_state, seed
):
    layer, *arguments = make_layer("gru", steps, constants, with_state, seed)
    with torch.no_grad():
        expected = layer(*arguments)
    states = layer(*arguments)
    torch.testing.assert_close(states, expected, **CLOSE)
    arguments[0].requires_grad_()
    assert torch.equal(layer(*arguments), states)
    weights = list(layer.parameters())
    gradients, gradients_again = compute_gradients(states, weights), compute_gradients(layer(*arguments), weights)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))


class _RecomputedKernel(torch.autograd.Function):
    """The kernel, run again for each backward pass, of which `gradcheck` makes many."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.save_for_backward(*arguments)
        return _GRUKernel.apply(*arguments, [])

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            arguments = [None if tensor is None else tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            variables = [tensor for tensor in arguments if tensor is not None]
            gradients = iter(torch.autograd.grad(_GRUKernel.apply(*arguments, []), variables, gradient))
        return tuple(None if tensor is None else next(gradients) for tensor in arguments)


@pytest.mark.parametrize("constants", [0, 2])
@pytest.mark.parametrize("steps", [1, 4])
def test_gru_kernel_has_the_gradients_of_finite_differences(steps, constants):
    layer, inputs, state, constant = make_layer("gru", steps, constants, True)
    wx, wh, bx, bh = (weight.detach() for weight in layer._get_weights())
    tensors = [inputs, constant, state[0], wx[:, :INPUTS], wx[:, INPUTS:], wh, bx, bh]
    arguments = [None if tensor is None else tensor.double().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(_RecomputedKernel.apply, arguments)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("constants", [0, 5])
def test_rnn_layer_gives_the_same_states_step_by_step_as_for_the_whole_string(cell, constants):
    layer, inputs, state, constant = make_layer(cell, 12, constants, True)
    with torch.no_grad():
        expected, states = layer(inputs, state, constant), []
        constant_gates = layer.project_constant(constant) if constants else 0
        for gates in layer.project(inputs):
            state = layer.step(gates + constant_gates, state)
            states.append(state[0])
    torch.testing.assert_close(torch.stack(states), expected, **CLOSE)


def test_gru_kernel_fails_in_a_second_backward_pass_because_the_first_overwrote_its_gates():
    layer, *arguments = make_layer("gru", 5, 2, True)
    loss = layer(*arguments).sum()
    loss.backward(retain_graph=True)
    with pytest.raises((AttributeError, RuntimeError)):
        loss.backward()


def test_gru_kernel_refuses_a_gradient_of_a_gradient():
    layer, *arguments = make_layer("gru", 5, 2, True)
    arguments[0].requires_grad_()
    with pytest.raises(RuntimeError):
        torch.autograd.grad(layer(*arguments).sum(), arguments[0], create_graph=True)


def test_gru_kernel_refuses_a_change_of_its_states_in_place():
    layer, *arguments = make_layer("gru", 5, 0, False)
    states = layer(*arguments)
    with pytest.raises(RuntimeError, match="modified inplace"):
        states *= 2


def test_gru_kernel_gives_frozen_weights_no_gradient_and_its_input_one():
    layer, *arguments = make_layer("gru", 5, 2, True)
    layer.requires_grad_(False)
    arguments[0].requires_grad_()
    layer(*arguments).sum().backward()
    assert arguments[0].grad.abs().sum() > 0 and all(weight.grad is None for weight in layer.parameters())


def test_gru_kernel_shares_no_scratch_memory_between_passes_that_overlap():
    """Two forward passes run before either backward pass, after a longer one has left its memory."""
    layer, inputs, state, constant = make_layer("gru", 9, 2, True)
    weights = list(layer.parameters())
    parts = (inputs, inputs[:5], inputs[2:6])
    gradients_alone = [compute_gradients(layer(part, state, constant), weights) for part in parts]
    outputs = [layer(part, state, constant) for part in (inputs[:5], inputs[2:6])]
    for output, expected in zip(outputs, gradients_alone[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(compute_gradients(output, weights), expected, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_rnn_layer_computes_under_autocast_in_the_dtype_that_autocast_is_set_to(cell):
    """Torch's own autocast of RNNs on a GPU supports float16 only, in which small gradients vanish."""
    layer, *arguments = make_layer(cell, 7, 3, True)
    with torch.autocast("cpu", torch.bfloat16):
        states = layer(*arguments)
    expected = layer(*arguments)
    assert states.dtype == torch.bfloat16 and expected.dtype == torch.float32
    torch.testing.assert_close(states.float(), expected, rtol=0.1, atol=0.05)
    half_gradients, full_gradients = (
        compute_gradients(part.float(), list(layer.parameters())) for part in (states, expected)
    )
    for half, full in zip(half_gradients, full_gradients, strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=0, atol=0.1 * full.abs().max().item())
