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
    arithmetic,
    calls_per_second,
    precisions,
    say,
    synchronise,
    write,
)
from mosesvae import MosesVAE
from torch import nn

from molvae.data.vocabulary import EOS, PAD
from molvae.inference.decoding import decode_points
from molvae.inference.sampling import CHUNK, sample_prior
from molvae.nn.vae import VAE
from molvae.training.trainer import Run

MOSES_TRAINING = 1_584_663  # molecules of the MOSES training set
PEER_BATCHES = 16  # collated before the clock starts, then taken in turn
CHUNKS = {"cuda": (1, 8, 64), "cpu": (1, 2)}  # decoded together


def throughput(
    packed: Packed, out: Path, device: torch.device, *, sizes: list[str], batches: list[int], wanted: list[str],
    seconds: float, peer: Path | None, smiles: Path | None,
) -> None:  # fmt: skip
    """Training, ours and the MOSES VAE's, and the ceilings; written after every cell, so that a stop loses little."""
    result: dict[str, Any] = {"seconds_a_cell": seconds, "ceiling": [], "ours": [], "peer": []}

    def keep(part: str, cell: dict[str, Any], line: str) -> None:
        result[part].append(cell)
        say(line)
        write(out, "throughput", result, packed, device)

    known = precisions(device, wanted)
    side = 8192 if device.type == "cuda" else 512
    tops = {}
    for precision in known:
        tops[precision] = matmul(side, side, side, precision, device, seconds / 2)
        cell = {"precision": precision, "shape": [side] * 3, "tflops": tops[precision]}
        keep("ceiling", cell, f"matrix product {side}^3  {precision:8}  {tops[precision]:7.2f} TFLOP/s")
    for name, batch, precision in itertools.product(sizes, batches, known):
        hidden = packed.sizes(name).decoder_hidden
        found = matmul(batch, hidden, 3 * hidden, precision, device, seconds / 10)
        cell = {"sizes": name, "precision": precision, "shape": [batch, hidden, 3 * hidden], "tflops": found}
        keep(
            "ceiling", cell, f"a step's product {batch} x {hidden} x {3 * hidden}  {precision:8}  {found:7.2f} TFLOP/s"
        )
    for name, batch, precision in itertools.product(sizes, batches, known):
        cell = {"sizes": name, "batch": batch, "precision": precision}
        try:
            cell |= training(packed, packed.sizes(name), batch, precision, device, seconds)
        except torch.OutOfMemoryError:
            keep("ours", cell | {"molecules_per_s": None}, f"{name:8} batch {batch:5}  {precision:8}  out of memory")
            continue
        cell["share_of_ceiling"] = cell["tflops"] / tops[precision]
        keep("ours", cell, f"{name:8} batch {batch:5}  {precision:8}  {_line(cell)}")
    if peer and smiles:
        molecules = smiles.read_text().split()
        for batch, precision in itertools.product(batches, [one for one in known if one != "bfloat16"]):
            cell = {"batch": batch, "precision": precision}
            cell |= peer_training(peer, molecules, batch, precision, device, seconds)
            rate = cell["molecules_per_s"]
            keep("peer", cell, f"MOSES VAE batch {batch:5}  {precision:8}  {rate:9.0f} molecules/s  {_epoch(rate)}")


def _line(cell: dict[str, Any]) -> str:
    return (
        f"{cell['molecules_per_s']:9.0f} molecules/s  {_epoch(cell['molecules_per_s'])}  {cell['tflops']:6.2f} TFLOP/s "
        f"({100 * cell['share_of_ceiling']:.0f} % of the ceiling)  {cell['peak_gib']:.1f} GiB  RNN {cell['rnn_dtype']}"
    )


def _epoch(rate: float) -> str:
    return f"MOSES epoch {MOSES_TRAINING / rate:6.1f} s"


def matmul(m: int, k: int, n: int, precision: str, device: torch.device, seconds: float) -> float:
    """TFLOP/s of an (m, k) by (k, n) product of random numbers."""
    allow_tf32(precision != "float32")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one, other = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (k, n)))
    product = torch.empty(m, n, device=device, dtype=dtype)
    return 2e-12 * m * k * n * calls_per_second(lambda: torch.mm(one, other, out=product), device, seconds)


