"""model.json, a model's card: all that its folder says of it but the weights. Read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from molvae.data.vocabulary import Vocabulary
from molvae.errors import ModelFileError

FORMAT_VERSION = 2
WEIGHTS, CARD = "model.safetensors", "model.json"


def read_card(path: Path) -> dict[str, Any]:
    """The content of a card.

    Raises:
        ModelFileError: there is no such file, or it is damaged or of another format.
    """
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


def vocabulary_of(folder: Path) -> Vocabulary:
    """The vocabulary of the model in a folder.

    Raises:
        ModelFileError: as `read_card`, or the card holds no vocabulary.
    """
    path = Path(folder) / CARD
    return Vocabulary.from_json(read_card(path).get("vocabulary"), str(path))
