"""The whole workflow on 300 real molecules: what a run leaves, what a change re-runs, what an error message says."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pandas as pd
import psutil
import pytest
from workspace import (
    BAD_ROWS,
    BIN,
    EXPERIMENT,
    MOLECULES,
    SETTINGS,
    TEST_CONFIG,
    Workspace,
    change_settings,
    copy_molecules,
)

from molvae.runtime.files import compute_sha256

AFTER_SAMPLE = {"sample_shard": 2, "sample": 1, "validate_shard": 2, "validate": 1, "report": 1}
AFTER_PRIOR = {"latent": 1, **AFTER_SAMPLE}
ALL_JOBS = {"fetch": 1, "featurize_shard": 2, "featurize": 1, "train": 1, "prior": 1, **AFTER_PRIOR}
EPOCHS = SETTINGS["train"]["epochs"]


def have_same_bytes(first: Path, second: Path) -> bool:
    return first.read_bytes() == second.read_bytes()


# What a run leaves


def test_a_run_ends_with_a_report_and_prints_where_it_is(finished_run):
    output = (finished_run.folder / "output.txt").read_text()
    assert f"\nReport: results/{EXPERIMENT}/report.html\nMLflow: mlflow ui --backend-store-uri sqlite:///" in output
    page = (finished_run.experiment / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>") and EXPERIMENT in page and len(page) > 100_000
    assert not list(finished_run.experiment.glob("*/shards/*")), "temporary shards are left"


def test_a_run_prints_no_warning_and_no_traceback(finished_run):
    output = (finished_run.folder / "output.txt").read_text().lower()
    assert not [line for line in output.splitlines() if "warning" in line or "traceback" in line or "it/s]" in line]


def test_row_counts_of_each_stage_add_up_and_continue_in_the_next_stage(finished_run):
    (dataset,) = finished_run.folder.glob("results/datasets/*.json")
    stages = [json.loads(dataset.read_text())]
    stages += [finished_run.read_counts(folder) for folder in ("tokens", "model", "samples", "validation")]
    for counts in stages:
        assert counts["rows_in"] == counts["kept"] + sum(counts["rejected"].values()) + counts["duplicates"], counts
    fetch, featurize, train, sample, validate = stages
    assert fetch["kept"] == featurize["rows_in"] == MOLECULES + 5
    assert featurize["kept"] == train["rows_in"] == MOLECULES
    assert sample["kept"] == validate["rows_in"] == SETTINGS["sample"]["n"]


def test_each_input_row_is_kept_or_rejected_exactly_once_with_its_reason(finished_run):
    folder = finished_run.experiment / "tokens"
    kept, rejected = pd.read_parquet(folder / "molecules.parquet"), pd.read_parquet(folder / "rejected.parquet")
    assert sorted([*kept["row"], *rejected["row"]]) == list(range(1, MOLECULES + 6))
    assert dict(zip(rejected["row"], rejected["reason"], strict=True)) == BAD_ROWS
    assert set(kept["split"]) == {"train", "valid", "test"}


def test_samples_are_exactly_as_many_as_requested_each_with_a_row_of_its_own(finished_run):
    samples = pd.read_parquet(finished_run.experiment / "samples/samples.parquet")
    validated = pd.read_parquet(finished_run.experiment / "validation/molecules.parquet")
    assert list(samples["index"]) == list(validated["index"]) == list(range(SETTINGS["sample"]["n"]))
    assert list(samples["smiles"]) == list(validated["smiles"])


def test_a_metric_that_needs_more_samples_is_named_and_not_computed(finished_run):
    content = json.loads((finished_run.experiment / "validation/metrics.json").read_text())
    names = {metric["name"] for metric in content["metrics"]}
    assert "FCD/Test" in content["not_computed"] and "FCD/Test" not in names
    assert names >= {"valid", "Novelty", "token_survival"}


def test_results_have_the_permissions_that_the_umask_gives(finished_run):
    mask = _read_umask()
    paths = [path for folder in ("results", "logs") for path in (finished_run.folder / folder).rglob("*")]
    private = [path for path in paths if (0o777 if path.is_dir() else 0o666) & ~mask & ~path.stat().st_mode]
    assert len(paths) > 50
    assert not private


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# What a change re-runs


def test_a_second_run_has_nothing_to_do(run_copy):
    assert "Nothing to be done" in run_copy.run_snakemake()


@pytest.mark.parametrize(
    ("change", "planned"),
    [
        ({"sample": {"n": 80}}, AFTER_SAMPLE),
        ({"latent": {"n": 9}}, {"latent": 1, "report": 1}),
        # the shards are temporary files, so they are made again with it
        ({"validate": {"reference": "train"}}, {"validate_shard": 2, "validate": 1, "report": 1}),
        ({"prior": {"kind": "flow"}}, {"prior": 1, **AFTER_PRIOR}),
        ({"train": {"epochs": 3}}, {"train": 1, "prior": 1, **AFTER_PRIOR}),
        ({"tracking": {"experiment": "other", "register": "sampler"}}, {}),
    ],
    ids=["sample", "latent", "validate", "prior", "train", "tracking"],
)
def test_a_changed_setting_re_runs_its_stage_and_the_stages_after_it(run_copy, change, planned):
    assert run_copy.plan_jobs(settings=change_settings(**change)) == planned


def test_a_change_of_cores_threads_gpus_or_tracking_server_re_runs_nothing(run_copy):
    machine = ("--cores", "1", "--set-threads", "train=2", "--resources", "gpu=0")
    assert run_copy.plan_jobs(*machine, MLFLOW_TRACKING_URI="http://127.0.0.1:9") == {}


def test_a_change_of_memory_or_wall_time_re_runs_nothing(run_copy):
    resources = ("train:mem_mb=9999", "train:runtime=7", "featurize_shard:mem_mb=9999")
    assert run_copy.plan_jobs("--set-resources", *resources) == {}


def test_every_rule_says_what_memory_and_wall_time_its_jobs_need(checkout):
    texts = [path.read_text() for path in (checkout / "workflow/rules").glob("*.smk")]
    rules = [
        part for text in texts for part in re.split(r"^(?=rule \w+:)", text, flags=re.M) if part.startswith("rule")
    ]
    assert len(rules) == 13
    assert not [rule.splitlines()[0] for rule in rules if not ("mem_mb=" in rule and "runtime=" in rule)]


def test_a_molecule_added_to_the_source_re_runs_everything(run_copy):
    with open(run_copy.folder / "molecules.csv", "a") as file:
        file.write("CCO,train\n")
    assert run_copy.plan_jobs() == ALL_JOBS


def test_an_older_source_file_under_the_same_name_re_runs_everything(run_copy):
    path = run_copy.folder / "molecules.csv"
    older = b"".join(path.read_bytes().splitlines(keepends=True)[:-10])
    path.write_bytes(older)
    os.utime(path, (1e9, 1e9))
    assert run_copy.plan_jobs() == ALL_JOBS


def test_jobs_run_the_package_beside_the_snakefile_and_not_an_installed_copy(new_workspace, tmp_path):
    installed = new_workspace.checkout
    new_workspace.checkout = shutil.copytree(installed, tmp_path / "pulled")
    module = new_workspace.checkout / "molvae" / "data" / "readers.py"
    text = module.read_text()
    assert text.count("return Row(smiles.strip(),") == 1
    module.write_text(text.replace("return Row(smiles.strip(),", "return Row(smiles.strip().lower(),"))
    new_workspace.run_snakemake("--until", "fetch", PYTHONPATH=str(installed))
    (dataset,) = new_workspace.folder.glob("results/datasets/molecules-*.parquet")
    assert pd.read_parquet(dataset)["smiles"][0].islower()


def test_an_edit_of_the_code_re_runs_the_stages_that_use_it_and_an_edit_of_a_comment_none(run_copy, tmp_path):
    run_copy.checkout = shutil.copytree(run_copy.checkout, tmp_path / "edited")
    module = run_copy.checkout / "molvae" / "inference" / "sampling.py"
    text = module.read_text()
    assert text.count("def sample_prior(") == 1
    module.write_text(f"# a comment\n{text}\n\n# another\n")
    assert run_copy.plan_jobs() == {}
    module.write_text(text.replace("def sample_prior(", "ADDED = 1\n\n\ndef sample_prior("))
    assert run_copy.plan_jobs() == AFTER_PRIOR


def test_a_stage_that_failed_on_a_re_run_is_planned_again_despite_the_old_report(run_copy):
    settings = change_settings(featurize={"valid_fraction": 0.0})
    output = run_copy.run_snakemake(settings=settings, ok=False)
    assert "molecules to train on, but none held out. Raise featurize.valid_fraction" in output
    assert (run_copy.experiment / "report.html").exists()
    assert (run_copy.experiment / "tokens/rejected_rows.parquet").exists(), "Snakemake deletes declared outputs only"
    assert {"featurize", "report"} <= set(run_copy.plan_jobs(settings=settings))


# What MLflow holds


def get_runs_by_name(client) -> dict:
    """Get the runs of the project by name; each name must be there once."""
    runs = client.search_runs([client.get_experiment_by_name("molvae").experiment_id])
    runs_by_name = {run.info.run_name: run for run in runs}
    assert len(runs_by_name) == len(runs)
    return runs_by_name


@pytest.fixture
def mlflow_runs(finished_run, monkeypatch):
    """A client of the database that the run made, and its runs by name."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{finished_run.folder}/results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # list_artifacts does not ask the client for it (MLflow 3.17.2)
    client = MlflowClient(uri)
    return client, get_runs_by_name(client)


