"""What a latent space is good for, measured: used, filled, reconstructing, complete, continuous.

Shapes: n molecules or points, Z latent dimensions. Every figure stands beside what it would be by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from molvae.chemistry.descriptors import bits_of, describe, glance
from molvae.chemistry.tokenization import selfies_of
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import Vocabulary
from molvae.inference import posterior_diagnostics
from molvae.inference.posterior import posterior
from molvae.inference.sampling import sample_at
from molvae.latent.interpolation import between
from molvae.latent.pca_baseline import Linear
from molvae.metrics.baselines import random_tokens
from molvae.metrics.molecule_table import Of, describe_strings, everything
from molvae.metrics.tanimoto import similarity_of
from molvae.model_io.loading import symbols_of
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive, generator
from molvae.runtime.workers import Workers

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)  # of points, in units of the typical distance √Z from 0
SPREADS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # around a molecule, in units of its posterior's width
NEIGHBORS = 10
WAYS, STEPS = 50, 8  # between random pairs of molecules, and points of each, both ends included
TOKENS, FINGERPRINTS = "principal_components_of_tokens", "principal_components_of_fingerprints"  # what stands beside
RECONSTRUCTS, REACHES = 0.5, 0.5  # shares that the verdict asks for
DIFFERENT = 10  # molecules, below which there is no verdict: of two copies of one no model could tell anything
VERDICTS = {
    "unknown": f"fewer than {DIFFERENT} different molecules say nothing of a latent space",
    "collapsed": "the latent points tell less than one bit about a molecule: encoding and search mean nothing",
    "weak": "the latent points say something of a molecule, and not which it is: fewer than half come back",
    "holes": "molecules come back, but most of what lies where the prior has its points is no molecule: do not sample",
    "healthy": "molecules come back, and the prior's points are molecules, too",
}


class Space:
    """A model, molecules that it was not trained on, and how strings are written and looked at.

    Attributes:
        linear: principal components of training molecules, as many as the model has latent dimensions; None without
            training molecules.
    """

    def __init__(
        self, model: VAE, vocabulary: Vocabulary, molecules: TokenSet, training: TokenSet | None = None,
        *, max_tokens: int, seed: int, workers: Workers,
    ) -> None:  # fmt: skip
        self.model, self.vocabulary, self.molecules = model, vocabulary, molecules
        self.max_tokens, self.seed, self.workers = max_tokens, seed, workers
        self.mu, self.logvar = posterior(model, molecules)
        self.linear = Linear(training, vocabulary, model.latent_dim) if training is not None else None
        self.rows = self.described(molecules)

    @cached_property
    def back(self) -> pd.DataFrame:
        """What the model writes at the mean of each molecule."""
        return self.written(self.mu)[0]

    def written(self, *points: Tensor, of: Of = glance) -> list[pd.DataFrame]:
        """What the model writes greedily at sets of points, (n, Z) each, as `molvae.metrics.molecule_table` tables."""
        strings = sample_at(
            self.model, torch.cat(points), seed=self.seed, temperature=0, max_tokens=self.max_tokens,
            threads=self.workers.count,
        )  # fmt: skip
        symbols = iter(symbols_of(self.vocabulary, strings))
        return self.looked_at(*([next(symbols) for _ in range(len(some))] for some in points), of=of)

    def described(self, molecules: TokenSet) -> pd.DataFrame:
        """Molecules as they are as a table, with all that can be said of them."""
        strings = [selfies_of(self.vocabulary, molecules[row]) for row in range(len(molecules))]
        return self.looked_at(strings, of=everything)[0]

    def looked_at(self, *sets: list[list[str]], of: Of = glance) -> list[pd.DataFrame]:
        """Sets of strings as tables."""
        strings = [string for some in sets for string in some]
        table = describe_strings(strings, self.vocabulary.caps, of=of, workers=self.workers)
        ends = np.cumsum([len(some) for some in sets])
        return [table[end - len(some) : end].reset_index(drop=True) for some, end in zip(sets, ends, strict=True)]

    def draws(self, spread: float, purpose: str) -> Tensor:
        """A point near each molecule: a draw of its posterior, `spread` times as wide."""
        noise = torch.randn(self.mu.shape, generator=generator(self.seed, purpose))
        return self.mu + spread * (0.5 * self.logvar).exp() * noise


def health(space: Space) -> dict[str, Any]:
    """All figures of a latent space, and a verdict: one of VERDICTS."""
    found = {
        "n": len(space.molecules), "different": space.rows["canonical"].nunique(),
        "use": use(space), "aggregate_posterior": aggregate(space),
        "linear": space.linear and {
            "dimensions": space.linear.components.n_components_, "explained_variance": space.linear.explained,
        },
        "reconstruction": reconstruction(space), "completeness": completeness(space), "continuity": continuity(space),
        "interpolation": interpolation(space),
    }  # fmt: skip
    verdict = judge(found)
    return {"verdict": verdict, "meaning": VERDICTS[verdict], **found}


def judge(found: dict[str, Any]) -> str:
    """The verdict on the figures of `health`. What the model was meant to be does not count, only what it does."""
    if found["different"] < DIFFERENT:
        return "unknown"
    if found["use"]["mutual_information_nats"] < posterior_diagnostics.COLLAPSED_NATS:
        return "collapsed"
    if found["reconstruction"]["same_molecule"] < RECONSTRUCTS:
        return "weak"
    here = found["completeness"]
    return "healthy" if here["prior"]["stable"] >= REACHES * here["posterior"]["stable"] else "holes"


def use(space: Space) -> dict[str, Any]:
    """How much the latent points tell of a molecule. A plain autoencoder's posterior is a point and can tell all."""
    z, z_dim = space.draws(1.0, "use"), space.mu.shape[1]
    most = min(len(z), posterior_diagnostics.MUTUAL_MOLECULES)
    found: dict[str, Any] = {
        "active_units": posterior_diagnostics.active_units(space.mu), "latent_dim": z_dim,
        "mutual_information_at_most": math.log(most),
    }  # fmt: skip
    if not space.model.variational:
        return found | {"mutual_information_nats": math.log(most), "kl_nats": None, "kl_by_dimension": None}
    with torch.inference_mode():
        kl = space.model.prior.kl(space.mu, space.logvar, z).mean().item()
    return found | {
        "mutual_information_nats": posterior_diagnostics.mutual_information(space.mu, space.logvar, z),
        "kl_nats": kl,
        "kl_by_dimension": posterior_diagnostics.kl_by_dimension(space.mu, space.logvar),
    }


