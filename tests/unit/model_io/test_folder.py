"""Model folders and checkpoints: a whole one loads as it was saved, a damaged one is an error, and no code is run."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from molvae.config import ModelSettings
from molvae.errors import ModelFileError
from molvae.inference.sampling import SamplingOptions, sample_prior
from molvae.model_io.card import read_vocabulary
from molvae.model_io.folder import (
    CARD_FILE,
    PRIOR_CARD_FILE,
    PRIOR_WEIGHTS_FILE,
    WEIGHTS_FILE,
    load_model,
    read_model_settings,
    save_model,
    save_prior,
)
from molvae.model_io.loading import open_model
from molvae.model_io.pretrained import resolve_model_folder
from molvae.model_io.tensors import write_tensors
from molvae.nn.priors import build_prior
from molvae.nn.vae import VAE, init_vae
from molvae.runtime.files import compute_sha256
from molvae.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint


def edit_card(folder, change) -> None:
    """Rewrite the card of a model folder, on purpose: without its checksums."""
    card = json.loads((folder / CARD_FILE).read_text())
    card.pop("checksums", None)
    change(card)
    (folder / CARD_FILE).write_text(json.dumps(card))


def test_loaded_model_has_the_same_weights_vocabulary_and_card(folder, network, vocabulary):
    model = load_model(folder)
    assert model.vocabulary == vocabulary
    assert model.card["metrics"] == {"epoch": 1}
    assert not model.network.training
    weights = model.network.state_dict()
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, weights[name]), name
        assert weights[name].device.type == "cpu"


def test_loaded_model_gives_the_same_samples(folder, network):
    options = SamplingOptions(seed=2, max_tokens=20)
    samples, expected = (sample_prior(model, 0, 40, options) for model in (load_model(folder).network, network))
    assert (samples.ids == expected.ids).all()
    assert (samples.log_probability == expected.log_probability).all()


def test_model_loading_leaves_the_global_generator_alone(folder):
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(before, torch.get_rng_state())


def test_loaded_model_can_be_trained(folder):
    network = load_model(folder).network
    network.decoder(torch.full((2, 1), 5), torch.zeros(1, network.latent_dim)).sum().backward()
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", [CARD_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "remove", "replace_by_a_list"])
def test_model_loading_names_a_damaged_or_missing_file(folder, damage, harm, name):
    damage[harm](folder / name)
    with pytest.raises(ModelFileError, match=rf"{name}: "):
        load_model(folder)


def test_model_loading_from_a_missing_folder_names_the_files_of_a_model_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r"no such file\. A model folder holds model\.json and model\.safetensors"):
        load_model(tmp_path / "nowhere")


class Bomb:
    """An object whose pickle makes a folder when it is opened."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
@pytest.mark.parametrize("name", [CARD_FILE, WEIGHTS_FILE])
def test_model_loading_refuses_a_file_with_code_and_does_not_run_it(folder, tmp_path, kind, name):
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


@pytest.mark.parametrize("version", [None, 0, 1, 2, 4, "3"])
def test_model_card_of_another_format_is_refused_with_both_format_versions(folder, version):
    edit_card(folder, lambda card: card.update(format_version=version))
    with pytest.raises(ModelFileError, match=rf"model\.json: format {version!r}, this molvae reads format 3"):
        load_model(folder)


@pytest.mark.parametrize("key", ["symbols", "constraints", "special", "format_version"])
def test_model_card_whose_vocabulary_lacks_a_key_is_refused_with_file_and_key(folder, key):
    edit_card(folder, lambda card: card["vocabulary"].pop(key))
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
def test_model_card_that_lacks_a_section_or_key_is_refused_with_its_file(folder, change):
    edit_card(folder, change)
    with pytest.raises(ModelFileError, match=r"model\.json: .*(missing or incomplete|no vocabulary)"):
        load_model(folder)


AUTOENCODER = ModelSettings(
    variational=False,
    embedding_dim=6,
    latent_dim=5,
    encoder_cell="lstm",
    encoder_hidden=9,
    encoder_layers=2,
    encoder_bidirectional=True,
    decoder_cell="lstm",
    decoder_hidden=8,
    decoder_layers=3,
)
MIXTURE = ModelSettings(embedding_dim=6, latent_dim=4, encoder_hidden=9, prior="mixture", prior_components=3)
SETTINGS = {"autoencoder": AUTOENCODER, "mixture": MIXTURE}
NON_DEFAULTS = [
    (name, key)
    for name, settings in SETTINGS.items()
    for key, value in settings.model_dump().items()
    if value != getattr(ModelSettings(), key)
]


