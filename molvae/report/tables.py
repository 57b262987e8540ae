"""The rows of the report's tables. No HTML here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from molvae.metrics.definitions import BASELINE_TITLES, RANDOM_BASELINE, TRAINING_SET_REFERENCE
from molvae.report.formatting import is_known

BETTER = {"lower": "↓ lower", "higher": "↑ higher"}
MAIN_BASELINES = (RANDOM_BASELINE, TRAINING_SET_REFERENCE)  # a column each, known or not
LATENT_BASELINES = {"pca_of_tokens": "PCA of tokens", "pca_of_fingerprints": "PCA of fingerprints", "chance": "chance"}


def list_baseline_columns(metrics: list[dict[str, Any]]) -> dict[str, str]:
    """List the baselines to show, key -> heading: the main ones, then any other that a metric has."""
    keys = dict.fromkeys(MAIN_BASELINES) | dict.fromkeys(
        key for metric in metrics for key in metric.get("baselines") or {}
    )
    return {key: BASELINE_TITLES.get(key, key.replace("_", " ")) for key in keys}


def build_count_rows(counts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Build one row for each stage: what came in and where it went.

    Args:
        counts: counts.json of each stage.

    Returns:
        rows with `missing`, the rows that are unaccounted for, and `adds_up`; both None where counts are absent.
    """
    rows = []
    for stage, content in counts.items():
        rejected = content.get("rejected") or {}
        n_rejected = sum(count for count in rejected.values() if is_known(count))
        rows_in, kept, duplicates = content.get("rows_in"), content.get("kept"), content.get("duplicates", 0)
        missing = None
        if is_known(rows_in) and is_known(kept) and is_known(duplicates):
            missing = rows_in - kept - n_rejected - duplicates
        rows.append(
            {
                "stage": stage,
                "rows_in": rows_in,
                "kept": kept,
                "rejected": n_rejected if content else None,
                "duplicates": duplicates if content else None,
                "missing": missing,
                "adds_up": None if missing is None else missing == 0,
                "reasons": sorted(rejected.items(), key=lambda item: (-item[1], item[0])),
            }
        )
    return rows


def build_latent_rows(diagnostics: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Build the rows of a table of latent diagnostics.

    Args:
        diagnostics: of each model, by its name.

    Returns:
        rows with `label`; `models`, the value of each model by its name; `baselines`, those of the first model by the
        keys of LATENT_BASELINES (None where there is none); and a `note`.
    """
    tables = {name: _build_model_rows(content) for name, content in diagnostics.items()}
    return [
        {**rows[0], "models": {name: row["value"] for name, row in zip(tables, rows, strict=True)}}
        for rows in zip(*tables.values(), strict=False)
    ]


def _build_model_rows(diagnostics: dict[str, Any]) -> list[dict[str, Any]]:
    usage, reconstruction = diagnostics["usage"], diagnostics["reconstruction"]
    completeness, continuity = diagnostics["completeness"], diagnostics["continuity"]
    aggregate = diagnostics["aggregate_posterior"]
    random = completeness["random_baseline"]
    max_information = f"at most {usage['mutual_information_at_most']:.3g} with {diagnostics['n']} molecules"
    return [
        _make_row("mutual information, nats", usage["mutual_information_nats"], note=max_information),
        _make_row("active units", usage["active_units"], note=f"of {usage['latent_dim']}"),
        _make_measure_row("molecules reconstructed from the mean", reconstruction, "same_molecule"),
        _make_row("molecules reconstructed from a draw", reconstruction["same_molecule_from_draw"]),
        _make_measure_row(
            "similarity to the reconstruction", reconstruction, "similarity", continuity["similarity_of_random_pairs"]
        ),
        _make_row(
            "prior points that decode to good molecules",
            completeness["prior"]["good"],
            _list_baselines(completeness, "good"),
            random["good"],
            "unique, round-trip consistent, passing the MOSES filters",
        ),
        _make_row(
            "posterior points that decode to good molecules", completeness["posterior"]["good"], chance=random["good"]
        ),
        _make_measure_row(
            "overlap of latent and fingerprint neighbours",
            continuity["latent"] | continuity,
            "neighbors",
            note="of the ten nearest",
        ),
        _make_measure_row(
            "rank correlation of distance and dissimilarity", continuity["latent"] | continuity, "rank_correlation"
        ),
        _make_row(
            "mismatch of posteriors and prior (MMD²)",
            aggregate["mmd"],
            chance=aggregate["mmd_between_prior_draws"],
            note="chance: between draws of the prior",
        ),
        *_build_interpolation_rows(diagnostics.get("interpolation"), random["round_trip"]),
    ]


def _build_interpolation_rows(interpolation: dict[str, Any] | None, random: float) -> list[dict[str, Any]]:
    if not interpolation:
        return []
    measures = interpolation["latent"] | interpolation
    paths, steps, chance = interpolation["paths"], interpolation["steps"], interpolation["chance"]

    def note(key: str) -> str:
        return f"equal steps would give {chance[key] / (steps - 1):.2g}"

    return [
        _make_measure_row("round-trip consistent strings on paths", measures, "round_trip", random),
        _make_measure_row(
            "different molecules, of a path's points", measures, "distinct", note=f"{paths} paths of {steps}"
        ),
        _make_measure_row("change of logP per step", measures, "logp_step", note=note("logp_step")),
        _make_measure_row("change of QED per step", measures, "qed_step", note=note("qed_step")),
    ]


def _make_measure_row(
    label: str, measures: Mapping[str, Any], key: str, chance: Any = None, note: str = ""
) -> dict[str, Any]:
    """Make the row of a measure that the baselines have under the same key."""
    return _make_row(label, measures[key], _list_baselines(measures, key), chance, note)


def _list_baselines(measures: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: (measures.get(name) or {}).get(key) for name in LATENT_BASELINES}


def _make_row(
    label: str, value: Any, baselines: Mapping[str, Any] | None = None, chance: Any = None, note: str = ""
) -> dict[str, Any]:
    baselines = dict(baselines or dict.fromkeys(LATENT_BASELINES))
    if chance is not None:
        baselines["chance"] = chance
    return {"label": label, "value": value, "baselines": baselines, "note": note}
