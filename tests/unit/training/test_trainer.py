"""The training loop: exact resumption, early stopping, and that it learns."""

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
from molvae.inference.decoding import decode_points
from molvae.nn.losses import reconstruction_nats
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import untrained
from molvae.training import trainer
from molvae.training.trainer import Run, evaluate, is_collapsed

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=3, batch_size=5, learning_rate=0.01, patience=9, seed=4)
VALID = 6  # the first so many molecules are held out: 26 are left, 6 steps an epoch, 18 in all
EPOCH, STEPS = 6, 18
CLOCK = {"seconds", "molecules_per_s"}


@pytest.fixture(scope="module")
def start(tokens, vocabulary, sizes):
    """start(**settings) makes a run from the same first weights each time; settings of `model` or of `train`."""

    def make(train=None, valid=None, variants=None, head=False, **changes) -> Run:
        of_model = {name: changes.pop(name) for name in list(changes) if name in ModelSettings.model_fields}
        chosen, rows = SETTINGS.model_copy(update=changes), np.arange(len(tokens))
        train, valid = train or tokens.select(rows[VALID:]), valid or tokens.select(rows[:VALID])
        model = untrained(len(vocabulary), sizes.model_copy(update=of_model), chosen.seed)
        if head:
            train, valid = with_values(train), with_values(valid)
            model.head = PropertyHead(["first", "length"], model.latent_dim)
            model.head.standardise_by(train.values)
        return Run(model, train, valid, chosen, CPU, variants=variants)

    return make


@pytest.fixture(scope="module")
def whole(start):
    run = start()
    assert run.steps == STEPS
    assert run.fit() == "epochs"
    return run


def with_values(tokens: TokenSet) -> TokenSet:
    """Two properties of each molecule, the id of its first token and its length, of which every fifth is not known."""
    values = np.stack([tokens.ids[tokens.offsets[:-1]], tokens.lengths], 1).astype(np.float32)
    values[::5, 1] = np.nan
    return TokenSet(tokens.ids, tokens.offsets, values)


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
    monkeypatch.setattr(trainer, "SAVE_SECONDS", -1.0)  # save at every step
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
    rows, run = [], start(kl_weight=0.5, kl_warmup=1.0, kl_schedule="linear", free_nats=0.1)
    run.fit(on_epoch=rows.append)
    assert rows == run.progress.history
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
    assert np.sum(run.progress.kl_by_dimension, axis=1) == pytest.approx([row["valid_kl_nats"] for row in rows])


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
        found, by_dimension = measured(*arguments)
        return {**found, "valid_kl_nats": 100.0 * next(worse)}, by_dimension

    monkeypatch.setattr(trainer, "evaluate", worse_and_worse)
    run = start(epochs=8, patience=2, kl_warmup=0.5, kl_schedule="linear")
    assert run.fit() == "early"
    assert len(run.progress.history) == 6  # the weight is whole from the first step of epoch 5: it and the sixth count
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
        monkeypatch.setattr(trainer, "CHECK_STEPS", 1)
        monkeypatch.setattr(trainer, "SAVE_SECONDS", -1.0)
    run, saved = start(), []
    poison(run, step, value)
    named = step if every_step else 2 * EPOCH  # the last batch of the epoch is always looked at
    with pytest.raises(TrainingError, match=rf"not finite at step {named} \(epoch 2\).*Lower train\.learning_rate"):
        run.fit(save=lambda state: saved.append(copy.deepcopy(state)))
    assert saved[-1].progress["step"] == (step - 1 if every_step else EPOCH)
    assert all(tensor.isfinite().all() for state in saved for tensor in state.tensors.values())


def test_a_held_out_loss_that_is_not_finite_ends_training_too(start, monkeypatch):
    measured = evaluate
    monkeypatch.setattr(trainer, "evaluate", lambda *given: (measured(*given)[0] | {"valid_loss_nats": math.inf}, []))
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
    assert one[0] == pytest.approx(other[0], rel=1e-4)
    assert one[1] == pytest.approx(other[1], rel=1e-4)


def test_held_out_figures_worked_by_hand(start, tokens):
    run = start()
    assert evaluate(run.model, tokens, SETTINGS, CPU) == evaluate(run.model, tokens, SETTINGS, CPU)  # the same noise
    with torch.inference_mode():
        for parameter in run.model.parameters():
            parameter.zero_()
        run.model.decoder.state_to_logits.bias[7] = 100.0  # always says 7
    figures, by_dimension = evaluate(run.model, tokens, SETTINGS, CPU)
    right = int((tokens.ids == 7).sum())
    count = len(tokens.ids) + len(tokens)  # each molecule has an end
    assert figures["valid_token_accuracy"] == right / count
    assert figures["valid_reconstruction_nats"] == pytest.approx(100 * (count - right) / len(tokens), rel=1e-5)
    assert (figures["valid_kl_nats"], figures["active_units"], by_dimension) == (0, 0, [0.0] * 5)
    assert figures["mutual_information_nats"] == pytest.approx(0, abs=1e-9)
    assert figures["valid_exact_reconstruction"] == 0


