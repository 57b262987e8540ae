"""The commands. Each parses, calls the stage or command of its name, and prints; there is no logic here."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from molvae.cli.latent import app as latent_app
from molvae.cli.options import add_settings_options
from molvae.cli.shortages import check_file_limit, explain_shortage
from molvae.config import (
    DataSettings,
    FeaturizeSettings,
    FinetuneSettings,
    LatentSettings,
    ModelSettings,
    PriorSettings,
    SampleSettings,
    TrainSettings,
    ValidateSettings,
)
from molvae.errors import Interrupted, MolvaeError
from molvae.runtime.plain_text import format_message

if TYPE_CHECKING:
    from molvae.tracking import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train a VAE on molecules, sample from it, evaluate the samples. A command named as a rule runs that stage.",
)
track_app = typer.Typer(no_args_is_help=True, help="Send records to MLflow that it lacks.")
app.add_typer(track_app, name="track")
app.add_typer(latent_app)  # no name: its commands are commands of this one

Out = Annotated[Path, typer.Option("--out", help="where the result goes")]
ShardOption = Annotated[
    str, typer.Option("--shard", help="do only this shard, e.g. 2-of-4; the result is then a shard file")
]
Merge = Annotated[bool, typer.Option("--merge", help="the inputs are shard files, given in order; merge them")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="cores to use")]
Gpus = Annotated[
    int,
    typer.Option("--gpus", min=0, help="GPUs to use; 0: the CPU, which is also used where there is no GPU"),
]
CORES = os.cpu_count() or 1
# Threads that spin while they wait take the cores from other processes: two of torch on two cores slow each other
# tenfold. Matrices that numpy decomposes here are too small for threads.
THREADING = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}


def main() -> None:
    """Run the command line: an error a user can fix is one message on stderr and exit code 1, not a traceback."""
    for name, value in THREADING.items():  # read when torch and numpy are imported
        os.environ.setdefault(name, value)
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of `torchrun`; the others log errors only
    level = logging.INFO if is_first else logging.ERROR
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler])
    # SIGTERM ends a stage as Ctrl-C does: temporary files go, its record says KILLED. `train` has a handler of its own.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        check_file_limit()
        app()
    except MolvaeError as err:
        print(f"molvae: {format_message(str(err))}", file=sys.stderr)
        # 75 is the shell's word for "try the same again" (EX_TEMPFAIL)
        sys.exit(75 if isinstance(err, Interrupted) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as err:
        message = explain_shortage(err)
        if not message and not isinstance(err, OSError):
            raise
        # of other OSErrors (no such file, no permission, disk full) the message names the file
        print(f"molvae: {format_message(message or str(err))}", file=sys.stderr)
        sys.exit(1)


@app.command()
@add_settings_options("data")
def fetch(data: DataSettings, out: Out) -> None:
    """Bring a data set here, check it, and write it as one table of raw rows (parquet, row counts beside it)."""
    from molvae.stages.fetch import fetch

    _print_counts(fetch(data, out))


@app.command()
@add_settings_options("featurize", "finetune")
def featurize(
    inputs: Annotated[list[Path], typer.Argument(help="a table that `molvae fetch` wrote, or shards with --merge")],
    out: Out,
    featurize: FeaturizeSettings,
    finetune: FinetuneSettings,
    shard: ShardOption = "",
    merge: Merge = False,
    threads: Threads = CORES,
) -> None:
    """Standardise SMILES, convert them to SELFIES tokens, build the vocabulary, split."""
    from molvae.data.sharding import Shard
    from molvae.runtime.workers import Workers
    from molvae.stages import featurize as stage
    from molvae.tracking import track_stage

    _require_one_input(inputs, merge)
    if shard:
        with Workers(threads, isolated=True) as workers:
            rows = Shard.parse(shard)
            stage.featurize_shard(inputs[0], featurize, out, finetune=finetune, shard=rows, workers=workers)
        return
    params = {**featurize.model_dump(), "finetune": finetune.model_dump()}
    with track_stage("featurize", experiment_dir=out.parent, params=params) as run:
        if merge:
            counts = stage.featurize(inputs, featurize, out, finetune=finetune)
        else:
            with Workers(threads, isolated=True) as workers:
                counts = stage.featurize_rows(inputs[0], featurize, out, finetune=finetune, workers=workers)
        dataset = counts["dataset"]
        run.log_dataset(name=dataset["dataset"], digest=dataset["sha256"], source=dataset["source"])
        _report_counts(run, counts, out, "vocabulary.json", "rejected.parquet")


@app.command()
@add_settings_options("model", "train", "finetune")
def train(
    tokens: Annotated[Path, typer.Argument(help="folder that `molvae featurize` wrote")],
    out: Out,
    model: ModelSettings,
    train: TrainSettings,
    finetune: FinetuneSettings,
    checkpoints: Annotated[
        Path | None, typer.Option(help="folder for the resume file [default: OUT/../checkpoints]")
    ] = None,
    runtime: Annotated[
        float | None,
        typer.Option(min=0, help="wall time granted, minutes: training saves and stops before its end, exit code 75"),
    ] = None,
    threads: Threads = CORES,
    gpus: Gpus = 1,
) -> None:
    """Train the VAE. Interrupted, the same command resumes."""
    from molvae.model_io.card import CARD_FILE, read_card
    from molvae.runtime.devices import choose_device, launch_torchrun
    from molvae.stages import train as stage
    from molvae.tracking import track_stage

    device = choose_device(gpus)
    launch_torchrun(gpus)
    model = stage.choose_model_settings(model, finetune)
    params = {"model": model.model_dump(), "train": train.model_dump(), "finetune": finetune.model_dump()}
    with track_stage("train", experiment_dir=out.parent, params=params) as run:
        counts = stage.train(
            tokens, model, train, out, checkpoints=checkpoints or out.parent / "checkpoints", threads=threads,
            device=device, runtime=runtime, finetune=finetune,
            on_epoch=lambda row: run.log_metrics(row, int(row["epoch"])),
        )  # fmt: skip
        if counts:  # of several processes the first one has them
            run.set_tag("molvae.provenance", read_card(out / CARD_FILE)["provenance"]["id"])
            _report_counts(run, counts, out, "model.json", "history.csv", "dimensions.csv")


@app.command()
@add_settings_options("prior")
def prior(
    model: Annotated[Path, typer.Argument(help="folder that `molvae train` wrote; the prior is put into it")],
    prior: PriorSettings,
    tokens: Annotated[Path, typer.Option(help="folder that `molvae featurize` wrote")],
    threads: Threads = CORES,
) -> None:
    """Fit the prior that samples come from to the latent points of the training molecules."""
    from molvae.stages import prior as stage
    from molvae.tracking import track_stage

    with track_stage("prior", experiment_dir=model.parent, params=prior.model_dump()) as run:
        run.log_metrics(stage.prior(tokens, model, prior, threads=threads))
        run.log_artifact(model / "prior.json")
        run.log_model(model)


@app.command()
@add_settings_options("sample")
def sample(
    sample: SampleSettings,
    out: Annotated[str, typer.Option("--out", help="file .csv, .parquet or .smi; - is stdout; a folder with --merge")],
    inputs: Annotated[list[Path] | None, typer.Argument(help="shards, with --merge")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="model folder, or pretrained:NAME")] = None,
    shard: ShardOption = "",
    merge: Merge = False,
    threads: Threads = CORES,
    gpus: Gpus = 1,
) -> None:
    """Sample exactly n molecules from the prior; the i-th depends on (seed, i) only."""
    from molvae.data.sharding import Shard
    from molvae.runtime.devices import choose_device
    from molvae.stages import sample as stage
    from molvae.tracking import track_stage

    if merge:
        with track_stage("sample", experiment_dir=Path(out).parent, params=sample.model_dump()) as run:
            _report_counts(run, stage.sample(inputs or [], sample, Path(out)), Path(out), "samples.parquet")
        return
    if model is None:
        raise MolvaeError("--model is missing: name the folder that `molvae train` wrote.")
    device = str(choose_device(gpus))
    if shard:
        stage.sample_shard(model, sample, Path(out), shard=Shard.parse(shard), device=device, threads=threads)
    else:
        stage.sample_to_file(model, sample, out, device=device, threads=threads)


@app.command()
@add_settings_options("latent")
def latent(
    model: Annotated[Path, typer.Argument(help="model folder, or pretrained:NAME")],
    molecules: Annotated[
        Path, typer.Argument(help="molecules it was not trained on; of `featurize`'s molecules.parquet those held out")
    ],
    out: Out,
    latent: LatentSettings,
    threads: Threads = CORES,
) -> None:
    """Compute latent diagnostics (usage, reconstruction, completeness, continuity), a verdict and 2-D projections."""
    from molvae.stages import latent as stage
    from molvae.tracking import track_stage

    with track_stage("latent", experiment_dir=out.parent, params=latent.model_dump()) as run:
        diagnostics = stage.latent(model, molecules, latent, out, threads=threads)
        run.log_metrics(stage.collect_metrics(diagnostics))
        for name in ("diagnostics.json", "projections.parquet"):
            run.log_artifact(out / name)
    print(f"latent: {diagnostics['verdict']}: {diagnostics['meaning']}")


@app.command()
@add_settings_options("validate", "sample")
def validate(
    inputs: Annotated[list[Path], typer.Argument(help="table that `molvae sample` wrote, or shards with --merge")],
    out: Out,
    validate: ValidateSettings,
    sample: SampleSettings,
    tokens: Annotated[Path | None, typer.Option(help="folder that `molvae featurize` wrote")] = None,
    model: Annotated[Path | None, typer.Option(help="model folder")] = None,
    references: Annotated[
        Path | None, typer.Option(help="file of `molvae reference` [default: from the cache]")
    ] = None,
    shard: ShardOption = "",
    merge: Merge = False,
    threads: Threads = CORES,
) -> None:
    """Describe each sample with RDKit and score the set beside its baselines."""
    from molvae.data.sharding import Shard
    from molvae.runtime.workers import Workers
    from molvae.stages import validate as stage
    from molvae.tracking import track_stage

    _require_one_input(inputs, merge)
    if shard:
        with Workers(threads, isolated=True) as workers:
            stage.validate_shard(inputs[0], out, shard=Shard.parse(shard), workers=workers)
        return
    if tokens is None or model is None:
        raise MolvaeError("--tokens and --model are needed: the training molecules and the model of the samples.")
    with track_stage("validate", experiment_dir=out.parent, params=validate.model_dump()) as run:
        shared: dict[str, Any] = {"sample_settings": sample, "references": references, "threads": threads}
        if merge:
            counts = stage.validate(inputs, tokens, model, validate, out, **shared)
        else:
            counts = stage.validate_samples(inputs[0], tokens, model, validate, out, **shared)
        run.log_metrics(stage.collect_metrics(out / "metrics.json"))
        _report_counts(run, counts, out, "metrics.json", "molecules.parquet")


@app.command()
def reference(
    source: Annotated[str, typer.Argument(help="'moses', or a file with molecules to compare samples with")],
    out: Out,
    column: Annotated[str | None, typer.Option(help="column with the SMILES [default: SMILES or the like]")] = None,
    downloads: Annotated[
        Path | None, typer.Option(help="folder for the MOSES wheel [default: ~/.cache/molvae/downloads]")
    ] = None,
    threads: Threads = CORES,
) -> None:
    """Compute the statistics of reference molecules, once, for samples to be compared with."""
    from molvae.stages.reference import reference

    reference(source, out, column=column, downloads=downloads, workers=threads)


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="anyone's samples: .smi, .csv, .tsv or .parquet, text also .gz")],
    reference: Annotated[str, typer.Option(help="'moses' (test and scaffold test set), or a file")] = "moses",
    train: Annotated[
        str | None,
        typer.Option(help="training molecules: 'moses', a file, or 'none' [default: as --reference if that is moses]"),
    ] = None,
    column: Annotated[str | None, typer.Option(help="column with the SMILES [default: SMILES or the like]")] = None,
    baselines: Annotated[bool, typer.Option(help="score random tokens and training molecules beside them")] = True,
    skeletons: Annotated[
        bool, typer.Option(help="compute Novelty_skeleton, too: 0.3 ms for each training molecule, once")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="file .json for all of it")] = None,
    flagged: Annotated[
        Path | None, typer.Option(help="file .csv for the samples with structural flags or alerts, worst first")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the baselines")] = 0,
    threads: Threads = CORES,
    gpus: Gpus = 1,
) -> None:
    """Score anyone's samples: all metrics of MOSES and GuacaMol, with intervals and baselines."""
    from molvae.cli.console import print_metrics
    from molvae.commands.evaluate import evaluate
    from molvae.runtime.devices import choose_device
    from molvae.runtime.files import write_json

    evaluation = evaluate(
        file, reference, train=train, column=column, with_baselines=baselines, with_skeletons=skeletons,
        flagged=flagged, seed=seed, threads=threads, device=str(choose_device(gpus)),
    )  # fmt: skip
    if out:
        write_json(out, evaluation)
    print_metrics(evaluation)
    _print_counts({"stage": "evaluate", **evaluation["counts"]})


