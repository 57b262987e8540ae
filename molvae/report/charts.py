"""The charts of the report, as altair charts: embedded in the page, or saved with `chart.save("x.svg")`.

Text and grid take the colour of their surroundings (`currentColor`), so that one chart reads on white and dark paper.
Data are summed up here, in Python: a chart carries bins and epochs, never one row a molecule; but for the maps, which
are of molecules.
"""

from __future__ import annotations

import json
import operator
from functools import reduce
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from molvae.report.loader import COORDINATES, PROPERTIES
from molvae.report.molecules import SKETCH_END, SKETCH_START, sketch

GREY, BLUE = "#8a9099", "#3583d6"  # training molecules and training loss; samples and held-out loss
SCALE = ["#2f6fd0", "#2fa08c", "#d9a520", "#d0482f"]  # low to high; no end of it is lost on white or on dark paper
TRAINING, SAMPLES = "training", "samples"
WHOLE = {"rings", "heavy_atoms"}
BINS = 36
MAP = (500, 380)  # pixels of each, where there is room
MANY_POINTS = 40  # above, dots hide the line
TITLES = {
    "mw": "molecular weight (Da)",
    "logp": "logP (Crippen)",
    "qed": "QED, drug-likeness",
    "sa": "SA score, 1 easy to 10 hard",
    "tpsa": "TPSA (Å²)",
    "rings": "rings",
    "heavy_atoms": "heavy atoms",
}
MAPS = {
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
    "token_accuracy": ("token accuracy, teacher forced, valid", "share", ("valid_token_accuracy",)),
    "exact": ("exact reconstruction, free running, valid", "share", ("valid_exact_reconstruction",)),
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


def training_charts(history: pd.DataFrame) -> dict[str, alt.TopLevelMixin]:
    """Name -> line chart for each group of `CURVES` that has at least one known value."""
    axis = "epoch" if history["epoch"].is_unique else "step"
    charts = {name: _curve(history, axis, *CURVES[name], from_zero=name in FROM_ZERO) for name in CURVES}
    return {name: chart for name, chart in charts.items() if chart is not None}


def dimension_chart(dimensions: pd.DataFrame, epoch: Any) -> alt.TopLevelMixin | None:
    """KL of each latent dimension in one epoch, largest first: a collapsed one has none."""
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
    return _styled(chart, "KL by latent dimension, valid", f"{len(rows)} dimensions, {total:.3g} nats in all")


def latent_charts(card: dict[str, Any]) -> dict[str, alt.TopLevelMixin]:
    """Completeness and continuity of a latent space, from its health card."""
    if not card:
        return {}
    radii, around = card["completeness"]["by_radius"], card["continuity"]["around"]
    null, pairs = card["completeness"]["random_tokens"]["stable"], card["continuity"]["similarity_of_random_pairs"]
    low, _, high = card["completeness"]["molecules_at"]
    return {
        "completeness": _line(
            radii, "radius", "stable", "stable strings by distance from 0",
            f"data at {low:.2g} to {high:.2g}; random tokens {null:.2g}", "distance, in √dimensions",
        ),
        "continuity": _line(
            around, "spread", "similarity", "similarity to a molecule nearby",
            f"Tanimoto; random pairs {pairs:.2g}", "distance, in widths of its posterior",
        ),
    }  # fmt: skip


def _line(rows: list[dict[str, float]], x: str, y: str, title: str, subtitle: str, axis: str) -> alt.TopLevelMixin:
    chart = alt.Chart(pd.DataFrame(rows)[[x, y]]).mark_line(point=True, strokeWidth=2, color=BLUE).encode(
        alt.X(f"{x}:Q", title=axis),
        alt.Y(f"{y}:Q", title=None, scale=alt.Scale(domain=[0, 1])),
        tooltip=[alt.Tooltip(f"{x}:Q", format=".3~g"), alt.Tooltip(f"{y}:Q", format=".3~g")],
    )  # fmt: skip
    return _styled(chart, title, subtitle)


def map_charts(maps: pd.DataFrame, card: dict[str, Any]) -> dict[str, alt.TopLevelMixin]:
    """Four maps of the same molecules in one chart, coloured by a property that the reader chooses of those known.

    What is marked in one of them is marked in all.

    Args:
        maps: a row a molecule, with `smiles`, PROPERTIES and COORDINATES.
        card: the health card, which knows the shares of variance.
    """
    known = [name for name in PROPERTIES if maps[name].notna().any()]
    if not known:
        return {}
    numbers = maps[[*PROPERTIES, *COORDINATES]].map(lambda value: float(f"{value:.3g}"))  # what can be told apart
    rows = numbers.assign(smiles=maps["smiles"], drawing=[sketch(one) for one in maps["smiles"]])
    choice = alt.binding_select(options=known, labels=[TITLES[name] for name in known], name="colour: ")
    shown = alt.param(name="shown", value="logp" if "logp" in known else known[0], bind=choice)
    drags = {name: alt.selection_interval(name=name) for name in MAPS}
    marked = reduce(operator.and_, drags.values())
    explained = (card.get("maps") or {}).get("explained_variance") or {}
    charts = [_map(name, explained.get(name.split("_")[0]), marked).add_params(drags[name]) for name in MAPS]
    grid = alt.concat(*charts, data=rows, columns=2, spacing=24, description="; ".join(MAPS.values()))
    legend = {**TEXT, "orient": "top", "title": None}
    return {"maps": grid.add_params(shown).configure(**{**STYLE, "legend": legend})}


def _map(name: str, explained: list[float] | None, marked: Any) -> alt.Chart:
    shares = [f" ({share:.0%} of variance)" for share in explained or []] if name.endswith("pca") else []
    axes = [f"component {k}{share}" for k, share in enumerate(shares, 1)] or [None, None]
    axis = alt.Axis(labels=False, ticks=False)
    title = alt.Title(MAPS[name], anchor="start", frame="group", fontSize=13)
    tips = [alt.Tooltip(f"{one}:Q", title=TITLES[one].split(",")[0], format=".3~g") for one in PROPERTIES]
    return alt.Chart().transform_calculate(
        value="datum[shown]",
        image=f"isValid(datum.drawing) ? {json.dumps(SKETCH_START)} + datum.drawing + {json.dumps(SKETCH_END)} : null",
    ).mark_circle(size=26, aria=False).encode(
        alt.X(f"{name}_1:Q", title=axes[0], axis=axis, scale=alt.Scale(zero=False)),
        alt.Y(f"{name}_2:Q", title=axes[1], axis=axis, scale=alt.Scale(zero=False)),
        color=alt.Color("value:Q", scale=alt.Scale(range=SCALE)),
        opacity=alt.condition(marked, alt.value(0.8), alt.value(0.08)),
        tooltip=[alt.Tooltip("image:N"), alt.Tooltip("smiles:N", title="SMILES"), *tips],
    ).properties(width=MAP[0], height=MAP[1], title=title)  # fmt: skip


def property_charts(molecules: pd.DataFrame, reference: pd.DataFrame) -> dict[str, alt.TopLevelMixin]:
    """Name -> histogram of valid samples over training molecules, for each property that has a known value."""
    valid = molecules[molecules["is_valid"]]
    charts = {name: histogram(name, valid[name], reference[name]) for name in PROPERTIES}
    return {name: chart for name, chart in charts.items() if chart is not None}


def histogram(name: str, samples: pd.Series, training: pd.Series) -> alt.TopLevelMixin | None:
    """Shares of samples (line) and of training molecules (bars) over common bins; None if no value is known."""
    samples, training = samples.dropna().to_numpy(float), training.dropna().to_numpy(float)
    if not len(samples) + len(training):
        return None
    edges = bin_edges(np.concatenate([samples, training]), whole=name in WHOLE)
    bins = pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "training": shares(training, edges), "samples": shares(samples, edges)}
    )
    outline = pd.DataFrame({"low": [edges[0], *edges], "share": [0.0, *bins["samples"], 0.0]})
    medians = [f"{label} {np.median(x):.3g}" for label, x in ((SAMPLES, samples), (TRAINING, training)) if len(x)]
    layers = []
    if len(training):
        layers.append(_training_bars(bins, TITLES[name]))
    if len(samples):
        layers.append(_sample_outline(outline))
    return _styled(alt.layer(*layers), TITLES[name], "medians: " + ", ".join(medians))


