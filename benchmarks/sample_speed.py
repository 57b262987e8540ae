"""Sampling against the MOSES VAE: strings/s at its own sizes, both sides in turn.

The MOSES sampler runs 100 steps whatever it decodes, so its weights do not matter; it is asked for batches of 32, its
script's default, and of 512, and the better of the two counts. Ours stops when its strings have ended, so it is trained
until their mean length is within 10 % of the data's. The ratios are for SMILES, which both sides return; ours is also
timed without the conversion of tokens to SMILES (`_tokens`). With --quick the layers of both are narrower.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from example import write_example
from peer import Peer
from record import compute_median, make_parser, print_ratio, write_result

from molvae.config import ModelSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.model_io.card import get_max_tokens
from molvae.training.trainer import Trainer

MAX_TOKENS = get_max_tokens({})
TOLERANCE = 0.1  # of the mean length of samples, relative to the data's
CHECK_STEPS = 20  # steps between measurements of it
MAX_STEPS = 2000


def iter_batches(molecules: TokenSet, batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches without end."""
    for epoch in count():
        yield from molecules.shuffle_batches(batch_size, 0, epoch)


def train_to_true_length(
    tokens: ours.Tokens, sizes: ModelSettings, batch_size: int, threads: int
) -> tuple[Trainer, dict[str, float]]:
    """Train a model until its strings are about as long as the data's; also returns how long they are."""
    settings = TrainSettings(batch_size=batch_size, learning_rate=3e-3, warmup=0, dropout=0, epochs=100)
    trainer = ours.make_trainer(tokens, sizes, settings)
    data = tokens.splits["train"].lengths
    for steps, rows in enumerate(iter_batches(trainer.train, batch_size), start=1):
        ours.update(trainer, rows)
        if steps % CHECK_STEPS:
            continue
        sampled = ours.count_tokens(ours.sample_ids(trainer, 512, MAX_TOKENS, threads))
        print(f"{steps} steps: strings of {sampled.mean():.1f} tokens, the data's {data.mean():.1f}", flush=True)
        if abs(sampled.mean() / data.mean() - 1) < TOLERANCE:
            break
        if steps == MAX_STEPS:
            raise SystemExit(f"after {steps} steps the strings are still not as long as the data's")
    lengths = {"mean": sampled.mean(), "std": sampled.std(), "data_mean": data.mean(), "data_std": data.std()}
    return trainer, {"steps": steps, **{name: float(value) for name, value in lengths.items()}}


def measure(
    sizes: ModelSettings, rows: int, samples: int, peer_batches: list[int], rounds: int, threads: int
) -> dict[str, Any]:
    """Measure the strings a second of all sides in turn, and the ratios round by round."""
    torch.set_num_threads(threads)
    trainers, lengths, vocabularies = {}, {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        source = write_example(rows, Path(temporary))
        for name, merges in (("symbols", 0), ("merged", ours.MERGES)):
            tokens = ours.featurize_file(source, Path(temporary), merges, threads)
            trainers[name], lengths[name] = train_to_true_length(tokens, sizes, 32, threads)
            vocabularies[name] = tokens.vocabulary
    widths = {"q_d_h": sizes.encoder_hidden, "d_d_h": sizes.decoder_hidden, "d_z": sizes.latent_dim}
    peer = Peer(tokens.smiles["train"], d_n_layers=sizes.decoder_layers, **widths)

    def prepare_peer(batch_size: int) -> Callable[[], object]:
        return lambda: peer.sample(batch_size, batch_size)

    def prepare_smiles(name: str) -> Callable[[], object]:
        return lambda: ours.sample_smiles(trainers[name], vocabularies[name], samples, MAX_TOKENS, threads)

    def prepare_tokens(name: str) -> Callable[[], object]:
        return lambda: ours.sample_ids(trainers[name], samples, MAX_TOKENS, threads)

    sides = {f"moses_{batch_size}": (batch_size, prepare_peer(batch_size)) for batch_size in peer_batches}
    for name in trainers:
        sides |= {f"{name}_tokens": (samples, prepare_tokens(name)), name: (samples, prepare_smiles(name))}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    peer.sample(2, 2)
    for _ in range(rounds):
        for name, (number, work) in sides.items():
            began = time.monotonic()
            work()
            rates[name].append(number / (time.monotonic() - began))
            print(f"{name:14} {rates[name][-1]:8.1f} strings/s", flush=True)
    medians = {name: compute_median(values) for name, values in rates.items()}
    best_peer = max((f"moses_{batch_size}" for batch_size in peer_batches), key=medians.__getitem__)

    def compute_ratio(name: str) -> float:
        return compute_median([fast / slow for fast, slow in zip(rates[name], rates[best_peer], strict=True)])

    return {
        "strings_per_s": medians,
        "peer_quoted": best_peer,
        "symbols_ratio": compute_ratio("symbols"),
        "merged_ratio": compute_ratio("merged"),
        "rounds": rates,
        "lengths": lengths,
        "samples": samples,
        "sizes": sizes.model_dump(),
        "threads": threads,
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of all sides")
    arguments = parser.parse_args()
    if arguments.quick:
        narrow = {"latent_dim": 32, "encoder_hidden": 64, "decoder_hidden": 128}
        sizes = ours.MOSES_SIZES.model_copy(update=narrow)
        result = measure(sizes, 2000, 512, [32, 64], 1, arguments.threads)
    else:
        result = measure(ours.MOSES_SIZES, 20_000, 4096, [32, 512], 3, arguments.threads)
    write_result(arguments.json, result)
    for name, rate in result["strings_per_s"].items():
        print(f"median {name:14} {rate:8.1f} strings/s")
    print(f"single-symbol ratio {result['symbols_ratio']:.2f}")
    print_ratio(result["merged_ratio"])


if __name__ == "__main__":
    main()
