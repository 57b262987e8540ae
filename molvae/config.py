"""The settings: every key with its unit, range and default, and the checks that no single key can make.

The classes are the only definition. `config/config.yaml` repeats them with comments for people,
`workflow/schemas/config.schema.yaml` is written from them (`make schema`), the commands take their options from them.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from molvae.chemistry.descriptor_table import NUMERIC_DESCRIPTORS
from molvae.data.formats import READABLE_SUFFIXES, find_suffix
from molvae.data.vocabulary import MAX_SYMBOLS, MAX_TOKENS
from molvae.errors import ConfigError, suggest_nearest
from molvae.model_io.pretrained import resolve_model_folder
from molvae.runtime.credentials import HIDDEN, hide_credentials, hide_credentials_in, is_web_address
from molvae.runtime.plain_text import INVISIBLE, show_invisible

SectionType = TypeVar("SectionType", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0, lt=1)]
if TYPE_CHECKING:
    PropertyName = str
else:
    PropertyName = Literal[NUMERIC_DESCRIPTORS]
ExperimentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]


def _check_text(text: str) -> str:
    if invisible := next((char for char in text if unicodedata.category(char) in INVISIBLE), None):
        raise ValueError(f"holds the control or direction-changing character {invisible!a}")
    return text


def _check_path(path: str) -> str:
    if re.match(r"[A-Za-z][\w+.-]*://", path):
        raise ValueError("an address; this must be a path. Download it and name the file or folder")
    if variable := re.search(r"<[^<>]*>|\{[^{}]*\}", path):
        raise ValueError(f"Snakemake takes {variable[0]} in a path for a variable; rename the file or folder")
    return path


Text = Annotated[str, AfterValidator(_check_text)]
LocalPath = Annotated[Text, AfterValidator(_check_path)]
RESERVED_NAMES = {"datasets", "comparison", "mlartifacts"}  # folders of results/ that are no experiments


class Section(BaseModel):
    """A block of settings: frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class DataSettings(Section):
    """Where the molecules come from."""

    source: Text = Field(
        description="'moses', a path, or a URL: .smi (.smiles, .ism, .txt), .csv, .tsv or .parquet, text also as .gz"
    )
    column: Text = Field("SMILES", description="column that holds the SMILES; ignored for .smi without a header")
    split_column: Text = Field(
        "SPLIT",
        description="column that names train, valid, test, …; without SPLIT (or split) a hash of the molecule splits",
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="checksum the source must have, in hex; null: taken as it is"
    )

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        if not is_web_address(source):
            return _check_path(source)
        if hide_credentials(source).endswith(f"://{HIDDEN}"):
            raise ValueError("its user and password cannot be told from the rest: write @ as %40 and / as %2F in them")
        return source


class FinetuneSettings(Section):
    """Fine-tuning: the trained model to continue from."""

    model: LocalPath | None = Field(
        None,
        description="model folder, or pretrained:NAME, whose weights, networks, vocabulary and merges training "
        "continues from; null: none",
    )
    unknown_symbols: Literal["extend", "drop", "error"] = Field(
        "extend",
        description="molecules with symbols that its vocabulary lacks: extend (those of the training molecules are "
        "added), drop (rejected, the symbol named) or error",
    )

    @field_validator("model")
    @classmethod
    def _check_model_name(cls, model: str | None) -> str | None:
        if model is not None:
            resolve_model_folder(model)  # ModelFileError is a ValueError, as pydantic wants it
        return model


class FeaturizeSettings(Section):
    """From SMILES to tokens."""

    largest_fragment: bool = Field(
        True, description="keep only the organic fragment with most heavy atoms (drops salts)"
    )
    neutralise: bool = Field(True, description="add or remove H+ where that removes a charge")
    stereo: Literal["keep", "strip"] = Field("keep", description="keep or strip @, / and \\ marks")
    max_tokens: int = Field(128, ge=4, le=MAX_SYMBOLS, description="longest molecule kept, in SELFIES symbols")
    merges: int = Field(
        1000, ge=0, le=8192, description="frequent pairs of symbols merged to tokens; 0: a token a symbol"
    )
    augmentations: int = Field(
        0,
        ge=0,
        le=16,
        description="SMILES augmentation: randomised SMILES of each training molecule for the encoder to read; 0: none",
    )
    properties: list[PropertyName] = Field(
        [],
        description="descriptors that the model learns to predict from latent points, in a linear head: "
        "sample.target_properties can then ask for values of them; none: no head",
    )
    valid_fraction: Fraction = Field(
        0.02,
        description="fraction held out for early stopping, by hash; of the training molecules if the data name splits",
    )
    test_fraction: Fraction = Field(
        0.1, description="fraction held out for evaluation, by hash, if the data name no split"
    )

    @model_validator(mode="after")
    def _check_fractions(self) -> FeaturizeSettings:
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction + test_fraction must stay below 1, else nothing is left to train on")
        return self

    @field_validator("properties")
    @classmethod
    def _check_repeats(cls, properties: list[str]) -> list[str]:
        if len(set(properties)) < len(properties):
            raise ValueError("each property once")
        return properties


