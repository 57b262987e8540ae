"""Search of the latent space for molecules that score better. Shapes: n points, Z latent dimensions.

An evolution in which the model makes the children: the best molecules so far are encoded, and new ones written from
draws of their posteriors, half of them from the way between two parents. The posterior's width is the step that the
decoder notices, in each dimension, and around molecules the space is populated: nothing has to be tuned or bounded.
`benchmarks/search.py` has it beside CMA-ES and random points.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from molvae.chemistry.descriptors import describe, fingerprint
from molvae.chemistry.standardise import parse
from molvae.errors import MolvaeError, did_you_mean
from molvae.latent import interpolation
from molvae.metrics.tanimoto import similarity_of

log = logging.getLogger(__name__)

Score = Callable[[str], float]  # of a canonical SMILES; larger is better
Save = Callable[[pd.DataFrame], object]
Write = Callable[[np.ndarray], Sequence[str]]  # points (n, Z) -> canonical SMILES each, "" for what is not to be scored
Read = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]  # SMILES -> mean and log-variance, (n, Z) each

SAVED_EVERY = 10.0  # seconds: what a killed search loses at most, and the call that it was in
START = "start"  # origin of the molecules that a search is given
FIRST = 0.2  # of the calls, for molecules from the prior where the search begins nowhere
PARENTS = 10
CHILDREN = 64  # points of a generation
CROSSED = 0.5  # share of the children that lie between two parents
POINTS_A_CALL = 100  # at most; a model that writes fewer new molecules has nothing more to offer
COLUMNS = ["call", "smiles", "score", "similarity", "origin", "error"]


def penalised_logp(smiles: str) -> float:
    """logP less synthetic accessibility and large rings, each in standard deviations from its mean in ZINC.

    Source: Kusner et al. 2017 (arXiv:1703.01925); means and deviations of the 250 000 molecules of ZINC as
    You et al. 2018 (arXiv:1806.02473) took them.
    """
    found = describe(parse(smiles))
    return (
        (found["logp"] - 2.4570953396190123) / 1.434324401111988
        - (found["sa"] - 3.0525811293166134) / 0.8335207024513095
        - (max(found["largest_ring"] - 6, 0) - 0.0485696876403053) / 0.2860212110245455
    )


def qed(smiles: str) -> float:
    """Quantitative estimate of drug-likeness, 0 to 1. Source: Bickerton et al. 2012 (doi:10.1038/nchem.1243)."""
    return describe(parse(smiles))["qed"]


NAMED: dict[str, Score] = {"qed": qed, "penalised_logp": penalised_logp}


def named(name: str) -> Score:
    """One of the scoring functions that have a name.

    Raises:
        MolvaeError: there is none of that name.
    """
    if name not in NAMED:
        raise MolvaeError(f"there is no scoring function {name!r}.{did_you_mean(name, NAMED)}")
    return NAMED[name]


class Ledger:
    """Every molecule that was scored, each once, in order; what failed stays in it and is nobody's parent.

    Args:
        score: a function of a canonical SMILES; where it raises, or gives no finite number, the molecule has failed.
        calls: of it, at most.
        like, similarity: molecules less similar to that SMILES (Tanimoto, Morgan fingerprints of radius 2, 1024 bits)
            are not scored.
        save: is given the table now and then while it grows, and at the end.
    """

    def __init__(
        self, score: Score, calls: int, like: str | None = None, similarity: float = 0.0, save: Save | None = None
    ) -> None:
        self._score, self.calls, self._least = score, calls, similarity
        self._save, self._saved = save, -math.inf
        self._like = fingerprint(parse(like)) if like else None
        self.rows: list[dict[str, Any]] = []
        self.scores: dict[str, float] = {}  # canonical SMILES -> NaN where it failed
        self.called = 0

    @property
    def full(self) -> bool:
        """Whether all calls are spent."""
        return self.called >= self.calls

    @property
    def failed(self) -> int:
        """Molecules without a score."""
        return sum(map(math.isnan, self.scores.values()))

    def remember(self, smiles: Sequence[str], scores: Sequence[float]) -> None:
        """Take over molecules of an earlier search, but those too different: they cost no call."""
        for one, score in zip(smiles, scores, strict=True):
            if not self._similarity_of(one) < self._least:
                self.scores.setdefault(one, float(score) if math.isfinite(score) else math.nan)

    def enter(self, smiles: str, origin: str) -> None:
        """Score a molecule, unless it is known, too different, or no call is left."""
        if not smiles or smiles in self.scores or self.full:
            return
        similarity = self._similarity_of(smiles)
        if similarity < self._least:
            if origin == START:
                log.warning(
                    "%s is not scored: its similarity is %.2f, %g is asked for", smiles, similarity, self._least
                )
            return
        try:
            score, error = float(self._score(smiles)), ""
            if not math.isfinite(score):
                score, error = math.nan, f"the score is {score}"
        except Exception as err:  # noqa: BLE001  whatever somebody's function does to one molecule, the others go on
            score, error = math.nan, f"{type(err).__name__}: {err}"
        self.called += 1
        self.scores[smiles] = score
        self.rows.append(dict(zip(COLUMNS, (self.called, smiles, score, similarity, origin, error), strict=True)))
        if time.monotonic() > self._saved + SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Give the table to whom it may concern."""
        if self._save:
            self._save(self.table())
        self._saved = time.monotonic()

    def _similarity_of(self, smiles: str) -> float:
        return similarity_of(fingerprint(parse(smiles)), self._like) if self._like else math.nan

    def best(self, n: int) -> list[str]:
        """The best so far, best first."""
        there = [smiles for smiles, score in self.scores.items() if not math.isnan(score)]
        return sorted(there, key=self.scores.__getitem__, reverse=True)[:n]

    def table(self) -> pd.DataFrame:
        """A row a call."""
        return pd.DataFrame(self.rows, columns=COLUMNS).astype({"score": float, "similarity": float})


