"""The molecules decoded near one of them, counted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from molvae.chemistry.descriptors import to_canonical_smiles
from molvae.chemistry.fingerprints import compute_fingerprint
from molvae.chemistry.standardise import parse_smiles
from molvae.errors import Rejected
from molvae.metrics.tanimoto import compute_similarity


def count_neighbors(smiles: str, decoded: pd.DataFrame) -> pd.DataFrame:
    """Count the different molecules near one, the most frequent first.

    Args:
        smiles: the molecule.
        decoded: columns smiles and finished, a row for each point.

    Returns:
        columns smiles, frequency, similarity, finished, see `molvae.api.Model.neighbors`.
    """
    fingerprint = compute_fingerprint(parse_smiles(smiles))
    rows = []
    for text, strings in decoded.groupby("smiles", sort=False):
        try:
            mol = parse_smiles(str(text))
            canonical = to_canonical_smiles(mol)
            similarity = compute_similarity(fingerprint, compute_fingerprint(mol))
        except Rejected:
            canonical, similarity = "", np.nan
        rows.append((canonical, len(strings), similarity, bool(strings["finished"].all())))
    table = pd.DataFrame(rows, columns=["smiles", "frequency", "similarity", "finished"])
    rules = {"frequency": "sum", "similarity": "first", "finished": "all"}
    table = table.groupby("smiles", sort=False, as_index=False).agg(rules)  # several strings may write one molecule
    table["frequency"] /= len(decoded)
    return table.sort_values(["frequency", "similarity"], ascending=False, ignore_index=True)
