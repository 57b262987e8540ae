"""Properties predicted from latent points: known answers, rows in their places, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from molvae.cli.main import app
from molvae.commands import latent_space
from molvae.errors import DataError, MolvaeError
from molvae.latent.property_regression import (
    MIN_MOLECULES,
    Predictor,
    compute_errors,
    fit_regression,
    predict_all_out_of_fold,
    predict_out_of_fold,
    score_predictions,
)

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((200, 4))
LINEAR = FEATURES @ [1.0, -2.0, 0.5, 0.0]


def test_errors_of_predictions_are_those_worked_by_hand():
    values = np.array([1.0, 2.0, 3.0])
    assert compute_errors(values, values) == {"r2": 1.0, "mae": 0.0}
    assert compute_errors(values, np.full(3, 2.0)) == {"r2": 0.0, "mae": pytest.approx(2 / 3)}
    assert np.isnan(compute_errors(np.ones(3), np.zeros(3))["r2"])


@pytest.mark.parametrize("kind", ["ridge", "gp"])
def test_regression_predicts_a_linear_property_and_no_noise(kind):
    assert compute_errors(LINEAR, predict_out_of_fold(kind, FEATURES, LINEAR))["r2"] > 0.99
    noise = np.random.default_rng(1).standard_normal(200)
    assert compute_errors(noise, predict_out_of_fold(kind, FEATURES, noise))["r2"] < 0.1


def test_gaussian_process_predicts_a_nonlinear_property_better_than_ridge():
    values = np.sin(2 * FEATURES[:, 0])
    predictions = predict_all_out_of_fold({"features": FEATURES}, values)
    r_squared = score_predictions(predictions, values).set_index("predictor")["r2"]
    assert r_squared["gp"] > 0.8 > 0.3 > r_squared["ridge"] and r_squared["mean"] == 0


def test_out_of_fold_predictions_come_from_regressions_that_have_not_seen_the_molecule(monkeypatch):
    fitted_on = []
    monkeypatch.setattr(
        "molvae.latent.property_regression.fit_regression",
        lambda kind, x, y, seed: fitted_on.append(set(y)) or fit_regression(kind, x, y, seed),
    )
    values = np.arange(50.0)
    predict_out_of_fold("ridge", FEATURES[:50], values)
    assert [len(part) for part in fitted_on] == [40] * 5
    assert sorted(value for part in fitted_on for value in set(values) - part) == values.tolist()


def encode(smiles):
    """Points that hold the number of atoms; NaN for molecules that are no alkanes."""
    mu = np.array([[len(text), len(text) ** 0.5] if set(text) == {"C"} else [np.nan] * 2 for text in smiles])
    return mu, np.zeros_like(mu)


def test_predictor_keeps_the_places_of_rows_and_leaves_out_those_without_value_or_latent_point():
    smiles = ["C" * n for n in range(1, 31)]
    values = [float(len(text)) for text in smiles]
    smiles[3], values[5] = "O", np.nan
    predictor = Predictor(encode, str, smiles, values)
    assert predictor.rows.tolist() == [row for row in range(30) if row not in (3, 5)]
    predicted = predictor(["O", "CCCCCC", "C" * 12])
    assert np.isnan(predicted[0]) and np.allclose(predicted[1:], [6, 12], atol=0.5)
    assert (predictor.scores["n"] == 28).all()
    assert np.isnan(predictor(["O"])).all()
    assert predictor("CCCCCC") == pytest.approx(predicted[1]) and np.isnan(predictor("O"))


def test_predictor_ignores_the_labels_of_a_table():
    table = pd.DataFrame({"smiles": ["C" * n for n in range(1, 31)], "value": np.arange(30.0)}).sample(frac=1)
    scores = Predictor(encode, str, table["smiles"], table["value"]).scores
    expected = Predictor(encode, str, list(table["smiles"]), list(table["value"])).scores
    pd.testing.assert_frame_equal(scores, expected)


def test_predictor_keeps_repeats_of_a_molecule_in_one_fold(caplog):
    smiles = ["C" * n for n in range(1, 31)]
    values = np.random.default_rng(2).standard_normal(30)
    predictor = Predictor(encode, str, smiles * 4, np.concatenate([values + shift for shift in (-1, 1, -2, 2)]))
    assert (predictor.scores["n"] == 30).all() and "90 rows repeat a molecule" in caplog.text
    assert (predictor.scores["r2"] < 0.2).all(), "the values are noise"
    assert len(predictor.out_of_fold) == 120 and np.array_equal(*predictor.out_of_fold[:60].reshape(2, 30))
    order = np.argsort(smiles)
    without_repeats = Predictor(encode, str, sorted(smiles), values[order])
    np.testing.assert_allclose(without_repeats.out_of_fold, predictor.out_of_fold[:30][order], atol=1e-6)


def test_predictor_refuses_too_few_molecules_and_another_number_of_values():
    few = ["C" * n for n in range(1, MIN_MOLECULES)]
    with pytest.raises(MolvaeError, match=f"{MIN_MOLECULES - 1} different molecules"):
        Predictor(encode, str, few * 3, range(3 * len(few)))
    with pytest.raises(MolvaeError, match="12 molecules and 11 values"):
        Predictor(encode, str, ["C"] * 12, range(11))


def test_predict_command_predicts_rows_without_a_value_and_scores_the_rest(tmp_path, smiles, caplog):
    rows = [*smiles[:24], "not a molecule"]
    values = [str(float(len(text))) for text in rows]
    values[2] = ""
    file, out = tmp_path / "mine.tsv", tmp_path / "out.csv"
    file.write_text("smiles\tlength\n" + "".join(f"{a}\t{b}\n" for a, b in zip(rows, values, strict=True)))
    command = ["predict", str(file), "--target", "length", "--model", "pretrained:moses-latent", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "fingerprints" in result.output, result.output
    table = pd.read_csv(out)
    assert table["row"].tolist() == list(range(1, 26)) and table["smiles"].tolist() == rows
    assert caplog.text.count("not a molecule") == 1 and "row 25, 'not a molecule'" in caplog.text
    assert np.isnan(table["value"][2]) and np.isfinite(table["predicted"][2]) and np.isnan(table["predicted"][24])


def test_property_prediction_refuses_a_plain_list_of_smiles(tmp_path):
    (tmp_path / "mine.smi").write_text("CCO\n")
    with pytest.raises(DataError, match="a file without a header has no columns; give a table with a column 'logp'"):
        latent_space.predict_property(tmp_path / "mine.smi", "logp", "pretrained:moses-latent")


def test_property_prediction_names_a_missing_column_and_the_nearest(tmp_path):
    (tmp_path / "mine.csv").write_text("smiles,logp\nCCO,1\n")
    with pytest.raises(DataError, match="no column 'logP'.* Did you mean 'logp'"):
        latent_space.predict_property(tmp_path / "mine.csv", "logP", "pretrained:moses-latent")


def test_targets_that_are_text_are_counted_and_named_in_a_warning(tmp_path, smiles, caplog):
    values = [f"{len(text)}" for text in smiles]
    values[3], values[7], values[9] = "7,2", ">42", ""
    lines = ["smiles;length", *(f"{a};{b}" for a, b in zip(smiles, values, strict=True))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    table, _ = latent_space.predict_property(tmp_path / "mine.csv", "length", "pretrained:moses-latent")
    assert "2 of 31 values in column 'length' are text and count as missing (row 4: '7,2')" in caplog.text
    assert table["value"].isna().to_numpy().nonzero()[0].tolist() == [3, 7, 9]
    with pytest.raises(MolvaeError, match="values hold what is no number"):
        Predictor(encode, str, ["C"] * 12, ["7,2"] * 12)
