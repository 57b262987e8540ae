"""The whole workflow on 300 real molecules: what a run leaves, what a change re-runs, what an error says."""

from __future__ import annotations

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
import pytest
from workspace import BIN, MOLECULES, SETTINGS, Place, with_changes, write_molecules

from molvae.runtime.files import sha256

AFTER_SAMPLE = {"sample_block": 2, "sample": 1, "validate_block": 2, "validate": 1, "report": 1}
AFTER_PRIOR = {"latent": 1, **AFTER_SAMPLE}
EPOCHS = SETTINGS["train"]["epochs"]


def books(place: Place, stage: str, experiment: str = "example") -> dict:
    """The books of one stage."""
    return json.loads((place.folder / "results" / experiment / stage / "books.json").read_text())


def same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


# What a run leaves


def test_a_run_ends_in_a_report_and_says_where_it_is(finished):
    output = (finished.folder / "output.txt").read_text()
    assert "\nReport: results/example/report.html\nMLflow: mlflow ui --backend-store-uri sqlite:///" in output
    page = (finished.folder / "results/example/report.html").read_text()
    assert page.lower().startswith("<!doctype html>") and "example" in page and len(page) > 100_000
    assert not list(finished.folder.glob("results/example/*/blocks/*")), "temporary blocks are left"


def test_a_run_prints_no_warning_and_no_traceback(finished):
    output = (finished.folder / "output.txt").read_text().lower()
    assert not [line for line in output.splitlines() if "warning" in line or "traceback" in line or "it/s]" in line]


def test_the_books_of_each_stage_close_and_pass_every_row_on(finished):
    (dataset,) = finished.folder.glob("results/datasets/*.json")
    fetch = json.loads(dataset.read_text())
    stages = [fetch] + [books(finished, folder) for folder in ("tokens", "model", "samples", "validation")]
    for one in stages:
        assert one["rows_in"] == one["kept"] + sum(one["rejected"].values()) + one["duplicates"], one["stage"]
    fetch, featurize, train, sample, validate = stages
    assert fetch["kept"] == featurize["rows_in"] == MOLECULES + 5
    assert featurize["kept"] == train["rows_in"] == MOLECULES
    assert sample["kept"] == validate["rows_in"] == SETTINGS["sample"]["n"]


def test_each_input_row_is_kept_or_rejected_exactly_once_and_with_its_reason(finished):
    folder = finished.folder / "results/example/tokens"
    kept, rejected = pd.read_parquet(folder / "molecules.parquet"), pd.read_parquet(folder / "rejected.parquet")
    assert sorted([*kept["row"], *rejected["row"]]) == list(range(1, MOLECULES + 6))
    assert dict(zip(rejected["row"], rejected["reason"], strict=True)) == {
        101: "not_smiles", 102: "empty", 103: "too_long", 104: "not_utf8", 105: "duplicate"
    }  # fmt: skip
    assert set(kept["split"]) == {"train", "valid", "test"}


def test_there_are_exactly_as_many_samples_as_asked_for_each_with_a_row_of_its_own(finished):
    samples = pd.read_parquet(finished.folder / "results/example/samples/samples.parquet")
    validated = pd.read_parquet(finished.folder / "results/example/validation/molecules.parquet")
    assert list(samples["index"]) == list(validated["index"]) == list(range(SETTINGS["sample"]["n"]))
    assert list(samples["smiles"]) == list(validated["smiles"])


def test_a_figure_that_so_few_samples_cannot_give_is_named_and_not_shown(finished):
    content = json.loads((finished.folder / "results/example/validation/metrics.json").read_text())
    assert "FCD/Test" in content["not_computed"] and "FCD/Test" not in {one["name"] for one in content["metrics"]}
    assert {one["name"] for one in content["metrics"]} >= {"valid", "Novelty", "kept_tokens"}