@app.command()
def compare(
    generators: Annotated[
        list[str],
        typer.Argument(help="metrics.json of each, compared with the first; name=a.json,b.json for several seeds"),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="folder for comparison.json and comparison.html")] = None,
) -> None:
    """Compare generators with the first, metric by metric, with intervals of the differences."""
    from molvae.cli.console import print_comparison
    from molvae.stages import compare as stage
    from molvae.tracking import track_stage

    groups = stage.parse_groups(generators)
    if out is None:
        print_comparison(stage.compare(groups))
        return
    with track_stage("compare", experiment_dir=out, params={"generators": ", ".join(groups)}) as run:
        content = stage.compare(groups, out)
        run.log_metrics(stage.collect_metrics(content))
        for name in ("comparison.json", "comparison.html"):
            run.log_artifact(out / name)
    print_comparison(content)


@app.command()
def report(
    experiment: Annotated[Path, typer.Argument(help="folder of an experiment, e.g. results/example")],
    dataset: Annotated[Path, typer.Option(help="the .json beside the data set")],
    out: Out,
) -> None:
    """Write the report of an experiment as one self-contained HTML page."""
    from molvae.stages.report import report
    from molvae.tracking import track_stage

    with track_stage("report", experiment_dir=out.parent, params={}) as run:
        report(experiment, dataset, out)
        run.log_artifact(out)


