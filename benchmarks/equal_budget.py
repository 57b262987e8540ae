"""Molecules against the MOSES VAE: both train for the same seconds on the same molecules, then both are sampled.

Each side has its own defaults; ours decodes strings again that are not round-trip consistent, as theirs leaves invalid
ones out, and is also judged without that (`unfiltered_samples`). The MOSES VAE raises its KL weight over 100 epochs,
which it never sees here: its own annealer is given the budget's seconds in place of epochs, so that the weight goes
from 0 to 0.05 over the budget. Ours learns in a run of fixed length: a few steps and an evaluation on the held-out
molecules are timed first, and the run is planned to end with the budget, the evaluation after each epoch included.
Planning and featurising are not in the budget. Without --data, the molecules are the 100 000 of the MOSES training set
with the lowest hash.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from example import EXAMPLE, write_example
from peer import Peer, get_wheel, import_moses
from record import compute_median, make_parser, print_ratio, write_result

from molvae.chemistry.descriptors import to_canonical_smiles
from molvae.chemistry.standardise import parse_smiles
from molvae.config import ModelSettings, SampleSettings, TrainSettings
from molvae.errors import Interrupted, Rejected
from molvae.inference.posterior_diagnostics import ACTIVE_VARIANCE
from molvae.metrics import fcd
from molvae.model_io.card import get_max_tokens
from molvae.training.trainer import Trainer

MOLECULES = 100_000
TIMED_STEPS = 30
RESERVE = 0.02  # of the budget, not planned for
TOLERANCE = 0.03  # of the budget, after which ours is stopped
SAMPLE_BATCH = 512


def write_moses_molecules(folder: Path) -> Path:
    """Write the training molecules of MOSES with the lowest hash, as `data/cut.py` cuts the shipped set."""
    sys.path.append(str(EXAMPLE.parent))
    from cut import cut, smiles

    path = folder / "moses.csv"
    with zipfile.ZipFile(get_wheel()) as archive:
        chosen = cut(smiles(archive, "train"), MOLECULES)
    path.write_text("\n".join(["SMILES,SPLIT", *(f"{text},train" for text in chosen)]) + "\n")
    return path


def plan_training(tokens: ours.Tokens, seconds: float, seed: int) -> tuple[TrainSettings, np.ndarray, float]:
    """Plan a run that takes so many seconds.

    Epochs are whole; where the budget has no room for all of the last one, each epoch leaves out the same molecules.

    Returns:
        settings, rows of the molecules to train on, and the molecules/s that the plan assumes.
    """
    settings = TrainSettings(seed=seed)
    trainer = ours.make_trainer(tokens, ModelSettings(), settings)
    batches = trainer.train.shuffle_batches(settings.batch_size, seed, 0)[:TIMED_STEPS]
    began = time.monotonic()
    for rows in batches:
        ours.update(trainer, rows)
    rate = sum(map(len, batches)) / (time.monotonic() - began)
    began = time.monotonic()
    ours.evaluate(trainer)
    evaluation, available, budget = time.monotonic() - began, len(trainer.train), seconds * (1 - RESERVE)
    epochs = max(1, math.ceil(budget / (available / rate + evaluation)))
    size = int(min(available, max(settings.batch_size, rate * (budget / epochs - evaluation))))
    rows = np.sort(np.random.default_rng(seed).permutation(available)[:size])
    return settings.model_copy(update={"epochs": epochs}), rows, rate


def train_ours(tokens: ours.Tokens, seconds: float, seed: int) -> tuple[Trainer, dict[str, Any]]:
    """Train ours within the budget; returns the trainer, and what its history says of held-out molecules."""
    settings, rows, rate = plan_training(tokens, seconds, seed)
    trainer = ours.make_trainer(tokens, ModelSettings(), settings, rows)
    began = time.monotonic()
    try:
        ended = trainer.fit(
            on_epoch=print_epoch, should_stop=lambda: time.monotonic() - began > seconds * (1 + TOLERANCE)
        )
    except Interrupted:
        ended = "out of time"
    history = trainer.progress.history
    best = history[trainer.progress.best_epoch - 1] if history else {}
    return trainer, {
        "seconds": time.monotonic() - began,
        "ended": ended,
        "planned_molecules_per_s": rate,
        "epochs": settings.epochs,
        "molecules_an_epoch": len(rows),
        "steps": trainer.progress.step,
        **{name: value for name, value in best.items() if name.startswith("valid_") or name == "active_units"},
    }


def print_epoch(row: dict[str, float]) -> None:
    """Print an epoch of ours."""
    print(
        f"ours: epoch {row['epoch']:.0f}, {row['seconds']:.0f} s, held-out {row['valid_loss_nats']:.2f} nats",
        flush=True,
    )


def train_peer(tokens: ours.Tokens, seconds: float, seed: int) -> tuple[Peer, dict[str, Any]]:
    """Run the loop of the peer's trainer until the budget is spent; the step that then runs is finished."""
    smiles = tokens.smiles["train"]
    peer = Peer(smiles, seed)
    annealer = import_moses().misc.KLAnnealer(seconds, peer.config)
    random, steps, order = np.random.default_rng(seed), 0, np.empty(0, int)
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        if not len(order):
            order = random.permutation(len(smiles))
        rows, order = order[: peer.config.n_batch], order[peer.config.n_batch :]
        kl, reconstruction = peer.update([smiles[row] for row in rows], annealer(elapsed))
        steps += 1
        if steps % 20 == 0:
            print(f"moses: step {steps}, {elapsed:.0f} s, {reconstruction:.3f} nats/character, KL {kl:.2f}", flush=True)
    summary = {"seconds": time.monotonic() - began, "steps": steps, "epochs": steps * peer.config.n_batch / len(smiles)}
    return peer, summary | peer.evaluate(tokens.smiles["valid"], ACTIVE_VARIANCE)