def bin_edges(values: np.ndarray, *, whole: bool) -> np.ndarray:
    """Edges of equal bins over the central 99 % of `values`; what lies outside belongs to the outermost bins.

    Whole numbers get bins centred on them, one number wide unless that gives more than 2 × BINS bins.
    """
    low, high = np.quantile(values, [0.005, 0.995])
    if whole:
        width = max(1, int(np.ceil((high - low + 1) / (2 * BINS))))
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + width, width)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of `values` in each bin; they sum to 1, values beyond the edges counted in the outermost bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return np.round(counts / max(len(values), 1), 6)


def _training_bars(bins: pd.DataFrame, title: str) -> alt.Chart:
    tips = [
        alt.Tooltip("low:Q", title=f"{title}, from", format=".4~g"),
        alt.Tooltip("high:Q", title="to", format=".4~g"),
        alt.Tooltip("training:Q", title=TRAINING, format=".1%"),
        alt.Tooltip("samples:Q", title=SAMPLES, format=".1%"),
    ]
    bars = alt.Chart(bins.assign(set=TRAINING)).mark_bar(opacity=0.5, binSpacing=0)
    return bars.encode(
        alt.X("low:Q", title=None, scale=alt.Scale(zero=False, nice=False)), alt.X2("high:Q"),
        alt.Y("training:Q", title="share", axis=alt.Axis(format="~%")), alt.Y2(datum=0),
        color=_colour(), tooltip=tips,
    )  # fmt: skip


