"""Figures of a set of samples and what they stand beside, worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from molvae.chemistry.descriptors import guacamol_values
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import SPECIAL, Vocabulary
from molvae.inference.posterior import some_posteriors
from molvae.metrics import baselines, fcd, guacamol, moses, suite
from molvae.metrics.evaluation import Baseline, evaluate, figures_of
from molvae.metrics.intervals import Estimate, of_share, of_uniqueness
from molvae.metrics.molecule_table import describe_all
from molvae.metrics.reference_sets import Reference, Training, reference_of, training_of
from molvae.metrics.suite import (
    KINDS,
    Figure,
    Kind,
    SampleSet,
    compute,
    entry,
    further_figures,
    guacamol_figures,
    moses_figures,
)

SAMPLES = [
    ("OCC", "[O][C][C]"),  # ethanol, which the training file spells so, not canonically
    ("CCO", "[C][C][O]"),  # again
    ("C[C@H](N)C(=O)O", "[C][C@H1][Branch1][C][N][C][=Branch1][C][=O][O]"),  # alanine, without stereo in the training
    ("C[C@@H](N)C(=O)O", "[C][C@@H1][Branch1][C][N][C][=Branch1][C][=O][O]"),  # the other one
    ("O=c1cccc[nH]1", "[O][=C][C][=C][C][=C][NH1][Ring1][=Branch1]"),  # its tautomer is in the training
    ("c1ccccc1", "[C][=C][C][=C][C][=C][Ring1][=Branch1]"),  # in the training
    ("", "[nop]"),  # no molecule
    ("[CH2]C1CCCCCCCC1", "[CH2][C][C][C][C][C][C][C][C][C][Ring1][Branch2]" + "[F]" * 12),  # large ring, radical
    ("BrCC[NH3+]", "[Br][C][C][NH3+1]"),  # charged, and MCF4
]  # fmt: skip
TRAINING = ["OCC", "CC(N)C(=O)O", "Oc1ccccn1", "c1ccccc1", "C(C)(C)(C)(C)C", "CC(=O)Nc1ccc(O)cc1", "CCCCCN"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return describe_all(*zip(*SAMPLES, strict=True))


@pytest.fixture
def samples(rows) -> SampleSet:
    return SampleSet(rows, stable_share=0.3)


@pytest.fixture
def nothing() -> SampleSet:
    """Two samples, none of which is a molecule."""
    return SampleSet(describe_all(["", "xx"], ["[nop]", "[nop]"]), stable_share=0.0)


@pytest.fixture(scope="module")
def references(smiles) -> dict[str, Reference]:
    return {"Test": reference_of(smiles, "the fixture"), "TestSF": reference_of(smiles[:20], "a part of it")}


@pytest.fixture(scope="module")
def training() -> Training:
    return training_of(TRAINING, "a few")


@pytest.fixture
def however_few(monkeypatch):
    """Every figure is computed of any number of molecules."""
    monkeypatch.setattr(suite, "KINDS", {name: kind._replace(least=1) for name, kind in KINDS.items()})


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    found = {figure.name: figure for figure in figures}
    assert len(found) == len(figures)
    return found


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
        ("oddities", 1, 8),
        ("Novelty", 6, 7),  # of the seven distinct ones the training file has the very text of benzene only
        ("Novelty_canonical", 5, 7),  # ethanol
        ("Novelty_no_stereo", 3, 7),  # both alanines
        ("Novelty_skeleton", 2, 7),  # pyridone
        ("GuacaMol/validity", 8, 9),
        ("GuacaMol/novelty", 3, 6),  # the alanines are one
    ],
)
def test_a_share_worked_by_hand(samples, references, training, name, hits, n):
    figure = by_name(figures_of(samples, references, training))[name]
    assert figure.n == n
    assert figure.compute() == of_share(hits, n)


@pytest.mark.parametrize(("name", "distinct"), [("unique@1000", 7), ("unique@10000", 7), ("GuacaMol/uniqueness", 6)])
def test_uniqueness_worked_by_hand(samples, references, training, name, distinct):
    figure = by_name(figures_of(samples, references, training))[name]
    found = figure.compute()
    assert figure.n == 8 and found.value == distinct / 8
    assert found.low < found.value < found.high


def test_tokens_are_counted_over_all_samples_and_stability_over_all_strings(samples, rows):
    found = by_name(further_figures(samples, {}, None))
    kept = found["kept_tokens"].compute()
    assert found["kept_tokens"].n == found["stable"].n == 9
    assert kept.value == pytest.approx((7 + 0.5 + 0) / 9) and kept.low < kept.value < kept.high <= 1
    assert found["stable"].compute() == (0.3, None, None, None)
    silent = by_name(further_figures(SampleSet(describe_all(["C", "CC"])), {}, None))  # SMILES, no strings
    assert not {"kept_tokens", "stable"} & set(silent)


def test_a_set_knows_its_molecules_with_and_without_their_duplicates(samples):
    assert len(samples.valid) == 8 and samples.valid.index.tolist() == list(range(8))
    assert samples.distinct[:2] == ["CCO", "C[C@H](N)C(=O)O"] and len(samples.distinct) == 7
    assert samples.distinct_without_stereo[1:3] == ["CC(N)C(=O)O"] * 2
    assert samples.fingerprints.shape == (8, 128) and samples.activations.shape == (8, 512)
    assert len(samples.fragments) == len(samples.scaffolds) == 8 and samples.scaffolds[0] == []


def test_each_figure_of_moses_is_taken_of_the_valid_samples_and_its_reference(
    samples, references, training, however_few
):
    found, refused = compute(moses_figures(samples, references, training))
    assert refused == {}
    for name, reference in references.items():
        assert found[f"FCD/{name}"] == fcd.estimate(samples.activations, reference.chemnet)
        assert found[f"SNN/{name}"] == moses.snn(samples.fingerprints, reference.fingerprints)
        assert found[f"Frag/{name}"] == moses.cosine(samples.fragments, reference.fragments)
        assert found[f"Scaf/{name}"].value is None  # no sample has two rings
    assert (found["IntDiv"], found["IntDiv2"]) == moses.diversities(samples.fingerprints)
    weights = samples.valid["mw"].to_numpy(float)
    assert found["weight"] == moses.wasserstein(weights, references["Test"].properties["weight"])
    assert {name for name in found if name in ("logP", "SA", "QED", "weight")} == {"logP", "SA", "QED", "weight"}
    assert found["FCD/Test"].value != found["FCD/TestSF"].value


def test_a_reference_scores_best_against_itself(smiles, references, however_few):
    found, _ = compute(moses_figures(SampleSet(describe_all(smiles)), references, None))
    assert [found[f"{name}/Test"].value for name in ("SNN", "Frag", "Scaf")] == pytest.approx([1, 1, 1])
    assert [found[name].value for name in ("FCD/Test", "logP", "SA", "QED", "weight")] == pytest.approx(
        [0] * 5, abs=1e-4
    )
    assert found["Frag/TestSF"].value < 0.99 and "Novelty" not in found


def test_novel_samples_have_a_distance_of_their_own_and_memory_its_own_nearest(
    samples, references, training, however_few
):
    listed = by_name(further_figures(samples, references, training))
    novel = [2, 3, 4, 6, 7]  # of the valid ones: alanines, pyridone, the last two
    assert listed["FCD_novel/Test"].n == 5
    assert listed["FCD_novel/Test"].compute() == fcd.estimate(samples.activations[novel], references["Test"].chemnet)
    assert listed["SNN/Train"].compute() == moses.snn(samples.fingerprints, training.fingerprints)
    assert listed["SNN/Train"].reference == "6 of a few"


def test_the_divergences_of_guacamol_are_taken_of_distinct_molecules_without_stereo(samples, training, however_few):
    def values(smiles):
        of, fingerprints = guacamol_values(smiles)
        return {**of, "internal_similarity": guacamol.internal_similarity(fingerprints)}

    found, refused = compute(guacamol_figures(samples, training))
    assert refused == {}
    distinct = list(dict.fromkeys(samples.distinct_without_stereo))
    score, parts = guacamol.divergences(values(distinct), values(list(training.draw)))  # six of each
    assert found["GuacaMol/KL_score"] == score
    assert {name: found[f"GuacaMol/KL/{name}"] for name in parts} == parts and len(parts) == 10


def test_the_score_of_a_distance_falls_from_one_and_so_do_the_ends_of_its_interval(samples, training, however_few):
    distance = fcd.estimate(samples.activations, fcd.statistics(training.draw))
    found = by_name(guacamol_figures(samples, training))["GuacaMol/FCD_score"].compute()
    assert found.value == pytest.approx(math.exp(-distance.value / 5))
    assert (found.low, found.high) == pytest.approx((math.exp(-distance.high / 5), math.exp(-distance.low / 5)))
    assert found.error == pytest.approx(found.value * distance.error / 5)


def test_guacamol_looks_at_the_first_samples_only(samples, training, monkeypatch, however_few):
    monkeypatch.setattr(guacamol, "N", 3)
    listed = by_name(guacamol_figures(samples, training))
    assert (listed["GuacaMol/validity"].n, listed["GuacaMol/validity"].compute().value) == (3, 1)
    assert listed["GuacaMol/uniqueness"].compute().value == 2 / 3  # ethanol twice
    assert listed["GuacaMol/novelty"].n == 2  # ethanol, alanine; the other alanine is the third of the distinct ones
    assert listed["GuacaMol/novelty"].compute().value == 0
    assert listed["GuacaMol/FCD_score"].n == 3
    distance = fcd.estimate(samples.activations[:3], fcd.statistics(training.draw[:3]))
    assert listed["GuacaMol/FCD_score"].compute().value == pytest.approx(math.exp(-distance.value / 5))


def test_figures_of_too_few_molecules_are_refused_with_the_number_they_need(samples, references, training):
    listed = figures_of(samples, references, training)
    found, refused = compute(listed)
    assert set(found) | set(refused) == {figure.name for figure in listed} and not set(found) & set(refused)
    assert refused["FCD/Test"] == refused["unique@10000"] == "needs 1000 molecules, there are 8"
    assert refused["SNN/Test"] == refused["IntDiv"] == refused["logP"] == "needs 100 molecules, there are 8"
    assert refused["FCD_novel/TestSF"] == "needs 1000 molecules, there are 5"
    assert refused["GuacaMol/KL_score"] == refused["GuacaMol/KL/TPSA"] == "needs 1000 molecules, there are 6"
    assert {"valid", "Filters", "Novelty", "GuacaMol/uniqueness", "kept_tokens", "stable"} <= set(found)


def test_the_last_molecule_that_is_needed_is_enough():
    for n, computed in ((999, False), (1000, True)):
        found, _ = compute(moses_figures(SampleSet(describe_all(["xx", *["C"] * n])), {}, None))
        assert ("unique@1000" in found) is computed
    assert found["unique@1000"] == of_uniqueness(["C"] * 1000)


def test_uniqueness_counts_the_first_valid_samples_only():
    many = SampleSet(describe_all(["xx", *["C"] * 999, *["C" * n for n in range(2, 12)]]))
    found, _ = compute(moses_figures(many, {}, None))
    assert found["unique@1000"].value == 2 / 1000
    assert found["unique@10000"].value == 11 / 1009


def test_samples_without_a_molecule_have_no_figures_but_those_that_say_so(nothing, references, training):
    found, refused = compute(figures_of(nothing, references, training))
    assert {name: estimate.value for name, estimate in found.items()} == {
        "valid": 0, "kept_tokens": 0, "stable": 0, "GuacaMol/validity": 0,
    }  # fmt: skip
    assert found["valid"] == of_share(0, 2)
    assert refused["Filters"] == refused["Novelty_skeleton"] == "needs 1 molecules, there are 0"
    plain, _ = compute(figures_of(SampleSet(describe_all(["xx", ""])), references, None))
    assert plain == {"valid": of_share(0, 2)}


def test_no_samples_at_all_have_no_figure(references, training):
    found, refused = compute(figures_of(SampleSet(describe_all([])), references, training))
    assert found == {} and refused["valid"] == "needs 1 molecules, there are 0"
    assert evaluate(SampleSet(describe_all([])), references, training)["metrics"] == []


def test_every_figure_has_a_kind_and_every_kind_a_figure(samples, references, training):
    listed = figures_of(samples, references, training)
    used = {figure.name.removeprefix("GuacaMol/").split("/")[0] for figure in listed}
    assert used | {"SNN/Train"} == set(KINDS)
    for figure in listed:
        own = figure.name.removeprefix("GuacaMol/").split("/")[0]
        assert figure.kind is KINDS["SNN/Train" if figure.name == "SNN/Train" else own]
        assert figure.name.startswith("GuacaMol/") == (figure.kind.source == suite.GUACAMOL)
    assert len({kind.description for kind in KINDS.values()}) == len(KINDS)


def test_an_entry_has_all_that_is_needed_to_read_its_value():
    figure = Figure("FCD/Test", 12, lambda: Estimate(None), "some molecules")
    found = entry(figure, Estimate(np.float64(2), 0.5, 1.0, 3.0), {"training_molecules": np.float32(0.5), "null": None})
    kind = KINDS["FCD"]
    assert found == {
        "name": "FCD/Test", "value": 2, "interval": [1, 3], "standard_error": 0.5, "n": 12, "better": "lower",
        "reference": "some molecules", "implementation": fcd.IMPLEMENTATION, "source": suite.MOSES,
        "description": kind.description, "baselines": {"training_molecules": 0.5, "null": None},
    }  # fmt: skip
    assert isinstance(kind, Kind) and json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_is_no_number_stands_as_none_in_an_entry():
    figure = Figure("stable", 12, lambda: Estimate(None))
    without = entry(figure, Estimate(0.5), {})
    assert (without["value"], without["interval"], without["standard_error"]) == (0.5, None, None)
    odd = entry(figure, Estimate(math.nan, math.inf, -math.inf, 1.0), {"null": math.nan})
    assert (odd["value"], odd["standard_error"], odd["baselines"]) == (None, None, {"null": None})
    assert entry(figure, Estimate(None), {})["value"] is None


def test_an_evaluation_puts_the_baselines_beside_the_figures(
    samples, nothing, references, training, however_few, smiles, monkeypatch
):
    monkeypatch.setattr("molvae.metrics.evaluation.LEAST_SHARE", 0.5)
    good = SampleSet(describe_all(TRAINING))
    few = [Baseline("null", nothing), Baseline("near", good, ("FCD", "stable")), Baseline("training_molecules", good)]
    found = evaluate(samples, references, training, few, seed=3)
    entries = {metric["name"]: metric for metric in found["metrics"]}
    assert list(entries) == [figure.name for figure in figures_of(samples, references, training)]
    assert found["not_computed"] == {} and json.dumps(found, allow_nan=False)
    assert entries["valid"]["baselines"] == {"null": 0, "training_molecules": 6 / 7}
    assert entries["Novelty_canonical"]["baselines"] == {"training_molecules": 0}
    distance = fcd.estimate(good.activations, references["Test"].chemnet).value
    assert entries["FCD/Test"]["baselines"] == {"near": distance, "training_molecules": distance}
    assert entries["stable"]["baselines"] == {"null": 0}  # nothing is known of the others' strings
    assert {name for name, metric in entries.items() if "near" in metric["baselines"]} == {"FCD/Test", "FCD/TestSF"}
    nearest = moses.snn(samples.fingerprints, training.fingerprints).value
    assert entries["SNN/Train"]["value"] == nearest
    assert entries["SNN/Train"]["baselines"].keys() == {"training_molecules", "held_out"}
    assert entries["SNN/Train"]["baselines"]["training_molecules"] == 1


def test_a_ceiling_of_fewer_molecules_has_no_figure_that_moves_with_their_number(
    samples, references, training, however_few
):
    few = SampleSet(describe_all(["CCO", "CCN", "c1ccccc1O", "CCC", "CCCl"]))  # for 8 samples
    found = evaluate(samples, references, training, [Baseline("training_molecules", few)])
    beside = {metric["name"]: "training_molecules" in metric["baselines"] for metric in found["metrics"]}
    assert beside["SNN/Test"] and beside["Filters"] and beside["IntDiv"] and beside["Frag/Test"]
    assert not any(beside[name] for name in ("FCD/Test", "Scaf/TestSF", "unique@10000", "GuacaMol/KL_score"))
    (why,) = found["not_computed"].items()
    assert why[0].endswith("of training_molecules") and why[1] == "move with n: 5 molecules for 8 samples"


def test_held_out_molecules_are_as_many_as_the_samples_and_drawn_by_the_seed(
    samples, references, training, however_few
):
    def held_out(seed: int, own: SampleSet = samples) -> float:
        entries = evaluate(own, references, training, seed=seed)["metrics"]
        return next(metric for metric in entries if metric["name"] == "SNN/Train")["baselines"]["held_out"]

    assert held_out(1) == held_out(1) != held_out(2)
    everything = SampleSet(describe_all(["CCO", "C", "N"] * 11))  # 33 samples, 32 molecules to draw from
    nearest = moses.snn(references["Test"].fingerprints, training.fingerprints).value
    assert held_out(1, everything) == pytest.approx(nearest)


def test_baselines_are_asked_for_no_more_than_the_samples_have(samples, references, training):
    many = SampleSet(describe_all(["CCO", "CCN", "CCC"] * 40), stable_share=1.0)
    found = evaluate(samples, references, training, iter([Baseline("many", many)]))
    assert found["not_computed"]["SNN/Test"] == "needs 100 molecules, there are 8"
    assert {metric["name"] for metric in found["metrics"]}.isdisjoint(found["not_computed"])
    assert next(metric for metric in found["metrics"] if metric["name"] == "stable")["baselines"] == {"many": 1}


def test_without_training_molecules_or_references_the_rest_is_computed(samples, however_few):
    entries = {metric["name"] for metric in evaluate(samples, {}, None)["metrics"]}
    assert {"valid", "unique@1000", "IntDiv", "Filters", "kept_tokens", "radicals"} <= entries
    assert not [name for name in entries if name.startswith(("GuacaMol", "Novelty", "FCD", "SNN", "logP"))]


ATOMS = Vocabulary.build(
    ["[B]", "[Br]", "[C]", "[=C]", "[Cl]", "[F]", "[I]", "[N]", "[=N]", "[O]", "[P]", "[S]"], {}
)  # a token is a symbol


def test_random_strings_have_the_lengths_of_the_molecules_and_every_symbol_alike():
    vocabulary = ATOMS
    strings = baselines.random_tokens(vocabulary, np.array([3, 7]), 2000, seed=0)
    assert len(strings) == 2000 and {len(one) for one in strings} == {3, 7}
    _, counts = np.unique([symbol for one in strings for symbol in one], return_counts=True)
    assert len(counts) == len(vocabulary.symbols)
    assert abs(counts / counts.mean() - 1).max() < 5 / counts.mean() ** 0.5  # five standard deviations of a Poisson
    assert strings == baselines.random_tokens(vocabulary, np.array([3, 7]), 2000, seed=0)
    assert strings != baselines.random_tokens(vocabulary, np.array([3, 7]), 2000, seed=1)


def test_training_molecules_are_drawn_without_repeating_one():
    tokens = TokenSet.of([[len(SPECIAL) + k] for k in range(9)])
    drawn = baselines.training_molecules(tokens, ATOMS, 5, seed=0)
    assert len({one[0] for one in drawn}) == 5
    assert len(baselines.training_molecules(tokens, ATOMS, 99, seed=0)) == 9


def test_shuffled_latent_points_give_the_same_strings_for_the_same_seed(network, tokens, vocabulary):
    def strings(seed: int, n: int = 600, threads: int = 1) -> list[list[str]]:
        rules = {"temperature": 1.0, "max_tokens": 12, "threads": threads}
        return baselines.shuffled_latents(network, tokens, vocabulary, n, seed=seed, **rules)

    found = strings(1)
    assert len(found) == 600 and all(symbol.startswith("[") for one in found for symbol in one)
    assert found == strings(1, threads=2) != strings(2)


def test_shuffled_latent_points_keep_the_values_of_each_dimension_and_no_molecule(
    network, tokens, vocabulary, monkeypatch
):
    mu, logvar = some_posteriors(network, tokens, 700, 5)
    monkeypatch.setattr(baselines, "some_posteriors", lambda *_: (mu, torch.full_like(logvar, -80)))  # no noise
    seen, sample_at = [], baselines.sample_at

    def watched(model, points, **rules):
        seen.append(points)
        return sample_at(model, points, **rules)

    monkeypatch.setattr(baselines, "sample_at", watched)
    baselines.shuffled_latents(network, tokens, vocabulary, 700, seed=5, temperature=1, max_tokens=3, threads=1)
    (points,) = seen
    assert points.shape == mu.shape
    torch.testing.assert_close(points.sort(0).values, mu.sort(0).values)
    own = {tuple(row) for row in mu.numpy().round(4).tolist()}
    assert len(own) == len(tokens)
    assert np.mean([tuple(row) in own for row in points.numpy().round(4).tolist()]) < 0.1
    together = np.corrcoef(mu.T.numpy()) - np.corrcoef(points.T.numpy())
    assert abs(np.corrcoef(points.T.numpy()) - np.eye(mu.shape[1])).max() < 0.2 < abs(together).max()
