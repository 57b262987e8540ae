"""The commands. Each parses, calls the stage of its name, and prints; there is no logic here."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from molvae.cli import latent as latent_commands
from molvae.cli.options import with_settings
from molvae.errors import Interrupted, MolvaeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="SMILES to SELFIES tokens to a VAE to new molecules. Each command is a stage of the workflow.",
)
track_app = typer.Typer(no_args_is_help=True, help="MLflow: bring it what it missed.")
app.add_typer(track_app, name="track")
app.add_typer(latent_commands.app)  # no name: its commands are commands of this one

Out = Annotated[Path, typer.Option("--out", help="where the result goes")]
ShareOption = Annotated[
    str, typer.Option("--share", help="do only this share, e.g. 2-of-4; the result is then a block file")
]
Gather = Annotated[
    bool, typer.Option("--gather", help="the inputs are block files, given in order; make the result of them")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="cores to use")]
Gpus = Annotated[
    int,
    typer.Option("--gpus", min=0, help="GPUs granted: 0 is the CPU; a granted GPU that is not there falls back to it"),
]
CORES = os.cpu_count() or 1


def main() -> None:
    """Entry point: an error a user can mend is one message on stderr and exit code 1, not a traceback."""
    first = os.environ.get("RANK", "0") == "0"  # of the processes of `torchrun`; the others say what is wrong, no more
    level = logging.INFO if first else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    # SIGTERM ends a stage as Ctrl-C does: temporary files go, its record says KILLED. `train` has a handler of its own.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except MolvaeError as err:
        print(f"molvae: {err}", file=sys.stderr)
        # 75 is the shell's word for "try the same again" (EX_TEMPFAIL)
        sys.exit(75 if isinstance(err, Interrupted) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as err:  # no such file, no permission, disk full: the message names the file
        print(f"molvae: {err}", file=sys.stderr)
        sys.exit(1)


@app.command()
@with_settings("data")
def fetch(data: Any, out: Out) -> None:
    """Bring a data set here, check it, and lay it down as one table of raw rows (parquet, books beside it)."""
    from molvae.stages.fetch import fetch

    _say(fetch(data, out))


@app.command()
@with_settings("featurize", "start")
def featurize(
    inputs: Annotated[list[Path], typer.Argument(help="a table that `molvae fetch` wrote, or blocks with --gather")],
    out: Out, featurize: Any, start: Any, share: ShareOption = "", gather: Gather = False, threads: Threads = CORES,
) -> None:  # fmt: skip
    """Standardise SMILES, write them as SELFIES tokens, build the vocabulary, split."""
    import tempfile

    from molvae import tracking
    from molvae.data.sharding import Share
    from molvae.stages import featurize as stage

    _one(inputs, gather)
    if share:
        stage.featurize_block(inputs[0], featurize, out, start=start, share=Share.parse(share), workers=threads)
        return
    params = {**featurize.model_dump(), "start": start.model_dump()}
    with tracking.stage("featurize", experiment_dir=out.parent, params=params) as run:
        with tempfile.TemporaryDirectory() as folder:
            if not gather:
                block = Path(folder) / "block.parquet"
                stage.featurize_block(inputs[0], featurize, block, start=start, workers=threads)
                inputs = [block]
            books = stage.featurize(inputs, featurize, out, start=start)
        dataset = books["dataset"]
        run.dataset(name=dataset["dataset"], digest=dataset["sha256"], source=dataset["source"])
        _close(run, books, out, "vocabulary.json", "rejected.parquet")


@app.command()
@with_settings("model", "train", "start")
def train(
    tokens: Annotated[Path, typer.Argument(help="folder that `molvae featurize` wrote")],
    out: Out, model: Any, train: Any, start: Any,
    checkpoints: Annotated[
        Path | None, typer.Option(help="folder for the resume file [default: OUT/../checkpoints]")
    ] = None,
    runtime: Annotated[
        float | None,
        typer.Option(min=0, help="wall time granted, minutes: training saves and stops before its end, exit code 75"),
    ] = None,
    threads: Threads = CORES, gpus: Gpus = 1,
) -> None:  # fmt: skip
    """Train the VAE. Interrupted, the same command goes on where it was."""
    from molvae import tracking
    from molvae.runtime import devices
    from molvae.stages import train as stage

    device = devices.choose_device(gpus)
    devices.launch(gpus)
    networks = stage.networks(model, start)
    params = {"model": networks.model_dump(), "train": train.model_dump(), "start": start.model_dump()}
    with tracking.stage("train", experiment_dir=out.parent, params=params) as run:
        books = stage.train(
            tokens, model, train, out, checkpoints=checkpoints or out.parent / "checkpoints", threads=threads,
            device=device, runtime=runtime, start=start,
            on_epoch=lambda row: run.log(row, int(row["epoch"])),
        )  # fmt: skip
        if books:  # of several processes the first one has them
            _close(run, books, out, "model.json", "history.csv", "dimensions.csv")


@app.command()
@with_settings("prior")
def prior(
    model: Annotated[Path, typer.Argument(help="folder that `molvae train` wrote; the prior is put into it")],
    prior: Any,
    tokens: Annotated[Path, typer.Option(help="folder that `molvae featurize` wrote")],
    threads: Threads = CORES,
) -> None:
    """Fit the prior that samples come from to the latent points of the training molecules."""
    from molvae import tracking
    from molvae.stages import prior as stage

    with tracking.stage("prior", experiment_dir=model.parent, params=prior.model_dump()) as run:
        run.log(stage.prior(tokens, model, prior, threads=threads))
        run.artifact(model / "prior.json")
        run.model(model)


@app.command()
@with_settings("sample")
def sample(
    sample: Any,
    out: Annotated[str, typer.Option("--out", help="file .csv, .parquet or .smi; - is stdout; a folder with --gather")],
    inputs: Annotated[list[Path] | None, typer.Argument(help="blocks, with --gather")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="model folder, or pretrained:NAME")] = None,
    share: ShareOption = "", gather: Gather = False, threads: Threads = CORES, gpus: Gpus = 1,
) -> None:  # fmt: skip
    """Draw exactly n molecules from the prior; the i-th depends on (seed, i) only."""
    from molvae import tracking
    from molvae.data.sharding import Share
    from molvae.runtime.devices import choose_device
    from molvae.stages import sample as stage

    if gather:
        with tracking.stage("sample", experiment_dir=Path(out).parent, params=sample.model_dump()) as run:
            _close(run, stage.sample(inputs or [], sample, Path(out)), Path(out), "samples.parquet")
        return
    if model is None:
        raise MolvaeError("--model is missing: name the folder that `molvae train` wrote.")
    device = str(choose_device(gpus))
    if share:
        stage.sample_block(model, sample, Path(out), share=Share.parse(share), device=device, threads=threads)
    else:
        stage.sample_file(model, sample, out, device=device, threads=threads)


@app.command()
@with_settings("latent")
def latent(
    model: Annotated[Path, typer.Argument(help="model folder, or pretrained:NAME")],
    molecules: Annotated[
        Path, typer.Argument(help="molecules it was not trained on; of `featurize`'s molecules.parquet those held out")
    ],
    out: Out, latent: Any, threads: Threads = CORES,
) -> None:  # fmt: skip
    """Measure the latent space: used, filled, reconstructing, complete, continuous; with a verdict, and with maps."""
    from molvae import tracking
    from molvae.stages import latent as stage

    with tracking.stage("latent", experiment_dir=out.parent, params=latent.model_dump()) as run:
        card = stage.latent(model, molecules, latent, out, threads=threads)
        run.log(stage.headline(card))
        for name in ("card.json", "maps.parquet"):
            run.artifact(out / name)
    print(f"latent: {card['verdict']}: {card['meaning']}")


@app.command()
@with_settings("validate", "sample")
def validate(
    inputs: Annotated[list[Path], typer.Argument(help="table that `molvae sample` wrote, or blocks with --gather")],
    out: Out, validate: Any, sample: Any,
    tokens: Annotated[Path | None, typer.Option(help="folder that `molvae featurize` wrote")] = None,
    model: Annotated[Path | None, typer.Option(help="model folder")] = None,
    references: Annotated[
        Path | None, typer.Option(help="file of `molvae reference` [default: from the cache]")
    ] = None,
    share: ShareOption = "", gather: Gather = False, threads: Threads = CORES,
) -> None:  # fmt: skip
    """Describe each sample with RDKit and score the set beside its null and its ceiling."""
    import tempfile

    from molvae import tracking
    from molvae.data.sharding import Share
    from molvae.stages import validate as stage

    _one(inputs, gather)
    if share:
        stage.validate_block(inputs[0], out, share=Share.parse(share), workers=threads)
        return
    if tokens is None or model is None:
        raise MolvaeError("--tokens and --model are needed: the training molecules and the model of the samples.")
    with tracking.stage("validate", experiment_dir=out.parent, params=validate.model_dump()) as run:
        with tempfile.TemporaryDirectory() as folder:
            if not gather:
                block = Path(folder) / "block.parquet"
                stage.validate_block(inputs[0], block, workers=threads)
                inputs = [block]
            books = stage.validate(
                inputs,
                tokens,
                model,
                validate,
                out,
                drawn=sample,
                references=references,
                threads=threads,
            )
        run.log(stage.headline(out / "metrics.json"))
        _close(run, books, out, "metrics.json", "molecules.parquet")


@app.command()
def reference(
    source: Annotated[str, typer.Argument(help="'moses', or a file with molecules to compare samples with")],
    out: Out,
    column: Annotated[str | None, typer.Option(help="with the SMILES [default: the one called so]")] = None,
    downloads: Annotated[
        Path | None, typer.Option(help="folder for the MOSES wheel [default: ~/.cache/molvae/downloads]")
    ] = None,
    threads: Threads = CORES,
) -> None:
    """Compute what samples are held against, once: statistics of reference molecules."""
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
    column: Annotated[str | None, typer.Option(help="with the SMILES [default: the one called so]")] = None,
    baselines: Annotated[bool, typer.Option(help="score random tokens and training molecules beside them")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="file .json for all of it")] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="file .csv for every sample to object to, worst first")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the baselines")] = 0,
    threads: Threads = CORES, gpus: Gpus = 1,
) -> None:  # fmt: skip
    """Score anyone's samples: all metrics of MOSES and GuacaMol, with intervals, null and ceiling."""
    from molvae.cli.console import print_metrics
    from molvae.commands.evaluate import evaluate
    from molvae.runtime.devices import choose_device
    from molvae.runtime.files import write_json

    found = evaluate(
        file, reference, train=train, column=column, with_baselines=baselines, ledger=ledger, seed=seed,
        threads=threads, device=str(choose_device(gpus)),
    )  # fmt: skip
    if out:
        write_json(out, found)
    print_metrics(found)
    _say({"stage": "evaluate", **found["books"]})


