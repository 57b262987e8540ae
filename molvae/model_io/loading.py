"""Loading a model for use: from a folder or by its pretrained name, checked and on a device."""

from __future__ import annotations

from pathlib import Path

from molvae.chemistry.selfies_codec import decode_selfies
from molvae.chemistry.tokenization import detokenize
from molvae.errors import ModelFileError
from molvae.model_io.card import CARD_FILE, MAX_DETAIL
from molvae.model_io.folder import TrainedModel, load_model
from molvae.model_io.pretrained import resolve_model_folder


def open_model(folder: str | Path, device: str = "cpu") -> TrainedModel:
    """Load the model in a folder, or pretrained:NAME, onto a device, and check that its symbols decode.

    Raises:
        ModelFileError: missing, damaged, or of another version; the message names the file.
    """
    folder = resolve_model_folder(folder)
    model = load_model(folder)
    for symbol in model.vocabulary.symbols:  # an error now, not after an hour of sampling
        try:
            decode_selfies(detokenize([symbol]), model.vocabulary.constraints)
        except ModelFileError as err:
            raise ModelFileError(f"{folder / CARD_FILE}: {str(err):.{MAX_DETAIL}}") from None
    model.network.to(device)
    return model