def aggregate(space: Space) -> dict[str, Any]:
    """The points of all molecules against those of the prior: moments of each dimension, and MMD.

    `mmd_null` is that of two halves of the prior's own points: what is below it is no difference.
    """
    z = space.draws(1.0, "aggregate")
    with torch.inference_mode():
        own, other = (space.model.prior.draw(len(z), generator(space.seed, "mmd", part)) for part in range(2))
    return {
        "mean": z.mean(0).tolist(),
        "variance": z.var(0).tolist(),
        "prior_mean": own.mean(0).tolist(),
        "prior_variance": own.var(0).tolist(),
        "mmd": mmd(z, own),
        "mmd_null": mmd(other, own),
    }


def mmd(one: Tensor, other: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of points, inverse multiquadratic kernel, unbiased.

    Source: Gretton et al. 2012, lemma 6; the kernel's scale 2 Z as Tolstikhin et al. 2018 (arXiv:1711.01558) take it.
    """
    scale = 2 * one.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return scale / (scale + torch.cdist(a.double(), b.double()).square())

    within = [(kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1)) for a in (one, other)]
    return (within[0] + within[1] - 2 * kernel(one, other).mean()).item()


def reconstruction(space: Space) -> dict[str, Any]:
    """Molecules that come back: written greedily from the posterior's mean and from a draw of it; by length, too."""
    wanted, lengths = space.rows["canonical"].to_numpy(), space.molecules.lengths
    (draw,) = space.written(space.draws(1.0, "reconstruction"))

    def compared(rows: pd.DataFrame) -> dict[str, float]:
        return {
            "same_molecule": float((rows["canonical"].to_numpy() == wanted).mean()),
            "similarity": mean_similarity(space.rows["fingerprint"], rows["fingerprint"]),
        }

    linear = space.linear and compared(*space.looked_at(space.linear.decode(space.linear.encode(space.molecules))))
    same = space.back["canonical"].to_numpy() == wanted
    quarter = np.digitize(lengths, np.quantile(lengths, [0.25, 0.5, 0.75]))
    within = [quarter == number for number in range(4)]
    return {
        **compared(space.back),
        "same_molecule_from_draw": compared(draw)["same_molecule"],
        "by_length": [
            {"tokens": [int(lengths[part].min()), int(lengths[part].max())], "n": int(part.sum()),
             "same_molecule": float(same[part].mean())} for part in within if part.any()
        ],
        TOKENS: linear,
    }  # fmt: skip


def completeness(space: Space) -> dict[str, Any]:
    """What share of points is a molecule: stable, passing MOSES' filters, and no second time the same.

    At points of the prior, of posteriors, and at distances from 0 that no molecule has; written greedily. Of principal
    components at points of the normal distribution that fits those of the training molecules.
    """
    n, z_dim = len(space.molecules), space.mu.shape[1]
    with torch.inference_mode():
        prior = space.model.prior.draw(n, generator(space.seed, "completeness"))
    directions = torch.randn((n, z_dim), generator=generator(space.seed, "directions"))
    directions = directions / directions.norm(dim=1, keepdim=True)
    at_radii = [directions * radius * z_dim**0.5 for radius in RADII]
    tables = space.written(prior, space.draws(1.0, "completeness"), *at_radii)
    null = random_tokens(space.vocabulary, space.molecules.lengths, n, space.seed)
    linear = space.linear.decode(space.linear.draw(n, space.seed)) if space.linear else []
    random, lines = space.looked_at(null, linear)
    return {
        "prior": shares(tables[0]),
        "posterior": shares(tables[1]),
        "random_tokens": shares(random),
        "molecules_at": [float(part) for part in np.quantile(space.mu.norm(dim=1) / z_dim**0.5, [0.05, 0.5, 0.95])],
        "by_radius": [{"radius": radius, **shares(table)} for radius, table in zip(RADII, tables[2:], strict=True)],
        TOKENS: shares(lines) if space.linear else None,
    }


def shares(rows: Any) -> dict[str, float]:
    """Of a table of strings: shares that are stable, that pass the filters, that are different, and all of it."""
    stable, passing = (rows[name].fillna(False).to_numpy(bool) for name in ("is_stable", "passes_filters"))
    first = ~rows["canonical"].duplicated().to_numpy() & (rows["canonical"] != "").to_numpy()
    return {
        "stable": float(stable.mean()), "filters": float(passing.mean()), "unique": float(first.mean()),
        "good": float((stable & passing & first).mean()),
    }  # fmt: skip


def continuity(space: Space) -> dict[str, Any]:
    """Is near near? Similarity (Tanimoto, Morgan) of a molecule to what is written around it, and of latent neighbours.

    `neighbors` is the share of a molecule's nearest ones in the latent space that are its most similar ones, and
    `rank_correlation` Spearman's, of latent distance and dissimilarity; both beside principal components of one-hot
    tokens (`molvae.latent.pca_baseline`) and of the fingerprints with as many dimensions.
    """
    from sklearn.decomposition import PCA

    prints = bits_of(space.rows["fingerprint"])
    common = prints @ prints.T
    sizes = prints.sum(1)
    similarity = common / np.maximum(sizes[:, None] + sizes - common, 1)
    dims = min(space.mu.shape[1], *np.subtract(prints.shape, 1))
    upper = np.triu_indices(len(prints), 1)

    def compared(points: np.ndarray) -> dict[str, float]:
        distance = torch.cdist(*[torch.from_numpy(np.ascontiguousarray(points))] * 2).numpy()
        return {
            "neighbors": _overlap(-distance, similarity),
            "rank_correlation": _rank_correlation(distance[upper], 1 - similarity[upper]),
        }

    tables = [space.back, *space.written(*(space.draws(spread, "continuity") for spread in SPREADS))]
    around = [
        {"spread": spread, "similarity": mean_similarity(space.rows["fingerprint"], rows["fingerprint"]),
         "same_molecule": float((rows["canonical"] == space.rows["canonical"]).mean()), **shares(rows)}
        for spread, rows in zip((0.0, *SPREADS), tables, strict=True)
    ]  # fmt: skip
    mixed = space.rows["fingerprint"].sample(frac=1, random_state=0)
    return {
        "around": around, "similarity_of_random_pairs": mean_similarity(space.rows["fingerprint"], mixed),
        "latent": compared(space.mu.double().numpy()),
        TOKENS: space.linear and compared(space.linear.encode(space.molecules).astype(float)),
        FINGERPRINTS: compared(PCA(dims, random_state=0).fit_transform(prints)),
        "chance": {"neighbors": min(NEIGHBORS / (len(prints) - 1), 1.0), "rank_correlation": 0.0},
    }  # fmt: skip


def interpolation(space: Space) -> dict[str, Any]:
    """How even are the ways between random pairs of molecules? Of each way STEPS points, written greedily.

    Ways through the latent space keep their distance from 0 (`molvae.latent.interpolation`), those through principal
    components of tokens are straight. `chance` is the difference of the pairs themselves: a step from anywhere to
    anywhere.
    """
    order = np.random.default_rng(derive(space.seed, "interpolation")).permutation(len(space.molecules))
    starts, ends = order[:WAYS], np.roll(order, 1)[:WAYS]
    mu = space.mu.double().numpy()
    curved = np.concatenate([between(mu[a], mu[b], STEPS) for a, b in zip(starts, ends, strict=True)])
    (latent,) = space.written(torch.from_numpy(curved).float(), of=describe)
    linear = None
    if space.linear:
        points, share = space.linear.encode(space.molecules), np.linspace(0, 1, STEPS)[:, None]
        straight = (1 - share) * points[starts, None] + share * points[ends, None]
        linear = evenness(*space.looked_at(space.linear.decode(straight.reshape(-1, points.shape[1])), of=describe))
    own = space.rows[["logp", "qed"]].astype(float)
    apart = np.abs(own.to_numpy()[starts] - own.to_numpy()[ends]).mean(0)
    chance = {f"{name}_step": float(value) for name, value in zip(own, apart, strict=True)}
    return {"ways": len(starts), "steps": STEPS, "latent": evenness(latent), TOKENS: linear, "chance": chance}


def evenness(rows: pd.DataFrame) -> dict[str, float | None]:
    """Of ways of STEPS points each, one after another: mean change of properties a step, None where no step has two
    molecules; the share of strings that are stable; and of the points of a way the share that are different molecules.
    """
    ways = rows["canonical"].to_numpy().reshape(-1, STEPS)
    found: dict[str, float | None] = {
        "stable": float(rows["is_stable"].mean()),
        "distinct": float(np.mean([len(set(way) - {""}) / STEPS for way in ways])),
    }
    for name in ("logp", "qed"):
        changes = np.abs(np.diff(rows[name].to_numpy(float).reshape(-1, STEPS), axis=1))
        found[f"{name}_step"] = float(np.nanmean(changes)) if np.isfinite(changes).any() else None
    return found


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's; 0 where one of them is the same everywhere."""
    from scipy.stats import spearmanr

    return float(spearmanr(one, other)[0]) if np.ptp(one) and np.ptp(other) else 0.0


def mean_similarity(one: Sequence[bytes | None], other: Sequence[bytes | None]) -> float:
    """Mean similarity of pairs; what is no molecule is like none."""
    pairs = list(zip(one, other, strict=True))
    return float(np.mean([similarity_of(a, b) if a and b else 0.0 for a, b in pairs]))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Mean share of the NEIGHBORS nearest by one measure that are so by the other; larger values are nearer."""
    k, found = min(NEIGHBORS, len(one) - 1), []
    for a, b, row in zip(one, other, range(len(one)), strict=True):
        near = [set(np.argsort(-np.delete(values, row), kind="stable")[:k]) for values in (a, b)]
        found.append(len(near[0] & near[1]) / k)
    return float(np.mean(found))
