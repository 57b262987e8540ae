"""The training loop. Every random number is a function of (seed, step), so a run that stops can go on exactly."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from molvae.data.dataset import Batch, TokenSet
from molvae.data.vocabulary import PAD, UNK
from molvae.errors import Interrupted, TrainingError
from molvae.inference import posterior_diagnostics
from molvae.nn.encoder_decoder import dropout
from molvae.nn.losses import kl_penalty, kl_weight, learning_rate
from molvae.nn.vae import VAE
from molvae.runtime.seeds import derive
from molvae.training.distributed import Group

if TYPE_CHECKING:
    from molvae.config import TrainSettings

log = logging.getLogger(__name__)
SAVE_SECONDS = 60.0  # between checkpoints; a save of the default model takes 20 ms
LINE_SECONDS = 60.0  # between progress lines inside a long epoch
CHECK_STEPS = 50  # between looks at the loss: each look makes a GPU wait
TERMS = ("reconstruction", "kl", "property")  # of the loss, as steps give and epochs sum them
AGREE_STEPS = 20  # between questions to the other processes whether one was told to stop


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
    kl_by_dimension: list[list[float]] = field(default_factory=list)  # (epochs, Z) nats


@dataclass
class State:
    """All of a run that a checkpoint keeps: plain values and tensors by name."""

    progress: dict[str, Any]
    tensors: dict[str, Tensor]


class Run:
    """One training run: a model, its data, and where it stands."""

    def __init__(
        self,
        model: VAE,
        train: TokenSet,
        valid: TokenSet,
        settings: TrainSettings,
        device: torch.device,
        *,
        variants: TokenSet | None = None,
        group: Group = Group(),
    ) -> None:
        """Set a run up, before its first step.

        Args:
            variants: other spellings of the training molecules, equally many of each, in their order.
            group: the processes that share each batch; all must be given the same model, data and settings.
        """
        self.model, self.train, self.valid = model.to(device), train, valid
        self.settings, self.device, self.group = settings, device, group
        self.spellings = train.joined(variants) if variants is not None and settings.variant_input else None
        self.wrapped = group.wrap(self.model)
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
        sums = torch.tensor([progress.sums.get(name, 0.0) for name in TERMS], dtype=torch.float64).to(self.device)
        began, saved, spoken = time.monotonic(), time.monotonic(), time.monotonic()
        for rows in batches[progress.batch :]:
            sums += self.step(rows) * len(rows)
            progress.batch += 1
            progress.step += 1
            now, stop = time.monotonic(), interrupted()
            if self.group.size > 1:
                stop = progress.step % AGREE_STEPS == 0 and self.group.any(stop)
            if progress.step % CHECK_STEPS == 0 or progress.batch == len(batches) or stop:
                self._check(sums)
            if stop or now - saved > SAVE_SECONDS or progress.batch == len(batches):
                progress.sums = dict(zip(TERMS, sums.tolist(), strict=True))
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

    def step(self, rows: np.ndarray) -> Tensor:
        """One update with these training molecules; of a group, each process takes its share of them.

        Returns:
            the TERMS, (3,) nats per molecule of all rows, without waiting for a GPU.
        """
        settings, step, group = self.settings, self.progress.step, self.group
        self.model.train()
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(step, self.steps, settings)
        share = np.arange(len(rows))[group.rank :: group.size]
        weight = group.size * len(share) / len(rows)  # gradients are averaged over processes whose shares may differ
        share = share if len(share) else np.arange(1)  # a process without a molecule takes part with weight 0
        batch = self._batch(rows, share)
        half = settings.precision == "bfloat16" and self.device.type != "cpu"  # a setting of GPUs
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            terms = self.wrapped(batch, self._noise(len(rows), share), self._drop(), self._written(batch))
        reconstruction, kl, property_nats = found = group.mean(torch.stack(terms[: len(TERMS)]) * weight)
        loss = reconstruction
        if self.model.variational:
            loss = loss + kl_penalty(kl, kl_weight(step, self.steps, settings), settings)
        if self.model.head is not None:
            loss = loss + settings.property_weight * property_nats
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        # 0 times a norm that is not finite is not a number: an update that spoils the weights shows in its own step
        return found.detach().double() + 0 * norm.detach()

    def _batch(self, rows: np.ndarray, share: np.ndarray) -> Batch:
        """This process's molecules of a step, some of them with another spelling for the encoder."""
        batch = self.train.batch(rows[share], self.device)
        if self.spellings is None:
            return batch
        random = np.random.default_rng(derive(self.settings.seed, "spellings", self.progress.step))
        variants = len(self.spellings) // len(self.train) - 1
        chosen = len(self.train) + rows * variants + random.integers(variants, size=len(rows))
        chosen = np.where(random.random(len(rows)) < self.settings.variant_input, chosen, rows)
        return replace(batch, source=self.spellings.batch(chosen[share], self.device))

    def _noise(self, molecules: int, share: np.ndarray) -> Tensor:
        """The noise of the whole batch is a function of the step; each process takes its molecules' rows of it."""
        self.generator.manual_seed(derive(self.settings.seed, "noise", self.progress.step))
        noise = torch.randn((molecules, self.model.latent_dim), generator=self.generator, device=self.device)
        if self.group.rank:  # what is drawn from here on differs from process to process
            self.generator.manual_seed(derive(self.settings.seed, "noise", self.progress.step, self.group.rank))
        return noise[torch.from_numpy(share).to(self.device)] if self.group.size > 1 else noise

    def _drop(self) -> Callable[[Tensor], Tensor]:
        return partial(dropout, fraction=self.settings.dropout, generator=self.generator)

    def _written(self, batch: Batch) -> Tensor:
        """What the decoder is told to have written: its tokens, some of them, never BOS, unknown."""
        if not self.settings.word_dropout:
            return batch.inputs
        gone = torch.rand(batch.inputs.shape, generator=self.generator, device=self.device) < self.settings.word_dropout
        gone[0] = False
        return torch.where(gone, UNK, batch.inputs)

    def _check(self, sums: Tensor) -> None:
        if not bool(torch.isfinite(sums).all()):
            raise TrainingError(
                f"the loss is not finite at step {self.progress.step} (epoch {self.progress.epoch + 1}). "
                "Lower train.learning_rate or train.clip_norm; the last good checkpoint is kept."
            )

    def _close_epoch(self, on_epoch: Callable[[dict[str, float]], None]) -> None:
        """Measure on the held-out molecules, write the epoch's row, keep the weights if they are the best."""
        progress, settings = self.progress, self.settings
        held_out, by_dimension = self.group.of_first(evaluate(self.model, self.valid, self.settings, self.device))
        self._check(torch.tensor(held_out["valid_loss_nats"]))  # before these weights are saved
        before = progress.history[-1]["seconds"] if progress.history else 0.0
        weight = kl_weight(progress.step - 1, self.steps, settings)
        reconstruction, kl, property_nats = (progress.sums[name] / len(self.train) for name in TERMS)
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "seconds": progress.seconds,
            "molecules_per_s": len(self.train) / max(progress.seconds - before, 1e-9),
            "kl_weight": weight,
            "learning_rate": learning_rate(progress.step - 1, self.steps, settings),
            "train_loss_nats": self._objective(reconstruction, kl, property_nats, weight),
            "train_reconstruction_nats": reconstruction,
            "train_kl_nats": kl,
            **({"train_property_nats": property_nats} if self.model.head is not None else {}),
            **held_out,
        }
        objective = self._objective(
            row["valid_reconstruction_nats"], row["valid_kl_nats"], row.get("valid_property_nats", 0.0),
            settings.kl_weight,
        )  # fmt: skip
        if objective < progress.best_objective:
            progress.best_objective, progress.best_epoch, progress.stale_epochs = objective, progress.epoch + 1, 0
            self.best = _copy(self.model)
        elif weight >= settings.kl_weight:  # while the KL weight rises the loss may, too
            progress.stale_epochs += 1
        progress.history.append(row)
        progress.kl_by_dimension.append(by_dimension)
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        log.info(_line(row, self.settings.epochs, self.steps))
        if (weight >= settings.kl_weight or progress.epoch == settings.epochs) and is_collapsed(row):
            log.warning(
                "POSTERIOR COLLAPSE: the latent space tells %.2f nats about a molecule, less than one bit. Samples may "
                "still look good, but encoding, interpolation and search mean nothing. Raise train.free_nats or "
                "lower train.kl_weight.",
                row["mutual_information_nats"],
            )
        on_epoch(row)

    def _objective(self, reconstruction: float, kl: float, property_nats: float, weight: float) -> float:
        """What training minimises, of a whole epoch, nats per molecule; `weight` is that of the KL term."""
        loss = reconstruction + self.settings.property_weight * property_nats
        if not self.model.variational:
            return loss
        return loss + kl_penalty(torch.tensor(kl, dtype=torch.float64), weight, self.settings).item()


