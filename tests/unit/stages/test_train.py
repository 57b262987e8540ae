"""Stage `train`: from a token store to a model folder, and on from a checkpoint to the same bytes."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

import molvae
from molvae.config import FeaturizeSettings, TrainSettings
from molvae.errors import DataError, Interrupted, ModelFileError, MolvaeError, TrainingError
from molvae.model_io.folder import load_model
from molvae.nn.vae import untrained
from molvae.stages import train as stage

SETTINGS = TrainSettings(epochs=3, batch_size=8, learning_rate=0.01, patience=9)
CPU = torch.device("cpu")


@pytest.fixture
def tokens(featurised):
    return featurised(train=22, valid=6)


@pytest.fixture
def train(tokens, sizes, tmp_path):
    """train(name) trains into a folder of that name; its checkpoints are beside it."""

    def run(name, settings=SETTINGS, of_model=None, tokens=tokens, **more):
        stage.train(
            tokens,
            sizes.model_copy(update=of_model or {}),
            settings,
            tmp_path / name,
            checkpoints=tmp_path / "checkpoints",
            device=CPU,
            threads=1,
            **more,
        )
        return tmp_path / name

    return run


def history(folder):
    with open(folder / "history.csv") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "molecules_per_s")} for row in csv.DictReader(file)
        ]


def test_a_training_leaves_a_model_its_history_and_closed_books(train, tmp_path):
    epochs = []
    folder = train("model", on_epoch=epochs.append)
    assert sorted(path.name for path in folder.iterdir()) == [
        "books.json",
        "dimensions.csv",
        "history.csv",
        "model.json",
        "model.safetensors",
    ]
    books = json.loads((folder / "books.json").read_text())
    assert (books["rows_in"], books["kept"], books["rejected"]) == (32, 28, {"held_out_test": 4})
    assert (books["trained_on"], books["held_out"]) == (22, 6)
    model, vocabulary, card = load_model(folder)
    assert len(vocabulary) == model.vocabulary_size
    assert card["settings"]["featurize"] == FeaturizeSettings().model_dump(), "as the tokens were made"
    assert card["settings"]["train"]["batch_size"] == 8
    assert card["training"]["epochs_run"] == 3 and card["training"]["molecules"] == 22
    assert card["metrics"] == epochs[card["training"]["best_epoch"] - 1]
    assert card["collapsed"] == (card["metrics"]["mutual_information_nats"] < math.log(2))
    assert card["training"]["processes"] == 1
    with open(folder / "dimensions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["dimension"]) for row in rows] == [(str(e), str(d)) for e in (1, 2, 3) for d in range(5)]
    last = sum(float(row["kl_nats"]) for row in rows if row["epoch"] == "3")
    assert last == pytest.approx(epochs[2]["valid_kl_nats"], rel=1e-5)
    assert len(history(folder)) == len(epochs) == 3
    assert not list((tmp_path / "checkpoints").iterdir())  # done: nothing to resume


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_a_training_and_the_same_command_ends_in_the_same_bytes(train, tmp_path, number):
    whole, handler = train("whole"), signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped at step 4 of 9; the same command goes on"):
        train("stopped", on_epoch=lambda row: os.kill(os.getpid(), number) if row["epoch"] == 1 else None)
    assert signal.getsignal(number) == handler
    assert not (tmp_path / "stopped").exists()
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert checkpoint.suffix == ".safetensors"
    resumed = train("stopped")
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert history(resumed) == history(whole)
    assert not checkpoint.exists()


def test_a_disk_that_is_full_costs_the_resume_file_and_not_the_training(train, monkeypatch, caplog):
    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    whole = train("whole")
    monkeypatch.setattr(stage, "save_state", full)
    folder = train("full")
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert "cannot be written ([Errno 28] No space left" in caplog.text and "training goes on" in caplog.text
    with pytest.raises(OSError, match="No space left"):  # nothing to go on from is an error
        train("stopped", on_epoch=lambda row: os.kill(os.getpid(), signal.SIGTERM))


def test_sigterm_that_comes_twice_does_not_keep_training_from_saving(train, tmp_path):
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # as `molvae` sets it
    try:
        with pytest.raises(Interrupted):
            train("stopped", on_epoch=lambda row: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_training_stops_before_its_wall_time_is_over_and_goes_on_from_there(train):
    whole = train("whole")
    for step in range(1, 9):  # of 9; too short a time is enough for one of them
        with pytest.raises(Interrupted, match=f"stopped at step {step} of 9; the same command goes on"):
            train("again", runtime=1e-9)
    assert (train("again", runtime=60) / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 48), (60, 3300), (1440, 86100)])
def test_a_fifth_of_the_wall_time_is_left_unused_and_never_more_than_five_minutes(minutes, seconds):
    assert stage._usable_seconds(minutes) == seconds


def test_a_checkpoint_of_other_settings_is_not_taken_up_and_not_lost(train, tmp_path):
    with pytest.raises(Interrupted):
        train("a", on_epoch=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    other = train("b", SETTINGS.model_copy(update={"seed": 1}))
    assert len(history(other)) == 3
    assert checkpoint.exists()


@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty"])
def test_a_damaged_checkpoint_is_put_aside_with_a_warning_and_training_starts_anew(
    train, tmp_path, damage, harm, caplog
):
    whole = train("whole")
    with pytest.raises(Interrupted):
        train("again", on_epoch=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    damage[harm](checkpoint)
    again = train("again")
    assert "cannot be used" in caplog.text and checkpoint.with_suffix(".damaged").exists()
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_writes_no_model(train, tmp_path, monkeypatch):
    def spoiled(*given):
        model = untrained(*given)
        model.decoder.state_to_logits.bias.data[5] = float("nan")
        return model

    monkeypatch.setattr(stage, "untrained", spoiled)
    with pytest.raises(TrainingError, match="not finite at step 3"):
        train("model")
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob("checkpoints/*"))


def test_a_plain_autoencoder_has_no_dimensions_to_tell_of_and_is_never_collapsed(train):
    folder = train("model", of_model={"variational": False})
    assert (folder / "dimensions.csv").read_text().split() == ["epoch,dimension,kl_nats"]
    assert "mutual_information_nats" not in history(folder)[0]
    model, _, card = load_model(folder)
    assert not model.variational and card["collapsed"] is False


def test_a_vamp_prior_starts_at_training_molecules(train, monkeypatch):
    started = []

    def spy(*given):
        started.append(untrained(*given))
        return started[0]

    monkeypatch.setattr(stage, "untrained", spy)
    monkeypatch.setattr(stage.Run, "fit", lambda run, **more: (_ for _ in ()).throw(TrainingError("enough")))
    with pytest.raises(TrainingError, match="enough"):
        train("model", of_model={"prior": "vamp", "prior_components": 4})
    (model,) = started
    table = model.encoder.embedding.weight
    for inputs, length in zip(model.prior.inputs.unbind(1), model.prior.lengths.tolist(), strict=True):
        assert all((table == one).all(1).any() for one in inputs[:length])  # each is a token


def test_the_encoder_reads_other_spellings_if_there_are_any_and_a_run_that_lacks_them_is_refused(
    train, featurised, monkeypatch
):
    settings = SETTINGS.model_copy(update={"variant_input": 0.5})
    with pytest.raises(
        TrainingError, match=r"train\.variant_input is 0\.5, but .* Set featurize\.variants to 1 or more"
    ):
        train("model", settings)
    tokens, read = featurised(train=22, valid=6, variants=2), []
    fit = stage.Run.fit
    monkeypatch.setattr(stage.Run, "fit", lambda run, **more: read.append(run.spellings) or fit(run, **more))
    train("with", settings, tokens=tokens)
    train("without", tokens=tokens)
    assert len(read[0]) == 3 * 22 and read[1] is None


def test_a_run_that_cannot_fit_is_refused_before_the_network_is_made(train, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(stage, "untrained", lambda *given: pytest.fail("made"))
    with pytest.raises(TrainingError, match=r"training needs about .* GiB are free\. Lower "):
        train("model")


def test_a_gpu_that_runs_out_of_memory_says_what_to_lower(train, monkeypatch):
    def full(run, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand more")

    monkeypatch.setattr(stage.Run, "fit", full)
    with pytest.raises(TrainingError, match=r"lower train\.batch_size.*Tried to allocate 9 GiB\)$"):
        train("model")


def test_tokens_of_another_vocabulary_are_refused(train, tokens):
    content = json.loads((tokens / "vocabulary.json").read_text())
    content |= {"symbols": content["symbols"][:5], "merges": []}
    (tokens / "vocabulary.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=r"token id \d+, but vocabulary\.json beside it knows 9 tokens"):
        train("model")


@pytest.mark.parametrize("name", ["tokens.safetensors", "vocabulary.json", "books.json"])
def test_a_token_folder_that_lacks_a_file_is_an_error_that_names_it(train, tokens, name):
    (tokens / name).unlink()
    with pytest.raises(DataError, match=name):
        train("model")


def test_properties_of_the_tokens_give_the_model_a_head_that_its_folder_keeps(train, featurised, tmp_path, smiles):
    tokens = featurised(train=22, valid=6, properties=["tpsa", "logp"])
    whole = train("whole", tokens=tokens)
    with pytest.raises(Interrupted):
        train("stopped", tokens=tokens, on_epoch=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
    resumed = train("stopped", tokens=tokens)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert {"valid_r2_tpsa", "valid_r2_logp", "train_property_nats"} <= history(whole)[0].keys()

    model = molvae.load(whole)
    assert model.card["properties"] == ["tpsa", "logp"]
    table = pd.read_parquet(tokens / "molecules.parquet").query("split == 'train'")
    np.testing.assert_allclose(model.network.head.mean, table[["tpsa", "logp"]].mean(), rtol=1e-5)
    np.testing.assert_allclose(model.network.head.sd, table[["tpsa", "logp"]].std(ddof=0), rtol=1e-5)
    found = model.properties([smiles[0], "nonsense", smiles[1]])
    assert found.columns.tolist() == ["tpsa", "logp"] and found.isna().all(axis=1).tolist() == [False, True, False]
    with torch.inference_mode():
        told = model.network.head(torch.from_numpy(model.encode([smiles[1]])[0]))
    np.testing.assert_allclose(found.iloc[2], told[0], rtol=1e-4)
    few = {"max_tokens": 9, "attempts": 1}
    assert model.sample(30, wanted={"logp": 40.0}, **few) != model.sample(30, **few)
    with pytest.raises(MolvaeError, match="tells no properties"):
        molvae.load(train("without", tokens=featurised(train=22, valid=6))).properties(smiles)


def test_a_property_in_which_the_molecules_do_not_differ_is_refused(train, featurised):
    tokens = featurised(train=22, valid=6, properties=["logp", "charge"])
    with pytest.raises(TrainingError, match=r"do not differ in charge\. Leave it out of featurize\.properties"):
        train("model", tokens=tokens)
