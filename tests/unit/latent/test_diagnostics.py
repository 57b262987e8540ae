"""The health card of a latent space: its verdict tells a used space from a collapsed one and from one full of holes."""

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
from molvae.latent import diagnostics as cards
from molvae.latent.diagnostics import Space, mmd, shares
from molvae.nn.vae import untrained
from molvae.runtime.workers import Workers
from molvae.stages.latent import headline, latent

SMALL = LatentSettings(n=24)


def card_of(name: str, folder, smiles) -> dict:
    (folder / "held_out.smi").write_text("\n".join(smiles) + "\n")
    found = latent(name, folder / "held_out.smi", SMALL, folder / "latent")
    assert json.loads((folder / "latent/card.json").read_text())["verdict"] == found["verdict"]
    return found


@pytest.fixture(scope="module")
def drug_like() -> list[str]:
    """Molecules as the pretrained models know them."""
    return [one for one in molvae.load("pretrained:moses").sample(40, seed=7) if one]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, drug_like):
    return card_of("pretrained:moses-latent", tmp_path_factory.mktemp("healthy"), drug_like)


def test_a_space_that_reconstructs_and_whose_prior_is_filled_is_healthy(healthy):
    assert healthy["verdict"] == "healthy" and healthy["n"] == 24
    assert healthy["reconstruction"]["same_molecule"] > 0.8 > healthy["reconstruction"]["same_molecule_from_draw"] > 0.3
    assert 25 < healthy["use"]["kl_nats"] < 35 and len(healthy["use"]["kl_by_dimension"]) == 64
    assert healthy["use"]["mutual_information_nats"] <= healthy["use"]["mutual_information_at_most"] + 1e-9
    assert math.isclose(healthy["use"]["mutual_information_at_most"], math.log(24))
    assert sum(part["n"] for part in healthy["reconstruction"]["by_length"]) == 24


def test_near_is_near_and_far_is_as_unlike_as_any_two(healthy):
    around = healthy["continuity"]["around"]
    similarity = [part["similarity"] for part in around]
    assert similarity[0] > 0.9 and similarity == sorted(similarity, reverse=True)
    assert abs(similarity[-1] - healthy["continuity"]["similarity_of_random_pairs"]) < 0.08
    for name in ("latent", "principal_components_of_fingerprints"):
        assert 0 <= healthy["continuity"][name]["neighbors"] <= 1
    assert math.isclose(healthy["continuity"]["chance"]["neighbors"], 10 / 23)


def test_ways_between_molecules_are_stable_and_go_by_small_steps(healthy):
    ways = healthy["interpolation"]
    assert ways["ways"] == 24 and ways["steps"] == 8
    assert 0.5 < ways["latent"]["stable"] <= 1 and 2 / 8 < ways["latent"]["distinct"] < 1
    for name in ("logp_step", "qed_step"):
        assert ways["chance"][name] / 7 < ways["latent"][name] < ways["chance"][name]


def test_the_evenness_of_ways_worked_by_hand(monkeypatch):
    monkeypatch.setattr(cards, "STEPS", 3)
    rows = pd.DataFrame({
        "canonical": ["C", "C", "CO", "N", "", "CO"], "is_stable": [True, True, True, True, False, False],
        "logp": [1.0, 1.0, 3.0, 0.0, None, 5.0], "qed": None,
    })  # fmt: skip
    assert cards.evenness(rows) == {
        "stable": pytest.approx(4 / 6), "distinct": pytest.approx((2 / 3 + 2 / 3) / 2), "logp_step": 1.0,
        "qed_step": None,
    }  # fmt: skip


LINEAR = ("reconstruction", "completeness", "continuity", "interpolation")


def test_without_training_molecules_there_is_no_linear_space_to_compare_with(healthy):
    assert healthy["linear"] is None
    assert [healthy[part][cards.TOKENS] for part in LINEAR] == [None] * 4
    assert healthy["continuity"][cards.FINGERPRINTS] is not None


def test_a_linear_space_with_room_for_all_it_has_seen_brings_it_back_and_is_no_generator(tokens, vocabulary, sizes):
    wide = untrained(len(vocabulary), sizes.model_copy(update={"latent_dim": 40}), seed=0).eval()
    found = cards.health(Space(wide, vocabulary, tokens, tokens, max_tokens=20, seed=0, workers=Workers()))
    assert found["linear"] == {"dimensions": len(tokens), "explained_variance": pytest.approx(1)}
    assert found["reconstruction"][cards.TOKENS] == {"same_molecule": 1, "similarity": 1}
    assert found["completeness"][cards.TOKENS]["stable"] < 0.5
    way = found["interpolation"][cards.TOKENS]
    assert (way["distinct"], way["stable"]) == (2 / 8, 1), "up to the middle it is the one, then the other"
    assert set(found["continuity"][cards.TOKENS]) == set(found["continuity"]["latent"])


def test_molecules_get_fewer_with_the_distance_and_random_tokens_are_none(healthy):
    here = healthy["completeness"]
    by_radius = [part["good"] for part in here["by_radius"]]
    assert by_radius[0] < 0.1, "at the centre they are all the same"
    assert max(by_radius[1:6]) > 0.6 > by_radius[-1]
    assert here["posterior"]["good"] > here["prior"]["good"] > here["random_tokens"]["good"]


def test_a_model_that_says_little_of_a_molecule_is_weak(tmp_path, drug_like):
    found = card_of("pretrained:moses", tmp_path, drug_like)
    assert found["verdict"] == "weak" and found["use"]["mutual_information_nats"] > 1
    assert found["reconstruction"]["same_molecule"] < 0.2
    assert found["completeness"]["prior"]["stable"] > 0.8, "its samples are good all the same"