def save_random_model(folder, vocabulary, sizes) -> VAE:
    """Save a model with random weights, and return its network."""
    network = init_vae(len(vocabulary), sizes, 0).eval()
    save_model(folder, network, vocabulary, {"settings": {"model": sizes.model_dump()}})
    return network


@pytest.mark.parametrize("name", SETTINGS)
def test_loaded_model_of_another_architecture_gives_the_same_output(tmp_path, vocabulary, tokens, name):
    sizes = SETTINGS[name]
    network = save_random_model(tmp_path, vocabulary, sizes)
    loaded = load_model(tmp_path).network
    assert (loaded.variational, type(loaded.prior)) == (sizes.variational, type(network.prior))
    batch = tokens.collate(range(len(tokens)))
    with torch.inference_mode():
        output, expected = (model(batch, torch.ones(1)) for model in (loaded, network))
    for tensor, expected_tensor in zip((*output.terms, *output[1:]), (*expected.terms, *expected[1:]), strict=True):
        assert torch.equal(tensor, expected_tensor)


@pytest.mark.parametrize(("name", "key"), NON_DEFAULTS)
def test_model_card_that_lacks_a_setting_that_is_not_the_default_does_not_fit_the_weights(
    tmp_path, vocabulary, name, key
):
    save_random_model(tmp_path, vocabulary, SETTINGS[name])
    edit_card(tmp_path, lambda card: card["settings"]["model"].pop(key))
    with pytest.raises(ModelFileError, match=r"the weights do not fit the networks that model\.json describes"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        *(({"decoder_hidden": size}, "decoder_hidden: Input should be") for size in (0, -1, 10**9, 8.5, None, [8])),
        ({"encoder_cell": "rnn"}, "encoder_cell: Input should be"),
        ({"layers": 3}, "layers: there is no such setting"),
        ({"variational": False, "prior": "flow"}, "model: a plain autoencoder has no KL term"),
    ],
)
def test_model_card_with_settings_out_of_range_is_refused_before_networks_are_built(folder, settings, where):
    edit_card(folder, lambda card: card["settings"]["model"].update(settings))
    with pytest.raises(ModelFileError, match=rf"model\.json: settings\.(model\.)?{where}"):
        load_model(folder)


def test_model_card_with_a_list_in_place_of_settings_is_refused(folder):
    edit_card(folder, lambda card: card["settings"].update(model=[1]))
    with pytest.raises(ModelFileError, match=r"model\.json: settings\.model: Input should be a valid dictionary"):
        load_model(folder)


def test_model_card_with_sizes_that_would_fill_the_memory_is_refused_because_its_weights_are_smaller(folder):
    huge = {"decoder_hidden": 8192, "decoder_layers": 4, "encoder_hidden": 8192, "latent_dim": 4096}
    huge |= {"prior": "mixture", "prior_components": 4096}  # 280 GB
    edit_card(folder, lambda card: card["settings"]["model"].update(huge))
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
def test_model_weights_that_do_not_fit_the_card_are_refused_with_their_file(folder, change):
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors: the weights do not fit the networks that model\.json"
    ):
        load_model(folder)


def test_model_card_with_a_vocabulary_of_another_size_does_not_fit_the_weights(folder):
    edit_card(folder, lambda card: card["vocabulary"]["symbols"].pop())
    with pytest.raises(ModelFileError, match="the weights do not fit"):
        load_model(folder)


def test_model_saving_replaces_the_model_in_the_folder(folder, network, vocabulary, sizes):
    before = sorted(path.name for path in folder.iterdir())
    with torch.no_grad():
        network.decoder.state_to_logits.bias += 1
    save_model(folder, network, vocabulary, {"settings": {"model": sizes.model_dump()}})
    assert sorted(path.name for path in folder.iterdir()) == before == [CARD_FILE, WEIGHTS_FILE]
    loaded = load_model(folder).network
    assert torch.equal(loaded.decoder.state_to_logits.bias, network.decoder.state_to_logits.bias)


STATE = CheckpointState(
    {"epoch": 2, "sums": {"kl": 0.1 + 0.2}, "best_objective": float("inf"), "history": [{"x": 1 / 3}]},
    {"model.a": torch.rand(3, 2), "optimizer.0.step": torch.tensor(7.0)},
)


def test_checkpoint_survives_a_round_trip_to_the_last_bit(tmp_path):
    save_checkpoint(tmp_path / "a", STATE, "run 1")
    state = load_checkpoint(tmp_path / "a", "run 1")
    assert state.progress == STATE.progress
    assert state.tensors.keys() == STATE.tensors.keys()
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in STATE.tensors.items())


