"""Reconstruction against sample quality: a model for each KL weight, and for each prior what it loses.

Trains on the shipped MOSES molecules. For each KL weight: exact reconstruction of held-out molecules (from the mean and
from a draw of z, decoded greedily), KL, mutual information, active units, and FCD/Test of strings from the prior of
training, from each prior fitted afterwards, and from the aggregate posterior of the training molecules, each decoded
greedily; two of them also at temperature 1. The gap of a prior is its FCD less that of the aggregate posterior, which
holds copies of training molecules; that of the held-out molecules shows what a prior could reach that copies nothing.
Beside it stands the published frontier of VAEs with an N(0, 1) prior on MOSES, read off a plot in the repository of
Polykovskiy & Vetrov 2020 ("Deterministic Decoding for Discrete Data in Variational Autoencoders"): exact reconstruction
from a draw of z, 30 000 samples, greedy decoding, 200 epochs of all 1.58 million molecules.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from example import EXAMPLE, write_example
from record import make_parser, write_result
from torch import Tensor

from molvae.chemistry.descriptors import to_canonical_smiles
from molvae.chemistry.selfies_codec import decode_selfies
from molvae.chemistry.standardise import parse_smiles
from molvae.config import ModelSettings, PriorSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import EOS, Vocabulary
from molvae.errors import Rejected
from molvae.inference.decoding import TokenStrings, decode_latents
from molvae.inference.posterior import compute_posterior, compute_random_posteriors, sample_aggregate_posterior
from molvae.inference.round_trip_filter import iter_selfies
from molvae.inference.sampling import SamplingOptions, sample_at_points
from molvae.metrics import fcd
from molvae.nn.priors import build_prior
from molvae.nn.vae import VAE
from molvae.runtime.seeds import make_generator

PUBLISHED = {0.70: 0.205, 0.80: 0.344, 0.90: 0.772, 0.95: 1.210}  # exact reconstruction: FCD/Test
FITTED = ("mixture", "vamp", "flow")
MAX_TOKENS = 64
N_RECONSTRUCTED = 2000


def main() -> None:
    parser = make_parser(str(__doc__).splitlines()[0])
    parser.add_argument("--kl-weights", default="0.03,0.1,0.3,1", help="final KL weights, commas between")
    parser.add_argument("--learned", default="mixture,vamp,flow", help="priors to train in the ELBO as well")
    parser.add_argument("--learned-at", type=float, default=0.3, help="KL weight at which they are")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    fit = PriorSettings()
    if arguments.quick:  # shows that it runs
        arguments.kl_weights, arguments.learned, arguments.epochs, arguments.samples = "1", "", 1, 200
        fit = PriorSettings(components=4, draws=1000, steps=50)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = write_example(2000, Path(folder)) if arguments.quick else EXAMPLE
        tokens = ours.featurize_file(source, Path(folder), workers=arguments.threads)
    plan = [(float(weight), "normal") for weight in arguments.kl_weights.split(",") if weight]
    plan += [(arguments.learned_at, kind) for kind in arguments.learned.split(",") if kind]
    rows = []
    sizes = {"epochs": arguments.epochs, "samples": arguments.samples}
    for weight, kind in plan:
        rows.append(measure(tokens, weight, kind, arguments.epochs, arguments.samples, arguments.threads, fit))
        write_result(arguments.json, {"published": PUBLISHED, **sizes, "rows": rows})
    best = min(min(row["fcd"].values()) for row in rows)
    print(f"best FCD/Test {best:.3f}")


def measure(
    tokens: ours.Tokens, weight: float, kind: str, epochs: int, samples: int, threads: int, fit: PriorSettings
) -> dict[str, Any]:
    """Train one model, and measure it with each of its priors.

    Args:
        tokens: molecules.
        weight: final KL weight.
        kind: of the prior in the ELBO.
        epochs: of the training.
        samples: of each prior.
        threads: of the CPU.
        fit: how priors are fitted afterwards.
    """
    settings = TrainSettings(epochs=epochs, kl_weight=weight, free_nats=0.0, dropout=0.0, patience=epochs)
    trainer = ours.make_trainer(tokens, ModelSettings(prior=kind), settings)
    began = time.monotonic()
    trainer.fit()
    row: dict[str, Any] = {"kl_weight": weight, "prior_in_elbo": kind, "seconds": time.monotonic() - began}
    last = trainer.progress.history[-1]
    row |= {name: value for name, value in last.items() if name.startswith(("valid", "mut", "act"))}
    model, vocabulary = trainer.model.eval(), tokens.vocabulary
    row["exact_reconstruction"] = measure_reconstruction(model, tokens)
    unseen = tokens.splits["valid"].concat(tokens.splits["test"])
    points = {"aggregate_posterior": sample_aggregate_posterior(model, trainer.train, samples, seed=1)}
    points["held_out_posterior"] = sample_aggregate_posterior(model, unseen, samples, seed=1)
    priors, row["prior_nats"], row["fit_seconds"] = {"as_trained": model.prior}, {}, {}
    posteriors = compute_random_posteriors(model, trainer.train, fit.draws, seed=0)
    for fitted in FITTED if kind == "normal" else ():
        began = time.monotonic()
        priors[fitted] = build_prior(fitted, fit.components, model.encoder)
        priors[fitted].fit(
            *posteriors,
            trainer.train,
            steps=fit.steps,
            batch_size=fit.batch_size,
            learning_rate=fit.learning_rate,
            seed=0,
        )
        row["fit_seconds"][fitted] = time.monotonic() - began
    for name, prior in priors.items():
        with torch.inference_mode():
            parts = [prior.log_density(part) for part in points["held_out_posterior"].split(512)]
            row["prior_nats"][name] = -torch.cat(parts).mean().item()
            draws = [prior.sample(512, make_generator(0, "prior", k)) for k in range(-(-samples // 512))]
            points[name] = torch.cat(draws)
    row["fcd"] = {}
    for name, latents in points.items():
        for temperature in (0.0, 1.0) if name in ("aggregate_posterior", "as_trained") else (0.0,):
            options = SamplingOptions(temperature=temperature, max_tokens=MAX_TOKENS, threads=threads)
            strings = sample_at_points(model, latents[:samples], options)
            row["fcd"][f"{name}, T {temperature:g}"] = compute_fcd(strings, vocabulary)
    row["gap"] = {name: row["fcd"][f"{name}, T 0"] - row["fcd"]["aggregate_posterior, T 0"] for name in priors}
    distances = "  ".join(f"{name} {value:.2f}" for name, value in row["fcd"].items())
    print(
        f"KL weight {weight:g}, {kind} in the ELBO, {row['seconds']:.0f} s: exact reconstruction "
        f"{row['exact_reconstruction']['draw']:.3f}, KL {row['valid_kl_nats']:.1f} nats; FCD/Test {distances}",
        flush=True,
    )
    return row


def measure_reconstruction(model: VAE, tokens: ours.Tokens) -> dict[str, float]:
    """Measure the fraction of held-out molecules reconstructed greedily token for token, from mean and from a draw."""
    molecules = tokens.splits["valid"].select(np.arange(min(N_RECONSTRUCTED, len(tokens.splits["valid"]))))
    mu, logvar = compute_posterior(model, molecules)
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    return {
        "mean": compute_exact_fraction(model, mu, molecules),
        "draw": compute_exact_fraction(model, mu + noise * (0.5 * logvar).exp(), molecules),
    }


def compute_exact_fraction(model: VAE, z: Tensor, molecules: TokenSet) -> float:
    """Compute the fraction of latent points that decode greedily to their molecule."""
    strings = decode_latents(model, z, torch.zeros(MAX_TOKENS, len(z)), temperature=0)
    is_same = [ids[: len(molecules[k]) + 1].tolist() == [*molecules[k], EOS] for k, ids in enumerate(strings.ids)]
    return float(np.mean(is_same))


def compute_fcd(strings: TokenStrings, vocabulary: Vocabulary) -> float:
    """Compute FCD/Test of the valid ones."""
    canonical = []
    for symbols in iter_selfies(vocabulary, strings):
        try:
            canonical.append(to_canonical_smiles(parse_smiles(decode_selfies(symbols, vocabulary.constraints))))
        except Rejected:
            continue
    return fcd.compute_frechet_distance(fcd.load_moses_test_statistics(), fcd.compute_statistics(canonical))


if __name__ == "__main__":
    main()
