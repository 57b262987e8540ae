"""Generators side by side: differences with intervals, pooled seeds, and what cannot be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from molvae.errors import DataError, MolvaeError
from molvae.metrics.comparison import compare as differences
from molvae.report.comparison import render
from molvae.report.summary import latent_rows
from molvae.stages.compare import compare, headline, parse_group, parse_groups


def run(**figures):
    """A metrics.json with such figures: name=(value, error) or (value, error, more)."""
    metrics = []
    for name, (value, error, *more) in figures.items():
        metric = {
            "name": name,
            "value": value,
            "standard_error": error,
            "n": 1000,
            "better": "higher",
            "reference": None,
        }
        metrics.append(metric | (more[0] if more else {}))
    return {"metrics": metrics}


def only(rows):
    (row,) = rows
    return row


def test_a_difference_has_the_error_of_both():
    row = only(differences([run(valid=(0.5, 0.03))], [run(valid=(0.7, 0.04))]))
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
def test_the_verdict_follows_the_direction_and_the_interval(better, value, verdict):
    one, other = (run(valid=(v, 0.03, {"better": better})) for v in (0.5, value))
    assert only(differences([one], [other]))["verdict"] == verdict


def test_seeds_are_pooled_and_the_spread_between_them_counts():
    one = [run(valid=(value, 0.001)) for value in (0.4, 0.5, 0.6)]
    other = [run(valid=(value, 0.001)) for value in (0.5, 0.6, 0.7)]
    row = only(differences(one, other))
    assert row["difference"] == pytest.approx(0.1)
    error = 0.1 / np.sqrt(3) * np.sqrt(2)
    assert row["interval"][1] - row["interval"][0] == pytest.approx(2 * 2.776 * error, rel=1e-3)  # t of 4 degrees
    assert row["verdict"] == "no difference seen"
    assert row["sides"][0]["runs"] == 3


def test_seeds_that_happen_to_agree_are_no_surer_than_their_samples():
    row = only(differences([run(valid=(0.5, 0.03))] * 2, [run(valid=(0.5, 0.03))] * 2))
    assert row["interval"][1] == pytest.approx(1.96 * 0.03, rel=1e-3)


@pytest.mark.parametrize("name", ["FCD/Test", "Scaf/Test", "GuacaMol/KL_score"])
def test_what_moves_with_n_is_not_compared_across_n(name):
    one, other = run(**{name: (1.0, 0.1)}), run(**{name: (3.0, 0.1, {"n": 2000})})
    row = only(differences([one], [other]))
    assert row["verdict"] == "cannot tell" and row["note"] == "moves with n, and n differs: 1000 and 2000"


def test_different_references_and_unknown_errors_are_said():
    row = only(differences([run(a=(1.0, 0.1, {"reference": "x"}))], [run(a=(1.0, 0.1, {"reference": "y"}))]))
    assert row["note"] == "held against different references: x and y"
    row = only(differences([run(a=(1.0, None))], [run(a=(2.0, 0.1))]))
    assert row["interval"] is None and row["verdict"] == "cannot tell"


def test_only_what_both_have_is_compared():
    rows = differences(
        [run(a=(1.0, 0.1), b=(1.0, 0.1), d=(None, None))], [run(a=(1.0, 0.1), c=(1.0, 0.1), d=(1.0, 0.1))]
    )
    assert [row["name"] for row in rows] == ["a"]


def test_two_equal_generators_seldom_differ():
    random = np.random.default_rng(0)
    differ = 0
    for _ in range(400):
        one, other = ([run(a=(random.normal(0, 0.1), 0.1))] for _ in range(2))
        differ += only(differences(one, other))["verdict"] != "no difference seen"
    assert 8 <= differ <= 34  # 5 % of 400, three standard deviations either way


def test_the_files_hold_it_all(tmp_path):
    paths = {}
    for name, value in (("a", 0.5), ("b", 0.9)):
        paths[name] = tmp_path / name / "validation/metrics.json"
        paths[name].parent.mkdir(parents=True)
        paths[name].write_text(json.dumps(run(valid=(value, 0.01), FCD=(1.0, None))))
    content = compare({"a": [paths["a"]], "b": [paths["b"]]}, tmp_path / "out")
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == content
    page = (tmp_path / "out/comparison.html").read_text()
    assert page.startswith("<!doctype html>") and "b less a" in page and "<script" not in page
    assert headline(content)["b/valid"] == pytest.approx(0.4) and "b/valid/low" in headline(content)


def card(back: float, verdict: str = "healthy") -> dict:
    """A health card with such a share of molecules that come back, beside 0.01 of principal components."""
    shares = {"good": 0.5}
    return {
        "verdict": verdict, "meaning": "something", "n": 300, "linear": None,
        "use": {"mutual_information_nats": 5.0, "mutual_information_at_most": 5.7, "active_units": 60,
                "latent_dim": 64},
        "aggregate_posterior": {"mmd": 0.01, "mmd_null": 0.001},
        "reconstruction": {"same_molecule": back, "same_molecule_from_draw": back / 2, "similarity": 0.9,
                           "principal_components_of_tokens": {"same_molecule": back / 100, "similarity": 0.2}},
        "completeness": {"prior": shares, "posterior": shares, "random_tokens": shares},
        "continuity": {"latent": {"neighbors": 0.1, "rank_correlation": 0.2}, "similarity_of_random_pairs": 0.14,
                       "principal_components_of_tokens": None,
                       "principal_components_of_fingerprints": {"neighbors": 0.6, "rank_correlation": 0.7},
                       "chance": {"neighbors": 0.03, "rank_correlation": 0.0}},
    }  # fmt: skip


def test_latent_spaces_stand_side_by_side_with_what_stands_beside_the_first(tmp_path):
    groups = {"vae": [tmp_path / "vae0", tmp_path / "vae1"], "plain": [tmp_path / "plain"], "bare": [tmp_path / "bare"]}
    groups = {name: [folder / "validation/metrics.json" for folder in folders] for name, folders in groups.items()}
    for number, path in enumerate(path for paths in groups.values() for path in paths):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(run(valid=(0.5, 0.01))))
        if "bare" not in str(path):
            (path.parent.parent / "latent").mkdir()
            (path.parent.parent / "latent/card.json").write_text(json.dumps(card(0.9 - number / 10)))
    content = compare(groups, tmp_path / "out")
    assert list(content["cards"]) == ["vae, run 1", "vae, run 2", "plain"]
    row = next(row for row in latent_rows(content["cards"]) if row["what"] == "molecules that come back from the mean")
    assert row["models"] == {"vae, run 1": 0.9, "vae, run 2": 0.8, "plain": 0.7}
    assert row["beside"]["principal_components_of_tokens"] == pytest.approx(0.009) and row["beside"]["chance"] is None
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Latent spaces" in page and "PCA of tokens" in page and "<b>plain</b>: <strong>healthy</strong>" in page


def test_without_a_health_card_there_is_no_table_of_latent_spaces():
    content = {"first": "x", "runs": {"x": ["x"], "y": ["z"]}, "comparisons": {"y": []}, "cards": {}}
    assert "Latent spaces" not in render(content)


def test_names_are_escaped():
    content = {"first": "<b>", "runs": {"<b>": ["x"], "y": ["z"]}, "comparisons": {"y": []}}
    assert "<b>" not in render(content).split("<main>")[0].replace("<b>&lt;b&gt;</b>", "")


def test_a_generator_is_named_by_its_experiment_or_by_hand():
    assert parse_group("results/wide/validation/metrics.json")[0] == "wide"
    assert parse_group("other.json")[0] == "other"
    name, files = parse_group("seeds=a.json,b.json")
    assert name == "seeds" and [str(file) for file in files] == ["a.json", "b.json"]
    with pytest.raises(MolvaeError, match="write a generator as name=metrics.json"):
        parse_group("a=")


def test_two_generators_of_one_name_are_refused_and_a_file_is_no_name(tmp_path, monkeypatch):
    with pytest.raises(MolvaeError, match=r"two generators are called 'b': p1/b/validation/metrics\.json and p2/b/"):
        parse_groups(["a.json", "p1/b/validation/metrics.json", "p2/b/validation/metrics.json"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "metrics.json").write_text("{}")
    assert [str(file) for file in parse_group("lr=0.1/metrics.json")[1]] == ["lr=0.1/metrics.json"]
    assert list(parse_groups(["a.json", "b=x.json"])) == ["a", "b"]


def test_one_generator_and_a_file_without_figures_are_refused(tmp_path):
    with pytest.raises(MolvaeError, match="needs two generators"):
        compare({"a": []})
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match=r"x.json: holds no figures"):
        compare({"a": [tmp_path / "x.json"], "b": [tmp_path / "x.json"]})
