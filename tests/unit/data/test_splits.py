"""Splits that a data set will have, known before anything is trained."""

from __future__ import annotations

import pytest

from molvae.data.splits import check_reference_split, list_splits
from molvae.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "fractions", "expected"),
    [
        ([], (0.02, 0.1), ["test", "train", "valid"]),
        ([], (0.02, 0.0), ["train", "valid"]),
        (["train", "test"], (0.02, 0.1), ["test", "train", "valid"]),
        (["train", "valid"], (0.02, 0.1), ["train", "valid"]),  # the data name splits, so no test split is made
        (["scaffold"], (0.0, 0.1), ["scaffold", "train"]),
    ],
)
def test_splits_are_those_of_the_data_and_those_that_the_fractions_make(given, fractions, expected):
    assert list_splits(given, *fractions) == expected


def test_a_reference_split_that_will_not_be_there_is_refused_with_those_that_will():
    check_reference_split("test", [], 0.02, 0.1)
    with pytest.raises(ConfigError, match=r"no split 'test' \(the data name train, valid\)\. Known: train, valid"):
        check_reference_split("test", ["train", "valid"], 0.02, 0.1)
    with pytest.raises(ConfigError, match=r"no split 'scafold' .*Did you mean 'scaffold'\?"):
        check_reference_split("scafold", ["train", "scaffold"], 0.02, 0.1)
    with pytest.raises(ConfigError, match=r"no split 'test' \(the data name no split\)"):
        check_reference_split("test", [], 0.02, 0.0)
