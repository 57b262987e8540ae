"""Search of the latent space for molecules that score better. Shapes: n points, Z latent dimensions.

An evolution in which the model makes the children: the best molecules so far are encoded, and new ones decoded from
draws of their posteriors, half of them from the path between two parents. The posterior's width is the step that the
decoder notices, in each dimension, and around molecules the space is populated: nothing has to be tuned or bounded.
`benchmarks/search.py` has it beside CMA-ES and random points.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pandas as pd

from molvae.chemistry.fingerprints import compute_fingerprint
from molvae.chemistry.oracles import Objective
from molvae.chemistry.standardise import parse_smiles
from molvae.errors import MolvaeError
from molvae.latent.interpolation import slerp
from molvae.metrics.tanimoto import compute_similarity

log = logging.getLogger(__name__)

SaveFunction = Callable[[pd.DataFrame], object]
DrawFunction = Callable[[int], np.ndarray]  # n -> points of the prior, (n, Z)
DecodeFunction = Callable[[np.ndarray], Sequence[str]]  # points (n, Z) -> canonical SMILES, "" for those not to score
EncodeFunction = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]  # SMILES -> mean, log-variance, (n, Z) each

SAVE_SECONDS = 10.0  # between saves: what a killed search loses at most, and the call that it was in
START = "start"  # origin of the molecules that a search is given
PRIOR_FRACTION = 0.2  # of the calls, for molecules from the prior where no molecules are given
N_PARENTS = 10
N_CHILDREN = 64  # points of a generation
CROSSOVER_FRACTION = 0.5  # of the children, that lie between two parents
MAX_POINTS_PER_CALL = 100  # a model that decodes fewer new molecules has nothing more to offer
COLUMNS = ["call", "smiles", "score", "similarity", "origin", "error"]


class History:
    """Every molecule that was scored, each once, in order; one that failed stays in it and is never a parent.

    Attributes:
        calls: of the objective, at most.
        called: calls so far.
        rows: of the table, a dict each.
        scores: canonical SMILES -> score, NaN where it failed; of known molecules, too.
    """

    def __init__(
        self,
        objective: Objective,
        calls: int,
        similar_to: str | None = None,
        min_similarity: float = 0.0,
        save: SaveFunction | None = None,
    ) -> None:
        """Begin a history.

        Args:
            objective: a function of a canonical SMILES; where it raises, or gives no finite number, the molecule has
                failed.
            calls: of it, at most.
            similar_to: a SMILES; molecules less similar to it are not scored.
            min_similarity: to it (Tanimoto, Morgan fingerprints of radius 2, 1024 bits).
            save: is given the table now and then while it grows, and at the end.
        """
        self._objective, self.calls, self._min_similarity = objective, calls, min_similarity
        self._save, self._saved = save, -math.inf
        self._reference = compute_fingerprint(parse_smiles(similar_to)) if similar_to else None
        self.rows: list[dict[str, Any]] = []
        self.scores: dict[str, float] = {}
        self.called = 0

    @property
    def is_full(self) -> bool:
        """Whether all calls are spent."""
        return self.called >= self.calls

    @property
    def n_failed(self) -> int:
        """Molecules without a score."""
        return sum(map(math.isnan, self.scores.values()))

    def add_known(self, smiles: Sequence[str], scores: Sequence[float]) -> None:
        """Take over molecules of an earlier search, except molecules below min_similarity: they cost no call."""
        for text, score in zip(smiles, scores, strict=True):
            if not self._compute_similarity(text) < self._min_similarity:
                self.scores.setdefault(text, float(score) if math.isfinite(score) else math.nan)

    def score(self, smiles: str, origin: str) -> None:
        """Score a molecule, unless it is known, too different, or no call is left."""
        if not smiles or smiles in self.scores or self.is_full:
            return
        similarity = self._compute_similarity(smiles)
        if similarity < self._min_similarity:
            if origin == START:
                log.warning(
                    "%s is not scored: its similarity is %.2f, %g is asked for",
                    smiles,
                    similarity,
                    self._min_similarity,
                )
            return
        try:
            with redirect_stdout(sys.stderr):  # what it prints is no result: with --out - the table goes to stdout
                score, error = float(self._objective(smiles)), ""
            if not math.isfinite(score):
                score, error = math.nan, f"the score is {score}"
        except (Exception, SystemExit) as err:  # noqa: BLE001  whatever somebody's function does to one molecule
            score, error = math.nan, str(err) if isinstance(err, MolvaeError) else f"{type(err).__name__}: {err}"
        self.called += 1
        self.scores[smiles] = score
        self.rows.append(dict(zip(COLUMNS, (self.called, smiles, score, similarity, origin, error), strict=True)))
        if time.monotonic() > self._saved + SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Call the save function, if there is one."""
        if self._save:
            self._save(self.to_table())
        self._saved = time.monotonic()

    def _compute_similarity(self, smiles: str) -> float:
        if self._reference is None:
            return math.nan
        return compute_similarity(compute_fingerprint(parse_smiles(smiles)), self._reference)

    def find_best(self, n: int) -> list[str]:
        """Find the `n` molecules with the best scores so far, best first."""
        scored = [smiles for smiles, score in self.scores.items() if not math.isnan(score)]
        return sorted(scored, key=self.scores.__getitem__, reverse=True)[:n]

    def to_table(self) -> pd.DataFrame:
        """Convert to a table, a row a call, with COLUMNS."""
        return pd.DataFrame(self.rows, columns=COLUMNS).astype({"score": float, "similarity": float})


