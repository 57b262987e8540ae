"""Reconstruction against sample quality: a model for each KL weight, and for each prior what it loses.

Trains on the shipped 100 000 MOSES molecules. For each KL weight: exact reconstruction of held-out molecules (a draw of
z and its mean, written freely), KL, mutual information, active units, FCD/Test of samples from the prior of
training, from each prior fitted afterwards, and from the aggregate posterior itself, which no prior can beat by
more than noise. The gap of a prior is its FCD less that of the aggregate posterior. Beside it stands the published
frontier of VAEs with an N(0, 1) prior on MOSES, read off a plot in the repository of Polykovskiy & Vetrov 2020
("Deterministic Decoding for Discrete Data in Variational Autoencoders"): 30 000 samples, greedy decoding, 200 epochs of
all 1.58 million molecules.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from record import options, write
from torch import Tensor

from molvae.chemistry.describe import canonical
from molvae.chemistry.standardise import Rejected, parse
from molvae.chemistry.symbols import decode
from molvae.config import ModelSettings, PriorSettings, TrainSettings
from molvae.decoding import Strings, decode_points
from molvae.encoding import posterior, posterior_draws
from molvae.metrics import fcd
from molvae.priors import fit, make_prior
from molvae.sampling import sample_at, sample_prior
from molvae.vae import VAE
from molvae.vocabulary import EOS, Vocabulary

PUBLISHED = {0.70: 0.205, 0.80: 0.344, 0.90: 0.772, 0.95: 1.210}  # exact reconstruction: FCD/Test
FITTED = ("mixture", "vamp", "flow")
LIMIT = 64  # tokens of a sample
RECONSTRUCTED = 2000


def main() -> None:
    parser = options(str(__doc__).splitlines()[0])
    parser.add_argument("--kl-weights", default="0.03,0.1,0.3,1", help="final KL weights, commas between")
    parser.add_argument("--learned", default="mixture,vamp,flow", help="priors to train in the ELBO as well")
    parser.add_argument("--learned-at", type=float, default=0.3, help="KL weight at which they are")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.quick:
        given.kl_weights, given.learned, given.epochs, given.samples = "1", "", 1, 200
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        tokens = ours.featurized(ours.EXAMPLE, Path(folder), workers=given.threads)
    if given.quick:
        few = np.arange(2000)
        tokens.splits["train"] = tokens.splits["train"].select(few)
    plan = [(float(weight), "normal") for weight in given.kl_weights.split(",")]
    plan += [(given.learned_at, kind) for kind in given.learned.split(",") if kind]
    rows = []
    for weight, kind in plan:
        rows.append(one(tokens, weight, kind, given.epochs, given.samples, given.threads))
        write(given.json, {"published": PUBLISHED, "epochs": given.epochs, "samples": given.samples, "rows": rows})
    best = min(min(row["fcd"].values()) for row in rows)
    print(f"best FCD/Test {best:.3f}")


def one(tokens: ours.Tokens, weight: float, kind: str, epochs: int, samples: int, threads: int) -> dict[str, Any]:
    """Train one model and measure all of its priors."""
    sizes = ModelSettings(prior=kind)
    settings = TrainSettings(epochs=epochs, kl_weight=weight, free_nats=0.0, dropout=0.0, patience=epochs)
    run = ours.new_run(tokens, sizes, settings)
    began = time.monotonic()
    run.fit()
    row: dict[str, Any] = {"kl_weight": weight, "prior_in_elbo": kind, "seconds": time.monotonic() - began}
    row |= {name: value for name, value in run.progress.history[-1].items() if name.startswith(("valid", "mut", "act"))}
    model, vocabulary = run.model.eval(), tokens.vocabulary
    row["exact_reconstruction"] = reconstruction(model, tokens)
    points = posterior_draws(model, run.train, samples, seed=1)
    shared = {"seed": 0, "temperature": 1.0, "max_tokens": LIMIT, "threads": threads}
    scores = {"aggregate_posterior": score(sample_at(model, points, **shared), vocabulary)}
    scores["as_trained"] = score(sample_prior(model, 0, samples, **shared), vocabulary)
    latents, chosen = posterior_draws(model, run.train, PriorSettings().draws, seed=0), PriorSettings()
    for fitted in FITTED if kind == "normal" else ():
        began = time.monotonic()
        prior = make_prior(fitted, chosen.components, model.encoder)
        fit(
            prior, latents, run.train, steps=chosen.steps, batch_size=chosen.batch_size,
            learning_rate=chosen.learning_rate, seed=0,
        )  # fmt: skip
        row[f"{fitted}_fit_seconds"] = time.monotonic() - began
        model.prior, trained = prior.eval(), model.prior
        scores[fitted] = score(sample_prior(model, 0, samples, **shared), vocabulary)
        model.prior = trained
    row["fcd"] = scores
    row["gap"] = {name: value - scores["aggregate_posterior"] for name, value in scores.items()}
    shown = "  ".join(f"{name} {value:.2f}" for name, value in scores.items())
    print(
        f"KL weight {weight:g}, {kind} in the ELBO, {row['seconds']:.0f} s: exact reconstruction "
        f"{row['exact_reconstruction']['mean']:.3f}, KL {row['valid_kl_nats']:.1f} nats; FCD/Test {shown}",
        flush=True,
    )
    return row


def reconstruction(model: VAE, tokens: ours.Tokens) -> dict[str, float]:
    """Share of held-out molecules written greedily token for token, from the posterior's mean and from a draw."""
    some = tokens.splits["valid"].select(np.arange(min(RECONSTRUCTED, len(tokens.splits["valid"]))))
    mu, logvar = posterior(model, some)
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    return {
        "mean": exact(model, mu, some),
        "draw": exact(model, mu + noise * (0.5 * logvar).exp(), some),
    }


def exact(model: VAE, z: Tensor, molecules: Any) -> float:
    written = decode_points(model, z, torch.zeros(LIMIT, len(z)), temperature=0)
    same = [ids[: len(molecules[k]) + 1].tolist() == [*molecules[k], EOS] for k, ids in enumerate(written.ids)]
    return float(np.mean(same))


def score(strings: Strings, vocabulary: Vocabulary) -> float:
    """FCD/Test of the valid ones."""
    found = []
    for ids in strings.ids.tolist():
        try:
            found.append(canonical(parse(decode(vocabulary.text(ids), vocabulary.caps))))
        except Rejected:
            continue
    return fcd.frechet_distance(fcd.moses_test(), fcd.statistics(found))


if __name__ == "__main__":
    sys.exit(main())
