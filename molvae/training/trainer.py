"""The training loop. Every random number is a function of (seed, step), so a run that stops can resume exactly."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from molvae.data.dataset import Batch, TokenSet
from molvae.data.vocabulary import UNK
from molvae.errors import Interrupted, TrainingError
from molvae.inference.posterior_diagnostics import is_collapsed
from molvae.nn.encoder_decoder import Dropout, apply_dropout
from molvae.nn.losses import compute_kl_penalty
from molvae.nn.vae import VAE, LossTerms
from molvae.runtime.seeds import derive_seed
from molvae.training.checkpoint import CheckpointState
from molvae.training.distributed import ProcessGroup
from molvae.training.evaluation import R2_PREFIX, evaluate_held_out
from molvae.training.precision import use_forward_precision, use_precision
from molvae.training.schedules import compute_kl_weight, compute_learning_rate

if TYPE_CHECKING:
    from molvae.config import TrainSettings

log = logging.getLogger(__name__)
SAVE_SECONDS = 60.0  # between checkpoints; a save of the default model takes 20 ms
LOG_SECONDS = 60.0  # between progress lines inside a long epoch
CHECK_STEPS = 50  # between looks at the loss: each look makes a GPU wait
STOP_VOTE_STEPS = 20  # between questions to the other processes whether one was asked to stop


@dataclass
class Progress:
    """Where a run stands, in plain values. `sums` holds the running epoch's totals of the loss terms, in nats."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_objective: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    kl_by_dimension: list[list[float]] = field(default_factory=list)  # (epochs, Z) nats


