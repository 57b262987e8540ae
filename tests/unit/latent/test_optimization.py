"""Search of the latent space, with a toy decoder whose points are molecules, and with a real model."""

from __future__ import annotations

import contextlib
import io
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import molvae
from molvae.chemistry.oracles import compute_penalised_logp, compute_qed, get_objective
from molvae.cli.main import app
from molvae.errors import MolvaeError
from molvae.latent.optimization import N_CHILDREN, History, make_children, run_evolution

AMIDE = "COc1ccc(NC(=O)CN2CCOCC2)cc1"
AMIDE_NOT_CANONICAL = "O1CCN(CC1)CC(=O)Nc1ccc(OC)cc1"
COMMAND = ["optimize", "--model", "pretrained:moses-latent"]


def decode(z: np.ndarray) -> list[str]:
    """A toy decoder to alkanes: the larger the first coordinate, the longer the chain; nothing beyond 30."""
    lengths = np.floor(z[:, 0]).astype(int)
    return ["C" * n if 1 <= n <= 30 else "" for n in lengths]


def encode(smiles) -> tuple[np.ndarray, np.ndarray]:
    """Its encoder: points in the plane, each with a standard deviation of 1."""
    mu = np.array([[len(text) + 0.5, 1.0] for text in smiles])
    return mu, np.zeros_like(mu)


def draw_prior(n: int) -> np.ndarray:
    """Its prior: chains of one to five."""
    return np.random.default_rng(0).uniform(1, 6, (n, 2))


def search(history: History, start=(), seed: int = 0) -> None:
    run_evolution(history, list(start), draw_prior, decode, encode, seed=seed)


@pytest.fixture(scope="module")
def model():
    return molvae.load("pretrained:moses-latent")


def test_evolution_finds_molecules_beyond_those_of_the_prior():
    history = History(len, 25)
    search(history)
    table = history.to_table()
    assert table["smiles"].is_unique and table["call"].tolist() == list(range(1, 26))
    assert len(history.find_best(1)[0]) > 15 > table.query("origin == 'prior'")["score"].max()
    assert {"near", "between"} <= set(table["origin"])


def test_evolution_gives_the_same_history_for_the_same_seed_and_a_different_one_for_another():
    tables = []
    for seed in (0, 0, 1):
        history = History(len, 15)
        search(history, seed=seed)
        tables.append(history.to_table())
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])


def test_history_keeps_molecules_that_failed_and_never_counts_them_among_the_best():
    def score(smiles):
        if len(smiles) == 3:
            raise KeyError("three")
        return {1: math.nan, 2: -math.inf}.get(len(smiles), len(smiles))

    history = History(score, 20)
    search(history)
    table = history.to_table()
    errors = table.set_index("smiles")["error"]
    assert table["score"].isna().sum() == 3
    assert errors["CCC"] == "KeyError: 'three'" and errors["C"] == "the score is nan"
    assert errors["CC"] == "the score is -inf" and history.n_failed == 3 and len(history.rows) == 20
    assert sorted(history.find_best(100)) == ["C" * n for n in range(4, 21)]


def test_evolution_in_which_every_molecule_fails_ends_with_the_reason():
    history = History(lambda smiles: 1 / 0, 20)
    with pytest.raises(MolvaeError, match="ZeroDivisionError"):
        search(history)
    assert history.called == 5 and history.n_failed == 5  # the prior has no more than these


def fail(smiles):
    raise ValueError(smiles)


def interrupt(smiles):
    if len(smiles) == 3:
        raise KeyboardInterrupt
    return len(smiles)


def terminate(smiles):
    if len(smiles) == 3:
        raise SystemExit(143)  # what SIGTERM becomes in a command
    return len(smiles)