def test_files_of_the_model_can_be_read_by_others_where_the_umask_says_so(finished):
    modes = {path.name: path.stat().st_mode & 0o777 for path in (finished.folder / "results/example/model").iterdir()}
    assert set(modes.values()) == {0o666 & ~_umask()}, modes


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# What a change re-runs


def test_a_second_run_has_nothing_to_do(copy):
    assert "Nothing to be done" in copy.snakemake()


@pytest.mark.parametrize(
    ("change", "planned"),
    [
        ({"sample": {"n": 80}}, AFTER_SAMPLE),
        ({"latent": {"n": 9}}, {"latent": 1, "report": 1}),
        # the blocks are temporary files, so they come with it
        ({"validate": {"reference": "train"}}, {"validate_block": 2, "validate": 1, "report": 1}),
        ({"prior": {"kind": "flow"}}, {"prior": 1, **AFTER_PRIOR}),
        ({"train": {"epochs": 3}}, {"train": 1, "prior": 1, **AFTER_PRIOR}),
        ({"tracking": {"experiment": "other", "register": "sampler"}}, {}),
    ],
    ids=["sample", "latent", "validate", "prior", "train", "tracking"],
)
def test_a_changed_setting_re_runs_its_stage_and_what_follows(copy, change, planned):
    assert copy.plan(settings=with_changes(**change)) == planned


def test_other_cores_threads_and_tracking_server_re_run_nothing(copy):
    machine = ("--cores", "1", "--set-threads", "train=2", "--resources", "gpu=0")
    assert copy.plan(*machine, MLFLOW_TRACKING_URI="http://127.0.0.1:9") == {}


def test_other_memory_and_wall_time_re_run_nothing(copy):
    assert copy.plan("--set-resources", "train:mem_mb=9999", "train:runtime=7", "featurize_block:mem_mb=9999") == {}


def test_every_rule_says_what_memory_and_wall_time_its_jobs_need(checkout):
    texts = [path.read_text() for path in (checkout / "workflow/rules").glob("*.smk")]
    rules = [
        part for text in texts for part in re.split(r"^(?=rule \w+:)", text, flags=re.M) if part.startswith("rule")
    ]
    assert len(rules) == 13
    assert not [rule.splitlines()[0] for rule in rules if not ("mem_mb=" in rule and "runtime=" in rule)]


def test_other_molecules_in_the_same_file_re_run_everything(copy):
    with open(copy.folder / "molecules.csv", "a") as file:
        file.write("CCO,train\n")
    assert copy.plan() == {"fetch": 1, "featurize_block": 2, "featurize": 1, "train": 1, "prior": 1, **AFTER_PRIOR}


def test_another_file_under_the_same_name_re_runs_everything_however_old_it_is(copy):
    path = copy.folder / "molecules.csv"
    older = b"".join(path.read_bytes().splitlines(keepends=True)[:-10])
    path.write_bytes(older)
    os.utime(path, (1e9, 1e9))
    assert copy.plan() == {"fetch": 1, "featurize_block": 2, "featurize": 1, "train": 1, "prior": 1, **AFTER_PRIOR}


def test_the_code_that_runs_is_the_one_beside_the_snakefile(empty, tmp_path):
    installed, empty.checkout = empty.checkout, shutil.copytree(empty.checkout, tmp_path / "pulled")
    module = empty.checkout / "molvae" / "tables.py"
    text = module.read_text()
    assert text.count("return Row(smiles.strip(),") == 1
    module.write_text(text.replace("return Row(smiles.strip(),", "return Row(smiles.strip().lower(),"))
    empty.snakemake("--until", "fetch", PYTHONPATH=str(installed))
    (dataset,) = empty.folder.glob("results/datasets/molecules-*.parquet")
    assert pd.read_parquet(dataset)["smiles"][0].islower()