class ModelSettings(Section):
    """The networks and the prior."""

    variational: bool = Field(
        True, description="false: a plain autoencoder, no noise and no KL term, the baseline a VAE stands beside"
    )
    embedding_dim: int = Field(64, ge=1, le=4096, description="width of a token embedding")
    latent_dim: int = Field(64, ge=1, le=4096, description="dimensions of the latent space")
    encoder_cell: Literal["gru", "lstm"] = Field("gru", description="recurrent cell of the encoder: gru or lstm")
    encoder_hidden: int = Field(192, ge=1, le=8192, description="units of each encoder layer and direction")
    encoder_layers: int = Field(1, ge=1, le=4, description="layers of the encoder")
    encoder_bidirectional: bool = Field(False, description="the encoder also reads from the last token to the first")
    decoder_cell: Literal["gru", "lstm"] = Field("gru", description="recurrent cell of the decoder: gru or lstm")
    decoder_hidden: int = Field(512, ge=1, le=8192, description="units of each decoder layer")
    decoder_layers: int = Field(1, ge=1, le=4, description="layers of the decoder")
    prior: Literal["normal", "mixture", "vamp", "flow"] = Field(
        "normal", description="prior in the ELBO: normal, or learned: mixture, vamp, flow"
    )
    prior_components: int = Field(64, ge=1, le=4096, description="components of a mixture or vamp prior")

    @model_validator(mode="after")
    def _check_prior(self) -> ModelSettings:
        if not self.variational and self.prior != "normal":
            raise ValueError("a plain autoencoder has no KL term to learn a prior in; fit one afterwards (prior.kind)")
        if self.prior == "flow" and self.latent_dim < 2:
            raise ValueError("a flow moves some dimensions by others: latent_dim must be at least 2")
        return self


class TrainSettings(Section):
    """How the networks are trained. Losses are in nats per molecule."""

    epochs: int = Field(5, ge=1, description="most passes over the training molecules")
    batch_size: int = Field(128, ge=1, description="molecules a step, over all GPUs together")
    learning_rate: float = Field(3.0e-3, gt=0, le=1, description="peak step size of Adam")
    warmup: Fraction = Field(0.05, description="fraction of all steps over which the learning rate rises from 0")
    final_learning_rate: float = Field(
        0.05, ge=0, le=1, description="learning rate at the end, as a fraction of the peak (cosine)"
    )
    kl_weight: float = Field(1.0, ge=0, le=100, description="final weight of the KL term; 1 is the true ELBO")
    kl_schedule: Literal["constant", "linear", "cyclical"] = Field(
        "linear", description="schedule of that weight: constant, linear (one rise) or cyclical (a rise in each cycle)"
    )
    kl_warmup: float = Field(
        0.05, ge=0, le=1, description="fraction of the run, or of a cycle, in which the weight rises"
    )
    kl_cycles: int = Field(4, ge=1, le=100, description="cycles of the cyclical schedule")
    free_nats: float = Field(3.0, ge=0, description="KL, nats per molecule, that costs nothing: keeps z in use")
    target_kl: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="KL, nats per molecule, to hold instead (KL term: kl_weight · |KL − target|); null: none",
    )
    dropout: Fraction = Field(0.0, description="fraction of the decoder's inputs and outputs dropped in training")
    word_dropout: Fraction = Field(
        0.0, description="fraction of the decoder's input tokens replaced by <unk>: makes it rely on z"
    )
    augmentation_prob: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="fraction of molecules that the encoder reads as a randomised SMILES (featurize.augmentations)"
    )
    property_weight: float = Field(
        1.0, gt=0, le=1000, description="weight of the properties' −log density in the loss, if the tokens have any"
    )
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="of the matrix products, on GPUs and on CPUs with AMX; weights, sums and losses stay float32",
    )
    patience: int = Field(3, ge=1, description="epochs without a better held-out loss before training stops")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, batch order and noise")


