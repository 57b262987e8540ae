"""Reconstruction against sample quality: a model for each KL weight, and for each prior what it loses.

Trains on the shipped MOSES molecules. For each KL weight: exact reconstruction of held-out molecules (from the mean and
from a draw of z, written greedily), KL, mutual information, active units, and FCD/Test of strings from the prior of
training, from each prior fitted afterwards, and from the aggregate posterior of the training molecules, each written
greedily; some also at temperature 1. The gap of a prior is its FCD less that of the aggregate posterior, which holds
copies of training molecules; that of the held-out molecules shows what a prior could reach that copies nothing. Beside
it stands the published frontier of VAEs with an N(0, 1) prior on MOSES, read off a plot in the repository of
Polykovskiy & Vetrov 2020 ("Deterministic Decoding for Discrete Data in Variational Autoencoders"): exact reconstruction
from a draw of z, 30 000 samples, greedy decoding, 200 epochs of all 1.58 million molecules.
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

from molvae.chemistry.descriptors import canonical
from molvae.chemistry.selfies_codec import decode
from molvae.chemistry.standardise import Rejected, parse
from molvae.chemistry.tokenization import selfies_of
from molvae.config import ModelSettings, PriorSettings, TrainSettings
from molvae.data.vocabulary import EOS, Vocabulary
from molvae.inference.decoding import Strings, decode_points
from molvae.inference.posterior import posterior, posterior_draws, some_posteriors
from molvae.inference.sampling import sample_at
from molvae.metrics import fcd
from molvae.nn.priors import fit, make_prior
from molvae.nn.vae import VAE
from molvae.runtime.seeds import generator

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
    plan = [(float(weight), "normal") for weight in given.kl_weights.split(",") if weight]
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
    unseen = tokens.splits["valid"].joined(tokens.splits["test"])
    points = {"aggregate_posterior": posterior_draws(model, run.train, samples, seed=1)}
    points["held_out_posterior"] = posterior_draws(model, unseen, samples, seed=1)
    priors, row["prior_nats"], row["fit_seconds"] = {"as_trained": model.prior}, {}, {}
    chosen = PriorSettings()
    posteriors = some_posteriors(model, run.train, chosen.draws, seed=0)
    for fitted in FITTED if kind == "normal" else ():
        began = time.monotonic()
        priors[fitted] = make_prior(fitted, chosen.components, model.encoder)
        fit(
            priors[fitted], *posteriors, run.train, steps=chosen.steps, batch_size=chosen.batch_size,
            learning_rate=chosen.learning_rate, seed=0,
        )  # fmt: skip
        row["fit_seconds"][fitted] = time.monotonic() - began
    for name, prior in priors.items():
        with torch.inference_mode():
            parts = [prior.log_density(part) for part in points["held_out_posterior"].split(512)]
            row["prior_nats"][name] = -torch.cat(parts).mean().item()
            points[name] = torch.cat([prior.draw(512, generator(0, "prior", k)) for k in range(-(-samples // 512))])
    row["fcd"] = {}
    for name, some in points.items():
        for temperature in (0.0, 1.0) if name in ("aggregate_posterior", "as_trained") else (0.0,):
            strings = sample_at(
                model, some[:samples], seed=0, temperature=temperature, max_tokens=LIMIT, threads=threads
            )
            row["fcd"][f"{name}, T {temperature:g}"] = score(strings, vocabulary)
    row["gap"] = {name: row["fcd"][f"{name}, T 0"] - row["fcd"]["aggregate_posterior, T 0"] for name in priors}
    shown = "  ".join(f"{name} {value:.2f}" for name, value in row["fcd"].items())
    print(
        f"KL weight {weight:g}, {kind} in the ELBO, {row['seconds']:.0f} s: exact reconstruction "
        f"{row['exact_reconstruction']['draw']:.3f}, KL {row['valid_kl_nats']:.1f} nats; FCD/Test {shown}",
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
            found.append(canonical(parse(decode(selfies_of(vocabulary, ids), vocabulary.caps))))
        except Rejected:
            continue
    return fcd.frechet_distance(fcd.moses_test(), fcd.statistics(found))


if __name__ == "__main__":
    sys.exit(main())
