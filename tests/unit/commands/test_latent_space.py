"""Work in the latent space: paths, likelihood, neighbours; in Python and from the shell."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import molvae
from molvae.cli.main import app
from molvae.errors import MolvaeError
from molvae.latent import interpolation
from molvae.latent.likelihood import log_likelihood
from molvae.nn.vae import untrained

PARACETAMOL, OTHER = "CC(=O)Nc1ccc(O)cc1", "COc1ccc(NC(=O)CN2CCOCC2)cc1"


@pytest.fixture(scope="module")
def model():
    return molvae.load("pretrained:moses-latent")


# --- paths


def test_a_path_has_its_ends_and_turns_evenly():
    start, end = np.array([3.0, 0, 0]), np.array([0, 1.0, 0])
    path = interpolation.between(start, end, 5)
    np.testing.assert_allclose(path[[0, -1]], [start, end], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), [3, 2.5, 2, 1.5, 1])
    np.testing.assert_allclose(np.degrees(np.arctan2(path[:, 1], path[:, 0])), [0, 22.5, 45, 67.5, 90])


@pytest.mark.parametrize("end", [[2.0, 4.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
def test_a_path_without_an_angle_is_straight(end):
    path = interpolation.between(np.array([1.0, 2.0]), np.array(end), 3)
    np.testing.assert_allclose(path, [[1, 2], (np.array([1, 2]) + end) / 2, end])


def test_points_around_a_molecule_are_as_far_as_the_posterior_says():
    mu, logvar = np.array([1.0, -2.0]), np.log([0.25, 4.0])
    points = interpolation.around(mu, logvar, 20_000, 2.0, seed=0)
    np.testing.assert_allclose(points.mean(0), mu, atol=0.1)
    np.testing.assert_allclose(points.std(0), [1.0, 4.0], rtol=0.03)
    assert (interpolation.around(mu, logvar, 3, 0.0, seed=0) == mu).all()


# --- likelihood


def test_one_draw_is_the_elbo_and_more_come_nearer(tokens, vocabulary, sizes):
    network = untrained(len(vocabulary), sizes, seed=0).eval()
    one = torch.stack([log_likelihood(network, tokens, 1, seed) for seed in range(400)])
    many = log_likelihood(network, tokens, 200, 0)
    assert (many > one.mean(0) - 0.2).all() and many.mean() > one.mean()
    batch = tokens.batch(np.arange(len(tokens)))
    terms = [network(batch, torch.randn(len(tokens), network.latent_dim)) for _ in range(40)]
    elbo = -torch.stack([term.reconstruction + term.kl for term in terms]).mean()
    assert math.isclose(one.mean(), elbo.detach(), rel_tol=0.01)


def test_the_bound_is_exact_where_z_does_not_matter(tokens, vocabulary, sizes):
    network = untrained(len(vocabulary), sizes, seed=0).eval()
    with torch.no_grad():
        for layer in (network.decoder.first_state, network.decoder.latent_to_logits):
            layer.weight.zero_()
        network.decoder.layers[0].rnn.weight_ih_l0[:, -network.latent_dim :] = 0
        network.encoder.to_latent.weight.zero_()
        network.encoder.to_latent.bias.zero_()  # the posterior is the prior
    batch = tokens.batch(np.arange(len(tokens)))
    exact = network(batch, torch.zeros(len(tokens), network.latent_dim)).reconstruction.detach()
    assert math.isclose(-log_likelihood(network, tokens, 3, 0).mean(), exact, rel_tol=1e-5)


# --- a model


def test_rows_keep_their_place_and_what_cannot_be_read_has_no_number(model, caplog):
    found = model.log_likelihood([OTHER, "no molecule", PARACETAMOL, "C[Si](C)C"], draws=4)
    assert np.isfinite(found).tolist() == [True, False, True, False]
    assert (found[[0, 2]] < 0).all() and found[0] > found[2], "the longer one is as the training data are"
    assert "row 2, 'no molecule': unphysical" in caplog.text and "the model does not know [Si]" in caplog.text
    assert model.log_likelihood([]).shape == (0,)


def test_a_molecule_is_as_likely_in_any_company(model):
    alone = model.log_likelihood([OTHER])[0]
    found = model.log_likelihood([PARACETAMOL, OTHER, OTHER, "CCO"])
    np.testing.assert_allclose(found[1:3], alone, rtol=1e-5)


def test_a_plain_autoencoder_has_no_likelihood(tokens, vocabulary, sizes):
    network = untrained(len(vocabulary), sizes.model_copy(update={"variational": False}), seed=0).eval()
    with pytest.raises(MolvaeError, match="a plain autoencoder .* gives molecules no likelihood"):
        log_likelihood(network, tokens, 4, 0)


def test_what_a_table_has_no_molecule_for_is_a_row_without_a_point(model, caplog):
    mu, _ = model.encode([OTHER, np.nan, None, ""])
    assert np.isfinite(mu).all(1).tolist() == [True, False, False, False]
    assert "row 2, nan: empty" in caplog.text and "row 3, None: empty" in caplog.text


def test_points_are_written_the_same_whatever_comes_behind_them(model):
    z = np.random.default_rng(0).standard_normal((600, model.latent_dim))
    whole = model.decode(z, temperature=1.0, seed=3)
    for n in (1, 3, 599):
        assert model.decode(z[:n], temperature=1.0, seed=3) == whole[:n]


def test_what_no_model_would_hold_likely_is_unlikely(model):
    usual, odd = model.log_likelihood([OTHER, "C1=CC2=CC1C=C2C=CC=CN=NN"], draws=4)
    assert usual > odd + 10


def test_a_walk_goes_from_one_molecule_to_the_other(model):
    way = model.interpolate(OTHER, PARACETAMOL, 6)
    assert len(way) == 6 and len(set(way)) > 2
    mu, _ = model.encode([OTHER, PARACETAMOL])
    assert [way[0], way[-1]] == model.decode(mu)


def test_a_walk_from_a_molecule_to_itself_stays(model):
    assert len(set(model.interpolate(OTHER, OTHER, 5))) == 1


def test_neighbours_are_counted_and_compared(model):
    near, far = (model.neighbors(OTHER, n=40, radius=radius) for radius in (0.5, 2.0))
    for table in (near, far):
        assert list(table) == ["smiles", "frequency", "similarity"]
        assert math.isclose(table["frequency"].sum(), 1) and table["frequency"].is_monotonic_decreasing
        assert table["smiles"].is_unique
    own = near.set_index("smiles").loc[OTHER]
    assert own["similarity"] == 1 and own["frequency"] > 0.9
    pd.testing.assert_frame_equal(near, model.neighbors(OTHER + ".Cl", n=40, radius=0.5))  # as the model reads it
    assert len(far) > len(near)
    assert far["similarity"].between(0, 1).all() and far["similarity"].mean() < 0.9


@pytest.mark.parametrize(
    ("smiles", "why"), [("xx", "not_smiles"), ("C[Si](C)C", r"does not know \[Si\]"), ("", "empty")]
)
def test_what_has_no_place_in_the_latent_space_is_said(model, smiles, why):
    for call in (lambda: model.neighbors(smiles), lambda: model.interpolate(OTHER, smiles)):
        with pytest.raises(MolvaeError, match=why):
            call()


def test_numbers_out_of_range_are_refused(model):
    for call in (
        lambda: model.interpolate(OTHER, OTHER, 1),
        lambda: model.neighbors(OTHER, n=0),
        lambda: model.neighbors(OTHER, radius=float("nan")),
        lambda: model.log_likelihood([OTHER], draws=0),
        lambda: model.decode(np.full((1, model.latent_dim), np.nan)),
        lambda: model.decode(np.zeros((1, 3))),
        lambda: model.encode(OTHER),
    ):
        with pytest.raises(MolvaeError):
            call()


# --- the shell


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_molecules_go_to_the_latent_space_and_back_row_for_row(tmp_path, model):
    molecules = [OTHER, "no molecule", PARACETAMOL]
    (tmp_path / "in.csv").write_text("\n".join(["id,smiles", *(f"{k},{one}" for k, one in enumerate(molecules))]))
    name = ("--model", "pretrained:moses-latent")
    run("encode", tmp_path / "in.csv", *name, "--out", tmp_path / "z.parquet")
    table = pd.read_parquet(tmp_path / "z.parquet")
    assert table["row"].tolist() == [1, 2, 3] and table["smiles"].tolist() == molecules
    assert table.iloc[1, 2:].isna().all() and table.iloc[[0, 2], 2:].notna().all(axis=None)
    run("decode", tmp_path / "z.parquet", *name, "--draws", 2, "--temperature", 1, "--out", tmp_path / "back.csv")
    back = pd.read_csv(tmp_path / "back.csv", keep_default_na=False)
    assert back["row"].tolist() == [1, 1, 2, 2, 3, 3] and back["draw"].tolist() == [1, 2] * 3
    assert (back["smiles"] == "").tolist() == [False, False, True, True, False, False]
    run("likelihood", tmp_path / "in.csv", *name, "--draws", 4, "--out", tmp_path / "likelihood.csv")
    found = pd.read_csv(tmp_path / "likelihood.csv")["log_likelihood"]
    np.testing.assert_allclose(found, model.log_likelihood(molecules, draws=4), rtol=1e-4)
    shown = run("interpolate", OTHER, PARACETAMOL, *name, "--steps", 4)
    assert [line.split(",", 1)[1] for line in shown.split()[1:]] == model.interpolate(OTHER, PARACETAMOL, 4)
    assert run("neighbors", OTHER, *name, "-n", 10).startswith("smiles,frequency,similarity\n" + OTHER)


def test_a_damaged_row_has_no_point_whatever_it_holds(tmp_path):
    (tmp_path / "in.csv").write_text("name,smiles\nx,CCO\nCC\n")  # the second record has a name only
    run("encode", tmp_path / "in.csv", "--model", "pretrained:moses", "--out", tmp_path / "z.csv")
    table = pd.read_csv(tmp_path / "z.csv")
    assert table["mu_0"].isna().tolist() == [False, True]


def test_a_file_without_latent_points_is_refused(tmp_path):
    (tmp_path / "in.csv").write_text("z_0,z_1\n0,1\n")
    with pytest.raises(MolvaeError, match="no column z_2; the model has 64 latent dimensions"):
        run("decode", tmp_path / "in.csv", "--model", "pretrained:moses", "--out", "-")
    (tmp_path / "wide.csv").write_text(",".join(f"z_{k}" for k in range(65)) + "\n" + ",".join("0" * 65) + "\n")
    with pytest.raises(MolvaeError, match="a column z_64, but the model has 64 latent dimensions"):
        run("decode", tmp_path / "wide.csv", "--model", "pretrained:moses", "--out", "-")
    (tmp_path / "text.csv").write_text(",".join(f"z_{k}" for k in range(64)) + "\n" + ",".join(["high"] * 64) + "\n")
    with pytest.raises(MolvaeError, match="columns z_0 … hold what is no number"):
        run("decode", tmp_path / "text.csv", "--model", "pretrained:moses", "--out", "-")
    with pytest.raises(MolvaeError, match="a name that ends in .csv or .parquet"):
        run("decode", tmp_path / "in.csv", "--model", "pretrained:moses", "--out", "x.txt")
