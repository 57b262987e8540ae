"""What RDKit says of a molecule: descriptors, alerts, the parts that metrics compare; all from one parse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.Contrib.SA_Score import sascorer

from molvae.chemistry.alerts import Composition, Screen, alerts_of, is_plain
from molvae.chemistry.structural_flags import oddities

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
    "alerts": "MCF and PAINS filters of MOSES that match, '; ' between them",
    "oddities": "strained rings, radicals, unusual valences, '; ' between them",
    "passes_filters": "none of these filters matches, no large ring, no charge, usual elements: the filters of MOSES",
}
PARTS = {
    "fingerprint": "Morgan fingerprint, radius 2, 1024 bits, packed",
    "fragments": "BRICS fragments as SMILES, '.' between them",
    "scaffold": "Murcko scaffold as SMILES; empty with fewer than two rings or over 1000 atoms",
}
LARGEST_SCAFFOLD = 1000  # atoms; RDKit's time grows with their cube: minutes for 4000


def canonical(mol: Chem.Mol) -> str:
    """Canonical SMILES of a molecule as it was read, stereo marks kept."""
    return Chem.MolToSmiles(mol)


def describe(mol: Chem.Mol) -> dict[str, Any]:
    """The descriptors of a sanitised molecule, keyed and in units as in `DESCRIPTORS`."""
    rings = mol.GetRingInfo().AtomRings()
    largest_ring = max(map(len, rings), default=0)
    composition = Composition.of(mol)
    with_hydrogens = Chem.AddHs(mol)
    alerts = alerts_of(with_hydrogens, composition)
    logp, _ = rdMolDescriptors.CalcCrippenDescriptors(with_hydrogens, includeHs=False)  # which adds them itself, else
    tpsa = rdMolDescriptors.CalcTPSA(mol)
    return {
        "mw": Descriptors.MolWt(mol),
        "logp": logp,
        "qed": _qed(mol, logp, tpsa, composition),
        "sa": _sa(mol, largest_ring),
        "tpsa": tpsa,
        "rings": len(rings),
        "largest_ring": largest_ring,
        "heavy_atoms": mol.GetNumHeavyAtoms(),
        "radical_electrons": composition.radicals,
        "charge": Chem.GetFormalCharge(mol),
        "alerts": "; ".join(alerts),
        "oddities": "; ".join(oddities(mol, largest_ring, composition)),
        "passes_filters": not alerts and is_plain(largest_ring, composition),
    }


def glance(mol: Chem.Mol) -> dict[str, Any]:
    """Of `describe` and `parts_of` passes_filters and fingerprint alone, in a third of the time."""
    largest_ring = max(map(len, mol.GetRingInfo().AtomRings()), default=0)
    composition = Composition.of(mol)
    passes = is_plain(largest_ring, composition) and not alerts_of(Chem.AddHs(mol), composition)
    return {"passes_filters": passes, "fingerprint": fingerprint(mol)}


def parts_of(mol: Chem.Mol) -> dict[str, Any]:
    """The parts of a sanitised molecule that metrics compare, as in `PARTS`."""
    return {
        "fingerprint": fingerprint(mol),
        "fragments": Chem.MolToSmiles(Chem.FragmentOnBRICSBonds(mol)),
        "scaffold": _scaffold(mol),
    }


def fingerprint(mol: Chem.Mol) -> bytes:
    """The Morgan fingerprint of MOSES: radius 2, 1024 bits, packed into 128 bytes."""
    return np.packbits(_morgan(1024).GetFingerprintAsNumPy(mol)).tobytes()


def bits_of(fingerprints: Sequence[bytes]) -> np.ndarray:
    """Fingerprints as (n, 1024) float32, a bit each."""
    packed = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, 128)
    return np.unpackbits(packed, axis=1).astype(np.float32)


def guacamol_values(smiles: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Of molecules: name -> (n,) values of the nine descriptors of GuacaMol, and (n, 512) packed fingerprints."""
    mols = [Chem.MolFromSmiles(one) for one in smiles]
    calculate = {
        "BertzCT": Descriptors.BertzCT, "MolLogP": Crippen.MolLogP, "MolWt": Descriptors.MolWt,
        "TPSA": rdMolDescriptors.CalcTPSA, "NumHAcceptors": Lipinski.NumHAcceptors, "NumHDonors": Lipinski.NumHDonors,
        "NumRotatableBonds": Lipinski.NumRotatableBonds, "NumAliphaticRings": Lipinski.NumAliphaticRings,
        "NumAromaticRings": Lipinski.NumAromaticRings,
    }  # fmt: skip
    bits = np.array([_morgan(4096).GetFingerprintAsNumPy(mol) for mol in mols], dtype=np.uint8).reshape(-1, 4096)
    values = {name: np.array([of(mol) for mol in mols], dtype=float) for name, of in calculate.items()}
    return values, np.packbits(bits, axis=1)


