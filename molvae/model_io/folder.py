"""The model folder: weights in safetensors, the rest in JSON. Nothing that can carry code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from molvae.config import ModelSettings, PriorSettings, parse_settings
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, ModelFileError
from molvae.model_io.card import (
    CARD_FILE,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    ModelCard,
    make_checksums,
    read_card,
    verify_checksums,
)
from molvae.model_io.tensors import read_tensors, write_tensors
from molvae.nn.priors import Prior, build_prior
from molvae.nn.vae import VAE
from molvae.runtime.files import compute_sha256, write_json

PRIOR_WEIGHTS_FILE, PRIOR_CARD_FILE = "prior.safetensors", "prior.json"


class TrainedModel(NamedTuple):
    """What a model folder holds: the network, in evaluation mode, its vocabulary and its card."""

    network: VAE
    vocabulary: Vocabulary
    card: ModelCard


def save_model(folder: Path, model: VAE, vocabulary: Vocabulary, card: ModelCard) -> None:
    """Write a model folder: weights, and a card with everything else that is needed to use them.

    A prior that was fitted to other weights is removed.

    Args:
        folder: to write into.
        model: the network.
        vocabulary: of its tokens.
        card: must hold `settings` with a `model` section; the rest is kept as it is.
    """
    for name in (PRIOR_CARD_FILE, PRIOR_WEIGHTS_FILE):
        (folder / name).unlink(missing_ok=True)
    write_tensors(folder / WEIGHTS_FILE, model.state_dict())
    properties = {"properties": list(model.head.names)} if model.head is not None else {}
    content = {"format_version": FORMAT_VERSION, "vocabulary": vocabulary.to_json(), **properties, **card}
    _write_card(folder / CARD_FILE, content, folder / WEIGHTS_FILE)


def save_prior(folder: Path, prior: Prior | None, card: dict[str, Any]) -> None:
    """Write a prior into a model's folder, for its samples to come from; None: the one it was trained with.

    Args:
        folder: of the model.
        prior: fitted to its weights.
        card: must hold `settings` (kind, components) and `weights_sha256`, of the weights it was fitted to.
    """
    write_tensors(folder / PRIOR_WEIGHTS_FILE, {} if prior is None else prior.state_dict())
    _write_card(folder / PRIOR_CARD_FILE, {"format_version": FORMAT_VERSION, **card}, folder / PRIOR_WEIGHTS_FILE)


def _write_card(file: Path, content: dict[str, Any], weights_file: Path) -> None:
    content = json.loads(json.dumps(content))  # as it will be read, of which the checksum is
    write_json(file, {**content, "checksums": make_checksums(content, weights_file)})


def load_model(folder: Path) -> TrainedModel:
    """Load the model in a folder, on the CPU and in evaluation mode.

    Its prior is the one that stage `prior` put into the folder, if there is one, else the one it was trained with.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
    """
    model = load_model_as_trained(folder)
    card_file, weights_file = Path(folder) / PRIOR_CARD_FILE, Path(folder) / PRIOR_WEIGHTS_FILE
    if not card_file.exists():
        return model
    prior_card = read_card(card_file)
    if prior_card.get("weights_sha256") != compute_sha256(Path(folder) / WEIGHTS_FILE):
        raise ModelFileError(
            f"{card_file}: this prior was fitted to other weights than {WEIGHTS_FILE} holds. Run `molvae prior` again, "
            f"or delete {PRIOR_CARD_FILE} to sample from the prior of training."
        )
    with _explain_misfit(card_file, weights_file):
        settings = parse_settings(PriorSettings, prior_card["settings"], "settings.")
        if settings.kind != "as_trained":
            with torch.device("meta"):
                prior = build_prior(settings.kind, settings.components, model.network.encoder)
            _fill(prior, weights_file)
            model.network.prior = prior.eval()
    verify_checksums(prior_card, card_file, weights_file)
    return model._replace(card=cast(ModelCard, {**model.card, "prior": prior_card}))


def load_model_as_trained(folder: Path) -> TrainedModel:
    """Load the model in a folder with the prior of training, whether another was fitted or not.

    Raises:
        ModelFileError: as `load_model`.
    """
    card_file, weights_file = Path(folder) / CARD_FILE, Path(folder) / WEIGHTS_FILE
    card = read_card(card_file)
    vocabulary = Vocabulary.from_json(card.get("vocabulary"), str(card_file))
    with _explain_misfit(card_file, weights_file):
        settings = _parse_model_settings(card)
        with torch.device("meta"):  # takes no memory, whatever sizes the card claims, and draws no random number
            network = VAE(len(vocabulary), settings, card.get("properties", ()))
        _fill(network, weights_file)
    verify_checksums(card, card_file, weights_file)
    return TrainedModel(network.eval(), vocabulary, cast(ModelCard, card))


def _fill(network: nn.Module, weights_file: Path) -> None:
    """Fill a network on the meta device with the tensors of a file.

    Raises:
        ModelFileError: a tensor holds whole numbers where real ones belong, or values that are not finite.
        RuntimeError: names or shapes do not fit.
    """
    tensors = read_tensors(weights_file)
    for name, expected in network.state_dict().items():
        if name not in tensors or not expected.is_floating_point():
            continue
        if not tensors[name].is_floating_point() or not torch.isfinite(tensors[name]).all():
            raise ModelFileError(f"{weights_file}: {name} holds values that are no finite real numbers. Train again.")
    network.to_empty(device="cpu").load_state_dict(tensors)


def read_model_settings(folder: Path) -> ModelSettings:
    """Read the settings that the networks of the model in a folder are built by.

    Raises:
        ModelFileError: as `load_model`.
    """
    card_file, weights_file = Path(folder) / CARD_FILE, Path(folder) / WEIGHTS_FILE
    card = read_card(card_file)
    with _explain_misfit(card_file, weights_file):
        return _parse_model_settings(card)


def _parse_model_settings(card: dict[str, Any]) -> ModelSettings:
    return parse_settings(ModelSettings, card["settings"]["model"], "settings.model.")


@contextmanager
def _explain_misfit(card_file: Path, weights_file: Path) -> Iterator[None]:
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


def compute_model_id(network: VAE, vocabulary: Vocabulary) -> str:
    """Hash encoder, decoder and vocabulary, which give latent points their meaning: 16 hex digits."""
    digest = hashlib.sha256(json.dumps(vocabulary.to_json(), sort_keys=True).encode())
    for part in (network.encoder, network.decoder):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