def test_mlflow_has_one_run_per_experiment_and_under_it_one_per_stage(mlflow_runs):
    _, runs = mlflow_runs
    parent = runs.pop(EXPERIMENT)
    assert set(runs) == {"featurize", "train", "prior", "latent", "sample", "validate", "report"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}


def test_mlflow_has_the_settings_metrics_files_and_data_set_of_each_stage(mlflow_runs, finished_run):
    client, runs = mlflow_runs
    train = {name: str(value) for name, value in SETTINGS["train"].items()}
    assert train.items() <= {name.removeprefix("train."): v for name, v in runs["train"].data.params.items()}.items()
    assert runs["sample"].data.params["n"] == "60" and runs["sample"].data.metrics["kept"] == 60
    assert runs["featurize"].data.metrics["rejected/not_utf8"] == 1
    metrics = json.loads((finished_run.experiment / "validation/metrics.json").read_text())["metrics"]
    values = {metric["name"]: metric["value"] for metric in metrics}
    assert runs["validate"].data.metrics["Novelty"] == values["Novelty"]
    files = {
        "featurize": ("tokens", {"counts.json", "vocabulary.json", "rejected.parquet"}),
        "train": ("model", {"counts.json", "model.json", "history.csv", "dimensions.csv"}),
        "prior": ("model", {"prior.json"}),
        "latent": ("latent", {"diagnostics.json", "projections.parquet"}),
        "sample": ("samples", {"counts.json", "samples.parquet"}),
        "validate": ("validation", {"counts.json", "metrics.json", "molecules.parquet"}),
    }
    for stage, (folder, names) in files.items():
        listed = client.list_artifacts(runs[stage].info.run_id, folder)
        assert names <= {Path(file.path).name for file in listed}, stage
    assert [file.path for file in client.list_artifacts(runs["report"].info.run_id)] == ["report.html"]
    (dataset_input,) = runs["featurize"].inputs.dataset_inputs
    (file,) = finished_run.folder.glob("results/datasets/*.json")
    digest = json.loads(file.read_text())["sha256"][:36]
    assert (dataset_input.dataset.name, dataset_input.dataset.digest) == (file.stem, digest)


