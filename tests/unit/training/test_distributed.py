"""Several processes that share each batch end in the weights of one process with the whole batch."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from molvae.config import ModelSettings, TrainSettings
from molvae.data.dataset import TokenSet
from molvae.data.token_store import TokenStoreWriter
from molvae.data.vocabulary import Vocabulary
from molvae.errors import Interrupted
from molvae.nn.property_head import PropertyHead
from molvae.nn.vae import untrained
from molvae.runtime.files import write_json
from molvae.stages import train as stage
from molvae.training.distributed import Group, joined
from molvae.training.trainer import AGREE_STEPS, Run

CPU = torch.device("cpu")
SIZES = ModelSettings(embedding_dim=6, latent_dim=5, encoder_hidden=9, decoder_hidden=8, decoder_layers=2)
# 21 molecules in batches of 5: shares of 3 and 2, and a last batch of one, in which the second process has none
MOLECULES = [[4 + (3 * row + step * step) % 11 for step in range(3 + row % 4)] for row in range(21)]
SETTINGS = TrainSettings(epochs=1, batch_size=5, dropout=0.0, kl_schedule="constant", learning_rate=0.01, free_nats=0.5)
CASES = {
    "free nats": (SIZES, SETTINGS),
    "target": (SIZES, SETTINGS.model_copy(update={"target_kl": 2.0})),
    "plain autoencoder": (SIZES.model_copy(update={"variational": False}), SETTINGS),
    "vamp, other spellings": (
        SIZES.model_copy(update={"prior": "vamp", "prior_components": 3, "encoder_bidirectional": True}),
        SETTINGS.model_copy(update={"variant_input": 0.5}),
    ),
    "properties": (SIZES, SETTINGS.model_copy(update={"property_weight": 3.0})),
}
CLOCK = {"seconds", "molecules_per_s"}
LIMIT = 120  # seconds that processes may take to find each other and end


def trained(case: str, group: Group) -> Run:
    sizes, settings = CASES[case]
    tokens = TokenSet.of(MOLECULES)
    variants = TokenSet.of([molecule[::-1] for molecule in MOLECULES])
    model = untrained(15, sizes, 0)
    if case == "properties":
        tokens.values = np.array([[sum(one), np.nan if len(one) == 4 else len(one)] for one in MOLECULES], np.float32)
        model.head = PropertyHead(["sum", "length"], sizes.latent_dim)
        model.head.standardise_by(tokens.values)
    run = Run(model, tokens, tokens, settings, CPU, variants=variants, group=group)
    run.fit()
    return run


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def surroundings(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells each of two processes."""
    return {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def history(run: Run):
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in run.progress.history]


def work(rank: int, ports: tuple[int, int], folder) -> None:
    """One of two processes: trains each case, leaves weights and history; one is told to stop; then the whole stage."""
    torch.set_num_threads(1)
    os.environ |= surroundings(rank, ports[0])
    with joined(CPU) as group:
        assert (group.rank, group.size) == (rank, 2)
        assert group.of_first(rank) == 0 and group.any(rank == 1) and not group.any(False)
        for case in CASES:
            run = trained(case, group)
            weights = {name: weight.contiguous() for name, weight in run.model.state_dict().items()}
            save_file(weights, folder / f"{case}-{rank}.safetensors", {"history": json.dumps(history(run))})
        tokens = TokenSet.of(MOLECULES * 10)
        run = Run(untrained(15, SIZES, 0), tokens, tokens, SETTINGS, CPU, group=group)
        try:
            run.fit(interrupted=lambda: rank == 1 and run.progress.step > 3)
        except Interrupted:
            (folder / f"stopped-{rank}").write_text(str(run.progress.step))
    os.environ |= surroundings(rank, ports[1])
    train_stage(folder, "shared")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of what two processes left, the tokens that they trained on among it."""
    folder = tmp_path_factory.mktemp("pair")
    ids, lengths = [np.concatenate(MOLECULES), np.array([len(molecule) for molecule in MOLECULES])]
    with TokenStoreWriter(folder / "tokens" / "tokens.safetensors", 15, len(lengths), ["train", "valid"]) as store:
        store.write(ids, lengths, ["train"] * 16 + ["valid"] * 5)
    symbols = [f"[C{number:02}]" for number in range(11)]
    write_json(folder / "tokens" / "vocabulary.json", Vocabulary.build(symbols, {"C": 4}).to_json())
    write_json(folder / "tokens" / "books.json", {"dataset": {"dataset": "made up", "sha256": "00"}})
    context, ports = multiprocessing.get_context("spawn"), (free_port(), free_port())
    processes = [context.Process(target=work, args=(rank, ports, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_in_the_weights_and_the_history_of_one(pair, case):
    alone = trained(case, Group())
    for rank in (0, 1):
        found = load_file(pair / f"{case}-{rank}.safetensors")
        assert found.keys() == alone.model.state_dict().keys()
        for name, weight in alone.model.state_dict().items():
            torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023
        with safe_open(pair / f"{case}-{rank}.safetensors", "pt") as file:
            rows = json.loads(file.metadata()["history"])
        assert len(rows) == 1
        for row, expected in zip(rows, history(alone), strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_both_processes_hold_the_same_weights_to_the_last_bit(pair):
    for case in CASES:
        one, other = (load_file(pair / f"{case}-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_all_processes_stop_at_one_step_when_one_of_them_is_told_to(pair):
    assert [(pair / f"stopped-{rank}").read_text() for rank in (0, 1)] == [str(AGREE_STEPS)] * 2


def test_a_process_alone_needs_no_other(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    values, model = torch.rand(2, requires_grad=True), torch.nn.Linear(1, 1)
    with joined(CPU) as group:
        assert group == Group() and group.mean(values) is values and group.wrap(model) is model
        assert group.of_first(7) == 7 and group.any(True) and not group.any(False)


def train_stage(folder, name):
    stage.train(
        folder / "tokens", SIZES, SETTINGS, folder / name / "model",
        checkpoints=folder / name / "checkpoints", device=CPU, threads=1, on_epoch=lambda row: seen(folder, name, row),
    )  # fmt: skip


def seen(folder, name, row) -> None:
    with (folder / f"{name}-epochs").open("a") as file:
        file.write(f"{row['epoch']:.0f} ")


def test_the_stage_in_two_processes_writes_one_model_as_one_process_does(pair):
    train_stage(pair, "alone")
    alone, shared = (pair / name / "model" for name in ("alone", "shared"))
    assert sorted(path.name for path in alone.iterdir()) == sorted(path.name for path in shared.iterdir())
    weights = load_file(shared / "model.safetensors")
    for name, weight in load_file(alone / "model.safetensors").items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    cards = [json.loads((folder / "model.json").read_text()) for folder in (alone, shared)]
    assert [card["training"]["processes"] for card in cards] == [1, 2]
    assert cards[0]["lineage"]["id"] == cards[1]["lineage"]["id"]
    assert cards[1]["metrics"]["valid_loss_nats"] == pytest.approx(cards[0]["metrics"]["valid_loss_nats"], rel=1e-4)
    assert (alone / "books.json").read_bytes() == (shared / "books.json").read_bytes()
    assert (pair / "alone-epochs").read_text() == (pair / "shared-epochs").read_text() == "1 "  # said by one only
    assert not list((pair / "shared" / "checkpoints").iterdir())
