"""Several processes that train together end in the weights of one process that is given the whole batches."""

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
from molvae.nn.vae import init_vae
from molvae.runtime.files import write_json
from molvae.stages import train as stage
from molvae.training.distributed import ProcessGroup, join_process_group
from molvae.training.trainer import STOP_VOTE_STEPS, Trainer

CPU = torch.device("cpu")
SIZES = ModelSettings(embedding_dim=6, latent_dim=5, encoder_hidden=9, decoder_hidden=8, decoder_layers=2)
# 21 molecules in batches of 5: parts of 3 and 2, and a last batch of one, in which the second process has none
MOLECULES = [[4 + (3 * row + step * step) % 11 for step in range(3 + row % 4)] for row in range(21)]
SETTINGS = TrainSettings(
    epochs=1, batch_size=5, dropout=0.0, kl_schedule="constant", learning_rate=0.01, free_nats=0.5, precision="float32"
)
CASES = {
    "free nats": (SIZES, SETTINGS),
    "target": (SIZES, SETTINGS.model_copy(update={"target_kl": 2.0})),
    "plain autoencoder": (SIZES.model_copy(update={"variational": False}), SETTINGS),
    "vamp, augmentation": (
        SIZES.model_copy(update={"prior": "vamp", "prior_components": 3, "encoder_bidirectional": True}),
        SETTINGS.model_copy(update={"augmentation_prob": 0.5}),
    ),
    "properties": (SIZES, SETTINGS.model_copy(update={"property_weight": 3.0})),
}
CLOCK = {"seconds", "molecules_per_s"}
TIMEOUT = 120  # seconds that processes may take to find each other and end


