"""The training loop: exact resumption, early stopping, and that it learns."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molvae import training
from molvae.config import ModelSettings, TrainSettings
from molvae.errors import Interrupted, TrainingError
from molvae.objective import reconstruction_nats
from molvae.sampling import decode_points
from molvae.training import Run, evaluate
from molvae.vae import untrained

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=3, batch_size=5, learning_rate=0.01, patience=9, seed=4)
VALID = 6  # the first so many molecules are held out: 26 are left, 6 steps an epoch, 18 in all
EPOCH, STEPS = 6, 18
CLOCK = {"seconds", "molecules_per_s"}


@pytest.fixture(scope="module")
def start(tokens, vocabulary, sizes):
    """start(**settings) makes a run from the same first weights each time."""

    def make(train=None, valid=None, **changes) -> Run:
        chosen = SETTINGS.model_copy(update=changes)
        rows = np.arange(len(tokens))
        train, valid = train or tokens.select(rows[VALID:]), valid or tokens.select(rows[:VALID])
        return Run(untrained(len(vocabulary), sizes, chosen.seed), train, valid, chosen, CPU)

    return make


@pytest.fixture(scope="module")
def whole(start):
    run = start()
    assert run.steps == STEPS
    assert run.fit() == "epochs"
    return run


def without_clock(history):
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in history]


def assert_same(one: Run, other: Run) -> None:
    assert without_clock(one.progress.history) == without_clock(other.progress.history)
    assert one.model.state_dict().keys() == other.model.state_dict().keys()
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name


def stopping_at(run: Run, steps):
    return lambda: run.progress.step in steps


def fit_with_interruptions(start, stops):
    """Fit, stopping after each of the steps and going on in a new run from what was saved last."""
    saved, stops = None, set(stops)
    while True:
        run = start()
        if saved is not None:
            run.restore(copy.deepcopy(saved))
        kept = []
        try:
            run.fit(save=lambda state: kept.append(copy.deepcopy(state)), interrupted=stopping_at(run, stops))  # noqa: B023
            return run
        except Interrupted:
            saved = kept[-1]
            stops.discard(run.progress.step)


@settings(max_examples=10)
@given(st.sets(st.integers(1, STEPS), max_size=4))
def test_an_interrupted_run_ends_in_the_weights_and_losses_of_one_that_was_not(start, whole, stops):
    assert_same(fit_with_interruptions(start, stops), whole)


@pytest.mark.parametrize("stops", [{1}, {EPOCH}, {EPOCH - 1, EPOCH, EPOCH + 1}, {STEPS}, set(range(1, STEPS + 1))])
def test_so_does_one_that_was_interrupted_at_the_edge_of_an_epoch_or_at_every_step(start, whole, stops):
    assert_same(fit_with_interruptions(start, stops), whole)


def test_so_does_one_that_was_killed_after_a_save_without_being_asked(start, whole, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)  # save at every step
    states = []
    start().fit(save=lambda state: states.append(copy.deepcopy(state)))
    assert len(states) == STEPS + SETTINGS.epochs
    for state in states[:: len(states) // 4]:
        run = start()
        run.restore(state)
        run.fit()
        assert_same(run, whole)


def test_an_interruption_says_where_it_stopped_and_what_to_do(start):
    run = start()
    with pytest.raises(Interrupted, match="stopped at step 4 of 18; the same command goes on from there"):
        run.fit(interrupted=stopping_at(run, {4}))


def test_a_run_that_was_finished_stays_so(start, whole):
    states = []
    start().fit(save=lambda state: states.append(copy.deepcopy(state)))
    run = start()
    run.restore(states[-1])
    assert run.fit(save=states.append) == "epochs"
    assert len(states) == SETTINGS.epochs
    assert_same(run, whole)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(start, whole):
    torch.rand(3)
    again, other = start(), start(seed=5)
    again.fit()
    other.fit()
    assert_same(again, whole)
    assert other.progress.history[-1]["valid_loss_nats"] != whole.progress.history[-1]["valid_loss_nats"]


def test_training_leaves_the_global_generators_alone(start):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    start(epochs=1).fit()
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_a_row_of_the_history_adds_up(start):
    rows, run = [], start(kl_weight=0.5, kl_warmup=1.0)
    run.fit(on_epoch=rows.append)
    assert rows == run.progress.history
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [EPOCH, 2 * EPOCH, STEPS]
    for row in rows:
        assert row["kl_weight"] == pytest.approx(0.5 * (row["step"] - 1) / STEPS)
        assert row["train_loss_nats"] == pytest.approx(
            row["train_reconstruction_nats"] + row["kl_weight"] * row["train_kl_nats"]
        )
        assert row["valid_loss_nats"] == pytest.approx(row["valid_reconstruction_nats"] + row["valid_kl_nats"])
        assert 0 <= row["valid_token_accuracy"] <= 1 and row["seconds"] > 0 and row["molecules_per_s"] > 0
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_the_first_loss_is_near_that_of_even_odds(start, vocabulary):
    run = start(epochs=1, learning_rate=1e-9)
    run.fit()
    expected = (run.train.lengths.mean() + 1) * math.log(len(vocabulary))
    assert run.progress.history[0]["train_reconstruction_nats"] == pytest.approx(expected, rel=0.1)


def ever_worse(start, tokens) -> Run:
    """A run on six molecules, which say little of the others once they are known by heart."""
    few = tokens.select(np.arange(8, 14))
    return start(train=few, epochs=200, batch_size=3, learning_rate=0.03, patience=4, kl_weight=0.0, kl_warmup=0.0)


def test_a_run_that_gets_worse_stops_early_with_the_weights_of_its_best_epoch(start, tokens):
    run, epochs = ever_worse(start, tokens), []
    assert run.fit(save=lambda state: epochs.append(copy.deepcopy(state))) == "early"
    losses = [row["valid_reconstruction_nats"] for row in run.progress.history]
    best = losses.index(min(losses)) + 1
    assert (run.progress.best_epoch, len(losses)) == (best, best + 4)
    assert best > 1
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, epochs[best - 1].tensors[f"model.{name}"]), name
        assert not torch.equal(weight, epochs[-1].tensors[f"model.{name}"]), name


def test_a_run_that_is_interrupted_after_its_best_epoch_still_ends_in_it(start, tokens):
    whole = ever_worse(start, tokens)
    whole.fit()
    after = 2 * whole.progress.best_epoch + 3  # two steps an epoch: in the second epoch behind the best
    assert_same(fit_with_interruptions(lambda: ever_worse(start, tokens), {after, after + 1}), whole)


def test_patience_does_not_run_out_while_the_kl_weight_rises(start, monkeypatch):
    worse = iter(range(100))
    measured = evaluate

    def worse_and_worse(*arguments):
        return {**measured(*arguments), "valid_kl_nats": 100.0 * next(worse)}

    monkeypatch.setattr(training, "evaluate", worse_and_worse)
    run = start(epochs=8, patience=2, kl_warmup=0.5)
    assert run.fit() == "early"
    assert len(run.progress.history) == 5  # it rises until epoch 4 ends, which counts, as does the fifth
    assert run.progress.best_epoch == 1


def poison(run: Run, step: int, value: float) -> None:
    """Spoil the gradient of a step, counted from 1. Its loss is finite; the weights it leaves are not."""
    run.model.decoder.state_to_logits.bias.register_hook(
        lambda gradient: gradient * value if run.progress.step == step - 1 else None
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("step", [EPOCH + 2, 2 * EPOCH])
def test_a_loss_that_is_not_finite_ends_training_and_nothing_is_saved_after_it(
    start, monkeypatch, step, value, every_step
):
    if every_step:
        monkeypatch.setattr(training, "CHECK_STEPS", 1)
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
    run, saved = start(), []
    poison(run, step, value)
    named = step if every_step else 2 * EPOCH  # the last batch of the epoch is always looked at
    with pytest.raises(TrainingError, match=rf"not finite at step {named} \(epoch 2\).*Lower train\.learning_rate"):
        run.fit(save=lambda state: saved.append(copy.deepcopy(state)))
    assert saved[-1].progress["step"] == (step - 1 if every_step else EPOCH)
    assert all(tensor.isfinite().all() for state in saved for tensor in state.tensors.values())


def test_a_held_out_loss_that_is_not_finite_ends_training_too(start, monkeypatch):
    measured = evaluate
    monkeypatch.setattr(training, "evaluate", lambda *given: {**measured(*given), "valid_loss_nats": math.inf})
    run, saved = start(), []
    with pytest.raises(TrainingError, match=rf"not finite at step {EPOCH}"):
        run.fit(save=saved.append)
    assert not saved and not run.progress.history


def test_an_interruption_does_not_save_a_loss_that_is_not_finite(start):
    run, saved = start(), []
    poison(run, 3, math.nan)
    with pytest.raises(TrainingError, match="not finite at step 3"):
        run.fit(save=saved.append, interrupted=stopping_at(run, {3}))
    assert not saved


def test_held_out_figures_do_not_depend_on_the_batch_size_but_for_the_noise(start, tokens):
    run = start()
    with torch.no_grad():
        run.model.encoder.to_latent.bias[run.model.latent_dim :] = -60.0  # a posterior without spread: no noise
    one, other = (
        evaluate(run.model, tokens, SETTINGS.model_copy(update={"batch_size": size}), CPU) for size in (3, 100)
    )
    assert one == pytest.approx(other, rel=1e-4)


def test_held_out_figures_worked_by_hand(start, tokens):
    run = start()
    figures = evaluate(run.model, tokens, SETTINGS, CPU)
    assert evaluate(run.model, tokens, SETTINGS, CPU) == figures  # the same noise each time
    with torch.inference_mode():
        for parameter in run.model.parameters():
            parameter.zero_()
        run.model.decoder.state_to_logits.bias[7] = 100.0  # always says 7
    figures = evaluate(run.model, tokens, SETTINGS, CPU)
    right = int((tokens.ids == 7).sum())
    count = len(tokens.ids) + len(tokens)  # each molecule has an end
    assert figures["valid_token_accuracy"] == right / count
    assert figures["valid_reconstruction_nats"] == pytest.approx(100 * (count - right) / len(tokens), rel=1e-5)
    assert (figures["valid_kl_nats"], figures["active_units"]) == (0, 0)


def test_a_small_model_learns_twenty_molecules_by_heart(tokens, vocabulary):
    twenty = tokens.select(np.arange(20))
    sizes = ModelSettings(embedding_dim=16, latent_dim=16, encoder_hidden=48, decoder_hidden=64, decoder_layers=1)
    schedule = {"epochs": 60, "batch_size": 10, "learning_rate": 0.03, "kl_weight": 0.003, "kl_warmup": 1.0}
    chosen = TrainSettings(**schedule, patience=999, dropout=0.0, free_nats=0.0)
    run = Run(untrained(len(vocabulary), sizes, 0), twenty, twenty, chosen, CPU)
    run.fit()
    last = run.progress.history[-1]
    assert last["valid_reconstruction_nats"] < 1.0  # of 75 at the start
    assert last["active_units"] > 3
    batch = twenty.batch(np.arange(20))
    with torch.inference_mode():
        mu, _ = run.model.encoder(batch.inputs[1:], batch.lengths)
        logits, _ = run.model.decoder(batch.inputs, mu, run.model.decoder.start(mu))
        assert reconstruction_nats(logits, batch.targets) < 1.0
    strings = decode_points(run.model, mu, torch.zeros(60, 20), temperature=0)
    exact = sum(vocabulary.text(strings.ids[k]) == vocabulary.text(twenty[k]) for k in range(20))
    assert exact >= 17
