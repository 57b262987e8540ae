"""The charts of the report, as altair charts: embedded in the page, or saved with `chart.save("x.svg")`.

Text and grid take the colour of their surroundings (`currentColor`), so that a chart can be read on a light and on a
dark page. Data are aggregated here: a chart carries bins and epochs; only projections carry a row for each molecule.
"""

from __future__ import annotations

import json
import operator
from functools import reduce
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from molvae.chemistry.descriptor_table import CHARTED_DESCRIPTORS, DESCRIPTORS
from molvae.chemistry.drawing import TOOLTIP_END, TOOLTIP_START, draw_tooltip_svg
from molvae.latent.projections import COORDINATES

GREY, BLUE = "#8a9099", "#3583d6"  # training molecules and training loss; samples and held-out loss
SCALE = ["#2f6fd0", "#2fa08c", "#d9a520", "#d0482f"]  # low to high; both ends are visible on a light and a dark page
TRAINING, SAMPLES = "training", "samples"
BINS = 36
PROJECTION_SIZE = (500, 380)  # pixels of each, where there is room
MANY_POINTS = 40  # above, dots hide the line
TITLES = {name: DESCRIPTORS[name].title for name in CHARTED_DESCRIPTORS}
PROJECTIONS = {
    "latent_pca": "latent space, principal components",
    "fingerprint_pca": "Morgan fingerprints, principal components",
    "latent_tsne": "latent space, t-SNE",
    "fingerprint_tsne": "Morgan fingerprints, t-SNE",
}
# elsewhere the change is the point, not the size
FROM_ZERO = {"kl", "exact", "mutual_information", "active_units", "kl_weight", "molecules_per_s"}
NATS = "nats per molecule"
CURVES = {
    "reconstruction": ("reconstruction", NATS, ("train_reconstruction_nats", "valid_reconstruction_nats")),
    "kl": ("KL(q(z|x) ‖ p(z))", NATS, ("train_kl_nats", "valid_kl_nats")),
    "total": ("total loss (valid = −ELBO)", NATS, ("train_loss_nats", "valid_loss_nats")),
    "token_accuracy": ("token accuracy, teacher forced, valid", "fraction", ("valid_token_accuracy",)),
    "exact": ("exact reconstruction, free running, valid", "fraction", ("valid_exact_reconstruction",)),
    "mutual_information": ("mutual information I(x; z), valid", NATS, ("mutual_information_nats",)),
    "active_units": ("active latent units", "units", ("active_units",)),
    "kl_weight": ("KL weight β", "", ("kl_weight",)),
    "molecules_per_s": ("training speed", "molecules/s", ("molecules_per_s",)),
}
TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "titleFontWeight": "normal"}
GRID = {"gridColor": "currentColor", "gridOpacity": 0.1, "tickColor": "currentColor", "tickOpacity": 0.3}
STYLE = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "title": {"color": "currentColor", "subtitleColor": "currentColor"},
    "axis": {**GRID, **TEXT, "domain": False, "tickCount": 5},
    "legend": {**TEXT, "orient": "top", "title": None, "offset": 2, "symbolType": "stroke", "symbolStrokeWidth": 3,
               "symbolOpacity": 1},
}  # fmt: skip


def build_training_charts(history: pd.DataFrame) -> dict[str, alt.TopLevelMixin]:
    """Build a line chart for each of CURVES that has a known value, by its name."""
    axis = "epoch" if history["epoch"].is_unique else "step"
    charts = {name: _build_curve(history, axis, *CURVES[name], from_zero=name in FROM_ZERO) for name in CURVES}
    return {name: chart for name, chart in charts.items() if chart is not None}