@track_app.command("sync")
def track_sync(results: Annotated[Path, typer.Argument(help="folder with experiments")] = Path("results")) -> None:
    """Log to MLflow every record that it lacks. Doing it again changes nothing."""
    from molvae.tracking import sync_records

    summary = sync_records(results)
    print(summary)
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Print versions, devices, and what this machine can run."""
    from molvae.commands.doctor import describe_machine

    print(describe_machine())


class _LineFormatter(logging.Formatter):
    """Formats a log line without secrets and control characters, which names from files may hold."""

    def format(self, record: logging.LogRecord) -> str:
        return format_message(super().format(record))


def _require_one_input(inputs: list[Path], merge: bool) -> None:
    """Only shards come in numbers."""
    if len(inputs) > 1 and not merge:
        raise MolvaeError(f"{len(inputs)} inputs; give one, or --merge with the shard files of one data set.")


def _report_counts(run: Run, counts: dict[str, Any], folder: Path, *files: str) -> None:
    """Print a stage's row counts, and give them and its files to the tracker."""
    from molvae.data.accounting import COUNTS_FILE, flatten_counts

    run.log_metrics(flatten_counts(counts))
    for name in (COUNTS_FILE, *files):
        run.log_artifact(folder / name)
    _print_counts(counts)


def _print_counts(counts: dict[str, Any]) -> None:
    rejected = ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items()) or "none"
    print(
        f"{counts['stage']}: {counts['rows_in']} rows in = {counts['kept']} kept + "
        f"{sum(counts['rejected'].values())} rejected ({rejected}) + {counts['duplicates']} duplicates"
    )
