"""Stage by hand `optimize`: search the latent space of a model for molecules that score better."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

import pandas as pd

from molvae.api import load
from molvae.commands.latent_space import read_table, write
from molvae.errors import MolvaeError
from molvae.latent.optimization import Score, named


def optimize(
    model: Path, score: str, calls: int, *, start: list[str], like: str | None, similarity: float,
    known: Path | None, out: str, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Write the ledger of a search to `out` while it grows, and return it; see `molvae.api.Model.optimize`.

    Args:
        score: a name, or FILE.py:FUNCTION.
        known: file of an earlier ledger; the new rows come behind its own where it is `out`.
        out: file .csv or .parquet, or - for stdout, at the end.
    """
    function = scoring(score)
    earlier = None if known is None else _ledger(known)
    goes_on = known is not None and out != "-" and known.resolve() == Path(out).resolve()

    def save(ledger: pd.DataFrame) -> None:
        whole = pd.concat([earlier, ledger], ignore_index=True) if goes_on else ledger
        write(whole.assign(call=range(1, len(whole) + 1)), out)

    found = load(model).optimize(
        function, calls, start=start, like=like, similarity=similarity, known=earlier,
        save=None if out == "-" else save, seed=seed,
    )  # fmt: skip
    if out == "-":
        write(found, out)
    return found


def scoring(name: str) -> Score:
    """The scoring function of a name, or of FILE.py:FUNCTION.

    Raises:
        MolvaeError: there is no such name, file or function.
    """
    path, colon, function = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise MolvaeError(f"--score {name}: name the function, too, as {name}:FUNCTION.")
        return named(name)
    spec = importlib.util.spec_from_file_location("molvae_score", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise MolvaeError(f"--score {name}: {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except Exception as err:  # whatever somebody's file does
        where = traceback.extract_tb(err.__traceback__)[-1]
        why = f"{type(err).__name__}: {err} ({where.filename}, line {where.lineno})"
        raise MolvaeError(f"--score {name}: {path} cannot be run: {why}.") from err
    if not callable(found := getattr(module, function, None)):
        raise MolvaeError(f"--score {name}: {path} has no function {function!r}.")
    return found


def _ledger(file: Path) -> pd.DataFrame:
    try:
        return read_table(file).astype({"smiles": object, "score": float})
    except (ValueError, KeyError) as err:
        raise MolvaeError(f"--known {file}: not a ledger with columns smiles and score ({err}).") from None
