"""A run that cannot fit is refused before it takes anything."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import psutil
import pytest
import torch

from molvae.config import ModelSettings, TrainSettings
from molvae.errors import TrainingError
from molvae.nn.vae import VAE
from molvae.training import memory
from molvae.training.memory import check_memory, needed_bytes

CPU = torch.device("cpu")
SIZES = ModelSettings(embedding_dim=6, latent_dim=5, encoder_hidden=9, decoder_hidden=8, decoder_layers=2)


@pytest.fixture
def free(monkeypatch):
    """free(gib) makes that much memory be free."""

    def make(gib: float) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gib * 2**30)))

    return make


def test_what_fits_passes(free):
    free(1)
    check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "longest", "setting"),
    [
        ({"encoder_hidden": 8192, "decoder_hidden": 8192, "decoder_layers": 4}, 1, 10, "model.decoder_hidden"),
        ({"prior": "mixture", "prior_components": 4096, "latent_dim": 1024}, 1, 10, "model.decoder_hidden"),
        ({}, 10**7, 128, "train.batch_size (or featurize.max_tokens)"),
        ({"encoder_bidirectional": True, "encoder_cell": "lstm"}, 10**6, 4096, "train.batch_size"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_needed_what_is_free_and_the_setting_to_lower(
    free, sizes, batch_size, longest, setting
):
    free(2)
    model = SIZES.model_copy(update=sizes)
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in VAE(500, model).parameters())
    needed = needed_bytes(model, batch_size, 500, longest, parameters)
    tracemalloc.start()
    before = psutil.Process().memory_info().rss
    with pytest.raises(TrainingError) as caught:
        check_memory(model, batch_size, 500, longest, CPU)
    assert tracemalloc.get_traced_memory()[1] < 2**24 and psutil.Process().memory_info().rss - before < 2**28
    tracemalloc.stop()
    message = str(caught.value)
    assert f"needs about {sum(needed.values()) / 2**30:.1f} GiB on cpu, 2.0 GiB are free" in message
    assert f"Lower {setting}" in message and f"takes {max(needed.values()) / 2**30:.1f} GiB" in message


def test_counting_leaves_the_global_generator_alone(free):
    free(1)
    before = torch.get_rng_state()
    check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_limit_is_exact(free):
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in VAE(30, SIZES).parameters())
    total = sum(needed_bytes(SIZES, TrainSettings().batch_size, 30, 40, parameters).values())
    free(total / 2**30)
    check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)
    free((total - 1) / 2**30)
    with pytest.raises(TrainingError):
        check_memory(SIZES, TrainSettings().batch_size, 30, 40, CPU)


@pytest.mark.parametrize(("cell", "both"), [("gru", False), ("lstm", False), ("gru", True)])
def test_the_estimate_is_from_below_and_of_the_right_size(cell, both, tokens):
    """Held against the tensors that autograd saves on the way forward."""
    sizes = ModelSettings(
        embedding_dim=32, latent_dim=16, encoder_hidden=64, decoder_hidden=96, decoder_layers=2,
        encoder_cell=cell, decoder_cell=cell, encoder_bidirectional=both,
    )  # fmt: skip
    model, batch = VAE(40, sizes), tokens.batch(range(len(tokens)))
    estimate = needed_bytes(sizes, len(tokens), 40, len(batch.inputs), 0)["train.batch_size (or featurize.max_tokens)"]
    kept: dict[int, int] = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        terms = model(batch, torch.randn(len(tokens), 16))
    for node in walk(terms.reconstruction.grad_fn):
        for tensor in getattr(node, "made", ()):
            note(tensor)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    total = sum(size for place, size in kept.items() if place not in weights)
    assert total / 3 < estimate < 1.2 * total  # torch's LSTM keeps more on a CPU than it needs


def walk(node, seen=None):
    """All nodes of a graph of autograd."""
    seen = set() if seen is None else seen
    if node is not None and node not in seen:
        seen.add(node)
        yield node
        for following, _ in node.next_functions:
            yield from walk(following, seen)


def test_the_advice_names_settings_that_there_are():
    for name in ("batch_size",):
        assert f"train.{name}" in memory.LOWER_MEMORY and name in TrainSettings.model_fields
    assert "featurize.max_tokens" in memory.LOWER_MEMORY and "decoder_hidden" in ModelSettings.model_fields
