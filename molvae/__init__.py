"""molvae: SMILES to SELFIES to an RNN variational autoencoder to new molecules.

    import molvae
    model = molvae.load("results/example/model")
    model.sample(1000, seed=0)

Importing the package is fast: torch, rdkit and the rest are imported when a name is first used.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from molvae.errors import ConfigError, DataError, ModelFileError, MolvaeError, TrainingError

if TYPE_CHECKING:
    from molvae.api import Model, load
    from molvae.commands.evaluate import evaluate

__all__ = ["ConfigError", "DataError", "Model", "ModelFileError", "MolvaeError", "TrainingError", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used."""
    if name in {"load", "Model"}:
        from molvae import api

        return getattr(api, name)
    if name == "evaluate":
        from molvae.commands.evaluate import evaluate

        return evaluate
    if name == "__version__":
        return metadata.version("molvae")
    raise AttributeError(f"module 'molvae' has no attribute {name!r}")
