"""Structural alerts, those of MOSES: medicinal-chemistry filters (MCF) and pan-assay interference (PAINS).

Source: molsets 0.3.1; PAINS after Baell & Holloway 2010 (doi:10.1021/jm901137j).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

ALLOWED_ELEMENTS = {1, 6, 7, 8, 9, 16, 17, 35}  # H, C, N, O, F, S, Cl, Br
MAX_RING_ATOMS = 7  # atoms


class Composition(NamedTuple):
    """What a molecule consists of; hydrogens count, explicit or not.

    Attributes:
        atoms: atomic number -> atoms; a thousand more for aromatic ones, which count in both places.
        kinds: what `SubstructureScreen` asks for: atoms as above, ("charge", q) -> atoms, ("bond", order) -> bonds,
            "cycles" -> rings, and (lower atomic number, higher, order or 0 for any) -> bonds; order 12 is aromatic.
        radicals: unpaired electrons.
    """

    atoms: Counter[int]
    kinds: Counter[Any]
    radicals: int

    @classmethod
    def from_mol(cls, mol: Chem.Mol) -> Composition:
        """Count the atoms and bonds of a molecule."""
        atoms, kinds, numbers, radicals, all_hydrogens = Counter[int](), Counter[Any](), [], 0, 0
        for index in range(mol.GetNumAtoms()):
            atom = mol.GetAtomWithIdx(index)
            number, hydrogens, charge = atom.GetAtomicNum(), atom.GetTotalNumHs(), atom.GetFormalCharge()
            numbers.append(number)
            if hydrogens:  # those not written as atoms
                kinds[1, number, 1] += hydrogens
                all_hydrogens += hydrogens
            if charge:
                kinds["charge", charge] += 1
            if atom.GetIsAromatic():
                atoms[1000 + number] += 1
            radicals += atom.GetNumRadicalElectrons()
        for index in range(mol.GetNumBonds()):
            bond = mol.GetBondWithIdx(index)
            low, high = numbers[bond.GetBeginAtomIdx()], numbers[bond.GetEndAtomIdx()]
            kinds[min(low, high), max(low, high), int(bond.GetBondType())] += 1
        for (low, high, order), count in [item for item in kinds.items() if len(item[0]) == 3]:
            kinds[low, high, 0] += count
            kinds["bond", order] += count
        kinds["cycles"] = mol.GetRingInfo().NumRings()
        atoms.update(numbers)
        if all_hydrogens:
            atoms[1] += all_hydrogens
        kinds.update(atoms)
        return cls(atoms, kinds, radicals)


class SubstructureScreen:
    """Patterns that are tried only on molecules with enough atoms and bonds of the kinds that they name."""

    def __init__(self, patterns: Sequence[Chem.Mol]) -> None:
        self.patterns = patterns
        needs = [_count_required(pattern) for pattern in patterns]
        kinds = sorted({kind for need in needs for kind in need}, key=str)
        self.places = {kind: place for place, kind in enumerate(kinds)}
        self.choices = [kind for kind in kinds if isinstance(kind, tuple) and kind[0] == "one of"]
        self.needed = np.array([[need[kind] for kind in kinds] for need in needs])

    def find_matches(self, mol: Chem.Mol, composition: Composition) -> Iterator[int]:
        """Find the positions of the patterns that match a molecule, or one with the same hydrogens made explicit."""
        present = np.zeros(len(self.places), dtype=int)
        for kind, count in composition.kinds.items():
            if kind in self.places:
                present[self.places[kind]] = count
        for kind in self.choices:
            present[self.places[kind]] = sum(composition.kinds.get(element, 0) for element in kind[1])
        for number in np.flatnonzero((self.needed <= present).all(1)).tolist():
            if mol.HasSubstructMatch(self.patterns[number]):
                yield number


def _count_required(pattern: Chem.Mol) -> Counter[Any]:
    """Count the atoms and bonds that a pattern certainly needs, by the keys of `Composition`.

    An atom that may be one of some elements counts as ("one of", keys of those).
    """
    parts = len(Chem.GetMolFrags(pattern))
    required: Counter[Any] = Counter(cycles=pattern.GetNumBonds() - pattern.GetNumAtoms() + parts)
    numbers = []
    for query in (atom.DescribeQuery() for atom in pattern.GetAtoms()):
        number = _read_required_value(query, "AtomAtomicNum", "AtomType")
        numbers.append(number % 1000)
        required.update({number, number % 1000} - {0})
        if choice := _read_alternatives(query):
            required["one of", choice] += 1
        if charge := _read_required_value(query, "AtomFormalCharge"):
            required["charge", charge] += 1
    for bond in pattern.GetBonds():
        low, high = sorted((numbers[bond.GetBeginAtomIdx()], numbers[bond.GetEndAtomIdx()]))
        order = _read_required_value(bond.DescribeQuery(), "BondOrder")
        required.update({("bond", order), (low, high, 0), (low, high, order)} if low and order else
                     {("bond", order)} if order else {(low, high, 0)} if low else ())  # fmt: skip
    return required


def _read_required_value(query: str, *kinds: str) -> int:
    """Find the value that RDKit's description of a query asks for, alone or in an outermost "and"; 0 if it is open."""
    first, *rest = query.rstrip().split("\n")
    lines = [line[2:] for line in rest if not line.startswith("   ")] if first.endswith("And") else [first]
    matches = [re.fullmatch(rf"(?:{'|'.join(kinds)}) (-?\d+) = val", line) for line in lines]
    return next((int(match[1]) for match in matches if match), 0)


def _read_alternatives(query: str) -> tuple[int, ...]:
    """Find the elements that RDKit's description of a query lets an atom be, if it asks for nothing else."""
    lines = [line.strip() for line in query.rstrip().split("\n")]
    matches = [re.fullmatch(r"(?:AtomAtomicNum|AtomType) (\d+) = val", line) for line in lines if line != "AtomOr"]
    return tuple(int(match[1]) for match in matches if match) if len(matches) > 1 and all(matches) else ()


def find_alerts(with_hydrogens: Chem.Mol, composition: Composition) -> list[str]:
    """Find the names of the alerts that match, MCF first. Hydrogens are explicit: many of the patterns name them."""
    names, screen = _load_alerts()
    return [names[number] for number in screen.find_matches(with_hydrogens, composition)]


def passes_basic_filters(largest_ring: int, composition: Composition) -> bool:
    """Tell whether a molecule passes the other filters of MOSES: no ring of 8 or more, no charge, usual elements."""
    charged = any(kind[0] == "charge" for kind in composition.kinds if isinstance(kind, tuple))
    return (
        largest_ring <= MAX_RING_ATOMS
        and not charged
        and {number % 1000 for number in composition.atoms} <= ALLOWED_ELEMENTS
    )


@cache
def _load_alerts() -> tuple[list[str], SubstructureScreen]:
    rows: list[dict[str, Any]] = []
    for name in ("mcf", "pains"):
        with open(Path(__file__).with_name(f"{name}.csv"), newline="") as file:
            rows += csv.DictReader(file)
    names = [row["names"] if row["names"].startswith("MCF") else f"PAINS {row['names']}" for row in rows]
    return names, SubstructureScreen([Chem.MolFromSmarts(row["smarts"]) for row in rows])
