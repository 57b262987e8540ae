"""Properties from latent points: known answers, rows in their places, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from molvae.cli.main import app
from molvae.commands import latent_space
from molvae.errors import DataError, MolvaeError
from molvae.latent.property_regression import LEAST, Predictor, all_out_of_fold, compared, errors, fit, out_of_fold

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((200, 4))
LINEAR = FEATURES @ [1.0, -2.0, 0.5, 0.0]


def test_errors_of_known_predictions():
    values = np.array([1.0, 2.0, 3.0])
    assert errors(values, values) == {"r2": 1.0, "mae": 0.0}
    assert errors(values, np.full(3, 2.0)) == {"r2": 0.0, "mae": pytest.approx(2 / 3)}
    assert np.isnan(errors(np.ones(3), np.zeros(3))["r2"])


@pytest.mark.parametrize("kind", ["ridge", "gp"])
def test_what_is_linear_is_found_and_noise_is_not(kind):
    assert errors(LINEAR, out_of_fold(kind, FEATURES, LINEAR))["r2"] > 0.99
    noise = np.random.default_rng(1).standard_normal(200)
    assert errors(noise, out_of_fold(kind, FEATURES, noise))["r2"] < 0.1


def test_a_gaussian_process_bends_and_ridge_does_not():
    bent = np.sin(2 * FEATURES[:, 0])
    scores = compared(all_out_of_fold({"features": FEATURES}, bent), bent).set_index("predictor")["r2"]
    assert scores["gp"] > 0.8 > 0.3 > scores["ridge"] and scores["mean"] == 0


def test_no_molecule_is_predicted_by_a_regression_that_saw_it(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "molvae.latent.property_regression.fit", lambda kind, x, y, seed: seen.append(set(y)) or fit(kind, x, y, seed)
    )
    values = np.arange(50.0)
    out_of_fold("ridge", FEATURES[:50], values)
    assert [len(part) for part in seen] == [40] * 5
    assert sorted(value for part in seen for value in set(values) - part) == values.tolist()


def encoder(smiles):
    """Points that tell the number of atoms; none for what is no alkane."""
    mu = np.array([[len(one), len(one) ** 0.5] if set(one) == {"C"} else [np.nan] * 2 for one in smiles])
    return mu, np.zeros_like(mu)


def test_rows_stay_in_their_places():
    smiles = ["C" * n for n in range(1, 31)]
    values = [float(len(one)) for one in smiles]
    smiles[3], values[5] = "O", np.nan
    predictor = Predictor(encoder, str, smiles, values)
    assert predictor.rows.tolist() == [row for row in range(30) if row not in (3, 5)]
    found = predictor(["O", "CCCCCC", "C" * 12])
    assert np.isnan(found[0]) and np.allclose(found[1:], [6, 12], atol=0.5)
    assert (predictor.scores["n"] == 28).all()
    assert np.isnan(predictor(["O"])).all()
    assert predictor("CCCCCC") == pytest.approx(found[1]) and np.isnan(predictor("O"))


def test_the_labels_of_a_table_do_not_count():
    table = pd.DataFrame({"smiles": ["C" * n for n in range(1, 31)], "value": np.arange(30.0)}).sample(frac=1)
    one, other = (
        Predictor(encoder, str, *columns).scores
        for columns in ((table["smiles"], table["value"]), (list(table["smiles"]), list(table["value"])))
    )
    pd.testing.assert_frame_equal(one, other)


def test_what_repeats_a_molecule_teaches_nothing_about_it_out_of_fold(caplog):
    forms = ["C" * n for n in range(1, 31)]
    values = np.random.default_rng(2).standard_normal(30)
    predictor = Predictor(encoder, str, forms * 4, np.concatenate([values + shift for shift in (-1, 1, -2, 2)]))
    assert (predictor.scores["n"] == 30).all() and "90 rows repeat a molecule" in caplog.text
    assert (predictor.scores["r2"] < 0.2).all(), "the values are noise"
    assert len(predictor.out_of_fold) == 120 and np.array_equal(*predictor.out_of_fold[:60].reshape(2, 30))
    alone = Predictor(encoder, str, sorted(forms), values[np.argsort(forms)])
    np.testing.assert_allclose(alone.out_of_fold, predictor.out_of_fold[:30][np.argsort(forms)], atol=1e-6)


def test_too_few_molecules_and_too_many_values_are_refused():
    few = ["C" * n for n in range(1, LEAST)]
    with pytest.raises(MolvaeError, match=f"{LEAST - 1} different molecules"):
        Predictor(encoder, str, few * 3, range(3 * len(few)))
    with pytest.raises(MolvaeError, match="12 molecules and 11 values"):
        Predictor(encoder, str, ["C"] * 12, range(11))


def test_the_command_predicts_what_is_missing_and_scores_the_rest(tmp_path, smiles, caplog):
    rows = [*smiles[:24], "not a molecule"]
    values = [str(float(len(one))) for one in rows]
    values[2] = ""
    table = tmp_path / "mine.tsv"
    table.write_text("smiles\tlength\n" + "".join(f"{a}\t{b}\n" for a, b in zip(rows, values, strict=True)))
    out = tmp_path / "out.csv"
    command = ["predict", str(table), "--target", "length", "--model", "pretrained:moses-latent", "--out", str(out)]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0 and "fingerprints" in found.output, found.output
    written = pd.read_csv(out)
    assert written["row"].tolist() == list(range(1, 26)) and written["smiles"].tolist() == rows
    assert caplog.text.count("not a molecule") == 1 and "row 25, 'not a molecule'" in caplog.text
    assert np.isnan(written["value"][2]) and np.isfinite(written["predicted"][2]) and np.isnan(written["predicted"][24])


def test_a_list_of_smiles_has_no_property(tmp_path):
    (tmp_path / "mine.smi").write_text("CCO\n")
    with pytest.raises(DataError, match="a .smi file has no columns; give a table with a column 'logp'"):
        latent_space.predict(tmp_path / "mine.smi", "logp", "pretrained:moses-latent")


def test_a_column_that_is_not_there_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("smiles,logp\nCCO,1\n")
    with pytest.raises(DataError, match="no column 'logP'.* Did you mean 'logp'"):
        latent_space.predict(tmp_path / "mine.csv", "logP", "pretrained:moses-latent")
