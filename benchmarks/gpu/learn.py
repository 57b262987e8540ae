"""One training run that ends in time, and all that it takes to judge it elsewhere."""

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
from common import Packed, rate_of, say, write
from weights import write_weights

from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import EOS, PAD
from molvae.errors import Interrupted
from molvae.inference.decoding import Strings
from molvae.inference.posterior import posterior, posterior_draws, some_posteriors
from molvae.inference.sampling import sample_at, sample_prior
from molvae.nn.priors import Prior, Vamp, fit, make_prior
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive
from molvae.training.distributed import Group
from molvae.training.trainer import Run, evaluate

FITTED = ("flow", "mixture")
RECONSTRUCTED = 5000
RESERVE = 0.03  # of the minutes, not planned for
WARM_UP, TIMED_STEPS = 20, 100


def train(
    packed: Packed, out: Path, device: torch.device, group: Group, *, model: dict[str, Any], settings: dict[str, Any],
    prior: dict[str, Any], minutes: float, samples: int,
) -> None:  # fmt: skip
    """Train for so many minutes, then sample; the first process of a group writes.

    Writes weights-float32.pt.0 … (a file cut into parts), history.csv, strings.npz and train.json.
    """
    first = group.rank == 0
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s", stream=sys.stdout)
    sizes, chosen = packed.settings("model", **model), packed.settings("train", **settings)
    plan = group.of_first(planned(packed, sizes, chosen, device, group, minutes))
    chosen.epochs = min(plan["epochs"], settings.get("epochs", plan["epochs"]))
    chosen.patience = settings.get("patience", chosen.epochs)  # a run that is planned to the minute does not end early
    say(f"{plan['molecules_per_s']:.0f} molecules/s: {chosen.epochs} epochs of {plan['molecules']} molecules")
    run = new_run(packed, sizes, chosen, device, group, plan["molecules"])
    result: dict[str, Any] = {"model": sizes, "train": chosen, "plan": plan, "processes": group.size}
    result["prior"] = packed.settings("prior", **prior)
    result["parameters"] = sum(one.numel() for one in run.model.parameters())
    result["tf32"] = {"products": torch.backends.cuda.matmul.allow_tf32, "rnn": torch.backends.cudnn.allow_tf32}

    def keep(row: dict[str, float]) -> None:
        if first:
            write_history(out / "history.csv", run.progress.history)

    began = time.monotonic()
    try:
        stopped = run.fit(on_epoch=keep, interrupted=lambda: time.monotonic() - began > 60 * minutes)
    except Interrupted:
        stopped = "out of time"
        if run.progress.best_epoch:
            run.model.load_state_dict(run.best)
    result |= {"stopped": stopped, "steps": run.progress.step, "seconds": time.monotonic() - began}
    result |= {
        "best_epoch": run.progress.best_epoch,
        "history": run.progress.history,
        "kl_by_dimension": run.progress.kl_by_dimension[-1:],
    }
    if not first:
        return
    trained = run.model.eval()
    write_weights(out, {"model": trained.state_dict()})
    write(out, "train", result, packed, device)
    priors, result["priors"] = fitted_priors(packed, trained, result["prior"], device)
    write_weights(out, {"model": trained.state_dict(), **{name: one.state_dict() for name, one in priors.items()}})
    arrays, result["strings"] = strings(packed, trained, priors, samples)
    with open(out / "strings.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    write(out, "train", result, packed, device)
    for what in ("priors", "strings"):
        for name, figures in result[what].items():
            say(what, name, " ".join(f"{figure} {value:.5g}" for figure, value in figures.items()))


def new_run(
    packed: Packed,
    sizes: SimpleNamespace,
    settings: SimpleNamespace,
    device: torch.device,
    group: Group,
    molecules: int,
) -> Run:
    """A run on the first so many of the shuffled training molecules, or on all as they are."""
    train, variants = packed.train, packed.variants if settings.variant_input else None
    if settings.variant_input and variants is None:
        raise SystemExit("train.variant_input needs variants, and the packed file holds none.")
    if molecules < len(train):
        rows = np.random.default_rng(settings.seed).permutation(len(train))[:molecules]
        if variants is not None:
            each = len(variants) // len(train)
            variants = variants.select((rows[:, None] * each + np.arange(each)).ravel())
        train = train.select(rows)
    network = packed.network(sizes, settings.seed)
    if isinstance(network.prior, Vamp):
        network.prior.initialise(torch.empty(0), train, settings.seed)
    return Run(network, train, packed.splits["valid"], settings, device, variants=variants, group=group)


def planned(
    packed: Packed,
    sizes: SimpleNamespace,
    settings: SimpleNamespace,
    device: torch.device,
    group: Group,
    minutes: float,
) -> dict[str, Any]:
    """How many whole epochs fit into the minutes, by the speed of a run that is thrown away.

    Where not one fits, an epoch of fewer molecules.
    """
    run = new_run(packed, sizes, settings, device, group, len(packed.train))
    batches = run.train.epoch(settings.batch_size, settings.seed, 0)
    calls = 0

    def step() -> None:
        nonlocal calls
        run.step(batches[calls % len(batches)])
        run.progress.step += 1
        calls += 1

    for _ in range(WARM_UP):
        step()
    steps_a_second = rate_of(step, device, TIMED_STEPS)  # a fixed number: all processes must do as many
    rate = steps_a_second * len(run.train) / len(batches)
    began = time.monotonic()
    evaluate(run.model, run.valid, settings, device)
    held_out = time.monotonic() - began
    room = 60 * minutes * (1 - RESERVE)
    epochs = max(1, math.floor(room / (len(run.train) / rate + held_out)))
    molecules = int(min(len(run.train), max(settings.batch_size, rate * (room - held_out))))
    return {
        "minutes": minutes,
        "molecules_per_s": rate,
        "held_out_s": held_out,
        "epochs": epochs,
        "molecules": molecules,
    }


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def fitted_priors(
    packed: Packed, model: VAE, settings: SimpleNamespace, device: torch.device
) -> tuple[dict[str, Prior], dict[str, Any]]:
    """Priors fitted to the aggregate posterior as stage `prior` does it, and −log p of held-out latents under each."""
    mu, logvar = (part.to(device) for part in some_posteriors(model, packed.train, settings.draws, settings.seed))
    unseen = posterior_draws(model, packed.splits["valid"], min(settings.draws, 10_000), settings.seed)
    priors, figures = {}, {"trained": {"held_out_nats": cross_entropy(model.prior, unseen, device)}}
    for kind in FITTED:
        began = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(settings.seed, "prior weights"))
            prior = make_prior(kind, settings.components, model.encoder)
        fit(
            prior.to(device), mu, logvar, packed.train, steps=settings.steps, batch_size=settings.batch_size,
            learning_rate=settings.learning_rate, seed=settings.seed,
        )  # fmt: skip
        priors[kind] = prior.eval()
        figures[kind] = {
            "held_out_nats": cross_entropy(prior, unseen, device),
            "seconds": time.monotonic() - began,
        }
    return priors, figures


