"""Model folders and resume files: whole they come back as they were, else a clear error and nothing runs."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from molvae.config import ModelSettings
from molvae.errors import ModelFileError
from molvae.inference.sampling import sample_prior
from molvae.model_io.folder import CARD, WEIGHTS, load_model, load_state, save_model, save_state
from molvae.nn.vae import VAE, untrained
from molvae.training.trainer import State


def edit(folder, change) -> None:
    """Rewrite the card of a model folder."""
    card = json.loads((folder / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))


def test_a_model_comes_back_with_the_same_weights_vocabulary_and_card(folder, network, vocabulary):
    model, known, card = load_model(folder)
    assert known == vocabulary
    assert card["metrics"] == {"epoch": 1}
    assert not model.training
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
        assert model.state_dict()[name].device.type == "cpu"


def test_a_model_that_was_loaded_writes_the_same_samples(folder, network):
    one, other = (
        sample_prior(m, 0, 40, seed=2, temperature=1.0, max_tokens=20) for m in (network, load_model(folder)[0])
    )
    assert (one.ids == other.ids).all()
    assert (one.log_probability == other.log_probability).all()


def test_loading_a_model_leaves_the_global_generator_alone(folder):
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_that_was_loaded_can_be_trained_on(folder):
    model, *_ = load_model(folder)
    model.decoder(torch.full((2, 1), 5), torch.zeros(1, model.latent_dim)).sum().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "remove", "replace_by_a_list"])
def test_a_damaged_or_missing_file_is_named(folder, damage, harm, name):
    damage[harm](folder / name)
    with pytest.raises(ModelFileError, match=rf"{name}: "):
        load_model(folder)


def test_a_folder_that_is_not_there_is_an_error_that_says_what_belongs_there(tmp_path):
    with pytest.raises(ModelFileError, match=r"no such file\. A model folder holds model\.json and model\.safetensors"):
        load_model(tmp_path / "nowhere")


class Bomb:
    """What a pickle would do on opening."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_file_that_carries_code_is_refused_and_the_code_not_run(folder, tmp_path, kind, name):
    crater = tmp_path / "crater"
    if kind == "pickle":
        (folder / name).write_bytes(pickle.dumps(Bomb(crater)))
    elif kind == "torch":
        torch.save({"weights": Bomb(crater)}, folder / name)
    else:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Bomb(crater)))
    with pytest.raises(ModelFileError, match=rf"{name}: damaged"):
        load_model(folder)
    assert not crater.exists()


@pytest.mark.parametrize("version", [None, 0, 1, 3, "2"])
def test_a_card_of_another_version_says_both_versions(folder, version):
    edit(folder, lambda card: card.update(format_version=version))
    with pytest.raises(ModelFileError, match=rf"model\.json: format {version!r}, this molvae reads format 2"):
        load_model(folder)


@pytest.mark.parametrize("key", ["symbols", "caps", "special", "format_version"])
def test_a_vocabulary_without_one_of_its_keys_is_an_error_that_names_file_and_key(folder, key):
    edit(folder, lambda card: card["vocabulary"].pop(key))
    with pytest.raises(ModelFileError, match=rf"model\.json: this is no vocabulary.*{key}"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("settings"),
        lambda card: card["settings"].pop("model"),
        lambda card: card.update(settings=7),
        lambda card: card.update(properties=7),
        lambda card: card.pop("vocabulary"),
    ],
)
def test_a_card_that_lacks_something_is_an_error_that_names_the_file(folder, change):
    edit(folder, change)
    with pytest.raises(ModelFileError, match=r"model\.json: .*(missing or incomplete|no vocabulary)"):
        load_model(folder)


OTHER = ModelSettings(
    variational=False, embedding_dim=6, latent_dim=5, encoder_cell="lstm", encoder_hidden=9, encoder_layers=2,
    encoder_bidirectional=True, decoder_cell="lstm", decoder_hidden=8, decoder_layers=3,
)  # fmt: skip
LEARNED = ModelSettings(embedding_dim=6, latent_dim=4, encoder_hidden=9, prior="mixture", prior_components=3)


def save(folder, vocabulary, sizes) -> VAE:
    model = untrained(len(vocabulary), sizes, 0).eval()
    save_model(folder, model, vocabulary, {"settings": {"model": sizes.model_dump()}})
    return model