def train_case(case: str, group: ProcessGroup) -> Trainer:
    """Train a network as the case says."""
    sizes, settings = CASES[case]
    tokens = TokenSet.from_lists(MOLECULES)
    augmentations = TokenSet.from_lists([molecule[::-1] for molecule in MOLECULES])
    model = init_vae(15, sizes, 0)
    if case == "properties":
        values = [[sum(molecule), np.nan if len(molecule) == 4 else len(molecule)] for molecule in MOLECULES]
        tokens.properties = np.array(values, np.float32)
        model.head = PropertyHead(["sum", "length"], sizes.latent_dim)
        model.head.fit_scaler(tokens.properties)
    trainer = Trainer(model, tokens, tokens, settings, CPU, augmentations=augmentations, group=group)
    trainer.fit()
    return trainer


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def make_environment(rank: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for each of two processes."""
    return {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def drop_clock(trainer: Trainer):
    """The history of a trainer without the columns that hold times."""
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in trainer.progress.history]


def train_in_process(rank: int, ports: tuple[int, int], folder) -> None:
    """One of two processes: trains each case and saves weights and history, is asked to stop, and runs the stage."""
    torch.set_num_threads(1)
    os.environ |= make_environment(rank, ports[0])
    with join_process_group(CPU) as group:
        assert (group.rank, group.size) == (rank, 2)
        assert group.broadcast(rank) == 0 and group.is_any(rank == 1) and not group.is_any(False)
        for case in CASES:
            trainer = train_case(case, group)
            weights = {name: weight.contiguous() for name, weight in trainer.model.state_dict().items()}
            metadata = {"history": json.dumps(drop_clock(trainer))}
            save_file(weights, folder / f"{case}-{rank}.safetensors", metadata)
        tokens = TokenSet.from_lists(MOLECULES * 10)
        trainer = Trainer(init_vae(15, SIZES, 0), tokens, tokens, SETTINGS, CPU, group=group)
        try:
            trainer.fit(should_stop=lambda: rank == 1 and trainer.progress.step > 3)
        except Interrupted:
            (folder / f"stopped-{rank}").write_text(str(trainer.progress.step))
    os.environ |= make_environment(rank, ports[1])
    run_stage(folder, "shared")


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory):
    """The folder with the results of two processes, and the tokens that they trained on."""
    path = tmp_path_factory.mktemp("pair")
    ids, lengths = [np.concatenate(MOLECULES), np.array([len(molecule) for molecule in MOLECULES])]
    with TokenStoreWriter(path / "tokens" / "tokens.safetensors", 15, len(lengths), ["train", "valid"]) as store:
        store.write(ids, lengths, ["train"] * 16 + ["valid"] * 5)
    symbols = [f"[C{number:02}]" for number in range(11)]
    write_json(path / "tokens" / "vocabulary.json", Vocabulary.build(symbols, {"C": 4}).to_json())
    write_json(path / "tokens" / "counts.json", {"dataset": {"dataset": "made up", "sha256": "00"}})
    context, ports = multiprocessing.get_context("spawn"), (find_free_port(), find_free_port())
    processes = [context.Process(target=train_in_process, args=(rank, ports, path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    return path


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_in_the_weights_and_the_history_of_one(pair_folder, case):
    alone = train_case(case, ProcessGroup())
    for rank in (0, 1):
        weights = load_file(pair_folder / f"{case}-{rank}.safetensors")
        assert weights.keys() == alone.model.state_dict().keys()
        for name, weight in alone.model.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023
        with safe_open(pair_folder / f"{case}-{rank}.safetensors", "pt") as file:
            rows = json.loads(file.metadata()["history"])
        assert len(rows) == 1
        for row, expected in zip(rows, drop_clock(alone), strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_two_processes_hold_the_same_weights_to_the_last_bit(pair_folder):
    for case in CASES:
        first, second = (load_file(pair_folder / f"{case}-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_two_processes_stop_at_the_same_step_when_one_of_them_is_asked_to(pair_folder):
    assert [(pair_folder / f"stopped-{rank}").read_text() for rank in (0, 1)] == [str(STOP_VOTE_STEPS)] * 2


def test_process_group_of_one_communicates_with_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    values, model = torch.rand(2, requires_grad=True), torch.nn.Linear(1, 1)
    with join_process_group(CPU) as group:
        assert group == ProcessGroup() and group.average(values) is values and group.wrap(model) is model
        assert group.broadcast(7) == 7 and group.is_any(True) and not group.is_any(False)


def run_stage(folder, name):
    """Run the stage `train` into the folder of this name, and record each epoch that it reports."""

    def record_epoch(row) -> None:
        with (folder / f"{name}-epochs").open("a") as file:
            file.write(f"{row['epoch']:.0f} ")

    stage.train(
        folder / "tokens",
        SIZES,
        SETTINGS,
        folder / name / "model",
        checkpoints=folder / name / "checkpoints",
        device=CPU,
        threads=1,
        on_epoch=record_epoch,
    )


def test_training_stage_in_two_processes_writes_the_one_model_that_it_writes_in_one_process(pair_folder):
    run_stage(pair_folder, "alone")
    alone, shared = (pair_folder / name / "model" for name in ("alone", "shared"))
    assert sorted(path.name for path in alone.iterdir()) == sorted(path.name for path in shared.iterdir())
    weights = load_file(shared / "model.safetensors")
    for name, weight in load_file(alone / "model.safetensors").items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    cards = [json.loads((model / "model.json").read_text()) for model in (alone, shared)]
    assert [card["training"]["processes"] for card in cards] == [1, 2]
    assert cards[0]["provenance"]["id"] == cards[1]["provenance"]["id"]
    assert cards[1]["metrics"]["valid_loss_nats"] == pytest.approx(cards[0]["metrics"]["valid_loss_nats"], rel=1e-4)
    assert (alone / "counts.json").read_bytes() == (shared / "counts.json").read_bytes()
    epochs = [(pair_folder / f"{name}-epochs").read_text() for name in ("alone", "shared")]
    assert epochs == ["1 ", "1 "]  # of two processes only one reports
    assert not list((pair_folder / "shared" / "checkpoints").iterdir())
