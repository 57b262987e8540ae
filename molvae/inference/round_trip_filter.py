"""Rejection of strings that do not survive the round trip to a molecule and back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from molvae.chemistry.round_trip import check_round_trips, reject_string
from molvae.data.tokenizer import ids_to_selfies
from molvae.data.vocabulary import Vocabulary
from molvae.inference.decoding import TokenStrings
from molvae.inference.sampling import AcceptFunction
from molvae.runtime.workers import Workers

TASK_STRINGS = 1024  # a few samples are not worth a process
SINGLE_PROCESS = Workers()


def iter_selfies(vocabulary: Vocabulary, strings: TokenStrings) -> Iterator[list[str]]:
    """Convert decoded strings to SELFIES symbols."""
    return (ids_to_selfies(vocabulary, ids) for ids in strings.ids.tolist())


def make_round_trip_filter(vocabulary: Vocabulary, workers: Workers = SINGLE_PROCESS) -> AcceptFunction:
    """Make a function that tells which decoded strings are round-trip consistent, see `molvae.chemistry.round_trip`."""

    def accept(strings: TokenStrings) -> np.ndarray:
        selfies = list(iter_selfies(vocabulary, strings))
        tasks = [
            (selfies[at : at + TASK_STRINGS], vocabulary.constraints) for at in range(0, len(selfies), TASK_STRINGS)
        ]
        parts = workers.map(check_round_trips, tasks, reject_string)
        return np.array([flag for part in parts for flag in part], dtype=bool)

    return accept
