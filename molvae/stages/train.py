"""Stage `train`: tokens to a model folder. Interrupted, it goes on where it was when started again.

With `start.model` the networks begin with the weights of a trained model (fine-tuning). Their sizes are then its own,
not those of the section `model`; so is the prior in the ELBO. A prior that stage `prior` fitted to that model is left
behind: it describes where its latent points lay, and training moves them.
"""

from __future__ import annotations

import csv
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from molvae.data.accounting import close_books
from molvae.data.token_store import read_properties, read_tokens, read_variants
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ModelFileError, TrainingError
from molvae.model_io.card import WEIGHTS
from molvae.model_io.folder import load_state, load_trained, networks_of, save_model, save_state
from molvae.model_io.pretrained import folder_of
from molvae.nn.priors import Vamp
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import VAE, extended, untrained
from molvae.runtime.files import fingerprint, read_json, replacing, sha256
from molvae.runtime.provenance import code_digest, git_commit, versions
from molvae.training.distributed import joined
from molvae.training.memory import LOWER_MEMORY, check_memory
from molvae.training.trainer import Run, State, evaluate, is_collapsed

if TYPE_CHECKING:
    from molvae.config import ModelSettings, StartSettings, TrainSettings
    from molvae.data.dataset import TokenSet

log = logging.getLogger(__name__)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
RESERVE = 0.2  # of the granted wall time, at most RESERVE_SECONDS: start-up of the job, a last evaluation, saving
RESERVE_SECONDS = 300.0


