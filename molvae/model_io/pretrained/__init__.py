"""Models that come with the package; the README.md beside each says how it was made and how good it is."""

from __future__ import annotations

from pathlib import Path

from molvae.errors import ModelFileError

PREFIX = "pretrained:"
_FOLDER = Path(__file__).parent


def list_pretrained() -> list[str]:
    """List the names of the models that come with the package."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/model.json"))


def resolve_model_folder(model: str | Path) -> Path:
    """Find the folder of a model: that of pretrained:NAME, or the folder that it is itself.

    Raises:
        ModelFileError: there is no such pretrained model.
    """
    if not str(model).startswith(PREFIX):
        return Path(model)
    name = str(model).removeprefix(PREFIX)
    if name not in list_pretrained():
        raise ModelFileError(f"{model}: no pretrained model of that name; there are {', '.join(list_pretrained())}.")
    return _FOLDER / name
