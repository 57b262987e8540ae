"""Model folders and resume files: tensors in safetensors, the rest in JSON. Nothing that can carry code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from molvae.config import ModelSettings, PriorSettings, parse
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, ModelFileError
from molvae.model_io.card import CARD, FORMAT_VERSION, WEIGHTS, read_card
from molvae.nn.priors import Prior, make_prior
from molvae.nn.vae import VAE
from molvae.runtime.files import replacing, sha256, write_json
from molvae.training.trainer import State

PRIOR_WEIGHTS, PRIOR_CARD = "prior.safetensors", "prior.json"


def save_model(folder: Path, model: VAE, vocabulary: Vocabulary, card: dict[str, Any]) -> None:
    """Write a model folder: weights, and a card with everything else that is needed to use them.

    A prior that was fitted to other weights goes.

    Args:
        card: must hold `settings` with a `model` block; more (versions, lineage, training, metrics) is kept as it is.
    """
    for name in (PRIOR_CARD, PRIOR_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    _write_tensors(folder / WEIGHTS, model)
    properties = {"properties": list(model.head.names)} if model.head is not None else {}
    content = {"format_version": FORMAT_VERSION, "vocabulary": vocabulary.to_json(), **properties, **card}
    write_json(folder / CARD, content)


def save_prior(folder: Path, prior: Prior | None, card: dict[str, Any]) -> None:
    """Write a prior into a model's folder, for its samples to come from; None: the one it was trained with.

    Args:
        card: must hold `settings` (kind, components) and `weights_sha256`, of the weights it was fitted to.
    """
    _write_tensors(folder / PRIOR_WEIGHTS, prior)
    write_json(folder / PRIOR_CARD, {"format_version": FORMAT_VERSION, **card})


def load_model(folder: Path) -> tuple[VAE, Vocabulary, dict[str, Any]]:
    """The model in a folder, on the CPU and in evaluation mode, its vocabulary and its card.

    Its prior is the one that stage `prior` put into the folder, if there is one, else the one it was trained with.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
    """
    model, vocabulary, card = load_trained(folder)
    card_file, weights_file = Path(folder) / PRIOR_CARD, Path(folder) / PRIOR_WEIGHTS
    if not card_file.exists():
        return model, vocabulary, card
    about = read_card(card_file)
    if about.get("weights_sha256") != sha256(Path(folder) / WEIGHTS):
        raise ModelFileError(
            f"{card_file}: this prior was fitted to other weights than {WEIGHTS} holds. Run `molvae prior` again, or "
            f"delete {PRIOR_CARD} to sample from the prior of training."
        )
    with _explained(card_file, weights_file):
        settings = parse(PriorSettings, about["settings"], "settings.")
        if settings.kind != "as_trained":
            with torch.device("meta"):
                prior = make_prior(settings.kind, settings.components, model.encoder)
            prior.to_empty(device="cpu").load_state_dict(_read_tensors(weights_file))
            model.prior = prior.eval()
    return model, vocabulary, card | {"prior": about}


def load_trained(folder: Path) -> tuple[VAE, Vocabulary, dict[str, Any]]:
    """The same with the prior of training."""
    card_file, weights_file = Path(folder) / CARD, Path(folder) / WEIGHTS
    card = read_card(card_file)
    vocabulary = Vocabulary.from_json(card.get("vocabulary"), str(card_file))
    settings = networks_of(folder)
    with _explained(card_file, weights_file):
        with torch.device("meta"):  # takes no memory, whatever sizes the card claims, and draws no random number
            model = VAE(len(vocabulary), settings, card.get("properties", ()))
        model.to_empty(device="cpu").load_state_dict(_read_tensors(weights_file))
    return model.eval(), vocabulary, card


def networks_of(folder: Path) -> ModelSettings:
    """The settings that the networks of the model in a folder are built by.

    Raises:
        ModelFileError: as `load_model`.
    """
    card_file, weights_file = Path(folder) / CARD, Path(folder) / WEIGHTS
    card = read_card(card_file)
    with _explained(card_file, weights_file):
        return parse(ModelSettings, card["settings"]["model"], "settings.model.")


@contextmanager
def _explained(card_file: Path, weights_file: Path) -> Iterator[None]:
    """Names the file that is to blame when a network cannot be built from a card, or not filled from its tensors."""
    try:
        yield
    except (KeyError, TypeError) as err:
        raise ModelFileError(f"{card_file}: the settings are missing or incomplete ({err!r}).") from None
    except ConfigError as err:
        raise ModelFileError(f"{card_file}: {err}") from None
    except RuntimeError as err:
        raise ModelFileError(
            f"{weights_file}: the weights do not fit the networks that {card_file.name} describes: "
            f"{str(err).splitlines()[-1].strip()}"
        ) from None


def _write_tensors(path: Path, module: nn.Module | None) -> None:
    tensors = {} if module is None else {name: part.cpu().contiguous() for name, part in module.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors))  # bytes, because `save_file` makes a file that nobody else may read


def save_state(path: Path, state: State, fingerprint: str) -> None:
    """Write a checkpoint, whole or not at all."""
    metadata = {"fingerprint": fingerprint, "progress": json.dumps(state.progress)}
    with replacing(path) as temporary:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.tensors.items()}
        temporary.write_bytes(save(tensors, metadata))  # bytes: of a full disk `save_file` makes an error of its own


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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file.") from None
    except (SafetensorError, OSError) as err:
        raise ModelFileError(f"{path}: damaged or no safetensors file ({err}).") from None
