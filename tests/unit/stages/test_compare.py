"""Generators side by side: differences with intervals, pooled seeds, and what cannot be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from molvae.errors import DataError, MolvaeError
from molvae.metrics.comparison import compare_metrics
from molvae.report.comparison import render_comparison
from molvae.report.tables import build_latent_rows
from molvae.stages.compare import collect_metrics, compare, parse_group, parse_groups


def make_run(**values):
    """The content of a metrics.json: name=(value, error), or (value, error, further keys)."""
    metrics = []
    for name, (value, error, *overrides) in values.items():
        metric = {
            "name": name,
            "value": value,
            "standard_error": error,
            "n": 1000,
            "better": "higher",
            "reference": None,
        }
        metrics.append(metric | (overrides[0] if overrides else {}))
    return {"metrics": metrics}


def compare_single_metric(first, second):
    """The row of the only metric that two generators, each a list of runs, have."""
    (row,) = compare_metrics(first, second)
    return row


# metrics


def test_a_difference_of_metrics_has_the_standard_error_of_both():
    row = compare_single_metric([make_run(valid=(0.5, 0.03))], [make_run(valid=(0.7, 0.04))])
    assert row["difference"] == pytest.approx(0.2)
    assert row["interval"] == pytest.approx([0.2 - 1.96 * 0.05, 0.2 + 1.96 * 0.05], abs=1e-4)
    assert row["verdict"] == "better"
    assert [side["runs"] for side in row["sides"]] == [1, 1]


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("higher", 0.7, "better"),
        ("lower", 0.7, "worse"),
        ("none", 0.7, "different"),
        ("higher", 0.55, "no difference seen"),
    ],
)
def test_the_verdict_on_a_difference_follows_its_interval_and_the_better_direction(better, value, verdict):
    first, second = (make_run(valid=(v, 0.03, {"better": better})) for v in (0.5, value))
    assert compare_single_metric([first], [second])["verdict"] == verdict


def test_runs_with_several_seeds_are_pooled_and_the_spread_between_them_counts():
    first = [make_run(valid=(value, 0.001)) for value in (0.4, 0.5, 0.6)]
    second = [make_run(valid=(value, 0.001)) for value in (0.5, 0.6, 0.7)]
    row = compare_single_metric(first, second)
    assert row["difference"] == pytest.approx(0.1)
    error = 0.1 / np.sqrt(3) * np.sqrt(2)
    assert row["interval"][1] - row["interval"][0] == pytest.approx(2 * 2.776 * error, rel=1e-3)  # t of 4 degrees
    assert row["verdict"] == "no difference seen"
    assert row["sides"][0]["runs"] == 3


def test_seeds_that_happen_to_agree_are_no_more_certain_than_their_samples():
    row = compare_single_metric([make_run(valid=(0.5, 0.03))] * 2, [make_run(valid=(0.5, 0.03))] * 2)
    assert row["interval"][1] == pytest.approx(1.96 * 0.03, rel=1e-3)


@pytest.mark.parametrize("name", ["FCD/Test", "Scaf/Test", "GuacaMol/KL_score"])
def test_metrics_that_depend_on_n_are_not_compared_across_different_n(name):
    first, second = make_run(**{name: (1.0, 0.1)}), make_run(**{name: (3.0, 0.1, {"n": 2000})})
    row = compare_single_metric([first], [second])
    assert row["verdict"] == "cannot tell" and row["note"] == "depends on n, and n differs: 1000 and 2000"


def test_metrics_with_different_references_or_without_an_error_get_no_verdict():
    first, second = (make_run(a=(1.0, 0.1, {"reference": reference})) for reference in ("x", "y"))
    row = compare_single_metric([first], [second])
    assert row["verdict"] == "cannot tell" and row["note"] == "compared with different references: x and y"
    row = compare_single_metric([make_run(a=(1.0, None))], [make_run(a=(2.0, 0.1))])
    assert row["interval"] is None and row["verdict"] == "cannot tell"


def test_only_metrics_that_both_generators_have_are_compared():
    first = make_run(a=(1.0, 0.1), b=(1.0, 0.1), d=(None, None))
    second = make_run(a=(1.0, 0.1), c=(1.0, 0.1), d=(1.0, 0.1))
    assert [row["name"] for row in compare_metrics([first], [second])] == ["a"]


def test_two_equal_generators_seldom_differ():
    random = np.random.default_rng(0)
    differ = 0
    for _ in range(400):
        first, second = ([make_run(a=(random.normal(0, 0.1), 0.1))] for _ in range(2))
        differ += compare_single_metric(first, second)["verdict"] != "no difference seen"
    assert 8 <= differ <= 34  # 5 % of 400, three standard deviations either way


# files


def test_a_comparison_is_written_as_json_and_as_a_page_without_a_script(tmp_path):
    paths = {}
    for name, value in (("a", 0.5), ("b", 0.9)):
        paths[name] = tmp_path / name / "validation/metrics.json"
        paths[name].parent.mkdir(parents=True)
        paths[name].write_text(json.dumps(make_run(valid=(value, 0.01), FCD=(1.0, None))))
    content = compare({"a": [paths["a"]], "b": [paths["b"]]}, tmp_path / "out")
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == content
    page = (tmp_path / "out/comparison.html").read_text()
    assert page.startswith("<!doctype html>") and "b minus a" in page and "<script" not in page
    assert collect_metrics(content)["b/valid"] == pytest.approx(0.4) and "b/valid/low" in collect_metrics(content)


def make_diagnostics(same_molecule: float) -> dict:
    """Latent diagnostics with such a fraction of reconstructed molecules, and a hundredth of it for PCA of tokens."""
    fractions = {"good": 0.5, "round_trip": 0.5}
    return {
        "verdict": "healthy",
        "meaning": "something",
        "n": 300,
        "pca": None,
        "usage": {
            "mutual_information_nats": 5.0,
            "mutual_information_at_most": 5.7,
            "active_units": 60,
            "latent_dim": 64,
        },
        "aggregate_posterior": {"mmd": 0.01, "mmd_between_prior_draws": 0.001},
        "reconstruction": {
            "same_molecule": same_molecule,
            "same_molecule_from_draw": same_molecule / 2,
            "similarity": 0.9,
            "pca_of_tokens": {"same_molecule": same_molecule / 100, "similarity": 0.2},
        },
        "completeness": {"prior": fractions, "posterior": fractions, "random_baseline": fractions},
        "continuity": {
            "latent": {"neighbors": 0.1, "rank_correlation": 0.2},
            "similarity_of_random_pairs": 0.14,
            "pca_of_tokens": None,
            "pca_of_fingerprints": {"neighbors": 0.6, "rank_correlation": 0.7},
            "chance": {"neighbors": 0.03, "rank_correlation": 0.0},
        },
    }


def test_latent_spaces_stand_side_by_side_with_the_baselines_of_the_first(tmp_path):
    folders = {"vae": ["vae0", "vae1"], "plain": ["plain"], "bare": ["bare"]}
    groups = {name: [tmp_path / part / "validation/metrics.json" for part in parts] for name, parts in folders.items()}
    for number, path in enumerate(path for paths in groups.values() for path in paths):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(make_run(valid=(0.5, 0.01))))
        if "bare" not in str(path):
            (path.parent.parent / "latent").mkdir()
            diagnostics = make_diagnostics(0.9 - number / 10)
            (path.parent.parent / "latent/diagnostics.json").write_text(json.dumps(diagnostics))
    content = compare(groups, tmp_path / "out")
    assert list(content["diagnostics"]) == ["vae, run 1", "vae, run 2", "plain"]
    rows = {row["label"]: row for row in build_latent_rows(content["diagnostics"])}
    row = rows["molecules reconstructed from the mean"]
    assert row["models"] == {"vae, run 1": 0.9, "vae, run 2": 0.8, "plain": 0.7}
    assert row["baselines"]["pca_of_tokens"] == pytest.approx(0.009) and row["baselines"]["chance"] is None
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Latent spaces" in page and "PCA of tokens" in page and "<b>plain</b>: <strong>healthy</strong>" in page


def test_a_comparison_without_latent_diagnostics_has_no_table_of_latent_spaces():
    content = {"first": "x", "runs": {"x": ["x"], "y": ["z"]}, "comparisons": {"y": []}, "diagnostics": {}}
    assert "Latent spaces" not in render_comparison(content)


def test_names_of_generators_are_escaped_on_the_page_of_a_comparison():
    content = {"first": "<b>", "runs": {"<b>": ["x"], "y": ["z"]}, "comparisons": {"y": []}}
    assert "<b>" not in render_comparison(content).split("<main>")[0].replace("<b>&lt;b&gt;</b>", "")


# names


def test_a_generator_is_named_by_its_experiment_its_file_or_by_hand():
    assert parse_group("results/wide/validation/metrics.json")[0] == "wide"
    assert parse_group("samples.json")[0] == "samples"
    name, files = parse_group("seeds=a.json,b.json")
    assert name == "seeds" and [str(file) for file in files] == ["a.json", "b.json"]
    with pytest.raises(MolvaeError, match="write a generator as name=metrics.json"):
        parse_group("a=")


def test_two_generators_of_one_name_are_refused():
    with pytest.raises(MolvaeError, match=r"two generators are called 'b': p1/b/validation/metrics\.json and p2/b/"):
        parse_groups(["a.json", "p1/b/validation/metrics.json", "p2/b/validation/metrics.json"])
    assert list(parse_groups(["a.json", "b=x.json"])) == ["a", "b"]


def test_a_path_with_an_equals_sign_is_read_as_a_file_and_not_as_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "metrics.json").write_text("{}")
    assert [str(file) for file in parse_group("lr=0.1/metrics.json")[1]] == ["lr=0.1/metrics.json"]


def test_a_comparison_of_a_single_generator_or_of_a_file_without_metrics_is_refused(tmp_path):
    with pytest.raises(MolvaeError, match="needs two generators"):
        compare({"a": []})
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match=r"x.json: holds no metrics"):
        compare({"a": [tmp_path / "x.json"], "b": [tmp_path / "x.json"]})
