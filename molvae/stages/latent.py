"""Stage `latent`: the health card of a model's latent space, and maps of it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from molvae.api import Model, load
from molvae.data.readers import SPLIT, columns_of, read_rows, smiles_column
from molvae.errors import DataError
from molvae.inference.posterior import posterior
from molvae.latent.diagnostics import Space, health
from molvae.latent.pca_baseline import TRAINING
from molvae.latent.projections import mapped
from molvae.metrics.molecule_table import prepare
from molvae.runtime.files import replacing, write_json
from molvae.runtime.provenance import versions
from molvae.runtime.seeds import derive
from molvae.runtime.workers import Workers

if TYPE_CHECKING:
    from molvae.config import LatentSettings
    from molvae.data.dataset import TokenSet

log = logging.getLogger(__name__)


def latent(model: Path, molecules: Path, settings: LatentSettings, out: Path, *, threads: int = 1) -> dict[str, Any]:
    """Write `out`/card.json, figures and verdict, and `out`/maps.parquet, molecules in two dimensions.

    Args:
        molecules: a file of SMILES that the model was not trained on; of one with a column `split`, as `featurize`
            writes it, the rows of `test`, or of `valid` where there is none, and those of `train` for a linear space
            to compare with.
    Raises:
        DataError: the model can read fewer than two of them; or none was held out.
    """
    torch.set_num_threads(threads)
    with Workers(threads) as workers:
        workers.start(prepare)
        loaded = load(model)
        held_out, training = _splits(molecules)
        places = _some(len(held_out), max(settings.n, settings.maps), settings.seed, "latent")
        read, tokens = _tokens(loaded, [held_out[place] for place in places])
        some = tokens.select(np.flatnonzero(read < settings.n))
        if len(some) < 2:
            raise DataError(f"{molecules}: {len(some)} molecules that the model can read; 2 at least are needed.")
        learned = _some(len(training), TRAINING, settings.seed, "linear")
        linear = _tokens(loaded, [training[place] for place in learned])[1]
        log.info("looking at the latent space with %d molecules", len(some))
        space = Space(
            loaded.network, loaded.vocabulary, some, linear if len(linear) > 1 else None,
            max_tokens=settings.max_tokens, seed=settings.seed, workers=workers,
        )  # fmt: skip
        found = health(space)
        log.info("%s: %s", found["verdict"], found["meaning"])
        shown = np.flatnonzero(read < settings.maps)
        rows = np.array([held_out[place].row for place in places[read[shown]]], dtype=np.int64)
        mu, _ = posterior(loaded.network, tokens.select(shown))
        table, explained = mapped(rows, space.described(tokens.select(shown)), mu.numpy(), workers)
        found["maps"] = {"n": len(table), "explained_variance": explained} if len(table) else None
    with replacing(out / "maps.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    write_json(out / "card.json", {**found, "settings": settings.model_dump(), "versions": versions()})
    return found


def headline(card: dict[str, Any]) -> dict[str, float]:
    """The figures of a card that a list of runs shows."""
    here, use = card["completeness"], card["use"]
    return {
        "mutual_information_nats": use["mutual_information_nats"],
        "active_units": use["active_units"],
        "same_molecule": card["reconstruction"]["same_molecule"],
        "prior_good": here["prior"]["good"],
        "posterior_good": here["posterior"]["good"],
        "neighbors": card["continuity"]["latent"]["neighbors"],
    }


class _Molecule(NamedTuple):
    row: int  # of the file, from 1
    smiles: str | None  # None where the row is damaged


def _splits(file: Path) -> tuple[list[_Molecule], list[_Molecule]]:
    """The molecules of a file that were held out, and those trained on; without splits all of them were held out.

    Raises:
        DataError: there are splits, but neither `test` nor `valid`.
    """
    split = next((name for name in columns_of(file) if name in ("split", SPLIT)), SPLIT)
    found: dict[str | None, list[_Molecule]] = defaultdict(list)
    for number, row in enumerate(read_rows(file, smiles_column(file), split), 1):
        found[row.split or None].append(_Molecule(number, row.readable))
    if set(found) == {None}:
        return found[None], []
    if not (held_out := found["test"] or found["valid"]):
        there = ", ".join(sorted(name for name, rows in found.items() if name and rows))
        raise DataError(f"{file}: column {split!r} holds {there}, and none of it is 'test' or 'valid'.")
    return held_out, found["train"]


def _tokens(model: Model, molecules: Sequence[_Molecule]) -> tuple[np.ndarray, TokenSet]:
    """As `Model.tokens`."""
    return model.tokens([one.smiles for one in molecules], [one.row for one in molecules])


def _some(n: int, most: int, seed: int, purpose: str) -> np.ndarray:
    """At most so many of n places, in random order."""
    return np.random.default_rng(derive(seed, purpose)).permutation(n)[:most]