def test_a_model_that_leaves_the_latent_point_unused_has_collapsed(tmp_path, drug_like, monkeypatch):
    model = molvae.load("pretrained:moses")
    with torch.no_grad():
        model.network.encoder.to_latent.weight.zero_()
        model.network.encoder.to_latent.bias.zero_()
    monkeypatch.setattr("molvae.stages.latent.load", lambda folder: model)
    found = card_of("collapsed", tmp_path, drug_like)
    assert found["verdict"] == "collapsed" and found["use"]["mutual_information_nats"] < 1e-3
    assert found["use"]["active_units"] == 0


def test_molecules_that_come_back_from_where_the_prior_has_none_are_a_space_full_of_holes(
    tmp_path, drug_like, monkeypatch
):
    model = molvae.load("pretrained:moses-latent")

    class Elsewhere(type(model.network.prior)):
        def draw(self, n, generator):
            return 6 * super().draw(n, generator)

    model.network.prior = Elsewhere(64)
    monkeypatch.setattr("molvae.stages.latent.load", lambda folder: model)
    found = card_of("holes", tmp_path, drug_like)
    assert found["verdict"] == "holes"
    assert found["aggregate_posterior"]["mmd"] > 10 * abs(found["aggregate_posterior"]["mmd_null"])


def test_the_verdict_is_of_the_figures_alone():
    def figures(information, back, prior, posterior, different=10):
        return {
            "different": different,
            "use": {"mutual_information_nats": information}, "reconstruction": {"same_molecule": back},
            "completeness": {"prior": {"stable": prior}, "posterior": {"stable": posterior}},
        }  # fmt: skip

    assert cards.judge(figures(0.1, 1.0, 1.0, 1.0)) == "collapsed"
    assert cards.judge(figures(3.0, 0.1, 1.0, 1.0)) == "weak"
    assert cards.judge(figures(0.1, 1.0, 1.0, 1.0, different=9)) == "unknown"
    assert cards.judge(figures(6.0, 0.99, 0.1, 0.9)) == "holes"
    assert cards.judge(figures(6.0, 0.9, 0.7, 0.9)) == "healthy"


def test_a_plain_autoencoder_has_no_kl(tokens, vocabulary, sizes):
    plain = untrained(len(vocabulary), sizes.model_copy(update={"variational": False}), seed=0).eval()
    space = Space(plain, vocabulary, tokens, max_tokens=20, seed=0, workers=Workers())
    found = cards.health(space)
    assert found["use"]["kl_nats"] is None and found["verdict"] in cards.VERDICTS
    assert headline(found)["mutual_information_nats"] == math.log(len(tokens))


def test_mmd_worked_by_hand():
    one, other = torch.tensor([[0.0], [0.0]]), torch.tensor([[2.0], [2.0]])  # scale 2: k(0) = 1, k(2) = 2 / 6
    assert math.isclose(mmd(one, other), 1 + 1 - 2 / 3)
    draws = torch.randn(3, 400, 5, generator=torch.Generator().manual_seed(0))
    assert abs(mmd(draws[0], draws[1])) < 0.01 < mmd(draws[0], draws[2] + 1)


def test_shares_count_what_is_stable_passes_and_is_new():
    rows = pd.DataFrame({
        "canonical": ["CC", "CC", "", "CO"], "is_stable": [True, True, False, False],
        "passes_filters": [True, True, None, True],
    })  # fmt: skip
    assert shares(rows) == {"stable": 0.5, "filters": 0.75, "unique": 0.5, "good": 0.25}


def test_neighbours_in_common():
    points = np.arange(30.0)
    near = -np.abs(points[:, None] - points)
    assert cards._overlap(near, near) == 1
    assert cards._overlap(near, -near) == 0
    assert 0.2 < cards._overlap(near, np.random.default_rng(0).random((30, 30))) < 0.5  # by chance 10 / 29


def test_only_held_out_molecules_are_taken_where_the_file_says_which(tmp_path, drug_like):
    table = pd.DataFrame({"smiles": drug_like, "split": ["train"] * 25 + ["valid"] * (len(drug_like) - 25)})
    table.to_parquet(tmp_path / "molecules.parquet")
    found = latent("pretrained:moses-latent", tmp_path / "molecules.parquet", LatentSettings(n=10), tmp_path)
    assert found["n"] == 10 and found["linear"]["dimensions"] == 25
    shown = pd.read_parquet(tmp_path / "maps.parquet")
    assert sorted(shown["row"]) == list(range(26, len(drug_like) + 1)), "rows of the file, held out all of them"
    table["split"] = "train"
    table.to_parquet(tmp_path / "molecules.parquet")
    with pytest.raises(DataError, match="column 'split' holds train, and none of it is 'test' or 'valid'"):
        latent("pretrained:moses-latent", tmp_path / "molecules.parquet", SMALL, tmp_path)


def test_the_split_column_of_moses_counts_and_rows_keep_their_numbers(tmp_path, drug_like, caplog):
    rows = [f"{one},{'test' if row % 2 else 'train'}" for row, one in enumerate([*drug_like, "C", "nonsense"])]
    (tmp_path / "data.csv").write_text("\n".join(["SMILES,SPLIT", *rows]) + "\n")
    found = latent("pretrained:moses-latent", tmp_path / "data.csv", SMALL, tmp_path)
    assert found["n"] == len(rows) // 2 - 1 and found["linear"] is not None
    assert f"row {len(rows)}, 'nonsense'" in caplog.text


def test_a_handful_of_molecules_says_nothing(tmp_path, drug_like):
    (tmp_path / "few.smi").write_text("\n".join(drug_like[:9] * 3) + "\n")
    card = latent("pretrained:moses-latent", tmp_path / "few.smi", SMALL, tmp_path)
    assert (card["n"], card["different"], card["verdict"]) == (24, 9, "unknown")
