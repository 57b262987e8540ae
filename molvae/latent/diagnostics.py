"""Diagnostics of a latent space: usage, aggregate posterior, reconstruction, completeness, continuity, interpolation.

Each measure stands beside what chance or a PCA with as many dimensions reaches. Shapes: n molecules or points, Z latent
dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from molvae.chemistry.descriptors import compute_descriptors
from molvae.chemistry.fingerprints import unpack_fingerprints
from molvae.inference.posterior_diagnostics import (
    MAX_MI_MOLECULES,
    compute_mean_kl_by_dimension,
    count_active_units,
    estimate_mutual_information,
    is_collapsed,
)
from molvae.latent.interpolation import slerp
from molvae.latent.space import LatentSpace
from molvae.metrics.baselines import sample_random_tokens
from molvae.metrics.tanimoto import compute_similarity
from molvae.runtime.seeds import derive_seed, make_generator

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)  # of points, in units of the typical distance √Z from 0
SPREADS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # around a molecule, in posterior widths
N_NEIGHBORS = 10
N_PATHS, N_STEPS = 50, 8  # paths between random pairs of molecules, and points of each, both ends included
PCA_OF_TOKENS, PCA_OF_FINGERPRINTS = "pca_of_tokens", "pca_of_fingerprints"  # keys of the linear baselines
MIN_RECONSTRUCTED, MIN_PRIOR_RATIO = 0.5, 0.5  # what the verdict "healthy" asks for
MIN_DIFFERENT = 10  # molecules; fewer give no verdict
VERDICTS = {
    "unknown": f"fewer than {MIN_DIFFERENT} different molecules are too few to judge a latent space",
    "collapsed": "the latent points hold less than one bit about a molecule: encoding and search are meaningless",
    "weak": "the latent points hold something about a molecule, but fewer than half of the molecules are reconstructed",
    "holes": "molecules are reconstructed, but strings from the prior pass the round trip less than half as often as "
    "strings from posteriors: do not sample from it",
    "healthy": "molecules are reconstructed, and strings from the prior pass the round trip, too",
}

Measures = dict[str, Any]  # as diagnostics.json has them


class Diagnostics(TypedDict):
    """Diagnostics of a latent space, see `compute_diagnostics`."""

    verdict: str
    meaning: str
    n: int
    n_different: int
    usage: Measures
    aggregate_posterior: Measures
    pca: Measures | None
    reconstruction: Measures
    completeness: Measures
    continuity: Measures
    interpolation: Measures
    strings_decoded: int
    truncated: int


def compute_diagnostics(space: LatentSpace) -> Diagnostics:
    """Compute all measures of a latent space, and the verdict: one of VERDICTS, with its meaning."""
    n_different = int(space.table["canonical"].nunique())
    usage, reconstruction = measure_usage(space), measure_reconstruction(space)
    completeness = measure_completeness(space)
    verdict = decide_verdict(n_different, usage, reconstruction, completeness)
    aggregate_posterior, continuity, interpolation = (
        measure(space) for measure in (measure_aggregate_posterior, measure_continuity, measure_interpolation)
    )
    return {
        "verdict": verdict,
        "meaning": VERDICTS[verdict],
        "n": len(space.molecules),
        "n_different": n_different,
        "usage": usage,
        "aggregate_posterior": aggregate_posterior,
        "pca": _describe_pca(space),
        "reconstruction": reconstruction,
        "completeness": completeness,
        "continuity": continuity,
        "interpolation": interpolation,
        "strings_decoded": space.n_decoded,  # in all parts together
        "truncated": space.n_cut,
    }


def _describe_pca(space: LatentSpace) -> Measures | None:
    if space.pca is None:
        return None
    return {"dimensions": space.pca.pca.n_components_, "explained_variance": space.pca.explained_variance}


def decide_verdict(n_different: int, usage: Measures, reconstruction: Measures, completeness: Measures) -> str:
    """Decide the verdict from the measures alone, whatever kind of model they belong to.

    Args:
        n_different: different molecules that were measured.
        usage: see `measure_usage`.
        reconstruction: see `measure_reconstruction`.
        completeness: see `measure_completeness`.

    Returns:
        a key of VERDICTS.
    """
    if n_different < MIN_DIFFERENT:
        return "unknown"
    if is_collapsed(usage["mutual_information_nats"]):
        return "collapsed"
    if reconstruction["same_molecule"] < MIN_RECONSTRUCTED:
        return "weak"
    prior, posterior = completeness["prior"]["round_trip"], completeness["posterior"]["round_trip"]
    return "healthy" if prior >= MIN_PRIOR_RATIO * posterior else "holes"


def measure_usage(space: LatentSpace) -> Measures:
    """Measure how much the latent points tell about a molecule.

    The posterior of a plain autoencoder is a point, which can tell all: its mutual information is the largest that n
    molecules can show, and it has no KL.
    """
    z = space.sample_posteriors(1.0, "use")
    max_information = math.log(min(len(z), MAX_MI_MOLECULES))
    usage: Measures = {
        "active_units": count_active_units(space.mu),
        "latent_dim": space.mu.shape[1],
        "mutual_information_at_most": max_information,
    }
    if not space.model.variational:
        return usage | {"mutual_information_nats": max_information, "kl_nats": None, "kl_by_dimension": None}
    with torch.inference_mode():
        kl = space.model.prior.compute_kl(space.mu, space.logvar, z).mean().item()
    return usage | {
        "mutual_information_nats": estimate_mutual_information(space.mu, space.logvar, z),
        "kl_nats": kl,
        "kl_by_dimension": compute_mean_kl_by_dimension(space.mu, space.logvar),
    }


def measure_aggregate_posterior(space: LatentSpace) -> Measures:
    """Compare the points of all molecules with those of the prior: moments of each dimension, and MMD.

    `mmd_between_prior_draws` compares two draws of the prior: an `mmd` of that size is no difference.
    """
    z = space.sample_posteriors(1.0, "aggregate")
    with torch.inference_mode():
        prior, prior_again = (
            space.model.prior.sample(len(z), make_generator(space.seed, "mmd", part)) for part in range(2)
        )
    return {
        "mean": z.mean(0).tolist(),
        "variance": z.var(0).tolist(),
        "prior_mean": prior.mean(0).tolist(),
        "prior_variance": prior.var(0).tolist(),
        "mmd": compute_mmd(z, prior),
        "mmd_between_prior_draws": compute_mmd(prior_again, prior),
    }


def compute_mmd(a: Tensor, b: Tensor) -> float:
    """Compute the squared maximum mean discrepancy of two sets of points, inverse multiquadratic kernel, unbiased.

    Source: Gretton et al. 2012, lemma 6; the kernel's scale 2 Z as in Tolstikhin et al. 2018 (arXiv:1711.01558).
    """
    scale = 2 * a.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return scale / (scale + torch.cdist(x.double(), y.double()).square())

    within = [(kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return (within[0] + within[1] - 2 * kernel(a, b).mean()).item()


def measure_reconstruction(space: LatentSpace) -> Measures:
    """Measure how many molecules are reconstructed: from the mean, from a draw of the posterior, and by length."""
    canonical, lengths = space.table["canonical"].to_numpy(), space.molecules.lengths

    def compare(table: pd.DataFrame) -> dict[str, float]:
        return {
            "same_molecule": float((table["canonical"].to_numpy() == canonical).mean()),
            "similarity": compute_mean_similarity(space.table["fingerprint"], table["fingerprint"]),
        }

    (from_draw,) = space.decode(space.sample_posteriors(1.0, "reconstruction"))
    by_pca = space.pca and compare(*space.describe_sets(space.pca.decode(space.pca.encode(space.molecules))))
    is_same = space.reconstructions["canonical"].to_numpy() == canonical
    quarter = np.digitize(lengths, np.quantile(lengths, [0.25, 0.5, 0.75]))
    quarters = [quarter == number for number in range(4)]
    return {
        **compare(space.reconstructions),
        "same_molecule_from_draw": compare(from_draw)["same_molecule"],
        "by_length": [
            {
                "tokens": [int(lengths[part].min()), int(lengths[part].max())],
                "n": int(part.sum()),
                "same_molecule": float(is_same[part].mean()),
            }
            for part in quarters
            if part.any()
        ],
        PCA_OF_TOKENS: by_pca,
    }


def measure_completeness(space: LatentSpace) -> Measures:
    """Measure which points decode to round-trip consistent strings: of the prior, of posteriors, by distance from 0.

    The PCA baseline is decoded at points of the normal distribution fitted to its training molecules.
    """
    n, z_dim = len(space.molecules), space.mu.shape[1]
    with torch.inference_mode():
        prior = space.model.prior.sample(n, make_generator(space.seed, "completeness"))
    directions = torch.randn((n, z_dim), generator=make_generator(space.seed, "directions"))
    directions = directions / directions.norm(dim=1, keepdim=True)
    at_radii = [directions * radius * z_dim**0.5 for radius in RADII]
    posterior = space.sample_posteriors(1.0, "completeness")
    of_prior, of_posterior, *of_radii = space.decode(prior, posterior, *at_radii)
    random_strings = sample_random_tokens(space.vocabulary, space.molecules.lengths, n, space.seed)
    pca_strings = space.pca.decode(space.pca.sample(n, space.seed)) if space.pca else []
    of_random, of_pca = space.describe_sets(random_strings, pca_strings)
    radii = space.mu.norm(dim=1) / z_dim**0.5
    return {
        "prior": compute_fractions(of_prior),
        "posterior": compute_fractions(of_posterior),
        "random_baseline": compute_fractions(of_random),
        "molecule_radii": [float(part) for part in np.quantile(radii, [0.05, 0.5, 0.95])],
        "by_radius": [
            {"radius": radius, **compute_fractions(table)} for radius, table in zip(RADII, of_radii, strict=True)
        ],
        PCA_OF_TOKENS: compute_fractions(of_pca) if space.pca else None,
    }


def compute_fractions(table: pd.DataFrame) -> dict[str, float]:
    """Compute the fractions of strings that are good molecules, see `molvae.metrics.molecule_table`.

    Returns:
        `round_trip`, round-trip consistent; `filters`, passing the MOSES filters; `unique`, a molecule that no earlier
        string gave; `good`, all three.
    """
    columns = (table[name].fillna(False).to_numpy(bool) for name in ("is_round_trip", "passes_filters"))
    is_round_trip, is_passing = columns
    is_new = ~table["canonical"].duplicated().to_numpy() & (table["canonical"] != "").to_numpy()
    return {
        "round_trip": float(is_round_trip.mean()),
        "filters": float(is_passing.mean()),
        "unique": float(is_new.mean()),
        "good": float((is_round_trip & is_passing & is_new).mean()),
    }


def measure_continuity(space: LatentSpace) -> Measures:
    """Measure whether what is near in the latent space is alike: Tanimoto similarity of Morgan fingerprints.

    `neighborhoods` compares molecules with what is decoded around them. `neighbors` is the fraction of a molecule's
    nearest ones in the latent space that are among its most similar ones, and `rank_correlation` is Spearman's, of
    latent distance and dissimilarity; both stand beside PCA of tokens (`molvae.latent.pca_baseline`) and PCA of
    fingerprints with as many dimensions.
    """
    from sklearn.decomposition import PCA

    fingerprints = unpack_fingerprints(space.table["fingerprint"])
    common = fingerprints @ fingerprints.T
    sizes = fingerprints.sum(1)
    similarity = common / np.maximum(sizes[:, None] + sizes - common, 1)
    dims = min(space.mu.shape[1], *np.subtract(fingerprints.shape, 1))
    upper = np.triu_indices(len(fingerprints), 1)

    def compare(points: np.ndarray) -> dict[str, float]:
        tensor = torch.from_numpy(np.ascontiguousarray(points))
        distance = torch.cdist(tensor, tensor).numpy()
        return {
            "neighbors": _compute_neighbor_overlap(-distance, similarity),
            "rank_correlation": _compute_rank_correlation(distance[upper], 1 - similarity[upper]),
        }

    shuffled = space.table["fingerprint"].sample(frac=1, random_state=0)
    return {
        "neighborhoods": _measure_neighborhoods(space),
        "similarity_of_random_pairs": compute_mean_similarity(space.table["fingerprint"], shuffled),
        "latent": compare(space.mu.double().numpy()),
        PCA_OF_TOKENS: space.pca and compare(space.pca.encode(space.molecules).astype(float)),
        PCA_OF_FINGERPRINTS: compare(PCA(dims, random_state=0).fit_transform(fingerprints)),
        "chance": {"neighbors": min(N_NEIGHBORS / (len(fingerprints) - 1), 1.0), "rank_correlation": 0.0},
    }


def _measure_neighborhoods(space: LatentSpace) -> list[dict[str, float]]:
    """Measure what is decoded around the molecules, by the spread of the draws; spread 0 is their means."""
    draws = [space.sample_posteriors(spread, "continuity") for spread in SPREADS]
    tables = [space.reconstructions, *space.decode(*draws)]
    return [
        {
            "spread": spread,
            "similarity": compute_mean_similarity(space.table["fingerprint"], table["fingerprint"]),
            "same_molecule": float((table["canonical"] == space.table["canonical"]).mean()),
            **compute_fractions(table),
        }
        for spread, table in zip((0.0, *SPREADS), tables, strict=True)
    ]


def measure_interpolation(space: LatentSpace) -> Measures:
    """Measure how smooth paths between random pairs of molecules are, N_STEPS points each, decoded greedily.

    Latent paths are spherical (`molvae.latent.interpolation`), those of the PCA baseline straight. `chance` is the
    difference of the two molecules of a pair: a step from anywhere to anywhere.
    """
    order = np.random.default_rng(derive_seed(space.seed, "interpolation")).permutation(len(space.molecules))
    starts, ends = order[:N_PATHS], np.roll(order, 1)[:N_PATHS]
    mu = space.mu.double().numpy()
    points = np.concatenate([slerp(mu[a], mu[b], N_STEPS) for a, b in zip(starts, ends, strict=True)])
    (table,) = space.decode(torch.from_numpy(points).float(), describe=compute_descriptors)
    properties = space.table[["logp", "qed"]].astype(float)
    differences = np.abs(properties.to_numpy()[starts] - properties.to_numpy()[ends]).mean(0)
    return {
        "paths": len(starts),
        "steps": N_STEPS,
        "latent": compute_path_smoothness(table),
        PCA_OF_TOKENS: _measure_pca_interpolation(space, starts, ends),
        "chance": {f"{name}_step": float(value) for name, value in zip(properties, differences, strict=True)},
    }


def _measure_pca_interpolation(space: LatentSpace, starts: np.ndarray, ends: np.ndarray) -> Measures | None:
    if not space.pca:
        return None
    points, fraction = space.pca.encode(space.molecules), np.linspace(0, 1, N_STEPS)[:, None]
    lines = (1 - fraction) * points[starts, None] + fraction * points[ends, None]
    selfies = space.pca.decode(lines.reshape(-1, points.shape[1]))
    return compute_path_smoothness(*space.describe_sets(selfies, describe=compute_descriptors))


def compute_path_smoothness(table: pd.DataFrame) -> dict[str, float | None]:
    """Compute how smooth paths are, given N_STEPS rows for each path, one path after another.

    Returns:
        `logp_step` and `qed_step`, mean change per step, None where no step has two molecules; `round_trip`, fraction
        of round-trip consistent strings; `distinct`, fraction of a path's points that are different molecules.
    """
    paths = table["canonical"].to_numpy().reshape(-1, N_STEPS)
    smoothness: dict[str, float | None] = {
        "round_trip": float(table["is_round_trip"].mean()),
        "distinct": float(np.mean([len(set(path) - {""}) / N_STEPS for path in paths])),
    }
    for name in ("logp", "qed"):
        changes = np.abs(np.diff(table[name].to_numpy(float).reshape(-1, N_STEPS), axis=1))
        smoothness[f"{name}_step"] = float(np.nanmean(changes)) if np.isfinite(changes).any() else None
    return smoothness


def compute_mean_similarity(a: Sequence[bytes | None], b: Sequence[bytes | None]) -> float:
    """Compute the mean similarity of pairs of fingerprints; a string that is no molecule (None) has similarity 0."""
    pairs = zip(a, b, strict=True)
    return float(np.mean([compute_similarity(first, second) if first and second else 0.0 for first, second in pairs]))


def _compute_rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of them is constant."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b)[0]) if np.ptp(a) and np.ptp(b) else 0.0


def _compute_neighbor_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean fraction of the N_NEIGHBORS nearest by one (n, n) measure that are so by the other; larger is nearer."""
    k, overlaps = min(N_NEIGHBORS, len(a) - 1), []
    for row, nearness in enumerate(zip(a, b, strict=True)):
        nearest = [set(np.argsort(-np.delete(values, row), kind="stable")[:k]) for values in nearness]
        overlaps.append(len(nearest[0] & nearest[1]) / k)
    return float(np.mean(overlaps))
