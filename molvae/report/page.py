"""The report: one self-contained HTML page with text, tables, drawings, charts and the JavaScript that draws them.

The page loads nothing from the network: its Content-Security-Policy allows the two scripts that this module inserts, by
their hash, and no other source of anything. Texts from files are escaped by the template engine.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from molvae.chemistry.drawing import draw_svg
from molvae.errors import DataError
from molvae.report import charts, formatting, summary, tables
from molvae.report.loader import Experiment, load_experiment
from molvae.report.molecules import count_flags, list_flags, select_first_unique, select_least_plausible

FOLDER = Path(__file__).parent
N_FIRST, N_LEAST_PLAUSIBLE, N_REJECTED = 24, 12, 20  # samples, samples and rejected rows that are shown


def render_report(experiment_dir: Path, dataset_counts: Path, *, title: str) -> str:
    """Render the report of an experiment as the text of one HTML file.

    It depends on the files alone: the same files give the same text. Of `samples/` it needs only the counts, since
    `validation/molecules.parquet` has a row for each sample.

    Args:
        experiment_dir: folder of the experiment.
        dataset_counts: the .json beside the data set, which `fetch` wrote.
        title: of the page.

    Raises:
        DataError: `experiment_dir` holds no experiment, or a file in it is damaged. A missing one is named in the page.
    """
    experiment = load_experiment(Path(experiment_dir), Path(dataset_counts))
    try:
        return _render_experiment(experiment, title)
    except (TypeError, AttributeError, LookupError, ValueError, jinja2.UndefinedError) as err:
        raise DataError(
            f"{experiment_dir}: a file of it is not as molvae writes it ({type(err).__name__}: {err}). "
            "Run the stages again."
        ) from err


def _render_experiment(experiment: Experiment, title: str) -> str:
    scripts = {"library": _load_library(), "drawing": (FOLDER / "report.js").read_text("utf-8")}
    projections = charts.build_projection_chart(experiment.projections, experiment.latent)
    page = load_template("report.html.j2").render(
        title=title,
        experiment=experiment,
        scripts={name: Markup(text) for name, text in scripts.items()},
        script_hashes=" ".join(f"'sha256-{_compute_script_hash(text)}'" for text in scripts.values()),
        style=Markup((FOLDER / "report.css").read_text("utf-8")),
        **_build_header(experiment),
        **_build_molecules(experiment.molecules),
        training_charts=_to_specs(_build_training_charts(experiment)),
        latent_rows=tables.build_latent_rows({"this model": experiment.latent} if experiment.latent else {}),
        latent_baselines=tables.LATENT_BASELINES,
        latent_charts=_to_specs(charts.build_latent_charts(experiment.latent)),
        projections=_to_specs({"projections": projections} if projections else {}),
        descriptor_charts=_to_specs(charts.build_descriptor_charts(experiment.molecules, experiment.reference)),
        descriptor_titles=charts.TITLES,
        count_rows=tables.build_count_rows(experiment.counts),
        rejected=experiment.rejected.head(N_REJECTED).to_dict("records"),
    )
    return page.lstrip()


def _build_training_charts(experiment: Experiment) -> dict[str, alt.TopLevelMixin]:
    best = (experiment.model.get("training") or {}).get("best_epoch")
    dimensions = charts.build_dimension_chart(experiment.dimensions, best)
    return charts.build_training_charts(experiment.history) | ({"dimensions": dimensions} if dimensions else {})


def _build_header(experiment: Experiment) -> dict[str, Any]:
    metrics = experiment.metrics.get("metrics") or []
    return {
        "metrics": [{**metric, "progress": summary.compute_progress(metric)} for metric in metrics],
        "baseline_columns": tables.list_baseline_columns(metrics),
        "better": tables.BETTER,
        "verdict": summary.write_verdict(metrics),
        "warnings": summary.write_warnings(experiment),
        "tiles": summary.build_tiles(experiment),
    }


def _build_molecules(molecules: pd.DataFrame) -> dict[str, Any]:
    invalid = molecules.loc[~molecules["is_valid"], "reason"].replace("", "not stated")
    first, least_plausible = (
        select_first_unique(molecules, N_FIRST),
        select_least_plausible(molecules, N_LEAST_PLAUSIBLE),
    )
    return {
        "first": [_build_molecule_cell(row) for row in first.to_dict("records")],
        "least_plausible": [_build_molecule_cell(row) for row in least_plausible.to_dict("records")],
        "flag_counts": count_flags(molecules),
        "invalid_reasons": invalid.value_counts().to_dict(),
    }


def _build_molecule_cell(molecule: dict[Any, Any]) -> dict[Any, Any]:
    svg = draw_svg(molecule["smiles"])
    return {**molecule, "svg": svg and Markup(svg), "flags": list_flags(molecule)}


def _to_specs(named_charts: dict[str, alt.TopLevelMixin]) -> dict[str, Markup]:
    """Vega-Lite JSON of each chart; `<` is escaped, so that no text in it can end the script element."""
    # Not validated here, which takes as long as all the rest: a test validates each kind of chart.
    dicts = {name: formatting.finish_values(chart.to_dict(validate=False)) for name, chart in named_charts.items()}
    specs = {name: json.dumps(content, separators=(",", ":")) for name, content in dicts.items()}
    return {name: Markup(spec.replace("<", "\\u003c")) for name, spec in specs.items()}


def _load_library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, of the Vega-Lite version that this altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    is_supported = version in vl_convert.get_vegalite_versions()  # else: the newest it has; specs of one major agree
    return vl_convert.javascript_bundle(vl_version=version if is_supported else None).replace("</script", "<\\/script")


def _compute_script_hash(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def load_template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """Load a template of this folder.

    Args:
        name: of its file.
        filters: further filters for it, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=formatting.finish_value,
    )
    environment.filters.update(
        number=formatting.format_number,
        signed=formatting.format_signed,
        count=formatting.format_count,
        escape_text=formatting.escape_text,
        duration=formatting.format_duration,
        setting=formatting.format_setting,
        source=formatting.format_source,
        shell=formatting.quote_for_shell,
        **filters,
    )
    environment.tests["known"] = formatting.is_known
    return environment.get_template(name)
