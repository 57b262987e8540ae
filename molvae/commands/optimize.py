"""Command `optimize`: search the latent space of a model for molecules that score better."""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from functools import cache
from pathlib import Path

import pandas as pd

from molvae.api import load
from molvae.chemistry.oracles import Objective, get_objective
from molvae.commands.latent_space import read_table, write_table
from molvae.errors import MolvaeError
from molvae.runtime.workers import WorkerDied, Workers


def optimize(
    model: Path,
    objective: str,
    calls: int,
    *,
    start: list[str],
    similar_to: str | None,
    min_similarity: float,
    history: Path | None,
    out: str,
    seed: int,
    time_limit: float,
    max_tokens: int | None = None,
) -> pd.DataFrame:
    """Write the history of a search to `out` while it grows, and return it; see `molvae.api.Model.optimize`.

    The objective has a process of its own: a molecule at which it dies, or takes too long, has no score.

    Args:
        model: folder, or pretrained:NAME.
        objective: a name, or FILE.py:FUNCTION.
        calls: of the objective, at most.
        start: SMILES to begin with.
        similar_to: SMILES that molecules have to be similar to.
        min_similarity: to it.
        history: file of an earlier search; the new rows come behind its own where it is `out`.
        out: file .csv or .parquet, or - for stdout, at the end.
        seed: of the search.
        time_limit: seconds that the objective may take for a molecule.
        max_tokens: longest string; None: the model's length.
    """
    earlier = None if history is None else _read_history(history)
    is_appended = history is not None and out != "-" and history.resolve() == Path(out).resolve()

    def save(table: pd.DataFrame) -> None:
        whole = pd.concat([earlier, table], ignore_index=True) if is_appended else table
        write_table(whole.assign(call=range(1, len(whole) + 1)), out)

    with Workers(1, isolated=True) as workers:

        def score(smiles: str) -> float:
            try:
                score, error = workers.run(_score_molecule, (objective, smiles), seconds=time_limit)
            except WorkerDied as death:
                workers.run(_check_objective, objective)  # not part of the time for the next molecule
                score, error = math.nan, f"the process of the objective ended: {death.rejection.detail}"
            if error:
                raise MolvaeError(error)
            return score

        workers.run(_check_objective, objective)
        table = load(model).optimize(
            score, calls, start=start, similar_to=similar_to, min_similarity=min_similarity, history=earlier,
            save=None if out == "-" else save, seed=seed, max_tokens=max_tokens,
        )  # fmt: skip
    if out == "-":
        write_table(table, out)
    return table


@cache
def load_objective(name: str) -> Objective:
    """Load the scoring function of a name, or of FILE.py:FUNCTION, whose file runs once in a process.

    Raises:
        MolvaeError: there is no such name, file or function.
    """
    path, colon, function = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise MolvaeError(f"--objective {name}: name the function, too, as {name}:FUNCTION.")
        return get_objective(name)
    spec = importlib.util.spec_from_file_location("molvae_objective", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise MolvaeError(f"--objective {name}: {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as err:  # whatever somebody's file does
        where = traceback.extract_tb(err.__traceback__)[-1]
        reason = f"{type(err).__name__}: {err} ({where.filename}, line {where.lineno})"
        raise MolvaeError(f"--objective {name}: {path} cannot be run: {reason}.") from err
    objective: Objective | None = getattr(module, function, None)
    if objective is None or not callable(objective):
        raise MolvaeError(f"--objective {name}: {path} has no function {function!r}.")
    return objective


def _check_objective(name: str) -> None:
    load_objective(name)


def _score_molecule(task: tuple[str, str]) -> tuple[float, str]:
    """Compute the score of a molecule, and why there is none, as text: not every error can be sent."""
    name, smiles = task
    try:
        return float(load_objective(name)(smiles)), ""
    except (Exception, SystemExit) as err:  # noqa: BLE001  whatever somebody's function does to one molecule
        return math.nan, f"{type(err).__name__}: {err}"


def _read_history(file: Path) -> pd.DataFrame:
    try:
        return read_table(file).astype({"smiles": object, "score": float})
    except (ValueError, KeyError) as err:
        raise MolvaeError(f"--history {file}: not a history with columns smiles and score ({err}).") from None
