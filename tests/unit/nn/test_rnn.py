"""One recurrent layer: whatever way it is computed, it is that of torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from molvae.nn.rnn import Layer, _GRUKernel

CLOSE = {"rtol": 1e-4, "atol": 2e-6}  # float32 sums in another order
CELLS = ["gru", "lstm"]
BATCH, INPUTS, HIDDEN = 4, 3, 6


def made(cell: str, steps: int, constants: int, with_state: bool, seed: int = 0):
    """A layer with weights that bend, and tensors to run it on: inputs, state, constant."""
    torch.manual_seed(seed)
    layer = Layer(cell, INPUTS, constants, HIDDEN)
    with torch.no_grad():
        for weight in layer.parameters():
            weight *= 3
    state = torch.rand(layer.state_tensors, BATCH, HIDDEN) - 0.5 if with_state else None
    constant = torch.randn(BATCH, constants) if constants else None
    return layer, torch.randn(steps, BATCH, INPUTS), state, constant


def of_torch(layer, inputs, state, constant):
    """The same from `nn.GRU` or `nn.LSTM`, with the constant repeated at every step."""
    if constant is not None:
        inputs = torch.cat([inputs, constant.expand(len(inputs), -1, -1)], dim=-1)
    if state is None:
        return layer.rnn(inputs)[0]
    return layer.rnn(inputs, state if layer.cell == "gru" else (state[:1].contiguous(), state[1:].contiguous()))[0]


def gradients(output, wanted):
    """Gradients of a loss that weighs every step and unit differently."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((output * weights).sum(), wanted)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("constants", [0, 5])
@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_and_all_its_gradients_are_those_of_torch(cell, steps, constants, with_state):
    layer, *given = made(cell, steps, constants, with_state)
    wanted = [*layer.parameters(), *(tensor.requires_grad_() for tensor in given if tensor is not None)]
    ours, theirs = layer(*given), of_torch(layer, *given)
    assert ours.shape == (steps, BATCH, HIDDEN)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    for one, other in zip(gradients(ours, wanted), gradients(theirs, wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 9), st.integers(0, 4), st.booleans(), st.integers(0, 10**6))
def test_with_and_without_gradients_the_states_agree_and_those_of_the_kernel_do_not_depend_on_the_input_needing_one(
    steps, constants, with_state, seed
):
    layer, *given = made("gru", steps, constants, with_state, seed)
    with torch.no_grad():
        expected = layer(*given)
    found = layer(*given)
    torch.testing.assert_close(found, expected, **CLOSE)
    given[0].requires_grad_()
    assert torch.equal(layer(*given), found)
    weights = list(layer.parameters())
    one, other = gradients(found, weights), gradients(layer(*given), weights)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class _Afresh(torch.autograd.Function):
    """The kernel run anew for each pass backward, of which `gradcheck` makes many."""

    @staticmethod
    def forward(ctx, *given):
        ctx.save_for_backward(*given)
        return _GRUKernel.apply(*given, [])

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            given = [tensor if tensor is None else tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            found = iter(
                torch.autograd.grad(_GRUKernel.apply(*given, []), [one for one in given if one is not None], gradient)
            )
        return tuple(None if one is None else next(found) for one in given)


@pytest.mark.parametrize("constants", [0, 2])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_gradients_of_the_kernel_are_those_of_finite_differences(steps, constants):
    layer, inputs, state, constant = made("gru", steps, constants, True)
    wx, wh, bx, bh = (weight.detach() for weight in layer._weights())
    given = [inputs, constant, state[0], wx[:, :INPUTS], wx[:, INPUTS:], wh, bx, bh]
    assert torch.autograd.gradcheck(
        _Afresh.apply, [one if one is None else one.double().requires_grad_() for one in given]
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("constants", [0, 5])
def test_a_step_at_a_time_is_the_whole_string_at_once(cell, constants):
    layer, inputs, state, constant = made(cell, 12, constants, True)
    with torch.no_grad():
        expected, states = layer(inputs, state, constant), []
        always = layer.project_constant(constant) if constants else 0
        for gates in layer.project(inputs):
            state = layer.step(gates + always, state)
            states.append(state[0])
    torch.testing.assert_close(torch.stack(states), expected, **CLOSE)


def test_a_second_pass_backward_fails_where_the_first_overwrote_what_it_needs():
    layer, *given = made("gru", 5, 2, True)
    loss = layer(*given).sum()
    loss.backward(retain_graph=True)
    with pytest.raises((AttributeError, RuntimeError)):
        loss.backward()


def test_a_gradient_of_a_gradient_is_refused():
    layer, *given = made("gru", 5, 2, True)
    given[0].requires_grad_()
    with pytest.raises(RuntimeError):
        torch.autograd.grad(layer(*given).sum(), given[0], create_graph=True)


def test_the_states_cannot_be_changed_under_the_kernel():
    layer, *given = made("gru", 5, 0, False)
    states = layer(*given)
    with pytest.raises(RuntimeError, match="modified inplace"):
        states *= 2


def test_weights_that_need_no_gradient_get_none_and_the_input_still_does():
    layer, *given = made("gru", 5, 2, True)
    layer.requires_grad_(False)
    given[0].requires_grad_()
    layer(*given).sum().backward()
    assert given[0].grad.abs().sum() > 0 and all(weight.grad is None for weight in layer.parameters())


def test_passes_in_flight_at_once_do_not_share_the_memory_that_they_work_in():
    """Two passes forward before either goes back, after a longer one has left its memory."""
    layer, inputs, state, constant = made("gru", 9, 2, True)
    weights = list(layer.parameters())
    alone = [gradients(layer(part, state, constant), weights) for part in (inputs, inputs[:5], inputs[2:6])]
    two = [layer(part, state, constant) for part in (inputs[:5], inputs[2:6])]
    for output, expected in zip(two, alone[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(gradients(output, weights), expected, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_under_autocast_a_layer_computes_in_the_dtype_that_autocast_is_set_to(cell):
    """Torch's own autocast of RNNs on a GPU knows float16 only, in which small gradients vanish."""
    layer, *given = made(cell, 7, 3, True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(*given)
    expected = layer(*given)
    assert found.dtype == torch.bfloat16 and expected.dtype == torch.float32
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)
    one, other = (gradients(states.float(), list(layer.parameters())) for states in (found, expected))
    for half, full in zip(one, other, strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=0, atol=0.1 * full.abs().max().item())
