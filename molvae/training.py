"""The training loop. Every random number is a function of (seed, step), so a run that stops can go on exactly."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from molvae.dataset import TokenSet
from molvae.errors import Interrupted, TrainingError
from molvae.objective import kl_weight, learning_rate, training_loss
from molvae.seeds import derive
from molvae.vae import VAE
from molvae.vocabulary import PAD

if TYPE_CHECKING:
    from molvae.config import TrainSettings

log = logging.getLogger(__name__)
SAVE_SECONDS = 60.0  # between checkpoints; a save of the default model takes 20 ms
LINE_SECONDS = 60.0  # between progress lines inside a long epoch
CHECK_STEPS = 50  # between looks at the loss: each look makes a GPU wait
ACTIVE_VARIANCE = 0.01  # a latent unit counts as active above it. Source: Burda et al. 2016 (arXiv:1509.00519)


@dataclass
class Progress:
    """Where a run stands, in plain values. `sums` holds the running epoch's totals, in nats."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_objective: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class State:
    """All of a run that a checkpoint keeps: plain values and tensors by name."""

    progress: dict[str, Any]
    tensors: dict[str, Tensor]


class Run:
    """One training run: a model, its data, and where it stands."""

    def __init__(self, model: VAE, train: TokenSet, valid: TokenSet, settings: TrainSettings, device: torch.device):
        self.model, self.train, self.valid, self.settings, self.device = (
            model.to(device),
            train,
            valid,
            settings,
            device,
        )
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        self.generator = torch.Generator(device)
        self.progress = Progress()
        self.best = _copy(model)
        self.steps = settings.epochs * math.ceil(len(train) / settings.batch_size)

    def state(self) -> State:
        """The run as it stands, for a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        return State(asdict(self.progress), tensors)

    def restore(self, state: State) -> None:
        """Take up a run where a checkpoint left it."""
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
        save: Callable[[State], None] = lambda state: None,
        on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> str:
        """Train to the last epoch or until the held-out loss has not fallen for `patience` epochs.

        Args:
            save: is given the state about once a minute, after each epoch and on interruption.
            on_epoch: is given each epoch's row of the history.
            interrupted: is asked after each step; once true the state is saved and Interrupted raised.
        Returns:
            why training ended, "epochs" or "early"; the model then holds the weights of the best epoch.
        Raises:
            TrainingError: a loss that is not finite; what was saved before stays.
            Interrupted: see above.
        """
        while self.progress.epoch < self.settings.epochs and not self._out_of_patience():
            self._train_epoch(save, interrupted)
            self._close_epoch(on_epoch)
            save(self.state())
        self.model.load_state_dict(self.best)
        return "early" if self._out_of_patience() else "epochs"

    def _out_of_patience(self) -> bool:
        return self.progress.stale_epochs >= self.settings.patience

    def _train_epoch(self, save: Callable[[State], None], interrupted: Callable[[], bool]) -> None:
        """The batches of the running epoch that are still to be done."""
        progress, batches = (
            self.progress,
            self.train.epoch(self.settings.batch_size, self.settings.seed, self.progress.epoch),
        )
        sums = torch.tensor(
            [progress.sums.get(name, 0.0) for name in ("reconstruction", "kl")], dtype=torch.float64
        ).to(self.device)
        began, saved, spoken = time.monotonic(), time.monotonic(), time.monotonic()
        for rows in batches[progress.batch :]:
            sums += self._step(self.train.batch(rows).to(self.device)) * len(rows)
            progress.batch += 1
            progress.step += 1
            now, stop = time.monotonic(), interrupted()
            if progress.step % CHECK_STEPS == 0 or progress.batch == len(batches) or stop:
                self._check(sums)
            if stop or now - saved > SAVE_SECONDS or progress.batch == len(batches):
                progress.sums = dict(zip(("reconstruction", "kl"), sums.tolist(), strict=True))
                progress.seconds += now - began
                began = now
            if stop:
                save(self.state())
                raise Interrupted(
                    f"stopped at step {progress.step} of {self.steps}; the same command goes on from there."
                )
            if now - saved > SAVE_SECONDS:
                self._check(sums)
                save(self.state())
                saved = now
            if now - spoken > LINE_SECONDS:
                log.info(
                    "epoch %d/%d: %.0f %% of its batches",
                    progress.epoch + 1,
                    self.settings.epochs,
                    100 * progress.batch / len(batches),
                )
                spoken = now

    def _step(self, batch: Any) -> Tensor:
        """One update; returns the reconstruction and KL terms, nats per molecule, without waiting for them."""
        settings, step = self.settings, self.progress.step
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, settings)
        self.generator.manual_seed(derive(settings.seed, "noise", step))
        terms = self.model(batch, self.generator, settings.dropout)
        loss = training_loss(terms.reconstruction, terms.kl, kl_weight(step, self.steps, settings), settings.free_nats)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        # 0 times a norm that is not finite is not a number: an update that spoils the weights shows in its own step
        return torch.stack([terms.reconstruction.detach(), terms.kl.detach()]).double() + 0 * norm.detach()

    def _check(self, sums: Tensor) -> None:
        if not bool(torch.isfinite(sums).all()):
            raise TrainingError(
                f"the loss is not finite at step {self.progress.step} (epoch {self.progress.epoch + 1}). "
                "Lower train.learning_rate or train.clip_norm; the last good checkpoint is kept."
            )

    def _close_epoch(self, on_epoch: Callable[[dict[str, float]], None]) -> None:
        """Measure on the held-out molecules, write the epoch's row, keep the weights if they are the best."""
        progress, settings = self.progress, self.settings
        held_out = evaluate(self.model, self.valid, self.settings, self.device)
        self._check(torch.tensor(held_out["valid_loss_nats"]))  # before these weights are saved
        before = progress.history[-1]["seconds"] if progress.history else 0.0
        weight = kl_weight(progress.step - 1, self.steps, settings)
        reconstruction, kl = (progress.sums[name] / len(self.train) for name in ("reconstruction", "kl"))
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "seconds": progress.seconds,
            "molecules_per_s": len(self.train) / max(progress.seconds - before, 1e-9),
            "kl_weight": weight,
            "learning_rate": learning_rate(progress.step - 1, self.steps, settings),
            "train_loss_nats": reconstruction + weight * kl,
            "train_reconstruction_nats": reconstruction,
            "train_kl_nats": kl,
            **held_out,
        }
        objective = row["valid_reconstruction_nats"] + settings.kl_weight * max(
            row["valid_kl_nats"], settings.free_nats
        )
        if objective < progress.best_objective:
            progress.best_objective, progress.best_epoch, progress.stale_epochs = objective, progress.epoch + 1, 0
            self.best = _copy(self.model)
        elif progress.step >= settings.kl_warmup * self.steps:  # while the KL weight rises the loss may, too
            progress.stale_epochs += 1
        progress.history.append(row)
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        log.info(_line(row, self.settings.epochs, self.steps))
        on_epoch(row)