def test_an_edit_of_the_code_re_runs_the_stages_that_use_it_and_a_comment_none(copy, tmp_path):
    copy.checkout = shutil.copytree(copy.checkout, tmp_path / "edited")
    module = copy.checkout / "molvae" / "sampling.py"
    text = module.read_text()
    module.write_text(f"# a comment\n{text}\n\n# another\n")
    assert copy.plan() == {}
    module.write_text(text.replace("def sample_prior(", "ADDED = 1\n\n\ndef sample_prior("))
    assert copy.plan() == AFTER_PRIOR


def test_a_stage_that_failed_on_a_re_run_is_not_forgotten_for_the_old_report(copy):
    settings = with_changes(validate={"reference": "nowhere"})
    output = copy.snakemake(settings=settings, ok=False)
    assert "molvae: validate.reference: no split 'nowhere'" in output
    assert (copy.folder / "results/example/report.html").exists()
    assert {"validate", "report"} <= set(copy.plan(settings=settings))


# What MLflow holds


def runs_in(client) -> dict:
    """The runs of the project by name, of which each must be there once."""
    runs = client.search_runs([client.get_experiment_by_name("molvae").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(by_name) == len(runs)
    return by_name


@pytest.fixture
def mlflow_runs(finished, monkeypatch):
    """A client of the store that the run made, and its runs by name."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{finished.folder}/results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # list_artifacts asks no client for it (MLflow 3.17.2)
    client = MlflowClient(uri)
    return client, runs_in(client)


def test_mlflow_has_a_run_for_the_experiment_and_under_it_one_a_stage(mlflow_runs):
    _, runs = mlflow_runs
    parent = runs.pop("example")
    assert set(runs) == {"featurize", "train", "prior", "latent", "sample", "validate", "report"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}


def test_mlflow_has_the_settings_figures_files_and_data_of_each_stage(mlflow_runs, finished):
    client, runs = mlflow_runs
    train = {name: str(value) for name, value in SETTINGS["train"].items()}
    assert train.items() <= {name.removeprefix("train."): v for name, v in runs["train"].data.params.items()}.items()
    assert runs["sample"].data.params["n"] == "60" and runs["sample"].data.metrics["kept"] == 60
    assert runs["featurize"].data.metrics["rejected/not_utf8"] == 1
    metrics = json.loads((finished.folder / "results/example/validation/metrics.json").read_text())["metrics"]
    shown = {one["name"]: one["value"] for one in metrics}
    assert runs["validate"].data.metrics["Novelty"] == shown["Novelty"]
    files = {
        "featurize": ("tokens", {"books.json", "vocabulary.json", "rejected.parquet"}),
        "train": ("model", {"books.json", "model.json", "history.csv", "dimensions.csv"}),
        "prior": ("model", {"prior.json"}),
        "latent": ("latent", {"card.json", "maps.parquet"}),
        "sample": ("samples", {"books.json", "samples.parquet"}),
        "validate": ("validation", {"books.json", "metrics.json", "molecules.parquet"}),
    }
    for stage, (folder, names) in files.items():
        listed = client.list_artifacts(runs[stage].info.run_id, folder)
        assert names <= {Path(file.path).name for file in listed}, stage
    assert [file.path for file in client.list_artifacts(runs["report"].info.run_id)] == ["report.html"]
    (used,) = runs["featurize"].inputs.dataset_inputs
    (dataset,) = finished.folder.glob("results/datasets/*.json")
    assert (used.dataset.name, used.dataset.digest) == (
        dataset.stem, json.loads(dataset.read_text())["sha256"][:36]
    )  # fmt: skip


def test_mlflow_has_each_training_curve_with_one_point_an_epoch(mlflow_runs, finished):
    client, runs = mlflow_runs
    history = pd.read_csv(finished.folder / "results/example/model/history.csv")
    assert len(history) == EPOCHS
    for column in ("train_loss_nats", "valid_loss_nats", "valid_kl_nats"):
        points = client.get_metric_history(runs["train"].info.run_id, column)
        curve = sorted((point.step, point.value) for point in points)
        assert curve == list(zip(history["epoch"], history[column], strict=True))


def test_the_model_in_mlflow_samples_as_the_folder_does_and_holds_no_pickle(mlflow_runs, finished):
    (output,) = mlflow_runs[1]["prior"].outputs.model_outputs
    program = f"""if True:
        import json, mlflow, molvae
        asked = {{"n": 60, "seed": 0, "attempts": 2}}
        of_mlflow = mlflow.pyfunc.load_model("models:/{output.model_id}").predict(asked)["smiles"]
        print(json.dumps([list(of_mlflow), molvae.load("results/example/model").sample(**asked)]))
    """
    store = {"MLFLOW_TRACKING_URI": "sqlite:///results/mlflow.db", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    of_mlflow, of_folder = json.loads(finished.shell(sys.executable, "-c", program, **store).splitlines()[-1])
    samples = pd.read_parquet(finished.folder / "results/example/samples/samples.parquet")
    assert of_mlflow == of_folder == samples["smiles"].tolist()
    files = {path.suffix for path in finished.folder.glob("results/mlartifacts/**/*") if path.is_file()}
    assert ".safetensors" in files and not files & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}


def test_a_dead_server_costs_a_warning_and_sync_brings_what_it_missed(copy):
    from mlflow import MlflowClient

    (dataset,) = copy.folder.glob("results/datasets/*.json")
    shutil.rmtree(copy.folder / "results/example/tracking")
    (copy.folder / "results/example/report.html").unlink()
    arguments = ("report", "results/example", "--dataset", str(dataset), "--out", "results/example/report.html")
    dead = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    output = copy.molvae(*arguments, **dead)
    assert output.count("tracking failed, the stage goes on") == 1 and "Traceback" not in output
    assert (copy.folder / "results/example/report.html").exists()
    assert "1 brought" in copy.molvae("track", "sync", MLFLOW_TRACKING_URI="other.db")
    runs = runs_in(MlflowClient(f"sqlite:///{copy.folder}/other.db"))
    assert {name: run.info.status for name, run in runs.items()} == {"example": "FINISHED", "report": "FINISHED"}


# Several experiments, several shares


@pytest.fixture(scope="module")
def two(tmp_path_factory, checkout) -> Place:
    """Two experiments in one config, up to their comparison, with three shares where `finished` had two."""
    place = Place(tmp_path_factory.mktemp("two"), checkout)
    write_molecules(place.folder / "molecules.csv")
    settings = SETTINGS | {"experiments": {"first": {}, "second": {"train": {"epochs": 2}, "sample": {"seed": 7}}}}
    settings["experiments"]["second"]["validate"] = {"reference": "molecules.csv"}
    target = "results/comparison/comparison.html"
    options = ("--set-scatter", "rows=3", "samples=3", "--set-threads", "train=1", "--", target)
    place.snakemake(*options, settings=settings | {"tracking": {"enabled": False}})
    return place


def test_two_experiments_share_one_data_set_and_differ_where_the_config_says(two):
    assert len(list(two.folder.glob("results/datasets/*.parquet"))) == 1
    assert len(pd.read_csv(two.folder / "results/first/model/history.csv")) == EPOCHS
    assert len(pd.read_csv(two.folder / "results/second/model/history.csv")) == 2
    assert (books(two, "samples", "first")["seed"], books(two, "samples", "second")["seed"]) == (0, 7)


def test_the_experiments_are_compared_with_the_first_and_a_file_may_be_the_reference(two):
    content = json.loads((two.folder / "results/comparison/comparison.json").read_text())
    assert content["first"] == "first" and list(content["comparisons"]) == ["second"]
    rows = {row["name"]: row for row in content["comparisons"]["second"]}
    assert rows["valid"]["verdict"] == "no difference seen" and rows["valid"]["sides"][0]["n"] == 60
    assert len(list(two.folder.glob("results/datasets/reference-molecules-*.safetensors"))) == 1
    figures = json.loads((two.folder / "results/second/validation/metrics.json").read_text())
    assert "SNN/Test" in figures["not_computed"]  # of 60 samples


@pytest.mark.parametrize(
    "file",
    ["tokens/tokens.safetensors", "tokens/vocabulary.json", "tokens/molecules.parquet", "tokens/rejected.parquet",
     "model/model.safetensors", "samples/samples.parquet"],
)  # fmt: skip
def test_the_number_of_shares_changes_no_byte_of_a_result(finished, two, file):
    assert same_bytes(finished.folder / "results/example" / file, two.folder / "results/first" / file)


def test_tracking_that_is_off_leaves_no_trace(two):
    assert not list(two.folder.rglob("mlflow.db")) and not list(two.folder.rglob("tracking"))


# Fine-tuning


def test_an_experiment_follows_the_model_that_it_starts_from_in_results_or_in_the_package(copy, tmp_path):
    copy.checkout = shutil.copytree(copy.checkout, tmp_path / "edited")
    targets = ("--", "results/tuned/model/model.json", "results/packaged/tokens/books.json")
    tuned = {"start": {"model": "results/example/model/"}, "train": {"epochs": 1}}
    packaged = {"start": {"model": "pretrained:moses", "unknown": "drop"}}

    def settings(of_example: dict) -> dict:
        return SETTINGS | {"experiments": {"example": of_example, "tuned": tuned, "packaged": packaged}}

    copy.snakemake("--set-threads", "train=1", *targets, settings=settings({}))
    card = json.loads((copy.folder / "results/tuned/model/model.json").read_text())
    assert card["lineage"]["start"] == "results/example/model/"
    assert books(copy, "tokens", "packaged")["start"] == "pretrained:moses"
    assert copy.plan(*targets, settings=settings({})) == {}
    followed = {"train": 2, "featurize_block": 2, "featurize": 1}
    assert copy.plan(*targets, settings=settings({"train": {"epochs": 3}})) == followed
    with open(copy.checkout / "molvae/pretrained/moses/model.json", "a") as file:
        file.write("\n")
    assert copy.plan(*targets, settings=settings({})) == {"featurize_block": 2, "featurize": 1}


# Interruption


class Stage:
    """A command of the package that runs in the background, in a process group of its own."""

    def __init__(self, place: Place, *arguments: str, **environment: str):
        self.log = place.folder / "background.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [f"{BIN}/molvae", *arguments], cwd=place.folder, env=place.environment(**environment), stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

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


TRAIN = ["train", "results/example/tokens", "--out", "again/model", "--threads", "1", "--gpus", "0", "--settings",
         json.dumps({name: SETTINGS[name] for name in ("model", "train")})]  # fmt: skip
NO_STORE = {"MLFLOW_TRACKING_URI": "sqlite:////proc/nothing/mlflow.db"}  # so that a record is kept, and no time lost


def record(place: Place, stage: str) -> dict:
    (path,) = place.folder.glob(f"again/tracking/{stage}-*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_interrupted_training_goes_on_to_the_same_weights_bit_for_bit(copy, number):
    run = Stage(copy, *TRAIN, **(NO_STORE if number == signal.SIGTERM else {}))
    run.wait_for(f"epoch 2/{EPOCHS}")
    code = run.end(number)
    assert not (copy.folder / "again/model/model.safetensors").exists()
    assert len(list((copy.folder / "again/checkpoints").iterdir())) == 1
    if number == signal.SIGTERM:
        assert code == 75 and "the same command goes on from there" in run.log.read_text()
        assert record(copy, "train")["status"] == "KILLED"
    else:
        assert code == -signal.SIGKILL
    assert "going on from again/checkpoints" in copy.molvae(*TRAIN)
    model = copy.folder / "results/example/model"
    assert same_bytes(copy.folder / "again/model/model.safetensors", model / "model.safetensors")
    assert len(pd.read_csv(copy.folder / "again/model/history.csv")) == EPOCHS
    assert not list((copy.folder / "again/checkpoints").iterdir())


def test_sigterm_ends_any_other_stage_with_its_record_and_nothing_half_written(copy):
    (rows,) = copy.folder.glob("results/datasets/*.parquet")
    rows.with_suffix(".json").unlink()
    os.mkfifo(rows.with_suffix(".json"))  # whoever reads it waits for ever
    run = Stage(copy, "featurize", str(rows), "--out", "again/tokens", **NO_STORE)
    run.wait_for("tracking failed")
    time.sleep(0.5)
    assert run.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert record(copy, "featurize")["status"] == "KILLED" and not (copy.folder / "again/tokens").exists()
    assert "Traceback" not in run.log.read_text()


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (with_changes(train={"epoch": 3}), "train.epoch: there is no such setting. Did you mean 'epochs'?"),
        (with_changes(sample={"temperature": -1}), "sample.temperature: "),
        (SETTINGS | {"experiments": {"a.b": {}}}, "experiments.a.b: "),
    ],
    ids=["unknown key", "out of range", "name with a dot"],
)
def test_a_wrong_config_is_refused_by_key_before_anything_starts(empty, settings, message):
    output = empty.snakemake(settings=settings, ok=False)
    assert message in output and "Traceback" not in output
    assert not (empty.folder / "results").exists()


def test_a_missing_source_is_named_and_nothing_starts(empty):
    output = empty.snakemake(settings=with_changes(data={"source": "nowhere.csv"}), ok=False)
    assert "nowhere.csv" in output and not list(empty.folder.glob("results/datasets/*.parquet"))


def test_a_missing_column_is_named_with_its_file_and_leaves_nothing_half_written(empty):
    output = empty.snakemake(settings=with_changes(data={"column": "SMILE"}), ok=False)
    assert "molvae: molecules.csv: no column 'SMILE'. Did you mean 'SMILES'?" in output and "Traceback" not in output
    assert not [path for path in empty.folder.glob("results/**/*") if path.is_file()]


# Data and disks of other machines


def test_a_data_set_may_be_an_address(empty):
    molecules = (empty.folder / "molecules.csv").rename(empty.folder / "web.csv")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=empty.folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = with_changes(data={"source": f"http://127.0.0.1:{server.server_port}/web.csv"})
        empty.snakemake("--until", "fetch", settings=settings)
        server.shutdown()
    (dataset,) = empty.folder.glob("results/datasets/*.json")
    found = json.loads(dataset.read_text())
    assert found["sha256"] == sha256(molecules) and found["source"] == settings["data"]["source"]


def test_mlflows_database_on_a_network_disk_is_warned_of_at_the_start(empty):
    (empty.folder / "sitecustomize.py").write_text(
        "import psutil, types\n"
        "mount = types.SimpleNamespace(mountpoint='/', fstype='nfs4')\n"
        "psutil.disk_partitions = lambda all: [mount]\n"
    )
    fake = {"PYTHONPATH": f"{empty.folder}:{empty.checkout}"}
    output = empty.snakemake("--until", "fetch", **fake)
    assert output.count("is on a network file system (nfs4)") == 1


# What comes with Snakemake


def test_the_workflow_has_no_lint(checkout):
    output = Place(checkout, checkout).shell(sys.executable, "-m", "snakemake", "--lint")
    assert "Congratulations" in output


def test_the_moses_config_plans_one_experiment(checkout):
    command = (sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "config/moses.yaml", "-n")
    output = Place(checkout, checkout).shell(*command)
    assert "total 16 " in " ".join(output.split())
    assert "results/moses/report.html" in output and "results/example/" not in output


def test_the_report_of_snakemake_holds_the_report_of_the_experiment(copy):
    copy.snakemake("--report", "report.zip")
    with zipfile.ZipFile(copy.folder / "report.zip") as archive:
        pages = [archive.read(name) for name in archive.namelist() if name.endswith("/report.html")]
    assert (copy.folder / "results/example/report.html").read_bytes() in pages
