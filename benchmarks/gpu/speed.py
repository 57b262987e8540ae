"""Molecules/s in training and strings/s in sampling, by size, batch and precision, beside the matrix products' own."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import (
    Packed,
    allow_tf32,
    list_precisions,
    measure_rate,
    print_line,
    synchronise,
    use_precision,
    write_result,
)
from mosesvae import MosesVAE
from torch import nn

from molvae.data.vocabulary import EOS, PAD
from molvae.inference.decoding import decode_latents
from molvae.inference.sampling import CHUNK_SIZE, SamplingOptions, sample_prior
from molvae.nn.vae import VAE
from molvae.training.trainer import Trainer

MOSES_TRAINING = 1_584_663  # molecules of the MOSES training set
PEER_BATCHES = 16  # collated before the clock starts, then taken in turn
CHUNKS = {"cuda": (1, 8, 64), "cpu": (1, 2)}  # decoded together


def measure_throughput(
    packed: Packed,
    out: Path,
    device: torch.device,
    *,
    sizes: list[str],
    batches: list[int],
    precisions: list[str],
    seconds: float,
    peer: Path | None,
    smiles: Path | None,
) -> None:
    """Measure training, ours and the MOSES VAE's, beside matrix products.

    The result is written after every cell, so that a stop loses little.

    Args:
        packed: molecules.
        out: folder to write.
        device: to measure.
        sizes: names of SIZES.
        batches: batch sizes.
        precisions: those of PRECISIONS.
        seconds: of each cell.
        peer: folder with an unpacked `molsets` wheel; None: without the MOSES VAE.
        smiles: file with molecules for it.
    """
    result: dict[str, Any] = {"seconds_a_cell": seconds, "matmul": [], "ours": [], "peer": []}

    def keep(part: str, cell: dict[str, Any], line: str) -> None:
        result[part].append(cell)
        print_line(line)
        write_result(out, "throughput", result, packed, device)

    available = list_precisions(device, precisions)
    side = 8192 if device.type == "cuda" else 512
    peaks = {}
    for precision in available:
        peaks[precision] = measure_matmul(side, side, side, precision, device, seconds / 2)
        cell = {"precision": precision, "shape": [side] * 3, "tflops": peaks[precision]}
        keep("matmul", cell, f"matrix product {side}^3  {precision:8}  {peaks[precision]:7.2f} TFLOP/s")
    for name, batch_size, precision in itertools.product(sizes, batches, available):
        hidden = packed.make_model_settings(name).decoder_hidden
        tflops = measure_matmul(batch_size, hidden, 3 * hidden, precision, device, seconds / 10)
        cell = {"sizes": name, "precision": precision, "shape": [batch_size, hidden, 3 * hidden], "tflops": tflops}
        line = f"a step's product {batch_size} x {hidden} x {3 * hidden}  {precision:8}  {tflops:7.2f} TFLOP/s"
        keep("matmul", cell, line)
    for name, batch_size, precision in itertools.product(sizes, batches, available):
        cell = {"sizes": name, "batch": batch_size, "precision": precision}
        label = f"{name:8} batch {batch_size:5}  {precision:8}"
        try:
            cell |= measure_training(packed, packed.make_model_settings(name), batch_size, precision, device, seconds)
        except torch.OutOfMemoryError:
            keep("ours", cell | {"molecules_per_s": None}, f"{label}  out of memory")
            continue
        cell["fraction_of_matmul"] = cell["tflops"] / peaks[precision]
        keep("ours", cell, f"{label}  {_format_cell(cell)}")
    if peer and smiles:
        molecules = smiles.read_text().split()
        for batch_size, precision in itertools.product(batches, [name for name in available if name != "bfloat16"]):
            cell = {"batch": batch_size, "precision": precision}
            cell |= measure_peer_training(peer, molecules, batch_size, precision, device, seconds)
            rate = cell["molecules_per_s"]
            label = f"MOSES VAE batch {batch_size:5}  {precision:8}"
            keep("peer", cell, f"{label}  {rate:9.0f} molecules/s  {_format_epoch(rate)}")
        _print_ratio(result, "molecules_per_s")


def _print_ratio(result: dict[str, Any], key: str) -> None:
    """The best rate of ours at the sizes of the MOSES VAE over its own best; no line where these were not measured."""
    ours = [cell[key] for cell in result["ours"] if cell["sizes"] == "moses" and cell[key]]
    if ours:
        print_line(f"ratio {max(ours) / max(cell[key] for cell in result['peer']):.2f}")


def _format_cell(cell: dict[str, Any]) -> str:
    rate, percent = cell["molecules_per_s"], 100 * cell["fraction_of_matmul"]
    return (
        f"{rate:9.0f} molecules/s  {_format_epoch(rate)}  {cell['tflops']:6.2f} TFLOP/s ({percent:.0f} % of a matrix "
        f"product's)  {cell['peak_gib']:.1f} GiB  RNN {cell['rnn_dtype']}"
    )


def _format_epoch(rate: float) -> str:
    return f"MOSES epoch {MOSES_TRAINING / rate:6.1f} s"


def measure_matmul(m: int, k: int, n: int, precision: str, device: torch.device, seconds: float) -> float:
    """Measure the TFLOP/s of an (m, k) by (k, n) product of random numbers."""
    allow_tf32(precision != "float32")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (k, n)))
    product = torch.empty(m, n, device=device, dtype=dtype)
    return 2e-12 * m * k * n * measure_rate(lambda: torch.mm(left, right, out=product), device, seconds)


def measure_training(
    packed: Packed, sizes: SimpleNamespace, batch_size: int, precision: str, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Measure updates as the product makes them, on the batches of an epoch: reading, sorting and padding included."""
    allow_tf32(precision != "float32")
    setting = "bfloat16" if precision == "bfloat16" else "float32"
    settings = packed.make_settings("train", batch_size=batch_size, precision=setting)
    trainer = Trainer(packed.init_network(sizes), packed.train, packed.splits["valid"], settings, device)
    size = min(batch_size, len(trainer.train))
    full = [rows for rows in trainer.train.shuffle_batches(batch_size, 0, 0) if len(rows) == size]
    batches, used, dtypes = itertools.cycle(full), [], []

    def note_dtype(layer: nn.Module, inputs: Any, states: torch.Tensor) -> None:
        dtypes.append(states.dtype)

    def step() -> None:
        used.append(next(batches))
        trainer.step(used[-1])
        trainer.progress.step += 1

    hook = trainer.model.decoder.layers[-1].register_forward_hook(note_dtype)
    step()
    hook.remove()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps_per_s = measure_rate(step, device, seconds)
    tokens = float(np.mean([trainer.train.lengths[rows].mean() for rows in used]))
    rate = steps_per_s * len(full[0])
    return {
        "molecules_per_s": rate,
        "tokens_per_s": rate * tokens,
        "steps_per_s": steps_per_s,
        "tflops": 1e-12 * rate * count_flops(trainer.model, tokens),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0,
        "rnn_dtype": str(dtypes[0]).removeprefix("torch."),
        "loss_is_finite": bool(torch.isfinite(trainer.step(used[-1])).all()),
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
    }