@app.command()
def compare(
    generators: Annotated[
        list[str],
        typer.Argument(help="metrics.json of each, the first is compared with; name=a.json,b.json for several seeds"),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="folder for comparison.json and comparison.html")] = None,
) -> None:
    """Say of each figure whether other generators differ from the first, with intervals."""
    from molvae import tracking
    from molvae.cli.console import print_comparison
    from molvae.stages import compare as stage

    groups = stage.parse_groups(generators)
    if out is None:
        print_comparison(stage.compare(groups))
        return
    with tracking.stage("compare", experiment_dir=out, params={"generators": ", ".join(groups)}) as run:
        content = stage.compare(groups, out)
        run.log(stage.headline(content))
        for name in ("comparison.json", "comparison.html"):
            run.artifact(out / name)
    print_comparison(content)


@app.command()
def report(
    experiment: Annotated[Path, typer.Argument(help="folder of an experiment, e.g. results/example")],
    dataset: Annotated[Path, typer.Option(help="the .json beside the data set")],
    out: Out,
) -> None:
    """Write the report of an experiment as one self-contained HTML page."""
    from molvae import tracking
    from molvae.stages.report import report

    with tracking.stage("report", experiment_dir=out.parent, params={}) as run:
        report(experiment, dataset, out)
        run.artifact(out)


