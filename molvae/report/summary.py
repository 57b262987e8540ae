"""What the figures of an experiment say: verdict, warnings, and the rows of the report's tables. No HTML here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from molvae.report.loader import Experiment

NULL, CEILING = "random_tokens", "training_molecules"
SHUFFLED = "shuffled_latents"
BASELINES = {
    NULL: "random tokens (null)",
    SHUFFLED: "shuffled latent points (null)",
    CEILING: "training molecules (ceiling)",
}
BESIDE = {
    "principal_components_of_tokens": "PCA of tokens",
    "principal_components_of_fingerprints": "PCA of fingerprints",
    "chance": "chance",
}
NO_DISTANCE = "No distance to real molecules was measured, so nothing here says how good the samples are."
BETTER = {"lower": "↓ lower", "higher": "↑ higher"}
COLLAPSED_KL_NATS = 1.0
COLLAPSED_NATS = math.log(2)  # of mutual information: z tells less than one bit
COLLAPSED_SHARE = 0.1  # of the latent dimensions; below, the decoder ignores nearly all of z
MOSTLY_STABLE = 0.95  # share of the samples
SMALL_N = 10_000  # FCD falls with n and flattens only above 10 000 (Özçelik & Grisoni 2025)


def number(value: Any) -> str:
    """A figure for a person: three or four digits that matter, thousands apart, a dash for the unknown."""
    if not is_known(value):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}".replace(",", "\u202f")
    size = abs(value)
    if 0 < size < 0.001 or size >= 1e7:
        return f"{value:.2e}"
    return f"{value:.{3 if size < 10 else 1}f}"


def is_known(value: Any) -> bool:
    """A finite number, so neither None nor NaN nor a text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def progress(metric: dict[str, Any]) -> float | None:
    """How far the value has come from the null (0) to the ceiling (1), unbounded.

    None if a figure is unknown, or if the metric cannot tell the null from the ceiling (as validity of SELFIES cannot,
    or novelty, in which training molecules come last).
    """
    baselines = metric.get("baselines") or {}
    value, null, ceiling = metric.get("value"), baselines.get(NULL), baselines.get(CEILING)
    sign = {"lower": -1, "higher": 1}.get(metric.get("better", ""), 0)
    if not (is_known(value) and is_known(null) and is_known(ceiling)):
        return None
    if sign * (ceiling - null) <= 0.02 * max(abs(null), abs(ceiling)):
        return None
    return (value - null) / (ceiling - null)


