"""Molecules in two dimensions: maps with known answers, and rows that stay what they are."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem.Descriptors import MolWt
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import molvae
from molvae.config import LatentSettings
from molvae.latent.projections import COLUMNS, COORDINATES, in_two_dimensions, mapped
from molvae.metrics.molecule_table import describe_all
from molvae.runtime.workers import Workers
from molvae.stages.latent import latent

MODEL = "pretrained:moses"


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def test_a_plane_is_found_again_with_all_its_variance():
    plane = normal(60, 2) * [3, 1]
    turned = plane @ np.linalg.qr(normal(7, 7))[0][:2]
    components, _, shares = in_two_dimensions(turned)
    assert sum(shares) == pytest.approx(1) and shares[0] > 0.7
    for points in (components, plane):
        points -= points.mean(0)
    np.testing.assert_allclose(np.linalg.norm(components, axis=1), np.linalg.norm(plane, axis=1))


def test_clusters_stay_together():
    kind = np.repeat([0, 1, 2], 40)
    _, tsne, _ = in_two_dimensions(normal(120, 20) + 10 * np.eye(20)[kind])
    near = NearestNeighbors(n_neighbors=6).fit(tsne).kneighbors(tsne, return_distance=False)
    assert (kind[near] == kind[:, None]).all()


def test_points_that_are_all_one_are_so_on_the_map():
    components, tsne, shares = in_two_dimensions(np.full((20, 5), 0.3))
    assert not components.any() and not tsne.any() and shares == [0, 0]


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 3), (3, 1), (5, 3)])
def test_few_points_have_a_map_too(shape):
    components, tsne, shares = in_two_dimensions(normal(*shape))
    assert components.shape == tsne.shape == (shape[0], 2)
    assert np.isfinite(components).all() and np.isfinite(tsne).all() and sum(shares) <= 1 + 1e-9


def test_the_map_is_the_same_for_any_number_of_processes(smiles):
    described, mu = describe_all(smiles), normal(len(smiles), 6)
    one = mapped(np.arange(len(smiles)), described, mu, Workers())
    with Workers(2) as workers:
        two = mapped(np.arange(len(smiles)), described, mu, workers)
    pd.testing.assert_frame_equal(one[0], two[0])
    assert one[1] == two[1]


@pytest.fixture(scope="module")
def drug_like() -> list[str]:
    return [one for one in molvae.load(MODEL).sample(30, seed=3) if one]


def test_each_row_is_a_molecule_of_the_file_with_its_own_figures(tmp_path, drug_like):
    lines = ["no molecule", *drug_like[:10], "C[Si](C)C", *drug_like[10:]]
    (tmp_path / "held_out.smi").write_text("\n".join(lines) + "\n")
    card = latent(MODEL, tmp_path / "held_out.smi", LatentSettings(n=50), tmp_path)
    table = pd.read_parquet(tmp_path / "maps.parquet")
    assert tuple(table) == COLUMNS and sorted(table["row"]) == [n for n in range(1, len(lines) + 1) if n not in (1, 12)]
    of_file = [Chem.MolFromSmiles(lines[row - 1]) for row in table["row"]]
    assert table["smiles"].tolist() == [Chem.MolToSmiles(mol) for mol in of_file]
    np.testing.assert_allclose(table["mw"], [MolWt(mol) for mol in of_file])
    mu, _ = molvae.load(MODEL).encode(table["smiles"].tolist())
    components = PCA(2).fit_transform(mu)
    np.testing.assert_allclose(np.abs(components[:, 0]), table["latent_pca_1"].abs(), atol=1e-3)
    assert np.isfinite(table[list(COORDINATES)]).all(axis=None)
    assert card["n"] == card["maps"]["n"] == len(table)
    assert 0 < sum(card["maps"]["explained_variance"]["fingerprint"]) < 1


def test_maps_can_be_off_or_of_fewer_molecules_than_the_card(tmp_path, drug_like):
    (tmp_path / "held_out.smi").write_text("\n".join(drug_like) + "\n")
    for number in (0, 3):
        latent(MODEL, tmp_path / "held_out.smi", LatentSettings(n=8, maps=number), tmp_path)
        card, table = json.loads((tmp_path / "card.json").read_text()), pd.read_parquet(tmp_path / "maps.parquet")
        assert len(table) == number and tuple(table) == COLUMNS and card["n"] == 8
        assert (card["maps"] is None) == (number == 0)
