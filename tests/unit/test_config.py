"""Settings: errors that name the key, files that agree with the classes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml

from molvae.chemistry.descriptor_table import DESCRIPTORS
from molvae.chemistry.descriptors import compute_descriptors
from molvae.chemistry.standardise import parse_smiles
from molvae.config import (
    Config,
    DataSettings,
    FeaturizeSettings,
    PriorSettings,
    PropertyName,
    SampleSettings,
    TrainSettings,
    ValidateSettings,
    build_json_schema,
    merge_settings,
    parse_config,
    parse_settings,
)
from molvae.errors import ConfigError

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
SECTIONS = ("data", "finetune", "featurize", "model", "train", "prior", "sample", "validate", "latent")
# config.yaml is an example and says so: its data are the shipped ones, small and of MOSES, so more of them are held out
DELIBERATE = {"data.source", "featurize.valid_fraction", "validate.reference"}
# right but for the prior or the model that a test adds
CONDITIONAL = {"featurize": {"properties": ["logp"]}, "sample": {"target_properties": {"logp": 3}}}


def read_shipped(name: str = "config.yaml"):
    """The content of a config file of the repository."""
    return yaml.safe_load((ROOT / "config" / name).read_text())


def refuse(content) -> str:
    """The error of a config that must be refused."""
    with pytest.raises(ConfigError) as caught:
        parse_config(content)
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "epoch", 3, "train.epoch: there is no such setting. Did you mean 'epochs'?"),
        ("train", "xyzzy", 3, "train.xyzzy: there is no such setting. Known: epochs, batch_size"),
        ("model", "latent_dims", 3, "model.latent_dims: there is no such setting. Did you mean 'latent_dim'?"),
        ("tracking", "registr", "x", "tracking.registr: there is no such setting. Did you mean 'register'?"),
        ("train", "epochs", 0, "train.epochs: Input should be greater than or equal to 1 (got 0)."),
        ("train", "epochs", "many", "train.epochs: 'many' is text, not a number."),
        ("train", "learning_rate", "fast", "train.learning_rate: 'fast' is text, not a number."),
        ("train", "learning_rate", float("nan"), "train.learning_rate: Input should be a finite number (got nan)."),
        ("train", "kl_warmup", 1.5, "train.kl_warmup: Input should be less than or equal to 1 (got 1.5)."),
        ("train", "epochs", 2.5, "train.epochs: Input should be a valid integer"),
        ("model", "encoder_cell", "rnn", "model.encoder_cell: Input should be 'gru' or 'lstm' (got 'rnn')."),
        ("model", "decoder_layers", 5, "model.decoder_layers: Input should be less than or equal to 4 (got 5)."),
        ("model", "variatonal", False, "model.variatonal: there is no such setting. Did you mean 'variational'?"),
        ("train", "kl_schedule", "cosine", "train.kl_schedule: Input should be 'constant', 'linear' or 'cyclical'"),
        ("train", "target_kl", -1, "train.target_kl: Input should be greater than or equal to 0 (got -1)."),
        ("train", "word_dropout", 1, "train.word_dropout: Input should be less than 1 (got 1)."),
        ("train", "precision", "half", "train.precision: Input should be 'bfloat16' or 'float32' (got 'half')."),
        ("prior", "kind", "vampire", "prior.kind: Input should be 'as_trained', 'normal', 'mixture', 'vamp' or 'flow'"),
        ("prior", "draws", 10, "prior.draws: Input should be greater than or equal to 1000 (got 10)."),
        (
            "finetune",
            "unknown_symbols",
            "keep",
            "finetune.unknown_symbols: Input should be 'extend', 'drop' or 'error' (got",
        ),
        (
            "finetune",
            "model",
            "pretrained:mosse",
            "finetune.model: pretrained:mosse: no pretrained model of that name; there",
        ),
        ("featurize", "stereo", "drop", "featurize.stereo: Input should be 'keep' or 'strip' (got 'drop')."),
        ("featurize", "max_tokens", 3, "featurize.max_tokens: Input should be greater than or equal to 4"),
        ("sample", "n", 0, "sample.n: Input should be greater than or equal to 1 (got 0)."),
        ("sample", "temperature", 0, "sample.temperature: Input should be greater than 0 (got 0)."),
        ("sample", "seed", 2**31, "sample.seed: Input should be less than 2147483648"),
        ("data", "sha256", "abc", "data.sha256: String should match pattern '^[0-9a-f]{64}$' (got 'abc')."),
        ("data", "source", None, "data.source: Input should be a valid string (got None)."),
        ("validate", "baselines", "perhaps", "validate.baselines: Input should be a valid boolean"),
    ],
)
def test_a_config_error_names_the_key_and_what_would_be_right(section, key, value, message):
    content = {"data": {"source": "x.smi"}}
    content.setdefault(section, {})[key] = value
    assert message in refuse(content)
    if section != "tracking":
        message_of_experiment = refuse({"data": {"source": "x.smi"}, "experiments": {"small": {section: {key: value}}}})
        assert f"experiments.small.{message}" in message_of_experiment


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "data: this setting is required and missing."),
        ({"data": {}}, "data.source: this setting is required and missing."),
        ({"data": {"source": "x"}, "trian": {}}, "trian: there is no such setting. Did you mean 'train'?"),
        ({"data": {"source": "x"}, "train": 5}, "train: Input should be"),
        ({"data": {"source": "x"}, "train": None}, "train: Input should be"),
        ({"data": {"source": "x"}, "experiments": {}}, "experiments: "),
        ({"data": {"source": "x"}, "experiments": {"a b": {}}}, "experiments.a b: String should match pattern"),
        (
            {"data": {"source": "x"}, "experiments": {"a": {"trian": {}}}},
            "experiments.a.trian: there is no such setting. Did",
        ),
        ({"data": {"source": "x"}, "experiments": {"a": {"tracking": {}}}}, "experiments.a.tracking: there is no such"),
        ({"data": {"source": "x"}, "experiments": {"a": None}}, "experiments.a: Input should be"),
        (7, "config: "),
    ],
)
def test_a_config_with_wrong_sections_is_an_error_that_says_where(content, message):
    assert message in refuse(content)


def test_all_errors_of_a_config_are_reported_at_once():
    content = {"data": {"source": "x"}, "train": {"epoch": 1, "seed": -1}, "model": {"latent_dim": 0}}
    lines = refuse(content).splitlines()
    assert [line.split(":")[0] for line in lines] == ["model.latent_dim", "train.seed", "train.epoch"]


def test_held_out_fractions_that_leave_nothing_to_train_on_are_refused():
    content = {"data": {"source": "x"}, "featurize": {"valid_fraction": 0.5, "test_fraction": 0.5}}
    assert "featurize: valid_fraction + test_fraction must stay below 1" in refuse(content)
    FeaturizeSettings(valid_fraction=0.5, test_fraction=0.49)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"variational": False, "prior": "flow"}, "model: a plain autoencoder has no KL term to learn a prior in"),
        ({"prior": "flow", "latent_dim": 1}, "model: a flow moves some dimensions by others: latent_dim must be at"),
    ],
)
def test_a_prior_that_the_model_cannot_have_is_refused_by_the_config(model, message):
    assert message in refuse({"data": {"source": "x"}, "model": model})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"featurize": {"properties": ["logP"]}}, "featurize.properties.0: Input should be 'mw', 'logp', 'qed'"),
        ({"featurize": {"properties": ["logp", "logp"]}}, "featurize.properties: each property once"),
        ({"sample": {"target_properties": {"logp": "high"}}}, "sample.target_properties.logp: 'high' is text, not a"),
        ({"sample": {"target_properties": {"logp": 3}}}, "sample.target_properties: logp must be named in featurize."),
        (
            {**CONDITIONAL, "model": {"prior": "flow"}},
            "sample.target_properties: needs a VAE (model.variational) whose",
        ),
        ({**CONDITIONAL, "model": {"variational": False}}, "sample.target_properties: needs a VAE"),
        ({**CONDITIONAL, "prior": {"kind": "mixture"}}, "sample.target_properties: needs a VAE"),
    ],
)
def test_target_properties_that_cannot_be_asked_for_are_refused_in_one_line(content, message):
    for prefix, whole in (("", content), ("experiments.a.", {"experiments": {"a": content}})):
        error = refuse({"data": {"source": "x"}, **whole})
        assert error.startswith(prefix + message) and error.count("\n") == 0 and len(error) < 200


def test_the_properties_of_the_config_are_the_numbers_among_the_descriptors():
    descriptors = compute_descriptors(parse_smiles("CCO"))
    numbers = [name for name in DESCRIPTORS if type(descriptors[name]) in (int, float)]
    assert list(get_args(PropertyName)) == numbers


def test_an_experiment_has_the_common_settings_with_its_overrides_laid_over_them():
    content = {
        "data": {"source": "x.smi"},
        "train": {"epochs": 5, "seed": 7},
        "experiments": {"small": {}, "wide": {"train": {"epochs": 9}, "data": {"source": "y.smi"}}},
        "tracking": {"register": "name"},
    }
    experiments, tracking = parse_config(content)
    assert list(experiments) == ["small", "wide"]
    assert [(e.train.epochs, e.train.seed, e.data.source) for e in experiments.values()] == [
        (5, 7, "x.smi"),
        (9, 7, "y.smi"),
    ]
    assert tracking.register_as == "name"
    assert parse_config({"data": {"source": "x.smi"}})[0].keys() == {"example"}


def test_merging_settings_changes_neither_the_common_ones_nor_the_overrides():
    common, overrides = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}, {"a": {"c": {"f": 4}}, "e": {"g": 5}}
    before = json.dumps([common, overrides])
    merged = merge_settings(common, overrides)
    assert merged == {"a": {"b": 1, "c": {"d": 2, "f": 4}}, "e": {"g": 5}}
    merged["a"]["c"]["d"] = 99
    assert json.dumps([common, overrides]) == before


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_given_to_a_stage_as_plain_values_is_parsed_to_the_same_section(name):
    settings = parse_config(read_shipped())[0]["example"]
    values = json.loads(json.dumps(settings.dump_section(name)))
    section = getattr(settings, "validate_" if name == "validate" else name)
    assert parse_settings(type(section), values) == section


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TrainSettings().epochs = 3


@pytest.mark.parametrize("name", ["config.yaml", "moses.yaml", "moses-latent.yaml", "latent.yaml"])
def test_a_shipped_config_is_accepted_by_the_settings_classes_and_by_the_schema(name):
    parse_config(read_shipped(name))
    parse_config(merge_settings(read_shipped(), read_shipped(name)))  # as an overlay, as the second is used
    jsonschema.validate(read_shipped(name), build_json_schema(), jsonschema.Draft202012Validator)


def test_the_default_config_file_has_every_key_with_its_default_but_for_deliberate_exceptions():
    defaults, values = {}, {}
    for name, field in Config.model_fields.items():
        if name != "experiments":
            for key, inner in field.annotation.model_fields.items():
                defaults[f"{field.alias or name}.{inner.alias or key}"] = inner.get_default()
    for section, block in read_shipped().items():
        if section != "experiments":
            values |= {f"{section}.{key}": value for key, value in block.items()}
    assert values.keys() == defaults.keys()
    assert {key for key in values if values[key] != defaults[key]} <= DELIBERATE


def test_every_key_of_the_default_config_file_has_a_comment():
    for line in (ROOT / "config" / "config.yaml").read_text().splitlines():
        key = line.strip().split(":")[0]
        if line.startswith("  ") and key in {
            *TrainSettings.model_fields,
            *PriorSettings.model_fields,
            *SampleSettings.model_fields,
            *DataSettings.model_fields,
        }:
            assert "#" in line or key in {"epochs", "seed"}, f"config/config.yaml: {line}"


def test_the_config_schema_file_is_that_of_the_settings_classes():
    printed = subprocess.run([sys.executable, "-m", "molvae.config"], capture_output=True, text=True, check=True).stdout
    assert SCHEMA.read_text() == printed, "config.schema.yaml is not what molvae/config.py says: run `make schema`"


def test_the_config_schema_is_valid_and_states_the_defaults_of_the_settings_classes():
    schema = yaml.safe_load(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for definition in schema["$defs"].values():
        for key, value in definition["properties"].items():
            assert "description" in value, key
    assert schema["$defs"]["TrainSettings"]["properties"]["epochs"]["default"] == TrainSettings().epochs


@pytest.mark.parametrize(
    "path",
    [
        (),
        *((name,) for name in SECTIONS),
        ("tracking",),
        *(("experiments", "a", *part) for part in ((), ("train",), ("data",))),
    ],
)
def test_the_config_schema_and_the_settings_classes_refuse_unknown_keys_at_every_level(path):
    content: dict = {"data": {"source": "x"}, "experiments": {"a": {}}}
    jsonschema.validate(content, build_json_schema())
    parse_config(content)
    place = content
    for key in path:
        place = place.setdefault(key, {})
    place["nonsense"] = 1
    with pytest.raises(jsonschema.ValidationError, match="nonsense"):
        jsonschema.validate(content, build_json_schema())
    assert ".".join([*path, "nonsense"]) + ": there is no such setting." in refuse(content)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "epochs", 0),
        ("train", "learning_rate", "1e-3"),
        ("featurize", "stereo", "x"),
        ("experiments", "a b", {}),
    ],
)
def test_the_config_schema_refuses_values_out_of_range(section, key, value):
    content = {"data": {"source": "x"}, section: {key: value}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, build_json_schema())


@pytest.mark.parametrize(
    ("reference", "is_split"),
    [("moses", False), ("test", True), ("scaffold-split", True), ("holdout.txt", False), ("a/b.smiles.gz", False)],
)
def test_a_reference_is_moses_a_file_or_a_split(reference, is_split):
    assert ValidateSettings(reference=reference).reference_is_split is is_split


@pytest.mark.parametrize("reference", ["holdout.dat", "sets/test", "holdout.xlsx", "test.csv.zip", "C:\\\\test"])
def test_a_reference_that_is_neither_a_split_nor_a_readable_file_is_refused(reference):
    with pytest.raises(ConfigError, match="no kind of file that molvae reads .*, and no name of a split"):
        parse_settings(ValidateSettings, {"reference": reference}, "validate.")


@pytest.mark.parametrize("character", ["\x00", "\n", "\x1b", "\u202e", "\u2066", "\u200f"])
@pytest.mark.parametrize(
    ("section", "key"),
    [("data", "source"), ("data", "column"), ("data", "split_column"), ("finetune", "model"),
     ("validate", "reference"), ("tracking", "uri"), ("tracking", "experiment"), ("tracking", "register")],
)  # fmt: skip
def test_a_control_or_direction_changing_character_in_a_setting_is_refused_and_shown(section, key, character):
    content = {"data": {"source": "x.csv"}}
    with pytest.raises(ConfigError, match=f"^{section}.{key}: holds the control or direction-changing char") as caught:
        parse_config({**content, section: {**content.get(section, {}), key: f"a{character}b"}})
    assert character not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../x", "a;b", "<script>", "$(touch x)", "-x", "", "a/b", "a\n", "x" * 101, "a\u202eb"]
)
def test_an_experiment_whose_name_is_no_plain_folder_name_is_refused(name):
    with pytest.raises(ConfigError, match="^experiments") as caught:
        parse_config({"data": {"source": "x.csv"}, "experiments": {name: {}}})
    assert "\u202e" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"data": {"source": "s3://key:secret@bucket/x.csv"}},
        {"data": {"source": "https://me:a/secret@host/x.csv"}},
        {"data": {"source": ["https://me:secret@host/x.csv?secret"]}},
        {"data": "https://me:secret@host/x.csv?secret"},
        {"data": {"source": "x.csv"}, "validate": {"reference": "https://me:secret@host/x.csv"}},
        {"data": {"source": "x.csv"}, "validate": {"reference": "https://host/x.csv?secret"}},
        {"data": {"source": "x.csv"}, "finetune": {"model": "https://me:secret@host/x"}},
        {"data": {"source": "x.csv"}, "tracking": {"uri": {"a": "postgresql://me:a b/secret@host/x"}}},
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_secrets(content):
    with pytest.raises(ConfigError) as caught:
        parse_config(content)
    assert "secret" not in str(caught.value) and caught.value.__suppress_context__
