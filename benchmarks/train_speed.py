"""Training against the MOSES VAE: molecules/s at its own sizes and batch, all sides in turn.

Sides: the MOSES VAE on SMILES; ours with a SELFIES symbol a token; ours with merged tokens, the default; and torch's
GRU alone, the same layers forward and backward on the padded batches of the second side and nothing else. A round is
some batches of an epoch of ours, from short to long; the MOSES VAE has the second side's molecules, shuffled.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ours
import torch
from peer import Peer
from record import median, options, write
from torch import nn

from molvae.config import TrainSettings
from molvae.data.dataset import TokenSet

KL_WEIGHT = 0.05  # any: the time does not depend on it


class Layers:
    """The recurrent layers of both networks, and what a batch of ours has them do."""

    def __init__(self) -> None:
        sizes = ours.MOSES_SIZES
        self.widths = sizes.embedding_dim, sizes.embedding_dim + sizes.latent_dim
        self.encoder = nn.GRU(self.widths[0], sizes.encoder_hidden)
        self.decoder = nn.GRU(self.widths[1], sizes.decoder_hidden, sizes.decoder_layers)

    def inputs(self, steps: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What both layers read for a batch of `count` molecules that are `steps` tokens long, their end counted."""
        read, written = (torch.randn(steps, count, width, requires_grad=True) for width in self.widths)
        return read[1:], written

    def step(self, read: torch.Tensor, written: torch.Tensor) -> None:
        (self.encoder(read)[0].sum() + self.decoder(written)[0].sum()).backward()


def some_batches(molecules: TokenSet, batch: int, count: int, number: int) -> list[np.ndarray]:
    """So many batches of an epoch, taken at even distances from the shortest molecules to the longest."""
    full = [rows for rows in molecules.epoch(batch, 0, number) if len(rows) == batch]
    full.sort(key=lambda rows: molecules.lengths[rows].mean())
    return [full[(2 * k + 1) * len(full) // (2 * count)] for k in range(count)]


def measure(source: Path, folder: Path, batch: int, batches: int, rounds: int, threads: int) -> dict[str, object]:
    """Molecules a second of all sides in turn, and the ratios round by round."""
    torch.set_num_threads(threads)
    symbols, merged = (ours.featurized(source, folder, merges, threads) for merges in (0, ours.MERGES))
    smiles = symbols.smiles["train"]
    settings = TrainSettings(batch_size=batch)
    runs = {
        name: ours.new_run(tokens, ours.MOSES_SIZES, settings)
        for name, tokens in (("symbols", symbols), ("merged", merged))
    }
    peer, layers = Peer(smiles), Layers()

    def moses(number: int) -> Callable[[], None]:
        rows = np.concatenate(some_batches(runs["symbols"].train, batch, batches, number))
        mixed = np.random.default_rng(number).permutation(rows).reshape(batches, batch)
        parts = [[smiles[k] for k in part] for part in mixed]
        return lambda: [peer.step(part, KL_WEIGHT) for part in parts]

    def own(name: str, number: int) -> Callable[[], None]:
        parts = some_batches(runs[name].train, batch, batches, number)
        return lambda: [ours.step(runs[name], part) for part in parts]

    def bare(number: int) -> Callable[[], None]:
        molecules = runs["symbols"].train
        shapes = [molecules.batch(part).inputs.shape for part in some_batches(molecules, batch, batches, number)]
        inputs = [layers.inputs(*shape) for shape in shapes]
        return lambda: [layers.step(*both) for both in inputs]

    sides = {
        "moses": moses,
        "symbols": lambda number: own("symbols", number),
        "merged": lambda number: own("merged", number),
        "gru": bare,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peer.step(smiles[:32], KL_WEIGHT)
    for run in runs.values():
        ours.step(run, np.arange(32))
    for number in range(rounds):
        for name, side in sides.items():
            work = side(number)
            began = time.monotonic()
            work()
            seconds[name].append(time.monotonic() - began)
            print(f"{name:8} {batch * batches / seconds[name][-1]:7.1f} molecules/s", flush=True)

    def ratio(name: str, other: str) -> float:
        return median([theirs / own for own, theirs in zip(seconds[name], seconds[other], strict=True)])

    rates = {name: [batch * batches / one for one in values] for name, values in seconds.items()}
    return {
        "molecules_per_s": {name: median(values) for name, values in rates.items()},
        "ratio": ratio("symbols", "moses"),
        "merged_ratio": ratio("merged", "moses"),
        "not_rnn_share": 1 - 1 / ratio("gru", "symbols"),
        "rounds": rates,
        "mean_tokens": {
            "moses": float(np.mean([len(one) for one in smiles])),
            **{name: float(run.train.lengths.mean()) for name, run in runs.items()},
        },
        "batch": batch,
        "molecules_a_round": batch * batches,
        "sizes": ours.MOSES_SIZES.model_dump(),
        "threads": threads,
    }


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of all sides")
    arguments = parser.parse_args()
    rows, batch, batches, rounds = (2000, 64, 1, 3) if arguments.quick else (20_000, 512, 4, 5)
    with tempfile.TemporaryDirectory() as temporary:
        source = ours.example(rows, Path(temporary))
        result = measure(source, Path(temporary), batch, batches, rounds, arguments.threads)
    write(arguments.json, result)
    for name, rate in result["molecules_per_s"].items():
        print(f"median {name:8} {rate:7.1f} molecules/s")
    print(f"not_rnn_share {result['not_rnn_share']:.2f}")
    print(f"merged ratio {result['merged_ratio']:.2f}")
    print(f"ratio {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
