"""Stage `train`: tokens to a model folder. Interrupted, it resumes when started again.

With `finetune.model` the networks begin with the weights of a trained model. Their sizes are then its own, not those of
the section `model`; so is the prior in the ELBO. A prior that stage `prior` fitted to that model is not taken over: it
describes where its latent points lay, and training moves them.
"""

from __future__ import annotations

import csv
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from molvae.data.accounting import COUNTS_FILE, write_counts
from molvae.data.token_store import TOKENS_FILE, VOCABULARY_FILE, TokenStore
from molvae.data.vocabulary import Vocabulary
from molvae.errors import ModelFileError, TrainingError
from molvae.inference.posterior_diagnostics import is_collapsed
from molvae.model_io.card import WEIGHTS_FILE, ModelCard
from molvae.model_io.folder import load_model_as_trained, read_model_settings, save_model
from molvae.model_io.pretrained import resolve_model_folder
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import VAE, init_vae, resize_token_embeddings
from molvae.runtime.files import atomic_write, compute_json_hash, compute_sha256, read_json
from molvae.runtime.provenance import compute_code_digest, get_git_commit, get_versions
from molvae.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from molvae.training.distributed import ProcessGroup, join_process_group
from molvae.training.evaluation import evaluate_held_out
from molvae.training.memory import OUT_OF_MEMORY_ADVICE, check_memory
from molvae.training.trainer import Trainer

if TYPE_CHECKING:
    from molvae.config import FinetuneSettings, ModelSettings, TrainSettings
    from molvae.data.dataset import TokenSet

log = logging.getLogger(__name__)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
RESERVED_FRACTION = 0.2  # of the granted wall time, at most RESERVED_SECONDS: start-up, a last evaluation, saving
RESERVED_SECONDS = 300.0


class _Inputs(NamedTuple):
    """What a token folder holds, and the settings a run has.

    Attributes:
        file: the token store.
        store: its content.
        vocabulary: of its tokens.
        counts: those of `featurize`.
        model_settings: sizes of the networks; of a fine-tuned model its own.
        settings: of the training.
        base_model: name or folder of the model to fine-tune.
    """

    file: Path
    store: TokenStore
    vocabulary: Vocabulary
    counts: dict[str, Any]
    model_settings: ModelSettings
    settings: TrainSettings
    base_model: str | None