def is_collapsed(row: dict[str, float]) -> bool:
    """Whether an epoch's row of the history shows a latent space that is not used; a plain autoencoder's never does."""
    return row.get("mutual_information_nats", math.inf) < posterior_diagnostics.COLLAPSED_NATS


@torch.inference_mode()
def evaluate(
    model: VAE, molecules: TokenSet, settings: TrainSettings, device: torch.device
) -> tuple[dict[str, float], list[float]]:
    """Held-out figures with one draw of z a molecule, the same draw in every epoch.

    Returns:
        the negative ELBO (KL weight 1) and its terms in nats per molecule; the share of tokens that are the
        likeliest one under teacher forcing; what is reconstructed in free running; active latent units; mutual
        information (these but the first two and the active units only for a VAE). With a head −log density of the
        properties, and R² of each from mu. And the KL of each dimension.
    """
    model.eval()
    generator = torch.Generator(device).manual_seed(derive(settings.seed, "held out"))
    totals, right, tokens, posteriors = torch.zeros(len(TERMS), dtype=torch.float64), 0, 0, []
    told: list[Tensor] = []  # properties by the head and by the data, (2, B, P) of each batch
    for rows in molecules.in_order(settings.batch_size):
        batch = molecules.batch(rows, device)
        noise = torch.randn((len(rows), model.latent_dim), generator=generator, device=device)
        terms = model(batch, noise)
        totals += torch.stack(terms[: len(TERMS)]).double().cpu() * len(rows)
        real = batch.targets != PAD
        right += int(((terms.logits.argmax(-1) == batch.targets) & real).sum())
        tokens += int(real.sum())
        posteriors.append(torch.stack([terms.mu, terms.logvar, terms.z]).cpu())
        if model.head is not None and batch.values is not None:
            told.append(torch.stack([model.head(terms.mu), batch.values]).cpu())
    reconstruction, kl, property_nats = (totals / len(molecules)).tolist()
    mu, logvar, z = torch.cat(posteriors, dim=1)
    mixed = torch.randperm(len(mu), generator=torch.Generator().manual_seed(0))  # they came by length
    mu, logvar, z = mu[mixed], logvar[mixed], z[mixed]
    exact, in_place = posterior_diagnostics.free_running(model, molecules, device)
    found = {
        "valid_loss_nats": reconstruction + kl,
        "valid_reconstruction_nats": reconstruction,
        "valid_kl_nats": kl,
        "valid_token_accuracy": right / tokens,
        "valid_free_token_accuracy": in_place,
        "valid_exact_reconstruction": exact,
        "active_units": posterior_diagnostics.active_units(mu),
    }
    if told:
        r_squared = model.head.r_squared(*torch.cat(told, dim=1))
        found |= {"valid_property_nats": property_nats} | {f"valid_r2_{name}": r2 for name, r2 in r_squared.items()}
    if not model.variational:
        return found, []
    return found | {
        "mutual_information_nats": posterior_diagnostics.mutual_information(mu, logvar, z)
    }, posterior_diagnostics.kl_by_dimension(mu, logvar)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _line(row: dict[str, float], epochs: int, steps: int) -> str:
    left = row["seconds"] / row["step"] * (steps - row["step"])
    told = "".join(f"R² of {name[9:]} {value:.2f}  " for name, value in row.items() if name.startswith("valid_r2_"))
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  train {row['train_loss_nats']:.2f} nats  "
        f"held-out {row['valid_loss_nats']:.2f} "
        f"(reconstruction {row['valid_reconstruction_nats']:.2f} + KL {row['valid_kl_nats']:.2f})  "
        f"KL weight {row['kl_weight']:.2f}  active units {row['active_units']}  "
        f"exact {100 * row['valid_exact_reconstruction']:.1f} %  {told}"
        f"{row['molecules_per_s']:.0f} molecules/s  {left / 60:.1f} min left"
    )
