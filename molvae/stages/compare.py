"""Stage `compare`: generators side by side, each compared with the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from molvae.errors import DataError, MolvaeError
from molvae.metrics.comparison import compare_metrics
from molvae.report.comparison import render_comparison
from molvae.runtime.files import atomic_write, read_json, write_json


def parse_group(text: str) -> tuple[str, list[Path]]:
    """Parse "name=a.json,b.json" or a path alone, whose experiment or file name is then the generator's.

    Returns:
        name and files of the generator.

    Raises:
        MolvaeError: no path in it.
    """
    name, _, paths = ("", "", text) if Path(text).is_file() else text.rpartition("=")
    files = [Path(path) for path in paths.split(",") if path]
    if not files:
        raise MolvaeError(f"{text!r}: write a generator as name=metrics.json, several seeds with commas between them.")
    return name or (files[0].parent.parent.name if files[0].name == "metrics.json" else files[0].stem), files


def parse_groups(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Parse several generators: the files of each by its name.

    Raises:
        MolvaeError: as `parse_group`; or two generators have one name.
    """
    groups: dict[str, list[Path]] = {}
    for text in texts:
        name, files = parse_group(text)
        if name in groups:
            both = f"{groups[name][0]} and {files[0]}"
            raise MolvaeError(f"two generators are called {name!r}: {both}. Name one yourself, as NAME={files[0]}.")
        groups[name] = files
    return groups


def compare(groups: Mapping[str, Sequence[Path]], out: Path | None = None) -> dict[str, Any]:
    """Compare all generators with the first, metric by metric.

    Args:
        groups: name -> metrics.json of each of its runs, which differ in their seeds. If one lies in the folder of an
            experiment, so do the diagnostics of its latent space, which are compared, too.
        out: folder for comparison.json and comparison.html.

    Returns:
        the content of comparison.json.

    Raises:
        MolvaeError: fewer than two generators.
        DataError: a file is absent or has no metrics.
    """
    if len(groups) < 2:
        raise MolvaeError("A comparison needs two generators. Give a metrics.json for each.")
    runs = {name: [_read_metrics(path) for path in paths] for name, paths in groups.items()}
    first, *others = runs
    content = {
        "first": first,
        "runs": {name: [str(path) for path in paths] for name, paths in groups.items()},
        "comparisons": {name: compare_metrics(runs[first], runs[name]) for name in others},
        "diagnostics": dict(_iter_diagnostics(groups)),
    }
    if out:
        write_json(out / "comparison.json", content)
        with atomic_write(out / "comparison.html") as temporary:
            temporary.write_text(render_comparison(content), "utf-8")
    return content


def collect_metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """Collect the differences and the ends of their intervals, for a tracker."""
    metrics = {}
    for name, rows in content["comparisons"].items():
        for row in rows:
            metrics[f"{name}/{row['name']}"] = row["difference"]
            for end, value in zip(("low", "high"), row["interval"] or (), strict=False):
                metrics[f"{name}/{row['name']}/{end}"] = value
    return metrics


def _iter_diagnostics(groups: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the latent diagnostics of runs, by the generator's name and, of several runs, their number."""
    for name, paths in groups.items():
        for number, path in enumerate(paths, 1):
            if (file := path.parent.parent / "latent/diagnostics.json").is_file():
                yield name if len(paths) == 1 else f"{name}, run {number}", read_json(file)


def _read_metrics(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), list):
        raise DataError(f"{path}: holds no metrics. Give a metrics.json of `molvae evaluate` or `molvae validate`.")
    return content
