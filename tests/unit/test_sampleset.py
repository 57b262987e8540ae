"""Figures of a set of samples and what they stand beside, worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from molvae.dataset import TokenSet
from molvae.metrics import baselines, sampleset
from molvae.metrics.fcd import Statistics
from molvae.metrics.sampleset import FIGURES, SampleSet, canonical_forms
from molvae.vocabulary import SPECIAL


@pytest.fixture
def samples(tmp_path, monkeypatch) -> SampleSet:
    """Six samples: one invalid, one twice, one of the training set, one of the test set."""
    rows = {"smiles": ["CCO", "CCN"], "split": ["train", "test"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "molecules.parquet")
    monkeypatch.setattr(
        sampleset.fcd, "statistics", lambda valid: Statistics(np.array([float(len(valid))]), np.eye(1), 5)
    )
    reference = Statistics(np.array([3.0]), np.eye(1), 9)
    canonical = ["CCO", "C", "", "C", "CCN", "CCO"]
    return SampleSet.of(canonical, np.array([1, 0.5, 0, 1, 1, 0.1]), 0.3, tmp_path / "molecules.parquet", reference)


def test_the_first_of_a_molecule_is_marked_and_novel_is_what_no_training_molecule_is(samples):
    assert samples.is_first.tolist() == [True, True, False, False, True, False]
    assert samples.is_novel.tolist() == [False, True, False, True, True, False]


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("valid", 5 / 6, 6),
        ("Novelty", 2 / 3, 3),
        ("kept_tokens", 0.6, 6),
        ("unique@1000", 3 / 5, 5),
        ("FCD/Test", 4.0, 5),
        ("stable", 0.3, 6),
    ],
)
def test_a_figure_worked_by_hand(samples, name, value, count):
    assert FIGURES[name].value(samples) == pytest.approx(value)
    assert FIGURES[name].count(samples) == count


def test_uniqueness_counts_the_first_valid_samples_only(tmp_path, samples):
    many = SampleSet(["", *["C"] * 999, *[f"{n}" for n in range(500)]], *[None] * 5)
    assert FIGURES["unique@1000"].value(many) == 2 / 1000
    assert FIGURES["unique@10000"].value(many) == 501 / 1499


def test_samples_without_a_molecule_have_no_figures_but_those_that_say_so(tmp_path, samples):
    none = SampleSet.of(["", ""], np.zeros(2), 0.0, tmp_path / "molecules.parquet", None)
    found = {name: figure.value(none) for name, figure in FIGURES.items()}
    assert found == {
        "valid": 0,
        "kept_tokens": 0,
        "stable": 0,
        "Novelty": None,
        "unique@1000": None,
        "unique@10000": None,
        "FCD/Test": None,
    }


def test_forms_are_canonical_and_empty_where_there_is_no_molecule(vocabulary):
    strings = [["[O]", "[C]", "[C]"], ["[nop]"], [], ["[F]", "[C]", "[O]"] * 300, ["[C]", "[C]", "[O]"]]
    forms, kept, is_stable = canonical_forms(strings, vocabulary.caps, workers=1)
    assert forms[:3] == ["CCO", "", ""]
    assert kept[:3].tolist() == [1, 0, 0] and kept[3] < 0.01
    assert is_stable.tolist() == [False, False, False, False, True]
    assert [len(part) for part in canonical_forms([], vocabulary.caps, workers=1)] == [0, 0, 0]


def test_random_strings_have_the_lengths_of_the_molecules_and_every_symbol_alike(vocabulary):
    strings = baselines.random_tokens(vocabulary, np.array([3, 7]), 2000, seed=0)
    assert len(strings) == 2000 and {len(one) for one in strings} == {3, 7}
    _, counts = np.unique([symbol for one in strings for symbol in one], return_counts=True)
    assert len(counts) == len(vocabulary.symbols)
    assert abs(counts / counts.mean() - 1).max() < 5 / counts.mean() ** 0.5  # five standard deviations of a Poisson
    assert strings == baselines.random_tokens(vocabulary, np.array([3, 7]), 2000, seed=0)
    assert strings != baselines.random_tokens(vocabulary, np.array([3, 7]), 2000, seed=1)


def test_an_untrained_model_gives_as_many_strings_as_asked_for(vocabulary, sizes):
    strings = baselines.untrained_model(vocabulary, sizes, 5, seed=0, max_tokens=6, threads=1)
    assert len(strings) == 5 and all(set(one) <= set(vocabulary.symbols) and len(one) <= 6 for one in strings)


def test_training_molecules_are_drawn_without_repeating_one(vocabulary):
    tokens = TokenSet.of([[len(SPECIAL) + k] for k in range(9)])
    drawn = baselines.training_molecules(tokens, vocabulary, 5, seed=0)
    assert len({one[0] for one in drawn}) == 5
    assert len(baselines.training_molecules(tokens, vocabulary, 99, seed=0)) == 9
