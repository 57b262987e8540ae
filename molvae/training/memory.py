"""How much memory a training run needs, said before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

from molvae.errors import TrainingError
from molvae.nn.vae import VAE

if TYPE_CHECKING:
    from molvae.config import ModelSettings

LOWER_MEMORY = "training does not fit in memory: lower train.batch_size, a size under model, or featurize.max_tokens."
COPIES = 5  # of the weights: themselves, gradients, Adam's two moments, the best epoch's
FLOAT = 4  # bytes


def needed_bytes(
    model: ModelSettings, molecules: int, vocabulary_size: int, longest: int, parameters: int
) -> dict[str, int]:
    """Memory of a step on the longest molecules, bytes, by the setting that lowers it: an estimate from below."""
    directions = 2 if model.encoder_bidirectional else 1
    gates = 6 if "lstm" in (model.encoder_cell, model.decoder_cell) else 5  # gates, states, one more to go back
    units = model.encoder_layers * directions * model.encoder_hidden + model.decoder_layers * model.decoder_hidden
    each = gates * units + 3 * vocabulary_size + 2 * model.embedding_dim
    return {
        "model.decoder_hidden and the other sizes under model": COPIES * FLOAT * parameters,
        "train.batch_size (or featurize.max_tokens)": FLOAT * molecules * longest * each,
    }


def check_memory(
    model: ModelSettings,
    molecules: int,
    vocabulary_size: int,
    longest: int,
    device: torch.device,
) -> None:
    """Refuse a run that cannot fit.

    Args:
        molecules: of a step in this process.
        longest: tokens of the longest training molecule, EOS counted.
    Raises:
        TrainingError: with what is needed, what is free, and the setting that takes most.
    """
    with torch.device("meta"):  # counts without taking the memory
        parameters = sum(tensor.numel() for tensor in VAE(vocabulary_size, model).parameters())
    needed = needed_bytes(model, molecules, vocabulary_size, longest, parameters)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if (total := sum(needed.values())) > free:
        raise TrainingError(
            f"training needs about {total / 2**30:.1f} GiB on {device.type}, {free / 2**30:.1f} GiB are free. "
            f"Lower {max(needed, key=needed.__getitem__)}, which takes {max(needed.values()) / 2**30:.1f} GiB."
        )