def run_evolution(
    history: History,
    start: Sequence[str],
    draw: DrawFunction,
    decode: DecodeFunction,
    encode: EncodeFunction,
    seed: int,
) -> None:
    """Search until the calls of a history are spent, it is interrupted (Ctrl-C), or the model decodes nothing new.

    However it ends, what was scored is saved, if the history has a way to save.

    Args:
        history: it may know molecules of an earlier search.
        start: canonical SMILES to begin with; where there are none and none are known, the search begins with a
            fifth of the calls from the prior.
        draw: draws points of the prior.
        decode: decodes points.
        encode: encodes molecules.
        seed: of the children.

    Raises:
        MolvaeError: none of the molecules that it begins with has a score.
    """
    random = np.random.default_rng(seed)
    n_points = 0
    try:
        _score_all(history, start, [START] * len(start))
        n_first = 0 if history.scores else math.ceil(PRIOR_FRACTION * history.calls)
        while history.called < n_first and n_points < MAX_POINTS_PER_CALL * n_first:
            _score_all(history, decode(draw(N_CHILDREN)), ["prior"] * N_CHILDREN)
            n_points += N_CHILDREN
        _require_a_score(history)
        while not history.is_full and n_points < MAX_POINTS_PER_CALL * history.calls:
            z, origins = make_children(*encode(history.find_best(N_PARENTS)), random)
            _score_all(history, decode(z), origins)
            n_points += N_CHILDREN
    except KeyboardInterrupt:
        log.warning("stopped after %d calls; they are kept", history.called)
        return
    finally:
        history.save()
    if not history.is_full:
        log.warning(
            "%d of %d calls used: at %d points the model decoded nothing else that is new",
            history.called, history.calls, n_points,
        )  # fmt: skip


def _require_a_score(history: History) -> None:
    if history.n_failed < len(history.scores):
        return
    reason = "the earlier search had none" if history.scores else "the model decoded no molecule to score"
    reason = history.rows[-1]["error"] if history.rows else reason
    raise MolvaeError(f"no molecule to begin with has a score ({len(history.scores)} tried): {reason}.")


def _score_all(history: History, smiles: Sequence[str], origins: Sequence[str]) -> None:
    for text, origin in zip(smiles, origins, strict=True):
        history.score(text, origin)


def make_children(mu: np.ndarray, logvar: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Draw the points of a generation, (N_CHILDREN, Z), with the origin of each: near a parent or between two.

    Args:
        mu: (n, Z) posterior means of the parents, best first.
        logvar: (n, Z) log-variances of the posteriors.
        random: generator of the draws.
    """
    weights = 2.0 ** (-np.arange(len(mu)) / 2)
    parents, partners = random.choice(len(mu), (2, N_CHILDREN), p=weights / weights.sum())
    z, origins = mu[parents], ["near"] * N_CHILDREN
    for child in np.flatnonzero(random.random(N_CHILDREN) < CROSSOVER_FRACTION):
        path = slerp(mu[parents[child]], mu[partners[child]], 5)
        z[child] = path[random.integers(1, 3)]  # a quarter or half of the path
        origins[child] = "between"
    return z + np.exp(0.5 * logvar[parents]) * random.standard_normal(z.shape), origins
