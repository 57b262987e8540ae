"""The same training with and without a head for properties: does the latent space get organised by them?

Part of the shipped set, settings that make use of z; each side sees the same batches and noise. Of the test molecules:
loss, exact reconstruction, R² of each property by ridge regression on latent means (out of fold). Of samples with
wanted logP, drawn from the prior under that condition: the logP that they have. The side without a head gets one
afterwards, by least squares on latent points of training molecules: what there is to have without joint training. The
last line is the ratio of how far the mean logP is off what was wanted, without over with a head of weight 1.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
from record import options, write

from molvae.api import Model
from molvae.chemistry.descriptors import describe
from molvae.chemistry.standardise import Rejected, parse
from molvae.config import DataSettings, FeaturizeSettings, ModelSettings, TrainSettings
from molvae.inference.posterior import posterior
from molvae.inference.sampling import sample_prior
from molvae.latent.property_regression import compared
from molvae.model_io.loading import stable
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import VAE, untrained
from molvae.runtime.seeds import generator
from molvae.stages.featurize import featurize, featurize_block
from molvae.stages.fetch import fetch
from molvae.training.trainer import Run, evaluate

PROPERTIES = ["logp", "qed", "tpsa"]
WANTED = (0.5, 2.0, 3.5)  # logP; the training molecules have 2.6 on average, with a standard deviation of 0.9
WEIGHTS = (1.0, 3.0)
CPU = torch.device("cpu")


def tokens_of(rows: int, folder: Path, workers: int) -> ours.Tokens:
    """The first so many molecules of the shipped set, featurised with properties."""
    settings = FeaturizeSettings(properties=PROPERTIES)
    fetch(DataSettings(source=str(ours.example(rows, folder))), folder / "rows.parquet")
    featurize_block(folder / "rows.parquet", settings, folder / "block.parquet", workers=workers)
    featurize([folder / "block.parquet"], settings, folder / "tokens")
    return ours.read(folder / "tokens")


def trained(tokens: ours.Tokens, settings: TrainSettings, with_head: bool) -> tuple[VAE, float]:
    """A model, and the seconds of its training."""
    model = untrained(len(tokens.vocabulary), ModelSettings(), settings.seed)
    if with_head:
        model.head = PropertyHead(PROPERTIES, model.latent_dim)
        model.head.standardise_by(tokens.splits["train"].values)
    began = time.monotonic()
    Run(model, tokens.splits["train"], tokens.splits["valid"], settings, CPU).fit()
    return model.eval(), time.monotonic() - began


@torch.no_grad()
def fitted_head(model: VAE, tokens: ours.Tokens) -> PropertyHead:
    """A head by least squares on draws of the posteriors of training molecules."""
    train = tokens.splits["train"]
    mu, logvar = posterior(model, train)
    z = mu + torch.randn(mu.shape, generator=generator(0, "fitted head")) * (0.5 * logvar).exp()
    head = PropertyHead(PROPERTIES, model.latent_dim)
    head.standardise_by(train.values)
    features = torch.cat([z, torch.ones(len(z), 1)], 1).double()
    targets = (torch.from_numpy(train.values).double() - head.mean) / head.sd
    found = torch.linalg.lstsq(features, targets).solution
    head.linear.weight.copy_(found[:-1].T)
    head.linear.bias.copy_(found[-1])
    head.log_noise.copy_((targets - features @ found).std(0).log())
    return head


def judge(model: VAE, tokens: ours.Tokens, settings: TrainSettings) -> dict[str, Any]:
    """Figures of the test molecules."""
    test = tokens.splits["test"]
    found, _ = evaluate(model, test, settings, CPU)
    mu, _ = posterior(model, test)
    ridge = {
        name: float(compared({"means": mu.numpy()}, test.values[:, k].astype(float), ("ridge",))["r2"].iloc[0])
        for k, name in enumerate(PROPERTIES)
    }
    return {
        "test_nats": found["valid_loss_nats"],
        "test_reconstruction_nats": found["valid_reconstruction_nats"],
        "test_kl_nats": found["valid_kl_nats"],
        "exact_reconstruction": found["valid_exact_reconstruction"],
        "r2_of_ridge_on_means": ridge,
        "r2_of_head": {name: found[f"valid_r2_{name}"] for name in PROPERTIES if f"valid_r2_{name}" in found},
    }


def samples(model: VAE, tokens: ours.Tokens, n: int, attempts: int, wanted: dict[str, float]) -> dict[str, Any]:
    """What samples are like: mean and standard deviation of their properties, and of their first strings' stability."""
    strings = sample_prior(
        model, 0, n, seed=0, temperature=1.0, max_tokens=128, accept=stable(tokens.vocabulary), attempts=attempts,
        wanted=wanted,
    )  # fmt: skip
    opened = Model(model, tokens.vocabulary, {})
    smiles = [opened.smiles(symbols) for symbols in opened.symbols(strings)]
    rows = [described for one in smiles if (described := _described(one))]
    values = np.array([[row[name] for name in PROPERTIES] for row in rows])
    return {
        "wanted": wanted,
        "n": len(rows),
        "stable_strings": float(np.sum(strings.accepted) / np.sum(strings.attempts)),
        "unique": len({row["smiles"] for row in rows}) / len(rows),
        "mean": dict(zip(PROPERTIES, values.mean(0).tolist(), strict=True)),
        "sd": dict(zip(PROPERTIES, values.std(0).tolist(), strict=True)),
    }


def _described(smiles: str) -> dict[str, Any] | None:
    try:
        return describe(parse(smiles)) | {"smiles": smiles}
    except Rejected:
        return None


def measure(rows: int, epochs: int, n: int, attempts: int, threads: int) -> dict[str, Any]:
    """All sides."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        tokens = tokens_of(rows, Path(temporary), threads)
    settings = TrainSettings(epochs=epochs, kl_weight=0.2, free_nats=0.0, patience=epochs)
    sides = {}
    for weight in (None, *WEIGHTS):
        chosen = settings.model_copy(update={"property_weight": weight or 1.0})
        model, seconds = trained(tokens, chosen, weight is not None)
        found = {"seconds": seconds, **judge(model, tokens, chosen)}
        model.head = model.head or fitted_head(model, tokens)
        found["samples"] = [
            samples(model, tokens, n, attempts, wanted) for wanted in ({}, *({"logp": value} for value in WANTED))
        ]
        sides["without" if weight is None else f"weight {weight:g}"] = found
        print(found, flush=True)
    values = tokens.splits["train"].values
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
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--attempts", type=int, default=32, help="strings written at most until one is stable")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.quick:  # shows that it runs
        arguments.rows, arguments.epochs, arguments.samples, arguments.attempts = 1000, 1, 50, 1
    result = measure(arguments.rows, arguments.epochs, arguments.samples, arguments.attempts, arguments.threads)
    write(arguments.json, result)
    errors = {}
    for side, found in result["sides"].items():
        errors[side] = np.mean([abs(one["mean"]["logp"] - one["wanted"]["logp"]) for one in found["samples"][1:]])
        r2 = ", ".join(f"{name} {value:.2f}" for name, value in found["r2_of_ridge_on_means"].items())
        print(
            f"{side}: {found['test_nats']:.2f} nats, {100 * found['exact_reconstruction']:.1f} % exact, R² {r2}, "
            f"mean logP {errors[side]:.2f} off what was wanted"
        )
    print(f"ratio {errors['without'] / errors[f'weight {WEIGHTS[0]:g}']:.2f}")


if __name__ == "__main__":
    main()
