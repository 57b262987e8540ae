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
from common import Packed, list_precisions, print_line, use_precision, write_result
from torch import Tensor, nn

from molvae.inference.decoding import TokenStrings, decode_latents
from molvae.nn.vae import VAE
from molvae.runtime.seeds import make_generator

MOLECULES, UPDATES, LEARNING_RATE = 256, 3, 1e-3
CPU = torch.device("cpu")


def measure_agreement(
    packed: Packed, out: Path, device: torch.device, *, model: VAE, trained: bool, precisions: list[str]
) -> None:
    """Compare forward loss, gradients, a few updates, greedy and sampled strings."""
    rows = np.sort(np.random.default_rng(0).permutation(len(packed.train))[:MOLECULES])
    noise = torch.randn((len(rows), model.latent_dim), generator=make_generator(0, "agree", "noise"))
    limit = packed.defaults["sample"]["max_tokens"]
    uniforms = torch.rand((limit, len(rows)), generator=make_generator(0, "agree", "tokens"))
    inputs = SimpleNamespace(packed=packed, rows=rows, noise=noise, uniforms=uniforms)
    reference = run_updates(copy.deepcopy(model).double(), inputs, CPU, "float32")
    on_cpu = run_updates(copy.deepcopy(model), inputs, CPU, "float32")
    cpu_strings = decode_strings(model, inputs, CPU, "float32")
    result: dict[str, Any] = {"trained": trained, "molecules": len(rows), "updates": UPDATES, "comparisons": {}}

    def keep(name: str, differences: dict[str, Any]) -> None:
        result["comparisons"][name] = differences
        print_line(name, " ".join(f"{key} {value:.3g}" for key, value in differences.items()))
        write_result(out, "agree", result, packed, device)

    keep("CPU float32 against CPU float64", compute_differences(on_cpu, reference))
    for precision in list_precisions(device, precisions):
        on_device = run_updates(copy.deepcopy(model), inputs, device, precision)
        keep(f"{device.type} {precision} against CPU float64", compute_differences(on_device, reference))
        strings = decode_strings(copy.deepcopy(model), inputs, device, precision)
        same = {name: compute_identical_fraction(strings[name], cpu_strings[name]) for name in cpu_strings}
        keep(f"{device.type} {precision} against CPU float32", compute_differences(on_device, on_cpu) | same)


def run_updates(model: VAE, inputs: SimpleNamespace, device: torch.device, precision: str) -> SimpleNamespace:
    """Update a model; returns losses, gradients of the first update and last weights, in float64 on the CPU."""
    model.to(device).train()
    batch = inputs.packed.train.collate(inputs.rows, device)
    noise = inputs.noise.to(device, next(model.parameters()).dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses, gradients = [], {}
    for _ in range(UPDATES):
        with use_precision(precision, device):
            terms = model(batch, noise).terms
        loss = terms.reconstruction + terms.kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = gradients or {name: _copy_to_cpu(weight.grad) for name, weight in model.named_parameters()}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    weights = {name: _copy_to_cpu(weight) for name, weight in model.named_parameters()}
    return SimpleNamespace(losses=losses, gradients=gradients, weights=weights)


def _copy_to_cpu(values: Tensor) -> Tensor:
    return values.detach().double().cpu().clone()  # what is float64 already would change with the model


def compute_differences(result: SimpleNamespace, reference: SimpleNamespace) -> dict[str, float]:
    """Compute relative differences: of losses the largest, of tensors |result − reference| / |reference|.

    The latter of all tensors together, and of the worst one.
    """
    losses = zip(result.losses, reference.losses, strict=True)
    differences = {"loss": max(abs(loss / expected - 1) for loss, expected in losses)}
    for part in ("gradients", "weights"):
        tensors, expected = getattr(result, part), getattr(reference, part)
        distances = {name: (tensors[name] - expected[name]).norm() for name in expected}
        norms = {name: expected[name].norm() for name in expected}
        together = torch.stack(list(distances.values())).norm() / torch.stack(list(norms.values())).norm()
        differences[part] = together.item()
        differences[f"{part}_worst"] = max((distances[name] / norms[name]).item() for name in norms if norms[name] > 0)
    zeros, expected_zeros = (
        sum(int((gradient == 0).sum()) for gradient in side.gradients.values()) for side in (result, reference)
    )
    total = sum(gradient.numel() for gradient in result.gradients.values())
    return differences | {"gradients_zero_more": (zeros - expected_zeros) / total}


@torch.inference_mode()
def decode_strings(
    model: VAE, inputs: SimpleNamespace, device: torch.device, precision: str
) -> dict[str, TokenStrings]:
    """Decode the means of the CPU's encoder, greedily and sampled."""
    mu, _ = model.to(CPU).eval().encoder(*inputs.packed.train.collate(inputs.rows).encoder_inputs)
    model.to(device)
    with use_precision(precision, device):
        return {
            name: decode_latents(model, mu, inputs.uniforms, temperature)
            for name, temperature in (("greedy_same", 0.0), ("sampled_same", 1.0))
        }


def compute_identical_fraction(strings: TokenStrings, reference: TokenStrings) -> float:
    """Compute the fraction of strings that are the same, token for token."""
    width = max(strings.ids.shape[1], reference.ids.shape[1])
    padded, expected = (np.pad(side.ids, ((0, 0), (0, width - side.ids.shape[1]))) for side in (strings, reference))
    return float((padded == expected).all(1).mean())
