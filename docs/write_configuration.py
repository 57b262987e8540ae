"""Write docs/configuration.md from the settings of the package: `make schema` runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from molvae.config import build_json_schema

HEAD = """# Configuration

Every key of the config file with its values, its default and its meaning, from `molvae/config.py`; `make schema` writes
this page. [config/README.md](../config/README.md) explains how to write a config file.
"""
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def build_page() -> str:
    """Build the page: a section for each section of the config, a row for each key."""
    schema = build_json_schema()
    parts = [HEAD]
    for name, section in schema["properties"].items():
        if "$ref" not in section:
            continue
        definition = schema["$defs"][section["$ref"].rsplit("/", 1)[1]]
        rows = [_make_row(key, content, schema["$defs"]) for key, content in definition["properties"].items()]
        table = "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows])
        parts.append(f"## {name}\n\n{definition['description']}\n\n{table}\n")
    experiments = schema["properties"]["experiments"]
    parts.append(f"## experiments\n\nA mapping: {experiments['description']}.\n")
    return "\n".join(parts)


def _make_row(key: str, content: dict[str, Any], definitions: dict[str, Any]) -> str:
    default = f"`{json.dumps(content['default'])}`" if "default" in content else "required"
    meaning = content["description"].replace("|", "\\|")
    return f"| `{key}` | {_describe_values(content)} | {default} | {meaning} |"


def _describe_values(content: dict[str, Any]) -> str:
    if "anyOf" in content:
        return " or ".join(_describe_values(part) for part in content["anyOf"])
    if "enum" in content:
        return ", ".join(f"`{value}`" for value in content["enum"])
    if content["type"] == "array":
        return f"list of {_describe_values(content['items'])}"
    if content["type"] == "object":
        return f"mapping to {_describe_values(content['additionalProperties'])}"
    limits = [f"{sign} {content[name]:g}" for name, sign in LIMITS.items() if name in content]
    return " ".join([content["type"], ", ".join(limits)]).strip()


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(build_page(), "utf-8")