@pytest.mark.parametrize("objective", [len, fail, interrupt, terminate])
def test_history_is_saved_however_the_search_ends(objective):
    tables = []
    history = History(objective, 8, save=tables.append)
    with contextlib.suppress(MolvaeError, SystemExit):
        search(history, ["C", "CC", "CCC"])
    assert history.called >= 2 and len(tables) == 2  # after the first call, and at the end
    pd.testing.assert_frame_equal(tables[-1], history.to_table())
    assert tables[-1]["origin"].head(2).tolist() == ["start", "start"]


def test_history_of_a_slow_search_is_saved_while_it_grows(monkeypatch):
    monkeypatch.setattr("molvae.latent.optimization.SAVE_SECONDS", 0.0)
    lengths = []
    search(History(len, 8, save=lambda table: lengths.append(len(table))))
    assert lengths == [*range(1, 9), 8]


def test_start_molecule_that_is_not_similar_enough_is_warned_of(caplog):
    history = History(len, 3, similar_to="CCO", min_similarity=0.3)
    search(history, ["CCO", "c1ccccc1"])
    assert "c1ccccc1 is not scored: its similarity is 0.00, 0.3 is asked for" in caplog.text
    assert "c1ccccc1" not in history.scores


def test_evolution_ends_where_the_model_decodes_nothing_new(caplog):
    history = History(len, 100)
    search(history)
    assert len(history.rows) == 30 and "30 of 100 calls used" in caplog.text


def test_evolution_that_is_interrupted_keeps_its_history(caplog):
    def score(smiles):
        if len(smiles) > 8:
            raise KeyboardInterrupt
        return len(smiles)

    history = History(score, 100)
    search(history)
    assert 5 <= history.called == len(history.rows) and f"stopped after {history.called} calls" in caplog.text


def test_known_molecules_cost_no_call_and_are_the_first_parents():
    history = History(len, 3)
    history.add_known(["C" * 20, "C" * 21, "C" * 22], [20.0, math.nan, math.inf])
    search(history)
    table, best = history.to_table(), history.find_best(9)
    assert history.called == 3 and "prior" not in table["origin"].tolist()
    assert not {"C" * n for n in (20, 21, 22)} & set(table["smiles"]) and "C" * 20 in best
    assert not {"C" * 21, "C" * 22} & set(best) and history.n_failed == 2


def test_history_scores_no_molecule_that_is_not_similar_enough():
    history = History(len, 10, similar_to="CCO", min_similarity=0.3)
    for smiles in ("CCO", "c1ccccc1", "CCCO"):
        history.score(smiles, "start")
    history.add_known(["c1ccncc1", "CCCCO"], [9.0, 8.0])
    assert set(history.scores) == {"CCO", "CCCO", "CCCCO"}
    assert history.to_table()["similarity"].between(0.3, 1).all()


def test_children_lie_around_the_best_parents_with_the_width_of_their_posteriors():
    mu = np.array([[5.0, 0.0], [0.0, 5.0]])
    logvar = np.log([[1e-4, 1e-4], [1e-4, 1e-4]])
    z, origins = make_children(mu, logvar, np.random.default_rng(0))
    is_near = np.array(origins) == "near"
    assert z.shape == (N_CHILDREN, 2) and 0.3 < is_near.mean() < 0.7
    distance = np.linalg.norm(z[:, None] - mu, axis=-1)
    assert (distance[is_near].min(1) < 0.05).all()
    assert (distance[is_near].argmin(1) == 0).mean() > 0.5  # the best parent has more
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 5, atol=0.05)  # paths keep their distance from 0, too


# --- objectives


def test_named_objectives_have_the_values_of_the_literature():
    assert compute_qed("CC(=O)Nc1ccc(O)cc1") == pytest.approx(0.595, abs=1e-3)  # RDKit's for paracetamol
    # decane: Crippen logP 4.1470, SA 1.3066, no ring
    expected = (4.1470 - 2.4571) / 1.4343 - (1.3066 - 3.0526) / 0.8335 + 0.0486 / 0.2860
    assert compute_penalised_logp("C" * 10) == pytest.approx(expected, abs=0.3)
    ring, chain = compute_penalised_logp("C1CCCCCCCCC1"), compute_penalised_logp("C" * 10)
    assert chain - ring > 3.9 / 0.2860  # a ring of ten has four atoms too many


