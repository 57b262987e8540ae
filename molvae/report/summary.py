"""What the results of an experiment say: verdict, warnings and key metrics. No HTML here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from molvae.metrics.definitions import AGGREGATE_POSTERIOR, RANDOM_BASELINE, TRAINING_SET_REFERENCE
from molvae.report.formatting import format_count, format_number, is_known
from molvae.report.loader import Experiment
from molvae.report.tables import build_count_rows

NO_DISTANCE = "No distance to real molecules was measured, so nothing here says how good the samples are."
EPSILON = 0.02  # baselines that differ by less, relatively, cannot tell good samples from bad ones
CLOSE = 0.1  # from the training-set reference, relatively: as good as it
MIN_ROUND_TRIPS = 0.95  # fraction of samples, below which the report warns
SMALL_N = 10_000  # FCD falls with n and flattens only above 10 000 (Özçelik & Grisoni 2025)


def compute_progress(metric: Mapping[str, Any]) -> float | None:
    """Compute how far a metric is from its random baseline (0) to its training-set reference (1), unbounded.

    None if a value is unknown, or if the metric cannot tell the two apart (as validity of SELFIES cannot, or novelty,
    in which training molecules come last).
    """
    baselines = metric.get("baselines") or {}
    value = metric.get("value")
    random, reference = baselines.get(RANDOM_BASELINE), baselines.get(TRAINING_SET_REFERENCE)
    sign = {"lower": -1, "higher": 1}.get(metric.get("better", ""), 0)
    if not (is_known(value) and is_known(random) and is_known(reference)):
        return None
    if sign * (reference - random) <= EPSILON * max(abs(random), abs(reference)):
        return None
    return (value - random) / (reference - random)


def find_main_metric(metrics: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Find the metric that the verdict is about: FCD/Test, or else the first Fréchet distance."""
    distances = [metric for metric in metrics if str(metric.get("name", "")).startswith("FCD")]
    return next((metric for metric in distances if metric["name"] == "FCD/Test"), distances[0] if distances else None)


def write_verdict(metrics: list[dict[str, Any]]) -> dict[str, str]:
    """Write one sentence on the samples, `text`, and its `tone`: good, between, poor or unknown."""
    metric = find_main_metric(metrics)
    if metric is None or not is_known(metric.get("value")):
        return {"tone": "unknown", "text": NO_DISTANCE}
    value, baselines = metric["value"], metric.get("baselines") or {}
    n = f"{format_number(metric['n'])} " if is_known(metric.get("n")) else ""
    start = f"{metric['name']} of {n}samples is {format_number(value)}{_format_interval(metric)}"
    random, reference = baselines.get(RANDOM_BASELINE), baselines.get(TRAINING_SET_REFERENCE)
    progress = compute_progress(metric)
    if progress is None or reference is None:
        return {"tone": "unknown", "text": f"{start}, with no random baseline and training-set reference to compare."}
    if progress <= 0:
        return {"tone": "poor", "text": f"{start}: no better than random tokens ({format_number(random)})."}
    if progress >= 1 or abs(value - reference) <= CLOSE * abs(reference):
        text = f"{start}: as good as training molecules themselves ({format_number(reference)})."
        return {"tone": "good", "text": text}
    text = (
        f"{start}: between random tokens ({format_number(random)}) and training molecules ({format_number(reference)})"
    )
    if metric["better"] == "lower" and reference > 0:
        text += f", {_format_ratio(value / reference)} times as far from the reference as the latter"
    return {"tone": "between", "text": text + "."}


def write_warnings(experiment: Experiment) -> list[str]:
    """Write what a reader must know first: collapse, small n, counts that do not add up, missing files."""
    metrics = experiment.metrics.get("metrics") or []
    by_name = {metric.get("name"): metric for metric in metrics}
    warnings = [
        _warn_of_collapse(experiment),
        _warn_of_small_n(find_main_metric(metrics)),
        _warn_of_failed_round_trips(experiment.counts.get("sample") or {}),
        _warn_of_cut_samples(experiment.counts.get("sample") or {}),
        warn_of_memorisation(by_name.get("SNN/Train")),
        _warn_of_lost_rows(experiment),
    ]
    if experiment.missing:
        warnings.append(
            f"Incomplete: {', '.join(experiment.missing)} not found; the parts below that need them say so."
        )
    return [warning for warning in warnings if warning]


def _warn_of_collapse(experiment: Experiment) -> str | None:
    """By the stored decision of training or of the latent diagnostics, see `molvae.inference.posterior_diagnostics`."""
    if not experiment.model.get("collapsed") and experiment.latent.get("verdict") != "collapsed":
        return None
    latent = collect_latent_metrics(experiment)
    return (
        f"Posterior collapse: mutual information is {format_number(latent['mutual_information_nats'])} nats, "
        f"KL {format_number(latent['kl_nats'])} nats, and {format_count(latent['active_units'])} of "
        f"{format_count(latent['latent_dim'])} latent units are active. The decoder hardly uses the latent space, so "
        "encoding, interpolation and neighbours mean little."
    )


def _warn_of_small_n(metric: dict[str, Any] | None) -> str | None:
    n = (metric or {}).get("n")
    if metric is None or not is_known(n) or n >= SMALL_N:
        return None
    return (
        f"{metric['name']} was computed with {format_number(n)} molecules. It falls as n grows: compare it with its "
        "own random baseline and training-set reference, not with published values for 30\u202f000."
    )


