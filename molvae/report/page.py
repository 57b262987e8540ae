"""One self-contained HTML page an experiment: text, tables, drawings, charts and the JavaScript that draws them.

The page asks the network for nothing and is forbidden to: its Content-Security-Policy allows the two scripts that this
module wrote, by their hash, and no other source of anything. Texts from files are escaped by the template engine.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from molvae.report import charts, summary
from molvae.report.loader import Experiment, read_experiment
from molvae.report.molecules import alarm_counts, alarms, first_valid_unique, least_plausible, molecule_svg

FOLDER = Path(__file__).parent
GRID, WORST, REJECTED = 24, 12, 20  # what is shown of each
LONGEST_TEXT = 120  # characters of a raw input text that are shown


def render(experiment_dir: Path, dataset_books: Path, *, title: str) -> str:
    """The report of the experiment in `experiment_dir` as the text of one HTML file.

    It depends on the files alone, not on clock or machine: the same files give the same text. Of `samples/` it needs
    only the books, since `validation/molecules.parquet` has a row for each sample.

    Args:
        dataset_books: the `books.json` that `fetch` wrote for the data set.
    Raises:
        DataError: `experiment_dir` holds no experiment, or a file in it is damaged. A missing one is named there.
    """
    experiment = read_experiment(Path(experiment_dir), Path(dataset_books))
    scripts = {"library": _library(), "drawing": (FOLDER / "report.js").read_text("utf-8")}
    page = template("report.html.j2").render(
        title=title,
        experiment=experiment,
        scripts={name: Markup(text) for name, text in scripts.items()},
        script_hashes=" ".join(f"'sha256-{_sha256_base64(text)}'" for text in scripts.values()),
        style=Markup((FOLDER / "report.css").read_text("utf-8")),
        **_header(experiment),
        **_molecules(experiment.molecules),
        curves=_specs(_training_charts(experiment)),
        latent_rows=summary.latent_rows({"this model": experiment.latent} if experiment.latent else {}),
        beside=summary.BESIDE,
        latent_charts=_specs(charts.latent_charts(experiment.latent)),
        maps=_specs(charts.map_charts(experiment.maps, experiment.latent)),
        histograms=_specs(charts.property_charts(experiment.molecules, experiment.reference)),
        titles=charts.TITLES,
        flow=summary.flow(experiment),
        rejected=experiment.rejected.head(REJECTED).to_dict("records"),
    )
    return page.lstrip()


def _training_charts(experiment: Experiment) -> dict[str, alt.TopLevelMixin]:
    best = (experiment.model.get("training") or {}).get("best_epoch")
    dimensions = charts.dimension_chart(experiment.dimensions, best)
    return charts.training_charts(experiment.history) | ({"dimensions": dimensions} if dimensions else {})


def _header(experiment: Experiment) -> dict[str, Any]:
    metrics = experiment.metrics.get("metrics") or []
    figures = summary.latent_figures(experiment)
    return {
        "metrics": [{**metric, "progress": summary.progress(metric)} for metric in metrics],
        "baseline_columns": summary.baseline_columns(metrics),
        "better": summary.BETTER,
        "verdict": summary.verdict(metrics),
        "warnings": summary.warnings(experiment, figures),
        "tiles": summary.tiles(experiment, figures),
    }


def _molecules(molecules: pd.DataFrame) -> dict[str, Any]:
    invalid = molecules.loc[~molecules["is_valid"], "reason"].replace("", "not stated")
    return {
        "grid": [_card(row) for row in first_valid_unique(molecules, GRID).to_dict("records")],
        "worst": [_card(row) for row in least_plausible(molecules, WORST).to_dict("records")],
        "alarm_counts": alarm_counts(molecules),
        "invalid_reasons": invalid.value_counts().to_dict(),
    }


def _card(molecule: dict[str, Any]) -> dict[str, Any]:
    svg = molecule_svg(molecule["smiles"])
    return {**molecule, "svg": svg and Markup(svg), "alarms": alarms(molecule)}


def _specs(found: dict[str, alt.TopLevelMixin]) -> dict[str, Markup]:
    """Name -> Vega-Lite JSON; `<` is written as an escape, so that no text in it can end the script element."""
    # Not validated here, which takes as long as all the rest: a test validates each kind of chart.
    specs = {name: json.dumps(chart.to_dict(validate=False), separators=(",", ":")) for name, chart in found.items()}
    return {name: Markup(spec.replace("<", "\\u003c")) for name, spec in specs.items()}


def _library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, of the Vega-Lite version that this altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    supported = version in vl_convert.get_vegalite_versions()  # else: the newest it has; specs of one major agree
    return vl_convert.javascript_bundle(vl_version=version if supported else None).replace("</script", "<\\/script")


def _sha256_base64(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A template of this folder, with filters of its own besides those of all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=summary.number,
        count=summary.number_of,
        visible=visible,
        duration=duration,
        plain=plain,
        **filters,
    )
    environment.tests["known"] = summary.is_known
    return environment.get_template(name)


def visible(text: Any) -> str:
    """A raw text cut to a readable length, with control and direction-changing characters written out."""
    shown = "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in str(text)[:LONGEST_TEXT])
    return f"{shown}… ({len(str(text))} characters)" if len(str(text)) > LONGEST_TEXT else shown


def plain(value: Any) -> str:
    """A setting as one would type it: lists and mappings as JSON, an absent value in words."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else re.sub(r'[{}"]', "", json.dumps(value, ensure_ascii=False)) or "none"


def duration(seconds: Any) -> str:
    """Seconds as hours, minutes and seconds."""
    if not summary.is_known(seconds):
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "under 1 s"