def test_unknown_objective_is_refused_with_the_nearest_name():
    with pytest.raises(MolvaeError, match="Did you mean 'qed'"):
        get_objective("qeed")


# --- a model


def test_model_search_finds_better_molecules_than_it_starts_with_and_is_reproducible(model):
    history = model.optimize("penalised_logp", 120, start=[AMIDE], seed=0)
    assert len(history) == 120 and history["smiles"].iloc[0] == AMIDE and history["origin"].iloc[0] == "start"
    assert history["score"].max() > history["score"].iloc[0] + 1.5
    again = model.optimize("penalised_logp", 120, start=[AMIDE], seed=0)
    pd.testing.assert_frame_equal(history, again)


def test_model_search_scores_only_molecules_similar_to_the_given_one(model):
    history = model.optimize(len, 40, similar_to=AMIDE + ".Cl", min_similarity=0.5)
    assert history["similarity"].iloc[0] == 1 and (history["similarity"] >= 0.5).all()
    assert history["smiles"].iloc[0] == AMIDE  # standardised, as the model reads it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calls": 0}, "calls is 0"),
        ({"min_similarity": 1.5}, "min_similarity is 1.5"),
        ({"start": ["nonsense"]}, "'nonsense': not_smiles"),
        ({"similar_to": "C[Si](C)(C)C"}, "the model does not know"),
        ({"objective": "logp"}, "no objective 'logp'"),
    ],
)
def test_model_search_refuses_impossible_arguments(model, settings, message):
    with pytest.raises(MolvaeError, match=message):
        model.optimize(**{"objective": "qed", **settings})


def test_optimize_command_takes_a_function_from_a_python_file(tmp_path):
    (tmp_path / "scoring.py").write_text("from beside import LETTERS\n\ndef score(s):\n    return s.count(LETTERS)\n")
    (tmp_path / "beside.py").write_text("LETTERS = 'N'\n")
    first_file, second_file = tmp_path / "history.csv", tmp_path / "more.parquet"
    command = [*COMMAND, "--objective", f"{tmp_path / 'scoring.py'}:score"]
    first = CliRunner().invoke(app, [*command, "--calls", "30", "--out", str(first_file)])
    assert first.exit_code == 0 and "30 molecules scored, 0 failed" in first.output, first.output
    options = ["--calls", "10", "--history", str(first_file), "--out", str(second_file)]
    second = CliRunner().invoke(app, [*command, *options])
    assert second.exit_code == 0, second.output
    history, more = pd.read_csv(first_file), pd.read_parquet(second_file)
    assert len(history) == 30 and len(more) == 10 and not set(history["smiles"]) & set(more["smiles"])
    assert (history["score"] == history["smiles"].str.count("N")).all()


