"""Search for better molecules against CMA-ES, random points and training molecules, at equal numbers of scoring calls.

`pretrained:moses-latent`, several seeds. All decode greedily, score round-trip consistent strings only, and each
molecule once, through the same history. CMA-ES (cmaes, which pip downloads when it is first needed; not with --quick)
begins at the best molecule of a first fifth of the calls, moves in widths of its posterior, and begins again at the
next best after five generations without a better molecule. The last results are of searches that begin at held-out
molecules of low penalised logP and stay near them: similarity at least 0.4. The last line is the ratio of the best
penalised logP, ours over that of random points.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from example import read_example
from record import make_parser, print_ratio, write_result
from scipy.stats import t as student

import molvae
from molvae.api import Model
from molvae.chemistry.oracles import get_objective
from molvae.latent.optimization import PRIOR_FRACTION, History

MODEL = "pretrained:moses-latent"
GENERATION, MAX_STALE = 16, 5  # of CMA-ES; its own rule gives 16 points in 64 dimensions
N_LEADS, MIN_SIMILARITY, SPREAD = 10, 0.4, 1.5
BATCH = 64  # points decoded together

Searcher = Callable[[Model, str, int, int], pd.DataFrame]  # (model, objective, calls, seed) -> history


def run_ours(model: Model, objective: str, calls: int, seed: int) -> pd.DataFrame:
    """Search as the package does."""
    return model.optimize(objective, calls, seed=seed)


def score_random_points(model: Model, objective: str, calls: int, seed: int) -> pd.DataFrame:
    """Score molecules at points of the prior, until the calls are spent."""
    history, random = History(get_objective(objective), calls), np.random.default_rng(seed)
    while not history.is_full:
        score_points(history, model, random.standard_normal((BATCH, model.latent_dim)))
    return history.to_table()


def score_training_molecules(model: Model, objective: str, calls: int, seed: int) -> pd.DataFrame:
    """Score as many training molecules as there are calls."""
    history = History(get_objective(objective), calls)
    for smiles in np.random.default_rng(seed).permutation(np.array(read_example(), object))[:calls]:
        history.score(smiles, "training")
    return history.to_table()


def run_cma_es(model: Model, objective: str, calls: int, seed: int) -> pd.DataFrame:
    """Search by CMA-ES, see above."""
    from cmaes import CMA

    history, random = History(get_objective(objective), calls), np.random.default_rng(seed)
    while history.called < PRIOR_FRACTION * calls:
        score_points(history, model, random.standard_normal((BATCH, model.latent_dim)))
    starts: set[str] = set()
    while not history.is_full:
        start = next(smiles for smiles in history.find_best(len(history.scores)) if smiles not in starts)
        starts.add(start)
        mu, logvar = (part[0].astype(float) for part in model.encode([start]))
        cma = CMA(np.zeros(model.latent_dim), 1.0, population_size=GENERATION, seed=seed + 1000 * len(starts))
        stale = 0
        while not history.is_full and stale < MAX_STALE:
            best = history.find_best(1)
            steps = [cma.ask() for _ in range(GENERATION)]
            decoded = score_points(history, model, mu + np.exp(0.5 * logvar) * np.array(steps))
            worst = min(history.scores.values()) - 1  # for what is not round-trip consistent
            losses = [-history.scores.get(smiles, worst) for smiles in decoded]
            cma.tell(list(zip(steps, losses, strict=True)))
            stale = 0 if history.find_best(1) != best else stale + 1
    return history.to_table()


def score_points(history: History, model: Model, z: np.ndarray) -> list[str]:
    """Score the molecules at latent points; returns their SMILES, "" where a string is not round-trip consistent."""
    decoded = model.decode_round_trip(z)
    for smiles in decoded:
        history.score(smiles, "")
    return decoded


SEARCHERS: dict[str, Searcher] = {
    "molvae": run_ours,
    "cma_es": run_cma_es,
    "random_points": score_random_points,
    "training_set_reference": score_training_molecules,
}


def compute_interval(values: Sequence[float]) -> dict[str, Any]:
    """Compute the mean and its 95 % interval (Student's t)."""
    mean, n = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return {"mean": mean, "interval": [mean - half, mean + half], "each": [float(value) for value in values]}


def compare_searches(
    model: Model, objective: str, calls: int, seeds: int, searchers: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Measure best and mean of the ten best of each searcher, and how much less each has than ours, seed by seed."""
    scores: dict[str, dict[str, list[float]]] = {}
    for name in searchers:
        histories = [SEARCHERS[name](model, objective, calls, seed) for seed in range(seeds)]
        tens = [history["score"].nlargest(10) for history in histories]
        scores[name] = {"best": [ten.iloc[0] for ten in tens], "ten_best": [ten.mean() for ten in tens]}
        print(f"{objective:15} {name:22} best {np.mean(scores[name]['best']):.4f}", flush=True)
    results: dict[str, dict[str, Any]] = {}
    for name, kinds in scores.items():
        results[name] = {kind: compute_interval(values) for kind, values in kinds.items()}
        if name != "molvae":
            for kind, values in kinds.items():
                difference = np.subtract(scores["molvae"][kind], values)
                results[name][f"ours_less_{kind}"] = compute_interval(difference)
    return results


def compare_from_leads(model: Model, calls: int, n_leads: int) -> dict[str, Any]:
    """Measure the gain in penalised logP over held-out molecules of low penalised logP: ours, and draws around them."""
    objective = get_objective("penalised_logp")
    candidates = np.random.default_rng(0).permutation(np.array(read_example(split="test"), object))[: 50 * n_leads]
    leads = sorted(candidates[model.tokenize(list(candidates))[0]], key=objective)[:n_leads]
    gains: dict[str, list[float]] = {"molvae": [], "draws_around": []}
    for number, lead in enumerate(leads):
        table = model.optimize("penalised_logp", calls, similar_to=lead, min_similarity=MIN_SIMILARITY, seed=number)
        history = History(objective, calls, lead, MIN_SIMILARITY)
        mu, logvar = model.encode([lead])
        random = np.random.default_rng(number)
        history.score(lead, "")
        for _ in range(calls):
            if history.is_full:
                break
            noise = random.standard_normal((BATCH, model.latent_dim))
            score_points(history, model, mu + SPREAD * np.exp(0.5 * logvar) * noise)
        for name, scored in (("molvae", table), ("draws_around", history.to_table())):
            gains[name].append(scored["score"].max() - objective(lead))
    print("gain from leads", {name: round(float(np.mean(values)), 2) for name, values in gains.items()}, flush=True)
    difference = compute_interval(np.subtract(gains["molvae"], gains["draws_around"]))
    return {
        **{name: compute_interval(values) for name, values in gains.items()},
        "ours_less_draws_around": difference,
    }


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    logging.disable(logging.WARNING)
    calls, seeds, n_leads = (100, 2, 2) if arguments.quick else (1000, 5, N_LEADS)
    searchers = [name for name in SEARCHERS if not (arguments.quick and name == "cma_es")]
    model = molvae.load(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        if "cma_es" in searchers:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-t", folder, "cmaes==0.13.1"]
            subprocess.run(pip, check=True)
            sys.path.append(folder)
        results: dict[str, Any] = {
            objective: compare_searches(model, objective, calls, seeds, searchers)
            for objective in ("penalised_logp", "qed")
        }
        results["penalised_logp_from_leads"] = compare_from_leads(model, calls // 5, n_leads)
    sizes = {"model": MODEL, "calls": calls, "calls_from_a_lead": calls // 5, "seeds": seeds}
    write_result(arguments.json, {**sizes, **results})
    table = results["penalised_logp"]
    print_ratio(table["molvae"]["best"]["mean"] / table["random_points"]["best"]["mean"])


if __name__ == "__main__":
    main()
