"""ChemNet on what a SMILES fills: the activations of the whole network on all 350 characters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fcd_torch.utils import get_one_hot
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.chemistry.standardise import standardise
from molvae.metrics import chemnet
from molvae.metrics.chemnet import activations

SHORT = ["C", "[H][H]", "[Na+]", "Br", "[13CH4]", "Cl[Cl]"]


@pytest.fixture(scope="module")
def canonical(smiles) -> list[str]:
    return [standardise(one) for one in smiles]


def whole(texts: list[str]) -> np.ndarray:
    """As fcd_torch computes them: encoded into 350 characters, through every layer."""
    encoded = np.stack([get_one_hot(text, 350) for text in texts]) / 35
    with torch.inference_mode():
        return chemnet._network("cpu")(torch.from_numpy(encoded).float().transpose(1, 2)).numpy()


def assert_alike(texts: list[str]) -> None:
    np.testing.assert_allclose(activations(texts), whole(texts), rtol=1e-4, atol=1e-4)


def test_activations_are_those_of_the_whole_network(canonical):
    found = activations(canonical)
    assert found.shape == (len(canonical), 512) and found.dtype == np.float32
    np.testing.assert_allclose(found, whole(canonical), rtol=1e-4, atol=1e-5)
    assert len(np.unique(found.round(4), axis=0)) == len(canonical)
    assert found.std(0).mean() > 0.01  # far above what they may differ by


@pytest.mark.parametrize("smiles", SHORT)
def test_activations_of_a_molecule_of_an_atom_or_two_are_those_of_the_whole_network(smiles):
    assert_alike([smiles])


@settings(max_examples=12)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4))
def test_activations_of_any_length_are_those_of_the_whole_network(lengths):
    assert_alike([("CCOc1ccccc1N" * 8)[:length] for length in lengths])


@pytest.mark.parametrize("length", [*range(327, 352), 400, 1000])
def test_long_smiles_are_read_as_far_as_the_whole_network_reads_them(length):
    assert_alike([("CCOC(=O)N" * 120)[:length]])


def test_a_batch_with_a_long_smiles_is_computed_as_any_other(canonical):
    assert_alike([*canonical[:5], "C" * 500, *SHORT])


def test_batches_change_nothing(canonical, monkeypatch):
    together = activations(canonical)
    monkeypatch.setattr(chemnet, "BATCH", 3)  # the last one is shorter
    np.testing.assert_allclose(activations(canonical), together, atol=1e-4)
    np.testing.assert_allclose(activations([*canonical[:6], "C" * 360]), whole([*canonical[:6], "C" * 360]), atol=1e-4)


def test_rows_stand_in_the_order_of_the_input_and_a_text_that_comes_again_has_its_row_again(canonical):
    order = np.random.default_rng(0).integers(len(canonical), size=3 * len(canonical))
    found = activations([canonical[k] for k in order])
    np.testing.assert_array_equal(found, found[[order.tolist().index(k) for k in order]])
    np.testing.assert_allclose(found, activations(canonical)[order], atol=1e-4)


def test_no_molecules_have_no_activations():
    found = activations([])
    assert found.shape == (0, 512) and found.dtype == np.float32