def test_mlflow_has_each_training_curve_with_one_point_per_epoch(mlflow_runs, finished_run):
    client, runs = mlflow_runs
    history = pd.read_csv(finished_run.experiment / "model/history.csv")
    assert len(history) == EPOCHS
    for column in ("train_loss_nats", "valid_loss_nats", "valid_kl_nats"):
        points = client.get_metric_history(runs["train"].info.run_id, column)
        curve = sorted((point.step, point.value) for point in points)
        assert curve == list(zip(history["epoch"], history[column], strict=True))


def test_the_model_in_mlflow_gives_the_samples_of_the_model_folder_and_holds_no_pickle(mlflow_runs, finished_run):
    (output,) = mlflow_runs[1]["prior"].outputs.model_outputs
    program = f"""if True:
        import json, mlflow, molvae
        options = {{"n": 60, "seed": 0, "max_tries": 2}}
        of_mlflow = mlflow.pyfunc.load_model("models:/{output.model_id}").predict(options)["smiles"]
        print(json.dumps([list(of_mlflow), molvae.load("results/{EXPERIMENT}/model").sample(**options)]))
    """
    store = {"MLFLOW_TRACKING_URI": "sqlite:///results/mlflow.db", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    printed = finished_run.run_command(sys.executable, "-c", program, **store)
    of_mlflow, of_folder = json.loads(printed.splitlines()[-1])
    samples = pd.read_parquet(finished_run.experiment / "samples/samples.parquet")
    assert of_mlflow == of_folder == samples["smiles"].tolist()
    files = {path.suffix for path in finished_run.folder.glob("results/mlartifacts/**/*") if path.is_file()}
    assert ".safetensors" in files and not files & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}