def test_a_run_with_properties_ends_in_the_same_weights_wherever_it_was_interrupted(start):
    make = partial(start, head=True, property_weight=2.0)
    whole = make()
    whole.fit()
    assert whole.model.head.linear.weight.abs().min() > 0 and whole.model.head.log_noise.abs().min() > 0
    assert_same(fit_with_interruptions(make, {2, EPOCH, EPOCH + 3}), whole)


def test_properties_have_their_part_in_the_loss_and_columns_of_their_own(start, whole):
    run = start(head=True, property_weight=2.0, kl_weight=0.5, free_nats=0.0)
    run.fit()
    for row in run.progress.history:
        assert row["train_loss_nats"] == pytest.approx(
            row["train_reconstruction_nats"] + row["kl_weight"] * row["train_kl_nats"] + 2 * row["train_property_nats"]
        )
        assert row["valid_loss_nats"] == pytest.approx(row["valid_reconstruction_nats"] + row["valid_kl_nats"])
        assert {name for name in row if "property" in name or "r2" in name} == {
            "train_property_nats", "valid_property_nats", "valid_r2_length"
        }  # fmt: skip
        # not of first: all that are held out begin with a carbon
    best = min(
        run.progress.history,
        key=lambda row: row["valid_reconstruction_nats"] + 0.5 * row["valid_kl_nats"] + 2 * row["valid_property_nats"],
    )
    assert run.progress.best_epoch == best["epoch"]
    assert not any("property" in name or "r2" in name for name in whole.progress.history[0])
    batch = run.valid.batch(np.arange(len(run.valid)))
    with torch.inference_mode():
        told = run.model.head(run.model.encoder(*batch.read)[0])
    assert best["valid_r2_length"] == pytest.approx(run.model.head.r_squared(told, batch.values)["length"], abs=1e-4)


def test_a_head_draws_the_property_into_the_latent_space(start, tokens):
    """Values that have nothing to do with the molecules: five untaught dimensions tell a sixth of them."""
    values = np.random.default_rng(0).normal(size=(len(tokens), 2)).astype(np.float32)
    all_of_them = TokenSet(tokens.ids, tokens.offsets, values)
    run = start(all_of_them, all_of_them, epochs=100, property_weight=20.0, kl_weight=0.01, free_nats=0.0, patience=999)
    run.model.head = PropertyHead(["one", "other"], run.model.latent_dim)
    run = Run(run.model, all_of_them, all_of_them, run.settings, CPU)
    run.fit()
    last = run.progress.history[-1]
    assert last["valid_r2_one"] > 0.6 and last["valid_r2_other"] > 0.6


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
        logits = run.model.decoder(batch.inputs, mu)
        assert reconstruction_nats(logits, batch.targets) < 1.0
    strings = decode_points(run.model, mu, torch.zeros(60, 20), temperature=0)
    exact = sum(vocabulary.text(strings.ids[k]) == vocabulary.text(twenty[k]) for k in range(20))
    assert exact >= 17
    assert last["valid_exact_reconstruction"] == exact / 20
    assert last["mutual_information_nats"] > 2 and not is_collapsed(last)  # of log 20 = 3.0


MAKES = {
    "lstm": {"encoder_cell": "lstm", "decoder_cell": "lstm"},
    "both directions": {"encoder_bidirectional": True, "encoder_layers": 2},
    "mixture": {"prior": "mixture", "prior_components": 3},
    "vamp": {"prior": "vamp", "prior_components": 3},
    "flow": {"prior": "flow"},
    "word dropout": {"word_dropout": 0.4},
    "other spellings": {"variant_input": 0.5},
    "plain autoencoder": {"variational": False},
    "target, in cycles": {"target_kl": 2.0, "kl_schedule": "cyclical"},
}


def spelled(tokens, each: int = 2) -> TokenSet:
    """So many variants of each training molecule: its tokens turned round by some steps, so that all differ."""
    rows = [tokens[row].tolist() for row in range(VALID, len(tokens))]
    return TokenSet.of([row[-turn:] + row[:-turn] for row in rows for turn in range(1, each + 1)])


@pytest.fixture(scope="module")
def usual(start):
    run = start(free_nats=0.1, epochs=2)
    run.fit()
    return run


