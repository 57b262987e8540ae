"""CXSMILES: what stands in bars behind a SMILES, `C[C@H](F)Cl |&1:1|`, and what a plain SMILES can keep of it.

Some of it changes the molecule, and RDKit reads it: radicals, coordinate bonds, double bonds in rings, wedges with
coordinates. Centres of unknown absolute configuration lose their marks: those of AND groups (racemates), of OR groups
(one enantiomer, unknown which), and under the flag `r` all but those of `a` groups. What describes many structures, or
none in particular, is refused. Labels and coordinates go.

Source: https://docs.chemaxon.com, "Chemaxon Extended SMILES and SMARTS".
"""

from __future__ import annotations

import re

from rdkit import Chem

from molvae.errors import Rejected

_LABELS = re.compile(r"\$([^$]*)\$")
_COORDINATES = re.compile(r"\([^()]*\)")
_VARIABLE_LABEL = re.compile(r"_(?:R|AP)\d")  # an R group, an attachment point
_ATOM_NUMBER = re.compile(r"[0-9]{1,6}")
_READ = {"a", "o", "&", "r", "c", "t", "ctu", "w", "wU", "wD", "^", "C", "H", "Z", "f", "lp", "LP", "atomProp", "SgD"}
_NOT_ONE_STRUCTURE = {
    "Sg": "a polymer or another repeated unit (Sg)",
    "SgH": "a polymer or another repeated unit (SgH)",
    "m": "a bond to one of several atoms (m)",
    "LN": "a link node (LN)",
    "RG": "an R group (RG)",
    "LO": "an R group (LO)",
    "LOG": "an R group (LOG)",
    "u": "a query (u)",
    "s": "a query (s)",
    "rb": "a query (rb)",
}


def resolve_extension(text: str) -> tuple[str, int]:
    """Convert a CXSMILES to a plain SMILES; text behind a SMILES that does not begin with a bar is a name.

    Args:
        text: a SMILES, and behind white space an extension or a name or the two in this order.

    Returns:
        the SMILES, not canonical, and how many centres lost their mark.

    Raises:
        Rejected: `not_cxsmiles`: the text in bars is no extension, or does not fit the molecule; `not_one_structure`:
            it makes the molecule a polymer, a query, or a molecule with an R group.

    >>> resolve_extension("C[C@H](F)Cl |&1:1| racemate")
    ('CC(F)Cl', 1)
    """
    smiles, *rest = text.split(maxsplit=1)
    if not rest or not rest[0].startswith("|"):
        return smiles, 0
    extension, bar, _ = rest[0][1:].partition("|")
    if not bar:
        raise Rejected("not_cxsmiles", "the extension behind the SMILES has no second bar")
    features = _read_features(extension)
    for name, _ in features:
        if name in _NOT_ONE_STRUCTURE:
            raise Rejected("not_one_structure", _NOT_ONE_STRUCTURE[name])
    if Chem.MolFromSmiles(smiles) is None:
        return smiles, 0  # for the caller to say why
    mol = _parse(f"{smiles} |{extension}|")
    centres = _find_relative_centres(features, mol)
    for atom in centres:
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    return Chem.MolToSmiles(mol), len(centres)


def _read_features(extension: str) -> list[tuple[str, str]]:
    """Read an extension as features, name and value: ("&", "1,4") of "&2:1,4"."""
    for labels in _LABELS.findall(extension):
        if any(_VARIABLE_LABEL.match(label) for label in labels.split(";")):
            raise Rejected("not_one_structure", "an R group or an attachment point in the labels")
    features: list[tuple[str, str]] = []
    for part in _COORDINATES.sub("", _LABELS.sub("", extension)).split(","):
        if not (part := part.strip()):
            continue
        if part[0].isdigit() and features:  # the comma stood within a value
            features[-1] = features[-1][0], f"{features[-1][1]},{part}"
            continue
        name, _, value = part.partition(":")
        name = name.rstrip("0123456789")
        if name not in _READ and name not in _NOT_ONE_STRUCTURE:
            raise Rejected("not_cxsmiles", f"{part[:40]!r} in the extension is not known")
        features.append((name, value))
    return features


def _parse(text: str) -> Chem.Mol:
    """Parse a CXSMILES whose SMILES RDKit can parse, with the hydrogens that it names: its numbers count them."""
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    try:
        mol = Chem.MolFromSmiles(text, parameters)
    except (RuntimeError, ValueError):  # an atom that is not there
        mol = None
    if mol is None:
        raise Rejected("not_cxsmiles", "RDKit cannot read the extension behind the SMILES")
    return mol


def _find_relative_centres(features: list[tuple[str, str]], mol: Chem.Mol) -> list[Chem.Atom]:
    """Find the marked centres whose absolute configuration is not known."""
    groups: dict[str, set[int]] = {"a": set(), "o": set(), "&": set()}
    for name, value in features:
        if name in groups:
            groups[name] |= _read_atom_numbers(value, mol.GetNumAtoms())
    relative = groups["o"] | groups["&"]
    if any(name == "r" for name, _ in features):
        relative |= {*range(mol.GetNumAtoms())} - groups["a"]
    marked = (mol.GetAtomWithIdx(number) for number in sorted(relative))
    return [atom for atom in marked if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED]


def _read_atom_numbers(value: str, n_atoms: int) -> set[int]:
    """Read the atoms of a stereo group; RDKit passes over what is no number of an atom."""
    numbers = value.split(",")
    if all(_ATOM_NUMBER.fullmatch(number) and int(number) < n_atoms for number in numbers):
        return {int(number) for number in numbers}
    raise Rejected("not_cxsmiles", f"a stereo group has {value[:40]!r} as its atoms, and the molecule {n_atoms} atoms")