def build_dimension_chart(dimensions: pd.DataFrame, epoch: Any) -> alt.TopLevelMixin | None:
    """Build a chart of the KL of each latent dimension in one epoch, largest first: a collapsed one has none."""
    rows = dimensions[dimensions["epoch"] == epoch].dropna().sort_values("kl_nats", ascending=False)
    if rows.empty:
        return None
    rows = rows.assign(rank=range(1, len(rows) + 1))
    chart = alt.Chart(rows).mark_bar(color=BLUE, binSpacing=0).encode(
        alt.X("rank:O", title="latent dimensions, by their KL", axis=alt.Axis(labels=False, ticks=False)),
        alt.Y("kl_nats:Q", title="nats"),
        tooltip=["dimension:Q", alt.Tooltip("kl_nats:Q", title="KL, nats", format=".3~g")],
    )  # fmt: skip
    total = rows["kl_nats"].sum()
    return _apply_style(chart, "KL by latent dimension, valid", f"{len(rows)} dimensions, {total:.3g} nats in all")


def build_latent_charts(diagnostics: dict[str, Any]) -> dict[str, alt.TopLevelMixin]:
    """Build charts of completeness and continuity from latent diagnostics."""
    if not diagnostics:
        return {}
    completeness, continuity = diagnostics["completeness"], diagnostics["continuity"]
    random, low_high = completeness["random_baseline"]["round_trip"], completeness["molecule_radii"][::2]
    data = "molecules at {:.2g} to {:.2g}".format(*low_high)
    pairs = f"Tanimoto; random pairs {continuity['similarity_of_random_pairs']:.2g}"
    return {
        "completeness": _build_line(
            completeness["by_radius"], "radius", "round_trip", "round-trip rate by distance from 0",
            f"{data}; random tokens {random:.2g}", "distance, in √dimensions",
        ),
        "continuity": _build_line(
            continuity["neighborhoods"], "spread", "similarity", "similarity of neighbours to their molecule",
            pairs, "distance, in posterior widths",
        ),
    }  # fmt: skip


def _build_line(
    rows: list[dict[str, float]], x: str, y: str, title: str, subtitle: str, axis: str
) -> alt.TopLevelMixin:
    chart = alt.Chart(pd.DataFrame(rows)[[x, y]]).mark_line(point=True, strokeWidth=2, color=BLUE).encode(
        alt.X(f"{x}:Q", title=axis),
        alt.Y(f"{y}:Q", title=None, scale=alt.Scale(domain=[0, 1])),
        tooltip=[alt.Tooltip(f"{x}:Q", format=".3~g"), alt.Tooltip(f"{y}:Q", format=".3~g")],
    )  # fmt: skip
    return _apply_style(chart, title, subtitle)


def build_projection_chart(projections: pd.DataFrame, diagnostics: dict[str, Any]) -> alt.TopLevelMixin | None:
    """Build a chart of four projections of the same molecules, coloured by a descriptor that the reader chooses.

    Molecules that are selected in one projection are selected in all.

    Args:
        projections: a molecule a row, with `smiles`, CHARTED_DESCRIPTORS and COORDINATES.
        diagnostics: latent diagnostics, which hold the fractions of variance.

    Returns:
        None if no value of a descriptor is known.
    """
    known = [name for name in CHARTED_DESCRIPTORS if projections[name].notna().any()]
    if not known:
        return None
    numbers = projections[[*CHARTED_DESCRIPTORS, *COORDINATES]].map(lambda value: float(f"{value:.3g}"))
    drawings = [draw_tooltip_svg(smiles) for smiles in projections["smiles"]]
    rows = numbers.assign(smiles=projections["smiles"], drawing=drawings)
    choice = alt.binding_select(options=known, labels=[TITLES[name] for name in known], name="colour: ")
    shown = alt.param(name="shown", value="logp" if "logp" in known else known[0], bind=choice)
    intervals = {name: alt.selection_interval(name=name) for name in PROJECTIONS}
    selected = reduce(operator.and_, intervals.values())
    explained = (diagnostics.get("projections") or {}).get("explained_variance") or {}
    charts = [
        _build_projection(name, explained.get(name.split("_")[0]), selected).add_params(intervals[name])
        for name in PROJECTIONS
    ]
    grid = alt.concat(*charts, data=rows, columns=2, spacing=24, description="; ".join(PROJECTIONS.values()))
    legend = {**TEXT, "orient": "top", "title": None}
    return grid.add_params(shown).configure(**{**STYLE, "legend": legend})