def training(
    packed: Packed, sizes: SimpleNamespace, batch: int, precision: str, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Updates as the product makes them, on the batches of an epoch: reading, sorting and padding included."""
    allow_tf32(precision != "float32")
    asked = "bfloat16" if precision == "bfloat16" else "float32"
    settings = packed.settings("train", batch_size=batch, precision=asked)
    run = Run(packed.network(sizes), packed.train, packed.splits["valid"], settings, device)
    full = [rows for rows in run.train.epoch(batch, 0, 0) if len(rows) == min(batch, len(run.train))]
    rows, done, kinds = itertools.cycle(full), [], []
    hook = run.model.decoder.layers[-1].register_forward_hook(lambda layer, inputs, states: kinds.append(states.dtype))

    def step() -> None:
        done.append(next(rows))
        run.step(done[-1])
        run.progress.step += 1

    step()
    hook.remove()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    calls = calls_per_second(step, device, seconds)
    tokens = float(np.mean([run.train.lengths[part].mean() for part in done]))
    rate = calls * len(full[0])
    return {
        "molecules_per_s": rate,
        "tokens_per_s": rate * tokens,
        "steps_per_s": calls,
        "tflops": 1e-12 * rate * flops(run.model, tokens),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0,
        "rnn_dtype": str(kinds[0]).removeprefix("torch."),
        "loss_is_finite": bool(torch.isfinite(run.step(done[-1])).all()),
        "parameters": sum(one.numel() for one in run.model.parameters()),
    }


def flops(model: VAE, tokens: float) -> float:
    """Operations of an update for a molecule of so many tokens, padding not counted.

    Six for each weight and each time it is used: two forward, four backward.
    """
    encoder, decoder = model.encoder, model.decoder
    read = _weights(encoder.layers)
    written = _weights(decoder.layers) + _weights(decoder.state_to_logits)
    once = _weights(encoder.to_latent) + _weights(decoder.first_state) + _weights(decoder.latent_to_logits)
    return 6 * (read * tokens + written * (tokens + 1) + once)


def _weights(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters() if one.dim() == 2)


def peer_training(
    wheel: Path, smiles: list[str], batch: int, precision: str, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Updates as the trainer of the MOSES VAE makes them; its collating is left out, for a worker does it meanwhile."""
    allow_tf32(precision != "float32")
    peer = MosesVAE(wheel, smiles, device)
    order = np.random.default_rng(0)
    batches = itertools.cycle(
        [peer.collated([smiles[k] for k in order.integers(len(smiles), size=batch)]) for _ in range(PEER_BATCHES)]
    )
    calls = calls_per_second(lambda: peer.step(next(batches)), device, seconds, warm_up=3)
    return {"molecules_per_s": calls * batch, "steps_per_s": calls}


def sample(
    packed: Packed, out: Path, device: torch.device, *, models: dict[str, VAE], trained: bool, wanted: list[str],
    seconds: float, peer: Path | None, smiles: Path | None,
) -> None:  # fmt: skip
    """Strings a second of each model.

    As `sample_prior` draws them, a chunk at a time; and of the decoder alone with more chunks in a batch. An untrained
    model never ends a string, so its strings are cut at the mean length of the data.
    """
    mean = float(packed.train.lengths.mean())
    limit = packed.defaults["sample"]["max_tokens"] if trained else math.ceil(mean) + 1
    result: dict[str, Any] = {"trained": trained, "max_tokens": limit, "data_mean_tokens": mean, "ours": [], "peer": []}
    if not trained:
        say(f"untrained models: every string is cut at {limit} tokens, the mean of the data and its end")

    def keep(part: str, cell: dict[str, Any], line: str) -> None:
        result[part].append(cell)
        say(f"{line}  {cell['strings_per_s']:9.0f} strings/s")
        write(out, "sample", result, packed, device)

    for name, precision in itertools.product(models, precisions(device, wanted)):
        model = models[name].to(device).eval()
        for threads in (1, 4) if precision != "bfloat16" else (1,):  # autocast does not reach into threads
            cell = {"sizes": name, "precision": precision, "way": "sample_prior", "threads": threads}
            cell |= drawing(model, precision, device, limit, threads, seconds)
            keep("ours", cell, f"{name:8} {precision:8}  sample_prior, {threads} threads")
        for chunks in CHUNKS[device.type]:
            cell = {"sizes": name, "precision": precision, "way": "decode_points", "batch": chunks * CHUNK}
            cell |= decoding(model, precision, device, limit, chunks * CHUNK, seconds)
            keep("ours", cell, f"{name:8} {precision:8}  {chunks * CHUNK} at a time")
    if peer and smiles:
        vae = MosesVAE(peer, smiles.read_text().split(), device)
        for precision, batch in itertools.product(precisions(device, ["float32", "tf32"]), CHUNKS[device.type][:2]):
            allow_tf32(precision != "float32")
            rate = calls_per_second(partial(vae.sample, batch * CHUNK), device, seconds, warm_up=1) * batch * CHUNK
            cell = {"precision": precision, "batch": batch * CHUNK, "strings_per_s": rate}
            keep("peer", cell, f"MOSES VAE {precision:8}  {batch * CHUNK} at a time")


def drawing(
    model: VAE, precision: str, device: torch.device, limit: int, threads: int, seconds: float
) -> dict[str, Any]:
    """The product's own call."""
    count, lengths = CHUNKS[device.type][-1] * CHUNK, []

    def work() -> None:
        with arithmetic(precision, device):
            strings = sample_prior(model, 0, count, seed=0, temperature=1.0, max_tokens=limit, threads=threads)
        lengths.append(((strings.ids != PAD) & (strings.ids != EOS)).sum(1).mean())

    rate = calls_per_second(work, device, seconds, warm_up=1) * count
    return {"strings_per_s": rate, "mean_tokens": float(np.mean(lengths))}


def decoding(
    model: VAE, precision: str, device: torch.device, limit: int, batch: int, seconds: float
) -> dict[str, Any]:
    """The decoder with this many strings at once, its random numbers on the device from the start."""
    z = model.prior.draw(batch, torch.Generator().manual_seed(0)).detach().to(device)
    uniforms = torch.rand((limit, batch), device=device)
    synchronise(device)

    def work() -> None:
        with arithmetic(precision, device):
            decode_points(model, z, uniforms, 1.0)

    return {"strings_per_s": calls_per_second(work, device, seconds, warm_up=1) * batch}