def evolve(
    ledger: Ledger, start: Sequence[str], draw: Callable[[int], np.ndarray], write: Write, read: Read, seed: int
) -> None:
    """Fill a ledger, until its calls are spent, it is interrupted (Ctrl-C), or the model writes nothing new.

    However it ends, what was scored is saved, if the ledger has a way to save.

    Args:
        ledger: it may remember molecules of an earlier search.
        start: canonical SMILES to begin with; where there are none and none are remembered, the search begins with a
            fifth of the calls from the prior.
        draw: n -> points of the prior, (n, Z).
    Raises:
        MolvaeError: none of the molecules that it begins with has a score.
    """
    random = np.random.default_rng(seed)
    points = 0
    try:
        _enter(ledger, start, [START] * len(start))
        first = 0 if ledger.scores else math.ceil(FIRST * ledger.calls)
        while ledger.called < first and points < POINTS_A_CALL * first:
            _enter(ledger, write(draw(CHILDREN)), ["prior"] * CHILDREN)
            points += CHILDREN
        if ledger.failed == len(ledger.scores):
            why = "the earlier search had none" if ledger.scores else "the model wrote no molecule to score"
            why = ledger.rows[-1]["error"] if ledger.rows else why
            raise MolvaeError(f"no molecule to begin with has a score ({len(ledger.scores)} tried): {why}.")
        while not ledger.full and points < POINTS_A_CALL * ledger.calls:
            z, origins = children(*read(ledger.best(PARENTS)), random)
            _enter(ledger, write(z), origins)
            points += CHILDREN
    except KeyboardInterrupt:
        log.warning("stopped after %d calls; they are kept", ledger.called)
        return
    finally:
        ledger.save()
    if not ledger.full:
        log.warning(
            "%d of %d calls used: at %d points the model wrote nothing else that is new",
            ledger.called,
            ledger.calls,
            points,
        )


def _enter(ledger: Ledger, smiles: Sequence[str], origins: Sequence[str]) -> None:
    for one, origin in zip(smiles, origins, strict=True):
        ledger.enter(one, origin)


def children(mu: np.ndarray, logvar: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Points of a generation, (CHILDREN, Z), and where each is: near a parent or between two.

    Args:
        mu, logvar: (n, Z) posteriors of the parents, best first.
    """
    weights = 2.0 ** (-np.arange(len(mu)) / 2)
    one, other = random.choice(len(mu), (2, CHILDREN), p=weights / weights.sum())
    z, origins = mu[one], ["near"] * CHILDREN
    for child in np.flatnonzero(random.random(CHILDREN) < CROSSED):
        z[child] = interpolation.between(mu[one[child]], mu[other[child]], 5)[
            random.integers(1, 3)
        ]  # a quarter or half way
        origins[child] = "between"
    return z + np.exp(0.5 * logvar[one]) * random.standard_normal(z.shape), origins