def _build_projection(name: str, explained: list[float] | None, selected: Any) -> alt.Chart:
    components = enumerate(explained or [], 1) if name.endswith("pca") else ()
    axes: list[str | None] = [f"component {k} ({fraction:.0%} of variance)" for k, fraction in components] or [
        None,
        None,
    ]
    image = f"{json.dumps(TOOLTIP_START)} + datum.drawing + {json.dumps(TOOLTIP_END)}"
    axis = alt.Axis(labels=False, ticks=False)
    title = alt.Title(PROJECTIONS[name], anchor="start", frame="group", fontSize=13)
    tips = [alt.Tooltip(f"{key}:Q", title=title.split(",")[0], format=".3~g") for key, title in TITLES.items()]
    return alt.Chart().transform_calculate(
        value="datum[shown]",
        image=f"isValid(datum.drawing) ? {image} : null",
    ).mark_circle(size=26, aria=False).encode(
        alt.X(f"{name}_1:Q", title=axes[0], axis=axis, scale=alt.Scale(zero=False)),
        alt.Y(f"{name}_2:Q", title=axes[1], axis=axis, scale=alt.Scale(zero=False)),
        color=alt.Color("value:Q", scale=alt.Scale(range=SCALE)),
        opacity=alt.condition(selected, alt.value(0.8), alt.value(0.08)),
        tooltip=[alt.Tooltip("image:N"), alt.Tooltip("smiles:N", title="SMILES"), *tips],
    ).properties(width=PROJECTION_SIZE[0], height=PROJECTION_SIZE[1], title=title)  # fmt: skip


def build_descriptor_charts(molecules: pd.DataFrame, reference: pd.DataFrame) -> dict[str, alt.TopLevelMixin]:
    """Build a histogram of valid samples over training molecules for each known descriptor, by its name."""
    valid = molecules[molecules["is_valid"]]
    charts = {name: build_histogram(name, valid[name], reference[name]) for name in CHARTED_DESCRIPTORS}
    return {name: chart for name, chart in charts.items() if chart is not None}


def build_histogram(name: str, samples: pd.Series, training: pd.Series) -> alt.TopLevelMixin | None:
    """Build a chart of samples (line) and training molecules (bars) over common bins; None if no value is known."""
    samples, training = samples.dropna().to_numpy(float), training.dropna().to_numpy(float)
    if not len(samples) + len(training):
        return None
    edges = compute_bin_edges(np.concatenate([samples, training]), is_count=DESCRIPTORS[name].is_count)
    bins = pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "training": compute_bin_fractions(training, edges),
            "samples": compute_bin_fractions(samples, edges),
        }
    )
    outline = pd.DataFrame({"low": [edges[0], *edges], "fraction": [0.0, *bins["samples"], 0.0]})
    sets = ((SAMPLES, samples), (TRAINING, training))
    medians = [f"{label} {np.median(values):.3g}" for label, values in sets if len(values)]
    layers = []
    if len(training):
        layers.append(_build_training_bars(bins, TITLES[name]))
    if len(samples):
        layers.append(_build_sample_outline(outline))
    return _apply_style(alt.layer(*layers), TITLES[name], "medians: " + ", ".join(medians))