def test_checkpoint_that_the_disk_has_no_room_for_is_an_error_of_the_system(tmp_path):
    program = """if True:
        import resource, sys, torch
        from pathlib import Path
        from molvae.training.checkpoint import CheckpointState, save_checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            save_checkpoint(Path(sys.argv[1]), CheckpointState({}, {"a": torch.zeros(1000)}), "x")
        except OSError as err:
            print(err.errno, sorted(Path(sys.argv[1]).parent.iterdir()))
    """
    process = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.safetensors"], capture_output=True, text=True
    )
    assert process.stdout == f"{errno.EFBIG} []\n", process.stderr


def test_checkpoint_of_another_run_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a", STATE, "run 1")
    with pytest.raises(ModelFileError, match="a checkpoint of other settings, data or code. Delete it to train anew"):
        load_checkpoint(tmp_path / "a", "run 2")


@pytest.mark.parametrize("harm", ["truncate", "randomise", "empty", "remove", "replace_by_a_list"])
def test_damaged_checkpoint_is_an_error_that_names_it(tmp_path, damage, harm):
    save_checkpoint(tmp_path / "resume.safetensors", STATE, "run 1")
    damage[harm](tmp_path / "resume.safetensors")
    with pytest.raises(ModelFileError, match=r"resume\.safetensors: "):
        load_checkpoint(tmp_path / "resume.safetensors", "run 1")


# checksums, and what a card or weights may not hold


def flip_bit(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", [CARD_FILE, WEIGHTS_FILE])
def test_any_flipped_bit_of_a_model_folder_is_found(folder, name):
    n_bits, whole = 8 * (folder / name).stat().st_size, (folder / name).read_bytes()
    for position in np.random.default_rng(0).integers(n_bits, size=60):
        flip_bit(folder / name, int(position))
        try:
            load_model(folder)
        except ModelFileError:
            pass
        else:  # white space between the values of a card says nothing
            assert name == CARD_FILE and json.loads((folder / name).read_bytes()) == json.loads(whole), position
        (folder / name).write_bytes(whole)
    load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["vocabulary"]["symbols"].append(card["vocabulary"]["symbols"].pop(0)),
        lambda card: card["vocabulary"]["constraints"].update(C=3),
        lambda card: card["settings"].update(featurize={"stereo": "strip"}),
        lambda card: card["checksums"].update(card="0" * 64),
        lambda card: card.update(checksums=[]),
        lambda card: card["checksums"].pop("weights"),
    ],
)
def test_a_changed_card_is_refused_with_its_checksum(folder, change):
    card = json.loads((folder / CARD_FILE).read_text())
    change(card)
    (folder / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match="its checksum is not the one in model.json: it was damaged or changed"):
        load_model(folder)


def test_a_card_that_is_written_otherwise_or_has_no_checksums_is_loaded(folder):
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(dict(reversed(card.items())), indent=4))
    load_model(folder)
    edit_card(folder, lambda card: None)
    load_model(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, "integer"])
def test_weights_that_are_no_finite_real_numbers_are_refused(folder, network, value):
    edit_card(folder, lambda card: None)
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    name = "encoder.to_latent.weight"
    tensors[name] = tensors[name].to(torch.int32) if value == "integer" else tensors[name].fill_(value)
    write_tensors(folder / WEIGHTS_FILE, tensors)
    with pytest.raises(ModelFileError, match=f"{name} holds values that are no finite real numbers"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda vocabulary: vocabulary["constraints"].update(C=True),
        lambda vocabulary: vocabulary["constraints"].update(C=-1),
        lambda vocabulary: vocabulary.update(merges=[[4, 4], *([k, k] for k in range(4 + n_symbols(vocabulary), 99))]),
        lambda vocabulary: vocabulary.update(merges=[[True, 5]]),
    ],
)
def test_a_vocabulary_with_truth_values_or_merges_that_double_is_refused(folder, change):
    edit_card(folder, lambda card: change(card["vocabulary"]))
    with pytest.raises(ModelFileError, match="a vocabulary of another version of molvae"):
        load_model(folder)


def n_symbols(vocabulary) -> int:
    return len(vocabulary["symbols"])


def test_a_card_that_is_deeply_nested_or_no_ordinary_file_is_refused(folder):
    (folder / CARD_FILE).write_text("[" * 200_000)
    with pytest.raises(ModelFileError, match="damaged, not JSON"):
        load_model(folder)
    (folder / CARD_FILE).unlink()
    (folder / CARD_FILE).symlink_to("/dev/zero")
    with pytest.raises(ModelFileError, match="no model card, which is a file of at most"):
        load_model(folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, PRIOR_CARD_FILE, PRIOR_WEIGHTS_FILE])
@pytest.mark.parametrize("kind", ["zero", "pipe", "folder", "missing link"])
def test_what_is_no_ordinary_file_is_refused_before_it_is_read(folder, name, kind):
    save_prior(folder, None, make_prior_card(folder))
    load_model(folder)
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "zero" else "nowhere")
    with pytest.raises(ModelFileError, match=f"{name}: "):
        load_model(folder)