@track_app.command("sync")
def track_sync(results: Annotated[Path, typer.Argument(help="folder with experiments")] = Path("results")) -> None:
    """Bring MLflow every record it lacks. Doing it again changes nothing."""
    from molvae import tracking

    summary = tracking.sync(results)
    print(summary)
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Versions, devices, and what this machine can run."""
    from molvae.commands.doctor import doctor

    print(doctor())


def _one(inputs: list[Path], gather: bool) -> None:
    """See that blocks only come in numbers."""
    if len(inputs) > 1 and not gather:
        raise MolvaeError(f"{len(inputs)} inputs; give one, or --gather with the block files of one data set.")


def _close(run: Any, books: dict[str, Any], folder: Path, *files: str) -> None:
    """Print a stage's books, and give them and its files to the tracker."""
    from molvae.data.accounting import figures

    run.log(figures(books))
    for name in ("books.json", *files):
        run.artifact(folder / name)
    _say(books)


def _say(books: dict[str, Any]) -> None:
    rejected = ", ".join(f"{reason} {count}" for reason, count in books["rejected"].items()) or "none"
    print(
        f"{books['stage']}: {books['rows_in']} rows in = {books['kept']} kept + "
        f"{sum(books['rejected'].values())} rejected ({rejected}) + {books['duplicates']} duplicates"
    )
