"""The errors a user can meet. Each says what happened, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MolvaeError(ValueError):
    """Anything a user can mend: shown as one message, without a traceback."""


class ConfigError(MolvaeError):
    """A setting that does not exist, is out of range, or contradicts another."""


class DataError(MolvaeError):
    """An input file that cannot be read as a table of SMILES, or that leaves no molecule."""


class ModelFileError(MolvaeError):
    """A model folder or checkpoint that is missing, damaged, of another kind or another version."""


class TrainingError(MolvaeError):
    """Training that cannot go on: loss not finite, nothing to train on."""


class Interrupted(MolvaeError):
    """A stage was asked to stop, and what it saved holds all that is needed to go on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known word, else the list of the known ones."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
