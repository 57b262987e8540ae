"""Molecules against the MOSES VAE: both train for the same seconds on the same molecules, then both are sampled.

Each side has its own defaults; ours writes unstable strings again, as theirs leaves invalid ones out, and is judged
without that too (`first_strings`). The MOSES VAE raises its KL weight over 100 epochs, which it never sees here: its
own annealer is given the budget's seconds in place of epochs, so that the weight goes from 0 to 0.05 over the budget.
Ours learns in a run of fixed length: some steps and a look at the held-out molecules are timed first, and the run is
planned to end with the budget, the look after each epoch included. Planning and featurising are not in the budget.
Without --data, the molecules are the 100 000 of the MOSES training set with the lowest hash.
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
from peer import Peer, moses, wheel
from record import median, options, write

from molvae.chemistry.descriptors import canonical
from molvae.chemistry.standardise import Rejected, parse
from molvae.config import ModelSettings, SampleSettings, TrainSettings
from molvae.errors import Interrupted
from molvae.inference.posterior_diagnostics import ACTIVE_VARIANCE
from molvae.metrics import fcd

MOLECULES = 100_000
TIMED_STEPS = 30
RESERVE = 0.02  # of the budget, not planned for
TOLERANCE = 0.03  # of the budget, after which ours is stopped
SAMPLE_BATCH = 512


def moses_molecules(folder: Path) -> Path:
    """The training molecules of MOSES with the lowest hash, as `data/cut.py` cuts the shipped set."""
    sys.path.append(str(ours.EXAMPLE.parent))
    from cut import cut, smiles

    path = folder / "moses.csv"
    with zipfile.ZipFile(wheel()) as archive:
        chosen = cut(smiles(archive, "train"), MOLECULES)
    path.write_text("\n".join(["SMILES,SPLIT", *(f"{one},train" for one in chosen)]) + "\n")
    return path


def plan(tokens: ours.Tokens, seconds: float, seed: int) -> tuple[TrainSettings, np.ndarray, float]:
    """Settings and molecules of a run that takes so many seconds, and the molecules/s that it reckons with.

    Epochs are whole; where the budget has no room for all of the last one, each epoch leaves out the same molecules.
    """
    settings = TrainSettings(seed=seed)
    run = ours.new_run(tokens, ModelSettings(), settings)
    batches = run.train.epoch(settings.batch_size, seed, 0)[:TIMED_STEPS]
    began = time.monotonic()
    for rows in batches:
        ours.step(run, rows)
    rate = sum(map(len, batches)) / (time.monotonic() - began)
    began = time.monotonic()
    ours.held_out(run)
    held_out, everything, budget = time.monotonic() - began, len(run.train), seconds * (1 - RESERVE)
    epochs = max(1, math.ceil(budget / (everything / rate + held_out)))
    size = int(min(everything, max(settings.batch_size, rate * (budget / epochs - held_out))))
    rows = np.sort(np.random.default_rng(seed).permutation(everything)[:size])
    return settings.model_copy(update={"epochs": epochs}), rows, rate


def train_ours(tokens: ours.Tokens, seconds: float, seed: int) -> tuple[ours.Run, dict[str, Any]]:
    """A run of the product within the budget, and what its history says of held-out molecules."""
    settings, rows, rate = plan(tokens, seconds, seed)
    run = ours.new_run(tokens, ModelSettings(), settings, rows)
    began = time.monotonic()
    try:
        ended = run.fit(on_epoch=show, interrupted=lambda: time.monotonic() - began > seconds * (1 + TOLERANCE))
    except Interrupted:
        ended = "out of time"
    history = run.progress.history
    best = history[run.progress.best_epoch - 1] if history else {}
    return run, {
        "seconds": time.monotonic() - began,
        "ended": ended,
        "planned_molecules_per_s": rate,
        "epochs": settings.epochs,
        "molecules_an_epoch": len(rows),
        "steps": run.progress.step,
        **{name: value for name, value in best.items() if name.startswith("valid_") or name == "active_units"},
    }


def show(row: dict[str, float]) -> None:
    print(
        f"ours: epoch {row['epoch']:.0f}, {row['seconds']:.0f} s, held-out {row['valid_loss_nats']:.2f} nats",
        flush=True,
    )


def train_peer(tokens: ours.Tokens, seconds: float, seed: int) -> tuple[Peer, dict[str, Any]]:
    """Its trainer's loop until the budget is spent; the step that then runs is finished."""
    smiles = tokens.smiles["train"]
    peer = Peer(smiles, seed)
    annealer = moses().misc.KLAnnealer(seconds, peer.config)
    random, steps, order = np.random.default_rng(seed), 0, np.empty(0, int)
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        if not len(order):
            order = random.permutation(len(smiles))
        some, order = order[: peer.config.n_batch], order[peer.config.n_batch :]
        kl, reconstruction = peer.step([smiles[k] for k in some], annealer(elapsed))
        steps += 1
        if steps % 20 == 0:
            print(f"moses: step {steps}, {elapsed:.0f} s, {reconstruction:.3f} nats/character, KL {kl:.2f}", flush=True)
    found = {"seconds": time.monotonic() - began, "steps": steps, "epochs": steps * peer.config.n_batch / len(smiles)}
    return peer, found | peer.evaluate(tokens.smiles["valid"], ACTIVE_VARIANCE)


