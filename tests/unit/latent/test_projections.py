"""Projections to two dimensions: known answers, and rows that stay with their molecules."""

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
from molvae.latent.projections import COLUMNS, COORDINATES, compute_projections, project_to_2d
from molvae.metrics.molecule_table import describe_smiles
from molvae.runtime.workers import Workers
from molvae.stages.latent import latent

MODEL = "pretrained:moses"


def draw_normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def test_pca_projection_recovers_a_plane_with_all_its_variance():
    plane = draw_normal(60, 2) * [3, 1]
    embedded = plane @ np.linalg.qr(draw_normal(7, 7))[0][:2]
    components, _, fractions = project_to_2d(embedded)
    assert sum(fractions) == pytest.approx(1) and fractions[0] > 0.7
    for points in (components, plane):
        points -= points.mean(0)
    np.testing.assert_allclose(np.linalg.norm(components, axis=1), np.linalg.norm(plane, axis=1))


def test_tsne_projection_keeps_clusters_together():
    cluster = np.repeat([0, 1, 2], 40)
    _, tsne, _ = project_to_2d(draw_normal(120, 20) + 10 * np.eye(20)[cluster])
    nearest = NearestNeighbors(n_neighbors=6).fit(tsne).kneighbors(tsne, return_distance=False)
    assert (cluster[nearest] == cluster[:, None]).all()


def test_projection_of_equal_points_is_one_point():
    components, tsne, fractions = project_to_2d(np.full((20, 5), 0.3))
    assert not components.any() and not tsne.any() and fractions == [0, 0]


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 3), (3, 1), (5, 3)])
def test_projection_of_few_points_is_finite(shape):
    components, tsne, fractions = project_to_2d(draw_normal(*shape))
    assert components.shape == tsne.shape == (shape[0], 2)
    assert np.isfinite(components).all() and np.isfinite(tsne).all() and sum(fractions) <= 1 + 1e-9


def test_projections_are_the_same_for_any_number_of_processes(smiles):
    described, mu = describe_smiles(smiles), draw_normal(len(smiles), 6)
    table, explained = compute_projections(np.arange(len(smiles)), described, mu, Workers())
    with Workers(2) as workers:
        parallel_table, parallel_explained = compute_projections(np.arange(len(smiles)), described, mu, workers)
    pd.testing.assert_frame_equal(table, parallel_table)
    assert explained == parallel_explained


@pytest.fixture(scope="module")
def drug_like() -> list[str]:
    return [smiles for smiles in molvae.load(MODEL).sample(30, seed=3) if smiles]


def test_projections_of_the_latent_stage_describe_the_molecules_in_the_named_rows_of_the_file(tmp_path, drug_like):
    lines = ["no molecule", *drug_like[:10], "C[Si](C)C", *drug_like[10:]]
    (tmp_path / "held_out.smi").write_text("\n".join(lines) + "\n")
    diagnostics = latent(MODEL, tmp_path / "held_out.smi", LatentSettings(n=50), tmp_path)
    table = pd.read_parquet(tmp_path / "projections.parquet")
    assert tuple(table) == COLUMNS and sorted(table["row"]) == [n for n in range(1, len(lines) + 1) if n not in (1, 12)]
    molecules = [Chem.MolFromSmiles(lines[row - 1]) for row in table["row"]]
    assert table["smiles"].tolist() == [Chem.MolToSmiles(mol) for mol in molecules]
    np.testing.assert_allclose(table["mw"], [MolWt(mol) for mol in molecules])
    mu, _ = molvae.load(MODEL).encode(table["smiles"].tolist())
    components = PCA(2).fit_transform(mu)
    np.testing.assert_allclose(np.abs(components[:, 0]), table["latent_pca_1"].abs(), atol=1e-3)
    assert np.isfinite(table[list(COORDINATES)]).all(axis=None)
    assert diagnostics["n"] == diagnostics["projections"]["n"] == len(table)
    assert 0 < sum(diagnostics["projections"]["explained_variance"]["fingerprint"]) < 1


@pytest.mark.parametrize("n", [0, 3])
def test_projections_can_be_off_or_of_fewer_molecules_than_the_diagnostics(tmp_path, drug_like, n):
    (tmp_path / "held_out.smi").write_text("\n".join(drug_like) + "\n")
    latent(MODEL, tmp_path / "held_out.smi", LatentSettings(n=8, projections=n), tmp_path)
    diagnostics = json.loads((tmp_path / "diagnostics.json").read_text())
    table = pd.read_parquet(tmp_path / "projections.parquet")
    assert len(table) == n and tuple(table) == COLUMNS and diagnostics["n"] == 8
    assert (diagnostics["projections"] is None) == (n == 0)