def test_a_dead_tracking_server_costs_a_warning_and_sync_sends_what_it_missed(run_copy):
    from mlflow import MlflowClient

    (dataset,) = run_copy.folder.glob("results/datasets/*.json")
    shutil.rmtree(run_copy.experiment / "tracking")
    report = run_copy.experiment / "report.html"
    report.unlink()
    folder = f"results/{EXPERIMENT}"
    arguments = ("report", folder, "--dataset", str(dataset), "--out", f"{folder}/report.html")
    dead = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    output = run_copy.run_molvae(*arguments, **dead)
    assert output.count("tracking failed, the stage continues") == 1 and "Traceback" not in output
    assert report.exists()
    assert "1 sent" in run_copy.run_molvae("track", "sync", MLFLOW_TRACKING_URI="other.db")
    runs = get_runs_by_name(MlflowClient(f"sqlite:///{run_copy.folder}/other.db"))
    assert {name: run.info.status for name, run in runs.items()} == {EXPERIMENT: "FINISHED", "report": "FINISHED"}


def test_a_copied_run_writes_its_mlflow_artifacts_into_its_own_folder(run_copy, finished_run, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{run_copy.folder}/results/mlflow.db"
    files = sorted(finished_run.folder.rglob("results/ml*/**/*"))
    (run_copy.experiment / "report.html").unlink()
    run_copy.run_snakemake()
    assert sorted(finished_run.folder.rglob("results/ml*/**/*")) == files
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("molvae").experiment_id])
    names = [run.info.run_name for run in runs]
    assert names.count("report") == 2 and names.count("train") == 1
    for run in runs:
        assert run.info.artifact_uri.startswith(f"file://{run_copy.folder}/results/mlartifacts/molvae/")
        assert client.list_artifacts(run.info.run_id) or run.info.run_name == EXPERIMENT


# Several experiments, several shards


@pytest.fixture(scope="module")
def two_experiments(tmp_path_factory, checkout) -> Workspace:
    """Two experiments in one config, up to their comparison, in three shards where `finished_run` has two."""
    workspace = Workspace(tmp_path_factory.mktemp("two"), checkout)
    copy_molecules(workspace.folder)
    second = {"train": {"epochs": 2}, "sample": {"seed": 7}, "validate": {"reference": "molecules.csv"}}
    settings = SETTINGS | {"experiments": {"first": {}, "second": second}, "tracking": {"enabled": False}}
    target = "results/comparison/comparison.html"
    options = ("--set-scatter", "rows=3", "samples=3", "--set-threads", "train=1", "--", target)
    workspace.run_snakemake(*options, settings=settings)
    return workspace


