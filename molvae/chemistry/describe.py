"""What RDKit says of a molecule: descriptors, alerts, and how much of its SELFIES string it took."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams
from rdkit.Contrib.SA_Score import sascorer

DESCRIPTORS = {
    "mw": "molecular weight, g/mol",
    "logp": "Crippen logP",
    "qed": "quantitative estimate of drug-likeness, 0 to 1",
    "sa": "synthetic accessibility score, 1 (easy) to 10",
    "tpsa": "topological polar surface area, Å²",
    "rings": "number of rings",
    "largest_ring": "atoms in the largest ring",
    "heavy_atoms": "number of heavy atoms",
    "radical_electrons": "number of unpaired electrons",
    "charge": "formal charge, e",
    "passes_mcf": "no medicinal-chemistry filter of MOSES matches",
    "passes_pains": "no PAINS filter of RDKit's catalog matches",
}


def canonical(mol: Chem.Mol) -> str:
    """Canonical SMILES of a molecule as it was read, stereo marks kept."""
    return Chem.MolToSmiles(mol)


def describe(mol: Chem.Mol) -> dict[str, float | int | bool]:
    """The descriptors of a sanitised molecule, keyed and in units as in `DESCRIPTORS`."""
    rings = mol.GetRingInfo().AtomRings()
    return {
        "mw": Descriptors.MolWt(mol),
        "logp": Crippen.MolLogP(mol),
        "qed": QED.qed(mol),
        "sa": sascorer.calculateScore(mol),
        "tpsa": rdMolDescriptors.CalcTPSA(mol),
        "rings": len(rings),
        "largest_ring": max(map(len, rings), default=0),
        "heavy_atoms": mol.GetNumHeavyAtoms(),
        "radical_electrons": Descriptors.NumRadicalElectrons(mol),
        "charge": Chem.GetFormalCharge(mol),
        "passes_mcf": not _matches_mcf(mol),
        "passes_pains": not _pains().HasMatch(mol),
    }


def kept_token_fraction(symbols: Sequence[str], again: Sequence[str]) -> float:
    """Share of a string's symbols that survive decoding to a molecule and encoding it again, to `again`.

    SELFIES drops or reinterprets what the bonding caps leave no room for, so every string is "valid". A string
    that a chemist could have written keeps its number of symbols (1.0, whatever their order); random symbols keep
    a tenth. Counted on lengths: kept = min(symbols again, symbols) / symbols; 0 where no molecule came out.
    """
    return min(len(again), len(symbols)) / len(symbols) if symbols else 0.0


def _matches_mcf(mol: Chem.Mol) -> bool:
    """Hydrogens made explicit first, as MOSES does: some of the patterns name them."""
    with_hydrogens = Chem.AddHs(mol)
    return any(with_hydrogens.HasSubstructMatch(pattern) for pattern in _mcf())


@cache
def _mcf() -> list[Chem.Mol]:
    with open(Path(__file__).with_name("mcf.csv"), newline="") as file:
        return [Chem.MolFromSmarts(row["smarts"]) for row in csv.DictReader(file)]


@cache
def _pains() -> FilterCatalog:
    parameters = FilterCatalogParams()
    parameters.AddCatalog(FilterCatalogParams.FilterCatalogs.PAINS)
    return FilterCatalog(parameters)
