"""Stage `latent`: the health card of a model's latent space."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from molvae.errors import DataError
from molvae.files import write_json
from molvae.latent.health import Space, health
from molvae.lineage import versions
from molvae.model import load
from molvae.parallel import Workers
from molvae.seeds import derive
from molvae.tables import columns_of, read_rows, smiles_column

if TYPE_CHECKING:
    from molvae.config import LatentSettings

log = logging.getLogger(__name__)


def latent(model: Path, molecules: Path, settings: LatentSettings, out: Path, *, threads: int = 1) -> dict[str, Any]:
    """Write `out`/card.json: figures and verdict.

    Args:
        molecules: a file of SMILES that the model was not trained on; of one with a column `split`, as `featurize`
            writes it, the rows of `test`, or of `valid` where there is none.
    Raises:
        DataError: the model can read fewer than two of them.
    """
    torch.set_num_threads(threads)
    loaded = load(model)
    tokens = loaded.tokens(_some(_held_out(molecules), settings))[1]
    if len(tokens) < 2:
        raise DataError(f"{molecules}: {len(tokens)} molecules that the model can read; 2 at least are needed.")
    log.info("looking at the latent space with %d molecules", len(tokens))
    with Workers(threads) as workers:
        space = Space(
            loaded.network, loaded.vocabulary, tokens, max_tokens=settings.max_tokens, seed=settings.seed,
            workers=workers,
        )  # fmt: skip
        found = health(space)
    log.info("%s: %s", found["verdict"], found["meaning"])
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


def _held_out(file: Path) -> list[str]:
    """The SMILES of a file, of one with splits those that were held out."""
    if "split" not in columns_of(file):
        return [row.smiles for row in read_rows(file, smiles_column(file))]
    rows = list(read_rows(file, smiles_column(file), "split"))
    splits = {row.split for row in rows}
    return [row.smiles for row in rows if row.split == ("test" if "test" in splits else "valid")]


def _some(smiles: list[str], settings: LatentSettings) -> list[str]:
    order = np.random.default_rng(derive(settings.seed, "latent")).permutation(len(smiles))
    return [smiles[row] for row in order[: settings.n]]
