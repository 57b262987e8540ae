"""The model folder: weights in safetensors, the rest in JSON. Nothing that can carry code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import psutil
import torch
from torch import Tensor, nn

from molvae.config import ModelSettings, PriorSettings, parse_settings
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, ModelFileError
from molvae.model_io.card import (
    CARD_FILE,
    FORMAT_VERSION,
    MAX_DETAIL,
    WEIGHTS_FILE,
    ModelCard,
    make_checksums,
    read_card,
    verify_weights,
)
from molvae.model_io.tensors import DTYPES, read_shapes, read_tensors, write_tensors
from molvae.nn.priors import PSEUDO_INPUT_TOKENS, Prior, build_prior
from molvae.nn.vae import VAE
from molvae.runtime.files import compute_sha256, write_json

PRIOR_WEIGHTS_FILE, PRIOR_CARD_FILE = "prior.safetensors", "prior.json"
WAYS_OUT = (
    f"Run `molvae prior` again, or delete {PRIOR_CARD_FILE} and {PRIOR_WEIGHTS_FILE} "
    "to sample from the prior of training."
)


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
    if not os.path.lexists(card_file):
        if os.path.lexists(weights_file):
            raise ModelFileError(f"{card_file}: no such file beside {PRIOR_WEIGHTS_FILE}. {WAYS_OUT}")
        return model
    prior_card = read_card(card_file)
    if prior_card.get("weights_sha256") != compute_sha256(Path(folder) / WEIGHTS_FILE):
        raise ModelFileError(
            f"{card_file}: this prior was fitted to other weights than {WEIGHTS_FILE} holds. {WAYS_OUT}"
        )
    with _explain_misfit(card_file, weights_file):
        settings = parse_settings(PriorSettings, prior_card["settings"], "settings.")
        if settings.kind != "as_trained":
            with torch.device("meta"):
                prior = build_prior(settings.kind, settings.components, model.network.encoder)
            _fill(prior, prior_card, card_file, weights_file)
            model.network.prior = prior.eval()
        else:
            _check_shapes({}, weights_file)
            verify_weights(prior_card, card_file, weights_file)
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
        properties = card.get("properties", [])
        if not isinstance(properties, list) or not all(isinstance(name, str) for name in properties):
            raise TypeError("properties are no list of names")
        with torch.device("meta"):  # takes no memory, whatever sizes the card claims, and draws no random number
            network = VAE(len(vocabulary), settings, properties)
        _fill(network, card, card_file, weights_file)
    return TrainedModel(network.eval(), vocabulary, cast(ModelCard, card))


def _fill(network: nn.Module, card: dict[str, Any], card_file: Path, weights_file: Path) -> None:
    """Fill a network on the meta device with the tensors of a file: what fits, and is as it was written, is read.

    Raises:
        ModelFileError: the tensors are not those that the card tells of, hold values that are not finite, or take more
            memory than there is.
        RuntimeError: names or shapes do not fit.
    """
    expected = network.state_dict()
    _check_shapes(expected, weights_file)
    n_bytes = sum(tensor.nbytes for tensor in expected.values())
    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise ModelFileError(f"{weights_file}: takes {n_bytes / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free.")
    verify_weights(card, card_file, weights_file)
    tensors = read_tensors(weights_file)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelFileError(f"{weights_file}: {name} holds values that are no finite real numbers. Train again.")
        if not tensor.is_floating_point() and not ((tensor >= 1) & (tensor <= PSEUDO_INPUT_TOKENS)).all():
            raise ModelFileError(f"{weights_file}: {name} are no lengths of pseudo-inputs. Train again.")
    network.to_empty(device="cpu").load_state_dict(tensors)


def _check_shapes(expected: Mapping[str, Tensor], weights_file: Path) -> None:
    """Check by its header that a file holds the tensors of a network.

    Raises:
        ModelFileError: a tensor holds whole numbers where real ones belong.
        RuntimeError: names or shapes do not fit.
    """
    shapes = read_shapes(weights_file)
    if misfit := sorted(expected.keys() ^ shapes.keys()):
        raise RuntimeError(f"{misfit[0][:80]} is in {'the file' if misfit[0] in shapes else 'the networks'} only.")
    for name, (dtype, shape) in shapes.items():
        if tuple(expected[name].shape) != shape:
            raise RuntimeError(f"{name} has shape {str(shape):.80}, not {tuple(expected[name].shape)}.")
        if dtype not in (DTYPES if expected[name].is_floating_point() else {"I64"}):
            kind = "no finite real numbers" if expected[name].is_floating_point() else "no whole numbers"
            raise ModelFileError(f"{weights_file}: {name} holds values that are {kind}, but {dtype}. Train again.")


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
        raise ModelFileError(
            f"{card_file}: the settings are missing or incomplete ({repr(err):.{MAX_DETAIL}})."
        ) from None
    except ConfigError as err:
        raise ModelFileError(f"{card_file}: {str(err):.{MAX_DETAIL}}") from None
    except MemoryError:
        raise ModelFileError(f"{weights_file}: there is not enough memory to read it.") from None
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
