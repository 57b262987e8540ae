"""Search for better molecules against CMA-ES, random points and training molecules, at equal numbers of scoring calls.

`pretrained:moses-latent`, several seeds. All write greedily, score stable strings only, and each molecule once, through
the same ledger. CMA-ES (cmaes, brought by pip when it is first asked for) begins at the best molecule of a first fifth
of the calls, moves in widths of its posterior, and begins again at the next best when five generations found nothing
better. The last figures are of searches that begin at held-out molecules of low penalised logP and stay near them:
similarity at least 0.4.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import options, write
from scipy.stats import t as student

import molvae
from molvae.api import Model
from molvae.latent.optimization import FIRST, Ledger, named

MODEL, EXAMPLE = "pretrained:moses-latent", Path(__file__).parent.parent / "data/moses-small.csv.gz"
GENERATION, STALE = 16, 5  # of CMA-ES; its own rule gives 16 points in 64 dimensions
LEADS, LIKE, SPREAD = 10, 0.4, 1.5

Searcher = Callable[[Model, str, int, int], pd.DataFrame]  # (model, score, calls, seed) -> ledger


def ours(model: Model, score: str, calls: int, seed: int) -> pd.DataFrame:
    return model.optimize(score, calls, seed=seed)


def random_points(model: Model, score: str, calls: int, seed: int) -> pd.DataFrame:
    """Points of the prior, until the calls are spent."""
    ledger, random = Ledger(named(score), calls), np.random.default_rng(seed)
    while not ledger.full:
        enter(ledger, model, random.standard_normal((64, model.latent_dim)))
    return ledger.table()


def training(model: Model, score: str, calls: int, seed: int) -> pd.DataFrame:
    """So many training molecules."""
    ledger = Ledger(named(score), calls)
    for smiles in np.random.default_rng(seed).permutation(example("train"))[:calls]:
        ledger.enter(smiles, "training")
    return ledger.table()


def cma_es(model: Model, score: str, calls: int, seed: int) -> pd.DataFrame:
    from cmaes import CMA

    ledger, random = Ledger(named(score), calls), np.random.default_rng(seed)
    while ledger.called < FIRST * calls:
        enter(ledger, model, random.standard_normal((64, model.latent_dim)))
    begun: set[str] = set()
    while not ledger.full:
        start = next(one for one in ledger.best(len(ledger.scores)) if one not in begun)
        begun.add(start)
        mu, logvar = (part[0].astype(float) for part in model.encode([start]))
        cma = CMA(np.zeros(model.latent_dim), 1.0, population_size=GENERATION, seed=seed + 1000 * len(begun))
        stale = 0
        while not ledger.full and stale < STALE:
            top = ledger.best(1)
            steps = [cma.ask() for _ in range(GENERATION)]
            found = enter(ledger, model, mu + np.exp(0.5 * logvar) * np.array(steps))
            worst = min(ledger.scores.values()) - 1  # for what is not stable
            cma.tell([(step, -ledger.scores.get(one, worst)) for step, one in zip(steps, found, strict=True)])
            stale = 0 if ledger.best(1) != top else stale + 1
    return ledger.table()


def enter(ledger: Ledger, model: Model, z: np.ndarray) -> list[str]:
    found = model.stable_at(z)
    for smiles in found:
        ledger.enter(smiles, "")
    return found


SEARCHERS: dict[str, Searcher] = {
    "molvae": ours, "cma_es": cma_es, "random_points": random_points, "training_molecules": training
}  # fmt: skip


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its 95 % interval (Student's t)."""
    mean, n = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return {"mean": mean, "interval": [mean - half, mean + half], "each": [float(one) for one in values]}


def free_search(model: Model, score: str, calls: int, seeds: int, searchers: Sequence[str]) -> dict[str, Any]:
    """Best and mean of the ten best of each searcher, and how much less each has than ours, seed by seed."""
    figures: dict[str, dict[str, list[float]]] = {}
    for name in searchers:
        ledgers = [SEARCHERS[name](model, score, calls, seed) for seed in range(seeds)]
        tens = [ledger["score"].nlargest(10) for ledger in ledgers]
        figures[name] = {"best": [ten.iloc[0] for ten in tens], "ten_best": [ten.mean() for ten in tens]}
        print(f"{score:15} {name:19} best {np.mean(figures[name]['best']):.4f}", flush=True)
    own = figures["molvae"]
    return {
        name: {
            **{kind: interval(values) for kind, values in found.items()},
            **({f"ours_less_{kind}": interval(np.subtract(own[kind], found[kind])) for kind in found}
               if name != "molvae" else {}),
        }
        for name, found in figures.items()
    }  # fmt: skip


def from_leads(model: Model, calls: int, leads: int) -> dict[str, Any]:
    """Gain in penalised logP over held-out molecules that have little of it, ours and draws around the same lead."""
    score = named("penalised_logp")
    some = np.random.default_rng(0).permutation(example("test"))[: 50 * leads]
    lowest = sorted(some[model.tokens(list(some))[0]], key=score)[:leads]
    gains: dict[str, list[float]] = {"molvae": [], "draws_around": []}
    for number, lead in enumerate(lowest):
        own = model.optimize("penalised_logp", calls, like=lead, similarity=LIKE, seed=number)
        ledger = Ledger(score, calls, lead, LIKE)
        mu, logvar = model.encode([lead])
        random = np.random.default_rng(number)
        ledger.enter(lead, "")
        for _ in range(calls):
            if ledger.full:
                break
            enter(ledger, model, mu + SPREAD * np.exp(0.5 * logvar) * random.standard_normal((64, model.latent_dim)))
        for name, table in (("molvae", own), ("draws_around", ledger.table())):
            gains[name].append(table["score"].max() - score(lead))
    print("gain from leads", {name: round(float(np.mean(values)), 2) for name, values in gains.items()}, flush=True)
    less = interval(np.subtract(gains["molvae"], gains["draws_around"]))
    return {**{name: interval(values) for name, values in gains.items()}, "ours_less_draws_around": less}


def example(split: str) -> np.ndarray:
    """Shipped molecules of a split."""
    table = pd.read_csv(EXAMPLE)
    return table.loc[table["SPLIT"] == split, "SMILES"].to_numpy()


def main() -> None:
    arguments = options(__doc__).parse_args()
    logging.disable(logging.WARNING)
    calls, seeds, leads = (100, 2, 2) if arguments.quick else (1000, 5, LEADS)
    searchers = ["molvae", "random_points", "training_molecules"] if arguments.quick else list(SEARCHERS)
    model = molvae.load(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        if "cma_es" in searchers:
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-t", folder, "cmaes==0.13.1"],
                           check=True)  # fmt: skip
            sys.path.append(folder)
        found: dict[str, Any] = {
            score: free_search(model, score, calls, seeds, searchers) for score in ("penalised_logp", "qed")
        }
        found["penalised_logp_from_leads"] = from_leads(model, calls // 5, leads)
    write(arguments.json, {"model": MODEL, "calls": calls, "calls_from_a_lead": calls // 5, "seeds": seeds, **found})
    table = found["penalised_logp"]
    print("ratio", table["molvae"]["best"]["mean"] / table["random_points"]["best"]["mean"])


if __name__ == "__main__":
    main()