def compute_bin_edges(values: np.ndarray, *, is_count: bool) -> np.ndarray:
    """Compute the edges of equal bins over the central 99 % of values; outliers belong to the outermost bins.

    Counts get bins centred on whole numbers, one number wide unless that gives more than 2 × BINS bins.
    """
    low, high = np.quantile(values, [0.005, 0.995])
    if is_count:
        width = max(1, int(np.ceil((high - low + 1) / (2 * BINS))))
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + width, width)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def compute_bin_fractions(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Compute the fraction of values in each bin; those beyond the edges are counted in the outermost bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return np.round(counts / max(len(values), 1), 6)


def _build_training_bars(bins: pd.DataFrame, title: str) -> alt.Chart:
    tips = [
        alt.Tooltip("low:Q", title=f"{title}, from", format=".4~g"),
        alt.Tooltip("high:Q", title="to", format=".4~g"),
        alt.Tooltip("training:Q", title=TRAINING, format=".1%"),
        alt.Tooltip("samples:Q", title=SAMPLES, format=".1%"),
    ]
    bars = alt.Chart(bins.assign(set=TRAINING)).mark_bar(opacity=0.5, binSpacing=0)
    return bars.encode(
        alt.X("low:Q", title=None, scale=alt.Scale(zero=False, nice=False)), alt.X2("high:Q"),
        alt.Y("training:Q", title="fraction", axis=alt.Axis(format="~%")), alt.Y2(datum=0),
        color=_make_colour(), tooltip=tips,
    )  # fmt: skip


def _build_sample_outline(outline: pd.DataFrame) -> alt.Chart:
    outline = outline.assign(set=SAMPLES, order=outline.index)
    return alt.Chart(outline).mark_line(interpolate="step-after", strokeWidth=2).encode(
        alt.X("low:Q", title=None, scale=alt.Scale(zero=False, nice=False)),
        alt.Y("fraction:Q", title="fraction", axis=alt.Axis(format="~%")),
        order="order:Q", color=_make_colour(),
    )  # fmt: skip


def _make_colour() -> alt.Color:
    return alt.Color("set:N", scale=alt.Scale(domain=[TRAINING, SAMPLES], range=[GREY, BLUE]))


def _build_curve(
    history: pd.DataFrame, axis: str, title: str, unit: str, columns: tuple[str, ...], *, from_zero: bool
) -> alt.TopLevelMixin | None:
    """One line for each column; rows without a value are left out, a single value is a dot."""
    rows = history.melt(id_vars=[axis], value_vars=list(columns), var_name="series", value_name="value").dropna()
    if rows.empty:
        return None
    has_both = len(columns) > 1  # train and valid
    rows["series"] = np.where(rows["series"].str.startswith("train_"), "train", "valid")
    last = [f"{name} {group['value'].iloc[-1]:.4g}" for name, group in rows.groupby("series", sort=True)]
    chart = alt.Chart(rows).mark_line(point=len(history) <= MANY_POINTS, strokeWidth=2)
    chart = chart.encode(
        alt.X(f"{axis}:Q", axis=alt.Axis(tickMinStep=1, format="~s"), scale=alt.Scale(zero=False)),
        alt.Y("value:Q", title=unit or None, scale=alt.Scale(zero=from_zero)),
        tooltip=[*(["series:N"] if has_both else []), f"{axis}:Q", alt.Tooltip("value:Q", title=title, format=".4~g")],
        color=_make_series_channel(alt.Color, [GREY, BLUE]) if has_both else alt.value(BLUE),
        **({"strokeDash": _make_series_channel(alt.StrokeDash, [[5, 3], [1, 0]])} if has_both else {}),
    )  # fmt: skip
    return _apply_style(chart, title, "last: " + (", ".join(last) if has_both else last[0].removeprefix("valid ")))


def _make_series_channel(channel: Any, values: list) -> Any:
    """Make a channel that separates train from valid, by colour or by dashes."""
    return channel("series:N", scale=alt.Scale(domain=["train", "valid"], range=values))


def _apply_style(chart: Any, title: str, subtitle: str) -> alt.TopLevelMixin:
    heading = alt.Title(title, subtitle=subtitle, anchor="start", frame="bounds", fontSize=13, subtitleFontSize=11)
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    description = f"{title}; {subtitle}"  # for screen readers
    chart = chart.properties(width="container", height=150, title=heading, autosize=fit, description=description)
    return chart.configure(**STYLE)
