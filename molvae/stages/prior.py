"""Stage `prior`: fit the prior that samples come from to the aggregate posterior of a trained model.

The aggregate posterior is what the decoder learned to read; the wider a prior misses it, the worse are samples. Its
files lie in the model's folder, and a model is loaded with them: `prior.json` says which weights they were fitted to.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from molvae.data.token_store import read_tokens
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, ModelFileError
from molvae.inference.posterior import posterior_draws, some_posteriors
from molvae.model_io.card import WEIGHTS
from molvae.model_io.folder import load_trained, save_prior
from molvae.nn.priors import fit, make_prior
from molvae.runtime.files import read_json, sha256
from molvae.runtime.provenance import versions
from molvae.runtime.seeds import derive

if TYPE_CHECKING:
    from molvae.config import PriorSettings

log = logging.getLogger(__name__)
BLOCK = 512


def prior(tokens: Path, model: Path, settings: PriorSettings, *, threads: int) -> dict[str, float]:
    """Fit it and write prior.safetensors and prior.json into the folder of the model.

    Returns:
        figures: −log p(z) of draws of the held-out molecules' posteriors in nats, under the prior as trained
        (`before_nats`) and under the fitted one (`after_nats`); mean and variance of the draws.
    Raises:
        ConfigError: a kind of prior that the model's posteriors do not allow.
        ModelFileError: the tokens are of another vocabulary than the model's.
    """
    torch.set_num_threads(threads)
    network, vocabulary, _ = load_trained(model)
    if settings.kind == "vamp" and not network.variational:
        raise ConfigError(
            "prior.kind: a vamp prior is a mixture of posteriors, and those of a plain autoencoder are points without "
            "a density. Take mixture or flow."
        )
    splits = read_tokens(tokens / "tokens.safetensors")
    own = tokens / "vocabulary.json"
    if Vocabulary.from_json(read_json(own), str(own)) != vocabulary:
        raise ModelFileError(f"{own}: not the vocabulary of {model}. Give the tokens that it was trained on.")
    train, held_out = splits["train"], splits["valid"]
    drawn = posterior_draws(network, train, min(settings.draws, 10_000), settings.seed)
    unseen = posterior_draws(network, held_out, min(settings.draws, 10_000), settings.seed)
    kind = settings.kind
    fitted = network.prior
    if kind != "as_trained":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(settings.seed, "prior weights"))
            fitted = make_prior(kind, settings.components, network.encoder)
        log.info("fitting a %s prior to the posteriors of %d molecules", kind, settings.draws)
        posteriors = some_posteriors(network, train, settings.draws, settings.seed)
        fit(
            fitted, *posteriors, train, steps=settings.steps, batch_size=settings.batch_size,
            learning_rate=settings.learning_rate, seed=settings.seed,
        )  # fmt: skip
    figures = {
        "before_nats": _cross_entropy(network.prior, unseen),
        "after_nats": _cross_entropy(fitted, unseen),
        "after_nats_on_training_molecules": _cross_entropy(fitted, drawn),
        "aggregate_mean_norm": drawn.mean(0).norm().item(),
        "aggregate_mean_variance": drawn.var(0).mean().item(),
    }
    log.info(
        "aggregate posterior under the prior: %.2f nats as trained, %.2f now",
        figures["before_nats"],
        figures["after_nats"],
    )
    if figures["after_nats"] > figures["before_nats"]:
        log.warning(
            "the fitted prior is WORSE for held-out molecules than that of training, and samples come from it. Fit "
            "another kind, or as_trained, which keeps that of training. Few molecules, or a plain autoencoder, whose "
            "latent points have no width, are soon learned by heart."
        )
    card = {
        "settings": settings.model_dump(), "weights_sha256": sha256(model / WEIGHTS), "metrics": figures,
        "versions": versions(),
    }  # fmt: skip
    save_prior(model, None if kind == "as_trained" else fitted, card)
    return figures


@torch.inference_mode()
def _cross_entropy(prior: torch.nn.Module, latents: Tensor) -> float:
    return -torch.cat([prior.log_density(part) for part in latents.split(BLOCK)]).mean().item()
