"""The table of metrics: every metric has a definition, and every definition a metric."""

from __future__ import annotations

import pytest

from molvae.metrics.definitions import (
    GUACAMOL,
    IDENTITY_METRICS,
    METRICS,
    METRICS_THAT_DEPEND_ON_N,
    MetricDefinition,
    get_definition,
    get_family,
)
from molvae.metrics.evaluation import build_metrics


def test_each_metric_has_a_definition_and_each_definition_a_metric(samples, references, training):
    metrics = build_metrics(samples, references, training)
    assert {metric.family for metric in metrics} | {"SNN/Train"} == set(METRICS)
    for metric in metrics:
        family = metric.name.removeprefix("GuacaMol/").split("/")[0]
        assert metric.family == family
        assert metric.definition is METRICS["SNN/Train" if metric.name == "SNN/Train" else family]
        assert metric.name.startswith("GuacaMol/") == (metric.definition.source == GUACAMOL)
    assert len({definition.description for definition in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("FCD/Test", "FCD"),
        ("SNN/Train", "SNN"),
        ("GuacaMol/KL/MolWt", "KL"),
        ("GuacaMol/FCD_score", "FCD_score"),
        ("valid", "valid"),
        ("unique@1000", "unique@1000"),
    ],
)
def test_family_of_a_metric_is_its_name_without_suite_and_reference(name, family):
    assert get_family(name) == family


def test_definition_of_a_metric_is_that_of_its_whole_name_or_of_its_family():
    assert get_definition("SNN/Train") is METRICS["SNN/Train"] and get_definition("SNN/Test") is METRICS["SNN"]
    assert isinstance(get_definition("GuacaMol/KL/TPSA"), MetricDefinition)
    with pytest.raises(KeyError):
        get_definition("FDC/Test")


def test_metrics_that_depend_on_n_and_identity_metrics_are_those_marked_so():
    assert set(METRICS_THAT_DEPEND_ON_N) == {
        "FCD",
        "FCD_novel",
        "FCD_score",
        "Scaf",
        "unique@10000",
        "uniqueness",
        "KL",
        "KL_score",
    }
    assert set(IDENTITY_METRICS) == {
        "valid",
        "unique@1000",
        "unique@10000",
        "FCD",
        "Novelty",
        "Novelty_canonical",
        "token_survival",
        "round_trip_rate",
    }
