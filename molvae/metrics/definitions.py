"""What each metric and each baseline is: the one table of names, directions, sources, least n, and comparability."""

from __future__ import annotations

from importlib import metadata
from typing import Literal, NamedTuple

MOSES, GUACAMOL = "MOSES (Polykovskiy et al. 2020)", "GuacaMol (Brown et al. 2019)"
RDKIT = "RDKit"
FCD_IMPLEMENTATION = f"ChemNet of fcd_torch {metadata.version('fcd-torch')}"
GUACAMOL_PREFIX = "GuacaMol/"  # of the names of that suite


class MetricDefinition(NamedTuple):
    """What metrics of a name (up to its first slash) have in common.

    Attributes:
        better: which values are better.
        description: what it measures, with its unit.
        source: who defined it.
        implementation: whose code computes it.
        min_n: n below which it means nothing.
        depends_on_n: whether its expected value moves with n, so that only values at equal n can be compared.
        identity_only: whether it needs no more than which molecules the samples are, no descriptors: computed for
            every baseline.
        undefined: why it has no value where it has none.
    """

    better: Literal["higher", "lower", "none"]
    description: str
    source: str = MOSES
    implementation: str = "molvae"
    min_n: int = 1
    depends_on_n: bool = False
    identity_only: bool = False
    undefined: str = "no finite value came out"  # the reason where the metric has no value


