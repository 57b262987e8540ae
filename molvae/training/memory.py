"""How much memory a training run needs, checked before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

from molvae.errors import TrainingError
from molvae.nn.vae import VAE

if TYPE_CHECKING:
    from molvae.config import ModelSettings

OUT_OF_MEMORY_ADVICE = (
    "training does not fit in memory: lower train.batch_size, a size under model, or featurize.max_tokens."
)
WEIGHT_COPIES = 5  # the weights, gradients, Adam's two moments, the best epoch's
FLOAT_BYTES = 4
SETTINGS_TO_LOWER = {  # by what takes the memory
    "weights": "model.decoder_hidden and the other sizes under model",
    "activations": "train.batch_size (or featurize.max_tokens)",
}


def estimate_memory(
    model: ModelSettings, molecules: int, vocabulary_size: int, max_tokens: int, parameters: int
) -> dict[str, int]:
    """Estimate the memory of a step on the longest molecules, from below.

    Args:
        model: sizes of the networks.
        molecules: of a step in this process.
        vocabulary_size: tokens of the vocabulary.
        max_tokens: of the longest training molecule, EOS counted.
        parameters: of the networks.

    Returns:
        bytes by the keys of SETTINGS_TO_LOWER.
    """
    directions = 2 if model.encoder_bidirectional else 1
    gates = 6 if "lstm" in (model.encoder_cell, model.decoder_cell) else 5  # gates, states, one more to go back
    units = model.encoder_layers * directions * model.encoder_hidden + model.decoder_layers * model.decoder_hidden
    per_token = gates * units + 3 * vocabulary_size + 2 * model.embedding_dim
    return {
        "weights": WEIGHT_COPIES * FLOAT_BYTES * parameters,
        "activations": FLOAT_BYTES * molecules * max_tokens * per_token,
    }


def check_memory(
    model: ModelSettings, molecules: int, vocabulary_size: int, max_tokens: int, device: torch.device
) -> None:
    """Refuse a run that cannot fit.

    Args:
        model: sizes of the networks.
        molecules: of a step in this process.
        vocabulary_size: tokens of the vocabulary.
        max_tokens: of the longest training molecule, EOS counted.
        device: to train on.

    Raises:
        TrainingError: with what is needed, what is free, and the setting that takes most.
    """
    with torch.device("meta"):  # counts without taking the memory
        parameters = sum(tensor.numel() for tensor in VAE(vocabulary_size, model).parameters())
    needed = estimate_memory(model, molecules, vocabulary_size, max_tokens, parameters)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if (total := sum(needed.values())) > free:
        largest = max(needed, key=needed.__getitem__)
        raise TrainingError(
            f"training needs about {total / 2**30:.1f} GiB on {device.type}, {free / 2**30:.1f} GiB are free. "
            f"Lower {SETTINGS_TO_LOWER[largest]}, which takes {needed[largest] / 2**30:.1f} GiB."
        )