def compute_metrics(smiles: Sequence[str], known: set[str], reference: fcd.Statistics) -> dict[str, Any]:
    """Compute MOSES metrics of samples; None where too few are valid."""
    valid = [canonical for canonical in map(canonicalise, smiles) if canonical]
    unique, first = set(valid), valid[:10_000]
    return {
        "samples": len(smiles),
        "valid": len(valid) / len(smiles),
        "unique@10000": len(set(first)) / len(first) if first else None,
        "novelty": len(unique - known) / len(unique) if unique else None,
        "fcd_test": fcd.compute_frechet_distance(reference, fcd.compute_statistics(valid)) if len(valid) > 1 else None,
    }


def canonicalise(smiles: str) -> str:
    """Make canonical SMILES, "" where RDKit refuses it."""
    try:
        return to_canonical_smiles(parse_smiles(smiles))
    except Rejected:
        return ""


def compare(
    tokens: ours.Tokens, seconds: float, samples: int, seed: int, threads: int, max_tries: int
) -> dict[str, Any]:
    """Train and sample both sides with one seed, one after the other."""
    known = {text for split in ("train", "valid") for text in tokens.smiles[split]}
    reference = fcd.load_moses_test_statistics()
    trainer, our_result = train_ours(tokens, seconds, seed)
    options = tokens.vocabulary, samples, get_max_tokens({}), threads
    our_result |= compute_metrics(ours.sample_smiles(trainer, *options, max_tries=max_tries), known, reference)
    our_result["unfiltered_samples"] = compute_metrics(ours.sample_smiles(trainer, *options), known, reference)
    print(f"ours: {our_result}", flush=True)
    peer, peer_result = train_peer(tokens, seconds, seed)
    peer_result |= compute_metrics(peer.sample(samples, SAMPLE_BATCH), known, reference)
    print(f"moses: {peer_result}", flush=True)
    distances = peer_result["fcd_test"], our_result["fcd_test"]
    ratio = None if None in distances else distances[0] / distances[1]
    return {"seed": seed, "ours": our_result, "moses": peer_result, "ratio": ratio}


def measure(
    source: Path | None,
    folder: Path | None,
    seconds: float,
    samples: int,
    seeds: list[int],
    threads: int,
    max_tries: int = SampleSettings().max_tries,
) -> dict[str, Any]:
    """Measure all seeds on one set of molecules: tokens in `folder`, else the file `source`, else those of MOSES."""
    torch.set_num_threads(threads)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        if folder:
            tokens = ours.read_tokens(folder)
        else:
            source = source or write_moses_molecules(Path(temporary))
            began = time.monotonic()
            tokens = ours.featurize_file(source, Path(temporary), workers=threads)
    featurize_seconds = None if folder else time.monotonic() - began
    results = [compare(tokens, seconds, samples, seed, threads, max_tries) for seed in seeds]
    ratios = [result["ratio"] for result in results]
    return {
        "budget_seconds": seconds,
        "featurize_seconds": featurize_seconds,
        "molecules": {split: len(smiles) for split, smiles in tokens.smiles.items()},
        "settings": {"model": ModelSettings().model_dump(), "train": TrainSettings().model_dump()},
        "threads": threads,
        "seeds": results,
        "ratio": None if None in ratios else compute_median(ratios),
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="file with SMILES and SPLIT; default: 100 000 molecules of MOSES")
    parser.add_argument("--tokens", type=Path, help="folder that `featurize` wrote, instead of --data")
    parser.add_argument("--seconds", type=float, default=600, help="of training for each side")
    parser.add_argument("--samples", type=int, default=10_000, help="of each side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each is a training run of both sides")
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    arguments = parser.parse_args()
    if arguments.quick:  # shows that it runs; says nothing about either side
        with tempfile.TemporaryDirectory() as temporary:
            source = write_example(1000, Path(temporary))
            result = measure(source, None, 3, 50, [0], arguments.threads, max_tries=2)
    else:
        result = measure(
            arguments.data, arguments.tokens, arguments.seconds, arguments.samples, arguments.seeds, arguments.threads
        )
    write_result(arguments.json, result)
    if result["featurize_seconds"] is not None:
        print(f"featurising took {result['featurize_seconds']:.1f} s")
    if result["ratio"] is None:
        print("a side has too few valid molecules for an FCD")
    print_ratio(math.nan if result["ratio"] is None else result["ratio"])


if __name__ == "__main__":
    main()