METRICS = {
    "valid": MetricDefinition(
        "higher",
        "fraction of samples that RDKit accepts and that hold an atom; SELFIES make it 1. A wildcard atom (*) is "
        "invalid here and valid in MOSES' own code",
        implementation=RDKIT,
        identity_only=True,
    ),
    "unique@1000": MetricDefinition(
        "higher", "fraction of distinct molecules among the first 1000 valid samples", min_n=1000, identity_only=True
    ),
    "unique@10000": MetricDefinition(
        "higher",
        "fraction of distinct molecules among the first 10 000 valid samples, or all of fewer",
        min_n=1000,
        depends_on_n=True,
        identity_only=True,
    ),
    "FCD": MetricDefinition(
        "lower",
        "Fréchet ChemNet distance of valid samples, duplicates kept; falls with n: compare at equal n",
        implementation=FCD_IMPLEMENTATION,
        min_n=1000,
        depends_on_n=True,
        identity_only=True,
    ),
    "FCD_novel": MetricDefinition(
        "lower",
        "FCD of the valid samples that are no training molecule, so that memorisation does not lower it",
        "molvae",
        FCD_IMPLEMENTATION,
        1000,
        depends_on_n=True,
    ),
    "SNN": MetricDefinition("higher", "mean Tanimoto similarity to the nearest molecule of the reference", min_n=100),
    "SNN/Train": MetricDefinition(
        "none",
        "mean Tanimoto similarity to the nearest training molecule; memorisation if above that of held-out molecules",
        "molvae",
        min_n=100,
    ),
    "Frag": MetricDefinition(
        "higher",
        "cosine similarity of the counts of BRICS fragments",
        min_n=100,
        undefined="no sample, or no molecule of the reference, has a BRICS fragment",
    ),
    "Scaf": MetricDefinition(
        "higher",
        "cosine similarity of the counts of Murcko scaffolds with two rings or more; rises with n",
        min_n=1000,
        depends_on_n=True,
        undefined="no sample, or no molecule of the reference, has two rings or more",
    ),
    "IntDiv": MetricDefinition("none", "1 − mean Tanimoto similarity of all pairs", min_n=100),
    "IntDiv2": MetricDefinition("none", "1 − mean over samples of the root of the mean squared similarity", min_n=100),
    "Filters": MetricDefinition(
        "higher",
        "fraction of valid samples that pass the filters of MOSES: MCF, PAINS, no ring of eight atoms or more, "
        "no charge, usual elements",
        implementation=RDKIT,
    ),
    "logP": MetricDefinition("lower", "Wasserstein-1 distance of Crippen logP", min_n=100),
    "SA": MetricDefinition("lower", "Wasserstein-1 distance of the synthetic accessibility score", min_n=100),
    "QED": MetricDefinition("lower", "Wasserstein-1 distance of the estimate of drug-likeness", min_n=100),
    "weight": MetricDefinition("lower", "Wasserstein-1 distance of the molecular weight, g/mol", min_n=100),
    "Novelty": MetricDefinition(
        "higher",
        "fraction of distinct valid samples whose canonical SMILES is no training molecule's SMILES as it was given",
        identity_only=True,
    ),
    "Novelty_canonical": MetricDefinition(
        "higher", "novelty with training molecules made canonical, too", "molvae", identity_only=True
    ),
    "Novelty_no_stereo": MetricDefinition("higher", "novelty with stereo marks removed on both sides", "molvae"),
    "Novelty_skeleton": MetricDefinition(
        "higher", "novelty by the first block of the InChIKey, which tautomers and stereoisomers share", "molvae"
    ),
    "token_survival": MetricDefinition(
        "higher",
        "mean fraction of a sample's tokens that survive decoding and encoding again, since all SELFIES are valid",
        "molvae",
        identity_only=True,
    ),
    "round_trip_rate": MetricDefinition(
        "higher",
        "fraction of all decoded strings, rejected ones too, that come back unchanged from decoding and encoding",
        "molvae",
        identity_only=True,
    ),
    "radicals": MetricDefinition("lower", "fraction of valid samples with unpaired electrons", "molvae", RDKIT),
    "large_rings": MetricDefinition(
        "lower", "fraction of valid samples with a ring of more than 8 atoms", "molvae", RDKIT
    ),
    "charged": MetricDefinition("none", "fraction of valid samples with a net charge", "molvae", RDKIT),
    "structural_flags": MetricDefinition(
        "lower",
        "fraction of valid samples with structural flags: unusual rings, radicals, valences, heteroatom chains",
        "molvae",
        RDKIT,
    ),
    "MCF": MetricDefinition(
        "higher", "fraction of valid samples that no medicinal-chemistry filter matches", "molvae", RDKIT
    ),
    "PAINS": MetricDefinition(
        "higher", "fraction of valid samples that no PAINS filter of MOSES matches", "molvae", RDKIT
    ),
    "validity": MetricDefinition("higher", "fraction of valid ones among the first 10 000 samples", GUACAMOL, RDKIT),
    "uniqueness": MetricDefinition(
        "higher",
        "fraction of distinct molecules, stereo aside, among the first 10 000 valid samples",
        GUACAMOL,
        depends_on_n=True,
    ),
    "novelty": MetricDefinition(
        "higher",
        "fraction of the first 10 000 distinct valid samples, canonical without stereo, that are no training molecule",
        GUACAMOL,
    ),
    "KL_score": MetricDefinition(
        "higher", "mean of exp(-KL divergence) over ten distributions", GUACAMOL, min_n=1000, depends_on_n=True
    ),
    "KL": MetricDefinition(
        "lower",
        "KL divergence of the training molecules' distribution from that of the samples, nats",
        GUACAMOL,
        min_n=1000,
        depends_on_n=True,
    ),
    "FCD_score": MetricDefinition(
        "higher",
        "exp(-FCD / 5) of the first 10 000 valid samples and 10 000 training molecules",
        GUACAMOL,
        FCD_IMPLEMENTATION,
        1000,
        depends_on_n=True,
    ),
}
RANDOM_BASELINE, SHUFFLED_BASELINE = "random_baseline", "shuffled_baseline"
UNFILTERED_SAMPLES, AGGREGATE_POSTERIOR = "unfiltered_samples", "aggregate_posterior"
TRAINING_SET_REFERENCE, HELD_OUT = "training_set_reference", "held_out"
BASELINE_TITLES = {
    RANDOM_BASELINE: "random baseline",
    SHUFFLED_BASELINE: "shuffled baseline",
    TRAINING_SET_REFERENCE: "training-set reference",
    AGGREGATE_POSTERIOR: "aggregate posterior",
    UNFILTERED_SAMPLES: "unfiltered samples",
    HELD_OUT: "held-out molecules",
}  # in the order of a table's columns
METRICS_THAT_DEPEND_ON_N = tuple(name for name, definition in METRICS.items() if definition.depends_on_n)
IDENTITY_METRICS = tuple(name for name, definition in METRICS.items() if definition.identity_only)


def get_family(name: str) -> str:
    """Get the name of a metric without suite and reference: "FCD" of "FCD/Test".

    >>> get_family("GuacaMol/KL/MolWt")
    'KL'
    """
    return name.removeprefix(GUACAMOL_PREFIX).split("/")[0]


def get_definition(name: str) -> MetricDefinition:
    """Look up the definition of a metric by its whole name, "SNN/Train", or else by that of its family."""
    return METRICS.get(name) or METRICS[get_family(name)]
