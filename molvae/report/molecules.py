"""Which samples the report shows: a fixed rule, never a choice by eye."""

from __future__ import annotations

from typing import Any

import pandas as pd

from molvae.chemistry.structural_flags import LARGE_RING_ATOMS

HARD_SA = 6.0  # synthetic accessibility from 1 (easy) to 10 (hard); Ertl & Schuffenhauer 2009 see 6 as the border


def select_first_unique(molecules: pd.DataFrame, n: int) -> pd.DataFrame:
    """Select the first `n` samples, by index, that are valid and not seen before."""
    return _select_valid_unique(molecules).sort_values("index").head(n)


def select_least_plausible(molecules: pd.DataFrame, n: int) -> pd.DataFrame:
    """Select the valid unique samples with most flags, then the highest SA score; those without either are left out."""
    table = _select_valid_unique(molecules)
    table = table.assign(n_flags=[len(list_flags(row)) for row in table.to_dict("records")])
    table = table[(table["n_flags"] > 0) | table["sa"].notna()]
    return table.sort_values(["n_flags", "sa", "index"], ascending=[False, False, True]).head(n)


def list_flags(molecule: dict[Any, Any]) -> list[str]:
    """List what a chemist would criticise first: structural flags, structural alerts, a high SA score."""
    flags = [part for name in ("structural_flags", "alerts") for part in molecule[name].split("; ") if part]
    return [*flags, f"SA above {HARD_SA:.0f}"] if molecule["sa"] > HARD_SA else flags


def count_flags(molecules: pd.DataFrame) -> dict[str, int]:
    """Count the valid unique samples with each kind of flag, and all of them, "valid and unique"."""
    table = _select_valid_unique(molecules)
    return {
        "with structural flags (rings, radicals, valences, chains)": int((table["structural_flags"] != "").sum()),
        "with radical electrons": int((table["radical_electrons"] > 0).sum()),
        f"with a ring of more than {LARGE_RING_ATOMS} atoms": int((table["largest_ring"] > LARGE_RING_ATOMS).sum()),
        "with a structural alert": int((table["alerts"] != "").sum()),
        f"with an SA score above {HARD_SA:.0f}": int((table["sa"] > HARD_SA).sum()),
        "valid and unique": len(table),
    }


def _select_valid_unique(molecules: pd.DataFrame) -> pd.DataFrame:
    return molecules[molecules["is_valid"] & molecules["is_first"]]
