"""Stage `compare`: generators side by side, each less the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from molvae.errors import DataError, MolvaeError
from molvae.metrics.comparison import compare as difference
from molvae.report.comparison import render
from molvae.runtime.files import read_json, replacing, write_json


def parse_group(text: str) -> tuple[str, list[Path]]:
    """ "name=a.json,b.json" or a path alone, whose experiment or file name is then the generator's.

    Raises:
        MolvaeError: no path in it.
    """
    name, _, paths = ("", "", text) if Path(text).is_file() else text.rpartition("=")
    files = [Path(one) for one in paths.split(",") if one]
    if not files:
        raise MolvaeError(f"{text!r}: write a generator as name=metrics.json, several seeds with commas between them.")
    return name or (files[0].parent.parent.name if files[0].name == "metrics.json" else files[0].stem), files


def parse_groups(texts: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each generator by its name.

    Raises:
        MolvaeError: as `parse_group`; or two generators have one name.
    """
    found: dict[str, list[Path]] = {}
    for text in texts:
        name, files = parse_group(text)
        if name in found:
            both = f"{found[name][0]} and {files[0]}"
            raise MolvaeError(f"two generators are called {name!r}: {both}. Name one yourself, as NAME={files[0]}.")
        found[name] = files
    return found


def compare(groups: Mapping[str, Sequence[Path]], out: Path | None = None) -> dict[str, Any]:
    """Compare all generators with the first, figure by figure.

    Args:
        groups: name -> metrics.json of each of its runs, which differ in their seeds. If one lies in the folder of an
            experiment, so does the health card of its latent space, which is compared, too.
        out: folder for comparison.json and comparison.html.
    Raises:
        MolvaeError: fewer than two generators.
        DataError: a file is absent or has no figures.
    """
    if len(groups) < 2:
        raise MolvaeError("A comparison needs two generators. Give a metrics.json for each.")
    runs = {name: [_metrics(path) for path in paths] for name, paths in groups.items()}
    first, *others = runs
    content = {
        "first": first,
        "runs": {name: [str(path) for path in paths] for name, paths in groups.items()},
        "comparisons": {name: difference(runs[first], runs[name]) for name in others},
        "cards": dict(_cards(groups)),
    }
    if out:
        write_json(out / "comparison.json", content)
        with replacing(out / "comparison.html") as temporary:
            temporary.write_text(render(content), "utf-8")
    return content


def headline(content: Mapping[str, Any]) -> dict[str, float]:
    """The differences and the ends of their intervals, as a tracker takes them."""
    found = {}
    for name, rows in content["comparisons"].items():
        for row in rows:
            found[f"{name}/{row['name']}"] = row["difference"]
            for end, value in zip(("low", "high"), row["interval"] or (), strict=False):
                found[f"{name}/{row['name']}/{end}"] = value
    return found


def _cards(groups: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The health card of each run that has one, by the generator's name and, of several runs, the run's number."""
    for name, paths in groups.items():
        for number, path in enumerate(paths, 1):
            if (card := path.parent.parent / "latent/card.json").is_file():
                yield name if len(paths) == 1 else f"{name}, run {number}", read_json(card)


def _metrics(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), list):
        raise DataError(f"{path}: holds no figures. Give a metrics.json of `molvae evaluate` or `molvae validate`.")
    return content
