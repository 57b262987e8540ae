"""Stage `latent`: diagnostics of a model's latent space, and projections of it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from molvae.api import Model, load
from molvae.data.readers import find_smiles_column, find_split_column, read_column_names, read_rows
from molvae.data.unreadable import require_a_molecule
from molvae.errors import DataError
from molvae.inference.posterior import compute_posterior
from molvae.inference.sampling import warn_of_cut_strings
from molvae.latent.diagnostics import compute_diagnostics
from molvae.latent.pca_baseline import MAX_TRAINING_MOLECULES
from molvae.latent.projections import compute_projections
from molvae.latent.space import LatentSpace
from molvae.metrics.molecule_table import warm_up
from molvae.runtime.files import atomic_write, write_json
from molvae.runtime.provenance import get_versions
from molvae.runtime.seeds import derive_seed
from molvae.runtime.workers import Workers

if TYPE_CHECKING:
    from molvae.config import LatentSettings
    from molvae.data.dataset import TokenSet

log = logging.getLogger(__name__)


def latent(model: Path, molecules: Path, settings: LatentSettings, out: Path, *, threads: int = 1) -> dict[str, Any]:
    """Write `out`/diagnostics.json, metrics and verdict, and `out`/projections.parquet, molecules in two dimensions.

    Args:
        model: folder, or pretrained:NAME.
        molecules: a file of SMILES that the model was not trained on; of one with a column `split`, as `featurize`
            writes it, the rows of `test`, or of `valid` where there is none, and those of `train` for the PCA baseline.
        settings: of the stage.
        out: folder to write.
        threads: of the CPU.

    Returns:
        the diagnostics.

    Raises:
        DataError: the model can read fewer than two of them; or none was held out.
    """
    torch.set_num_threads(threads)
    with Workers(threads) as workers:
        workers.start(warm_up)
        loaded = load(model)
        max_tokens = settings.max_tokens or loaded.max_tokens
        held_out, training = _read_splits(molecules)
        places = _choose_random(len(held_out), max(settings.n, settings.projections), settings.seed, "latent")
        read, tokens = _tokenize(loaded, [held_out[place] for place in places])
        measured = tokens.select(np.flatnonzero(read < settings.n))
        if len(measured) < 2:
            raise DataError(f"{molecules}: {len(measured)} molecules that the model can read; 2 at least are needed.")
        pca_places = _choose_random(len(training), MAX_TRAINING_MOLECULES, settings.seed, "linear")
        pca_tokens = _tokenize(loaded, [training[place] for place in pca_places])[1]
        log.info("measuring the latent space with %d molecules", len(measured))
        space = LatentSpace(
            loaded.network, loaded.vocabulary, measured, pca_tokens if len(pca_tokens) > 1 else None,
            max_tokens=max_tokens, seed=settings.seed, workers=workers,
        )  # fmt: skip
        diagnostics = compute_diagnostics(space)
        log.info("%s: %s", diagnostics["verdict"], diagnostics["meaning"])
        n_cut, n_decoded = diagnostics["truncated"], diagnostics["strings_decoded"]
        warn_of_cut_strings(n_cut, n_decoded, max_tokens, "latent.max_tokens")
        projected = np.flatnonzero(read < settings.projections)
        rows = np.array([held_out[place].row for place in places[read[projected]]], dtype=np.int64)
        mu, _ = compute_posterior(loaded.network, tokens.select(projected))
        table, explained = compute_projections(rows, space.describe(tokens.select(projected)), mu.numpy(), workers)
        summary = {"n": len(table), "explained_variance": explained} if len(table) else None
    content = {**diagnostics, "projections": summary, "settings": settings.model_dump(), "versions": get_versions()}
    with atomic_write(out / "projections.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    write_json(out / "diagnostics.json", content)
    return content


def collect_metrics(diagnostics: dict[str, Any]) -> dict[str, float]:
    """Collect the metrics of latent diagnostics that a list of runs shows."""
    completeness, usage = diagnostics["completeness"], diagnostics["usage"]
    return {
        "mutual_information_nats": usage["mutual_information_nats"],
        "active_units": usage["active_units"],
        "same_molecule": diagnostics["reconstruction"]["same_molecule"],
        "prior_good": completeness["prior"]["good"],
        "posterior_good": completeness["posterior"]["good"],
        "neighbors": diagnostics["continuity"]["latent"]["neighbors"],
    }


class _Molecule(NamedTuple):
    row: int  # of the file, from 1
    smiles: str | None  # None where the row is damaged


def _read_splits(file: Path) -> tuple[list[_Molecule], list[_Molecule]]:
    """Read the held-out and the training molecules of a file; without splits all of them were held out.

    Raises:
        DataError: there are splits, but neither `test` nor `valid`.
    """
    splits: dict[str | None, list[_Molecule]] = defaultdict(list)
    rows = list(read_rows(file, find_smiles_column(file)))
    require_a_molecule(file, rows)
    for number, row in enumerate(rows, 1):
        splits[row.split or None].append(_Molecule(number, row.usable_smiles))
    if set(splits) == {None}:
        return splits[None], []
    if not (held_out := splits["test"] or splits["valid"]):
        present = ", ".join(sorted(name for name, rows in splits.items() if name and rows))
        column = find_split_column(read_column_names(file))
        raise DataError(f"{file}: column {column!r} holds {present}, and none of it is 'test' or 'valid'.")
    return held_out, splits["train"]


def _tokenize(model: Model, molecules: Sequence[_Molecule]) -> tuple[np.ndarray, TokenSet]:
    """Which of the molecules the model can read, and their tokens."""
    return model.tokenize([molecule.smiles for molecule in molecules], [molecule.row for molecule in molecules])


def _choose_random(n: int, at_most: int, seed: int, purpose: str) -> np.ndarray:
    """At most so many of n places, in random order."""
    return np.random.default_rng(derive_seed(seed, purpose)).permutation(n)[:at_most]