class PriorSettings(Section):
    """The prior that samples come from, fitted after training to the aggregate posterior."""

    kind: Literal["as_trained", "normal", "mixture", "vamp", "flow"] = Field(
        "as_trained",
        description="as_trained: model.prior; normal: N(0, 1); mixture, vamp, flow: fitted to the latents",
    )
    components: int = Field(32, ge=1, le=4096, description="components of a mixture or vamp prior")
    draws: int = Field(100000, ge=1000, description="training molecules whose posteriors the prior is fitted to")
    steps: int = Field(3000, ge=1, description="steps of the fit of a vamp or flow; a mixture stops by itself")
    batch_size: int = Field(512, ge=1, description="latent points a step, drawn anew each time")
    learning_rate: float = Field(3.0e-3, gt=0, le=1, description="peak step size of Adam")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of draws, start and batches")


class SampleSettings(Section):
    """Drawing molecules from the prior."""

    n: int = Field(10000, ge=1, description="number of samples, exactly")
    seed: int = Field(0, ge=0, lt=2**31, description="sample i depends on (seed, i) only")
    temperature: float = Field(1.0, gt=0, le=10, description="divides the logits; 1 samples the model as it is")
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = Field(
        None,
        description="longest sample, in tokens, its end counted; longer ones are cut; null: the model's length",
    )
    max_tries: int = Field(
        32,
        ge=1,
        le=1000,
        description="strings decoded at most for a sample, until one passes the round trip: decoded to a molecule and "
        "encoded again it is the same; 1: the first is taken",
    )
    mcmc_steps: int = Field(
        0, ge=0, le=1000, description="encode-decode MCMC steps of each sample: from the prior to where the data lie"
    )
    target_properties: dict[str, float] = Field(
        {},
        description="conditional sampling: values, in their own units, that the head should predict of properties "
        "(featurize.properties); {}: any",
    )


class LatentSettings(Section):
    """Diagnostics of the latent space, and projections of it."""

    n: int = Field(300, ge=2, le=5000, description="held-out molecules to measure with, and as many points beside them")
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = Field(
        None, description="longest string decoded, as sample.max_tokens; null: the model's length"
    )
    projections: int = Field(
        1000, ge=0, le=5000, description="held-out molecules in the 2-D projections, 1 kB of report.html each; 0: none"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of molecules and points")


class ValidateSettings(Section):
    """What the samples are compared with."""

    reference: LocalPath = Field(
        "test", description="'moses' (its test and scaffold test set), a file of molecules, or a split of the data"
    )
    baselines: bool = Field(True, description="also score random tokens, training molecules and unfiltered samples")
    latent_baselines: bool = Field(
        False, description="also decode and score shuffled latent points, and the aggregate posterior"
    )
    skeletons: bool = Field(
        False, description="also compute Novelty_skeleton, from InChIKeys of all training molecules: 0.3 ms each"
    )

    @field_validator("reference")
    @classmethod
    def _check_reference(cls, reference: str) -> str:
        if re.search(r"[./\\]", reference) and find_suffix(reference) is None:
            kinds = ", ".join(READABLE_SUFFIXES)
            raise ValueError(f"no kind of file that molvae reads ({kinds}), and no name of a split")
        return reference

    @property
    def reference_is_split(self) -> bool:
        """Whether the reference is a split of the data; else it is 'moses' or a file."""
        return self.reference != "moses" and find_suffix(self.reference) is None


class TrackingSettings(Section):
    """MLflow. A machine setting: a change re-runs nothing."""

    enabled: bool = Field(True, description="log each stage to MLflow")
    uri: Text | None = Field(
        None,
        description="server or database; MLFLOW_TRACKING_URI, if set, comes first; null: results/mlflow.db",
    )
    experiment: Text = Field("molvae", min_length=1, description="name of the MLflow experiment")
    register_as: Text | None = Field(
        None, alias="register", description="registered-model name for the trained model; null: none"
    )

    model_config = ConfigDict(populate_by_name=True)


class Settings(Section):
    """All that defines one experiment."""

    data: DataSettings
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings)
    featurize: FeaturizeSettings = Field(default_factory=FeaturizeSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    prior: PriorSettings = Field(default_factory=PriorSettings)
    sample: SampleSettings = Field(default_factory=SampleSettings)
    validate_: ValidateSettings = Field(default_factory=ValidateSettings, alias="validate")
    latent: LatentSettings = Field(default_factory=LatentSettings)

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="after")
    def _check_target_properties(self) -> Settings:
        if unknown := [name for name in self.sample.target_properties if name not in self.featurize.properties]:
            names = ", ".join(unknown)
            raise ValueError(f"sample.target_properties: {names} must be named in featurize.properties, too")
        if self.sample.target_properties and not (
            self.model.variational and self.model.prior == "normal" and self.prior.kind in ("as_trained", "normal")
        ):
            raise ValueError(
                "sample.target_properties: needs a VAE (model.variational) whose samples come from a normal prior"
            )
        return self

    def dump_section(self, name: str) -> dict[str, Any]:
        """Convert one section to plain JSON-able values, as it is handed to a stage and tracked."""
        section: dict[str, Any] = self.model_dump(by_alias=True)[name]
        return section

    def dump_without_seeds(self) -> dict[str, Any]:
        """Convert all of it but the seeds to plain values: equal for runs that may be pooled."""
        whole = self.model_dump(by_alias=True)
        return {name: {key: value for key, value in block.items() if key != "seed"} for name, block in whole.items()}


