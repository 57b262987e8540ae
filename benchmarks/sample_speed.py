"""Sampling against the MOSES VAE: strings/s at its own sizes, both sides in turn.

The MOSES sampler runs 100 steps whatever it writes, so its weights do not matter; it is asked for batches of 32, its
script's default, and of 512, and the better of the two counts. Ours stops when its strings have ended, so it is trained
until their mean length is within 10 % of the data's. The ratios are for SMILES, which both sides return; ours is also
timed without the way from tokens to SMILES (`_tokens`). With --quick the layers of both are narrower.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import ours
import torch
from peer import Peer
from record import median, options, write

from molvae.config import ModelSettings, SampleSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.training.trainer import Run

MAX_TOKENS = SampleSettings().max_tokens
CLOSE = 0.1  # how far the mean length of samples may be from the data's
LOOK_STEPS = 20  # steps between looks at it
MOST_STEPS = 2000


def batches(molecules: TokenSet, size: int) -> Iterator[np.ndarray]:
    """Batches without end."""
    for epoch in count():
        yield from molecules.epoch(size, 0, epoch)


def of_true_length(tokens: ours.Tokens, sizes: ModelSettings, batch: int, threads: int) -> tuple[Run, dict[str, float]]:
    """A model trained until its strings are about as long as the data's, and how long they are."""
    settings = TrainSettings(batch_size=batch, learning_rate=3e-3, warmup=0, dropout=0, epochs=100)
    run = ours.new_run(tokens, sizes, settings)
    data = tokens.splits["train"].lengths
    for steps, rows in enumerate(batches(run.train, batch), start=1):
        ours.step(run, rows)
        if steps % LOOK_STEPS:
            continue
        found = ours.token_lengths(ours.token_strings(run, 512, MAX_TOKENS, threads))
        print(f"{steps} steps: strings of {found.mean():.1f} tokens, the data's {data.mean():.1f}", flush=True)
        if abs(found.mean() / data.mean() - 1) < CLOSE:
            break
        if steps == MOST_STEPS:
            raise SystemExit(f"after {steps} steps the strings are still not as long as the data's")
    lengths = {"mean": found.mean(), "std": found.std(), "data_mean": data.mean(), "data_std": data.std()}
    return run, {"steps": steps, **{name: float(value) for name, value in lengths.items()}}


def measure(
    sizes: ModelSettings, rows: int, samples: int, peer_batches: list[int], rounds: int, threads: int
) -> dict[str, object]:
    """Strings a second of all sides in turn, and the ratios round by round."""
    torch.set_num_threads(threads)
    runs, lengths, vocabularies = {}, {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        source = ours.example(rows, Path(temporary))
        for name, merges in (("symbols", 0), ("merged", ours.MERGES)):
            tokens = ours.featurized(source, Path(temporary), merges, threads)
            runs[name], lengths[name] = of_true_length(tokens, sizes, 32, threads)
            vocabularies[name] = tokens.vocabulary
    widths = {"q_d_h": sizes.encoder_hidden, "d_d_h": sizes.decoder_hidden, "d_z": sizes.latent_dim}
    peer = Peer(tokens.smiles["train"], d_n_layers=sizes.decoder_layers, **widths)

    def moses(batch: int) -> Callable[[], object]:
        return lambda: peer.sample(batch, batch)

    def whole(name: str) -> Callable[[], object]:
        return lambda: ours.smiles_strings(runs[name], vocabularies[name], samples, MAX_TOKENS, threads)

    def strings(name: str) -> Callable[[], object]:
        return lambda: ours.token_strings(runs[name], samples, MAX_TOKENS, threads)

    sides = {f"moses_{batch}": (batch, moses(batch)) for batch in peer_batches}
    for name in runs:
        sides |= {f"{name}_tokens": (samples, strings(name)), name: (samples, whole(name))}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    peer.sample(2, 2)
    for _ in range(rounds):
        for name, (number, work) in sides.items():
            began = time.monotonic()
            work()
            rates[name].append(number / (time.monotonic() - began))
            print(f"{name:14} {rates[name][-1]:8.1f} strings/s", flush=True)
    medians = {name: median(values) for name, values in rates.items()}
    best = max((f"moses_{batch}" for batch in peer_batches), key=medians.__getitem__)

    def ratio(name: str) -> float:
        return median([own / theirs for own, theirs in zip(rates[name], rates[best], strict=True)])

    return {
        "strings_per_s": medians,
        "peer_quoted": best,
        "symbols_ratio": ratio("symbols"),
        "merged_ratio": ratio("merged"),
        "rounds": rates,
        "lengths": lengths,
        "samples": samples,
        "sizes": sizes.model_dump(),
        "threads": threads,
    }


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of all sides")
    arguments = parser.parse_args()
    if arguments.quick:
        narrow = {"latent_dim": 32, "encoder_hidden": 64, "decoder_hidden": 128}
        sizes = ours.MOSES_SIZES.model_copy(update=narrow)
        result = measure(sizes, 2000, 1024, [32, 512], 1, arguments.threads)
    else:
        result = measure(ours.MOSES_SIZES, 20_000, 4096, [32, 512], 3, arguments.threads)
    write(arguments.json, result)
    for name, rate in result["strings_per_s"].items():
        print(f"median {name:14} {rate:8.1f} strings/s")
    print(f"single-symbol ratio {result['symbols_ratio']:.2f}")
    print(f"ratio {result['merged_ratio']:.2f}")


if __name__ == "__main__":
    main()
