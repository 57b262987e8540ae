"""Command-line options made from the settings, so that a stage by hand and a stage in the workflow are one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_origin

import typer
from pydantic import BaseModel

from molvae import config
from molvae.errors import ConfigError

SECTIONS: dict[str, type[BaseModel]] = {
    "data": config.DataSettings,
    "finetune": config.FinetuneSettings,
    "featurize": config.FeaturizeSettings,
    "model": config.ModelSettings,
    "train": config.TrainSettings,
    "prior": config.PriorSettings,
    "sample": config.SampleSettings,
    "validate": config.ValidateSettings,
    "latent": config.LatentSettings,
}
FLAGS = {"n": ["-n", "--n"], "model": ["--finetune"]}  # of keys whose option is not called as they are
Command = Callable[..., None]


def add_settings_options(*sections: str) -> Callable[[Command], Command]:
    """Decorate a command: it gets one option for each key of these sections, and `--settings` for all at once.

    The command receives one argument a section, built and checked; an option on the command line wins over
    `--settings`, which wins over the default. Typer reads options from a signature, so the decorated command gets
    one in which the arguments of the sections are replaced by their keys.

    Example:
        @app.command()
        @add_settings_options("data")
        def fetch(data: DataSettings, out: Out) -> None: ...

        molvae fetch --source my.csv --column smiles --out rows.parquet
    """

    def decorate(command: Command) -> Command:
        parameters = [
            p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in sections
        ]
        section_of_key: dict[str, str] = {}
        for section in sections:
            for key in SECTIONS[section].model_fields:
                section_of_key[key] = section
                parameters.append(_make_option(section, key))
        text = Annotated[str, typer.Option(help="the same settings as JSON: {section: {key: value}}", metavar="JSON")]
        parameters.append(inspect.Parameter("settings", inspect.Parameter.KEYWORD_ONLY, default="{}", annotation=text))

        @wraps(command)
        def run(**arguments: Any) -> None:
            content = _parse_sections("--settings", arguments.pop("settings"), sections)
            for key, section in section_of_key.items():
                if (value := arguments.pop(key)) is not None:
                    if _takes_json(section, key):
                        value = _parse_json("--" + key.replace("_", "-"), value)
                    content.setdefault(section, {})[key] = value
            settings = {
                section: config.parse_settings(SECTIONS[section], content.get(section, {}), f"{section}.")
                for section in sections
            }
            command(**arguments, **settings)

        run.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _make_option(section: str, key: str) -> inspect.Parameter:
    """Make the option of one key; its default None means: as in `--settings` or the section."""
    field = SECTIONS[section].model_fields[key]
    default = "" if field.is_required() else f" [default: {field.get_default()}]"
    kinds: dict[Any, Any] = {bool: bool, int: int, float: float}
    kind = kinds.get(field.annotation, str)
    flags = FLAGS.get(key, [] if kind is bool else ["--" + key.replace("_", "-")])
    metavar = "JSON" if _takes_json(section, key) else None
    option = typer.Option(
        *flags, help=f"{field.description}{default}", metavar=metavar, rich_help_panel=f"Settings: {section}"
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _takes_json(section: str, key: str) -> bool:
    """Whether a setting is a list or a mapping, which its option takes as JSON."""
    return get_origin(SECTIONS[section].model_fields[key].annotation) in (list, dict)


def _parse_json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as err:
        raise ConfigError(f"{option} {text!r} is no JSON: {err}.") from None


def _parse_sections(option: str, text: str, sections: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Parse the JSON of an option that holds sections of settings by name; their keys are not checked."""
    content = _parse_json(option, text)
    if not isinstance(content, dict) or not set(content) <= set(sections):
        raise ConfigError(f"{option} must be a JSON object with the keys {', '.join(sections)}, got {text!r}.")
    return content
