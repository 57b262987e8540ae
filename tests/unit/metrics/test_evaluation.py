"""All metrics of a set of samples beside their baselines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from molvae.metrics import evaluation as evaluation_module
from molvae.metrics import fcd, moses
from molvae.metrics.evaluation import build_metrics, evaluate_samples, score_baseline
from molvae.metrics.molecule_table import describe_smiles
from molvae.metrics.sample_set import SampleSet


def test_evaluation_puts_baselines_beside_the_metrics_of_the_samples(
    samples, invalid_samples, references, training, training_smiles, without_min_n, monkeypatch
):
    monkeypatch.setattr(evaluation_module, "MIN_BASELINE_FRACTION", 0.5)
    training_samples = SampleSet(describe_smiles(training_smiles))
    baselines = [
        score_baseline("random_baseline", invalid_samples, references, training),
        score_baseline("shuffled_baseline", training_samples, references, training, ("FCD", "round_trip_rate")),
        score_baseline("training_set_reference", training_samples, references, training),
    ]
    evaluation = evaluate_samples(samples, references, training, baselines, seed=3)
    entries = {entry["name"]: entry for entry in evaluation["metrics"]}
    without_value = {"Scaf/Test", "Scaf/TestSF"}  # no sample has two rings
    names = [metric.name for metric in build_metrics(samples, references, training)]
    assert list(entries) == [name for name in names if name not in without_value]
    assert evaluation["not_computed"].keys() == without_value and json.dumps(evaluation, allow_nan=False)
    assert all(entry["value"] is not None for entry in entries.values())
    assert entries["valid"]["baselines"] == {"random_baseline": 0, "training_set_reference": 6 / 7}
    assert entries["Novelty_canonical"]["baselines"] == {"training_set_reference": 0}
    distance = fcd.estimate_fcd(training_samples.activations, references["Test"].chemnet).value
    expected = {"shuffled_baseline": distance, "training_set_reference": distance}
    assert entries["FCD/Test"]["baselines"] == expected
    # without their SELFIES strings nothing is known of the other baselines' round trips
    assert entries["round_trip_rate"]["baselines"] == {"random_baseline": 0}
    with_shuffled = {name for name, entry in entries.items() if "shuffled_baseline" in entry["baselines"]}
    assert with_shuffled == {"FCD/Test", "FCD/TestSF"}
    nearest = moses.compute_snn(samples.fingerprints, training.fingerprints).value
    assert entries["SNN/Train"]["value"] == nearest
    assert entries["SNN/Train"]["baselines"].keys() == {"training_set_reference", "held_out"}
    assert entries["SNN/Train"]["baselines"]["training_set_reference"] == 1


def test_baseline_of_fewer_molecules_has_no_metric_that_depends_on_their_number(
    samples, references, training, without_min_n
):
    small = SampleSet(describe_smiles(["CCO", "CCN", "c1ccccc1O", "CCC", "CCCl"]))  # for 8 samples
    baseline = score_baseline("training_set_reference", small, references, training)
    evaluation = evaluate_samples(samples, references, training, [baseline])
    has_baseline = {entry["name"]: "training_set_reference" in entry["baselines"] for entry in evaluation["metrics"]}
    assert all(has_baseline[name] for name in ("SNN/Test", "Filters", "IntDiv", "Frag/Test"))
    assert not any(has_baseline[name] for name in ("FCD/Test", "unique@10000", "GuacaMol/KL_score"))
    names, reason = list(evaluation["not_computed"].items())[-1]
    assert names.endswith("of training-set reference") and reason == "depend on n: 5 molecules for 8 samples"


def test_held_out_molecules_are_as_many_as_the_samples_and_drawn_by_the_seed(
    samples, references, training, without_min_n
):
    def compute_held_out_snn(seed: int, sample_set: SampleSet = samples) -> float:
        entries = evaluate_samples(sample_set, references, training, seed=seed)["metrics"]
        return next(entry for entry in entries if entry["name"] == "SNN/Train")["baselines"]["held_out"]

    assert compute_held_out_snn(1) == compute_held_out_snn(1) != compute_held_out_snn(2)
    more_than_reference = SampleSet(describe_smiles(["CCO", "C", "N"] * 11))  # 33 samples, 32 molecules to draw from
    nearest = moses.compute_snn(references["Test"].fingerprints, training.fingerprints).value
    assert compute_held_out_snn(1, more_than_reference) == pytest.approx(nearest)


def test_baselines_have_no_metric_that_the_samples_lack(samples, references, training):
    large = SampleSet(describe_smiles(["CCO", "CCN", "CCC"] * 40), round_trip_rate=1.0)
    baselines = iter([score_baseline("large", large, references, training)])
    evaluation = evaluate_samples(samples, references, training, baselines)
    assert evaluation["not_computed"]["SNN/Test"] == "needs 100 molecules, there are 8"
    assert {entry["name"] for entry in evaluation["metrics"]}.isdisjoint(evaluation["not_computed"])
    entry = next(entry for entry in evaluation["metrics"] if entry["name"] == "round_trip_rate")
    assert entry["baselines"] == {"large": 1}


def test_novelty_of_skeletons_is_computed_where_asked_for_and_else_its_price_is_named(
    samples, references, training, without_min_n
):
    evaluation = evaluate_samples(samples, references, replace(training, skeletons=None))
    assert "--skeletons" in evaluation["not_computed"].pop("Novelty_skeleton")
    with_skeletons = evaluate_samples(samples, references, training)
    names = [entry["name"] for entry in with_skeletons["metrics"]]
    assert [entry["name"] for entry in evaluation["metrics"]] == [name for name in names if name != "Novelty_skeleton"]
    assert with_skeletons["not_computed"] == evaluation["not_computed"]


def test_evaluation_without_training_molecules_or_references_computes_the_remaining_metrics(samples, without_min_n):
    names = {entry["name"] for entry in evaluate_samples(samples, {}, None)["metrics"]}
    assert {"valid", "unique@1000", "IntDiv", "Filters", "token_survival", "radicals"} <= names
    assert not [name for name in names if name.startswith(("GuacaMol", "Novelty", "FCD", "SNN", "logP"))]


def test_evaluation_of_an_empty_sample_set_has_no_metrics(references, training):
    assert evaluate_samples(SampleSet(describe_smiles([])), references, training)["metrics"] == []
