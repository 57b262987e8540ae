"""Stage by hand `optimize`: search the latent space of a model for molecules that score better."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pandas as pd

from molvae.errors import MolvaeError
from molvae.latent.search import Score, named
from molvae.model import load
from molvae.stages.points import read_table


def optimize(
    model: Path, score: str, calls: int, *, start: list[str], like: str | None, similarity: float,
    known: Path | None, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """The ledger of a search, see `molvae.model.Model.optimize`.

    Args:
        score: a name, or FILE.py:FUNCTION.
        known: file of an earlier ledger, .csv or .parquet.
    """
    function = scoring(score)
    earlier = None if known is None else _ledger(known)
    return load(model).optimize(
        function, calls, start=start, like=like, similarity=similarity, known=earlier, seed=seed
    )  # fmt: skip


def scoring(name: str) -> Score:
    """The scoring function of a name, or of FILE.py:FUNCTION.

    Raises:
        MolvaeError: there is no such name, file or function.
    """
    path, colon, function = name.rpartition(":")
    if not colon:
        return named(name)
    spec = importlib.util.spec_from_file_location("molvae_score", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise MolvaeError(f"--score {name}: {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # it may import what lies beside it
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, function, None)):
        raise MolvaeError(f"--score {name}: {path} has no function {function!r}.")
    return found


def _ledger(file: Path) -> pd.DataFrame:
    try:
        return read_table(file)[["smiles", "score"]].astype({"score": float})
    except (ValueError, KeyError) as err:
        raise MolvaeError(f"--known {file}: not a ledger with columns smiles and score ({err}).") from None