def main_metric(metrics: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The one the verdict is about: FCD/Test, or else the first Fréchet distance."""
    frechet = [metric for metric in metrics if str(metric.get("name", "")).startswith("FCD")]
    return next((metric for metric in frechet if metric["name"] == "FCD/Test"), frechet[0] if frechet else None)


def verdict(metrics: list[dict[str, Any]]) -> dict[str, str]:
    """One sentence on the samples, and its tone: good, between, poor or unknown."""
    metric = main_metric(metrics)
    if metric is None or not is_known(metric.get("value")):
        return {"tone": "unknown", "text": NO_DISTANCE}
    value, baselines = metric["value"], metric.get("baselines") or {}
    start = f"{metric['name']} of {_count(metric.get('n'))}samples is {number(value)}{_interval(metric)}"
    null, ceiling = baselines.get(NULL), baselines.get(CEILING)
    way = progress(metric)
    if way is None:
        return {"tone": "unknown", "text": f"{start}, with no null and ceiling beside it to read it by."}
    if way <= 0:
        return {"tone": "poor", "text": f"{start}: no better than random tokens ({number(null)})."}
    if way >= 1 or abs(value - ceiling) <= 0.1 * abs(ceiling):
        return {"tone": "good", "text": f"{start}: as good as training molecules themselves ({number(ceiling)})."}
    text = f"{start}: between random tokens ({number(null)}) and training molecules ({number(ceiling)})"
    if metric["better"] == "lower" and ceiling > 0:
        text += f", {_ratio(value / ceiling)} times as far from the reference as the latter"
    return {"tone": "between", "text": text + "."}


def warnings(experiment: Experiment, figures: dict[str, Any]) -> list[str]:
    """What a reader must know before any figure: collapse, small n, books that do not close, missing files."""
    found = []
    units, dims, kl = figures["active_units"], figures["latent_dim"], figures["kl_nats"]
    few_units = is_known(units) and is_known(dims) and units < COLLAPSED_SHARE * dims
    told = figures["mutual_information_nats"]
    variational = _setting(experiment, "model", "variational") is not False  # a plain autoencoder has no KL
    little = (is_known(kl) and kl < COLLAPSED_KL_NATS) or (is_known(told) and told < COLLAPSED_NATS)
    if variational and (few_units or little):
        found.append(
            f"Posterior collapse: {number_of(units)} of {number_of(dims)} latent units are active, KL is {number(kl)} "
            f"nats, mutual information {number(told)} nats. The decoder hardly uses the latent space, so encoding, "
            "interpolation and neighbours mean little."
        )
    main = main_metric(experiment.metrics.get("metrics") or [])
    if main and is_known(main.get("n")) and main["n"] < SMALL_N:
        found.append(
            f"{main['name']} was taken over {number(main['n'])} molecules. It falls as n grows: compare it with its "
            "own null and ceiling here, not with published figures over 30\u202f000."
        )
    drawn = experiment.books.get("sample") or {}
    written, kept, stable = (drawn.get(name) for name in ("strings_written", "kept", "stable"))
    if all(map(is_known, (written, kept, stable))) and written > kept and stable < MOSTLY_STABLE * kept:
        found.append(
            f"{number(kept - stable)} of {number(kept)} samples are strings that no training molecule would have: the "
            "model writes too few stable ones for sample.attempts. Train it longer."
        )
    by_name = {metric.get("name"): metric for metric in experiment.metrics.get("metrics") or []}
    if memory := memorised(by_name.get("SNN/Train")):
        found.append(memory)
    open_books = [row["stage"] for row in flow(experiment) if row["closed"] is False]
    if open_books:
        found.append(f"The books of {', '.join(open_books)} do not close: rows went missing without a reason.")
    if experiment.missing:
        found.append(f"Incomplete: {', '.join(experiment.missing)} not found; the parts below that need them say so.")
    return found


def memorised(metric: dict[str, Any] | None) -> str | None:
    """Whether samples are nearer to training molecules than held-out molecules are, beyond the error of both."""
    low, _ = (metric or {}).get("interval") or (None, None)
    held_out = ((metric or {}).get("baselines") or {}).get("held_out")
    if not (is_known(low) and is_known(held_out)) or low <= held_out:
        return None
    return (
        f"Samples are nearer to their nearest training molecule ({number(metric['value'])}) than held-out molecules "
        f"are ({number(held_out)}): the model repeats what it was trained on."
    )


def latent_rows(cards: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of health cards for a table: `what`, the figure of each model by its name, and of the first what
    stands `beside` it in the columns of BESIDE (None where it has none), and a `note`.
    """
    tables = {name: _latent_rows(card) for name, card in cards.items()}
    return [
        {**rows[0], "models": {name: row["figure"] for name, row in zip(tables, rows, strict=True)}}
        for rows in zip(*tables.values(), strict=False)
    ]


def _latent_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    use, back, whole, near = (card[name] for name in ("use", "reconstruction", "completeness", "continuity"))
    ways = card.get("interpolation") or {}
    random = whole["random_tokens"]

    def row(what: str, figure: Any, of: dict[str, Any] | None = None, key: str = "", note: str = "",
            chance: Any = None) -> dict[str, Any]:  # fmt: skip
        beside = {name: ((of or {}).get(name) or {}).get(key) for name in BESIDE}
        beside |= {} if chance is None else {"chance": chance}
        return {"what": what, "figure": figure, "beside": beside, "note": note}

    def way(what: str, key: str, note: str = "", chance: Any = None) -> dict[str, Any]:
        return row(what, ways["latent"][key], ways, key, note, chance)

    even = ways.get("steps", 2) - 1
    return [
        row("mutual information, nats", use["mutual_information_nats"],
            note=f"at most {use['mutual_information_at_most']:.3g} can be told with {card['n']} molecules"),
        row("active units", use["active_units"], note=f"of {use['latent_dim']}"),
        row("molecules that come back from the mean", back["same_molecule"], of=back, key="same_molecule"),
        row("molecules that come back from a draw", back["same_molecule_from_draw"]),
        row("similarity of what comes back", back["similarity"], of=back, key="similarity",
            chance=near["similarity_of_random_pairs"]),
        row("good points of the prior", whole["prior"]["good"], of=whole, key="good", chance=random["good"],
            note="new, stable, passing MOSES' filters"),
        row("good points of posteriors", whole["posterior"]["good"], chance=random["good"]),
        row("neighbours that are most similar, too", near["latent"]["neighbors"], of=near, key="neighbors",
            note="of the ten nearest"),
        row("rank correlation of distance and dissimilarity", near["latent"]["rank_correlation"], of=near,
            key="rank_correlation"),
        row("mismatch of posteriors and prior (MMD²)", card["aggregate_posterior"]["mmd"],
            chance=card["aggregate_posterior"]["mmd_null"], note="chance: between draws of the prior"),
        *([
            way("stable strings on ways between molecules", "stable", chance=random["stable"]),
            way("different molecules on a way, of its points", "distinct", f"{ways['ways']} ways of {ways['steps']}"),
            way("change of logP a step", "logp_step", f"an even way {ways['chance']['logp_step'] / even:.2g}"),
            way("change of QED a step", "qed_step", f"an even way {ways['chance']['qed_step'] / even:.2g}"),
        ] if ways else []),
    ]  # fmt: skip


def latent_figures(experiment: Experiment) -> dict[str, Any]:
    """Held-out figures of the epoch that the model file holds, else those in `model.json`; None if unknown."""
    row = _best_row(experiment.history, (experiment.model.get("training") or {}).get("best_epoch"))
    stated = experiment.model.get("metrics") or {}

    def figure(name: str) -> float | None:
        return next((float(value) for value in (row.get(name), stated.get(name)) if is_known(value)), None)

    return {
        "latent_dim": _setting(experiment, "model", "latent_dim"),
        "active_units": figure("active_units"),
        "kl_nats": figure("valid_kl_nats"),
        "reconstruction_nats": figure("valid_reconstruction_nats"),
        "token_accuracy": figure("valid_token_accuracy"),
        "exact_reconstruction": figure("valid_exact_reconstruction"),
        "mutual_information_nats": figure("mutual_information_nats"),
    }


def tiles(experiment: Experiment, figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(label, figure, context) for the strip under the verdict: quality and novelty beside what tells of a collapse."""
    by_name = {str(metric.get("name", "")).lower(): metric for metric in experiment.metrics.get("metrics") or []}
    found = []
    main = main_metric(experiment.metrics.get("metrics") or [])
    for metric in (main, by_name.get("novelty"), by_name.get("unique@10000") or by_name.get("unique@1000")):
        if metric:
            found.append((str(metric["name"]), number(metric.get("value")), f"n = {number(metric.get('n'))}"))
    if stable := by_name.get("stable"):
        found.append(("stable strings", number(stable.get("value")), "share of all strings written for the samples"))
    units = f"{number_of(figures['active_units'])} / {number_of(figures['latent_dim'])}"
    found += [
        ("active units", units, "latent dimensions in use"),
        ("KL", number(figures["kl_nats"]), "nats per molecule, held-out"),
        ("reconstruction", number(figures["reconstruction_nats"]), "nats per molecule, held-out"),
        ("mutual information", number(figures["mutual_information_nats"]), "nats, what z tells of its molecule"),
        ("token accuracy", number(figures["token_accuracy"]), "held-out, previous tokens given"),
        ("exact reconstruction", number(figures["exact_reconstruction"]), "share of held-out molecules, free running"),
    ]
    if main and is_known(gap := prior_gap(main)):
        kind = (experiment.prior.get("settings") or {}).get("kind", "as_trained").replace("_", " ")
        found.append(("prior gap", number(gap), f"{main['name']} lost to the prior ({kind})"))
    return found


def prior_gap(metric: dict[str, Any]) -> float | None:
    """By how much samples from the prior are worse than samples decoded from training molecules' latent points."""
    value, without_gap = metric.get("value"), (metric.get("baselines") or {}).get("aggregate_posterior")
    return value - without_gap if is_known(value) and is_known(without_gap) else None


def baseline_columns(metrics: list[dict[str, Any]]) -> dict[str, str]:
    """Key -> heading of the baselines to show: the three that belong beside each figure, then any other there is."""
    others = [key for metric in metrics for key in metric.get("baselines") or {} if key not in BASELINES]
    return {**BASELINES, **{key: key.replace("_", " ") for key in others}}


def flow(experiment: Experiment) -> list[dict[str, Any]]:
    """One row a stage: what came in and where it went; `closed` is None when the figures are not all there."""
    rows = []
    for stage, books in experiment.books.items():
        rejected = books.get("rejected") or {}
        total = sum(count for count in rejected.values() if is_known(count))
        figures = (books.get("rows_in"), books.get("kept"), books.get("duplicates", 0))
        off = figures[0] - figures[1] - total - figures[2] if all(map(is_known, figures)) else None
        rows.append(
            {"stage": stage, "rows_in": figures[0], "kept": figures[1], "rejected": total if books else None,
             "duplicates": figures[2] if books else None, "off": off, "closed": None if off is None else off == 0,
             "reasons": sorted(rejected.items(), key=lambda item: (-item[1], item[0]))}
        )  # fmt: skip
    return rows


def number_of(value: Any) -> str:
    """A count that a table may hold as a float."""
    return number(int(value)) if is_known(value) and float(value).is_integer() else number(value)


def _count(n: Any) -> str:
    return f"{number(n)} " if is_known(n) else ""


def _interval(metric: dict[str, Any]) -> str:
    low, high = metric.get("interval") or (None, None)
    return f" ({number(low)} to {number(high)})" if is_known(low) and is_known(high) else ""


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _setting(experiment: Experiment, section: str, key: str) -> Any:
    return ((experiment.model.get("settings") or {}).get(section) or {}).get(key)


def _best_row(history: pd.DataFrame, best_epoch: Any) -> dict[str, Any]:
    """The last row of the best epoch, or of the run if no epoch is named best; {} without a history."""
    if history.empty:
        return {}
    best = history[history["epoch"] == best_epoch]
    return (history if best.empty else best).iloc[-1].to_dict()
