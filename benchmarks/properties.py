"""The same training with and without a head for properties: does the latent space get organised by them?

Part of the shipped set, settings that make use of z; each side sees the same batches and noise. Of the test molecules:
loss, exact reconstruction, R² of each property by ridge regression on latent means (out of fold). Of samples with a
target logP, drawn from the prior under that condition: the logP that they have. The side without a head gets one
afterwards, by least squares on latent points of training molecules: what there is to have without joint training. The
last line is the ratio of how far the mean logP is off the target, without over with a head of weight 1.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from example import write_example
from record import make_parser, print_ratio, write_result

from molvae.chemistry.descriptors import compute_descriptors
from molvae.chemistry.selfies_codec import decode_selfies
from molvae.chemistry.standardise import parse_smiles
from molvae.config import DataSettings, FeaturizeSettings, ModelSettings, TrainSettings
from molvae.errors import Rejected
from molvae.inference.posterior import compute_posterior
from molvae.inference.round_trip_filter import iter_selfies, make_round_trip_filter
from molvae.inference.sampling import SamplingOptions, sample_prior
from molvae.latent.property_regression import compute_errors, predict_out_of_fold
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import VAE, init_vae
from molvae.runtime.seeds import make_generator
from molvae.stages.featurize import featurize, featurize_shard
from molvae.stages.fetch import fetch
from molvae.training.evaluation import evaluate_held_out
from molvae.training.trainer import Trainer

PROPERTIES = ["logp", "qed", "tpsa"]
TARGETS = (0.5, 2.0, 3.5)  # logP; the training molecules have 2.6 on average, with a standard deviation of 0.9
WEIGHTS = (1.0, 3.0)
CPU = torch.device("cpu")


def featurize_example(rows: int, folder: Path, workers: int) -> ours.Tokens:
    """Featurise the first molecules of the shipped set with properties."""
    settings = FeaturizeSettings(properties=PROPERTIES)
    fetch(DataSettings(source=str(write_example(rows, folder))), folder / "rows.parquet")
    featurize_shard(folder / "rows.parquet", settings, folder / "shard.parquet", workers=workers)
    featurize([folder / "shard.parquet"], settings, folder / "tokens")
    return ours.read_tokens(folder / "tokens")


def train_model(tokens: ours.Tokens, settings: TrainSettings, with_head: bool) -> tuple[VAE, float]:
    """Train a model; also returns the seconds of its training."""
    model = init_vae(len(tokens.vocabulary), ModelSettings(), settings.seed)
    if with_head:
        model.head = PropertyHead(PROPERTIES, model.latent_dim)
        model.head.fit_scaler(tokens.splits["train"].properties)
    began = time.monotonic()
    Trainer(model, tokens.splits["train"], tokens.splits["valid"], settings, CPU).fit()
    return model.eval(), time.monotonic() - began


@torch.no_grad()
def fit_head(model: VAE, tokens: ours.Tokens) -> PropertyHead:
    """Fit a head by least squares on draws of the posteriors of training molecules."""
    train = tokens.splits["train"]
    mu, logvar = compute_posterior(model, train)
    z = mu + torch.randn(mu.shape, generator=make_generator(0, "fitted head")) * (0.5 * logvar).exp()
    head = PropertyHead(PROPERTIES, model.latent_dim)
    head.fit_scaler(train.properties)
    features = torch.cat([z, torch.ones(len(z), 1)], 1).double()
    targets = (torch.from_numpy(train.properties).double() - head.mean) / head.sd
    solution = torch.linalg.lstsq(features, targets).solution
    head.linear.weight.copy_(solution[:-1].T)
    head.linear.bias.copy_(solution[-1])
    head.log_noise.copy_((targets - features @ solution).std(0).log())
    return head


def evaluate_test_molecules(model: VAE, tokens: ours.Tokens, settings: TrainSettings) -> dict[str, Any]:
    """Compute the metrics of the test molecules."""
    test = tokens.splits["test"]
    metrics = evaluate_held_out(model, test, settings, CPU).metrics
    mu = compute_posterior(model, test)[0].numpy()
    ridge = {}
    for k, name in enumerate(PROPERTIES):
        values = test.properties[:, k].astype(float)
        ridge[name] = compute_errors(values, predict_out_of_fold("ridge", mu, values))["r2"]
    return {
        "test_nats": metrics["valid_loss_nats"],
        "test_reconstruction_nats": metrics["valid_reconstruction_nats"],
        "test_kl_nats": metrics["valid_kl_nats"],
        "exact_reconstruction": metrics["valid_exact_reconstruction"],
        "r2_of_ridge_on_means": ridge,
        "r2_of_head": {name: metrics[f"valid_r2_{name}"] for name in PROPERTIES if f"valid_r2_{name}" in metrics},
    }


def describe_samples(
    model: VAE, tokens: ours.Tokens, n: int, max_tries: int, target_properties: dict[str, float]
) -> dict[str, Any]:
    """Compute mean and standard deviation of the properties of samples, and their round-trip rate."""
    options = SamplingOptions(max_tokens=128, max_tries=max_tries, target_properties=target_properties)
    strings = sample_prior(model, 0, n, options, make_round_trip_filter(tokens.vocabulary))
    rows = []
    for symbols in iter_selfies(tokens.vocabulary, strings):
        smiles = decode_selfies(symbols, tokens.vocabulary.constraints)
        try:
            rows.append(compute_descriptors(parse_smiles(smiles)) | {"smiles": smiles})
        except Rejected:
            continue
    values = np.array([[row[name] for name in PROPERTIES] for row in rows])
    return {
        "target_properties": target_properties,
        "n": len(rows),
        "round_trip_rate": float(np.sum(strings.accepted) / np.sum(strings.tries)),
        "unique": len({row["smiles"] for row in rows}) / len(rows),
        "mean": dict(zip(PROPERTIES, values.mean(0).tolist(), strict=True)),
        "sd": dict(zip(PROPERTIES, values.std(0).tolist(), strict=True)),
    }


def measure(
    rows: int, epochs: int, n: int, max_tries: int, threads: int, weights: Sequence[float], targets: Sequence[float]
) -> dict[str, Any]:
    """Measure all sides.

    Args:
        rows: of the shipped set.
        epochs: of each training.
        n: samples of each condition.
        max_tries: strings decoded at most for a sample.
        threads: of the CPU.
        weights: of the heads in training.
        targets: of logP.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        tokens = featurize_example(rows, Path(temporary), threads)
    settings = TrainSettings(epochs=epochs, kl_weight=0.2, free_nats=0.0, patience=epochs)
    sides = {}
    for weight in (None, *weights):
        chosen = settings.model_copy(update={"property_weight": weight or 1.0})
        model, seconds = train_model(tokens, chosen, weight is not None)
        side = {"seconds": seconds, **evaluate_test_molecules(model, tokens, chosen)}
        model.head = model.head or fit_head(model, tokens)
        conditions = ({}, *({"logp": target} for target in targets))
        side["samples"] = [describe_samples(model, tokens, n, max_tries, condition) for condition in conditions]
        sides["without" if weight is None else f"weight {weight:g}"] = side
        print(side, flush=True)
    values = tokens.splits["train"].properties
    return {
        "molecules": {split: len(part) for split, part in tokens.splits.items()},
        "properties_of_training_molecules": {
            name: {"mean": float(values[:, k].mean()), "sd": float(values[:, k].std())}
            for k, name in enumerate(PROPERTIES)
        },
        "settings": {"model": ModelSettings().model_dump(), "train": settings.model_dump(exclude={"property_weight"})},
        "threads": threads,
        "sides": sides,
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument(
        "--max-tries", type=int, default=32, help="strings decoded at most until one is round-trip consistent"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    weights, targets = WEIGHTS, TARGETS
    if arguments.quick:  # shows that it runs
        arguments.rows, arguments.epochs, arguments.samples, arguments.max_tries = 1000, 1, 50, 1
        weights, targets = WEIGHTS[:1], TARGETS[:1]
    sizes = arguments.rows, arguments.epochs, arguments.samples, arguments.max_tries
    result = measure(*sizes, arguments.threads, weights, targets)
    write_result(arguments.json, result)
    errors = {}
    for name, side in result["sides"].items():
        conditioned = side["samples"][1:]
        errors[name] = np.mean(
            [abs(samples["mean"]["logp"] - samples["target_properties"]["logp"]) for samples in conditioned]
        )
        r2 = ", ".join(f"{key} {value:.2f}" for key, value in side["r2_of_ridge_on_means"].items())
        print(
            f"{name}: {side['test_nats']:.2f} nats, {100 * side['exact_reconstruction']:.1f} % exact, R² {r2}, "
            f"mean logP {errors[name]:.2f} off the target"
        )
    print_ratio(errors["without"] / errors[f"weight {WEIGHTS[0]:g}"])


if __name__ == "__main__":
    main()
