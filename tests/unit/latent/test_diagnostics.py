"""Latent diagnostics: measures worked by hand, and verdicts on good, collapsed and sparsely filled latent spaces."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import molvae
from molvae.config import LatentSettings
from molvae.errors import DataError
from molvae.latent import diagnostics
from molvae.latent.diagnostics import (
    PCA_OF_FINGERPRINTS,
    PCA_OF_TOKENS,
    VERDICTS,
    compute_diagnostics,
    compute_fractions,
    compute_mmd,
    compute_path_smoothness,
    decide_verdict,
)
from molvae.latent.space import LatentSpace
from molvae.nn.vae import init_vae
from molvae.runtime.workers import Workers
from molvae.stages.latent import collect_metrics, latent

SETTINGS = LatentSettings(n=24)
PCA_SECTIONS = ("reconstruction", "completeness", "continuity", "interpolation")  # that have a PCA baseline


def run_stage(name: str, folder, smiles) -> dict:
    """Run the stage `latent` for a model on these molecules, and return the diagnostics."""
    (folder / "held_out.smi").write_text("\n".join(smiles) + "\n")
    content = latent(name, folder / "held_out.smi", SETTINGS, folder / "latent")
    assert json.loads((folder / "latent/diagnostics.json").read_text())["verdict"] == content["verdict"]
    return content


@pytest.fixture(scope="module")
def drug_like() -> list[str]:
    """Molecules like those that the pretrained models were trained on."""
    return [smiles for smiles in molvae.load("pretrained:moses").sample(40, seed=7) if smiles]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, drug_like):
    """Diagnostics of a model that is good in all respects."""
    return run_stage("pretrained:moses-latent", tmp_path_factory.mktemp("healthy"), drug_like)


def test_latent_space_that_reconstructs_and_whose_prior_gives_molecules_is_healthy(healthy):
    assert healthy["verdict"] == "healthy" and healthy["n"] == 24
    reconstruction, usage = healthy["reconstruction"], healthy["usage"]
    assert reconstruction["same_molecule"] > 0.8 > reconstruction["same_molecule_from_draw"] > 0.3
    assert 25 < usage["kl_nats"] < 35 and len(usage["kl_by_dimension"]) == 64
    assert usage["mutual_information_nats"] <= usage["mutual_information_at_most"] + 1e-9
    assert math.isclose(usage["mutual_information_at_most"], math.log(24))
    assert sum(part["n"] for part in reconstruction["by_length"]) == 24


def test_continuity_of_a_healthy_space_falls_from_near_identity_to_the_similarity_of_random_pairs(healthy):
    continuity = healthy["continuity"]
    similarity = [part["similarity"] for part in continuity["neighborhoods"]]
    assert similarity[0] > 0.9 and similarity == sorted(similarity, reverse=True)
    assert abs(similarity[-1] - continuity["similarity_of_random_pairs"]) < 0.08
    for name in ("latent", "pca_of_fingerprints"):
        assert 0 <= continuity[name]["neighbors"] <= 1
    assert math.isclose(continuity["chance"]["neighbors"], 10 / 23)


def test_interpolation_paths_of_a_healthy_space_are_round_trip_consistent_and_change_in_small_steps(healthy):
    interpolation = healthy["interpolation"]
    assert interpolation["paths"] == 24 and interpolation["steps"] == 8
    assert 0.5 < interpolation["latent"]["round_trip"] <= 1 and 2 / 8 < interpolation["latent"]["distinct"] < 1
    for name in ("logp_step", "qed_step"):
        chance = interpolation["chance"][name]
        assert chance / 7 < interpolation["latent"][name] < chance


def test_path_smoothness_is_that_worked_by_hand(monkeypatch):
    monkeypatch.setattr(diagnostics, "N_STEPS", 3)
    table = pd.DataFrame(
        {
            "canonical": ["C", "C", "CO", "N", "", "CO"],
            "is_round_trip": [True, True, True, True, False, False],
            "logp": [1.0, 1.0, 3.0, 0.0, None, 5.0],
            "qed": None,
        }
    )
    assert compute_path_smoothness(table) == {
        "round_trip": pytest.approx(4 / 6),
        "distinct": pytest.approx((2 / 3 + 2 / 3) / 2),
        "logp_step": 1.0,
        "qed_step": None,
    }


def test_diagnostics_without_training_molecules_have_no_pca_baseline(healthy):
    assert healthy["pca"] is None
    assert [healthy[section][PCA_OF_TOKENS] for section in PCA_SECTIONS] == [None] * 4
    assert healthy["continuity"][PCA_OF_FINGERPRINTS] is not None


def test_pca_baseline_with_enough_dimensions_reconstructs_its_training_molecules_and_is_no_generator(
    tokens, vocabulary, sizes
):
    wide = init_vae(len(vocabulary), sizes.model_copy(update={"latent_dim": 40}), seed=0).eval()
    space = LatentSpace(wide, vocabulary, tokens, tokens, max_tokens=20, seed=0, workers=Workers())
    content = compute_diagnostics(space)
    assert content["pca"] == {"dimensions": len(tokens), "explained_variance": pytest.approx(1)}
    assert content["reconstruction"][PCA_OF_TOKENS] == {"same_molecule": 1, "similarity": 1}
    assert content["completeness"][PCA_OF_TOKENS]["round_trip"] < 0.5
    path = content["interpolation"][PCA_OF_TOKENS]
    assert (path["distinct"], path["round_trip"]) == (2 / 8, 1), "the first molecule up to the middle, then the second"
    assert set(content["continuity"][PCA_OF_TOKENS]) == set(content["continuity"]["latent"])


def test_completeness_falls_with_the_distance_from_zero_and_that_of_random_tokens_is_lowest(healthy):
    completeness = healthy["completeness"]
    by_radius = [part["good"] for part in completeness["by_radius"]]
    assert by_radius[0] < 0.1, "at the centre all are the same molecule"
    assert max(by_radius[1:6]) > 0.6 > by_radius[-1]
    prior, posterior, random = (completeness[name]["good"] for name in ("prior", "posterior", "random_baseline"))
    assert posterior > prior > random


def test_latent_space_that_holds_little_about_a_molecule_is_weak(tmp_path, drug_like):
    content = run_stage("pretrained:moses", tmp_path, drug_like)
    assert content["verdict"] == "weak" and content["usage"]["mutual_information_nats"] > 1
    assert content["reconstruction"]["same_molecule"] < 0.2
    assert content["completeness"]["prior"]["round_trip"] > 0.8, "its samples are good all the same"


def test_latent_space_that_the_model_does_not_use_has_collapsed(tmp_path, drug_like, monkeypatch):
    model = molvae.load("pretrained:moses")
    with torch.no_grad():
        model.network.encoder.to_latent.weight.zero_()
        model.network.encoder.to_latent.bias.zero_()
    monkeypatch.setattr("molvae.stages.latent.load", lambda folder: model)
    content = run_stage("collapsed", tmp_path, drug_like)
    assert content["verdict"] == "collapsed" and content["usage"]["mutual_information_nats"] < 1e-3
    assert content["usage"]["active_units"] == 0


def test_latent_space_whose_prior_lies_where_no_molecules_are_has_holes(tmp_path, drug_like, monkeypatch):
    model = molvae.load("pretrained:moses-latent")

    class DistantPrior(type(model.network.prior)):
        def sample(self, n, generator):
            return 6 * super().sample(n, generator)

    model.network.prior = DistantPrior(64)
    monkeypatch.setattr("molvae.stages.latent.load", lambda folder: model)
    content = run_stage("holes", tmp_path, drug_like)
    assert content["verdict"] == "holes"
    assert content["aggregate_posterior"]["mmd"] > 10 * abs(content["aggregate_posterior"]["mmd_between_prior_draws"])


@pytest.mark.parametrize(
    ("n_different", "information", "same_molecule", "prior", "posterior", "verdict"),
    [
        (10, 0.1, 1.0, 1.0, 1.0, "collapsed"),
        (10, 3.0, 0.1, 1.0, 1.0, "weak"),
        (9, 0.1, 1.0, 1.0, 1.0, "unknown"),
        (10, 6.0, 0.99, 0.1, 0.9, "holes"),
        (10, 6.0, 0.9, 0.7, 0.9, "healthy"),
    ],
)
def test_verdict_depends_on_the_measures_alone(n_different, information, same_molecule, prior, posterior, verdict):
    usage, reconstruction = {"mutual_information_nats": information}, {"same_molecule": same_molecule}
    completeness = {"prior": {"round_trip": prior}, "posterior": {"round_trip": posterior}}
    assert decide_verdict(n_different, usage, reconstruction, completeness) == verdict


def test_diagnostics_of_a_plain_autoencoder_have_no_kl(tokens, vocabulary, sizes):
    autoencoder = init_vae(len(vocabulary), sizes.model_copy(update={"variational": False}), seed=0).eval()
    space = LatentSpace(autoencoder, vocabulary, tokens, max_tokens=20, seed=0, workers=Workers())
    content = compute_diagnostics(space)
    assert content["usage"]["kl_nats"] is None and content["verdict"] in VERDICTS
    assert collect_metrics(content)["mutual_information_nats"] == math.log(len(tokens))


def test_mmd_is_that_worked_by_hand_and_tells_equal_from_shifted_distributions():
    zeros, twos = torch.tensor([[0.0], [0.0]]), torch.tensor([[2.0], [2.0]])  # scale 2: k(0) = 1, k(2) = 2 / 6
    assert math.isclose(compute_mmd(zeros, twos), 1 + 1 - 2 / 3)
    draws = torch.randn(3, 400, 5, generator=torch.Generator().manual_seed(0))
    assert abs(compute_mmd(draws[0], draws[1])) < 0.01 < compute_mmd(draws[0], draws[2] + 1)


def test_fractions_count_strings_that_are_round_trip_consistent_pass_the_filters_and_are_unique():
    table = pd.DataFrame(
        {
            "canonical": ["CC", "CC", "", "CO"],
            "is_round_trip": [True, True, False, False],
            "passes_filters": [True, True, None, True],
        }
    )
    assert compute_fractions(table) == {"round_trip": 0.5, "filters": 0.75, "unique": 0.5, "good": 0.25}


def test_neighbor_overlap_is_one_for_equal_zero_for_opposite_and_chance_for_random_nearness():
    points = np.arange(30.0)
    nearness = -np.abs(points[:, None] - points)
    random = np.random.default_rng(0).random((30, 30))
    assert diagnostics._compute_neighbor_overlap(nearness, nearness) == 1
    assert diagnostics._compute_neighbor_overlap(nearness, -nearness) == 0
    assert 0.2 < diagnostics._compute_neighbor_overlap(nearness, random) < 0.5  # by chance 10 / 29


def test_latent_stage_takes_held_out_molecules_only_where_the_file_has_splits(tmp_path, drug_like):
    table = pd.DataFrame({"smiles": drug_like, "split": ["train"] * 25 + ["valid"] * (len(drug_like) - 25)})
    table.to_parquet(tmp_path / "molecules.parquet")
    content = latent("pretrained:moses-latent", tmp_path / "molecules.parquet", LatentSettings(n=10), tmp_path)
    assert content["n"] == 10 and content["pca"]["dimensions"] == 25
    projections = pd.read_parquet(tmp_path / "projections.parquet")
    assert sorted(projections["row"]) == list(range(26, len(drug_like) + 1)), "rows of the file, all of them held out"
    table["split"] = "train"
    table.to_parquet(tmp_path / "molecules.parquet")
    with pytest.raises(DataError, match="column 'split' holds train, and none of it is 'test' or 'valid'"):
        latent("pretrained:moses-latent", tmp_path / "molecules.parquet", SETTINGS, tmp_path)


def test_latent_stage_reads_the_split_column_of_moses_and_names_rows_by_their_number(tmp_path, drug_like, caplog):
    molecules = enumerate([*drug_like, "C", "nonsense"])
    rows = [f"{smiles},{'test' if row % 2 else 'train'}" for row, smiles in molecules]
    (tmp_path / "data.csv").write_text("\n".join(["SMILES,SPLIT", *rows]) + "\n")
    content = latent("pretrained:moses-latent", tmp_path / "data.csv", SETTINGS, tmp_path)
    assert content["n"] == len(rows) // 2 - 1 and content["pca"] is not None
    assert f"row {len(rows)}, 'nonsense'" in caplog.text


def test_latent_space_measured_with_fewer_than_ten_different_molecules_is_unknown(tmp_path, drug_like):
    (tmp_path / "few.smi").write_text("\n".join(drug_like[:9] * 3) + "\n")
    content = latent("pretrained:moses-latent", tmp_path / "few.smi", SETTINGS, tmp_path)
    assert (content["n"], content["n_different"], content["verdict"]) == (24, 9, "unknown")
