"""Command-line options made from the settings, so that a stage by hand and a stage in the workflow are one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_origin

import typer

from molvae import config
from molvae.errors import ConfigError

SECTIONS = {
    "data": config.DataSettings,
    "start": config.StartSettings,
    "featurize": config.FeaturizeSettings,
    "model": config.ModelSettings,
    "train": config.TrainSettings,
    "prior": config.PriorSettings,
    "sample": config.SampleSettings,
    "validate": config.ValidateSettings,
    "latent": config.LatentSettings,
}
FLAGS = {"n": ["-n", "--n"], "model": ["--start"]}  # of keys whose option is not called as they are


def with_settings(*names: str, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each key of these sections, and `--settings` for all at once.

    The command receives one argument a section, built and checked; an option on the command line wins over
    `--settings`, which wins over the default.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {}  # argument name -> (section, key)
        parameters = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in names]
        for name in names:
            for key in SECTIONS[name].model_fields:
                if key not in without:
                    options[key] = name
                    parameters.append(_parameter(name, key))
        text = Annotated[str, typer.Option(help="the same settings as JSON: {section: {key: value}}", metavar="JSON")]
        parameters.append(inspect.Parameter("settings", inspect.Parameter.KEYWORD_ONLY, default="{}", annotation=text))

        @wraps(command)
        def run(**given: Any) -> None:
            content = read_sections("--settings", given.pop("settings"), names)
            for key, name in options.items():
                if (value := given.pop(key)) is not None:
                    if _is_json(name, key):
                        value = _json("--" + key.replace("_", "-"), value)
                    content.setdefault(name, {})[key] = value
            command(
                **given, **{name: config.parse(SECTIONS[name], content.get(name, {}), f"{name}.") for name in names}
            )

        run.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _parameter(name: str, key: str) -> inspect.Parameter:
    """The option of one key; its default None means: as `--settings` or the section say."""
    field = SECTIONS[name].model_fields[key]
    default = "" if field.is_required() else f" [default: {field.get_default()}]"
    kind: Any = {bool: bool, int: int, float: float}.get(field.annotation, str)  # type: ignore[arg-type]
    flags = FLAGS.get(key, [] if kind is bool else ["--" + key.replace("_", "-")])
    metavar = "JSON" if _is_json(name, key) else None
    option = typer.Option(
        *flags, help=f"{field.description}{default}", metavar=metavar, rich_help_panel=f"Settings: {name}"
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _is_json(name: str, key: str) -> bool:
    """Whether a setting is a list or a mapping, which its option takes as JSON."""
    return get_origin(SECTIONS[name].model_fields[key].annotation) in (list, dict)


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as err:
        raise ConfigError(f"{option} {text!r} is no JSON: {err}.") from None


def read_sections(option: str, text: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The JSON of an option that holds sections of settings by name; their keys are not checked."""
    content = _json(option, text)
    if not isinstance(content, dict) or not set(content) <= set(names):
        raise ConfigError(f"{option} must be a JSON object with the keys {', '.join(names)}, got {text!r}.")
    return content
