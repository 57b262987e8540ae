"""Models that come with the package; the README.md beside each says how it was made and how good it is."""

from __future__ import annotations

from pathlib import Path

from molvae.errors import ModelFileError

PREFIX = "pretrained:"
_HERE = Path(__file__).parent


def names() -> list[str]:
    """The models that there are."""
    return sorted(path.parent.name for path in _HERE.glob("*/model.json"))


def folder_of(model: str | Path) -> Path:
    """The folder of a model: that of pretrained:NAME, or the folder that it is itself.

    Raises:
        ModelFileError: there is no such pretrained model.
    """
    if not str(model).startswith(PREFIX):
        return Path(model)
    name = str(model).removeprefix(PREFIX)
    if name not in names():
        raise ModelFileError(f"{model}: no pretrained model of that name; there are {', '.join(names())}.")
    return _HERE / name
