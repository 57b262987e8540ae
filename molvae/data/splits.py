"""Splits: which one a molecule has, and which ones a data set will have. Standard library only."""

from __future__ import annotations

from collections.abc import Collection

from molvae.errors import ConfigError, suggest_nearest


def choose_split(
    name: str | None, fraction: float, given: Collection[str], valid_fraction: float, test_fraction: float
) -> str:
    """Choose the split of a molecule: that of the data, else by a hash.

    Args:
        name: of the split that the data give the molecule.
        fraction: hash of the molecule, in [0, 1).
        given: as in `list_splits`.
        valid_fraction: as in `list_splits`.
        test_fraction: as in `list_splits`.
    """
    test_fraction = 0.0 if given else test_fraction
    if fraction < test_fraction:
        return "test"
    is_valid = fraction < test_fraction + valid_fraction
    if is_valid and (name or "train") == "train" and "valid" not in given:
        return "valid"
    return name or "train"


def list_splits(given: Collection[str], valid_fraction: float, test_fraction: float) -> list[str]:
    """List the splits that `featurize` makes.

    Args:
        given: splits that the data name; none: a hash of the molecule splits.
        valid_fraction: setting of `featurize`.
        test_fraction: setting of `featurize`.

    >>> list_splits([], 0.02, 0.1)
    ['test', 'train', 'valid']
    """
    names = {"train", *given}
    if valid_fraction:
        names.add("valid")
    if test_fraction and not given:
        names.add("test")
    return sorted(names)


def check_reference_split(reference: str, given: Collection[str], valid_fraction: float, test_fraction: float) -> None:
    """Check that the split that samples are to be compared with will be there, before anything is trained.

    Args:
        reference: setting `validate.reference`, the name of a split.
        given: as in `list_splits`.
        valid_fraction: as in `list_splits`.
        test_fraction: as in `list_splits`.

    Raises:
        ConfigError: it will not.
    """
    names = list_splits(given, valid_fraction, test_fraction)
    if reference not in names:
        named = f"the data name {', '.join(sorted(given))}" if given else "the data name no split"
        raise ConfigError(
            f"validate.reference: there will be no split {reference!r} ({named}).{suggest_nearest(reference, names)} "
            "Give one of them, 'moses' or a file of molecules."
        )
