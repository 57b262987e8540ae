"""The errors of the package. Each message says what happened, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MolvaeError(ValueError):
    """Anything a user can fix: shown as one message, without a traceback."""


class ConfigError(MolvaeError):
    """A setting that does not exist, is out of range, or contradicts another."""


class DataError(MolvaeError):
    """An input file that cannot be read as a table of SMILES, or that leaves no molecule."""


class ModelFileError(MolvaeError):
    """A model folder or checkpoint that is missing, damaged, of another kind or another version."""


class TrainingError(MolvaeError):
    """Training that cannot continue: the loss is not finite, or there is nothing to train on."""


class Interrupted(MolvaeError):
    """A stage was asked to stop, and has saved all that is needed to resume."""


class Rejected(Exception):
    """A row that becomes no molecule: a reason code for counting and a detail for reading."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Write " Did you mean X?" for the known word nearest to `word`, else list the known ones.

    >>> suggest_nearest("epoch", ["epochs", "batch_size"])
    " Did you mean 'epochs'?"
    """
    known = list(known)
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else f" Known: {', '.join(known)}."