def test_two_experiments_share_one_data_set_and_differ_where_the_config_says(two_experiments):
    results = two_experiments.folder / "results"
    assert len(list(results.glob("datasets/*.parquet"))) == 1
    assert len(pd.read_csv(results / "first/model/history.csv")) == EPOCHS
    assert len(pd.read_csv(results / "second/model/history.csv")) == 2
    seeds = [two_experiments.read_counts("samples", name)["seed"] for name in ("first", "second")]
    assert seeds == [0, 7]


def test_the_comparison_compares_with_the_first_experiment_and_a_reference_may_be_a_file(two_experiments):
    results = two_experiments.folder / "results"
    content = json.loads((results / "comparison/comparison.json").read_text())
    assert content["first"] == "first" and list(content["comparisons"]) == ["second"]
    rows = {row["name"]: row for row in content["comparisons"]["second"]}
    assert rows["valid"]["verdict"] == "no difference seen" and rows["valid"]["sides"][0]["n"] == 60
    assert len(list(results.glob("datasets/reference-molecules-*.safetensors"))) == 1
    metrics = json.loads((results / "second/validation/metrics.json").read_text())
    assert "SNN/Test" in metrics["not_computed"]  # of 60 samples


@pytest.mark.parametrize(
    "file",
    [
        "tokens/tokens.safetensors",
        "tokens/vocabulary.json",
        "tokens/molecules.parquet",
        "tokens/rejected.parquet",
        "model/model.safetensors",
        "samples/samples.parquet",
    ],
)
def test_the_number_of_shards_changes_no_byte_of_a_result(finished_run, two_experiments, file):
    assert have_same_bytes(finished_run.experiment / file, two_experiments.folder / "results/first" / file)


def test_disabled_tracking_leaves_no_database_and_no_records(two_experiments):
    assert not list(two_experiments.folder.rglob("mlflow.db")) and not list(two_experiments.folder.rglob("tracking"))


# Fine-tuning


def test_a_changed_base_model_re_runs_its_fine_tuning_whether_it_is_in_results_or_in_the_package(run_copy, tmp_path):
    run_copy.checkout = shutil.copytree(run_copy.checkout, tmp_path / "edited")
    targets = ("--", "results/tuned/model/model.json", "results/packaged/tokens/counts.json")
    tuned = {"finetune": {"model": f"results/{EXPERIMENT}/model/"}, "train": {"epochs": 1}}
    packaged = {"finetune": {"model": "pretrained:moses", "unknown_symbols": "drop"}}

    def change_base(changes: dict) -> dict:
        return SETTINGS | {"experiments": {EXPERIMENT: changes, "tuned": tuned, "packaged": packaged}}

    run_copy.run_snakemake("--set-threads", "train=1", *targets, settings=change_base({}))
    card = json.loads((run_copy.folder / "results/tuned/model/model.json").read_text())
    assert card["provenance"]["base_model"] == f"results/{EXPERIMENT}/model/"
    assert run_copy.read_counts("tokens", "packaged")["base_model"] == "pretrained:moses"
    assert run_copy.plan_jobs(*targets, settings=change_base({})) == {}
    after_training = {"train": 2, "featurize_shard": 2, "featurize": 1}
    assert run_copy.plan_jobs(*targets, settings=change_base({"train": {"epochs": 3}})) == after_training
    with open(run_copy.checkout / "molvae/model_io/pretrained/moses/model.json", "a") as file:
        file.write("\n")
    assert run_copy.plan_jobs(*targets, settings=change_base({})) == {"featurize_shard": 2, "featurize": 1}


# Interruption