@torch.inference_mode()
def evaluate(model: VAE, molecules: TokenSet, settings: TrainSettings, device: torch.device) -> dict[str, float]:
    """Held-out figures with one draw of z a molecule, the same draw in every epoch.

    Returns:
        the negative ELBO (KL weight 1) and its terms in nats per molecule, the share of tokens that are the
        likeliest one under teacher forcing, and the number of active latent units.
    """
    model.eval()
    generator = torch.Generator(device).manual_seed(derive(settings.seed, "held out"))
    totals, right, tokens, means = torch.zeros(2, dtype=torch.float64), 0, 0, []
    for rows in molecules.in_order(settings.batch_size):
        batch = molecules.batch(rows).to(device)
        terms = model(batch, generator)
        totals += torch.stack([terms.reconstruction, terms.kl]).double().cpu() * len(rows)
        real = batch.targets != PAD
        right += int(((terms.logits.argmax(-1) == batch.targets) & real).sum())
        tokens += int(real.sum())
        means.append(terms.mu.cpu())
    reconstruction, kl = (totals / len(molecules)).tolist()
    spread = torch.cat(means).var(0, unbiased=False)
    return {
        "valid_loss_nats": reconstruction + kl,
        "valid_reconstruction_nats": reconstruction,
        "valid_kl_nats": kl,
        "valid_token_accuracy": right / tokens,
        "active_units": int((spread > ACTIVE_VARIANCE).sum()),
    }


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _line(row: dict[str, float], epochs: int, steps: int) -> str:
    left = row["seconds"] / row["step"] * (steps - row["step"])
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  train {row['train_loss_nats']:.2f} nats  "
        f"held-out {row['valid_loss_nats']:.2f} "
        f"(reconstruction {row['valid_reconstruction_nats']:.2f} + KL {row['valid_kl_nats']:.2f})  "
        f"KL weight {row['kl_weight']:.2f}  active units {row['active_units']}  "
        f"{row['molecules_per_s']:.0f} molecules/s  {left / 60:.1f} min left"
    )
