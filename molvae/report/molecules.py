"""Molecules as inline SVG, and which of them to show: a fixed rule, never a choice by eye."""

from __future__ import annotations

import re

import pandas as pd
from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

from molvae.chemistry.structural_flags import LARGE_RING

HARD_SA = 6.0  # synthetic accessibility from 1 (easy) to 10 (hard); Ertl & Schuffenhauer 2009 see 6 as the border
# One palette for white and dark paper: contrast with both is above 3 : 1.
PALETTE = {7: (0.24, 0.48, 0.86), 8: (0.85, 0.27, 0.27), 16: (0.66, 0.50, 0.06), 15: (0.80, 0.42, 0.10)}
HALOGENS = {9: (0.13, 0.57, 0.35), 17: (0.13, 0.57, 0.35), 35: (0.62, 0.36, 0.20), 53: (0.55, 0.33, 0.72)}
# of a drawing in a tooltip
SKETCH = (380, 260)  # shown at half the size
SKETCH_START = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='{}' height='{}' viewBox='0 0 {} {}'%3E"
    "%3Crect width='100%25' height='100%25' fill='white'/%3E%3Cg stroke='black' stroke-width='3'%3E"
    "%3Cstyle%3Etext%7Bstroke:none;font-family:sans-serif%7D%3C/style%3E"
).format(SKETCH[0] // 2, SKETCH[1] // 2, *SKETCH)
SKETCH_END = "%3C/g%3E%3C/svg%3E"
LABELS = {7: "royalblue", 8: "crimson", 16: "darkgoldenrod", 15: "chocolate", 9: "seagreen", 17: "seagreen",
          35: "sienna", 53: "purple"}  # fmt: skip
LABEL = r"<text x='([\d.-]+)' y='([\d.-]+)' class='atom-(\d+)' style='font-size:(\d+)px[^>]*>([^<]*)</text>"


def molecule_svg(smiles: str, width: int = 220, height: int = 150) -> str | None:
    """A drawing whose carbons take the text colour of the page; None if RDKit refuses the SMILES."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        return None
    drawing = rdMolDraw2D.MolDraw2DSVG(width, height)
    options = drawing.drawOptions()
    options.clearBackground = False
    options.bondLineWidth = 1.5
    options.fixedBondLength = 24  # at most: small molecules are not blown up
    options.minFontSize = 9
    options.setAtomPalette({-1: (0.0, 0.0, 0.0), **PALETTE, **HALOGENS})
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, molecule)
    drawing.FinishDrawing()
    return _inline(drawing.GetDrawingText(), width, height)


def sketch(smiles: str) -> str:
    """A drawing for a tooltip: what stands between SKETCH_START and SKETCH_END in a data URL; "" if RDKit refuses it.

    Bonds are one path of whole numbers, labels of one colour and size one text: 700 bytes where RDKit's have 13 000.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        return ""
    drawing = rdMolDraw2D.MolDraw2DSVG(*SKETCH, -1, -1, True)  # True: labels as text, not as outlines
    options = drawing.drawOptions()
    options.clearBackground = False
    options.useBWAtomPalette()
    options.fixedBondLength = 44
    options.minFontSize = options.maxFontSize = 22
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, molecule)
    drawing.FinishDrawing()
    text, parts = drawing.GetDrawingText(), []
    for fill in ("none", "#000000"):  # bonds, and wedges
        lines = "".join(re.findall(rf"<path class='[^']*' d='([^']*)' style='fill:{fill}", text))
        lines = re.sub(r"[\d.]+", lambda number: f"{float(number[0]):.0f}", lines)
        parts += [f"<path fill='{fill.replace('#000000', 'black')}' d='{lines}'/>"] if lines else []
    labels: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for x, y, atom, size, letter in re.findall(LABEL, text):
        colour = LABELS.get(molecule.GetAtomWithIdx(int(atom)).GetAtomicNum(), "black")
        labels.setdefault((colour, size), []).append((f"{float(x):.0f}", f"{float(y):.0f}", letter))
    for (colour, size), signs in labels.items():
        x, y, letters = (" ".join(column) for column in zip(*signs, strict=True))
        parts.append(f"<text fill='{colour}' font-size='{size}' x='{x}' y='{y}'>{letters.replace(' ', '')}</text>")
    return re.sub(r" (?=[ML])|(?<=[ML]) ", "", "".join(parts)).replace(",", " ").replace("<", "%3C").replace(">", "%3E")


def first_valid_unique(molecules: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first `count` samples, by index, that are valid and not seen before: no picking."""
    return _valid_unique(molecules).sort_values("index").head(count)


def least_plausible(molecules: pd.DataFrame, count: int) -> pd.DataFrame:
    """The valid unique samples with most `alarms`, then the highest SA score; those without either are left out."""
    table = _valid_unique(molecules)
    table = table.assign(alarm_count=[len(alarms(row)) for row in table.to_dict("records")])
    table = table[(table["alarm_count"] > 0) | table["sa"].notna()]
    return table.sort_values(["alarm_count", "sa", "index"], ascending=[False, False, True]).head(count)


def alarms(molecule: dict) -> list[str]:
    """What a chemist would object to first, in words: oddities, filters that match, a score that is hard to reach."""
    found = [part for name in ("oddities", "alerts") for part in molecule[name].split("; ") if part]
    return [*found, f"SA above {HARD_SA:.0f}"] if molecule["sa"] > HARD_SA else found


def alarm_counts(molecules: pd.DataFrame) -> dict[str, int]:
    """How many of the valid unique samples raise each kind of alarm: the worst ones have their denominator."""
    table = _valid_unique(molecules)
    return {
        "with a strained or large ring, a radical or an unusual valence": int((table["oddities"] != "").sum()),
        "with radical electrons": int((table["radical_electrons"] > 0).sum()),
        f"with a ring of more than {LARGE_RING} atoms": int((table["largest_ring"] > LARGE_RING).sum()),
        "with a filter that matches": int((table["alerts"] != "").sum()),
        f"with an SA score above {HARD_SA:.0f}": int((table["sa"] > HARD_SA).sum()),
        "valid and unique": len(table),
    }


def _valid_unique(molecules: pd.DataFrame) -> pd.DataFrame:
    return molecules[molecules["is_valid"] & molecules["is_first"]]


def _inline(svg: str, width: int, height: int) -> str:
    """The SVG without its XML head and per-atom classes (a third of its size), scaling with its container."""
    body = svg[svg.index("<!-- END OF HEADER -->") + len("<!-- END OF HEADER -->") :]
    body = re.sub(r" class='[^']*'", "", body).replace("#000000", "currentColor")
    for default in ("fill-rule:evenodd;", ";stroke-linecap:butt", ";stroke-linejoin:miter", ";stroke-opacity:1"):
        body = body.replace(default, "")
    return f"<svg viewBox='0 0 {width} {height}' aria-hidden='true' focusable='false'>{body.strip()}"