class BackgroundCommand:
    """A command of the package that runs in the background, in a process group of its own."""

    def __init__(self, workspace: Workspace, *arguments: str, **environment: str):
        self.log = workspace.folder / "background.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [f"{BIN}/molvae", *arguments],
                cwd=workspace.folder,
                env=workspace.build_environment(**environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, text: str) -> None:
        """Wait until the command has printed `text`."""
        for _ in range(6000):
            if text in self.log.read_text():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        pytest.fail(f"{text!r} was not printed:\n{self.log.read_text()}")

    def end(self, number: int) -> int:
        """Send a signal to the group; returns the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout=60)


TRAIN_SETTINGS = json.dumps({name: SETTINGS[name] for name in ("model", "train")})
TRAIN = ("train", f"results/{EXPERIMENT}/tokens", "--out", "again/model", "--threads", "1", "--gpus", "0")
NO_STORE = {"MLFLOW_TRACKING_URI": "sqlite:////proc/nothing/mlflow.db"}  # so that a record is kept, and no time lost


def read_record(workspace: Workspace, stage: str) -> dict:
    (path,) = workspace.folder.glob(f"again/tracking/{stage}-*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_interrupted_training_resumes_to_the_same_weights_bit_for_bit(run_copy, number):
    arguments = (*TRAIN, "--settings", TRAIN_SETTINGS)
    again = run_copy.folder / "again"
    command = BackgroundCommand(run_copy, *arguments, **(NO_STORE if number == signal.SIGTERM else {}))
    command.wait_for(f"epoch 2/{EPOCHS}")
    code = command.end(number)
    assert not (again / "model/model.safetensors").exists()
    assert len(list((again / "checkpoints").iterdir())) == 1
    if number == signal.SIGTERM:
        assert code == 75 and "the same command resumes from there" in command.log.read_text()
        assert read_record(run_copy, "train")["status"] == "KILLED"
    else:
        assert code == -signal.SIGKILL
    assert "resuming from again/checkpoints" in run_copy.run_molvae(*arguments)
    assert have_same_bytes(again / "model/model.safetensors", run_copy.experiment / "model/model.safetensors")
    assert len(pd.read_csv(again / "model/history.csv")) == EPOCHS
    assert not list((again / "checkpoints").iterdir())


def test_sigterm_ends_a_stage_other_than_training_with_its_record_and_no_partial_files(run_copy):
    (rows,) = run_copy.folder.glob("results/datasets/*.parquet")
    rows.with_suffix(".json").unlink()
    os.mkfifo(rows.with_suffix(".json"))  # whoever reads it waits for ever
    command = BackgroundCommand(run_copy, "featurize", str(rows), "--out", "again/tokens", **NO_STORE)
    command.wait_for("tracking failed")
    time.sleep(0.5)
    assert command.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert read_record(run_copy, "featurize")["status"] == "KILLED"
    assert not (run_copy.folder / "again/tokens").exists()
    assert "Traceback" not in command.log.read_text()


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (change_settings(train={"epoch": 3}), "train.epoch: there is no such setting. Did you mean 'epochs'?"),
        (change_settings(sample={"temperature": -1}), "sample.temperature: "),
        (SETTINGS | {"experiments": {"a.b": {}}}, "experiments.a.b: "),
    ],
    ids=["unknown key", "out of range", "name with a dot"],
)
def test_an_invalid_config_is_refused_by_key_before_anything_starts(new_workspace, settings, message):
    output = new_workspace.run_snakemake(settings=settings, ok=False)
    assert message in output and "Traceback" not in output
    assert not (new_workspace.folder / "results").exists()


def test_a_missing_source_is_named_and_nothing_starts(new_workspace):
    output = new_workspace.run_snakemake(settings=change_settings(data={"source": "nowhere.csv"}), ok=False)
    assert "nowhere.csv" in output and not list(new_workspace.folder.glob("results/datasets/*.parquet"))


def test_a_missing_column_is_named_with_its_file_and_leaves_no_partial_files(new_workspace):
    output = new_workspace.run_snakemake(settings=change_settings(data={"column": "SMILE"}), ok=False)
    assert "molvae: molecules.csv: no column 'SMILE'. Did you mean 'SMILES'?" in output and "Traceback" not in output
    assert not [path for path in new_workspace.folder.glob("results/**/*") if path.is_file()]


# Data and disks of other machines


def test_a_reference_split_that_the_data_lack_stops_a_run_after_fetch_and_the_dry_run_after_it(new_workspace):
    workspace = new_workspace
    lines = (workspace.folder / "molecules.csv").read_bytes().replace(b",test", b",valid")
    (workspace.folder / "molecules.csv").write_bytes(lines)
    for arguments in ((), ("-n",)):
        output = workspace.run_snakemake(*arguments, ok=False)
        assert "validate.reference: there will be no split 'test' (the data name train, valid)" in output
    assert list((workspace.folder / "results/datasets").glob("*.json")) and not workspace.experiment.exists()


def test_a_run_of_some_stages_does_not_announce_a_report(new_workspace):
    output = new_workspace.run_snakemake("--until", "fetch")
    assert "no report yet, which needs all stages" in output and "report.html" not in output


def test_a_data_source_may_be_a_web_address(new_workspace):
    molecules = (new_workspace.folder / "molecules.csv").rename(new_workspace.folder / "web.csv")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=new_workspace.folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = change_settings(data={"source": f"http://127.0.0.1:{server.server_port}/web.csv"})
        new_workspace.run_snakemake("--until", "fetch", settings=settings)
        server.shutdown()
    (dataset,) = new_workspace.folder.glob("results/datasets/*.json")
    counts = json.loads(dataset.read_text())
    assert counts["sha256"] == compute_sha256(molecules) and counts["source"] == settings["data"]["source"]


def test_secrets_of_the_source_and_of_the_tracking_server_are_in_no_file_and_a_renewed_signature_re_runs_nothing(
    new_workspace,
):
    (new_workspace.folder / "molecules.csv").rename(new_workspace.folder / "web.csv")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append((self.path, self.headers.get("Authorization")))
            super().do_GET()

    handler = functools.partial(Handler, directory=new_workspace.folder)
    dead = {
        "MLFLOW_TRACKING_URI": "http://me:hunter2@127.0.0.1:9/?token=hunter3",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://me:hunter4@127.0.0.1:{server.server_port}/web.csv?se=1&sig=hunter5"
        settings = change_settings(data={"source": address})
        output = new_workspace.run_snakemake("--until", "featurize", settings=settings, **dead)
        server.shutdown()
    assert asked == [("/web.csv?se=1&sig=hunter5", "Basic bWU6aHVudGVyNA==")]
    assert "tracking failed, the stage continues" in output and "hunter" not in output
    left = [path for name in ("results", "logs", ".snakemake") for path in new_workspace.folder.glob(f"{name}/**/*")]
    assert len([path for path in left if path.is_file()]) > 10
    assert not [path for path in left if "hunter" in path.name or (path.is_file() and b"hunter" in path.read_bytes())]
    renewed = change_settings(data={"source": address.replace("hunter4", "x").replace("hunter5", "y")})
    assert new_workspace.plan_jobs("--until", "featurize", settings=renewed, **dead) == {}
    other = change_settings(data={"source": f"{address}&version=2"})
    assert "fetch" in new_workspace.plan_jobs("--until", "featurize", settings=other, **dead)


def test_an_mlflow_database_on_a_network_disk_causes_one_warning_at_the_start(new_workspace):
    (new_workspace.folder / "sitecustomize.py").write_text(
        "import psutil, types\n"
        "mount = types.SimpleNamespace(mountpoint='/', fstype='nfs4')\n"
        "psutil.disk_partitions = lambda all: [mount]\n"
    )
    fake_disk = {"PYTHONPATH": f"{new_workspace.folder}:{new_workspace.checkout}"}
    output = new_workspace.run_snakemake("--until", "fetch", **fake_disk)
    assert output.count("is on a network file system (nfs4)") == 1


# What comes with Snakemake


def test_the_workflow_has_no_lint(checkout):
    output = Workspace(checkout, checkout).run_command(sys.executable, "-m", "snakemake", "--lint")
    assert "Congratulations" in output


@pytest.mark.parametrize(
    ("config", "experiment"), [("config/moses.yaml", "moses"), (TEST_CONFIG, EXPERIMENT)], ids=["moses", "test"]
)
def test_a_shipped_config_plans_its_one_experiment(checkout, config, experiment):
    command = (sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", config, "-n")
    output = Workspace(checkout, checkout).run_command(*command)
    n_jobs = 16 if experiment == "moses" else 15  # the MOSES reference has a job of its own
    assert f"total {n_jobs} " in " ".join(output.split())
    assert f"results/{experiment}/report.html" in output and "results/example/" not in output


def test_the_repository_is_usable_as_a_module_of_another_workflow(new_workspace):
    (new_workspace.folder / "Snakefile").write_text(
        "module molvae:\n"
        f"    snakefile: '{new_workspace.checkout}/Snakefile'\n"
        f"    config: {SETTINGS!r}\n\n\n"
        "use rule * from molvae as molvae_*\n"
    )
    command = (sys.executable, "-m", "snakemake", "--cores", "2", "-p")
    target = f"results/{EXPERIMENT}/report.html"
    plan = new_workspace.run_command(*command, "-n", target)
    assert "molvae_featurize_shard" in plan and f"--out results/{EXPERIMENT}/model " in plan
    new_workspace.run_command(*command, "--until", "molvae_fetch", "--", target)
    (dataset,) = new_workspace.folder.glob("results/datasets/molecules-*.json")
    assert json.loads(dataset.read_text())["kept"] == MOLECULES + 5


def test_the_report_of_snakemake_holds_the_report_of_the_experiment(run_copy):
    run_copy.run_snakemake("--report", "report.zip")
    with zipfile.ZipFile(run_copy.folder / "report.zip") as archive:
        pages = [archive.read(name) for name in archive.namelist() if name.endswith("/report.html")]
    assert (run_copy.experiment / "report.html").read_bytes() in pages


# A job that ends at once


def find_job_processes(snakemake: psutil.Popen, command: str) -> list[psutil.Process]:
    """Wait until `molvae COMMAND` runs below Snakemake; returns all processes of the job: shells, molvae, tee."""
    while snakemake.poll() is None:
        processes = snakemake.children(recursive=True)
        with contextlib.suppress(psutil.Error):
            if any(process.cmdline()[1:3] == [f"{BIN}/molvae", command] for process in processes):
                return processes
        time.sleep(0.01)
    return pytest.fail(f"Snakemake ended before `molvae {command}` ran")


def test_sigterm_as_soon_as_a_job_starts_ends_it_at_once(run_copy):
    (run_copy.experiment / "latent/diagnostics.json").unlink()
    command = run_copy.build_snakemake_command(f"results/{EXPERIMENT}/latent/diagnostics.json")
    with psutil.Popen(
        command, env=run_copy.build_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as snakemake:
        for process in find_job_processes(snakemake, "latent"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        assert snakemake.wait(timeout=600) == 1
    log = (run_copy.folder / f"logs/{EXPERIMENT}/latent.log").read_text()
    assert "measuring the latent space" not in log
    assert not (run_copy.experiment / "latent/diagnostics.json").exists()


def test_sigterm_to_all_processes_of_a_training_job_lets_it_save_and_say_so(run_copy):
    shutil.rmtree(run_copy.experiment / "model")
    settings = change_settings(train={"epochs": 500})
    command = run_copy.build_snakemake_command(f"results/{EXPERIMENT}/model/counts.json", settings=settings)
    with psutil.Popen(
        command, env=run_copy.build_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as snakemake:
        processes = find_job_processes(snakemake, "train")
        log = run_copy.folder / f"logs/{EXPERIMENT}/train.log"
        while "epoch 2/" not in log.read_text() and snakemake.poll() is None:
            time.sleep(0.01)
        for process in processes:
            process.terminate()
        assert snakemake.wait(timeout=600) == 1
    assert "the same command resumes from there" in log.read_text()
    assert len(list((run_copy.experiment / "checkpoints").iterdir())) == 1
