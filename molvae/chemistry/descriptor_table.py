"""The descriptors of a molecule: the one table of their names, units and titles. Standard library only."""

from __future__ import annotations

from typing import NamedTuple


class Descriptor(NamedTuple):
    """What is known of a descriptor.

    Attributes:
        description: with its unit.
        title: of an axis; "" for those that are not charted.
        is_numeric: whether it is a number, so that a model can learn to predict it.
        is_count: whether it is a whole number.
    """

    description: str
    title: str = ""
    is_numeric: bool = True
    is_count: bool = False


DESCRIPTORS = {
    "mw": Descriptor("molecular weight, g/mol", "molecular weight (Da)"),
    "logp": Descriptor("Crippen logP", "logP (Crippen)"),
    "qed": Descriptor("quantitative estimate of drug-likeness, 0 to 1", "QED, drug-likeness"),
    "sa": Descriptor("synthetic accessibility score, 1 (easy) to 10", "SA score, 1 easy to 10 hard"),
    "tpsa": Descriptor("topological polar surface area, Å²", "TPSA (Å²)"),
    "rings": Descriptor("number of rings", "rings", is_count=True),
    "largest_ring": Descriptor("atoms in the largest ring", is_count=True),
    "heavy_atoms": Descriptor("number of heavy atoms", "heavy atoms", is_count=True),
    "radical_electrons": Descriptor("number of unpaired electrons", is_count=True),
    "charge": Descriptor("formal charge, e", is_count=True),
    "alerts": Descriptor("structural alerts, MCF and PAINS of MOSES, '; ' between them", is_numeric=False),
    "structural_flags": Descriptor(
        "strained rings, radicals, unusual valences and such, '; ' between", is_numeric=False
    ),
    "passes_filters": Descriptor(
        "no structural alert, no large ring, no charge, usual elements: the filters of MOSES", is_numeric=False
    ),
}
NUMERIC_DESCRIPTORS = tuple(name for name, descriptor in DESCRIPTORS.items() if descriptor.is_numeric)
CHARTED_DESCRIPTORS = tuple(name for name, descriptor in DESCRIPTORS.items() if descriptor.title)