def count_flops(model: VAE, tokens: float) -> float:
    """Count the operations of an update for a molecule of so many tokens, padding left out.

    Six for each weight and each time it is used: two forward, four backward.
    """
    encoder, decoder = model.encoder, model.decoder
    per_encoded = _count_weights(encoder.layers)
    per_decoded = _count_weights(decoder.layers) + _count_weights(decoder.state_to_logits)
    latent_layers = (encoder.to_latent, decoder.first_state, decoder.latent_to_logits)
    per_molecule = sum(_count_weights(layer) for layer in latent_layers)
    return 6 * (per_encoded * tokens + per_decoded * (tokens + 1) + per_molecule)


def _count_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)


def measure_peer_training(
    wheel: Path, smiles: list[str], batch_size: int, precision: str, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Measure updates as the trainer of the MOSES VAE makes them, without its collating, which a worker does."""
    allow_tf32(precision != "float32")
    peer = MosesVAE(wheel, smiles, device)
    random = np.random.default_rng(0)
    batches = itertools.cycle(
        [
            peer.collate([smiles[row] for row in random.integers(len(smiles), size=batch_size)])
            for _ in range(PEER_BATCHES)
        ]
    )
    steps_per_s = measure_rate(lambda: peer.update(next(batches)), device, seconds, warm_up=3)
    return {"molecules_per_s": steps_per_s * batch_size, "steps_per_s": steps_per_s}


def measure_sampling(
    packed: Packed,
    out: Path,
    device: torch.device,
    *,
    models: dict[str, VAE],
    trained: bool,
    precisions: list[str],
    seconds: float,
    peer: Path | None,
    smiles: Path | None,
) -> None:
    """Measure the strings a second of each model.

    As `sample_prior` draws them, a chunk at a time; and of the decoder alone with more chunks in a batch. An untrained
    model never ends a string, so its strings are cut at the mean length of the data.

    Args:
        packed: molecules.
        out: folder to write.
        device: to measure.
        models: by name.
        trained: whether they are.
        precisions: those of PRECISIONS.
        seconds: of each cell.
        peer: folder with an unpacked `molsets` wheel; None: without the MOSES VAE.
        smiles: file with molecules for it.
    """
    mean = float(packed.train.lengths.mean())
    limit = packed.defaults["sample"]["max_tokens"] if trained else math.ceil(mean) + 1
    result: dict[str, Any] = {"trained": trained, "max_tokens": limit, "data_mean_tokens": mean, "ours": [], "peer": []}
    if not trained:
        print_line(f"untrained models: every string is cut at {limit} tokens, the mean of the data and its end")

    def keep(part: str, cell: dict[str, Any], line: str) -> None:
        result[part].append(cell)
        print_line(f"{line}  {cell['strings_per_s']:9.0f} strings/s")
        write_result(out, "sample", result, packed, device)

    for name, precision in itertools.product(models, list_precisions(device, precisions)):
        model = models[name].to(device).eval()
        for threads in (1, 4) if precision != "bfloat16" else (1,):  # autocast does not reach into threads
            cell = {"sizes": name, "precision": precision, "function": "sample_prior", "threads": threads}
            cell |= measure_sample_prior(model, precision, device, limit, threads, seconds)
            keep("ours", cell, f"{name:8} {precision:8}  sample_prior, {threads} threads")
        for chunks in CHUNKS[device.type]:
            batch_size = chunks * CHUNK_SIZE
            cell = {"sizes": name, "precision": precision, "function": "decode_latents", "batch": batch_size}
            cell |= measure_decode_latents(model, precision, device, limit, batch_size, seconds)
            keep("ours", cell, f"{name:8} {precision:8}  {batch_size} at a time")
    if peer and smiles:
        vae = MosesVAE(peer, smiles.read_text().split(), device)
        for precision, chunks in itertools.product(
            list_precisions(device, ["float32", "tf32"]), CHUNKS[device.type][:2]
        ):
            allow_tf32(precision != "float32")
            batch_size = chunks * CHUNK_SIZE
            rate = measure_rate(partial(vae.sample, batch_size), device, seconds, warm_up=1) * batch_size
            cell = {"precision": precision, "batch": batch_size, "strings_per_s": rate}
            keep("peer", cell, f"MOSES VAE {precision:8}  {batch_size} at a time")
        _print_ratio(result, "strings_per_s")


def measure_sample_prior(
    model: VAE, precision: str, device: torch.device, limit: int, threads: int, seconds: float
) -> dict[str, Any]:
    """Measure the product's own call."""
    count, lengths = CHUNKS[device.type][-1] * CHUNK_SIZE, []
    options = SamplingOptions(max_tokens=limit, threads=threads)

    def work() -> None:
        with use_precision(precision, device):
            strings = sample_prior(model, 0, count, options)
        lengths.append(((strings.ids != PAD) & (strings.ids != EOS)).sum(1).mean())

    rate = measure_rate(work, device, seconds, warm_up=1) * count
    return {"strings_per_s": rate, "mean_tokens": float(np.mean(lengths))}


def measure_decode_latents(
    model: VAE, precision: str, device: torch.device, limit: int, batch_size: int, seconds: float
) -> dict[str, Any]:
    """Measure the decoder with this many strings at once, its random numbers on the device from the start."""
    z = model.prior.sample(batch_size, torch.Generator().manual_seed(0)).detach().to(device)
    uniforms = torch.rand((limit, batch_size), device=device)
    synchronise(device)

    def work() -> None:
        with use_precision(precision, device):
            decode_latents(model, z, uniforms, 1.0)

    return {"strings_per_s": measure_rate(work, device, seconds, warm_up=1) * batch_size}