class Config(Settings):
    """The whole config file: the common settings, and the experiments that differ from them."""

    experiments: dict[ExperimentName, dict[str, Any]] = Field(
        default={"example": {}}, min_length=1,
        description="name -> the settings in which this experiment differs from the common ones ({}: none)",
    )  # fmt: skip
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)


def parse_config(content: dict[str, Any]) -> tuple[dict[str, Settings], TrackingSettings]:
    """Parse a whole config and merge each experiment into the common settings.

    Returns:
        the settings of each experiment by name, and where to track.

    Raises:
        ConfigError: naming the key as 'section.key', what is wrong and the nearest key that exists.
    """
    config = parse_settings(Config, content)
    if taken := RESERVED_NAMES.intersection(config.experiments):
        raise ConfigError(f"experiments.{taken.pop()}: results/ has another use for this folder. Choose another name.")
    common = {name: value for name, value in content.items() if name not in {"experiments", "tracking"}}
    experiments = {
        name: parse_settings(Settings, merge_settings(common, overrides), f"experiments.{name}.")
        for name, overrides in config.experiments.items()
    }
    return experiments, config.tracking


def merge_settings(common: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Lay `overrides` over `common`, section by section.

    >>> merge_settings({"train": {"epochs": 5, "seed": 0}}, {"train": {"epochs": 1}})
    {'train': {'epochs': 1, 'seed': 0}}
    """
    merged = copy.deepcopy(common)
    for key, value in overrides.items():
        are_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_settings(merged[key], value) if are_sections else value
    return merged


def parse_settings(kind: type[SectionType], content: Any, where: str = "") -> SectionType:
    """Build a section of settings from plain values.

    Args:
        kind: class of the section.
        content: plain values by key.
        where: prefix of the keys in the error, "train.".

    Raises:
        ConfigError: with a line for each thing that is wrong.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as err:
        lines = [_explain_error(kind, detail, where) for detail in err.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain_error(kind: type[BaseModel], detail: Any, where: str) -> str:
    """One line for one problem: the key, what is wrong with it, what would be right."""
    path = [str(part) for part in detail["loc"] if part != "[key]"]
    key = show_invisible(where + ".".join(path))
    if detail["type"] == "extra_forbidden":
        return f"{key}: there is no such setting.{suggest_nearest(path[-1], _list_keys(kind, path[:-1]))}"
    if detail["type"] == "missing":
        return f"{key}: this setting is required and missing."
    if isinstance(detail["input"], str) and detail["type"] in {"float_parsing", "int_parsing"}:
        return f"{key}: {detail['input']!r} is text, not a number."
    message = detail["msg"].removeprefix("Value error, ")
    got = hide_credentials_in(repr(detail["input"]), *_list_texts(detail["input"]))
    if not path and issubclass(kind, Settings) and detail["type"] == "value_error":
        return f"{where}{message}."  # sections that contradict each other: the message names the key
    return f"{key.rstrip('.') or 'config'}: {message} (got {got})."


def _list_texts(value: Any) -> list[str]:
    """List the strings in a plain value."""
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in _list_texts(item)]
    return [value] if isinstance(value, str) else []


def _list_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    """List the settings of a section of the tree."""
    for part in path:
        field = next((f for name, f in kind.model_fields.items() if part in (name, f.alias)), None)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        kind = field.annotation
    return [field.alias or name for name, field in kind.model_fields.items()]


def build_json_schema() -> dict[str, Any]:
    """Build the JSON schema (draft 2020-12) of the config file, for editors and catalogs; it refuses unknown keys."""
    schema = Config.model_json_schema(by_alias=True)
    for definition in schema["$defs"].values():
        definition.pop("required", None)  # an experiment or an overlay file states only what differs
    blocks = {name: value for name, value in schema["properties"].items() if name not in {"experiments", "tracking"}}
    experiments = schema["properties"]["experiments"]  # pydantic names them by a pattern and leaves other names open
    (pattern,) = experiments["patternProperties"]
    experiments["patternProperties"] = {
        pattern: {"type": "object", "additionalProperties": False, "properties": blocks}
    }
    experiments["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    import json

    print("# Written by `make schema` from molvae/config.py. JSON is YAML.")
    print(json.dumps(build_json_schema(), indent=1))