@pytest.mark.parametrize("sizes", [OTHER, LEARNED])
def test_models_of_another_make_come_back_too(tmp_path, vocabulary, tokens, sizes):
    model = save(tmp_path, vocabulary, sizes)
    found, *_ = load_model(tmp_path)
    assert (found.variational, type(found.prior)) == (sizes.variational, type(model.prior))
    batch = tokens.batch(range(len(tokens)))
    with torch.inference_mode():
        for one, other in zip(found(batch, torch.ones(1)), model(batch, torch.ones(1)), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        (sizes, key) for sizes in (OTHER, LEARNED) for key, value in sizes.model_dump().items()
        if value != getattr(ModelSettings(), key)
    ],
)  # fmt: skip
def test_a_card_without_a_setting_that_is_not_the_default_does_not_pass_for_one_with_it(
    tmp_path, vocabulary, sizes, key
):
    save(tmp_path, vocabulary, sizes)
    edit(tmp_path, lambda card: card["settings"]["model"].pop(key))
    with pytest.raises(ModelFileError, match=r"the weights do not fit the networks that model\.json describes"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "where"),
    [({"decoder_hidden": size}, "decoder_hidden: Input should be") for size in (0, -1, 10**9, 8.5, None, [8])]
    + [({"encoder_cell": "rnn"}, "encoder_cell: Input should be"), ({"layers": 3}, "layers: there is no such setting"),
       ({"variational": False, "prior": "flow"}, "model: a plain autoencoder has no KL term")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_before_anything_is_built(folder, settings, where):
    edit(folder, lambda card: card["settings"]["model"].update(settings))
    with pytest.raises(ModelFileError, match=rf"model\.json: settings\.(model\.)?{where}"):
        load_model(folder)


def test_a_list_in_place_of_settings_is_refused(folder):
    edit(folder, lambda card: card["settings"].update(model=[1]))
    with pytest.raises(ModelFileError, match=r"model\.json: settings\.model: Input should be a valid dictionary"):
        load_model(folder)


def test_sizes_that_would_fill_the_memory_are_refused_because_the_weights_are_smaller(folder):
    huge = {"decoder_hidden": 8192, "decoder_layers": 4, "encoder_hidden": 8192, "latent_dim": 4096}
    huge |= {"prior": "mixture", "prior_components": 4096}  # 280 GB
    edit(folder, lambda card: card["settings"]["model"].update(huge))
    with pytest.raises(ModelFileError, match=r"model\.safetensors: the weights do not fit the networks"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.popitem(),
        lambda weights: weights.update(extra=torch.zeros(2)),
        lambda weights: weights.update({"encoder.embedding.weight": torch.zeros(3, 6)}),
        lambda weights: weights.clear(),
    ],
)
def test_weights_of_another_model_are_an_error_that_names_the_file(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors: the weights do not fit the networks that model\.json"
    ):
        load_model(folder)


def test_a_vocabulary_of_another_size_does_not_fit_the_weights(folder):
    edit(folder, lambda card: card["vocabulary"]["symbols"].pop())
    with pytest.raises(ModelFileError, match="the weights do not fit"):
        load_model(folder)


def test_writing_a_model_again_replaces_it_whole(folder, network, vocabulary, sizes):
    before = sorted(path.name for path in folder.iterdir())
    with torch.no_grad():
        network.decoder.state_to_logits.bias += 1
    save_model(folder, network, vocabulary, {"settings": {"model": sizes.model_dump()}})
    assert sorted(path.name for path in folder.iterdir()) == before == [CARD, WEIGHTS]
    assert torch.equal(load_model(folder)[0].decoder.state_to_logits.bias, network.decoder.state_to_logits.bias)


STATE = State({"epoch": 2, "sums": {"kl": 0.1 + 0.2}, "best_objective": float("inf"), "history": [{"x": 1 / 3}]},
              {"model.a": torch.rand(3, 2), "optimizer.0.step": torch.tensor(7.0)})  # fmt: skip


def test_a_checkpoint_comes_back_to_the_last_bit(tmp_path):
    save_state(tmp_path / "a", STATE, "print")
    found = load_state(tmp_path / "a", "print")
    assert found.progress == STATE.progress
    assert found.tensors.keys() == STATE.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in STATE.tensors.items())


def test_a_checkpoint_that_the_disk_has_no_room_for_is_an_error_of_the_system(tmp_path):
    program = """if True:
        import resource, sys, torch
        from pathlib import Path
        from molvae.model_io.folder import save_state
        from molvae.training.trainer import State
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            save_state(Path(sys.argv[1]), State({}, {"a": torch.zeros(1000)}), "x")
        except OSError as err:
            print(err.errno, sorted(Path(sys.argv[1]).parent.iterdir()))
    """
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "a.safetensors"], capture_output=True, text=True)
    assert run.stdout == f"{errno.EFBIG} []\n", run.stderr


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    save_state(tmp_path / "a", STATE, "print")
    with pytest.raises(ModelFileError, match="a checkpoint of other settings, data or code. Delete it to train anew"):
        load_state(tmp_path / "a", "another")


@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "remove", "replace_by_a_list"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage, harm):
    save_state(tmp_path / "resume.safetensors", STATE, "print")
    damage[harm](tmp_path / "resume.safetensors")
    with pytest.raises(ModelFileError, match=r"resume\.safetensors: "):
        load_state(tmp_path / "resume.safetensors", "print")