class _RunIdentity(NamedTuple):
    """Digests of what a run follows from; `run_id` is that of all of it."""

    run_id: str
    tokens_sha256: str
    base_model_sha256: str | None
    code: str


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
    finetune: FinetuneSettings | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train a VAE and write model.safetensors, model.json, history.csv, dimensions.csv and counts.json to `out`.

    Started by `torchrun`, its processes share each batch; the first of them writes.

    Args:
        tokens: folder that `featurize` wrote.
        model_settings: sizes of the networks, and the prior.
        settings: of the training.
        out: folder to write.
        checkpoints: folder for the resume file. It must not be an output of a rule: Snakemake deletes those.
        device: to train on.
        threads: of the CPU.
        runtime: wall time granted, minutes; training stops itself before it is over.
        finetune: the trained model to continue from, whose networks then take the place of `model_settings`; none if
            its `model` is None.
        on_epoch: is given each epoch's row of the history.

    Returns:
        the counts; of several processes only the first has them, the others {}.

    Raises:
        DataError, TrainingError: nothing to train on; a loss that is not finite; properties that are not those of the
            model to fine-tune, or in which the molecules do not differ.
        ModelFileError: tokens and vocabulary are not of one run, or not of the model to fine-tune.
        Interrupted: a signal came, or the time is over; the state is saved.
    """
    ends = math.inf if runtime is None else time.monotonic() + _compute_usable_seconds(runtime)
    with join_process_group(device) as group:
        torch.set_num_threads(threads)
        inputs = _read_inputs(tokens, model_settings, settings, finetune)
        trainer = _build_trainer(inputs, device, group)
        log.info(
            "training on %s (process %d of %d, %d threads): %d molecules, %d parameters",
            device, group.rank + 1, group.size, threads, len(trainer.train), _count_parameters(trainer.model),
        )  # fmt: skip
        identity = _identify_run(inputs, device)
        is_first = group.rank == 0
        before = _evaluate_before(trainer) if inputs.base_model and is_first else None
        checkpoint = checkpoints / f"{identity.run_id[:16]}.safetensors"
        _resume(trainer, checkpoint, identity.run_id)
        with _catch_stop_signals() as signals, _explain_out_of_memory():

            def should_stop() -> bool:
                return bool(signals) or time.monotonic() > ends

            save = _make_saver(checkpoint, identity.run_id, should_stop)
            stopped = trainer.fit(
                save=save if is_first else lambda state: None,
                on_epoch=on_epoch if is_first else lambda row: None,
                should_stop=should_stop,
            )
        if not is_first:
            return {}
        card = _make_card(inputs, trainer, identity, finetune, stopped, threads, before)
        if before:
            _warn_if_no_better(before, card["metrics"])
        counts = _write_model(out, inputs, trainer, card)
        checkpoint.unlink(missing_ok=True)
        return counts


def choose_model_settings(model_settings: ModelSettings, finetune: FinetuneSettings | None) -> ModelSettings:
    """Choose the settings of the networks: those of the model to fine-tune, else `model_settings`.

    Raises:
        ModelFileError: that model is missing or damaged.
    """
    if finetune and finetune.model:
        return read_model_settings(resolve_model_folder(finetune.model))
    return model_settings


def _read_inputs(
    tokens: Path, model_settings: ModelSettings, settings: TrainSettings, finetune: FinetuneSettings | None
) -> _Inputs:
    counts = read_json(tokens / COUNTS_FILE)
    vocabulary_file = tokens / VOCABULARY_FILE
    vocabulary = Vocabulary.from_json(read_json(vocabulary_file), str(vocabulary_file))
    store = TokenStore.open(tokens / TOKENS_FILE)
    _check_ids(store.splits, vocabulary, tokens / TOKENS_FILE)
    model_settings = choose_model_settings(model_settings, finetune)
    base_model = finetune.model if finetune else None
    return _Inputs(tokens / TOKENS_FILE, store, vocabulary, counts, model_settings, settings, base_model)


def _build_trainer(inputs: _Inputs, device: torch.device, group: ProcessGroup) -> Trainer:
    """Build the trainer: the network, new or of the model to fine-tune, with its data."""
    settings, train = inputs.settings, inputs.store.splits["train"]
    molecules_per_step = -(-settings.batch_size // group.size)  # in this process
    max_tokens = int(train.lengths.max()) + 1
    check_memory(inputs.model_settings, molecules_per_step, len(inputs.vocabulary), max_tokens, device)
    if inputs.base_model:
        model = _init_from_model(inputs.base_model, inputs)
    else:
        model = init_vae(len(inputs.vocabulary), inputs.model_settings, settings.seed)
        model.prior.initialise_from_molecules(train, settings.seed)
    _add_property_head(model, inputs)
    augmentations = _choose_augmentations(inputs)
    valid = inputs.store.splits["valid"]
    return Trainer(model, train, valid, settings, device, augmentations=augmentations, group=group)


def _count_parameters(model: VAE) -> int:
    return sum(tensor.numel() for tensor in model.parameters())


def _identify_run(inputs: _Inputs, device: torch.device) -> _RunIdentity:
    tokens_sha256, code = compute_sha256(inputs.file), compute_code_digest("stages.train")
    base_sha256 = None
    if inputs.base_model:
        base_sha256 = compute_sha256(resolve_model_folder(inputs.base_model) / WEIGHTS_FILE)
    settings = [inputs.model_settings.model_dump(), inputs.settings.model_dump()]
    run_id = compute_json_hash([*settings, tokens_sha256, base_sha256, code, device.type])
    return _RunIdentity(run_id, tokens_sha256, base_sha256, code)


def _evaluate_before(trainer: Trainer) -> dict[str, float]:
    """Metrics of held-out molecules before the first step of fine-tuning."""
    metrics = evaluate_held_out(trainer.model, trainer.valid, trainer.settings, trainer.device).metrics
    log.info("before training: held-out %.2f nats", metrics["valid_loss_nats"])
    return metrics


def _make_saver(checkpoint: Path, run_id: str, should_stop: Callable[[], bool]) -> Callable[[CheckpointState], None]:
    """Make a function that saves a checkpoint; a failure is an error only if training is about to stop."""

    def save(state: CheckpointState) -> None:
        try:
            save_checkpoint(checkpoint, state, run_id)
        except OSError as err:
            if should_stop():
                raise
            log.warning("%s cannot be written (%s); training continues without it", checkpoint, err)

    return save


def _make_card(
    inputs: _Inputs,
    trainer: Trainer,
    identity: _RunIdentity,
    finetune: FinetuneSettings | None,
    stopped: str,
    threads: int,
    before: dict[str, float] | None,
) -> ModelCard:
    """Make the model card of a finished run."""
    progress, dataset = trainer.progress, inputs.counts["dataset"]
    best = progress.history[progress.best_epoch - 1]
    settings = {
        "featurize": inputs.counts.get("settings", {}),  # by which `encode` standardises
        **({"finetune": finetune.model_dump()} if finetune and inputs.base_model else {}),
        "model": inputs.model_settings.model_dump(),
        "train": inputs.settings.model_dump(),
    }
    provenance = {
        "id": compute_json_hash([identity.run_id, dataset["dataset"], dataset["sha256"]])[:16],
        "dataset": dataset["dataset"],
        "dataset_sha256": dataset["sha256"],
        "tokens_sha256": identity.tokens_sha256,
        "code": identity.code,
        "git_commit": get_git_commit(),
    }
    if inputs.base_model:
        provenance |= {"base_model": inputs.base_model, "base_model_sha256": identity.base_model_sha256}
    training = {
        "epochs_run": len(progress.history),
        "best_epoch": progress.best_epoch,
        "stopped": stopped,
        "seconds": progress.seconds,
        "device": trainer.device.type,
        "threads": threads,
        "processes": trainer.group.size,
        "parameters": _count_parameters(trainer.model),
        "molecules": len(trainer.train),
    }
    card = ModelCard(
        settings=settings, versions=get_versions(), provenance=provenance, training=training, metrics=best,
        collapsed=is_collapsed(best.get("mutual_information_nats")),
    )  # fmt: skip
    if before:
        card["metrics_before"] = before
    return card


def _warn_if_no_better(before: dict[str, float], after: dict[str, float]) -> None:
    if before["valid_loss_nats"] <= after["valid_loss_nats"]:
        log.warning(
            "held-out molecules are no likelier than before training: %.2f nats, %.2f before. Lower "
            "train.learning_rate or raise train.dropout.", after["valid_loss_nats"], before["valid_loss_nats"],
        )  # fmt: skip


def _write_model(out: Path, inputs: _Inputs, trainer: Trainer, card: ModelCard) -> dict[str, Any]:
    """Write the model folder, with the history and the counts; returns the counts."""
    splits, history = inputs.store.splits, trainer.progress.history
    if not all(math.isfinite(value) for row in history for value in row.values()):
        raise TrainingError(
            f"{out / 'history.csv'}: the history holds values that are not finite. Lower train.learning_rate."
        )
    names = list(history[0])
    _write_csv(out / "history.csv", names, ([row[name] for name in names] for row in history))
    by_epoch = enumerate(trainer.progress.kl_by_dimension, 1)  # KL to the standard normal on held-out molecules, nats
    rows = ([epoch, dimension, kl] for epoch, values in by_epoch for dimension, kl in enumerate(values))
    _write_csv(out / "dimensions.csv", ["epoch", "dimension", "kl_nats"], rows)
    save_model(out, trainer.model, inputs.vocabulary, card)
    held_out = {name: len(part) for name, part in splits.items() if name not in ("train", "valid")}
    return write_counts(
        out / COUNTS_FILE, "train", rows_in=sum(map(len, splits.values())),
        kept=len(trainer.train) + len(trainer.valid),
        rejected={f"held_out_{name}": count for name, count in held_out.items()},
        trained_on=len(trainer.train), held_out=len(trainer.valid),
    )  # fmt: skip


def _init_from_model(name: str, inputs: _Inputs) -> VAE:
    """Load the network of a trained model, with new rows for the tokens that its vocabulary lacks."""
    network, base_vocabulary, _ = load_model_as_trained(resolve_model_folder(name))
    vocabulary = inputs.vocabulary
    rows = vocabulary.map_ids_from(base_vocabulary, str(inputs.file.with_name(VOCABULARY_FILE)))
    log.info(
        "fine-tuning %s: its weights, its networks (the section `model` does not count) and the prior it was trained "
        "with; %d of %d tokens are new", name, len(vocabulary) - len(base_vocabulary), len(vocabulary),
    )  # fmt: skip
    return resize_token_embeddings(network, inputs.model_settings, len(vocabulary), rows)


def _compute_usable_seconds(runtime: float) -> float:
    """How long to train of the minutes that were granted."""
    seconds = 60 * runtime
    usable = seconds - min(RESERVED_FRACTION * seconds, RESERVED_SECONDS)
    log.info("granted %g min: training stops after %.0f s and resumes when it is started again", runtime, usable)
    return usable


def _add_property_head(model: VAE, inputs: _Inputs) -> None:
    """Add a head for the properties of the tokens; that of a model to fine-tune stays, with its scaler."""
    properties, train = inputs.store.properties, inputs.store.splits["train"]
    if model.head is None and properties and train.properties is not None:
        model.head = PropertyHead(properties, model.latent_dim)
        model.head.fit_scaler(train.properties)
    elif model.head is not None and properties != list(model.head.names):
        names = ", ".join(model.head.names)
        raise TrainingError(
            f"{inputs.file}: properties {', '.join(properties) or 'none'}, but the model to fine-tune predicts "
            f"{names}. Set featurize.properties to [{names}] and featurize again."
        )


def _check_ids(splits: dict[str, TokenSet], vocabulary: Vocabulary, file: Path) -> None:
    highest = max((int(part.ids.max()) for part in splits.values() if len(part.ids)), default=0)
    if highest >= len(vocabulary):
        raise ModelFileError(
            f"{file}: token id {highest}, but vocabulary.json beside it knows {len(vocabulary)} tokens. "
            "The two are not of one run: featurize again."
        )
    for name in ("train", "valid"):
        if name not in splits or not len(splits[name]):
            raise TrainingError(
                f"{file}: no molecule in the split {name!r}. Featurize with data.split_column or the fractions set."
            )


def _resume(trainer: Trainer, checkpoint: Path, run_id: str) -> None:
    """Restore the checkpoint of this run, if there is one; all processes must be at one step then."""
    if checkpoint.exists():
        _restore(trainer, checkpoint, run_id)
    elif others := [path for path in checkpoint.parent.glob("*.safetensors") if path != checkpoint]:
        log.info(
            "%s holds %d resume files of other settings, data or code, which are of no use to this training",
            checkpoint.parent, len(others),
        )  # fmt: skip
    group, step = trainer.group, trainer.progress.step
    if step != (first := group.broadcast(step)):
        raise TrainingError(
            f"process {group.rank + 1} would start at step {step}, the first one at {first}: "
            f"{checkpoint.parent} must be a folder that all processes see."
        )


def _restore(trainer: Trainer, checkpoint: Path, run_id: str) -> None:
    try:
        trainer.restore(load_checkpoint(checkpoint, run_id))
    except (ModelFileError, RuntimeError, KeyError, TypeError) as err:
        aside = checkpoint.with_suffix(".damaged")
        with suppress(FileNotFoundError):  # another process of the group was first
            checkpoint.replace(aside)
        log.warning("%s cannot be used (%s); it is now %s, and training starts anew.", checkpoint, err, aside.name)
        return
    progress = trainer.progress
    log.info("resuming from %s: epoch %d, step %d of %d", checkpoint, progress.epoch + 1, progress.step, trainer.steps)


@contextmanager
def _catch_stop_signals() -> Iterator[list[int]]:
    """Provide a list that is empty until a stop signal comes; a second Ctrl-C ends the process as usual."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if number == signal.SIGINT:  # SIGTERM comes more than once from SLURM, which is no reason not to save
            signal.signal(number, before[number])

    before = {int(number): signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _choose_augmentations(inputs: _Inputs) -> TokenSet | None:
    """Get the randomised SMILES of the training molecules, if the encoder is to read them."""
    probability = inputs.settings.augmentation_prob
    if not probability:
        return None
    if inputs.store.augmentations is None:
        raise TrainingError(
            f"train.augmentation_prob is {probability}, but {inputs.file} holds no randomised SMILES. "
            "Set featurize.augmentations to 1 or more and featurize again."
        )
    return inputs.store.augmentations


@contextmanager
def _explain_out_of_memory() -> Iterator[None]:
    """Says what to do about a GPU without memory left."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        raise TrainingError(f"{OUT_OF_MEMORY_ADVICE} ({str(err).splitlines()[0]})") from None


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
