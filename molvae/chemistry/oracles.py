"""Oracles: objectives of a search that come with the package."""

from __future__ import annotations

from collections.abc import Callable

from molvae.chemistry.descriptors import compute_descriptors
from molvae.chemistry.standardise import parse_smiles
from molvae.errors import MolvaeError, suggest_nearest

Objective = Callable[[str], float]  # of a canonical SMILES; larger is better


def compute_penalised_logp(smiles: str) -> float:
    """Compute logP minus synthetic accessibility and large rings, each in standard deviations from its mean in ZINC.

    Source: Kusner et al. 2017 (arXiv:1703.01925); means and deviations of the 250 000 molecules of ZINC as
    You et al. 2018 (arXiv:1806.02473) took them.
    """
    descriptors = compute_descriptors(parse_smiles(smiles))
    return float(
        (descriptors["logp"] - 2.4570953396190123) / 1.434324401111988
        - (descriptors["sa"] - 3.0525811293166134) / 0.8335207024513095
        - (max(descriptors["largest_ring"] - 6, 0) - 0.0485696876403053) / 0.2860212110245455
    )


def compute_qed(smiles: str) -> float:
    """Compute the quantitative estimate of drug-likeness, 0 to 1.

    Source: Bickerton et al. 2012 (doi:10.1038/nchem.1243).
    """
    return float(compute_descriptors(parse_smiles(smiles))["qed"])


OBJECTIVES: dict[str, Objective] = {"qed": compute_qed, "penalised_logp": compute_penalised_logp}


def get_objective(name: str) -> Objective:
    """Look up an objective by its name.

    Raises:
        MolvaeError: there is none of that name.
    """
    if name not in OBJECTIVES:
        raise MolvaeError(f"there is no objective {name!r}.{suggest_nearest(name, OBJECTIVES)}")
    return OBJECTIVES[name]