def _sample_outline(outline: pd.DataFrame) -> alt.Chart:
    outline = outline.assign(set=SAMPLES, order=outline.index)
    return alt.Chart(outline).mark_line(interpolate="step-after", strokeWidth=2).encode(
        alt.X("low:Q", title=None, scale=alt.Scale(zero=False, nice=False)),
        alt.Y("share:Q", title="share", axis=alt.Axis(format="~%")),
        order="order:Q", color=_colour(),
    )  # fmt: skip


def _colour() -> alt.Color:
    return alt.Color("set:N", scale=alt.Scale(domain=[TRAINING, SAMPLES], range=[GREY, BLUE]))


def _curve(
    history: pd.DataFrame, axis: str, title: str, unit: str, columns: tuple[str, ...], *, from_zero: bool
) -> alt.TopLevelMixin | None:
    """One line a column; rows without a value are left out, a single value is a dot."""
    rows = history.melt(id_vars=[axis], value_vars=list(columns), var_name="series", value_name="value").dropna()
    if rows.empty:
        return None
    both = len(columns) > 1  # train and valid
    rows["series"] = np.where(rows["series"].str.startswith("train_"), "train", "valid")
    last = [f"{name} {group['value'].iloc[-1]:.4g}" for name, group in rows.groupby("series", sort=True)]
    chart = alt.Chart(rows).mark_line(point=len(history) <= MANY_POINTS, strokeWidth=2)
    chart = chart.encode(
        alt.X(f"{axis}:Q", axis=alt.Axis(tickMinStep=1, format="~s"), scale=alt.Scale(zero=False)),
        alt.Y("value:Q", title=unit or None, scale=alt.Scale(zero=from_zero)),
        tooltip=[*(["series:N"] if both else []), f"{axis}:Q", alt.Tooltip("value:Q", title=title, format=".4~g")],
        color=_of_series(alt.Color, [GREY, BLUE]) if both else alt.value(BLUE),
        **({"strokeDash": _of_series(alt.StrokeDash, [[5, 3], [1, 0]])} if both else {}),
    )  # fmt: skip
    return _styled(chart, title, "last: " + (", ".join(last) if both else last[0].removeprefix("valid ")))


def _of_series(channel: Any, values: list) -> Any:
    """A channel that tells train from valid, by colour or by dashes."""
    return channel("series:N", scale=alt.Scale(domain=["train", "valid"], range=values))


def _styled(chart: Any, title: str, subtitle: str) -> alt.TopLevelMixin:
    heading = alt.Title(title, subtitle=subtitle, anchor="start", frame="bounds", fontSize=13, subtitleFontSize=11)
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    told = f"{title}; {subtitle}"  # what a screen reader says
    chart = chart.properties(width="container", height=150, title=heading, autosize=fit, description=told)
    return chart.configure(**STYLE)
