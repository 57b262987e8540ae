"""One recurrent layer, GRU or LSTM, in one direction: the whole sequence at once, or a step at a time.

Shapes: T steps, B batch, I inputs, C constants, H hidden, S tensors of state (GRU 1: h; LSTM 2: h, c), time-major.
A part of the input that is the same at every step is given once, as `constant`, and is multiplied by its weights once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Cell = Literal["gru", "lstm"]
_tanh_backward: Callable[..., Tensor] = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward: Callable[..., Tensor] = torch.ops.aten.sigmoid_backward.grad_input


class RNNLayer(nn.Module):
    """The weights and the kernel of `nn.GRU` or `nn.LSTM`; on a CPU a GRU trains through `_GRUKernel` instead."""

    def __init__(self, cell: Cell, inputs: int, constants: int, hidden: int) -> None:
        """Build the layer.

        Args:
            cell: gru or lstm.
            inputs: I, width of the inputs that change from step to step.
            constants: C, width of the input that is the same at every step.
            hidden: H, units.
        """
        super().__init__()
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](inputs + constants, hidden)
        self.cell, self.inputs, self.hidden = cell, inputs, hidden
        self.state_tensors = 1 if cell == "gru" else 2
        self._scratch: list[Tensor] = []  # memory of finished steps, to be used again; see `_GRUKernel`

    def forward(self, inputs: Tensor, state: Tensor | None = None, constant: Tensor | None = None) -> Tensor:
        """Compute the states after each step, (T, B, H).

        Args:
            inputs: (T, B, I).
            state: (S, B, H) before the first step; zeros if None.
            constant: (B, C), part of the input at every step; None if C is 0.
        """
        if state is None:
            state = inputs.new_zeros(self.state_tensors, inputs.shape[1], self.hidden)
        device = inputs.device.type
        mixed = torch.is_autocast_enabled(device)
        kernel_fits = self.cell == "gru" and device == "cpu" and inputs.dtype == torch.float32 and not mixed
        if kernel_fits and torch.is_grad_enabled():
            wx, wh, bx, bh = self._get_weights()
            wx, wc = wx[:, : self.inputs], wx[:, self.inputs :]
            return _GRUKernel.apply(inputs, constant, state[0], wx, wc, wh, bx, bh, self._scratch)
        if constant is not None:
            inputs = torch.cat([inputs, constant.expand(len(inputs), *constant.shape)], dim=-1)
        start = (state,) if self.cell == "gru" else (state[:1].contiguous(), state[1:].contiguous())
        if not mixed:
            return self.rnn(inputs, start[0] if self.cell == "gru" else start)[0]
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):  # which would have cuDNN run in float16 whatever dtype it is set to
            inputs, states = inputs.to(dtype), [part.to(dtype) for part in start]
            weights = [weight.to(dtype) for weight in self._get_weights()]
            if self.cell == "gru":
                return torch.gru(inputs, states[0], weights, True, 1, 0.0, self.training, False, False)[0]
            return torch.lstm(inputs, states, weights, True, 1, 0.0, self.training, False, False)[0]

    def project(self, inputs: Tensor) -> Tensor:
        """Compute what inputs (…, I) add to the gates, (…, G), where G is 3 H for a GRU and 4 H for an LSTM."""
        wx, _, bx, _ = self._get_weights()
        return functional.linear(inputs, wx[:, : self.inputs], bx)

    def project_constant(self, constant: Tensor) -> Tensor:
        """Compute what the constant, (B, C), adds to the gates at every step: (B, G)."""
        return functional.linear(constant, self._get_weights()[0][:, self.inputs :])

    def step(self, gates: Tensor, state: Tensor) -> Tensor:
        """Compute the state, (S, B, H), after one step from `state` with `gates`, (B, G), projected from the input."""
        _, wh, _, bh = self._get_weights()
        recurrent = functional.linear(state[0], wh, bh)
        if self.cell == "gru":
            r_x, z_x, n_x = gates.chunk(3, -1)
            r_h, z_h, n_h = recurrent.chunk(3, -1)
            n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
            return torch.lerp(n, state[0], torch.sigmoid(z_x + z_h))[None]
        i, f, g, o = (gates + recurrent).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.stack([torch.sigmoid(o) * torch.tanh(c), c])

    def _get_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.rnn.weight_ih_l0, self.rnn.weight_hh_l0, self.rnn.bias_ih_l0, self.rnn.bias_hh_l0


class _GRUKernel(torch.autograd.Function):
    """A GRU layer with its backward pass written out: 1.2 times as fast as `nn.GRU` on a CPU (3 x 512 units).

    The gates are overwritten by the states they make and these by their gradients, so that a step allocates nothing;
    weight gradients are one product over all steps. Equal to `nn.GRU` up to rounding. Its memory is kept for the next
    time: the system takes as long to hand out a hundred megabytes as to fill them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, constant: Tensor | None, state: Tensor, *rest: Any) -> Tensor:
        *weights, buffers = rest
        wx, wc, wh, bx, bh = weights
        (steps, batch, _), hidden = x.shape, state.shape[1]
        numbers = steps * batch * hidden
        buffer = _take_buffer(buffers, 4 * numbers, x)
        gates = buffer[: 3 * numbers].view(steps, batch, 3 * hidden)
        candidates = buffer[3 * numbers : 4 * numbers].view(steps, batch, hidden)
        rz, n = slice(0, 2 * hidden), slice(2 * hidden, None)
        bias = torch.cat([bx[rz] + bh[rz], bx[n]])
        torch.addmm(bias, x.flatten(0, 1), wx.t(), out=gates.flatten(0, 1))
        if constant is not None:
            gates += torch.mm(constant, wc.t())
        states = x.new_empty(steps + 1, batch, hidden)
        states[0] = state
        wh_rz, wh_n = wh[rz].t(), wh[n].t()
        for gate, candidate, before, after in zip(gates, candidates, states, states[1:], strict=False):
            gate[:, rz].addmm_(before, wh_rz).sigmoid_()
            torch.addmm(bh[n], before, wh_n, out=candidate)  # contribution of the last state, before the reset
            gate[:, n].addcmul_(gate[:, :hidden], candidate).tanh_()
            torch.lerp(gate[:, n], before, gate[:, hidden : 2 * hidden], out=after)
        ctx.save_for_backward(x, constant, *weights)
        ctx.work, ctx.buffers = (buffer, gates, candidates, states), buffers
        return states[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, constant, wx, wc, wh, _, _ = ctx.saved_tensors
        buffer, gates, candidates, states = ctx.work
        del ctx.work  # overwritten below: a second backward pass must fail, not return nonsense
        hidden = states.shape[2]
        rz, wh_rz, wh_n = slice(0, 2 * hidden), wh[: 2 * hidden], wh[2 * hidden :]
        d_state, d_kept, d_n, work = (torch.zeros_like(states[0]) for _ in range(4))
        for t in range(len(gates) - 1, -1, -1):
            d_state += gradient[t]
            candidate, (r, z, n) = candidates[t], gates[t].chunk(3, -1)
            torch.mul(d_state, z, out=d_kept)
            torch.sub(d_state, d_kept, out=d_n)
            torch.sub(states[t], n, out=work)
            z.mul_(d_n).mul_(work)  # from here on z, n, r and candidate hold their gradients
            _tanh_backward(d_n, n, grad_input=n)
            torch.mul(n, candidate, out=work)
            torch.mul(n, r, out=candidate)
            _sigmoid_backward(work, r, grad_input=r)
            torch.addmm(d_kept, gates[t][:, rz], wh_rz, out=d_state).addmm_(candidate, wh_n)
        flat, flat_n, before = gates.flatten(0, 1), candidates.flatten(0, 1), states[:-1].flatten(0, 1)
        d_wh = torch.empty_like(wh)
        torch.mm(flat[:, rz].t(), before, out=d_wh[rz])
        torch.mm(flat_n.t(), before, out=d_wh[2 * hidden :])
        over_steps = gates.sum(0)
        d_bx = over_steps.sum(0)
        d_x = torch.mm(flat, wx).view_as(x) if ctx.needs_input_grad[0] else None
        d_constant = None if constant is None else over_steps @ wc
        d_wc = torch.zeros_like(wc) if constant is None else over_steps.t() @ constant
        d_bh = torch.cat([d_bx[rz], flat_n.sum(0)])
        d_wx = flat.t() @ x.flatten(0, 1)
        ctx.buffers.append(buffer)
        return d_x, d_constant, d_state, d_wx, d_wc, d_wh, d_bx, d_bh, None


def _take_buffer(buffers: list[Tensor], size: int, like: Tensor) -> Tensor:
    """Take a flat, uninitialised tensor of at least `size` numbers: the last of `buffers` if that is large enough."""
    buffer = buffers.pop() if buffers else like.new_empty(0)
    return buffer if len(buffer) >= size else like.new_empty(size)
