"""What sampling and the Python face share: opening a model, and from its token strings to molecules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from molvae.chemistry.round_trip import are_stable
from molvae.chemistry.selfies_codec import decode
from molvae.chemistry.tokenization import plain, selfies_of
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ModelFileError
from molvae.inference.decoding import Strings
from molvae.inference.sampling import Accept
from molvae.model_io.card import CARD
from molvae.model_io.folder import load_model
from molvae.model_io.pretrained import folder_of
from molvae.nn.vae import VAE
from molvae.runtime.workers import Workers

TASK_STRINGS = 1024  # a few samples are not worth a process
ALONE = Workers()


def opened(folder: str | Path, device: str = "cpu") -> tuple[VAE, Vocabulary, dict[str, Any]]:
    """The network in a model folder, or of pretrained:NAME, its vocabulary and its card.

    Raises:
        ModelFileError: missing, damaged, or of another version; the message names the file.
    """
    folder = folder_of(folder)
    network, vocabulary, card = load_model(folder)
    for symbol in vocabulary.symbols:  # said here, not after an hour of sampling
        try:
            decode(plain([symbol]), vocabulary.caps)
        except ModelFileError as err:
            raise ModelFileError(f"{folder / CARD}: {err}") from None
    return network.to(device), vocabulary, card


def symbols_of(vocabulary: Vocabulary, strings: Strings) -> Iterable[list[str]]:
    """SELFIES symbols of decoded strings."""
    return (selfies_of(vocabulary, ids) for ids in strings.ids.tolist())


def stable(vocabulary: Vocabulary, workers: Workers = ALONE) -> Accept:
    """A function that tells which decoded strings are stable, see `molvae.chemistry.round_trip`."""

    def accept(strings: Strings) -> np.ndarray:
        symbols = list(symbols_of(vocabulary, strings))
        tasks = [(symbols[at : at + TASK_STRINGS], vocabulary.caps) for at in range(0, len(symbols), TASK_STRINGS)]
        return np.array([one for part in workers.in_order(are_stable, tasks) for one in part], dtype=bool)

    return accept
