"""Stage `train`: tokens to a model folder. Interrupted, it goes on where it was when started again."""

from __future__ import annotations

import csv
import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from molvae.books import close_books
from molvae.checkpoints import load_state, save_model, save_state
from molvae.errors import ModelFileError, TrainingError
from molvae.files import fingerprint, read_json, replacing, sha256
from molvae.lineage import code_digest, git_commit, versions
from molvae.tokenstore import read_tokens
from molvae.training import Run
from molvae.vae import untrained
from molvae.vocabulary import Vocabulary

if TYPE_CHECKING:
    from molvae.config import ModelSettings, TrainSettings

log = logging.getLogger(__name__)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def train(
    tokens: Path,
    model_settings: ModelSettings,
    settings: TrainSettings,
    out: Path,
    *,
    checkpoints: Path,
    device: torch.device,
    threads: int,
    earlier: dict[str, Any] | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train a VAE and write model.safetensors, model.json, history.csv and books.json to `out`.

    Args:
        tokens: folder that `featurize` wrote.
        checkpoints: folder for the resume file. It must not be an output of a rule: Snakemake deletes those.
        earlier: settings of the stages before, by stage, kept in the model's card; `encode` standardises by them.
    Raises:
        DataError, TrainingError: nothing to train on; a loss that is not finite.
        Interrupted: a signal came; the state is saved.
    """
    torch.set_num_threads(threads)
    store, vocabulary_file = tokens / "tokens.safetensors", tokens / "vocabulary.json"
    dataset = read_json(tokens / "books.json")["dataset"]
    vocabulary = Vocabulary.from_json(read_json(vocabulary_file), str(vocabulary_file))
    splits = read_tokens(store)
    _check_ids(splits, vocabulary, store)
    run = Run(
        untrained(len(vocabulary), model_settings, settings.seed), splits["train"], splits["valid"], settings, device
    )
    parameters = sum(tensor.numel() for tensor in run.model.parameters())
    log.info("training on %s, %d threads: %d molecules, %d parameters", device, threads, len(run.train), parameters)

    tokens_checksum, code = sha256(store), code_digest("stages.train")
    identity = fingerprint([model_settings.model_dump(), settings.model_dump(), tokens_checksum, code, device.type])
    checkpoint = checkpoints / f"{identity[:16]}.safetensors"
    _resume(run, checkpoint, identity)
    with _stop_requested() as stop:
        stopped = run.fit(
            save=lambda state: save_state(checkpoint, state, identity),
            on_epoch=on_epoch,
            interrupted=lambda: bool(stop),
        )

    history, progress = run.progress.history, run.progress
    card = {
        "settings": {**(earlier or {}), "model": model_settings.model_dump(), "train": settings.model_dump()},
        "versions": versions(),
        "lineage": {
            "id": fingerprint([identity, dataset])[:16],
            "dataset": dataset["dataset"],
            "dataset_sha256": dataset["sha256"],
            "tokens_sha256": tokens_checksum,
            "code": code,
            "git_commit": git_commit(),
        },
        "training": {
            "epochs_run": len(history),
            "best_epoch": progress.best_epoch,
            "stopped": stopped,
            "seconds": progress.seconds,
            "device": device.type,
            "threads": threads,
            "parameters": parameters,
            "molecules": len(run.train),
        },
        "metrics": history[progress.best_epoch - 1],
    }
    _write_history(out / "history.csv", history)
    save_model(out, run.model, vocabulary, card)
    books = close_books(
        out / "books.json", "train", rows_in=sum(map(len, splits.values())), kept=len(run.train) + len(run.valid),
        rejected={f"held_out_{name}": len(part) for name, part in splits.items() if name not in ("train", "valid")},
        trained_on=len(run.train), held_out=len(run.valid),
    )  # fmt: skip
    checkpoint.unlink(missing_ok=True)
    return books


def choose_device(gpus: int) -> torch.device:
    """The device for a job that was granted so many GPUs: the first one it can see, or the CPU."""
    if gpus and torch.cuda.is_available():
        return torch.device("cuda")
    if gpus and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


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
        checkpoint.replace(aside)
        log.warning("%s cannot be used (%s); it is now %s, and training starts anew.", checkpoint, err, aside.name)


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """A list that is empty until one of the stop signals comes; a second signal ends the process as it would."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    finite = all(math.isfinite(value) for row in history for value in row.values())
    if not finite:
        raise TrainingError(f"{path}: the history holds values that are not finite. Lower train.learning_rate.")
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
