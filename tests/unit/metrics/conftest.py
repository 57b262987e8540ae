"""Nine samples whose metrics are worked by hand, and what they are compared with."""

from __future__ import annotations

import pandas as pd
import pytest

from molvae.metrics import definitions
from molvae.metrics.definitions import METRICS
from molvae.metrics.molecule_table import describe_smiles
from molvae.metrics.reference_sets import ReferenceSet, TrainingSet, build_reference_set, build_training_set
from molvae.metrics.sample_set import SampleSet

SAMPLES = [
    ("OCC", "[O][C][C]"),  # ethanol, not canonical, as the training file has it
    ("CCO", "[C][C][O]"),  # again
    ("C[C@H](N)C(=O)O", "[C][C@H1][Branch1][C][N][C][=Branch1][C][=O][O]"),  # alanine, without stereo in the training
    ("C[C@@H](N)C(=O)O", "[C][C@@H1][Branch1][C][N][C][=Branch1][C][=O][O]"),  # the other one
    ("O=c1cccc[nH]1", "[O][=C][C][=C][C][=C][NH1][Ring1][=Branch1]"),  # its tautomer is in the training
    ("c1ccccc1", "[C][=C][C][=C][C][=C][Ring1][=Branch1]"),  # in the training
    ("", "[nop]"),  # no molecule
    ("[CH2]C1CCCCCCCC1", "[CH2][C][C][C][C][C][C][C][C][C][Ring1][Branch2]" + "[F]" * 12),  # large ring, radical
    ("BrCC[NH3+]", "[Br][C][C][NH3+1]"),  # charged, and MCF4
]
TRAINING = ("OCC", "CC(N)C(=O)O", "Oc1ccccn1", "c1ccccc1", "C(C)(C)(C)(C)C", "CC(=O)Nc1ccc(O)cc1", "CCCCCN")


@pytest.fixture(scope="session")
def sample_rows() -> pd.DataFrame:
    return describe_smiles(*zip(*SAMPLES, strict=True))


@pytest.fixture
def samples(sample_rows) -> SampleSet:
    return SampleSet(sample_rows, round_trip_rate=0.3)


@pytest.fixture
def invalid_samples() -> SampleSet:
    """Two samples, none of which is a molecule."""
    return SampleSet(describe_smiles(["", "xx"], ["[nop]", "[nop]"]), round_trip_rate=0.0)


@pytest.fixture(scope="session")
def references(smiles) -> dict[str, ReferenceSet]:
    return {
        "Test": build_reference_set(smiles, "the fixture"),
        "TestSF": build_reference_set(smiles[:20], "a part of it"),
    }


@pytest.fixture(scope="session")
def training_smiles() -> tuple[str, ...]:
    """Training molecules as they were given, one of them unreadable."""
    return TRAINING


@pytest.fixture(scope="session")
def training(training_smiles) -> TrainingSet:
    return build_training_set(training_smiles, "a few", with_skeletons=True)


@pytest.fixture
def without_min_n(monkeypatch):
    """Have each metric computed of any number of molecules."""
    metrics = {name: definition._replace(min_n=1) for name, definition in METRICS.items()}
    monkeypatch.setattr(definitions, "METRICS", metrics)