class Trainer:
    """One training run: a model, its data, and where it stands."""

    def __init__(
        self,
        model: VAE,
        train: TokenSet,
        valid: TokenSet,
        settings: TrainSettings,
        device: torch.device,
        *,
        augmentations: TokenSet | None = None,
        group: ProcessGroup = ProcessGroup(),
    ) -> None:
        """Set a run up, before its first step.

        Args:
            model: the network to train.
            train: molecules to train on.
            valid: held-out molecules, for early stopping.
            settings: of the run.
            device: to train on.
            augmentations: randomised SMILES of the training molecules, equally many of each, in their order.
            group: the processes that share each batch; all must be given the same model, data and settings.
        """
        self.model, self.train, self.valid = model.to(device), train, valid
        self.settings, self.device, self.group = settings, device, group
        is_augmented = augmentations is not None and settings.augmentation_prob
        self.augmented = train.concat(augmentations) if augmentations is not None and is_augmented else None
        self.wrapped = group.wrap(self.model)
        is_fused = device.type == "cpu"  # one pass over the weights: a fifth of the time
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=is_fused)
        self.generator = torch.Generator(device)
        self.progress = Progress()
        self.best = _copy_weights(model)
        self.steps = settings.epochs * math.ceil(len(train) / settings.batch_size)

    def make_checkpoint_state(self) -> CheckpointState:
        """Copy the run as it stands, for a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        return CheckpointState(asdict(self.progress), tensors)

    def restore(self, state: CheckpointState) -> None:
        """Resume a run where a checkpoint left it."""
        self.progress = Progress(**state.progress)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.best = {name: tensor.to(self.device) for name, tensor in parts["best"].items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def fit(
        self,
        *,
        save: Callable[[CheckpointState], None] = lambda state: None,
        on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """Train to the last epoch or until the held-out loss has not fallen for `patience` epochs.

        Args:
            save: is given the state about once a minute, after each epoch and on interruption.
            on_epoch: is given each epoch's row of the history.
            should_stop: is asked after each step; once true the state is saved and Interrupted raised.

        Returns:
            why training ended, "epochs" or "early"; the model then holds the weights of the best epoch.

        Raises:
            TrainingError: a loss that is not finite; what was saved before stays.
            Interrupted: see above.
        """
        while self.progress.epoch < self.settings.epochs and not self._is_out_of_patience():
            self._train_epoch(save, should_stop)
            self._close_epoch(on_epoch)
            save(self.make_checkpoint_state())
        self.model.load_state_dict(self.best)
        return "early" if self._is_out_of_patience() else "epochs"

    def _is_out_of_patience(self) -> bool:
        return self.progress.stale_epochs >= self.settings.patience

    def _train_epoch(self, save: Callable[[CheckpointState], None], should_stop: Callable[[], bool]) -> None:
        """Train on the batches of the running epoch that are still to be done."""
        progress = self.progress
        batches = self.train.shuffle_batches(self.settings.batch_size, self.settings.seed, progress.epoch)
        totals = [progress.sums.get(name, 0.0) for name in LossTerms._fields]
        sums = torch.tensor(totals, dtype=torch.float64).to(self.device)
        counted = saved = logged = time.monotonic()
        for rows in batches[progress.batch :]:
            sums += self.step(rows) * len(rows)
            progress.batch += 1
            progress.step += 1
            now, stop, is_last = time.monotonic(), self._agree_to_stop(should_stop()), progress.batch == len(batches)
            is_save_due = now - saved > SAVE_SECONDS
            if progress.step % CHECK_STEPS == 0 or is_last or stop or is_save_due:
                self._require_finite(sums)
            if is_last or stop or is_save_due:
                progress.sums = dict(zip(LossTerms._fields, sums.tolist(), strict=True))
                progress.seconds += now - counted
                counted = now
            if stop or is_save_due:
                save(self.make_checkpoint_state())
                saved = now
            if stop:
                raise Interrupted(
                    f"stopped at step {progress.step} of {self.steps}; the same command resumes from there."
                )
            if now - logged > LOG_SECONDS:
                percent = 100 * progress.batch / len(batches)
                log.info("epoch %d/%d: %.0f %% of its batches", progress.epoch + 1, self.settings.epochs, percent)
                logged = now

    def _agree_to_stop(self, stop: bool) -> bool:
        """Whether any process was asked to stop; several of them vote now and then, so that all stop at one step."""
        if self.group.size == 1:
            return stop
        return self.progress.step % STOP_VOTE_STEPS == 0 and self.group.is_any(stop)

    def step(self, rows: np.ndarray) -> Tensor:
        """Update the weights with these training molecules; of a group, each process takes its part of them.

        Returns:
            the loss terms, (3,) nats per molecule of all rows, without waiting for a GPU.
        """
        settings, step, group = self.settings, self.progress.step, self.group
        self.model.train()
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = compute_learning_rate(step, self.steps, settings)
        part = np.arange(len(rows))[group.rank :: group.size]
        weight = group.size * len(part) / len(rows)  # gradients are averaged over processes whose parts may differ
        part = part if len(part) else np.arange(1)  # a process without a molecule takes part with weight 0
        batch = self._make_batch(rows, part)
        with use_forward_precision(settings, self.device):
            output = self.wrapped(
                batch, self._draw_noise(len(rows), part), self._make_dropout(), self._mask_decoder_inputs(batch)
            )
        reconstruction, kl, property_nats = terms = group.average(output.terms.stack() * weight)
        loss = reconstruction
        if self.model.variational:
            loss = loss + compute_kl_penalty(kl, compute_kl_weight(step, self.steps, settings), settings)
        if self.model.head is not None:
            loss = loss + settings.property_weight * property_nats
        self.optimizer.zero_grad(set_to_none=True)
        with use_precision(settings, self.device):
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        # 0 times a norm that is not finite is not a number: an update that spoils the weights shows in its own step
        return terms.detach().double() + 0 * norm.detach()

    def _make_batch(self, rows: np.ndarray, part: np.ndarray) -> Batch:
        """Get this process's molecules of a step, some of them as a randomised SMILES for the encoder."""
        batch = self.train.collate(rows[part], self.device)
        if self.augmented is None:
            return batch
        random = np.random.default_rng(derive_seed(self.settings.seed, "spellings", self.progress.step))
        per_molecule = len(self.augmented) // len(self.train) - 1
        chosen = len(self.train) + rows * per_molecule + random.integers(per_molecule, size=len(rows))
        chosen = np.where(random.random(len(rows)) < self.settings.augmentation_prob, chosen, rows)
        return replace(batch, encoder_batch=self.augmented.collate(chosen[part], self.device))

    def _draw_noise(self, molecules: int, part: np.ndarray) -> Tensor:
        """Draw the noise of the whole batch, a function of the step; each process takes its molecules' rows of it."""
        self.generator.manual_seed(derive_seed(self.settings.seed, "noise", self.progress.step))
        noise = torch.randn((molecules, self.model.latent_dim), generator=self.generator, device=self.device)
        if self.group.rank:  # what is drawn from here on differs from process to process
            self.generator.manual_seed(derive_seed(self.settings.seed, "noise", self.progress.step, self.group.rank))
        return noise[torch.from_numpy(part).to(self.device)] if self.group.size > 1 else noise

    def _make_dropout(self) -> Dropout:
        return partial(apply_dropout, fraction=self.settings.dropout, generator=self.generator)

    def _mask_decoder_inputs(self, batch: Batch) -> Tensor:
        """Make the decoder's input: some tokens, never BOS, are replaced by UNK (word dropout)."""
        if not self.settings.word_dropout:
            return batch.inputs
        uniforms = torch.rand(batch.inputs.shape, generator=self.generator, device=self.device)
        is_masked = uniforms < self.settings.word_dropout
        is_masked[0] = False
        return torch.where(is_masked, UNK, batch.inputs)

    def _require_finite(self, sums: Tensor) -> None:
        if not bool(torch.isfinite(sums).all()):
            raise TrainingError(
                f"the loss is not finite at step {self.progress.step} (epoch {self.progress.epoch + 1}). "
                "Lower train.learning_rate or train.clip_norm; the last good checkpoint is kept."
            )

    def _close_epoch(self, on_epoch: Callable[[dict[str, float]], None]) -> None:
        """Measure on the held-out molecules, write the epoch's row, keep the weights if they are the best."""
        progress, settings = self.progress, self.settings
        held_out = self.group.broadcast(evaluate_held_out(self.model, self.valid, settings, self.device))
        self._require_finite(torch.tensor(held_out.metrics["valid_loss_nats"]))  # before these weights are saved
        row = self._make_history_row(held_out.metrics)
        self._track_best(row)
        progress.history.append(row)
        progress.kl_by_dimension.append(held_out.kl_by_dimension)
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        log.info(_format_epoch(row, settings.epochs, self.steps))
        is_full_weight = row["kl_weight"] >= settings.kl_weight or progress.epoch == settings.epochs
        if is_full_weight and is_collapsed(row.get("mutual_information_nats")):
            log.warning(
                "POSTERIOR COLLAPSE: the latent space holds %.2f nats about a molecule, less than one bit. Samples may "
                "still look good, but encoding, interpolation and search mean nothing. Raise train.free_nats or "
                "lower train.kl_weight.",
                row["mutual_information_nats"],
            )
        on_epoch(row)

    def _make_history_row(self, held_out: dict[str, float]) -> dict[str, float]:
        """Make the epoch's row of the history, from its sums and the metrics of held-out molecules."""
        progress = self.progress
        seconds_before = progress.history[-1]["seconds"] if progress.history else 0.0
        weight = compute_kl_weight(progress.step - 1, self.steps, self.settings)
        reconstruction, kl, property_nats = (progress.sums[name] / len(self.train) for name in LossTerms._fields)
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "seconds": progress.seconds,
            "molecules_per_s": len(self.train) / max(progress.seconds - seconds_before, 1e-9),
            "kl_weight": weight,
            "learning_rate": compute_learning_rate(progress.step - 1, self.steps, self.settings),
            "train_loss_nats": self._compute_loss(reconstruction, kl, property_nats, weight),
            "train_reconstruction_nats": reconstruction,
            "train_kl_nats": kl,
            **({"train_property_nats": property_nats} if self.model.head is not None else {}),
            **held_out,
        }

    def _track_best(self, row: dict[str, float]) -> None:
        """Keep the weights if the held-out loss, with the final KL weight, is the lowest so far."""
        progress, final_weight = self.progress, self.settings.kl_weight
        objective = self._compute_loss(
            row["valid_reconstruction_nats"], row["valid_kl_nats"], row.get("valid_property_nats", 0.0), final_weight
        )
        if objective < progress.best_objective:
            progress.best_objective, progress.best_epoch, progress.stale_epochs = objective, progress.epoch + 1, 0
            self.best = _copy_weights(self.model)
        elif row["kl_weight"] >= final_weight:  # while the KL weight rises the loss may, too
            progress.stale_epochs += 1

    def _compute_loss(self, reconstruction: float, kl: float, property_nats: float, weight: float) -> float:
        """Compute what training minimises, of a whole epoch, nats per molecule; `weight` is that of the KL term."""
        loss = reconstruction + self.settings.property_weight * property_nats
        if not self.model.variational:
            return loss
        return loss + compute_kl_penalty(torch.tensor(kl, dtype=torch.float64), weight, self.settings).item()


def _copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _format_epoch(row: dict[str, float], epochs: int, steps: int) -> str:
    seconds_left = row["seconds"] / row["step"] * (steps - row["step"])
    r_squared = {name.removeprefix(R2_PREFIX): value for name, value in row.items() if name.startswith(R2_PREFIX)}
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  train {row['train_loss_nats']:.2f} nats  "
        f"held-out {row['valid_loss_nats']:.2f} "
        f"(reconstruction {row['valid_reconstruction_nats']:.2f} + KL {row['valid_kl_nats']:.2f})  "
        f"KL weight {row['kl_weight']:.2f}  active units {row['active_units']}  "
        f"exact {100 * row['valid_exact_reconstruction']:.1f} %  "
        f"{''.join(f'R² of {name} {value:.2f}  ' for name, value in r_squared.items())}"
        f"{row['molecules_per_s']:.0f} molecules/s  {seconds_left / 60:.1f} min left"
    )