def _warn_of_failed_round_trips(counts: Mapping[str, Any]) -> str | None:
    decoded, kept, round_trips = (counts.get(name) for name in ("strings_decoded", "kept", "round_trips"))
    if not (is_known(decoded) and is_known(kept) and is_known(round_trips)):
        return None
    if decoded <= kept or round_trips >= MIN_ROUND_TRIPS * kept:
        return None
    return (
        f"{format_number(kept - round_trips)} of {format_number(kept)} samples do not survive the round trip from "
        "string to molecule and back, as every training molecule does: sample.max_tries was not enough. Train longer."
    )


def _warn_of_cut_samples(counts: Mapping[str, Any]) -> str | None:
    truncated, kept = counts.get("truncated"), counts.get("kept")
    if not (is_known(truncated) and is_known(kept)) or not truncated:
        return None
    return (
        f"{format_number(truncated)} of {format_number(kept)} samples were cut at sample.max_tokens: their molecules "
        "are the beginnings of longer ones."
    )


def warn_of_memorisation(metric: dict[str, Any] | None) -> str | None:
    """Warn if samples are nearer to training molecules than held-out molecules are, beyond the error of both.

    Args:
        metric: SNN/Train.
    """
    if metric is None:
        return None
    low, _ = metric.get("interval") or (None, None)
    held_out = (metric.get("baselines") or {}).get("held_out")
    if not (is_known(low) and is_known(held_out)) or low <= held_out:
        return None
    return (
        f"Memorisation: samples are nearer to their nearest training molecule ({format_number(metric['value'])}) than "
        f"held-out molecules are ({format_number(held_out)})."
    )


def _warn_of_lost_rows(experiment: Experiment) -> str | None:
    stages = [row["stage"] for row in build_count_rows(experiment.counts) if row["adds_up"] is False]
    return f"The counts of {', '.join(stages)} do not add up: rows were lost without a reason." if stages else None


def collect_latent_metrics(experiment: Experiment) -> dict[str, Any]:
    """Collect held-out metrics of the epoch that the model file holds; None if unknown."""
    row = _find_best_row(experiment.history, (experiment.model.get("training") or {}).get("best_epoch"))
    stored = experiment.model.get("metrics") or {}

    def find(name: str) -> float | None:
        return next((float(value) for value in (row.get(name), stored.get(name)) if is_known(value)), None)

    return {
        "latent_dim": ((experiment.model.get("settings") or {}).get("model") or {}).get("latent_dim"),
        "active_units": find("active_units"),
        "kl_nats": find("valid_kl_nats"),
        "reconstruction_nats": find("valid_reconstruction_nats"),
        "token_accuracy": find("valid_token_accuracy"),
        "exact_reconstruction": find("valid_exact_reconstruction"),
        "mutual_information_nats": find("mutual_information_nats"),
    }


def build_tiles(experiment: Experiment) -> list[tuple[str, str, str]]:
    """Build the key metrics under the verdict: label, value, context."""
    metrics = experiment.metrics.get("metrics") or []
    by_name = {str(metric.get("name", "")).lower(): metric for metric in metrics}
    main = find_main_metric(metrics)
    selected = (main, by_name.get("novelty"), by_name.get("unique@10000") or by_name.get("unique@1000"))
    tiles = [
        (str(metric["name"]), format_number(metric.get("value")), f"n = {format_number(metric.get('n'))}")
        for metric in selected
        if metric
    ]
    if rate := by_name.get("round_trip_rate"):
        tiles.append(("round-trip rate", format_number(rate.get("value")), "of all strings decoded for the samples"))
    tiles += _build_latent_tiles(collect_latent_metrics(experiment))
    has_mcmc_steps = bool(experiment.counts["sample"].get("mcmc_steps"))  # the aggregate posterior is sampled without
    if main and not has_mcmc_steps and is_known(gap := compute_prior_gap(main)):
        kind = (experiment.prior.get("settings") or {}).get("kind", "as_trained").replace("_", " ")
        tiles.append(
            ("prior gap", format_number(gap), f"{main['name']} less that of the aggregate posterior; prior: {kind}")
        )
    return tiles


def _build_latent_tiles(latent: dict[str, Any]) -> list[tuple[str, str, str]]:
    units = f"{format_count(latent['active_units'])} / {format_count(latent['latent_dim'])}"
    rows = (
        ("KL", "kl_nats", "nats per molecule, held-out"),
        ("reconstruction", "reconstruction_nats", "nats per molecule, held-out"),
        ("mutual information", "mutual_information_nats", "nats, of a molecule and its latent point"),
        ("token accuracy", "token_accuracy", "held-out, teacher forced"),
        ("exact reconstruction", "exact_reconstruction", "of held-out molecules, free running"),
    )
    values = [(label, format_number(latent[key]), context) for label, key, context in rows]
    return [("active units", units, "latent dimensions in use"), *values]


def compute_prior_gap(metric: dict[str, Any]) -> float | None:
    """Compute how much samples from the prior are worse than those from training molecules' latent points."""
    value, without_gap = metric.get("value"), (metric.get("baselines") or {}).get(AGGREGATE_POSTERIOR)
    return value - without_gap if is_known(value) and is_known(without_gap) else None


def _format_interval(metric: dict[str, Any]) -> str:
    low, high = metric.get("interval") or (None, None)
    return f" ({format_number(low)} to {format_number(high)})" if is_known(low) and is_known(high) else ""


def _format_ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _find_best_row(history: pd.DataFrame, best_epoch: Any) -> dict[Any, Any]:
    """Find the last row of the best epoch, or of the run if no epoch is named best; {} without a history."""
    if history.empty:
        return {}
    best = history[history["epoch"] == best_epoch]
    return (history if best.empty else best).iloc[-1].to_dict()
