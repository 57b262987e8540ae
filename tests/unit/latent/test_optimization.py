"""The search of the latent space, on points that are their own molecules, and with a real model."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import molvae
from molvae.cli.main import app
from molvae.errors import MolvaeError
from molvae.latent import optimization
from molvae.latent.optimization import CHILDREN, Ledger, children, evolve

AMIDE = "COc1ccc(NC(=O)CN2CCOCC2)cc1"
AMIDE_OTHERWISE = "O1CCN(CC1)CC(=O)Nc1ccc(OC)cc1"


def alkane(z: np.ndarray) -> list[str]:
    """A toy decoder: the larger the first coordinate, the longer the chain; nothing beyond 30."""
    lengths = np.floor(z[:, 0]).astype(int)
    return ["C" * n if 1 <= n <= 30 else "" for n in lengths]


def place(smiles) -> tuple[np.ndarray, np.ndarray]:
    """Its encoder: points in the plane, a deviation of 1."""
    mu = np.array([[len(one) + 0.5, 1.0] for one in smiles])
    return mu, np.zeros_like(mu)


def prior(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 6, (n, 2))


@pytest.fixture(scope="module")
def model():
    return molvae.load("pretrained:moses-latent")


def test_the_evolution_climbs_to_what_the_prior_does_not_reach():
    ledger = Ledger(len, 25)
    evolve(ledger, [], prior, alkane, place, seed=0)
    table = ledger.table()
    assert table["smiles"].is_unique and table["call"].tolist() == list(range(1, 26))
    assert len(ledger.best(1)[0]) > 15 > table.query("origin == 'prior'")["score"].max()
    assert {"near", "between"} <= set(table["origin"])


def test_the_same_seed_gives_the_same_ledger_and_another_one_another():
    tables = []
    for seed in (0, 0, 1):
        tables.append(Ledger(len, 15))
        evolve(tables[-1], [], prior, alkane, place, seed)
    pd.testing.assert_frame_equal(tables[0].table(), tables[1].table())
    assert not tables[0].table().equals(tables[2].table())


def test_a_molecule_that_fails_stays_in_the_ledger_and_is_nobodys_parent():
    def score(smiles):
        if len(smiles) == 3:
            raise KeyError("three")
        return {1: math.nan, 2: -math.inf}.get(len(smiles), len(smiles))

    ledger = Ledger(score, 20)
    evolve(ledger, [], prior, alkane, place, seed=0)
    errors = ledger.table().set_index("smiles")["error"]
    assert ledger.table()["score"].isna().sum() == 3
    assert errors["CCC"] == "KeyError: 'three'" and errors["C"] == "the score is nan"
    assert errors["CC"] == "the score is -inf" and ledger.failed == 3 and len(ledger.rows) == 20
    assert sorted(ledger.best(100)) == ["C" * n for n in range(4, 21)]


def test_where_everything_fails_the_search_says_why():
    ledger = Ledger(lambda smiles: 1 / 0, 20)
    with pytest.raises(MolvaeError, match="ZeroDivisionError"):
        evolve(ledger, [], prior, alkane, place, seed=0)
    assert ledger.called == 5 and ledger.failed == 5  # the prior has no more than these


def failing(smiles):
    raise ValueError(smiles)


def interrupted(smiles):
    if len(smiles) == 3:
        raise KeyboardInterrupt
    return len(smiles)


def terminated(smiles):
    if len(smiles) == 3:
        raise SystemExit(143)  # what SIGTERM becomes in a command
    return len(smiles)


@pytest.mark.parametrize("score", [len, failing, interrupted, terminated])
def test_however_a_search_ends_what_was_scored_is_saved(score):
    saved = []
    ledger = Ledger(score, 8, save=saved.append)
    with contextlib.suppress(MolvaeError, SystemExit):
        evolve(ledger, ["C", "CC", "CCC"], prior, alkane, place, seed=0)
    assert ledger.called >= 2 and len(saved) == 2  # after the first call, and at the end
    pd.testing.assert_frame_equal(saved[-1], ledger.table())
    assert saved[-1]["origin"].head(2).tolist() == ["start", "start"]


def test_a_slow_search_is_saved_while_it_goes_on(monkeypatch):
    monkeypatch.setattr(optimization, "SAVED_EVERY", 0.0)
    lengths = []
    evolve(Ledger(len, 8, save=lambda table: lengths.append(len(table))), [], prior, alkane, place, seed=0)
    assert lengths == [*range(1, 9), 8]


def test_a_lead_that_is_too_different_is_named(caplog):
    ledger = Ledger(len, 3, like="CCO", similarity=0.3)
    evolve(ledger, ["CCO", "c1ccccc1"], prior, alkane, place, seed=0)
    assert "c1ccccc1 is not scored: its similarity is 0.00, 0.3 is asked for" in caplog.text
    assert "c1ccccc1" not in ledger.scores


def test_it_ends_where_nothing_is_new(caplog):
    ledger = Ledger(len, 100)
    evolve(ledger, [], prior, alkane, place, seed=0)
    assert len(ledger.rows) == 30 and "30 of 100 calls used" in caplog.text


def test_an_interrupted_search_keeps_its_ledger(caplog):
    def score(smiles):
        if len(smiles) > 8:
            raise KeyboardInterrupt
        return len(smiles)

    ledger = Ledger(score, 100)
    evolve(ledger, [], prior, alkane, place, seed=0)
    assert 5 <= ledger.called == len(ledger.rows) and f"stopped after {ledger.called} calls" in caplog.text


def test_what_is_known_costs_no_call_and_is_begun_with():
    ledger = Ledger(len, 3)
    ledger.remember(["C" * 20, "C" * 21, "C" * 22], [20.0, math.nan, math.inf])
    evolve(ledger, [], prior, alkane, place, seed=0)
    assert ledger.called == 3 and "prior" not in ledger.table()["origin"].tolist()
    assert not {"C" * n for n in (20, 21, 22)} & set(ledger.table()["smiles"]) and "C" * 20 in ledger.best(9)
    assert not {"C" * 21, "C" * 22} & set(ledger.best(9)) and ledger.failed == 2


def test_molecules_that_are_too_different_are_not_scored():
    ledger = Ledger(len, 10, like="CCO", similarity=0.3)
    for smiles in ("CCO", "c1ccccc1", "CCCO"):
        ledger.enter(smiles, "start")
    ledger.remember(["c1ccncc1", "CCCCO"], [9.0, 8.0])
    assert set(ledger.scores) == {"CCO", "CCCO", "CCCCO"}
    assert ledger.table()["similarity"].between(0.3, 1).all()


def test_children_lie_around_the_best_parents_as_wide_as_these_are():
    mu = np.array([[5.0, 0.0], [0.0, 5.0]])
    logvar = np.log([[1e-4, 1e-4], [1e-4, 1e-4]])
    z, origins = children(mu, logvar, np.random.default_rng(0))
    near = np.array(origins) == "near"
    assert z.shape == (CHILDREN, 2) and 0.3 < near.mean() < 0.7
    distance = np.linalg.norm(z[:, None] - mu, axis=-1)
    assert (distance[near].min(1) < 0.05).all()
    assert (distance[near].argmin(1) == 0).mean() > 0.5  # the best one has more
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 5, atol=0.05)  # and the way between keeps its distance from 0


# --- scoring functions


def test_named_scores_are_those_of_the_literature():
    assert optimization.qed("CC(=O)Nc1ccc(O)cc1") == pytest.approx(0.595, abs=1e-3)  # RDKit's for paracetamol
    # decane: Crippen logP 4.1470, SA 1.3066, no ring
    sa_logp = (4.1470 - 2.4571) / 1.4343 - (1.3066 - 3.0526) / 0.8335 + 0.0486 / 0.2860
    assert optimization.penalised_logp("C" * 10) == pytest.approx(sa_logp, abs=0.3)
    ring, chain = optimization.penalised_logp("C1CCCCCCCCC1"), optimization.penalised_logp("C" * 10)
    assert chain - ring > 3.9 / 0.2860  # a ring of ten has four atoms too many


def test_a_score_that_has_no_name_is_refused_with_the_nearest():
    with pytest.raises(MolvaeError, match="Did you mean 'qed'"):
        optimization.named("qeed")


# --- a model


def test_a_model_finds_better_molecules_than_it_began_with(model):
    ledger = model.optimize("penalised_logp", 120, start=[AMIDE], seed=0)
    assert len(ledger) == 120 and ledger["smiles"].iloc[0] == AMIDE and ledger["origin"].iloc[0] == "start"
    assert ledger["score"].max() > ledger["score"].iloc[0] + 1.5
    again = model.optimize("penalised_logp", 120, start=[AMIDE], seed=0)
    pd.testing.assert_frame_equal(ledger, again)


def test_a_lead_is_kept_in_sight(model):
    ledger = model.optimize(len, 40, like=AMIDE + ".Cl", similarity=0.5)
    assert ledger["similarity"].iloc[0] == 1 and (ledger["similarity"] >= 0.5).all()
    assert ledger["smiles"].iloc[0] == AMIDE  # standardised, as the model reads it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calls": 0}, "calls is 0"),
        ({"similarity": 1.5}, "similarity 1.5"),
        ({"start": ["nonsense"]}, "'nonsense': not_smiles"),
        ({"like": "C[Si](C)(C)C"}, "the model does not know"),
        ({"score": "logp"}, "no scoring function 'logp'"),
    ],
)
def test_what_cannot_be_searched_for_is_an_error(model, settings, message):
    with pytest.raises(MolvaeError, match=message):
        model.optimize(**{"score": "qed", **settings})


def test_the_command_takes_a_function_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text("from beside import LETTERS\n\ndef score(s):\n    return s.count(LETTERS)\n")
    (tmp_path / "beside.py").write_text("LETTERS = 'N'\n")
    out, again = tmp_path / "ledger.csv", tmp_path / "more.parquet"
    command = ["optimize", "--model", "pretrained:moses-latent", "--score", f"{tmp_path / 'own.py'}:score"]
    first = CliRunner().invoke(app, [*command, "--calls", "30", "--out", str(out)])
    assert first.exit_code == 0 and "30 molecules scored, 0 failed" in first.output, first.output
    second = CliRunner().invoke(app, [*command, "--calls", "10", "--known", str(out), "--out", str(again)])
    assert second.exit_code == 0, second.output
    ledger, more = pd.read_csv(out), pd.read_parquet(again)
    assert len(ledger) == 30 and len(more) == 10 and not set(ledger["smiles"]) & set(more["smiles"])
    assert (ledger["score"] == ledger["smiles"].str.count("N")).all()


def test_a_search_goes_on_in_its_own_ledger(tmp_path):
    out = tmp_path / "ledger.csv"
    command = ["optimize", "--model", "pretrained:moses-latent", "--score", "qed", "--calls", "20", "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = pd.read_csv(out)
    found = CliRunner().invoke(app, [*command, "--known", str(out)])
    assert found.exit_code == 0 and "20 molecules scored" in found.output, found.output
    whole = pd.read_csv(out)
    pd.testing.assert_frame_equal(whole.head(20), before)
    assert whole["call"].tolist() == list(range(1, 41)) and whole["smiles"].is_unique


def test_known_molecules_are_known_however_they_are_written_and_gaps_are_left_out(model, caplog):
    known = pd.DataFrame({"smiles": [AMIDE_OTHERWISE, math.nan], "score": [5.0, 9.0]})
    ledger = model.optimize(len, 5, start=[AMIDE], known=known)
    assert AMIDE not in ledger["smiles"].tolist() and "row 2, nan: empty" in caplog.text


@pytest.mark.parametrize(
    ("score", "known", "message"),
    [
        ("missing.py:score", None, "missing.py is no Python file"),
        ("own.py:other", None, "has no function 'other'"),
        ("own.py", None, "name the function, too, as own.py:FUNCTION"),
        ("broken.py:score", None, "cannot be run: AttributeError: module 'math' has no attribute 'nothing'"),
        ("qed", "own.py", "not a ledger"),
    ],
)
def test_the_command_says_what_it_cannot_use(tmp_path, monkeypatch, score, known, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("score = len\n")
    (tmp_path / "broken.py").write_text("import math\nscore = math.nothing\n")
    more = ["--known", known] if known else []
    found = CliRunner().invoke(
        app, ["optimize", "--model", "pretrained:moses-latent", "--score", score, "--out", "-", *more]
    )
    assert isinstance(found.exception, MolvaeError) and message in str(found.exception)
