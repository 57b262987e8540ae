"""Training against the MOSES VAE: molecules/s at its own sizes and batch, all sides in turn.

Sides: the MOSES VAE on SMILES; ours with a SELFIES symbol a token; ours with merged tokens, the default; and torch's
GRU alone, the same layers forward and backward on the padded batches of the second side and nothing else. A round is
a few batches of an epoch of ours, from short to long; the MOSES VAE has the second side's molecules, shuffled.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from example import write_example
from peer import Peer
from record import compute_median, make_parser, print_ratio, write_result
from torch import nn

from molvae.config import TrainSettings
from molvae.data.dataset import TokenSet

KL_WEIGHT = 0.05  # any: the time does not depend on it


class Layers:
    """The recurrent layers of both networks, and what a batch of ours has them compute."""

    def __init__(self) -> None:
        sizes = ours.MOSES_SIZES
        self.widths = sizes.embedding_dim, sizes.embedding_dim + sizes.latent_dim
        self.encoder = nn.GRU(self.widths[0], sizes.encoder_hidden)
        self.decoder = nn.GRU(self.widths[1], sizes.decoder_hidden, sizes.decoder_layers)

    def make_inputs(self, steps: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make inputs of both layers for `count` molecules that are `steps` tokens long, their end counted."""
        encoder_inputs, decoder_inputs = (torch.randn(steps, count, width, requires_grad=True) for width in self.widths)
        return encoder_inputs[1:], decoder_inputs

    def run(self, encoder_inputs: torch.Tensor, decoder_inputs: torch.Tensor) -> None:
        """Run both layers forward and backward."""
        (self.encoder(encoder_inputs)[0].sum() + self.decoder(decoder_inputs)[0].sum()).backward()


def choose_batches(molecules: TokenSet, batch_size: int, count: int, epoch: int) -> list[np.ndarray]:
    """Choose `count` batches of an epoch, at even distances from the shortest molecules to the longest."""
    full = [rows for rows in molecules.shuffle_batches(batch_size, 0, epoch) if len(rows) == batch_size]
    full.sort(key=lambda rows: molecules.lengths[rows].mean())
    return [full[(2 * k + 1) * len(full) // (2 * count)] for k in range(count)]


def measure(source: Path, folder: Path, batch_size: int, n_batches: int, rounds: int, threads: int) -> dict[str, Any]:
    """Measure the molecules a second of all sides in turn, and the ratios round by round."""
    torch.set_num_threads(threads)
    symbols, merged = (ours.featurize_file(source, folder, merges, threads) for merges in (0, ours.MERGES))
    smiles = symbols.smiles["train"]
    settings = TrainSettings(batch_size=batch_size, precision="float32")  # as the peer
    trainers = {
        name: ours.make_trainer(tokens, ours.MOSES_SIZES, settings)
        for name, tokens in (("symbols", symbols), ("merged", merged))
    }
    peer, layers = Peer(smiles), Layers()

    def prepare_peer(number: int) -> Callable[[], object]:
        rows = np.concatenate(choose_batches(trainers["symbols"].train, batch_size, n_batches, number))
        shuffled = np.random.default_rng(number).permutation(rows).reshape(n_batches, batch_size)
        batches = [[smiles[row] for row in batch] for batch in shuffled]
        return lambda: [peer.update(batch, KL_WEIGHT) for batch in batches]

    def prepare_ours(name: str, number: int) -> Callable[[], object]:
        batches = choose_batches(trainers[name].train, batch_size, n_batches, number)
        return lambda: [ours.update(trainers[name], rows) for rows in batches]

    def prepare_layers(number: int) -> Callable[[], object]:
        molecules = trainers["symbols"].train
        batches = choose_batches(molecules, batch_size, n_batches, number)
        inputs = [layers.make_inputs(*molecules.collate(rows).inputs.shape) for rows in batches]
        return lambda: [layers.run(*pair) for pair in inputs]

    sides = {
        "moses": prepare_peer,
        "symbols": lambda number: prepare_ours("symbols", number),
        "merged": lambda number: prepare_ours("merged", number),
        "gru": prepare_layers,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peer.update(smiles[:32], KL_WEIGHT)
    for trainer in trainers.values():
        ours.update(trainer, np.arange(32))
    for number in range(rounds):
        for name, prepare in sides.items():
            work = prepare(number)
            began = time.monotonic()
            work()
            seconds[name].append(time.monotonic() - began)
            print(f"{name:8} {batch_size * n_batches / seconds[name][-1]:7.1f} molecules/s", flush=True)

    def compute_ratio(name: str, reference: str) -> float:
        return compute_median([slow / fast for fast, slow in zip(seconds[name], seconds[reference], strict=True)])

    rates = {name: [batch_size * n_batches / value for value in values] for name, values in seconds.items()}
    return {
        "molecules_per_s": {name: compute_median(values) for name, values in rates.items()},
        "ratio": compute_ratio("symbols", "moses"),
        "merged_ratio": compute_ratio("merged", "moses"),
        "not_rnn_fraction": 1 - 1 / compute_ratio("gru", "symbols"),
        "rounds": rates,
        "mean_tokens": {
            "moses": float(np.mean([len(text) for text in smiles])),
            **{name: float(trainer.train.lengths.mean()) for name, trainer in trainers.items()},
        },
        "batch": batch_size,
        "molecules_a_round": batch_size * n_batches,
        "sizes": ours.MOSES_SIZES.model_dump(),
        "threads": threads,
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of all sides")
    arguments = parser.parse_args()
    rows, batch_size, n_batches, rounds = (2000, 32, 1, 2) if arguments.quick else (20_000, 512, 4, 5)
    with tempfile.TemporaryDirectory() as temporary:
        source = write_example(rows, Path(temporary))
        result = measure(source, Path(temporary), batch_size, n_batches, rounds, arguments.threads)
    write_result(arguments.json, result)
    for name, rate in result["molecules_per_s"].items():
        print(f"median {name:8} {rate:7.1f} molecules/s")
    print(f"not_rnn_fraction {result['not_rnn_fraction']:.2f}")
    print(f"merged ratio {result['merged_ratio']:.2f}")
    print_ratio(result["ratio"])


if __name__ == "__main__":
    main()