def make_prior_card(folder) -> dict:
    return {"settings": {"kind": "as_trained"}, "weights_sha256": compute_sha256(folder / WEIGHTS_FILE)}


def test_the_weights_of_a_prior_without_its_card_are_refused(folder):
    save_prior(folder, None, make_prior_card(folder))
    (folder / PRIOR_CARD_FILE).unlink()
    with pytest.raises(
        ModelFileError, match=r"prior\.json: no such file beside prior\.safetensors\. Run `molvae prior`"
    ):
        load_model(folder)


def test_a_card_is_read_by_its_checksum_wherever_it_is_read(folder):
    card = json.loads((folder / CARD_FILE).read_text())
    card["vocabulary"]["constraints"]["C"] = 3
    (folder / CARD_FILE).write_text(json.dumps(card))
    for read in (read_vocabulary, read_model_settings):
        with pytest.raises(ModelFileError, match="its checksum is not the one in"):
            read(folder)


@pytest.mark.parametrize("depth", [900, 990, 5000])
def test_a_card_that_is_nested_within_a_value_is_refused_or_read(folder, depth):
    text = (folder / CARD_FILE).read_text()
    (folder / CARD_FILE).write_text(text.replace("{", '{"x": ' + "[" * depth + "]" * depth + ",", 1))
    with pytest.raises(ModelFileError, match=r"model\.json: "):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["settings"].update(featurize=7), "settings.featurize: Input should be"),
        (lambda card: card["settings"]["featurize"].update(max_tokens="x"), "settings.featurize.max_tokens: 'x' is"),
        (lambda card: card["settings"]["featurize"].update(max_tokens=10**12), "settings.featurize.max_tokens: Input"),
        (lambda card: card["settings"].update(featurize=["a"] * 10**5), "settings.featurize: Input should be"),
        (lambda card: card["settings"].update(model=["a"] * 10**5), "settings.model: Input should be"),
        (lambda card: card["vocabulary"]["symbols"].__setitem__(0, "x" * 10**5), "model.json: "),
        (lambda card: card.update(settings=[1]), "settings are missing or incomplete"),
        (lambda card: card.update(properties="logp"), "properties are no list of names"),
        (lambda card: card.update(properties=[["logp"]]), "properties are no list of names"),
        (lambda card: card.update(format_version=True), "format True, this molvae reads format 3"),
        (lambda card: card.update(format_version="9" * 10**6), "format '99"),
    ],
)
def test_a_card_with_what_would_fail_when_it_is_used_is_refused_when_it_is_opened(folder, change, message):
    edit_card(folder, change)
    with pytest.raises(ModelFileError, match=message) as error:
        open_model(folder)
    assert len(str(error.value)) < 1500


def test_a_card_with_a_setting_of_featurize_that_another_release_has_is_loaded(folder):
    edit_card(folder, lambda card: card["settings"]["featurize"].update(another=1))
    load_model(folder)


def test_weights_that_claim_more_than_there_is_are_refused_before_memory_is_taken(folder):
    whole = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes((10**11).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ModelFileError, match=r"it claims a header of 100000000000 bytes"):
        load_model(folder)


def test_networks_that_take_more_memory_than_is_free_are_refused(folder, monkeypatch):
    memory = SimpleNamespace(available=1000)
    monkeypatch.setattr("molvae.model_io.folder.psutil.virtual_memory", lambda: memory)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: takes 0\.0 GiB of memory, 0\.0 are free"):
        load_model(folder)


def test_weights_of_double_precision_are_refused(folder, network):
    edit_card(folder, lambda card: None)
    write_tensors(folder / WEIGHTS_FILE, {name: tensor.double() for name, tensor in network.state_dict().items()})
    with pytest.raises(ModelFileError, match="no finite real numbers, but F64"):
        load_model(folder)


@pytest.mark.parametrize("length", [0, -1, 17, 10**12])
def test_a_vamp_prior_with_lengths_out_of_range_is_refused(folder, network, length):
    prior = build_prior("vamp", 3, network.encoder)
    prior.lengths[1] = length
    save_prior(folder, prior, {**make_prior_card(folder), "settings": {"kind": "vamp", "components": 3}})
    with pytest.raises(ModelFileError, match=r"prior\.safetensors: lengths are no lengths of pseudo-inputs"):
        load_model(folder)


@pytest.mark.parametrize("name", ["moses", "moses-latent"])
def test_the_shipped_models_have_checksums(name):
    assert load_model(resolve_model_folder(f"pretrained:{name}")).card["checksums"].keys() == {"weights", "card"}
