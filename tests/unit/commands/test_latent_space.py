"""Work in the latent space: paths, likelihood, neighbours; in Python and from the command line."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import molvae
from molvae.cli.main import app
from molvae.commands.latent_space import decode_file, read_table, write_table
from molvae.errors import MolvaeError
from molvae.latent import interpolation
from molvae.latent.likelihood import estimate_log_likelihood
from molvae.nn.vae import init_vae

PARACETAMOL, MORPHOLINE = "CC(=O)Nc1ccc(O)cc1", "COc1ccc(NC(=O)CN2CCOCC2)cc1"


@pytest.fixture(scope="module")
def model():
    return molvae.load("pretrained:moses-latent")


# paths


def test_a_spherical_path_begins_and_ends_at_its_points_and_turns_evenly():
    start, end = np.array([3.0, 0, 0]), np.array([0, 1.0, 0])
    path = interpolation.slerp(start, end, 5)
    np.testing.assert_allclose(path[[0, -1]], [start, end], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), [3, 2.5, 2, 1.5, 1])
    np.testing.assert_allclose(np.degrees(np.arctan2(path[:, 1], path[:, 0])), [0, 22.5, 45, 67.5, 90])


@pytest.mark.parametrize("end", [[2.0, 4.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
def test_a_path_between_points_without_an_angle_is_straight(end):
    path = interpolation.slerp(np.array([1.0, 2.0]), np.array(end), 3)
    np.testing.assert_allclose(path, [[1, 2], (np.array([1, 2]) + end) / 2, end])


def test_points_around_a_molecule_are_spread_as_its_posterior_times_the_radius():
    mu, logvar = np.array([1.0, -2.0]), np.log([0.25, 4.0])
    points = interpolation.sample_around(mu, logvar, 20_000, 2.0, seed=0)
    np.testing.assert_allclose(points.mean(0), mu, atol=0.1)
    np.testing.assert_allclose(points.std(0), [1.0, 4.0], rtol=0.03)
    assert (interpolation.sample_around(mu, logvar, 3, 0.0, seed=0) == mu).all()


# likelihood


def test_log_likelihood_with_one_draw_is_the_elbo_and_rises_with_more_draws(tokens, vocabulary, sizes):
    network = init_vae(len(vocabulary), sizes, seed=0).eval()
    single = torch.stack([estimate_log_likelihood(network, tokens, 1, seed) for seed in range(400)])
    many = estimate_log_likelihood(network, tokens, 200, 0)
    assert (many > single.mean(0) - 0.2).all() and many.mean() > single.mean()
    batch = tokens.collate(np.arange(len(tokens)))
    terms = [network(batch, torch.randn(len(tokens), network.latent_dim)).terms for _ in range(40)]
    elbo = -torch.stack([term.reconstruction + term.kl for term in terms]).mean()
    assert math.isclose(single.mean(), elbo.detach(), rel_tol=0.01)


def test_log_likelihood_is_exact_where_the_decoder_ignores_z(tokens, vocabulary, sizes):
    network = init_vae(len(vocabulary), sizes, seed=0).eval()
    with torch.no_grad():
        for layer in (network.decoder.first_state, network.decoder.latent_to_logits):
            layer.weight.zero_()
        network.decoder.layers[0].rnn.weight_ih_l0[:, -network.latent_dim :] = 0
        network.encoder.to_latent.weight.zero_()
        network.encoder.to_latent.bias.zero_()  # the posterior is the prior
    batch = tokens.collate(np.arange(len(tokens)))
    exact = network(batch, torch.zeros(len(tokens), network.latent_dim)).terms.reconstruction.detach()
    assert math.isclose(-estimate_log_likelihood(network, tokens, 3, 0).mean(), exact, rel_tol=1e-5)


def test_a_plain_autoencoder_has_no_log_likelihood(tokens, vocabulary, sizes):
    network = init_vae(len(vocabulary), sizes.model_copy(update={"variational": False}), seed=0).eval()
    with pytest.raises(MolvaeError, match="a plain autoencoder .* gives molecules no likelihood"):
        estimate_log_likelihood(network, tokens, 4, 0)


# a model


def test_log_likelihoods_keep_the_order_of_the_rows_and_are_nan_where_a_row_cannot_be_read(model, caplog):
    bounds = model.log_likelihood([MORPHOLINE, "no molecule", PARACETAMOL, "C[Si](C)C"], draws=4)
    assert np.isfinite(bounds).tolist() == [True, False, True, False]
    assert (bounds[[0, 2]] < 0).all() and bounds[0] > bounds[2], "the longer one is like the training data"
    assert "row 2, 'no molecule': not_smiles" in caplog.text and "the model does not know [Si]" in caplog.text
    assert model.log_likelihood([]).shape == (0,)


def test_the_log_likelihood_of_a_molecule_does_not_depend_on_the_molecules_beside_it(model):
    alone = model.log_likelihood([MORPHOLINE])[0]
    bounds = model.log_likelihood([PARACETAMOL, MORPHOLINE, MORPHOLINE, "CCO"])
    np.testing.assert_allclose(bounds[1:3], alone, rtol=1e-5)


def test_a_missing_molecule_of_a_table_is_encoded_as_a_row_of_nan(model, caplog):
    mu, _ = model.encode([MORPHOLINE, np.nan, None, ""])
    assert np.isfinite(mu).all(1).tolist() == [True, False, False, False]
    assert "row 2, nan: empty" in caplog.text and "row 3, None: empty" in caplog.text


def test_a_point_is_decoded_the_same_whatever_points_follow_it(model):
    z = np.random.default_rng(0).standard_normal((600, model.latent_dim))
    whole = model.decode(z, temperature=1.0, seed=3)
    for n in (1, 3, 599):
        assert model.decode(z[:n], temperature=1.0, seed=3) == whole[:n]


def test_an_implausible_molecule_has_a_low_log_likelihood(model):
    usual, implausible = model.log_likelihood([MORPHOLINE, "C1=CC2=CC1C=C2C=CC=CN=NN"], draws=4)
    assert usual > implausible + 10


def test_an_interpolation_goes_from_one_molecule_to_the_other(model):
    path = model.interpolate(MORPHOLINE, PARACETAMOL, 6)
    assert len(path) == 6 and len(set(path)) > 2
    mu, _ = model.encode([MORPHOLINE, PARACETAMOL])
    assert [path[0], path[-1]] == model.decode(mu)


def test_an_interpolation_from_a_molecule_to_itself_stays_there(model):
    assert len(set(model.interpolate(MORPHOLINE, MORPHOLINE, 5))) == 1


def test_neighbors_of_a_molecule_are_counted_and_compared_with_it(model):
    near, far = (model.neighbors(MORPHOLINE, n=40, radius=radius) for radius in (0.5, 2.0))
    for table in (near, far):
        assert list(table) == ["smiles", "frequency", "similarity", "finished"]
        assert math.isclose(table["frequency"].sum(), 1) and table["frequency"].is_monotonic_decreasing
        assert table["smiles"].is_unique
    itself = near.set_index("smiles").loc[MORPHOLINE]
    assert itself["similarity"] == 1 and itself["frequency"] > 0.9
    with_salt = model.neighbors(MORPHOLINE + ".Cl", n=40, radius=0.5)  # standardised as the training data were
    pd.testing.assert_frame_equal(near, with_salt)
    assert len(far) > len(near)
    assert far["similarity"].between(0, 1).all() and far["similarity"].mean() < 0.9


@pytest.mark.parametrize(
    ("smiles", "reason"), [("xx", "not_smiles"), ("C[Si](C)C", r"does not know \[Si\]"), ("", "empty")]
)
def test_a_molecule_that_the_model_cannot_encode_is_an_error_with_the_reason(model, smiles, reason):
    for call in (lambda: model.neighbors(smiles), lambda: model.interpolate(MORPHOLINE, smiles)):
        with pytest.raises(MolvaeError, match=reason):
            call()


def test_numbers_out_of_range_are_refused_by_the_methods_of_a_model(model):
    for call in (
        lambda: model.interpolate(MORPHOLINE, MORPHOLINE, 1),
        lambda: model.neighbors(MORPHOLINE, n=0),
        lambda: model.neighbors(MORPHOLINE, radius=float("nan")),
        lambda: model.log_likelihood([MORPHOLINE], draws=0),
        lambda: model.decode(np.full((1, model.latent_dim), np.nan)),
        lambda: model.decode(np.zeros((1, 3))),
        lambda: model.encode(MORPHOLINE),
    ):
        with pytest.raises(MolvaeError):
            call()


# the command line


def run(*arguments) -> str:
    """Run a command; returns what it printed."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_molecules_are_encoded_and_decoded_row_for_row_by_the_commands(tmp_path, model):
    molecules = [MORPHOLINE, "no molecule", PARACETAMOL]
    lines = ["id,smiles", *(f"{number},{text}" for number, text in enumerate(molecules))]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    name = ("--model", "pretrained:moses-latent")
    run("encode", tmp_path / "in.csv", *name, "--out", tmp_path / "z.parquet")
    table = pd.read_parquet(tmp_path / "z.parquet")
    assert table["row"].tolist() == [1, 2, 3] and table["smiles"].tolist() == molecules
    assert (table["model_id"] == model.id).all()
    assert table.iloc[1, 3:].isna().all() and table.iloc[[0, 2], 3:].notna().all(axis=None)
    run("decode", tmp_path / "z.parquet", *name, "--draws", 2, "--temperature", 1, "--out", tmp_path / "decoded.csv")
    decoded = pd.read_csv(tmp_path / "decoded.csv", keep_default_na=False)
    assert decoded["row"].tolist() == [1, 1, 2, 2, 3, 3] and decoded["draw"].tolist() == [1, 2] * 3
    assert (decoded["smiles"] == "").tolist() == [False, False, True, True, False, False]
    assert decoded["finished"].tolist() == ["True", "True", "", "", "True", "True"]
    run("likelihood", tmp_path / "in.csv", *name, "--draws", 4, "--out", tmp_path / "likelihood.csv")
    bounds = pd.read_csv(tmp_path / "likelihood.csv")["log_likelihood"]
    np.testing.assert_allclose(bounds, model.log_likelihood(molecules, draws=4), rtol=1e-4)
    printed = run("interpolate", MORPHOLINE, PARACETAMOL, *name, "--steps", 4)
    path = [line.split(",")[1] for line in printed.split()[1:]]
    assert path == model.interpolate(MORPHOLINE, PARACETAMOL, 4)
    assert run("neighbors", MORPHOLINE, *name, "-n", 10).startswith(
        "smiles,frequency,similarity,finished\n" + MORPHOLINE
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_latent_points_of_another_model_are_refused_by_decode(tmp_path, suffix):
    (tmp_path / "in.smi").write_text(f"{MORPHOLINE}\n{PARACETAMOL}\n")
    points, decoded = tmp_path / f"z{suffix}", tmp_path / "decoded.csv"
    run("encode", tmp_path / "in.smi", "--model", "pretrained:moses-latent", "--out", points)
    with pytest.raises(MolvaeError, match=r"are of model [0-9a-f]{16}, and this one is [0-9a-f]{16}. Give the model"):
        run("decode", points, "--model", "pretrained:moses", "--out", decoded)
    run("decode", points, "--model", "pretrained:moses-latent", "--out", decoded)
    assert pd.read_csv(decoded)["smiles"].notna().all()


def test_an_id_of_digits_is_compared_as_text_and_a_missing_one_is_no_other_model(tmp_path, folder):
    model = molvae.load(folder)
    for ids, is_refused in ((["0012345678901234", "0012345678901234"], True), ([model.id, ""], False), (None, False)):
        table = pd.DataFrame(np.zeros((2, 5)), columns=[f"z_{k}" for k in range(5)])
        (table if ids is None else table.assign(model_id=ids)).to_csv(tmp_path / "z.csv", index=False)
        if is_refused:
            with pytest.raises(MolvaeError, match="of model 0012345678901234"):
                decode_file(tmp_path / "z.csv", folder)
        else:
            assert len(decode_file(tmp_path / "z.csv", folder)) == 2


def test_commands_cut_at_max_tokens_say_so_in_their_tables(tmp_path, caplog):
    name = ("--model", "pretrained:moses-latent", "--max-tokens", 4)
    pd.DataFrame(np.zeros((3, 64)), columns=[f"z_{k}" for k in range(64)]).to_csv(tmp_path / "z.csv", index=False)
    for command in (
        ("decode", tmp_path / "z.csv"),
        ("interpolate", MORPHOLINE, PARACETAMOL),
        ("neighbors", MORPHOLINE, "-n", 5),
    ):
        caplog.clear()
        run(*command, *name, "--out", tmp_path / "out.csv")
        assert not pd.read_csv(tmp_path / "out.csv")["finished"].all(), command
        assert "strings were cut at 4 tokens" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", 'name\tz_0\n"2-amino\t1\nmorpholine"\t2\n', [1, 2]),  # quotation marks that are no quotes
        ("b.csv", 'name,z_0\n"x, y",1\n\nz,2\n', [1, np.nan, 2]),
        ("c.csv", '\ufeffname,z_0\n"x,1\ny",2\n', "row 1 is damaged: record_over_several_lines"),
        ("d.csv", "name,z_0\nx,1\ny,2,3\n", "row 2 is damaged: too_many_columns"),
        ("e.csv", "name,z_0\nx,1\n,\n", [1, np.nan]),
        ("f.smi", "CCO 1\n", "a file without a header has no columns"),
    ],
)
def test_a_table_of_points_has_a_row_for_each_line_or_is_refused(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    if isinstance(expected, str):
        with pytest.raises(MolvaeError, match=expected):
            read_table(tmp_path / name)
    else:
        np.testing.assert_equal(read_table(tmp_path / name)["z_0"].to_numpy(float), expected)


def test_a_damaged_row_is_encoded_as_nan_whatever_it_holds(tmp_path):
    (tmp_path / "in.csv").write_text("name,smiles\nx,CCO\nCC\n")  # the second record has a name only
    run("encode", tmp_path / "in.csv", "--model", "pretrained:moses", "--out", tmp_path / "z.csv")
    table = pd.read_csv(tmp_path / "z.csv")
    assert table["mu_0"].isna().tolist() == [False, True]


def test_a_file_without_latent_points_of_the_model_is_refused_by_decode(tmp_path):
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


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_text_that_a_spreadsheet_would_run_is_written_as_text_and_read_back_unchanged(tmp_path, capsys, suffix):
    errors = ["=cmd|' /C calc'!A0", "-1+2", "@x", "+1", "'=x", "it's", None]
    table = pd.DataFrame({"smiles": ["C", "=C", "N", "@", "O", "S", "P"], "score": [-1.5] * 7, "error": errors})
    write_table(table, str(tmp_path / f"history{suffix}"))
    read = read_table(tmp_path / f"history{suffix}")
    assert read["smiles"].tolist() == table["smiles"].tolist() and read["score"].tolist() == [-1.5] * 7
    assert [str(text) for text in read["error"][:3]] + read["error"].tolist()[4:6] == errors[:3] + errors[4:6]
    write_table(table, "-")
    for text in (capsys.readouterr().out, (tmp_path / f"history{suffix}").read_text("latin1")):
        if suffix == ".csv":
            assert [line.rsplit(",", 1)[1] for line in text.splitlines()[1:5]] == [
                "'=cmd|' /C calc'!A0",
                "'-1+2",
                "'@x",
                "+1",
            ]
            assert text.splitlines()[2].startswith("'=C,-1.5,")
