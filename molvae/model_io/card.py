"""model.json, the model card: everything in a model folder but the weights. Read without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from molvae.config import FeaturizeSettings, parse_settings
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ConfigError, ModelFileError
from molvae.runtime.files import compute_json_hash, compute_sha256

FORMAT_VERSION = 3
MAX_CARD_BYTES = 10_000_000  # as Python objects it takes up to thirty times as much memory
MAX_DETAIL = 1000  # characters of what an error quotes of a card, whose values may be of any length
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "model.json"
UNKNOWN_MAX_TOKENS = 128  # of models whose card does not say how long the molecules are that they were trained on


class ModelCard(TypedDict, total=False):
    """The content of a model card.

    Attributes:
        format_version: of the folder.
        vocabulary: as `Vocabulary.to_json` writes it.
        settings: sections by name; `model` must be there.
        properties: names of those that the head predicts.
        versions: library -> version.
        provenance: id, data set, checksums, code digest and commit that the model follows from.
        training: epochs, time, device, sizes.
        metrics: the row of the history of the epoch whose weights these are.
        metrics_before: the same before training; of a fine-tuned model only.
        collapsed: whether the posterior has collapsed (`molvae.inference.posterior_diagnostics.is_collapsed`).
        prior: the content of prior.json, where a prior was fitted; not in the file.
        name: of a pretrained model.
        checksums: SHA-256 of the weights file, `weights`, and of the rest of this card, `card`; by them a file that was
            damaged or changed is known. They find damage and are no signature: whoever changes a file can make them
            anew or remove them. So a card without them is loaded, too, and a stranger's model is as safe to open with
            them as without, and as little to be trusted.
    """

    format_version: int
    vocabulary: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    properties: list[str]
    versions: dict[str, str]
    provenance: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, float]
    metrics_before: dict[str, float]
    collapsed: bool
    prior: dict[str, Any]
    name: str
    checksums: dict[str, str]


def read_card(path: Path) -> dict[str, Any]:
    """Read a model card, or the card of a fitted prior.

    Raises:
        ModelFileError: there is no such file, or it is damaged, was changed after it was written, or is of another
            format.
    """
    if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_CARD_BYTES):
        raise ModelFileError(f"{path}: no model card, which is a file of at most {MAX_CARD_BYTES} bytes.")
    try:
        card = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError(f"{path}: no such file. A model folder holds {CARD_FILE} and {WEIGHTS_FILE}.") from None
    except (OSError, ValueError, RecursionError) as err:
        raise ModelFileError(
            f"{path}: damaged, not JSON ({str(err):.{MAX_DETAIL}}). Train again or copy it afresh."
        ) from None
    version = card.get("format_version") if isinstance(card, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        name = repr(version) if version is None or isinstance(version, int | str) else f"a {type(version).__name__}"
        raise ModelFileError(
            f"{path}: format {name:.40}, this molvae reads format {FORMAT_VERSION}. Train the model again."
        )
    content: dict[str, Any] = card
    try:
        _verify(content, "card", lambda: _compute_card_hash(content), path, path)
        _check_settings(content)
    except (KeyError, TypeError, RecursionError) as err:
        raise ModelFileError(f"{path}: the settings are missing or incomplete ({repr(err):.{MAX_DETAIL}}).") from None
    except ConfigError as err:
        raise ModelFileError(f"{path}: {str(err):.{MAX_DETAIL}}") from None
    return content


def _check_settings(card: Mapping[str, Any]) -> None:
    """Check what is read of a card long after it was opened: how molecules are standardised, and how long they are."""
    settings = card["settings"]
    if not isinstance(settings, dict):
        raise TypeError("settings are no sections by name")
    featurize = settings.get("featurize", {})
    if isinstance(featurize, dict):  # a setting that another release has is none of ours
        featurize = {key: value for key, value in featurize.items() if key in FeaturizeSettings.model_fields}
    parse_settings(FeaturizeSettings, featurize, "settings.featurize.")


def make_checksums(card: Mapping[str, Any], weights_file: Path) -> dict[str, str]:
    """Make the checksums of a card and of the weights beside it."""
    return {"weights": compute_sha256(weights_file), "card": _compute_card_hash(card)}


def verify_weights(card: Mapping[str, Any], card_file: Path, weights_file: Path) -> None:
    """Check that weights have not changed since their card was written; a card may have no checksums.

    Raises:
        ModelFileError: they have.
    """
    _verify(card, "weights", lambda: compute_sha256(weights_file), weights_file, card_file)


def _compute_card_hash(card: Mapping[str, Any]) -> str:
    return compute_json_hash({name: value for name, value in card.items() if name != "checksums"})


def _verify(card: Mapping[str, Any], name: str, compute: Callable[[], str], file: Path, card_file: Path) -> None:
    """Compare a checksum of a card with the one that `compute` finds for `file`."""
    if "checksums" not in card:
        return
    expected = card["checksums"]
    if not isinstance(expected, dict) or expected.get(name) != compute():
        raise ModelFileError(
            f"{file}: its checksum is not the one in {card_file.name}: it was damaged or changed after it was "
            "written. Copy it afresh or train again; after a change on purpose remove `checksums` from the card."
        )


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary of the model in a folder.

    Raises:
        ModelFileError: as `read_card`, or the card holds no vocabulary.
    """
    path = Path(folder) / CARD_FILE
    return Vocabulary.from_json(read_card(path).get("vocabulary"), str(path))


def get_max_tokens(card: ModelCard) -> int:
    """Get the longest string that a model is to write: that of the molecules it was trained on, and its end.

    A card that does not say has the default of `featurize.max_tokens`.
    Merged tokens stand for several symbols, so that this many symbols are at most as many tokens.

    >>> get_max_tokens({"settings": {"featurize": {"max_tokens": 400}}})
    401
    """
    longest: int = card.get("settings", {}).get("featurize", {}).get("max_tokens", UNKNOWN_MAX_TOKENS)
    return longest + 1
