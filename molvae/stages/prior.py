"""Stage `prior`: fit the prior that samples come from to the aggregate posterior of a trained model.

The aggregate posterior is what the decoder learned to decode; the wider a prior misses it, the worse are samples. Its
files lie in the model's folder, and a model is loaded with them: `prior.json` says which weights they were fitted to.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from molvae.data.token_store import TOKENS_FILE, VOCABULARY_FILE, TokenStore
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, ModelFileError
from molvae.inference.posterior import compute_random_posteriors, sample_aggregate_posterior
from molvae.model_io.card import WEIGHTS_FILE
from molvae.model_io.folder import load_model_as_trained, save_prior
from molvae.nn.priors import Prior, build_prior
from molvae.runtime.files import compute_sha256, read_json
from molvae.runtime.provenance import get_versions
from molvae.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from molvae.config import PriorSettings
    from molvae.data.dataset import TokenSet
    from molvae.nn.vae import VAE

log = logging.getLogger(__name__)
BATCH_SIZE = 512
MAX_MEASURED = 10_000  # draws that a prior is measured with


def prior(tokens: Path, model: Path, settings: PriorSettings, *, threads: int) -> dict[str, float]:
    """Fit a prior and write prior.safetensors and prior.json into the folder of the model.

    Args:
        tokens: folder that `featurize` wrote.
        model: folder that `train` wrote.
        settings: of the stage.
        threads: of the CPU.

    Returns:
        metrics: −log p(z) of draws of the held-out molecules' posteriors in nats, under the prior as trained
        (`before_nats`) and under the fitted one (`after_nats`), which is also given of training molecules
        (`after_nats_on_training_molecules`); the norm of the mean of these, and their mean variance per dimension.

    Raises:
        ConfigError: a kind of prior that the model's posteriors do not allow.
        ModelFileError: the tokens are of another vocabulary than the model's.
    """
    torch.set_num_threads(threads)
    network, vocabulary, _ = load_model_as_trained(model)
    if settings.kind == "vamp" and not network.variational:
        raise ConfigError(
            "prior.kind: a vamp prior is a mixture of posteriors, and those of a plain autoencoder are points without "
            "a density. Take mixture or flow."
        )
    splits = TokenStore.open(tokens / TOKENS_FILE).splits
    vocabulary_file = tokens / VOCABULARY_FILE
    if Vocabulary.from_json(read_json(vocabulary_file), str(vocabulary_file)) != vocabulary:
        raise ModelFileError(
            f"{vocabulary_file}: not the vocabulary of {model}. Give the tokens that it was trained on."
        )
    n_measured = min(settings.draws, MAX_MEASURED)
    draws = sample_aggregate_posterior(network, splits["train"], n_measured, settings.seed)
    held_out_draws = sample_aggregate_posterior(network, splits["valid"], n_measured, settings.seed)
    fitted_prior = network.prior if settings.kind == "as_trained" else _fit(network, splits["train"], settings)
    metrics = {
        "before_nats": _compute_cross_entropy(network.prior, held_out_draws),
        "after_nats": _compute_cross_entropy(fitted_prior, held_out_draws),
        "after_nats_on_training_molecules": _compute_cross_entropy(fitted_prior, draws),
        "aggregate_mean_norm": draws.double().mean(0).norm().item(),
        "aggregate_mean_variance": draws.double().var(0).mean().item(),
    }
    metrics = {name: round(value, 6) for name, value in metrics.items()}  # the order of a sum depends on the threads
    before, after = metrics["before_nats"], metrics["after_nats"]
    log.info("aggregate posterior under the prior: %.2f nats as trained, %.2f now", before, after)
    if after > before:
        log.warning(
            "the fitted prior is WORSE for held-out molecules than that of training, and samples come from it. Fit "
            "another kind, or as_trained, which keeps that of training. A prior overfits few molecules, and those of a "
            "plain autoencoder, whose posteriors have no width."
        )
    card = {
        "settings": settings.model_dump(), "weights_sha256": compute_sha256(model / WEIGHTS_FILE), "metrics": metrics,
        "versions": get_versions(),
    }  # fmt: skip
    save_prior(model, None if settings.kind == "as_trained" else fitted_prior, card)
    return metrics


def _fit(network: VAE, train: TokenSet, settings: PriorSettings) -> Prior:
    """Fit a prior to the posteriors of training molecules."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "prior weights"))
        fitted_prior = build_prior(settings.kind, settings.components, network.encoder)
    log.info("fitting a %s prior to %d posteriors of %d molecules", settings.kind, settings.draws, len(train))
    mu, logvar = compute_random_posteriors(network, train, settings.draws, settings.seed)
    fitted_prior.fit(
        mu, logvar, train, steps=settings.steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
        seed=settings.seed,
    )  # fmt: skip
    return fitted_prior


@torch.inference_mode()
def _compute_cross_entropy(prior: Prior, latents: Tensor) -> float:
    return -torch.cat([prior.log_density(part) for part in latents.split(BATCH_SIZE)]).mean().item()