def judge(smiles: Sequence[str], known: set[str], reference: fcd.Statistics) -> dict[str, Any]:
    """MOSES figures of samples; None where too few are valid."""
    valid = [form for form in map(canonical_form, smiles) if form]
    unique, first = set(valid), valid[:10_000]
    return {
        "samples": len(smiles),
        "valid": len(valid) / len(smiles),
        "unique@10000": len(set(first)) / len(first) if first else None,
        "novelty": len(unique - known) / len(unique) if unique else None,
        "fcd_test": fcd.frechet_distance(reference, fcd.statistics(valid)) if len(valid) > 1 else None,
    }


def canonical_form(smiles: str) -> str:
    """Canonical SMILES, "" where RDKit refuses it."""
    try:
        return canonical(parse(smiles))
    except Rejected:
        return ""


def compare(tokens: ours.Tokens, seconds: float, samples: int, seed: int, threads: int) -> dict[str, Any]:
    """Both sides with one seed, one after the other."""
    known = {one for split in ("train", "valid") for one in tokens.smiles[split]}
    reference = fcd.moses_test()
    run, own = train_ours(tokens, seconds, seed)
    drawn = SampleSettings()
    rules = tokens.vocabulary, samples, drawn.max_tokens, threads
    own |= judge(ours.smiles_strings(run, *rules, attempts=drawn.attempts), known, reference)
    own["first_strings"] = judge(ours.smiles_strings(run, *rules), known, reference)
    print(f"ours: {own}", flush=True)
    peer, theirs = train_peer(tokens, seconds, seed)
    theirs |= judge(peer.sample(samples, SAMPLE_BATCH), known, reference)
    print(f"moses: {theirs}", flush=True)
    distances = theirs["fcd_test"], own["fcd_test"]
    ratio = None if None in distances else distances[0] / distances[1]
    return {"seed": seed, "ours": own, "moses": theirs, "ratio": ratio}


def measure(
    source: Path | None, folder: Path | None, seconds: float, samples: int, seeds: list[int], threads: int
) -> dict[str, Any]:
    """All seeds on one set of molecules: tokens in `folder`, else the file `source`, else those of MOSES."""
    torch.set_num_threads(threads)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        if folder:
            tokens = ours.read(folder)
        else:
            source = source or moses_molecules(Path(temporary))
            began = time.monotonic()
            tokens = ours.featurized(source, Path(temporary), workers=threads)
    featurized = None if folder else time.monotonic() - began
    found = [compare(tokens, seconds, samples, seed, threads) for seed in seeds]
    ratios = [one["ratio"] for one in found]
    return {
        "budget_seconds": seconds,
        "featurize_seconds": featurized,
        "molecules": {split: len(smiles) for split, smiles in tokens.smiles.items()},
        "settings": {"model": ModelSettings().model_dump(), "train": TrainSettings().model_dump()},
        "threads": threads,
        "seeds": found,
        "ratio": None if None in ratios else median(ratios),
    }


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="file with SMILES and SPLIT; default: 100 000 molecules of MOSES")
    parser.add_argument("--tokens", type=Path, help="folder that `featurize` wrote, instead of --data")
    parser.add_argument("--seconds", type=float, default=600, help="of training for each side")
    parser.add_argument("--samples", type=int, default=10_000, help="of each side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each is a training run of both sides")
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    arguments = parser.parse_args()
    if arguments.quick:  # shows that it runs; says nothing about either side
        with tempfile.TemporaryDirectory() as temporary:
            source = ours.example(2000, Path(temporary))
            result = measure(source, None, 10, 200, [0], arguments.threads)
    else:
        result = measure(
            arguments.data, arguments.tokens, arguments.seconds, arguments.samples, arguments.seeds, arguments.threads
        )
    write(arguments.json, result)
    if result["featurize_seconds"] is not None:
        print(f"featurising took {result['featurize_seconds']:.1f} s")
    if result["ratio"] is None:
        print("a side has too few valid molecules for an FCD")
    print(f"ratio {math.nan if result['ratio'] is None else result['ratio']:.2f}")


if __name__ == "__main__":
    main()
