"""Metrics of a set of samples, worked by hand, and their entries in metrics.json."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from molvae.chemistry.descriptors import compute_guacamol_descriptors
from molvae.metrics import fcd, guacamol, moses
from molvae.metrics.definitions import METRICS, MOSES
from molvae.metrics.evaluation import build_metrics
from molvae.metrics.intervals import Estimate, estimate_fraction, estimate_uniqueness
from molvae.metrics.molecule_table import describe_smiles
from molvae.metrics.sample_set import SampleSet
from molvae.metrics.suite import (
    Metric,
    MetricEntry,
    build_further_metrics,
    build_guacamol_metrics,
    build_moses_metrics,
    compute_metrics,
    make_entry,
)


def index_by_name(metrics: list[Metric]) -> dict[str, Metric]:
    by_name = {metric.name: metric for metric in metrics}
    assert len(by_name) == len(metrics)
    return by_name


@pytest.mark.parametrize(
    ("name", "hits", "n"),
    [
        ("valid", 8, 9),
        ("Filters", 6, 8),
        ("MCF", 7, 8),
        ("PAINS", 8, 8),
        ("radicals", 1, 8),
        ("large_rings", 1, 8),
        ("charged", 1, 8),
        ("structural_flags", 1, 8),
        ("Novelty", 6, 7),  # of the seven distinct ones the training file has the very text of benzene only
        ("Novelty_canonical", 5, 7),  # ethanol
        ("Novelty_no_stereo", 3, 7),  # both alanines
        ("Novelty_skeleton", 2, 7),  # pyridone
        ("GuacaMol/validity", 8, 9),
        ("GuacaMol/novelty", 3, 6),  # the alanines are one
    ],
)
def test_metric_that_is_a_fraction_has_the_value_worked_by_hand(samples, references, training, name, hits, n):
    metric = index_by_name(build_metrics(samples, references, training))[name]
    assert metric.n == n
    assert metric.compute() == estimate_fraction(hits, n)


@pytest.mark.parametrize(("name", "distinct"), [("unique@1000", 7), ("unique@10000", 7), ("GuacaMol/uniqueness", 6)])
def test_uniqueness_metric_has_the_value_worked_by_hand(samples, references, training, name, distinct):
    metric = index_by_name(build_metrics(samples, references, training))[name]
    estimate = metric.compute()
    assert metric.n == 8 and estimate.value == distinct / 8
    assert estimate.low < estimate.value < estimate.high


def test_token_survival_is_a_mean_over_samples_and_round_trip_rate_that_of_all_decoded_strings(samples):
    metrics = index_by_name(build_further_metrics(samples, {}, None))
    survival = metrics["token_survival"].compute()
    assert metrics["token_survival"].n == metrics["round_trip_rate"].n == 9
    assert survival.value == pytest.approx((7 + 0.5 + 0) / 9) and survival.low < survival.value < survival.high <= 1
    assert metrics["round_trip_rate"].compute() == (0.3, None, None, None)
    smiles_only = SampleSet(describe_smiles(["C", "CC"]))  # without strings
    assert not {"token_survival", "round_trip_rate"} & set(index_by_name(build_further_metrics(smiles_only, {}, None)))


def test_sample_set_knows_its_valid_and_its_distinct_molecules(samples):
    assert len(samples.valid) == 8 and samples.valid.index.tolist() == list(range(8))
    assert samples.distinct[:2] == ["CCO", "C[C@H](N)C(=O)O"] and len(samples.distinct) == 7
    assert samples.distinct_without_stereo[1:3] == ["CC(N)C(=O)O"] * 2
    assert samples.fingerprints.shape == (8, 128) and samples.activations.shape == (8, 512)
    assert len(samples.fragments) == len(samples.scaffolds) == 8 and samples.scaffolds[0] == []


def test_moses_metrics_compare_the_valid_samples_with_their_reference(samples, references, training, without_min_n):
    estimates, refused = compute_metrics(build_moses_metrics(samples, references, training))
    assert set(refused) == {f"Scaf/{name}" for name in references}
    for name, reference in references.items():
        assert estimates[f"FCD/{name}"] == fcd.estimate_fcd(samples.activations, reference.chemnet)
        assert estimates[f"SNN/{name}"] == moses.compute_snn(samples.fingerprints, reference.fingerprints)
        assert estimates[f"Frag/{name}"] == moses.compute_cosine(samples.fragments, reference.fragments)
        assert refused[f"Scaf/{name}"] == "no sample, or no molecule of the reference, has two rings or more"
    diversities = moses.compute_internal_diversities(samples.fingerprints)
    assert (estimates["IntDiv"], estimates["IntDiv2"]) == diversities
    weights = samples.valid["mw"].to_numpy(float)
    assert estimates["weight"] == moses.compute_wasserstein(weights, references["Test"].properties["weight"])
    assert {"logP", "SA", "QED", "weight"} <= set(estimates)
    assert estimates["FCD/Test"].value != estimates["FCD/TestSF"].value


def test_reference_molecules_have_the_best_values_of_moses_metrics(smiles, references, without_min_n):
    estimates, _ = compute_metrics(build_moses_metrics(SampleSet(describe_smiles(smiles)), references, None))
    assert [estimates[f"{name}/Test"].value for name in ("SNN", "Frag", "Scaf")] == pytest.approx([1, 1, 1])
    distances = [estimates[name].value for name in ("FCD/Test", "logP", "SA", "QED", "weight")]
    assert distances == pytest.approx([0] * 5, abs=1e-4)
    assert estimates["Frag/TestSF"].value < 0.99 and "Novelty" not in estimates


def test_memorisation_metrics_take_the_novel_samples_and_the_nearest_training_molecules(
    samples, references, training, without_min_n
):
    metrics = index_by_name(build_further_metrics(samples, references, training))
    novel = [2, 3, 4, 6, 7]  # of the valid ones: alanines, pyridone, the last two
    expected = fcd.estimate_fcd(samples.activations[novel], references["Test"].chemnet)
    assert metrics["FCD_novel/Test"].n == 5
    assert metrics["FCD_novel/Test"].compute() == expected
    assert metrics["SNN/Train"].compute() == moses.compute_snn(samples.fingerprints, training.fingerprints)
    assert metrics["SNN/Train"].reference == "6 of a few"


def test_kl_divergences_of_guacamol_are_those_of_distinct_molecules_without_stereo(samples, training, without_min_n):
    def compute_values(smiles):
        values, fingerprints = compute_guacamol_descriptors(smiles)
        return {**values, "internal_similarity": guacamol.compute_internal_similarity(fingerprints)}

    estimates, refused = compute_metrics(build_guacamol_metrics(samples, training))
    assert refused == {}
    distinct = list(dict.fromkeys(samples.distinct_without_stereo))
    training_values = compute_values(list(training.smiles))  # six of each
    score, parts = guacamol.compute_kl_divergences(compute_values(distinct), training_values)
    assert estimates["GuacaMol/KL_score"] == score
    assert {name: estimates[f"GuacaMol/KL/{name}"] for name in parts} == parts and len(parts) == 10


def test_fcd_score_of_guacamol_and_its_interval_fall_from_one_with_the_distance(samples, training, without_min_n):
    distance = fcd.estimate_fcd(samples.activations, fcd.compute_statistics(training.smiles))
    score = index_by_name(build_guacamol_metrics(samples, training))["GuacaMol/FCD_score"].compute()
    assert score.value == pytest.approx(math.exp(-distance.value / 5))
    assert (score.low, score.high) == pytest.approx((math.exp(-distance.high / 5), math.exp(-distance.low / 5)))
    assert score.error == pytest.approx(score.value * distance.error / 5)


def test_guacamol_metrics_look_at_the_first_samples_only(samples, training, monkeypatch, without_min_n):
    monkeypatch.setattr(guacamol, "MAX_SAMPLES", 3)
    metrics = index_by_name(build_guacamol_metrics(samples, training))
    assert (metrics["GuacaMol/validity"].n, metrics["GuacaMol/validity"].compute().value) == (3, 1)
    assert metrics["GuacaMol/uniqueness"].compute().value == 2 / 3  # ethanol twice
    assert metrics["GuacaMol/novelty"].n == 2  # ethanol, alanine; the other alanine is the third of the distinct ones
    assert metrics["GuacaMol/novelty"].compute().value == 0
    assert metrics["GuacaMol/FCD_score"].n == 3
    distance = fcd.estimate_fcd(samples.activations[:3], fcd.compute_statistics(training.smiles[:3]))
    assert metrics["GuacaMol/FCD_score"].compute().value == pytest.approx(math.exp(-distance.value / 5))


def test_metrics_of_too_few_molecules_are_refused_with_the_number_they_need(samples, references, training):
    metrics = build_metrics(samples, references, training)
    estimates, refused = compute_metrics(metrics)
    assert set(estimates) | set(refused) == {metric.name for metric in metrics}
    assert not set(estimates) & set(refused)
    assert refused["FCD/Test"] == refused["unique@10000"] == "needs 1000 molecules, there are 8"
    assert refused["SNN/Test"] == refused["IntDiv"] == refused["logP"] == "needs 100 molecules, there are 8"
    assert refused["FCD_novel/TestSF"] == "needs 1000 molecules, there are 5"
    assert refused["GuacaMol/KL_score"] == refused["GuacaMol/KL/TPSA"] == "needs 1000 molecules, there are 6"
    assert {"valid", "Filters", "Novelty", "GuacaMol/uniqueness", "token_survival", "round_trip_rate"} <= set(estimates)


def test_metric_with_exactly_the_molecules_it_needs_is_computed():
    for n, is_computed in ((999, False), (1000, True)):
        samples = SampleSet(describe_smiles(["xx", *["C"] * n]))
        estimates, _ = compute_metrics(build_moses_metrics(samples, {}, None))
        assert ("unique@1000" in estimates) is is_computed
    assert estimates["unique@1000"] == estimate_uniqueness(["C"] * 1000)


def test_uniqueness_metrics_count_the_first_valid_samples_only():
    samples = SampleSet(describe_smiles(["xx", *["C"] * 999, *["C" * n for n in range(2, 12)]]))
    estimates, _ = compute_metrics(build_moses_metrics(samples, {}, None))
    assert estimates["unique@1000"].value == 2 / 1000
    assert estimates["unique@10000"].value == 11 / 1009


def test_samples_without_a_molecule_have_only_the_metrics_that_count_them(invalid_samples, references, training):
    estimates, refused = compute_metrics(build_metrics(invalid_samples, references, training))
    assert {name: estimate.value for name, estimate in estimates.items()} == {
        "valid": 0,
        "token_survival": 0,
        "round_trip_rate": 0,
        "GuacaMol/validity": 0,
    }
    assert estimates["valid"] == estimate_fraction(0, 2)
    assert refused["Filters"] == refused["Novelty_skeleton"] == "needs 1 molecules, there are 0"
    smiles_only, _ = compute_metrics(build_metrics(SampleSet(describe_smiles(["xx", ""])), references, None))
    assert smiles_only == {"valid": estimate_fraction(0, 2)}


def test_empty_sample_set_has_no_metrics(references, training):
    estimates, refused = compute_metrics(build_metrics(SampleSet(describe_smiles([])), references, training))
    assert estimates == {} and refused["valid"] == "needs 1 molecules, there are 0"


def test_metric_entry_has_all_that_is_needed_to_read_its_value():
    metric = Metric("FCD/Test", 12, lambda: Estimate(None), "a few molecules")
    baselines = {"training_set_reference": np.float32(0.5), "random_baseline": None}
    entry = make_entry(metric, Estimate(np.float64(2), 0.5, 1.0, 3.0), baselines)
    assert entry == {
        "name": "FCD/Test",
        "value": 2,
        "interval": [1, 3],
        "standard_error": 0.5,
        "n": 12,
        "better": "lower",
        "reference": "a few molecules",
        "implementation": METRICS["FCD"].implementation,
        "source": MOSES,
        "description": METRICS["FCD"].description,
        "baselines": {"training_set_reference": 0.5, "random_baseline": None},
    }
    assert list(entry) == list(MetricEntry.__annotations__)
    assert entry["implementation"].startswith("ChemNet of fcd_torch ")
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_metric_entry_has_none_in_place_of_what_is_not_a_number():
    metric = Metric("round_trip_rate", 12, lambda: Estimate(None))
    without_error = make_entry(metric, Estimate(0.5), {})
    assert (without_error["value"], without_error["interval"], without_error["standard_error"]) == (0.5, None, None)
    not_finite = make_entry(metric, Estimate(math.nan, math.inf, -math.inf, 1.0), {"random_baseline": math.nan})
    assert (not_finite["value"], not_finite["standard_error"]) == (None, None)
    assert not_finite["interval"] == [None, 1] and not_finite["baselines"] == {"random_baseline": None}
    assert make_entry(metric, Estimate(None), {})["value"] is None
