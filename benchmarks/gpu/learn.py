"""One training run that ends in time, and all that it takes to evaluate it on another machine."""

from __future__ import annotations

import csv
import logging
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import Packed, print_line, time_calls, write_result
from weights import write_weights

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import EOS, PAD
from molvae.errors import Interrupted
from molvae.inference.decoding import TokenStrings
from molvae.inference.posterior import compute_posterior, compute_random_posteriors, sample_aggregate_posterior
from molvae.inference.sampling import SamplingOptions, sample_at_points, sample_prior
from molvae.nn.priors import Prior, VampPrior, build_prior
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive_seed
from molvae.training.distributed import ProcessGroup
from molvae.training.evaluation import evaluate_held_out
from molvae.training.trainer import Trainer

FITTED = ("flow", "mixture")
N_RECONSTRUCTED = 5000
RESERVE = 0.03  # of the minutes, not planned for
WARM_UP, TIMED_STEPS = 20, 100


def train(
    packed: Packed,
    out: Path,
    device: torch.device,
    group: ProcessGroup,
    *,
    model: dict[str, Any],
    settings: dict[str, Any],
    prior: dict[str, Any],
    minutes: float,
    samples: int,
) -> None:
    """Train for so many minutes, then sample; the first process of a group writes.

    Writes weights-float32.pt.0 … (a file cut into parts), history.csv, strings.npz and train.json.

    Args:
        packed: molecules.
        out: folder to write.
        device: to train on.
        group: the processes that share each batch.
        model: model settings to change.
        settings: training settings to change.
        prior: settings of fitted priors to change.
        minutes: of training.
        samples: strings of each set.
    """
    is_first = group.rank == 0
    logging.basicConfig(level=logging.INFO if is_first else logging.ERROR, format="%(message)s", stream=sys.stdout)
    sizes, chosen = packed.make_settings("model", **model), packed.make_settings("train", **settings)
    plan = group.broadcast(plan_training(packed, sizes, chosen, device, group, minutes))
    chosen.epochs = min(plan["epochs"], settings.get("epochs", plan["epochs"]))
    chosen.patience = settings.get("patience", chosen.epochs)  # a run that is planned to the minute does not end early
    print_line(f"{plan['molecules_per_s']:.0f} molecules/s: {chosen.epochs} epochs of {plan['molecules']} molecules")
    trainer = make_trainer(packed, sizes, chosen, device, group, plan["molecules"])
    result: dict[str, Any] = {"model": sizes, "train": chosen, "plan": plan, "processes": group.size}
    result["prior"] = packed.make_settings("prior", **prior)
    result["parameters"] = sum(weight.numel() for weight in trainer.model.parameters())
    result["tf32"] = {"products": torch.backends.cuda.matmul.allow_tf32, "rnn": torch.backends.cudnn.allow_tf32}

    def keep(row: dict[str, float]) -> None:
        if is_first:
            write_history(out / "history.csv", trainer.progress.history)

    began = time.monotonic()
    try:
        stopped = trainer.fit(on_epoch=keep, should_stop=lambda: time.monotonic() - began > 60 * minutes)
    except Interrupted:
        stopped = "out of time"
        if trainer.progress.best_epoch:
            trainer.model.load_state_dict(trainer.best)
    result |= {"stopped": stopped, "steps": trainer.progress.step, "seconds": time.monotonic() - began}
    result |= {
        "best_epoch": trainer.progress.best_epoch,
        "history": trainer.progress.history,
        "kl_by_dimension": trainer.progress.kl_by_dimension[-1:],
    }
    if not is_first:
        return
    trained = trainer.model.eval()
    write_weights(out, {"model": trained.state_dict()})
    write_result(out, "train", result, packed, device)
    priors, result["priors"] = fit_priors(packed, trained, result["prior"], device)
    states = {name: fitted.state_dict() for name, fitted in priors.items()}
    write_weights(out, {"model": trained.state_dict(), **states})
    arrays, result["strings"] = sample_sets(packed, trained, priors, samples)
    with open(out / "strings.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    write_result(out, "train", result, packed, device)
    for part in ("priors", "strings"):
        for name, metrics in result[part].items():
            print_line(part, name, " ".join(f"{metric} {value:.5g}" for metric, value in metrics.items()))


def make_trainer(
    packed: Packed,
    sizes: SimpleNamespace,
    settings: SimpleNamespace,
    device: torch.device,
    group: ProcessGroup,
    molecules: int,
) -> Trainer:
    """Make a trainer on the first so many of the shuffled training molecules, or on all in their order."""
    train, augmentations = packed.train, packed.augmentations if settings.augmentation_prob else None
    if settings.augmentation_prob and augmentations is None:
        raise SystemExit("train.augmentation_prob needs augmentations, and the packed file holds none.")
    if molecules < len(train):
        rows = np.random.default_rng(settings.seed).permutation(len(train))[:molecules]
        if augmentations is not None:
            per_molecule = len(augmentations) // len(train)
            augmentations = augmentations.select((rows[:, None] * per_molecule + np.arange(per_molecule)).ravel())
        train = train.select(rows)
    network = packed.init_network(sizes, settings.seed)
    if isinstance(network.prior, VampPrior):
        network.prior.initialise_from_molecules(train, settings.seed)
    return Trainer(network, train, packed.splits["valid"], settings, device, augmentations=augmentations, group=group)


def plan_training(
    packed: Packed,
    sizes: SimpleNamespace,
    settings: SimpleNamespace,
    device: torch.device,
    group: ProcessGroup,
    minutes: float,
) -> dict[str, Any]:
    """Plan how many whole epochs fit into the minutes, by the speed of a run that is thrown away.

    Where not one fits, an epoch of fewer molecules.
    """
    trainer = make_trainer(packed, sizes, settings, device, group, len(packed.train))
    batches = trainer.train.shuffle_batches(settings.batch_size, settings.seed, 0)
    calls = 0

    def step() -> None:
        nonlocal calls
        trainer.step(batches[calls % len(batches)])
        trainer.progress.step += 1
        calls += 1

    for _ in range(WARM_UP):
        step()
    steps_a_second = time_calls(step, device, TIMED_STEPS)  # a fixed number: all processes must do as many
    rate = steps_a_second * len(trainer.train) / len(batches)
    began = time.monotonic()
    evaluate_held_out(trainer.model, trainer.valid, settings, device)
    evaluation = time.monotonic() - began
    available = 60 * minutes * (1 - RESERVE)
    epochs = max(1, math.floor(available / (len(trainer.train) / rate + evaluation)))
    molecules = int(min(len(trainer.train), max(settings.batch_size, rate * (available - evaluation))))
    return {
        "minutes": minutes,
        "molecules_per_s": rate,
        "held_out_s": evaluation,
        "epochs": epochs,
        "molecules": molecules,
    }


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the rows of all epochs."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def fit_priors(
    packed: Packed, model: VAE, settings: SimpleNamespace, device: torch.device
) -> tuple[dict[str, Prior], dict[str, Any]]:
    """Fit priors to the aggregate posterior as stage `prior` does and compute −log p of held-out latents under each."""
    mu, logvar = (
        part.to(device) for part in compute_random_posteriors(model, packed.train, settings.draws, settings.seed)
    )
    unseen = sample_aggregate_posterior(model, packed.splits["valid"], min(settings.draws, 10_000), settings.seed)
    priors, metrics = {}, {"trained": {"held_out_nats": compute_cross_entropy(model.prior, unseen, device)}}
    for kind in FITTED:
        began = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.seed, "prior weights"))
            prior = build_prior(kind, settings.components, model.encoder)
        prior.to(device).fit(
            mu,
            logvar,
            packed.train,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
        )
        priors[kind] = prior.eval()
        metrics[kind] = {
            "held_out_nats": compute_cross_entropy(prior, unseen, device),
            "seconds": time.monotonic() - began,
        }
    return priors, metrics


