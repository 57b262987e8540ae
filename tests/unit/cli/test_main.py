"""The command line: what the commands write, and one message instead of a traceback."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
from contextlib import contextmanager, nullcontext

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch

from molvae import tracking
from molvae.api import load
from molvae.cli import main
from molvae.config import SampleSettings, TrainSettings
from molvae.model_io.card import FORMAT_VERSION


@pytest.fixture
def molvae(capsys, monkeypatch):
    """A function that runs a command in this process and returns its exit code, stdout and stderr."""
    monkeypatch.setenv("MOLVAE_TRACKING", json.dumps({"enabled": False}))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["molvae", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


def read_smiles(path):
    """The SMILES of a file of samples."""
    if path.suffix == ".smi":
        return path.read_text().split("\n")[:-1]
    table = pd.read_csv(path, keep_default_na=False) if path.suffix == ".csv" else pd.read_parquet(path)
    assert table.columns.tolist() == [
        *("index", "seed", "selfies", "smiles", "log_probability", "tokens", "finished", "round_trip", "tries")
    ]
    return table["smiles"].tolist()


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.smi", "-"])
def test_the_sample_command_writes_exactly_as_many_rows_as_asked_for(molvae, folder, tmp_path, name):
    out = tmp_path / "new" / name if name != "-" else name
    code, printed, _ = molvae("sample", "--model", folder, "-n", 7, "--seed", 3, "--max-tokens", 9, "--out", out)
    expected = load(folder).sample(7, seed=3, max_tokens=9)
    assert code == 0
    assert (printed.split("\n")[:-1] if name == "-" else read_smiles(out)) == expected
    if name != "-":
        assert [path.name for path in out.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["sample", "-n", 0, "--model", "m", "--out", "x.smi"],
            "sample.n: Input should be greater than or equal to 1 (got 0).",
        ),
        (["sample", "--out", "x.smi"], "--model is missing"),
        (["sample", "--model", "nowhere", "--out", "x.smi"], "nowhere/model.json: no such file. A model folder holds"),
        (
            ["sample", "--model", "nowhere", "--out", "x.txt"],
            "--out x.txt: give a name that ends in .csv, .parquet or .smi",
        ),
        (["sample", "--model", "m", "--out", "x.smi", "--settings", "{n: 7}"], "--settings '{n: 7}' is no JSON"),
        (
            ["sample", "--model", "m", "--out", "x.smi", "--settings", "[]"],
            "--settings must be a JSON object with the keys sample",
        ),
        (["sample", "--model", "m", "--out", "x.smi", "--settings", '{"train": {}}'], "with the keys sample, got"),
        (
            ["sample", "--model", "m", "--out", "x.smi", "--settings", '{"sample": {"N": 7}}'],
            "sample.N: there is no such setting",
        ),
        (["sample", "--model", "m", "--out", "x.pq", "--shard", "3-of-2"], "--shard '3-of-2': write it as 1-of-4"),
        (["fetch", "--out", "x.parquet"], "data.source: this setting is required and missing."),
        (["fetch", "--source", "nowhere.csv", "--out", "x.parquet"], "nowhere.csv: no such file. Check the path."),
        (
            ["fetch", "--source", "a.txt", "--sha256", "12", "--out", "x.parquet"],
            "data.sha256: String should match pattern",
        ),
        (
            ["featurize", "nowhere.parquet", "--out", "t", "--shard", "1-of-2"],
            "nowhere.json: no such file. Run the stage",
        ),
        (
            ["featurize", "x.parquet", "--out", "t", "--stereo", "drop"],
            "featurize.stereo: Input should be 'keep' or 'strip'",
        ),
        (["featurize", "a.parquet", "b.parquet", "--out", "t"], "2 inputs; give one, or --merge with the shard files"),
        (["validate", "a.parquet", "b.parquet", "--out", "v", "--shard", "1-of-2"], "2 inputs; give one, or --merge"),
        (["train", "nowhere", "--out", "m"], "nowhere/counts.json: no such file. Run the stage that writes it first."),
        (["train", "nowhere", "--out", "m", "--prior", "half"], "model.prior: Input should be 'normal', 'mixture'"),
        (["prior", "nowhere", "--tokens", "t"], "nowhere/model.json: no such file. A model folder holds"),
        (["prior", "m", "--tokens", "t", "--kind", "best"], "prior.kind: Input should be 'as_trained', 'normal'"),
        (["validate", "nowhere.parquet", "--out", "v"], "--tokens and --model are needed"),
        (["validate", "nowhere.parquet", "--out", "v", "--shard", "1-of-1"], "nowhere.parquet"),
        (["evaluate", "nowhere.smi", "--reference", "nowhere.csv"], "nowhere.smi: no such file. Check the path."),
        (["reference", "nowhere.smi", "--out", "r.safetensors"], "nowhere.smi: no such file. Check the path."),
        (["compare", "nowhere/metrics.json"], "A comparison needs two generators."),
        (["compare", "a.json", "b.json"], "a.json: no such file."),
    ],
)
def test_an_error_that_a_user_can_mend_is_one_line_without_a_traceback(
    molvae, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, printed, error = molvae(*arguments)
    assert code == 1
    assert message in error and error.startswith("molvae: ")
    assert error.count("\n") == 1 and "Traceback" not in error
    assert printed == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "tracking" not in path.parts]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smaple"], "No such command 'smaple'"),
        (["sample", "--out", "x.smi", "--nn", 3], "No such option"),
        (["sample", "--out", "x.smi", "-n", "many"], "Invalid value for '-n'"),
        (["sample"], "Missing option"),
        (["prior", "m"], "Missing option '--tokens'"),
        (["sample", "--out", "x.smi", "--threads", 0], "--threads"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_is_an_error_that_says_why(molvae, arguments, message):
    code, _, error = molvae(*arguments)
    assert code == 2
    assert message in error and "Traceback" not in error


def test_an_option_wins_over_the_settings_json_and_the_json_over_the_defaults(molvae, folder, tmp_path):
    settings = json.dumps({"sample": {"n": 4, "seed": 5, "max_tokens": 9}})
    assert molvae("sample", "--model", folder, "--out", tmp_path / "x.csv", "--settings", settings, "-n", 3)[0] == 0
    table = pd.read_csv(tmp_path / "x.csv")
    assert len(table) == 3 and set(table["seed"]) == {5} and table["tokens"].max() <= 9


def test_options_for_lists_and_mappings_are_given_as_json(molvae, folder, tmp_path, write_dataset, smiles):
    dataset, tokens = write_dataset([(text, "") for text in smiles]), tmp_path / "tokens"
    fractions = ("--valid-fraction", 0.2, "--test-fraction", 0.2, "--threads", 1)
    assert molvae("featurize", dataset, "--out", tokens, "--properties", '["qed", "mw"]', *fractions)[0] == 0
    assert pd.read_parquet(tokens / "molecules.parquet").columns.tolist()[-2:] == ["qed", "mw"]
    sample = ("sample", "--model", folder, "--out", tmp_path / "x.csv")
    for value, message in (
        ("logp=3", "--target-properties 'logp=3' is no JSON"),
        ("[3]", "sample.target_properties: Input should be a valid dictionary (got [3])."),
        ('{"logp": 3}', "this model predicts no properties"),
    ):
        code, _, error = molvae(*sample, "--target-properties", value)
        assert code == 1 and error.startswith(f"molvae: {message}") and error.count("\n") == 1
    help_text = " ".join(molvae("sample", "--help")[1].split())
    assert "--target-properties JSON" in help_text and "[default: {}]" in help_text


def test_the_help_of_a_command_names_every_setting_with_its_meaning_and_default(molvae):
    code, printed, _ = molvae("train", "--help")
    text = " ".join(printed.replace("│", " ").split())
    assert code == 0
    for name, field in TrainSettings.model_fields.items():
        assert "--" + name.replace("_", "-") in text, name
        assert " ".join(field.description.split()[:2]) in text, name
    assert f"[default: {TrainSettings().learning_rate}]" in text
    text = molvae("sample", "--help")[1]
    assert "-n" in text and str(SampleSettings().n) in text


def test_the_commands_of_the_stages_lead_from_a_file_to_metrics(molvae, tmp_path, smiles):
    (tmp_path / "raw.smi").write_text("\n".join([*smiles, "nonsense"]) + "\n")
    run, data = tmp_path / "run", tmp_path / "data.parquet"
    code, printed, _ = molvae("fetch", "--source", tmp_path / "raw.smi", "--out", data)
    assert (code, printed) == (0, "fetch: 33 rows in = 33 kept + 0 rejected (none) + 0 duplicates\n")
    fractions = ("--valid-fraction", 0.3, "--test-fraction", 0.3)
    code, printed, _ = molvae("featurize", data, "--out", run / "tokens", *fractions, "--threads", 1)
    assert (code, printed) == (0, "featurize: 33 rows in = 32 kept + 1 rejected (not_smiles 1) + 0 duplicates\n")
    small = json.dumps({"model": {"decoder_hidden": 8, "encoder_hidden": 8, "latent_dim": 4}, "train": {"epochs": 1}})
    options = ("--settings", small, "--threads", 1, "--gpus", 0)
    assert molvae("train", run / "tokens", "--out", run / "model", *options)[0] == 0
    options = ("--kind", "mixture", "--components", 2, "--draws", 1000, "--steps", 3, "--threads", 1)
    assert molvae("prior", run / "model", "--tokens", run / "tokens", *options)[0] == 0
    assert load(run / "model").card["prior"]["settings"]["components"] == 2
    options = ("--max-tokens", 9, "--threads", 1)
    samples = ("-n", 20, "--out", run / "s.parquet", "--gpus", 0)
    assert molvae("sample", "--model", run / "model", *samples, *options)[0] == 0
    inputs = ("--tokens", run / "tokens", "--model", run / "model", "--reference", "test", "--no-baselines")
    code, printed, _ = molvae("validate", run / "s.parquet", "--out", run / "v", *inputs, *options)
    assert code == 0 and printed.startswith("validate: 20 rows in = ")
    assert json.loads((run / "v" / "metrics.json").read_text())["n_samples"] == 20


def test_the_commands_fine_tune_with_dropped_symbols_and_track_the_actual_sizes_of_the_networks(
    molvae, monkeypatch, tmp_path, smiles, folder, sizes
):
    params_by_stage = {}

    @contextmanager
    def record_params(name, *, params, **_):
        params_by_stage[name] = params
        yield tracking.Run()

    monkeypatch.setattr(tracking, "track_stage", record_params)
    (tmp_path / "raw.smi").write_text("\n".join([*smiles, "CC[Se]C"]) + "\n")
    assert molvae("fetch", "--source", tmp_path / "raw.smi", "--out", tmp_path / "data.parquet")[0] == 0
    options = ("--finetune", folder, "--unknown-symbols", "drop", "--valid-fraction", 0.3, "--threads", 1)
    code, printed, _ = molvae("featurize", tmp_path / "data.parquet", "--out", tmp_path / "tokens", *options)
    assert code == 0 and "32 kept + 1 rejected (unknown_symbol 1)" in printed
    options = ("--finetune", folder, "--epochs", 1, "--decoder-hidden", 5, "--threads", 1, "--gpus", 0)
    assert molvae("train", tmp_path / "tokens", "--out", tmp_path / "model", *options)[0] == 0
    card = load(tmp_path / "model").card
    assert card["settings"]["model"] == params_by_stage["train"]["model"] == sizes.model_dump()
    assert params_by_stage["featurize"]["finetune"] == {"model": str(folder), "unknown_symbols": "drop"}
    assert params_by_stage["train"]["finetune"]["model"] == card["provenance"]["base_model"] == str(folder)


@pytest.mark.parametrize(("text", "number"), [("2.5", 2.5), ("0", 0.0)])
def test_a_setting_that_is_a_number_or_none_is_read_from_the_command_line(molvae, tmp_path, monkeypatch, text, number):
    settings = []
    monkeypatch.setattr("molvae.stages.train.train", lambda tokens, model, train, out, **_: settings.append(train))
    assert molvae("train", tmp_path, "--out", tmp_path / "m", "--target-kl", text)[0] == 0
    assert settings[0].target_kl == number


def test_a_model_is_logged_to_mlflow_by_the_prior_command_and_not_before(molvae, monkeypatch, tmp_path):
    logged, tags = [], {}

    class RecordingRun(tracking.Run):
        def __init__(self, stage):
            self.stage = stage

        def log_artifact(self, path):
            logged.append((self.stage, path.name))

        def log_model(self, folder):
            logged.append((self.stage, folder))

        def set_tag(self, key, value):
            tags[self.stage, key] = value

    def write_card(tokens, model, train, out, **_):
        out.mkdir()
        card = {"format_version": FORMAT_VERSION, "provenance": {"id": "abc"}, "settings": {}}
        (out / "model.json").write_text(json.dumps(card))
        return {"stage": "train", "rows_in": 1, "kept": 1, "rejected": {}, "duplicates": 0}

    monkeypatch.setattr(tracking, "track_stage", lambda name, **_: nullcontext(RecordingRun(name)))
    monkeypatch.setattr("molvae.stages.prior.prior", lambda *_, **__: {"after_nats": 1.0})
    monkeypatch.setattr("molvae.stages.train.train", write_card)
    assert molvae("train", tmp_path, "--out", tmp_path / "m")[0] == 0
    files = ["counts.json", "model.json", "history.csv", "dimensions.csv"]
    assert logged == [("train", name) for name in files] and tags == {("train", "molvae.provenance"): "abc"}
    monkeypatch.setattr("molvae.stages.train.train", lambda *_, **__: {})  # a process that is not the first
    assert molvae("train", tmp_path, "--out", tmp_path / "m")[:2] == (0, "")
    assert len(logged) == 4
    assert molvae("prior", tmp_path / "m", "--tokens", tmp_path)[0] == 0
    assert logged[4:] == [("prior", "prior.json"), ("prior", tmp_path / "m")]


def test_the_doctor_command_names_versions_and_devices(molvae):
    code, printed, _ = molvae("doctor")
    assert code == 0
    for name in ("python", "torch", "rdkit", "selfies", "cores", "memory", "GPU", "commit"):
        assert f"\n{name}" in "\n" + printed, name


def wrap_allocation_error():
    """An error of a library that came from a lack of memory."""
    try:
        np.empty(10**18)
    except MemoryError as err:
        raise ValueError("cannot read") from err


@pytest.mark.parametrize(
    "fail",
    [
        lambda: bytearray(10**18),
        lambda: np.empty(10**18),
        lambda: torch.empty(10**15),
        lambda: pyarrow.allocate_buffer(2**60),
        wrap_allocation_error,
        lambda: raise_error(OSError(errno.ENOMEM, "Cannot allocate memory")),
        lambda: raise_error(ImportError("libtorch_cpu.so: failed to map segment from shared object")),
        lambda: raise_error(RuntimeError("can't start new thread")),
        lambda: raise_error(SystemError("error return without exception set")),
    ],
    ids=["Python", "numpy", "torch", "pyarrow", "cause", "fork", "library", "thread", "interpreter"],
)
def test_a_lack_of_memory_is_one_message_that_says_what_to_do(molvae, monkeypatch, fail):
    monkeypatch.setattr("molvae.commands.doctor.describe_machine", fail)
    code, _, error = molvae("doctor")
    assert code == 1
    assert error.startswith("molvae: out of memory") and "Use fewer --threads or a smaller batch_size" in error
    assert error.count("\n") == 1


def test_too_many_open_files_are_a_message_that_says_what_to_do(molvae, monkeypatch):
    monkeypatch.setattr(
        "molvae.commands.doctor.describe_machine",
        lambda: raise_error(OSError(errno.EMFILE, "Too many open files", "a")),
    )
    code, _, error = molvae("doctor")
    assert code == 1 and "Too many open files: 'a'. Raise the limit on open files (`ulimit -n 1024`)" in error


def test_a_limit_on_open_files_that_no_command_can_work_with_is_refused_at_once(molvae, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda which: (32, 4096))
    code, _, error = molvae("doctor")
    assert code == 1
    assert error == (
        "molvae: 32 files may be open at once, and molvae needs 64. Raise the limit on open files (`ulimit -n 1024`).\n"
    )


def test_an_error_in_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("molvae.commands.doctor.describe_machine", lambda: raise_error(RuntimeError("shape")))
    monkeypatch.setattr(sys, "argv", ["molvae", "doctor"])
    with pytest.raises(RuntimeError, match="shape"):
        main.main()


def raise_error(error):
    """Raise an error, in an expression."""
    raise error


def test_threads_wait_asleep_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setattr(main, "app", lambda: None)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    main.main()
    assert os.environ["OMP_WAIT_POLICY"] == "active" and os.environ["OPENBLAS_NUM_THREADS"] == "1"
