"""RDKit descriptors, alerts, and the parts that metrics compare, all from one parse of a molecule."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.Contrib.SA_Score import sascorer

from molvae.chemistry.alerts import Composition, SubstructureScreen, find_alerts, passes_basic_filters
from molvae.chemistry.fingerprints import compute_fingerprint, load_morgan_generator
from molvae.chemistry.structural_flags import find_structural_flags
from molvae.errors import Rejected

Mol = Chem.Mol  # for those who do not import rdkit
PARTS = {
    "fingerprint": "Morgan fingerprint, radius 2, 1024 bits, packed",
    "fragments": "BRICS fragments as SMILES, '.' between them",
    "scaffold": "Murcko scaffold as SMILES; empty with fewer than two rings or over 1000 atoms",
}
STEREO_MARKS = re.compile(r"[@/\\]|\[\d")  # and isotopes
MAX_SCAFFOLD_ATOMS = 1000  # atoms; RDKit's time grows with their cube: minutes for 4000


def to_canonical_smiles(mol: Chem.Mol) -> str:
    """Write a molecule as canonical SMILES, stereo marks kept."""
    smiles: str = Chem.MolToSmiles(mol)
    return smiles


def compute_descriptors(mol: Chem.Mol) -> dict[str, Any]:
    """Compute the descriptors of a sanitised molecule, keyed and in units as in `descriptor_table.DESCRIPTORS`."""
    rings = mol.GetRingInfo().AtomRings()
    largest_ring = max(map(len, rings), default=0)
    composition = Composition.from_mol(mol)
    with_hydrogens = Chem.AddHs(mol)
    alerts = find_alerts(with_hydrogens, composition)
    logp, _ = rdMolDescriptors.CalcCrippenDescriptors(with_hydrogens, includeHs=False)  # which adds them itself, else
    tpsa = rdMolDescriptors.CalcTPSA(mol)
    return {
        "mw": Descriptors.MolWt(mol),
        "logp": logp,
        "qed": _compute_qed(mol, logp, tpsa, composition),
        "sa": _compute_sa(mol, largest_ring),
        "tpsa": tpsa,
        "rings": len(rings),
        "largest_ring": largest_ring,
        "heavy_atoms": mol.GetNumHeavyAtoms(),
        "radical_electrons": composition.radicals,
        "charge": Chem.GetFormalCharge(mol),
        "alerts": "; ".join(alerts),
        "structural_flags": "; ".join(find_structural_flags(mol, largest_ring, composition)),
        "passes_filters": not alerts and passes_basic_filters(largest_ring, composition),
    }


def compute_filters_and_fingerprint(mol: Chem.Mol) -> dict[str, Any]:
    """Compute passes_filters and fingerprint alone, in a third of the time of all descriptors and parts."""
    largest_ring = max(map(len, mol.GetRingInfo().AtomRings()), default=0)
    composition = Composition.from_mol(mol)
    passes = passes_basic_filters(largest_ring, composition) and not find_alerts(Chem.AddHs(mol), composition)
    return {"passes_filters": passes, "fingerprint": compute_fingerprint(mol)}


def compute_parts(mol: Chem.Mol) -> dict[str, Any]:
    """Compute the parts of a sanitised molecule that metrics compare, as in `PARTS`."""
    return {
        "fingerprint": compute_fingerprint(mol),
        "fragments": Chem.MolToSmiles(Chem.FragmentOnBRICSBonds(mol)),
        "scaffold": _compute_scaffold(mol),
    }


def compute_guacamol_descriptors(smiles: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compute name -> (n,) values of the nine descriptors of GuacaMol, and (n, 512) packed fingerprints."""
    mols = [Chem.MolFromSmiles(text) for text in smiles]
    calculate = {
        "BertzCT": Descriptors.BertzCT, "MolLogP": Crippen.MolLogP, "MolWt": Descriptors.MolWt,
        "TPSA": rdMolDescriptors.CalcTPSA, "NumHAcceptors": Lipinski.NumHAcceptors, "NumHDonors": Lipinski.NumHDonors,
        "NumRotatableBonds": Lipinski.NumRotatableBonds, "NumAliphaticRings": Lipinski.NumAliphaticRings,
        "NumAromaticRings": Lipinski.NumAromaticRings,
    }  # fmt: skip
    bits = np.array([load_morgan_generator(4096).GetFingerprintAsNumPy(mol) for mol in mols], dtype=np.uint8).reshape(
        -1, 4096
    )
    values = {name: np.array([compute(mol) for mol in mols], dtype=float) for name, compute in calculate.items()}
    return values, np.packbits(bits, axis=1)


def remove_stereo(smiles: str) -> str:
    """Write a canonical SMILES without stereo marks and isotopes."""
    if not STEREO_MARKS.search(smiles):
        return smiles
    flat: str = Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)
    return flat


def compute_skeleton(mol: Chem.Mol, smiles: str) -> str:
    """Compute the first block of the InChIKey, which tautomers and stereoisomers share; without one, the SMILES."""
    with rdBase.BlockLogs():
        key: str = Chem.MolToInchiKey(mol)
        return key[:14] or smiles


def compute_skeletons(task: tuple[Sequence[str]]) -> list[str]:
    """Compute the skeleton of each of some SMILES."""
    return [compute_skeleton(Chem.MolFromSmiles(text), text) for text in task[0]]


def reject_skeleton(task: tuple[Sequence[str]], rejection: Rejected) -> list[str]:
    """Take the SMILES for the skeleton of a molecule whose InChI takes too long."""
    return list(task[0])


def compute_token_survival(symbols: Sequence[str], again: Sequence[str]) -> float:
    """Compute the fraction of a string's symbols that survive decoding to a molecule and encoding it again, to `again`.

    SELFIES drops or reinterprets what the bond constraints leave no room for, so every string is "valid". A string
    that a chemist could have written keeps its number of symbols (1.0, whatever their order); random symbols keep
    a tenth. Counted on lengths: kept = min(symbols again, symbols) / symbols; 0 where no molecule came out.
    """
    return min(len(again), len(symbols)) / len(symbols) if symbols else 0.0


def _compute_qed(mol: Chem.Mol, logp: float, tpsa: float, composition: Composition) -> float:
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
        ALERTS=sum(1 for _ in _load_qed_alerts().find_matches(mol, composition)),
    ))  # fmt: skip


def _compute_sa(mol: Chem.Mol, largest_ring: int) -> float:
    """RDKit's synthetic accessibility score, without its walk over the atoms in Python for the stereo centres.

    Source: Ertl & Schuffenhauer 2009 (doi:10.1186/1758-2946-1-8), with the changes that RDKit's sascorer names.
    """
    fragments = sascorer.mfpgen.GetSparseCountFingerprint(mol).GetNonzeroElements()
    scores, atoms = _load_fragment_scores(), mol.GetNumAtoms()
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
def _load_fragment_scores() -> dict[int, float]:
    sascorer.readFragmentScores()
    return sascorer._fscores


def _compute_scaffold(mol: Chem.Mol) -> str:
    if mol.GetRingInfo().NumRings() < 2 or mol.GetNumAtoms() > MAX_SCAFFOLD_ATOMS:
        return ""
    try:
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
    except (ValueError, RuntimeError):  # as MOSES counts it: no scaffold
        return ""
    return Chem.MolToSmiles(scaffold) if scaffold.GetRingInfo().NumRings() >= 2 else ""


@cache
def _load_qed_alerts() -> SubstructureScreen:
    return SubstructureScreen(QED.StructuralAlerts)
