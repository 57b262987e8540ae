"""Stage `train`: from a token store to a model folder, and from a checkpoint to the same bytes."""

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
from molvae.nn.vae import init_vae
from molvae.stages import train as stage

SETTINGS = TrainSettings(epochs=3, batch_size=8, learning_rate=0.01, patience=9)
CPU = torch.device("cpu")


@pytest.fixture
def tokens(featurised):
    return featurised(train=22, valid=6)


@pytest.fixture
def train(tokens, sizes, tmp_path):
    """A function that trains into the folder of a name, with its checkpoints beside it, and returns the folder."""

    def run(name, settings=SETTINGS, model_overrides=None, tokens=tokens, **options):
        stage.train(
            tokens,
            sizes.model_copy(update=model_overrides or {}),
            settings,
            tmp_path / name,
            checkpoints=tmp_path / "checkpoints",
            device=CPU,
            threads=1,
            **options,
        )
        return tmp_path / name

    return run


def read_history(folder):
    """The rows of a history, without how long they took."""
    with open(folder / "history.csv") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "molecules_per_s")} for row in csv.DictReader(file)
        ]


def test_training_writes_a_model_its_history_and_closed_counts(train, tmp_path):
    epochs = []
    folder = train("model", on_epoch=epochs.append)
    assert sorted(path.name for path in folder.iterdir()) == [
        "counts.json",
        "dimensions.csv",
        "history.csv",
        "model.json",
        "model.safetensors",
    ]
    counts = json.loads((folder / "counts.json").read_text())
    assert (counts["rows_in"], counts["kept"], counts["rejected"]) == (32, 28, {"held_out_test": 4})
    assert (counts["trained_on"], counts["held_out"]) == (22, 6)
    model, vocabulary, card = load_model(folder)
    assert len(vocabulary) == model.vocabulary_size
    assert card["settings"]["featurize"] == FeaturizeSettings().model_dump(), "those of the tokens"
    assert card["settings"]["train"]["batch_size"] == 8
    assert card["training"]["epochs_run"] == 3 and card["training"]["molecules"] == 22
    assert card["metrics"] == epochs[card["training"]["best_epoch"] - 1]
    assert card["collapsed"] == (card["metrics"]["mutual_information_nats"] < math.log(2))
    assert card["training"]["processes"] == 1
    with open(folder / "dimensions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["dimension"]) for row in rows] == [(str(e), str(d)) for e in (1, 2, 3) for d in range(5)]
    last_kl = sum(float(row["kl_nats"]) for row in rows if row["epoch"] == "3")
    assert last_kl == pytest.approx(epochs[2]["valid_kl_nats"], rel=1e-5)
    assert len(read_history(folder)) == len(epochs) == 3
    assert not list((tmp_path / "checkpoints").iterdir())  # nothing is left to resume


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_training_stopped_by_a_signal_resumes_to_the_same_bytes(train, tmp_path, number):
    whole, handler = train("whole"), signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped at step 4 of 9; the same command resumes from there"):
        train("stopped", on_epoch=lambda row: os.kill(os.getpid(), number) if row["epoch"] == 1 else None)
    assert signal.getsignal(number) == handler
    assert not (tmp_path / "stopped").exists()
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert checkpoint.suffix == ".safetensors"
    resumed = train("stopped")
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert read_history(resumed) == read_history(whole)
    assert not checkpoint.exists()


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(train, monkeypatch, caplog):
    def fail(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    whole = train("whole")
    monkeypatch.setattr(stage, "save_checkpoint", fail)
    folder = train("full")
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert "cannot be written ([Errno 28] No space left" in caplog.text and "training continues" in caplog.text
    with pytest.raises(OSError, match="No space left"):  # nothing to resume from is an error
        train("stopped", on_epoch=lambda row: os.kill(os.getpid(), signal.SIGTERM))


def test_sigterm_that_comes_twice_does_not_keep_training_from_saving_a_checkpoint(train, tmp_path):
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # as `molvae` sets it
    try:
        with pytest.raises(Interrupted):
            train("stopped", on_epoch=lambda row: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_training_stops_before_its_wall_time_is_over_and_resumes_from_there(train):
    whole = train("whole")
    for step in range(1, 9):  # of 9; the shortest time is enough for one step
        with pytest.raises(Interrupted, match=f"stopped at step {step} of 9; the same command resumes"):
            train("again", runtime=1e-9)
    assert (train("again", runtime=60) / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 48), (60, 3300), (1440, 86100)])
def test_training_leaves_a_fifth_of_its_wall_time_unused_and_never_more_than_five_minutes(minutes, seconds):
    assert stage._compute_usable_seconds(minutes) == seconds


def test_a_checkpoint_of_different_settings_is_neither_resumed_nor_deleted(train, tmp_path):
    with pytest.raises(Interrupted):
        train("a", on_epoch=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    folder = train("b", SETTINGS.model_copy(update={"seed": 1}))
    assert len(read_history(folder)) == 3
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


def test_training_with_a_loss_that_is_not_finite_writes_no_model(train, tmp_path, monkeypatch):
    def init_with_nan(*arguments):
        model = init_vae(*arguments)
        model.decoder.state_to_logits.bias.data[5] = float("nan")
        return model

    monkeypatch.setattr(stage, "init_vae", init_with_nan)
    with pytest.raises(TrainingError, match="not finite at step 3"):
        train("model")
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob("checkpoints/*"))


def test_a_plain_autoencoder_has_no_kl_by_dimension_and_is_never_collapsed(train):
    folder = train("model", model_overrides={"variational": False})
    assert (folder / "dimensions.csv").read_text().split() == ["epoch,dimension,kl_nats"]
    assert "mutual_information_nats" not in read_history(folder)[0]
    model, _, card = load_model(folder)
    assert not model.variational and card["collapsed"] is False


def test_the_pseudo_inputs_of_a_vamp_prior_start_at_training_molecules(train, monkeypatch):
    models = []

    def init_and_record(*arguments):
        models.append(init_vae(*arguments))
        return models[0]

    def stop(trainer, **_):
        raise TrainingError("stopped before the first step")

    monkeypatch.setattr(stage, "init_vae", init_and_record)
    monkeypatch.setattr(stage.Trainer, "fit", stop)
    with pytest.raises(TrainingError, match="stopped before the first step"):
        train("model", model_overrides={"prior": "vamp", "prior_components": 4})
    (model,) = models
    table = model.encoder.embedding.weight
    for inputs, length in zip(model.prior.inputs.unbind(1), model.prior.lengths.tolist(), strict=True):
        assert all((table == row).all(1).any() for row in inputs[:length])  # each is the embedding of a token


def test_the_encoder_reads_augmentations_if_there_are_any_and_training_without_them_is_refused(
    train, featurised, monkeypatch
):
    settings = SETTINGS.model_copy(update={"augmentation_prob": 0.5})
    message = r"train\.augmentation_prob is 0\.5, but .* Set featurize\.augmentations to 1 or more"
    with pytest.raises(TrainingError, match=message):
        train("model", settings)
    tokens, augmented = featurised(train=22, valid=6, augmentations=2), []
    fit = stage.Trainer.fit

    def fit_and_record(trainer, **options):
        augmented.append(trainer.augmented)
        return fit(trainer, **options)

    monkeypatch.setattr(stage.Trainer, "fit", fit_and_record)
    train("with", settings, tokens=tokens)
    train("without", tokens=tokens)
    assert len(augmented[0]) == 3 * 22 and augmented[1] is None


def test_training_that_cannot_fit_into_memory_is_refused_before_the_network_is_made(train, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(stage, "init_vae", lambda *_: pytest.fail("the network was made"))
    with pytest.raises(TrainingError, match=r"training needs about .* GiB are free\. Lower "):
        train("model")


def test_a_gpu_out_of_memory_is_an_error_that_names_the_setting_to_lower(train, monkeypatch):
    def run_out_of_memory(trainer, **_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand more")

    monkeypatch.setattr(stage.Trainer, "fit", run_out_of_memory)
    with pytest.raises(TrainingError, match=r"lower train\.batch_size.*Tried to allocate 9 GiB\)$"):
        train("model")


def test_training_on_tokens_of_another_vocabulary_is_refused(train, tokens):
    content = json.loads((tokens / "vocabulary.json").read_text())
    content |= {"symbols": content["symbols"][:5], "merges": []}
    (tokens / "vocabulary.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=r"token id \d+, but vocabulary\.json beside it knows 9 tokens"):
        train("model")


@pytest.mark.parametrize("name", ["tokens.safetensors", "vocabulary.json", "counts.json"])
def test_a_token_folder_that_lacks_a_file_is_an_error_that_names_it(train, tokens, name):
    (tokens / name).unlink()
    with pytest.raises(DataError, match=name):
        train("model")


def test_properties_of_the_tokens_give_the_model_a_head_that_is_saved_with_it(train, featurised, tmp_path, smiles):
    tokens = featurised(train=22, valid=6, properties=["tpsa", "logp"])
    whole = train("whole", tokens=tokens)
    with pytest.raises(Interrupted):
        train("stopped", tokens=tokens, on_epoch=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
    resumed = train("stopped", tokens=tokens)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert {"valid_r2_tpsa", "valid_r2_logp", "train_property_nats"} <= read_history(whole)[0].keys()

    model = molvae.load(whole)
    assert model.card["properties"] == ["tpsa", "logp"]
    table = pd.read_parquet(tokens / "molecules.parquet").query("split == 'train'")
    np.testing.assert_allclose(model.network.head.mean, table[["tpsa", "logp"]].mean(), rtol=1e-5)
    np.testing.assert_allclose(model.network.head.sd, table[["tpsa", "logp"]].std(ddof=0), rtol=1e-5)
    predicted = model.predict_properties([smiles[0], "nonsense", smiles[1]])
    assert predicted.columns.tolist() == ["tpsa", "logp"]
    assert predicted.isna().all(axis=1).tolist() == [False, True, False]
    with torch.inference_mode():
        expected = model.network.head(torch.from_numpy(model.encode([smiles[1]])[0]))
    np.testing.assert_allclose(predicted.iloc[2], expected[0], rtol=1e-4)
    options = {"max_tokens": 9, "max_tries": 1}
    assert model.sample(30, target_properties={"logp": 40.0}, **options) != model.sample(30, **options)
    with pytest.raises(MolvaeError, match="predicts no properties"):
        molvae.load(train("without", tokens=featurised(train=22, valid=6))).predict_properties(smiles)


def test_a_property_with_one_value_for_all_training_molecules_is_refused(train, featurised):
    tokens = featurised(train=22, valid=6, properties=["logp", "charge"])
    with pytest.raises(TrainingError, match=r"do not differ in charge\. Leave it out of featurize\.properties"):
        train("model", tokens=tokens)