@pytest.mark.parametrize("make", MAKES)
def test_a_run_of_any_make_is_the_same_again_and_the_same_after_interruptions(start, usual, tokens, make):
    def again() -> Run:
        return start(variants=spelled(tokens), free_nats=0.1, epochs=2, **MAKES[make])

    torch.rand(3)
    undisturbed = again()
    undisturbed.fit()
    assert_same(fit_with_interruptions(again, {1, EPOCH + 2}), undisturbed)
    assert without_clock(undisturbed.progress.history) != without_clock(usual.progress.history)  # the make tells
    assert all(weight.isfinite().all() for weight in undisturbed.model.state_dict().values())


def test_the_loss_of_a_plain_autoencoder_has_no_kl_term(start):
    one, other = start(variational=False), start(variational=False, kl_weight=50.0, target_kl=7.0, free_nats=9.0)
    for run in (one, other):
        run.fit()
        assert run.progress.kl_by_dimension == [[]] * 3
        for row in run.progress.history:
            assert row["train_kl_nats"] == row["valid_kl_nats"] == 0
            assert row["train_loss_nats"] == row["train_reconstruction_nats"]
            assert "mutual_information_nats" not in row
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_a_latent_space_that_is_not_used_is_said_loudly_once_the_kl_weight_is_up(start, caplog):
    run = start(kl_weight=50.0, free_nats=0.0, kl_schedule="constant")
    run.fit()
    assert all(is_collapsed(row) for row in run.progress.history)
    said = [entry for entry in caplog.records if "POSTERIOR COLLAPSE" in entry.getMessage()]
    assert len(said) == 3 and {entry.levelname for entry in said} == {"WARNING"}
    assert "Raise train.free_nats or lower train.kl_weight" in said[0].getMessage()
    caplog.clear()
    start(epochs=3, kl_weight=50.0, free_nats=0.0, kl_schedule="linear", kl_warmup=1.0).fit()
    assert caplog.text.count("COLLAPSE") == 1  # a weight that rises to the end is judged at the end
    caplog.clear()
    start(epochs=1, variational=False).fit()
    assert "COLLAPSE" not in caplog.text


def source_of(run: Run, rows) -> list[list[int]]:
    """What the encoder reads in place of these molecules."""
    ids, lengths = run._batch(np.array(rows), np.arange(len(rows))).read
    return [column[:length].tolist() for column, length in zip(ids.T, lengths.tolist(), strict=True)]


def test_the_encoder_reads_the_variants_of_its_own_molecule_and_all_of_them_in_turn(start, tokens):
    variants = spelled(tokens, each=3)
    run, rows = start(variants=variants, variant_input=1.0), [4, 0, 25, 4, 13]
    seen: dict[int, set] = {row: set() for row in rows}
    for step in range(60):
        run.progress.step = step
        assert source_of(run, rows) == source_of(run, rows)  # a function of the step
        for row, ids in zip(rows, source_of(run, rows), strict=True):
            seen[row].add(tuple(ids))
    for row in rows:
        assert seen[row] == {tuple(variants[row * 3 + k].tolist()) for k in range(3)}


def test_a_fraction_of_the_molecules_is_read_in_another_spelling_and_the_rest_as_it_is(start, tokens):
    run, rows = start(variants=spelled(tokens), variant_input=0.25), list(range(26))
    changed = []
    for step in range(100):
        run.progress.step = step
        changed += [ids != run.train[row].tolist() for row, ids in zip(rows, source_of(run, rows), strict=True)]
    distinct = np.mean([len(set(run.train[row].tolist())) > 1 for row in rows])
    assert np.mean(changed) == pytest.approx(0.25 * distinct, abs=0.04)  # 2600 draws: 4.7 standard errors
    batch = run._batch(np.array(rows), np.arange(26))
    assert torch.equal(batch.inputs, run.train.batch(np.array(rows)).inputs)  # the decoder's is never another
    assert start(variants=spelled(tokens))._batch(np.array(rows), np.arange(26)).source is None


def test_word_dropout_hides_the_fraction_of_tokens_it_is_told_and_never_the_beginning(start):
    run = start(word_dropout=0.3)
    run.generator.manual_seed(0)
    batch = run.train.batch(np.arange(26))
    written = torch.cat([run._written(batch) for _ in range(20)], dim=1)
    inputs = batch.inputs.repeat(1, 20)
    hidden = written != inputs
    assert (written[hidden] == UNK).all() and not hidden[0].any()
    assert hidden[1:].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert start()._written(batch) is batch.inputs


def test_bfloat16_is_for_gpus_and_changes_nothing_on_a_cpu(start, whole):
    run = start(precision="bfloat16")
    run.fit()
    assert_same(run, whole)
