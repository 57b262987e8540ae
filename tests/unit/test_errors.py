"""Errors, and hints at what was meant."""

from __future__ import annotations

import molvae
from molvae.errors import did_you_mean


def test_the_nearest_word_is_named_and_else_all_words():
    assert did_you_mean("epoch", ["batch_size", "epochs"]) == " Did you mean 'epochs'?"
    assert did_you_mean("zzz", ["a", "b"]) == " Known: a, b."


def test_every_error_of_the_package_is_caught_by_one_class():
    for name in ("ConfigError", "DataError", "ModelFileError", "TrainingError"):
        assert issubclass(getattr(molvae, name), molvae.MolvaeError)
    assert issubclass(molvae.MolvaeError, ValueError)