def train(
    tokens: Path,
    model_settings: ModelSettings,
    settings: TrainSettings,
    out: Path,
    *,
    checkpoints: Path,
    device: torch.device,
    threads: int,
    runtime: float | None = None,
    start: StartSettings | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train a VAE and write model.safetensors, model.json, history.csv, dimensions.csv and books.json to `out`.

    Started by `torchrun`, its processes share each batch; the first of them writes.

    Args:
        tokens: folder that `featurize` wrote.
        checkpoints: folder for the resume file. It must not be an output of a rule: Snakemake deletes those.
        runtime: wall time granted, minutes; training stops itself before it is over.
        start: the trained model to begin with, whose networks then take the place of `model_settings`; none if its
            `model` is None.
    Raises:
        DataError, TrainingError: nothing to train on; a loss that is not finite; properties that are not those of the
            model to begin with, or in which the molecules do not differ.
        ModelFileError: tokens and vocabulary are not of one run, or not of the model to begin with.
        Interrupted: a signal came, or the time is over; the state is saved.
    """
    ends = math.inf if runtime is None else time.monotonic() + _usable_seconds(runtime)
    with joined(device) as group:
        torch.set_num_threads(threads)
        store, vocabulary_file = tokens / "tokens.safetensors", tokens / "vocabulary.json"
        about = read_json(tokens / "books.json")
        dataset = about["dataset"]
        vocabulary = Vocabulary.from_json(read_json(vocabulary_file), str(vocabulary_file))
        splits = read_tokens(store)
        _check_ids(splits, vocabulary, store)
        molecules = -(-settings.batch_size // group.size)  # of a step, in this process
        model_settings = networks(model_settings, start)
        check_memory(model_settings, molecules, len(vocabulary), int(splits["train"].lengths.max()) + 1, device)
        origin = folder_of(start.model) if start and start.model else None
        if origin:
            model = _started(start.model, model_settings, vocabulary, vocabulary_file)
        else:
            model = untrained(len(vocabulary), model_settings, settings.seed)
            if isinstance(model.prior, Vamp):
                model.prior.initialise(torch.empty(0), splits["train"], settings.seed)
        _give_head(model, read_properties(store), splits["train"], store)
        variants = _variants(store, settings)
        run = Run(model, splits["train"], splits["valid"], settings, device, variants=variants, group=group)
        parameters = sum(tensor.numel() for tensor in run.model.parameters())
        if settings.precision == "bfloat16" and device.type == "cpu":
            log.warning("train.precision: bfloat16 is for GPUs; the CPU computes in float32")
        log.info(
            "training on %s (process %d of %d, %d threads): %d molecules, %d parameters",
            device, group.rank + 1, group.size, threads, len(run.train), parameters,
        )  # fmt: skip

        tokens_checksum, code = sha256(store), code_digest("stages.train")
        start_checksum = sha256(origin / WEIGHTS) if origin else None
        identity = fingerprint(
            [model_settings.model_dump(), settings.model_dump(), tokens_checksum, start_checksum, code, device.type]
        )
        first = group.rank == 0
        before = None
        if origin and first:
            before, _ = evaluate(run.model, run.valid, settings, device)
            log.info("before training: held-out %.2f nats", before["valid_loss_nats"])
        checkpoint = checkpoints / f"{identity[:16]}.safetensors"
        _resume(run, checkpoint, identity)
        if run.progress.step != (step := group.of_first(run.progress.step)):
            raise TrainingError(
                f"process {group.rank + 1} would start at step {run.progress.step}, the first one at {step}: "
                f"{checkpoints} must be a folder that all processes see."
            )
        with _stop_requested() as stop, _memory_explained():

            def interrupted() -> bool:
                return bool(stop) or time.monotonic() > ends

            def saved(state: State) -> None:
                try:
                    save_state(checkpoint, state, identity)
                except OSError as err:
                    if interrupted():
                        raise
                    log.warning("%s cannot be written (%s); training goes on without it", checkpoint, err)

            stopped = run.fit(
                save=saved if first else lambda state: None,
                on_epoch=on_epoch if first else lambda row: None,
                interrupted=interrupted,
            )

        history, progress = run.progress.history, run.progress
        card = {
            "settings": {
                "featurize": about.get("settings", {}),  # by which `encode` standardises
                **({"start": start.model_dump()} if origin else {}),
                "model": model_settings.model_dump(),
                "train": settings.model_dump(),
            },
            "versions": versions(),
            "lineage": {
                "id": fingerprint([identity, dataset])[:16],
                "dataset": dataset["dataset"],
                "dataset_sha256": dataset["sha256"],
                "tokens_sha256": tokens_checksum,
                "code": code,
                "git_commit": git_commit(),
                **({"start": start.model, "start_sha256": start_checksum} if origin else {}),
            },
            "training": {
                "epochs_run": len(history),
                "best_epoch": progress.best_epoch,
                "stopped": stopped,
                "seconds": progress.seconds,
                "device": device.type,
                "threads": threads,
                "processes": group.size,
                "parameters": parameters,
                "molecules": len(run.train),
            },
            "metrics": history[progress.best_epoch - 1],
            "collapsed": is_collapsed(history[progress.best_epoch - 1]),
            **({"metrics_before": before} if before else {}),
        }
        if not first:
            return {}
        if before and before["valid_loss_nats"] <= card["metrics"]["valid_loss_nats"]:
            log.warning(
                "held-out molecules are no likelier than before training: %.2f nats, %.2f before. Lower "
                "train.learning_rate or raise train.dropout.",
                card["metrics"]["valid_loss_nats"], before["valid_loss_nats"],
            )  # fmt: skip
        _write_history(out / "history.csv", history)
        _write_dimensions(out / "dimensions.csv", progress.kl_by_dimension)
        save_model(out, run.model, vocabulary, card)
        books = close_books(
            out / "books.json", "train", rows_in=sum(map(len, splits.values())), kept=len(run.train) + len(run.valid),
            rejected={f"held_out_{name}": len(part) for name, part in splits.items() if name not in ("train", "valid")},
            trained_on=len(run.train), held_out=len(run.valid),
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
        return books


def networks(model_settings: ModelSettings, start: StartSettings | None) -> ModelSettings:
    """The settings of the networks that training builds: those of the model it starts from, else `model_settings`.

    Raises:
        ModelFileError: that model is missing or damaged.
    """
    return networks_of(folder_of(start.model)) if start and start.model else model_settings


def _started(name: str, settings: ModelSettings, vocabulary: Vocabulary, vocabulary_file: Path) -> VAE:
    """The network of a trained model, with rows for the tokens that its vocabulary lacks."""
    network, known, _ = load_trained(folder_of(name))
    rows = vocabulary.ids_of(known, str(vocabulary_file))
    log.info(
        "starting from %s: its weights, its networks (the section `model` does not count) and the prior it was trained "
        "with; %d of %d tokens are new", name, len(vocabulary) - len(known), len(vocabulary),
    )  # fmt: skip
    return extended(network, settings, len(vocabulary), rows)


def _usable_seconds(runtime: float) -> float:
    """How long to train of the minutes that were granted."""
    seconds = 60 * runtime
    usable = seconds - min(RESERVE * seconds, RESERVE_SECONDS)
    log.info("granted %g min: training stops after %.0f s and goes on when it is started again", runtime, usable)
    return usable


def _give_head(model: VAE, properties: list[str], train: TokenSet, store: Path) -> None:
    """A head for the properties of the tokens; that of a model to start from stays, with what it standardises by."""
    if model.head is None and properties:
        model.head = PropertyHead(properties, model.latent_dim)
        model.head.standardise_by(train.values)
    elif model.head is not None and properties != list(model.head.names):
        names = ", ".join(model.head.names)
        raise TrainingError(
            f"{store}: properties {', '.join(properties) or 'none'}, but the model to start from tells {names}. Set "
            f"featurize.properties to [{names}] and featurize again."
        )


def _check_ids(splits: dict[str, Any], vocabulary: Vocabulary, store: Path) -> None:
    highest = max((int(part.ids.max()) for part in splits.values() if len(part.ids)), default=0)
    if highest >= len(vocabulary):
        raise ModelFileError(
            f"{store}: token id {highest}, but vocabulary.json beside it knows {len(vocabulary)} tokens. "
            "The two are not of one run: featurize again."
        )
    for name in ("train", "valid"):
        if not len(splits.get(name, [])):
            raise TrainingError(
                f"{store}: no molecule in the split {name!r}. Featurize with data.split_column or the fractions set."
            )


def _resume(run: Run, checkpoint: Path, identity: str) -> None:
    if not checkpoint.exists():
        if others := [path for path in checkpoint.parent.glob("*.safetensors") if path != checkpoint]:
            log.info(
                "%s holds %d resume files of other settings, data or code, which are of no use to this training",
                checkpoint.parent, len(others),
            )  # fmt: skip
        return
    try:
        run.restore(load_state(checkpoint, identity))
        log.info(
            "going on from %s: epoch %d, step %d of %d",
            checkpoint,
            run.progress.epoch + 1,
            run.progress.step,
            run.steps,
        )
    except (ModelFileError, RuntimeError, KeyError, TypeError) as err:
        aside = checkpoint.with_suffix(".damaged")
        with suppress(FileNotFoundError):  # another process of the group was first
            checkpoint.replace(aside)
        log.warning("%s cannot be used (%s); it is now %s, and training starts anew.", checkpoint, err, aside.name)


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """A list that is empty until one of the stop signals comes; a second Ctrl-C ends the process as it would."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if number == signal.SIGINT:  # SIGTERM comes more than once from SLURM, which is no reason not to save
            signal.signal(number, before[number])

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _variants(store: Path, settings: TrainSettings) -> TokenSet | None:
    """The other spellings of the training molecules, if the encoder is to read them."""
    if not settings.variant_input:
        return None
    variants = read_variants(store)
    if variants is None:
        raise TrainingError(
            f"train.variant_input is {settings.variant_input}, but {store} holds no randomised spellings. "
            "Set featurize.variants to 1 or more and featurize again."
        )
    return variants


@contextmanager
def _memory_explained() -> Iterator[None]:
    """Says of a GPU without memory left what to do."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        raise TrainingError(f"{LOWER_MEMORY} ({str(err).splitlines()[0]})") from None


def _write_dimensions(path: Path, by_epoch: list[list[float]]) -> None:
    """A row for each epoch and latent dimension: its KL to the standard normal on held-out molecules, nats."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "dimension", "kl_nats"])
        writer.writerows([e + 1, d, value] for e, row in enumerate(by_epoch) for d, value in enumerate(row))


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    finite = all(math.isfinite(value) for row in history for value in row.values())
    if not finite:
        raise TrainingError(f"{path}: the history holds values that are not finite. Lower train.learning_rate.")
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
