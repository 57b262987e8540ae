"""A training run that cannot fit into memory is refused before it takes any."""

from __future__ import annotations

import re
import tracemalloc
from types import SimpleNamespace

import psutil
import pytest
import torch

from molvae.config import FeaturizeSettings, ModelSettings, TrainSettings
from molvae.errors import TrainingError
from molvae.nn.vae import VAE
from molvae.training.memory import OUT_OF_MEMORY_ADVICE, SETTINGS_TO_LOWER, check_memory, estimate_memory

CPU = torch.device("cpu")
SIZES = ModelSettings(embedding_dim=6, latent_dim=5, encoder_hidden=9, decoder_hidden=8, decoder_layers=2)


@pytest.fixture
def set_free_memory(monkeypatch):
    """A function that makes so many GiB of memory appear free."""

    def set_to(gib: float) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gib * 2**30)))

    return set_to


def test_memory_check_passes_a_run_that_fits(set_free_memory):
    set_free_memory(1)
    check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "max_tokens", "setting"),
    [
        ({"encoder_hidden": 8192, "decoder_hidden": 8192, "decoder_layers": 4}, 1, 10, "model.decoder_hidden"),
        ({"prior": "mixture", "prior_components": 4096, "latent_dim": 1024}, 1, 10, "model.decoder_hidden"),
        ({}, 10**7, 128, "train.batch_size (or featurize.max_tokens)"),
        ({"encoder_bidirectional": True, "encoder_cell": "lstm"}, 10**6, 4096, "train.batch_size"),
    ],
)
def test_memory_check_refuses_a_run_that_does_not_fit_with_needed_and_free_memory_and_the_setting_to_lower(
    set_free_memory, sizes, batch_size, max_tokens, setting
):
    set_free_memory(2)
    model = SIZES.model_copy(update=sizes)
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in VAE(500, model).parameters())
    needed = estimate_memory(model, batch_size, 500, max_tokens, parameters)
    tracemalloc.start()
    before = psutil.Process().memory_info().rss
    with pytest.raises(TrainingError) as error:
        check_memory(model, batch_size, 500, max_tokens, CPU)
    assert tracemalloc.get_traced_memory()[1] < 2**24 and psutil.Process().memory_info().rss - before < 2**28
    tracemalloc.stop()
    message = str(error.value)
    assert f"needs about {sum(needed.values()) / 2**30:.1f} GiB on cpu, 2.0 GiB are free" in message
    assert f"Lower {setting}" in message and f"takes {max(needed.values()) / 2**30:.1f} GiB" in message


def test_memory_check_leaves_the_global_generator_alone(set_free_memory):
    set_free_memory(1)
    before = torch.get_rng_state()
    check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_check_passes_a_run_that_needs_exactly_the_free_memory(set_free_memory):
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in VAE(30, SIZES).parameters())
    total = sum(estimate_memory(SIZES, TrainSettings().batch_size, 30, 40, parameters).values())
    set_free_memory(total / 2**30)
    check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)
    set_free_memory((total - 1) / 2**30)
    with pytest.raises(TrainingError):
        check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)


@pytest.mark.parametrize(("cell", "bidirectional"), [("gru", False), ("lstm", False), ("gru", True)])
def test_memory_estimate_of_activations_is_of_the_size_of_the_tensors_that_autograd_saves(cell, bidirectional, tokens):
    sizes = ModelSettings(
        embedding_dim=32,
        latent_dim=16,
        encoder_hidden=64,
        decoder_hidden=96,
        decoder_layers=2,
        encoder_cell=cell,
        decoder_cell=cell,
        encoder_bidirectional=bidirectional,
    )
    model, batch = VAE(40, sizes), tokens.collate(range(len(tokens)))
    estimate = estimate_memory(sizes, len(tokens), 40, len(batch.inputs), 0)["activations"]
    saved_bytes: dict[int, int] = {}  # by address

    def record(tensor):
        storage = tensor.untyped_storage()
        saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        output = model(batch, torch.randn(len(tokens), 16))
    nodes = iter_graph(output.terms.reconstruction.grad_fn)
    kernel_tensors = [tensor for node in nodes for tensor in getattr(node, "work", ())]  # the GRU kernel saves its own
    assert bool(kernel_tensors) == (cell == "gru")
    for tensor in kernel_tensors:
        record(tensor)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    total = sum(size for address, size in saved_bytes.items() if address not in weights)
    assert total / 3 < estimate < 1.2 * total  # torch's LSTM keeps more on a CPU than it needs


def iter_graph(node, visited=None):
    """Yield all nodes of a graph of autograd."""
    visited = set() if visited is None else visited
    if node is not None and node not in visited:
        visited.add(node)
        yield node
        for following, _ in node.next_functions:
            yield from iter_graph(following, visited)


def test_memory_advice_names_settings_that_exist():
    texts = [OUT_OF_MEMORY_ADVICE, *SETTINGS_TO_LOWER.values()]
    named = {name for text in texts for name in re.findall(r"(?:train|featurize|model)\.\w+", text)}
    assert named == {"train.batch_size", "featurize.max_tokens", "model.decoder_hidden"}
    assert "batch_size" in TrainSettings.model_fields
    assert "max_tokens" in FeaturizeSettings.model_fields
    assert "decoder_hidden" in ModelSettings.model_fields
