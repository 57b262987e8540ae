"""ChemNet on the part of its input that a SMILES fills: the activations equal those of the whole network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fcd_torch.utils import get_one_hot
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.chemistry.standardise import standardise
from molvae.metrics import chemnet
from molvae.metrics.chemnet import compute_activations

SHORT = ["C", "[H][H]", "[Na+]", "Br", "[13CH4]", "Cl[Cl]"]


@pytest.fixture(scope="module")
def canonical(smiles) -> list[str]:
    return [standardise(text) for text in smiles]


def compute_whole_network(texts: list[str]) -> np.ndarray:
    """Compute activations as fcd_torch does: encoded into 350 characters, through every layer."""
    encoded = np.stack([get_one_hot(text, 350) for text in texts]) / 35
    with torch.inference_mode():
        return chemnet._load_network("cpu")(torch.from_numpy(encoded).float().transpose(1, 2)).numpy()


def assert_equal_whole_network(texts: list[str]) -> None:
    np.testing.assert_allclose(compute_activations(texts), compute_whole_network(texts), rtol=1e-4, atol=1e-4)


def test_activations_equal_those_of_the_whole_network(canonical):
    activations = compute_activations(canonical)
    assert activations.shape == (len(canonical), 512) and activations.dtype == np.float32
    np.testing.assert_allclose(activations, compute_whole_network(canonical), rtol=1e-4, atol=1e-5)
    assert len(np.unique(activations.round(4), axis=0)) == len(canonical)
    assert activations.std(0).mean() > 0.01  # far above what they may differ by


@pytest.mark.parametrize("smiles", SHORT)
def test_activations_of_molecules_of_one_or_two_atoms_equal_those_of_the_whole_network(smiles):
    assert_equal_whole_network([smiles])


@settings(max_examples=12)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4))
def test_activations_of_smiles_of_any_length_equal_those_of_the_whole_network(lengths):
    assert_equal_whole_network([("CCOc1ccccc1N" * 8)[:length] for length in lengths])


@pytest.mark.parametrize("length", [*range(327, 352), 400, 1000])
def test_activations_of_long_smiles_equal_those_of_the_whole_network(length):
    assert_equal_whole_network([("CCOC(=O)N" * 120)[:length]])


def test_activations_of_a_batch_with_a_long_smiles_equal_those_of_the_whole_network(canonical):
    assert_equal_whole_network([*canonical[:5], "C" * 500, *SHORT])


def test_activations_do_not_depend_on_the_batch_size(canonical, monkeypatch):
    expected = compute_activations(canonical)
    monkeypatch.setattr(chemnet, "BATCH_SIZE", 3)  # the last batch is shorter
    np.testing.assert_allclose(compute_activations(canonical), expected, atol=1e-4)
    with_long = [*canonical[:6], "C" * 360]
    np.testing.assert_allclose(compute_activations(with_long), compute_whole_network(with_long), atol=1e-4)


def test_activations_stand_in_the_order_of_the_input_and_repeat_for_repeated_texts(canonical):
    order = np.random.default_rng(0).integers(len(canonical), size=3 * len(canonical))
    activations = compute_activations([canonical[k] for k in order])
    np.testing.assert_array_equal(activations, activations[[order.tolist().index(k) for k in order]])
    np.testing.assert_allclose(activations, compute_activations(canonical)[order], atol=1e-4)


def test_no_molecules_have_no_activations():
    activations = compute_activations([])
    assert activations.shape == (0, 512) and activations.dtype == np.float32