@torch.inference_mode()
def compute_cross_entropy(prior: Prior, latents: torch.Tensor, device: torch.device) -> float:
    """Compute the mean −log p(z), nats."""
    return -torch.cat([prior.log_density(part.to(device)).cpu() for part in latents.split(512)]).mean().item()


def sample_sets(
    packed: Packed, model: VAE, priors: dict[str, Prior], samples: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Sample strings from each prior and the aggregate posterior at temperature 1, and reconstruct held-out molecules.

    Of each set the arrays are NAME.ids, NAME.lengths, NAME.finished, NAME.log_probability; the ids lie one string
    behind the other, without ends. `held_out.ids` and `held_out.lengths` are the molecules that `greedy` should be,
    which is decoded from the means of their posteriors.

    Returns:
        the arrays, and metrics of each set.
    """
    defaults = packed.make_settings("sample")
    options = SamplingOptions(seed=defaults.seed, temperature=1.0, max_tokens=defaults.max_tokens)
    greedy = SamplingOptions(seed=defaults.seed, temperature=0.0, max_tokens=defaults.max_tokens)
    trained_prior, sets = model.prior, {}
    for name, prior in {"prior": trained_prior, **priors}.items():
        model.prior = prior
        sets[name] = sample_prior(model, 0, samples, options)
    model.prior = trained_prior
    points = sample_aggregate_posterior(model, packed.train, samples, defaults.seed)
    sets["posterior"] = sample_at_points(model, points, options)
    rows = np.random.default_rng(defaults.seed).permutation(len(packed.held_out))[:N_RECONSTRUCTED]
    originals = packed.held_out.select(rows)
    sets["greedy"] = sample_at_points(model, compute_posterior(model, originals)[0], greedy)
    arrays = {"held_out.ids": originals.ids, "held_out.lengths": originals.lengths.astype(np.uint16)}
    metrics = {}
    for name, strings in sets.items():
        tokens = _to_token_set(strings)
        arrays |= {
            f"{name}.ids": tokens.ids,
            f"{name}.lengths": tokens.lengths.astype(np.uint16),
            f"{name}.finished": strings.finished,
            f"{name}.log_probability": strings.log_probability.astype(np.float32),
        }
        metrics[name] = {
            "n": len(tokens),
            "finished": float(strings.finished.mean()),
            "mean_tokens": float(tokens.lengths.mean()),
            "distinct": len({part.tobytes() for part in map(tokens.__getitem__, range(len(tokens)))}),
        }
    reconstructed = _to_token_set(sets["greedy"])
    is_same = [np.array_equal(reconstructed[k], originals[k]) for k in range(len(originals))]
    metrics["greedy"]["exact"] = float(np.mean(sets["greedy"].finished & is_same))
    return arrays, metrics


def _to_token_set(strings: TokenStrings) -> TokenSet:
    """Without what stands from the end of each string on."""
    is_inside = ((strings.ids == EOS).cumsum(1) == 0) & (strings.ids != PAD)
    lengths = is_inside.sum(1)
    return TokenSet(strings.ids[is_inside].astype(np.uint16), np.concatenate([[0], np.cumsum(lengths)]))