def test_optimize_command_appends_to_the_history_that_it_resumes(tmp_path):
    out = tmp_path / "history.csv"
    command = [*COMMAND, "--objective", "qed", "--calls", "20", "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = pd.read_csv(out)
    result = CliRunner().invoke(app, [*command, "--history", str(out)])
    assert result.exit_code == 0 and "20 molecules scored" in result.output, result.output
    after = pd.read_csv(out)
    pd.testing.assert_frame_equal(after.head(20), before)
    assert after["call"].tolist() == list(range(1, 41)) and after["smiles"].is_unique


def test_earlier_history_is_read_whether_or_not_its_smiles_are_canonical_and_without_its_gaps(model, caplog):
    earlier = pd.DataFrame({"smiles": [AMIDE_NOT_CANONICAL, math.nan], "score": [5.0, 9.0]})
    history = model.optimize(len, 5, start=[AMIDE], history=earlier)
    assert AMIDE not in history["smiles"].tolist() and "row 2, nan: empty" in caplog.text


@pytest.mark.parametrize(
    ("objective", "history", "message"),
    [
        ("missing.py:score", None, "missing.py is no Python file"),
        ("scoring.py:missing", None, "has no function 'missing'"),
        ("scoring.py", None, "name the function, too, as scoring.py:FUNCTION"),
        ("broken.py:score", None, "cannot be run: AttributeError: module 'math' has no attribute 'nothing'"),
        ("qed", "scoring.py", "not a history"),
    ],
)
def test_optimize_command_refuses_an_objective_or_history_that_it_cannot_use(
    tmp_path, monkeypatch, objective, history, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scoring.py").write_text("score = len\n")
    (tmp_path / "broken.py").write_text("import math\nscore = math.nothing\n")
    options = ["--history", history] if history else []
    result = CliRunner().invoke(app, [*COMMAND, "--objective", objective, "--out", "-", *options])
    assert isinstance(result.exception, MolvaeError) and message in str(result.exception)


def test_a_scoring_function_that_exits_ends_no_search_and_what_it_prints_is_no_result(tmp_path, capsys):
    def score(smiles: str) -> float:
        print("scoring", smiles)
        if len(smiles) == 3:
            sys.exit(0)
        return len(smiles)

    history = History(score, 12)
    search(history)
    table = history.to_table().set_index("smiles")
    assert len(table) == 12 and np.isnan(table.loc["CCC", "score"]) and table.loc["CCC", "error"] == "SystemExit: 0"
    printed = capsys.readouterr()
    assert "scoring" not in printed.out and "scoring CCC\n" in printed.err


def test_optimize_command_writes_nothing_but_the_table_to_stdout_and_refuses_a_file_that_exits(tmp_path):
    (tmp_path / "talking.py").write_text(
        "print('hello')\ndef score(smiles):\n    print(smiles)\n    return len(smiles)\n"
    )
    (tmp_path / "exiting.py").write_text("import sys\nsys.exit(0)\n")
    command = [sys.executable, "-m", "molvae", *COMMAND, "--out", "-", "--calls", "3", "--objective"]
    talking = subprocess.run([*command, f"{tmp_path}/talking.py:score"], capture_output=True, text=True)
    assert talking.returncode == 0 and "hello\n" in talking.stderr
    assert len(pd.read_csv(io.StringIO(talking.stdout))) == 3 and talking.stdout.startswith("call,smiles,score")
    exiting = subprocess.run([*command, f"{tmp_path}/exiting.py:score"], capture_output=True, text=True)
    assert (
        exiting.returncode == 1 and "exiting.py cannot be run: SystemExit: 0" in exiting.stderr and not exiting.stdout
    )


def test_molecule_at_which_the_objective_dies_or_hangs_costs_that_molecule_and_stays_in_the_history(tmp_path):
    (tmp_path / "deadly.py").write_text(
        "import os, time\n"
        "calls = []\n"
        "def score(smiles):\n"
        "    calls.append(smiles)\n"
        "    os.write(1, b'from C')\n"
        "    if smiles == 'CCO':\n"
        "        os.abort()\n"
        "    if smiles == 'CCN':\n"
        "        time.sleep(600)\n"
        "    return len(calls)\n"
    )
    out = tmp_path / "history.csv"
    starts = ["--start", "CC", "--start", "CCO", "--start", "CCN", "--start", "CCC"]
    options = ["--calls", "4", "--time-limit", "2", "--out", str(out), "--objective", f"{tmp_path}/deadly.py:score"]
    result = subprocess.run(
        [sys.executable, "-m", "molvae", *COMMAND, *starts, *options], capture_output=True, text=True
    )
    assert result.returncode == 0 and "from C" not in result.stdout
    history = pd.read_csv(out, keep_default_na=False).set_index("smiles")
    assert history.loc["CCO", "error"] == "the process of the objective ended: signal 6, Aborted"
    assert history.loc["CCN", "error"] == "the process of the objective ended: no result within 2 s"
    assert history["score"].tolist() == ["1.0", "", "", "1.0"]  # each process begins anew