def without_stereo(smiles: str) -> str:
    """Canonical SMILES without stereo marks and isotopes."""
    if not any(mark in smiles for mark in "[/\\"):
        return smiles
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)


def skeleton(mol: Chem.Mol, smiles: str) -> str:
    """The first block of the InChIKey, which tautomers and stereoisomers share; the SMILES where InChI has none."""
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(mol)[:14] or smiles


def skeletons_of(smiles: Sequence[str]) -> list[str]:
    """`skeleton` of each of some SMILES."""
    return [skeleton(Chem.MolFromSmiles(one), one) for one in smiles]


def kept_token_fraction(symbols: Sequence[str], again: Sequence[str]) -> float:
    """Share of a string's symbols that survive decoding to a molecule and encoding it again, to `again`.

    SELFIES drops or reinterprets what the bonding caps leave no room for, so every string is "valid". A string
    that a chemist could have written keeps its number of symbols (1.0, whatever their order); random symbols keep
    a tenth. Counted on lengths: kept = min(symbols again, symbols) / symbols; 0 where no molecule came out.
    """
    return min(len(again), len(symbols)) / len(symbols) if symbols else 0.0


def _qed(mol: Chem.Mol, logp: float, tpsa: float, composition: Composition) -> float:
    """RDKit's QED in half the time: what is known already is not computed again, the alerts are screened."""
    if mol.GetNumAtoms() > mol.GetNumHeavyAtoms():  # RDKit takes explicit hydrogens away first
        return QED.qed(mol)
    return QED.qed(mol, qedProperties=QED.QEDproperties(
        MW=rdMolDescriptors._CalcMolWt(mol),
        ALOGP=logp,
        HBA=sum(len(mol.GetSubstructMatches(pattern)) for pattern in QED.Acceptors),
        HBD=rdMolDescriptors.CalcNumHBD(mol),
        PSA=tpsa,
        ROTB=rdMolDescriptors.CalcNumRotatableBonds(mol, rdMolDescriptors.NumRotatableBondsOptions.Strict),
        AROM=len(Chem.GetSSSR(Chem.DeleteSubstructs(Chem.Mol(mol), QED.AliphaticRings))),
        ALERTS=sum(1 for _ in _qed_alerts().matches(mol, composition)),
    ))  # fmt: skip


def _sa(mol: Chem.Mol, largest_ring: int) -> float:
    """RDKit's synthetic accessibility score, without its walk over the atoms in Python for the stereo centres.

    Source: Ertl & Schuffenhauer 2009 (doi:10.1186/1758-2946-1-8), with the changes that RDKit's sascorer names.
    """
    fragments = sascorer.mfpgen.GetSparseCountFingerprint(mol).GetNonzeroElements()
    scores, atoms = _fragment_scores(), mol.GetNumAtoms()
    known = sum(scores.get(fragment, -4) * count for fragment, count in fragments.items()) / sum(fragments.values())
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True, flagPossibleStereoCenters=True)
    odd = (
        rdMolDescriptors.CalcNumAtomStereoCenters(mol),
        rdMolDescriptors.CalcNumSpiroAtoms(mol),
        rdMolDescriptors.CalcNumBridgeheadAtoms(mol),
        int(largest_ring > 8),
    )
    complex_ = atoms**1.005 - atoms + sum(math.log10(count + 1) for count in odd)
    symmetric = 0.5 * math.log(atoms / len(fragments)) if atoms > len(fragments) else 0.0
    score = 11 - (known - complex_ + symmetric + 5) / 6.5 * 9
    if score > 8:
        score = 8 + math.log(score - 8)
    return min(10.0, max(1.0, score))


@cache
def _fragment_scores() -> dict[int, float]:
    sascorer.readFragmentScores()
    return sascorer._fscores


def _scaffold(mol: Chem.Mol) -> str:
    if mol.GetRingInfo().NumRings() < 2 or mol.GetNumAtoms() > LARGEST_SCAFFOLD:
        return ""
    try:
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
    except (ValueError, RuntimeError):  # as MOSES counts it: no scaffold
        return ""
    return Chem.MolToSmiles(scaffold) if scaffold.GetRingInfo().NumRings() >= 2 else ""


@cache
def _qed_alerts() -> Screen:
    return Screen(QED.StructuralAlerts)


@cache
def _morgan(bits: int) -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=bits)