@torch.inference_mode()
def cross_entropy(prior: Prior, latents: torch.Tensor, device: torch.device) -> float:
    """Mean −log p(z), nats."""
    return -torch.cat([prior.log_density(part.to(device)).cpu() for part in latents.split(512)]).mean().item()


def strings(
    packed: Packed, model: VAE, priors: dict[str, Prior], samples: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Strings from each prior at temperature 1, from the aggregate posterior, and of held-out molecules from mu.

    Of each set the arrays are NAME.ids, NAME.lengths, NAME.finished, NAME.log_probability; the ids lie one string
    behind the other, without ends. `held_out.ids` and `held_out.lengths` are the molecules that `greedy` should be.
    """
    drawn = packed.settings("sample")
    seed, rules = drawn.seed, {"seed": drawn.seed, "max_tokens": drawn.max_tokens}
    own, found = model.prior, {}
    for name, prior in {"prior": own, **priors}.items():
        model.prior = prior
        found[name] = sample_prior(model, 0, samples, temperature=1.0, **rules)
    model.prior = own
    found["posterior"] = sample_at(model, posterior_draws(model, packed.train, samples, seed), temperature=1.0, **rules)
    rows = np.random.default_rng(seed).permutation(len(packed.held_out))[:RECONSTRUCTED]
    originals = packed.held_out.select(rows)
    found["greedy"] = sample_at(model, posterior(model, originals)[0], temperature=0, **rules)
    arrays = {"held_out.ids": originals.ids, "held_out.lengths": originals.lengths.astype(np.uint16)}
    figures = {}
    for name, some in found.items():
        packed_set = _token_set(some)
        arrays |= {
            f"{name}.ids": packed_set.ids,
            f"{name}.lengths": packed_set.lengths.astype(np.uint16),
            f"{name}.finished": some.finished,
            f"{name}.log_probability": some.log_probability.astype(np.float32),
        }
        figures[name] = {
            "n": len(packed_set),
            "finished": float(some.finished.mean()),
            "mean_tokens": float(packed_set.lengths.mean()),
            "distinct": len({part.tobytes() for part in map(packed_set.__getitem__, range(len(packed_set)))}),
        }
    written = _token_set(found["greedy"])
    same = [np.array_equal(written[k], originals[k]) for k in range(len(originals))]
    figures["greedy"]["exact"] = float(np.mean(found["greedy"].finished & same))
    return arrays, figures


def _token_set(strings: Strings) -> TokenSet:
    """Without what stands from the end of each string on."""
    inside = ((strings.ids == EOS).cumsum(1) == 0) & (strings.ids != PAD)
    lengths = inside.sum(1)
    return TokenSet(strings.ids[inside].astype(np.uint16), np.concatenate([[0], np.cumsum(lengths)]))
