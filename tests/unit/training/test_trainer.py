"""The training loop: exact resumption, early stopping, what an epoch's row of the history holds, and that it learns."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae.config import ModelSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.data.vocabulary import UNK
from molvae.errors import Interrupted, TrainingError
from molvae.inference.decoding import decode_latents
from molvae.inference.posterior_diagnostics import is_collapsed
from molvae.nn.losses import compute_reconstruction_nats
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import init_vae
from molvae.training.evaluation import HeldOutEvaluation, evaluate_held_out
from molvae.training.trainer import Trainer

CPU = torch.device("cpu")
MODULE = "molvae.training.trainer"
SETTINGS = TrainSettings(epochs=3, batch_size=5, learning_rate=0.01, patience=9, seed=4)
VALID = 6  # so many molecules, the first ones, are held out: 26 are left, 6 steps an epoch, 18 in all
EPOCH, STEPS = 6, 18
CLOCK = {"seconds", "molecules_per_s"}


@pytest.fixture(scope="module")
def make_trainer(tokens, vocabulary, sizes):
    """A function that makes a trainer from the same first weights; it takes settings of `model` and of `train`."""

    def make(train=None, valid=None, augmentations=None, head=False, **changes) -> Trainer:
        model_changes = {name: changes.pop(name) for name in list(changes) if name in ModelSettings.model_fields}
        train_settings, rows = SETTINGS.model_copy(update=changes), np.arange(len(tokens))
        train, valid = train or tokens.select(rows[VALID:]), valid or tokens.select(rows[:VALID])
        model = init_vae(len(vocabulary), sizes.model_copy(update=model_changes), train_settings.seed)
        if head:
            train, valid = add_properties(train), add_properties(valid)
            model.head = PropertyHead(["first", "length"], model.latent_dim)
            model.head.fit_scaler(train.properties)
        return Trainer(model, train, valid, train_settings, CPU, augmentations=augmentations)

    return make


@pytest.fixture(scope="module")
def finished(make_trainer):
    """A trainer that was never interrupted."""
    trainer = make_trainer()
    assert trainer.steps == STEPS
    assert trainer.fit() == "epochs"
    return trainer


def add_properties(tokens: TokenSet) -> TokenSet:
    """Two properties of each molecule, the id of its first token and its length; every fifth length is unknown."""
    values = np.stack([tokens.ids[tokens.offsets[:-1]], tokens.lengths], 1).astype(np.float32)
    values[::5, 1] = np.nan
    return TokenSet(tokens.ids, tokens.offsets, values)


def drop_clock(history):
    """The history without the columns that hold times."""
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in history]


def assert_same(trainer: Trainer, expected: Trainer) -> None:
    assert drop_clock(trainer.progress.history) == drop_clock(expected.progress.history)
    weights, expected_weights = trainer.model.state_dict(), expected.model.state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected_weights[name]), name


def stop_at(trainer: Trainer, steps):
    return lambda: trainer.progress.step in steps


def fit_with_interruptions(make_trainer, stops):
    """Fit, stopping after each of the steps and resuming in a new trainer from what was saved last."""
    checkpoint, stops = None, set(stops)
    while True:
        trainer = make_trainer()
        if checkpoint is not None:
            trainer.restore(copy.deepcopy(checkpoint))
        states = []
        try:
            trainer.fit(
                save=lambda state: states.append(copy.deepcopy(state)),  # noqa: B023
                should_stop=stop_at(trainer, stops),
            )
            return trainer
        except Interrupted:
            checkpoint = states[-1]
            stops.discard(trainer.progress.step)


@settings(max_examples=10)
@given(st.sets(st.integers(1, STEPS), max_size=4))
def test_interrupted_training_ends_in_the_weights_and_losses_of_uninterrupted_training(make_trainer, finished, stops):
    assert_same(fit_with_interruptions(make_trainer, stops), finished)


@pytest.mark.parametrize("stops", [{1}, {EPOCH}, {EPOCH - 1, EPOCH, EPOCH + 1}, {STEPS}, set(range(1, STEPS + 1))])
def test_training_interrupted_at_the_edge_of_an_epoch_or_at_every_step_ends_in_the_same_weights(
    make_trainer, finished, stops
):
    assert_same(fit_with_interruptions(make_trainer, stops), finished)


def test_training_killed_without_notice_resumes_from_any_checkpoint_to_the_same_weights(
    make_trainer, finished, monkeypatch
):
    monkeypatch.setattr(f"{MODULE}.SAVE_SECONDS", -1.0)  # save at every step
    states = []
    make_trainer().fit(save=lambda state: states.append(copy.deepcopy(state)))
    assert len(states) == STEPS + SETTINGS.epochs
    for state in states[:: len(states) // 4]:
        trainer = make_trainer()
        trainer.restore(state)
        trainer.fit()
        assert_same(trainer, finished)


def test_interruption_of_training_names_its_step_and_how_to_resume(make_trainer):
    trainer = make_trainer()
    with pytest.raises(Interrupted, match="stopped at step 4 of 18; the same command resumes from there"):
        trainer.fit(should_stop=stop_at(trainer, {4}))


def test_finished_training_that_is_resumed_does_nothing_more(make_trainer, finished):
    states = []
    make_trainer().fit(save=lambda state: states.append(copy.deepcopy(state)))
    trainer = make_trainer()
    trainer.restore(states[-1])
    assert trainer.fit(save=states.append) == "epochs"
    assert len(states) == SETTINGS.epochs
    assert_same(trainer, finished)


def test_training_gives_the_same_weights_for_the_same_seed_and_different_ones_for_another(make_trainer, finished):
    torch.rand(3)
    same_seed, next_seed = make_trainer(), make_trainer(seed=5)
    same_seed.fit()
    next_seed.fit()
    assert_same(same_seed, finished)
    losses = [trainer.progress.history[-1]["valid_loss_nats"] for trainer in (next_seed, finished)]
    assert losses[0] != losses[1]


def test_training_leaves_the_global_generators_alone(make_trainer):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    make_trainer(epochs=1).fit()
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_training_history_rows_add_up(make_trainer):
    rows, trainer = [], make_trainer(kl_weight=0.5, kl_warmup=1.0, kl_schedule="linear", free_nats=0.1)
    trainer.fit(on_epoch=rows.append)
    assert rows == trainer.progress.history
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [EPOCH, 2 * EPOCH, STEPS]
    for row in rows:
        assert row["kl_weight"] == pytest.approx(0.5 * (row["step"] - 1) / STEPS)
        assert row["train_loss_nats"] == pytest.approx(
            row["train_reconstruction_nats"] + row["kl_weight"] * max(row["train_kl_nats"], 0.1)
        )
        assert row["valid_loss_nats"] == pytest.approx(row["valid_reconstruction_nats"] + row["valid_kl_nats"])
        assert 0 <= row["valid_token_accuracy"] <= 1 and row["seconds"] > 0 and row["molecules_per_s"] > 0
        assert 0 <= row["valid_free_token_accuracy"] <= 1 and 0 <= row["valid_exact_reconstruction"] <= 1
        assert -0.1 < row["mutual_information_nats"] <= math.log(VALID) + 1e-6
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert np.sum(trainer.progress.kl_by_dimension, axis=1) == pytest.approx([row["valid_kl_nats"] for row in rows])


def test_training_starts_near_the_loss_of_uniform_logits(make_trainer, vocabulary):
    trainer = make_trainer(epochs=1, learning_rate=1e-9)
    trainer.fit()
    expected = (trainer.train.lengths.mean() + 1) * math.log(len(vocabulary))
    assert trainer.progress.history[0]["train_reconstruction_nats"] == pytest.approx(expected, rel=0.1)


def make_overfitting_trainer(make_trainer, tokens) -> Trainer:
    """A trainer on six molecules; once they are memorised the held-out loss only rises."""
    return make_trainer(
        train=tokens.select(np.arange(8, 14)),
        epochs=200,
        batch_size=3,
        learning_rate=0.03,
        patience=4,
        kl_weight=0.0,
        kl_warmup=0.0,
    )


def test_training_that_overfits_stops_early_with_the_weights_of_its_best_epoch(make_trainer, tokens):
    trainer, epochs = make_overfitting_trainer(make_trainer, tokens), []
    assert trainer.fit(save=lambda state: epochs.append(copy.deepcopy(state))) == "early"
    losses = [row["valid_reconstruction_nats"] for row in trainer.progress.history]
    best = losses.index(min(losses)) + 1
    assert (trainer.progress.best_epoch, len(losses)) == (best, best + 4)
    assert best > 1
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, epochs[best - 1].tensors[f"model.{name}"]), name
        assert not torch.equal(weight, epochs[-1].tensors[f"model.{name}"]), name


def test_training_interrupted_after_its_best_epoch_still_ends_in_that_epoch(make_trainer, tokens):
    uninterrupted = make_overfitting_trainer(make_trainer, tokens)
    uninterrupted.fit()
    after = 2 * uninterrupted.progress.best_epoch + 3  # two steps an epoch: in the second epoch behind the best
    make = partial(make_overfitting_trainer, make_trainer, tokens)
    assert_same(fit_with_interruptions(make, {after, after + 1}), uninterrupted)


def test_patience_does_not_run_out_while_the_kl_weight_rises(make_trainer, monkeypatch):
    steps = iter(range(100))

    def evaluate_ever_worse(*arguments):
        metrics, kl_by_dimension = evaluate_held_out(*arguments)
        return HeldOutEvaluation({**metrics, "valid_kl_nats": 100.0 * next(steps)}, kl_by_dimension)

    monkeypatch.setattr(f"{MODULE}.evaluate_held_out", evaluate_ever_worse)
    trainer = make_trainer(epochs=8, patience=2, kl_warmup=0.5, kl_schedule="linear")
    assert trainer.fit() == "early"
    assert (
        len(trainer.progress.history) == 6
    )  # the weight is full from the first step of epoch 5: it and the sixth count
    assert trainer.progress.best_epoch == 1


def spoil_gradient(trainer: Trainer, step: int, value: float) -> None:
    """Spoil the gradient of a step, counted from 1. Its loss is finite; the weights it leaves are not."""
    trainer.model.decoder.state_to_logits.bias.register_hook(
        lambda gradient: gradient * value if trainer.progress.step == step - 1 else None
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("step", [EPOCH + 2, 2 * EPOCH])
def test_training_loss_that_is_not_finite_ends_training_and_nothing_is_saved_after_it(
    make_trainer, monkeypatch, step, value, every_step
):
    if every_step:
        monkeypatch.setattr(f"{MODULE}.CHECK_STEPS", 1)
        monkeypatch.setattr(f"{MODULE}.SAVE_SECONDS", -1.0)
    trainer, states = make_trainer(), []
    spoil_gradient(trainer, step, value)
    detected_at = step if every_step else 2 * EPOCH  # the last batch of the epoch is always looked at
    with pytest.raises(
        TrainingError, match=rf"not finite at step {detected_at} \(epoch 2\).*Lower train\.learning_rate"
    ):
        trainer.fit(save=lambda state: states.append(copy.deepcopy(state)))
    assert states[-1].progress["step"] == (step - 1 if every_step else EPOCH)
    assert all(tensor.isfinite().all() for state in states for tensor in state.tensors.values())


def test_held_out_loss_that_is_not_finite_ends_training(make_trainer, monkeypatch):
    def evaluate_as_infinite(*arguments):
        metrics = evaluate_held_out(*arguments).metrics
        return HeldOutEvaluation(metrics | {"valid_loss_nats": math.inf}, [])

    monkeypatch.setattr(f"{MODULE}.evaluate_held_out", evaluate_as_infinite)
    trainer, states = make_trainer(), []
    with pytest.raises(TrainingError, match=rf"not finite at step {EPOCH}"):
        trainer.fit(save=states.append)
    assert not states and not trainer.progress.history


def test_interruption_of_training_does_not_save_a_loss_that_is_not_finite(make_trainer):
    trainer, states = make_trainer(), []
    spoil_gradient(trainer, 3, math.nan)
    with pytest.raises(TrainingError, match="not finite at step 3"):
        trainer.fit(save=states.append, should_stop=stop_at(trainer, {3}))
    assert not states


def test_held_out_metrics_depend_on_the_batch_size_only_by_their_noise(make_trainer, tokens):
    model = make_trainer().model
    with torch.no_grad():
        model.encoder.to_latent.bias[model.latent_dim :] = -60.0  # a posterior without spread: no noise
    small, large = (
        evaluate_held_out(model, tokens, SETTINGS.model_copy(update={"batch_size": size}), CPU) for size in (3, 100)
    )
    assert small.metrics == pytest.approx(large.metrics, rel=1e-4)
    assert small.kl_by_dimension == pytest.approx(large.kl_by_dimension, rel=1e-4)


def test_held_out_metrics_are_reproducible_and_those_worked_by_hand(make_trainer, tokens):
    model = make_trainer().model
    evaluation, again = (evaluate_held_out(model, tokens, SETTINGS, CPU) for _ in range(2))
    assert evaluation == again  # the same noise
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.state_to_logits.bias[7] = 100.0  # always predicts 7
    metrics, kl_by_dimension = evaluate_held_out(model, tokens, SETTINGS, CPU)
    n_right = int((tokens.ids == 7).sum())
    n_tokens = len(tokens.ids) + len(tokens)  # each molecule has an end
    assert metrics["valid_token_accuracy"] == n_right / n_tokens
    expected = 100 * (n_tokens - n_right) / len(tokens)
    assert metrics["valid_reconstruction_nats"] == pytest.approx(expected, rel=1e-5)
    assert (metrics["valid_kl_nats"], metrics["active_units"], kl_by_dimension) == (0, 0, [0.0] * 5)
    assert metrics["mutual_information_nats"] == pytest.approx(0, abs=1e-9)
    assert metrics["valid_exact_reconstruction"] == 0


def test_interrupted_training_with_properties_ends_in_the_weights_of_uninterrupted_training(make_trainer):
    make = partial(make_trainer, head=True, property_weight=2.0)
    uninterrupted = make()
    uninterrupted.fit()
    head = uninterrupted.model.head
    assert head.linear.weight.abs().min() > 0 and head.log_noise.abs().min() > 0
    assert_same(fit_with_interruptions(make, {2, EPOCH, EPOCH + 3}), uninterrupted)


def test_training_with_properties_adds_their_term_to_the_loss_and_columns_to_the_history(make_trainer, finished):
    trainer = make_trainer(head=True, property_weight=2.0, kl_weight=0.5, free_nats=0.0)
    trainer.fit()
    for row in trainer.progress.history:
        assert row["train_loss_nats"] == pytest.approx(
            row["train_reconstruction_nats"] + row["kl_weight"] * row["train_kl_nats"] + 2 * row["train_property_nats"]
        )
        assert row["valid_loss_nats"] == pytest.approx(row["valid_reconstruction_nats"] + row["valid_kl_nats"])
        # R² of `first` is missing: all held-out molecules begin with a carbon
        columns = {"train_property_nats", "valid_property_nats", "valid_r2_length"}
        assert {name for name in row if "property" in name or "r2" in name} == columns
    best = min(
        trainer.progress.history,
        key=lambda row: row["valid_reconstruction_nats"] + 0.5 * row["valid_kl_nats"] + 2 * row["valid_property_nats"],
    )
    assert trainer.progress.best_epoch == best["epoch"]
    assert not any("property" in name or "r2" in name for name in finished.progress.history[0])
    batch = trainer.valid.collate(np.arange(len(trainer.valid)))
    with torch.inference_mode():
        predicted = trainer.model.head(trainer.model.encoder(*batch.encoder_inputs)[0])
    r_squared = trainer.model.head.compute_r_squared(predicted, batch.properties)
    assert best["valid_r2_length"] == pytest.approx(r_squared["length"], abs=1e-4)


def test_training_with_properties_encodes_them_in_the_latent_space(make_trainer, tokens):
    """The values have nothing to do with the molecules, so that only training can put them into the latent space."""
    values = np.random.default_rng(0).normal(size=(len(tokens), 2)).astype(np.float32)
    molecules = TokenSet(tokens.ids, tokens.offsets, values)
    untrained = make_trainer(
        molecules, molecules, epochs=100, property_weight=20.0, kl_weight=0.01, free_nats=0.0, patience=999
    )
    untrained.model.head = PropertyHead(["x", "y"], untrained.model.latent_dim)
    trainer = Trainer(untrained.model, molecules, molecules, untrained.settings, CPU)
    trainer.fit()
    last = trainer.progress.history[-1]
    assert last["valid_r2_x"] > 0.6 and last["valid_r2_y"] > 0.6


def test_training_of_a_small_model_memorises_twenty_molecules(tokens, vocabulary):
    molecules = tokens.select(np.arange(20))
    sizes = ModelSettings(embedding_dim=16, latent_dim=16, encoder_hidden=48, decoder_hidden=64, decoder_layers=1)
    schedule = {"epochs": 60, "batch_size": 10, "learning_rate": 0.03, "kl_weight": 0.003, "kl_warmup": 1.0}
    train_settings = TrainSettings(**schedule, patience=999, dropout=0.0, free_nats=0.0)
    trainer = Trainer(init_vae(len(vocabulary), sizes, 0), molecules, molecules, train_settings, CPU)
    trainer.fit()
    last = trainer.progress.history[-1]
    assert last["valid_reconstruction_nats"] < 1.0  # of 75 at the start
    assert last["active_units"] > 3
    batch = molecules.collate(np.arange(20))
    with torch.inference_mode():
        mu, _ = trainer.model.encoder(batch.inputs[1:], batch.lengths)
        logits = trainer.model.decoder(batch.inputs, mu)
        assert compute_reconstruction_nats(logits, batch.targets) < 1.0
    strings = decode_latents(trainer.model, mu, torch.zeros(60, 20), temperature=0)
    n_exact = sum(vocabulary.decode(strings.ids[k]) == vocabulary.decode(molecules[k]) for k in range(20))
    assert n_exact >= 17
    assert last["valid_exact_reconstruction"] == n_exact / 20
    information = last["mutual_information_nats"]
    assert information > 2 and not is_collapsed(information)  # of log 20 = 3.0


VARIATIONS = {
    "lstm": {"encoder_cell": "lstm", "decoder_cell": "lstm"},
    "both directions": {"encoder_bidirectional": True, "encoder_layers": 2},
    "mixture": {"prior": "mixture", "prior_components": 3},
    "vamp": {"prior": "vamp", "prior_components": 3},
    "flow": {"prior": "flow"},
    "word dropout": {"word_dropout": 0.4},
    "augmentation": {"augmentation_prob": 0.5},
    "plain autoencoder": {"variational": False},
    "target, in cycles": {"target_kl": 2.0, "kl_schedule": "cyclical"},
}


def augment(tokens, per_molecule: int = 2) -> TokenSet:
    """So many augmentations of each training molecule: its tokens rotated by different numbers of steps."""
    rows = [tokens[row].tolist() for row in range(VALID, len(tokens))]
    return TokenSet.from_lists([row[-turn:] + row[:-turn] for row in rows for turn in range(1, per_molecule + 1)])


@pytest.fixture(scope="module")
def default_run(make_trainer):
    """A finished trainer that none of VARIATIONS was applied to."""
    trainer = make_trainer(free_nats=0.1, epochs=2)
    trainer.fit()
    return trainer


@pytest.mark.parametrize("variation", VARIATIONS)
def test_training_with_any_settings_is_reproducible_with_and_without_interruptions(
    make_trainer, default_run, tokens, variation
):
    def make() -> Trainer:
        return make_trainer(augmentations=augment(tokens), free_nats=0.1, epochs=2, **VARIATIONS[variation])

    torch.rand(3)
    uninterrupted = make()
    uninterrupted.fit()
    assert_same(fit_with_interruptions(make, {1, EPOCH + 2}), uninterrupted)
    # the settings make a difference
    assert drop_clock(uninterrupted.progress.history) != drop_clock(default_run.progress.history)
    assert all(weight.isfinite().all() for weight in uninterrupted.model.state_dict().values())


def test_training_of_a_plain_autoencoder_has_no_kl_term(make_trainer):
    trainers = [
        make_trainer(variational=False),
        make_trainer(variational=False, kl_weight=50.0, target_kl=7.0, free_nats=9.0),
    ]
    for trainer in trainers:
        trainer.fit()
        assert trainer.progress.kl_by_dimension == [[]] * 3
        for row in trainer.progress.history:
            assert row["train_kl_nats"] == row["valid_kl_nats"] == 0
            assert row["train_loss_nats"] == row["train_reconstruction_nats"]
            assert "mutual_information_nats" not in row
    weights = zip(*(trainer.model.parameters() for trainer in trainers), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_posterior_collapse_is_warned_of_once_the_kl_weight_is_full(make_trainer, caplog):
    trainer = make_trainer(kl_weight=50.0, free_nats=0.0, kl_schedule="constant")
    trainer.fit()
    assert all(is_collapsed(row["mutual_information_nats"]) for row in trainer.progress.history)
    warnings = [entry for entry in caplog.records if "POSTERIOR COLLAPSE" in entry.getMessage()]
    assert len(warnings) == 3 and {entry.levelname for entry in warnings} == {"WARNING"}
    assert "Raise train.free_nats or lower train.kl_weight" in warnings[0].getMessage()
    caplog.clear()
    make_trainer(epochs=3, kl_weight=50.0, free_nats=0.0, kl_schedule="linear", kl_warmup=1.0).fit()
    assert caplog.text.count("COLLAPSE") == 1  # a weight that rises to the end is judged at the end
    caplog.clear()
    make_trainer(epochs=1, variational=False).fit()
    assert "COLLAPSE" not in caplog.text


def get_encoder_inputs(trainer: Trainer, rows) -> list[list[int]]:
    """Ids that the encoder reads for these molecules in the running step."""
    ids, lengths = trainer._make_batch(np.array(rows), np.arange(len(rows))).encoder_inputs
    return [column[:length].tolist() for column, length in zip(ids.T, lengths.tolist(), strict=True)]


def test_encoder_reads_all_augmentations_of_its_molecule_in_turn(make_trainer, tokens):
    augmentations = augment(tokens, per_molecule=3)
    trainer, rows = make_trainer(augmentations=augmentations, augmentation_prob=1.0), [4, 0, 25, 4, 13]
    inputs: dict[int, set] = {row: set() for row in rows}
    for step in range(60):
        trainer.progress.step = step
        assert get_encoder_inputs(trainer, rows) == get_encoder_inputs(trainer, rows)  # a function of the step
        for row, ids in zip(rows, get_encoder_inputs(trainer, rows), strict=True):
            inputs[row].add(tuple(ids))
    for row in rows:
        assert inputs[row] == {tuple(augmentations[row * 3 + k].tolist()) for k in range(3)}


def test_encoder_reads_a_fraction_of_the_molecules_augmented_and_the_decoder_none(make_trainer, tokens):
    trainer, rows = make_trainer(augmentations=augment(tokens), augmentation_prob=0.25), list(range(26))
    is_augmented = []
    for step in range(100):
        trainer.progress.step = step
        inputs = zip(rows, get_encoder_inputs(trainer, rows), strict=True)
        is_augmented += [ids != trainer.train[row].tolist() for row, ids in inputs]
    distinct = np.mean([len(set(trainer.train[row].tolist())) > 1 for row in rows])  # a rotation changes no other
    assert np.mean(is_augmented) == pytest.approx(0.25 * distinct, abs=0.04)  # 2600 draws: 4.7 standard errors
    batch = trainer._make_batch(np.array(rows), np.arange(26))
    assert torch.equal(batch.inputs, trainer.train.collate(np.array(rows)).inputs)
    without = make_trainer(augmentations=augment(tokens))._make_batch(np.array(rows), np.arange(26))
    assert without.encoder_batch is None


def test_word_dropout_masks_the_set_fraction_of_tokens_and_never_the_first(make_trainer):
    trainer = make_trainer(word_dropout=0.3)
    trainer.generator.manual_seed(0)
    batch = trainer.train.collate(np.arange(26))
    decoder_inputs = torch.cat([trainer._mask_decoder_inputs(batch) for _ in range(20)], dim=1)
    is_masked = decoder_inputs != batch.inputs.repeat(1, 20)
    assert (decoder_inputs[is_masked] == UNK).all() and not is_masked[0].any()
    assert is_masked[1:].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert make_trainer()._mask_decoder_inputs(batch) is batch.inputs


@pytest.mark.parametrize(("precision", "expected"), [("float32", "none"), ("bfloat16", "bf16")])
def test_a_step_computes_in_its_precision_and_leaves_that_of_the_process_as_it_was(
    make_trainer, monkeypatch, precision, expected
):
    matmul = torch.backends.mkldnn.matmul
    trainer, used = make_trainer(precision=precision), []
    forward = trainer.model.forward

    def run_forward(*arguments, **options):
        used.append(matmul.fp32_precision)
        return forward(*arguments, **options)

    monkeypatch.setattr(trainer.model, "forward", run_forward)
    loss = trainer.step(np.arange(26)).sum().item()
    assert used == [expected] and matmul.fp32_precision == "none"
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert loss == pytest.approx(make_trainer(precision="float32").step(np.arange(26)).sum().item(), rel=0.02)


def test_an_error_in_a_step_restores_the_precision_of_the_process(make_trainer, monkeypatch):
    trainer = make_trainer(precision="bfloat16")
    monkeypatch.setattr(trainer.model, "forward", None)
    with pytest.raises(TypeError):
        trainer.step(np.arange(3))
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"
