"""Model folders and resume files: tensors in safetensors, the rest in JSON. Nothing that can carry code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from molvae.errors import ModelFileError
from molvae.files import replacing, write_json
from molvae.training import State
from molvae.vae import VAE
from molvae.vocabulary import Vocabulary

FORMAT_VERSION = 1
WEIGHTS, CARD = "model.safetensors", "model.json"


def save_model(folder: Path, model: VAE, vocabulary: Vocabulary, card: dict[str, Any]) -> None:
    """Write a model folder: weights, and a card with everything else that is needed to use them.

    Args:
        card: must hold `settings` with a `model` block; more (versions, lineage, training, metrics) is kept as it is.
    """
    with replacing(folder / WEIGHTS) as temporary:
        # bytes, because `save_file` makes a file that nobody else may read
        temporary.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}))
    write_json(folder / CARD, {"format_version": FORMAT_VERSION, "vocabulary": vocabulary.to_json(), **card})


def load_model(folder: Path) -> tuple[VAE, Vocabulary, dict[str, Any]]:
    """The model in a folder, on the CPU and in evaluation mode, its vocabulary and its card.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
    """
    card_file, weights_file = Path(folder) / CARD, Path(folder) / WEIGHTS
    card = _read_card(card_file)
    vocabulary = Vocabulary.from_json(card.get("vocabulary"), str(card_file))
    try:
        settings = SimpleNamespace(**card["settings"]["model"])
        sizes_fit = all(isinstance(size, int) and 0 < size <= 8192 for size in vars(settings).values())
        if not sizes_fit:
            raise ModelFileError(f"{card_file}: sizes of the networks out of range: {vars(settings)}.")
        with torch.device("meta"):  # takes no memory, whatever sizes the card claims, and draws no random number
            model = VAE(len(vocabulary), settings)
        model.to_empty(device="cpu").load_state_dict(_read_tensors(weights_file))
    except (KeyError, TypeError, AttributeError) as err:
        raise ModelFileError(f"{card_file}: the settings of the model are missing or incomplete ({err!r}).") from None
    except RuntimeError as err:
        raise ModelFileError(
            f"{weights_file}: the weights do not fit the networks that {CARD} describes: "
            f"{str(err).splitlines()[-1].strip()}"
        ) from None
    return model.eval(), vocabulary, card


def save_state(path: Path, state: State, fingerprint: str) -> None:
    """Write a checkpoint, whole or not at all."""
    metadata = {"fingerprint": fingerprint, "progress": json.dumps(state.progress)}
    with replacing(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.tensors.items()}, temporary, metadata)


def load_state(path: Path, fingerprint: str) -> State:
    """Read a checkpoint.

    Raises:
        ModelFileError: damaged, or of another run than `fingerprint` names.
    """
    tensors = _read_tensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("fingerprint") != fingerprint:
        raise ModelFileError(f"{path}: a checkpoint of other settings, data or code. Delete it to train anew.")
    return State(json.loads(metadata["progress"]), tensors)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file. A model folder holds {CARD} and {WEIGHTS}.") from None
    except (OSError, ValueError) as err:
        raise ModelFileError(f"{path}: damaged, not JSON ({err}). Train again or copy it afresh.") from None
    version = card.get("format_version") if isinstance(card, dict) else None
    if version != FORMAT_VERSION:
        raise ModelFileError(f"{path}: format {version!r}, this molvae reads format {FORMAT_VERSION}.")
    return card


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file.") from None
    except (SafetensorError, OSError) as err:
        raise ModelFileError(f"{path}: damaged or no safetensors file ({err}).") from None
