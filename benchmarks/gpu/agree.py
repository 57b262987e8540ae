"""Do CPU and GPU compute the same? One model, one batch, the same random numbers.

The reference is the CPU in float64. "float32" has TF32 off.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import Packed, arithmetic, precisions, say, write
from torch import Tensor, nn

from molvae.inference.decoding import Strings, decode_points
from molvae.nn.vae import VAE
from molvae.runtime.seeds import generator

MOLECULES, UPDATES, LEARNING_RATE = 256, 3, 1e-3
CPU = torch.device("cpu")


def agree(packed: Packed, out: Path, device: torch.device, *, model: VAE, trained: bool, wanted: list[str]) -> None:
    """Compare forward loss, gradients, a few updates, greedy and sampled strings."""
    rows = np.sort(np.random.default_rng(0).permutation(len(packed.train))[:MOLECULES])
    noise = torch.randn((len(rows), model.latent_dim), generator=generator(0, "agree", "noise"))
    limit = packed.defaults["sample"]["max_tokens"]
    uniforms = torch.rand((limit, len(rows)), generator=generator(0, "agree", "tokens"))
    inputs = SimpleNamespace(packed=packed, rows=rows, noise=noise, uniforms=uniforms)
    reference = learned(copy.deepcopy(model).double(), inputs, CPU, "float32")
    own = learned(copy.deepcopy(model), inputs, CPU, "float32")
    own_strings = written(model, inputs, CPU, "float32")
    result: dict[str, Any] = {"trained": trained, "molecules": len(rows), "updates": UPDATES, "comparisons": {}}

    def keep(name: str, found: dict[str, Any]) -> None:
        result["comparisons"][name] = found
        say(name, " ".join(f"{key} {value:.3g}" for key, value in found.items()))
        write(out, "agree", result, packed, device)

    keep("CPU float32 against CPU float64", difference(own, reference))
    for precision in precisions(device, wanted):
        found = learned(copy.deepcopy(model), inputs, device, precision)
        keep(f"{device.type} {precision} against CPU float64", difference(found, reference))
        strings = written(copy.deepcopy(model), inputs, device, precision)
        same = {way: identical(strings[way], own_strings[way]) for way in own_strings}
        keep(f"{device.type} {precision} against CPU float32", difference(found, own) | same)


def learned(model: VAE, inputs: SimpleNamespace, device: torch.device, precision: str) -> SimpleNamespace:
    """Loss, gradients of the first update, and weights after all of them, in float64 on the CPU."""
    model.to(device).train()
    batch = inputs.packed.train.batch(inputs.rows, device)
    noise = inputs.noise.to(device, next(model.parameters()).dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses, first = [], {}
    for _ in range(UPDATES):
        with arithmetic(precision, device):
            terms = model(batch, noise)
        loss = terms.reconstruction + terms.kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        first = first or {name: _plain(one.grad) for name, one in model.named_parameters()}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return SimpleNamespace(
        losses=losses, gradients=first, weights={name: _plain(one) for name, one in model.named_parameters()}
    )


def _plain(values: Tensor) -> Tensor:
    return values.detach().double().cpu().clone()  # what is float64 already would change with the model


def difference(one: SimpleNamespace, other: SimpleNamespace) -> dict[str, float]:
    """Relative differences: of losses the largest, of tensors |one − other| / |other|, all together and the worst."""
    found = {"loss": max(abs(a / b - 1) for a, b in zip(one.losses, other.losses, strict=True))}
    for part in ("gradients", "weights"):
        mine, theirs = getattr(one, part), getattr(other, part)
        apart = {name: (mine[name] - theirs[name]).norm() for name in theirs}
        size = {name: theirs[name].norm() for name in theirs}
        together = torch.stack(list(apart.values())).norm() / torch.stack(list(size.values())).norm()
        found[part] = together.item()
        found[f"{part}_worst"] = max((apart[name] / size[name]).item() for name in theirs if size[name] > 0)
    zeros = sum(int((grad == 0).sum()) for grad in one.gradients.values())
    more = zeros - sum(int((grad == 0).sum()) for grad in other.gradients.values())
    return found | {"gradients_zero_more": more / sum(grad.numel() for grad in one.gradients.values())}


@torch.inference_mode()
def written(model: VAE, inputs: SimpleNamespace, device: torch.device, precision: str) -> dict[str, Strings]:
    """Strings from the means of the CPU's encoder, the likeliest and drawn ones."""
    mu, _ = model.to(CPU).eval().encoder(*inputs.packed.train.batch(inputs.rows).read)
    model.to(device)
    with arithmetic(precision, device):
        return {
            name: decode_points(model, mu, inputs.uniforms, temperature)
            for name, temperature in (("greedy_same", 0.0), ("sampled_same", 1.0))
        }


def identical(one: Strings, other: Strings) -> float:
    """Share of strings that are the same, token for token."""
    width = max(one.ids.shape[1], other.ids.shape[1])
    first, second = (np.pad(some.ids, ((0, 0), (0, width - some.ids.shape[1]))) for some in (one, other))
    return float((first == second).all(1).mean())
