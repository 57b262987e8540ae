"""Molecules drawn as SVG."""

from __future__ import annotations

import re

from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

# One palette for white and dark paper: contrast with both is above 3 : 1.
PALETTE = {7: (0.24, 0.48, 0.86), 8: (0.85, 0.27, 0.27), 16: (0.66, 0.50, 0.06), 15: (0.80, 0.42, 0.10)}
HALOGENS = {9: (0.13, 0.57, 0.35), 17: (0.13, 0.57, 0.35), 35: (0.62, 0.36, 0.20), 53: (0.55, 0.33, 0.72)}


# of a drawing in a tooltip
TOOLTIP_SIZE = (380, 260)  # shown at half the size
TOOLTIP_START = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='{}' height='{}' viewBox='0 0 {} {}'%3E"
    "%3Crect width='100%25' height='100%25' fill='white'/%3E%3Cg stroke='black' stroke-width='3'%3E"
    "%3Cstyle%3Etext%7Bstroke:none;font-family:sans-serif%7D%3C/style%3E"
).format(TOOLTIP_SIZE[0] // 2, TOOLTIP_SIZE[1] // 2, *TOOLTIP_SIZE)
TOOLTIP_END = "%3C/g%3E%3C/svg%3E"
LABELS = {7: "royalblue", 8: "crimson", 16: "darkgoldenrod", 15: "chocolate", 9: "seagreen", 17: "seagreen",
          35: "sienna", 53: "purple"}  # fmt: skip
LABEL = r"<text x='([\d.-]+)' y='([\d.-]+)' class='atom-(\d+)' style='font-size:(\d+)px[^>]*>([^<]*)</text>"


def draw_svg(smiles: str, width: int = 220, height: int = 150) -> str | None:
    """Draw a molecule whose carbons take the text colour of the page; None if RDKit refuses the SMILES."""
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
    return _inline_svg(drawing.GetDrawingText(), width, height)


def draw_tooltip_svg(smiles: str) -> str:
    """Draw a molecule for a tooltip: what stands between TOOLTIP_START and TOOLTIP_END in a data URL; "" if refused.

    Bonds are one path of whole numbers, labels of one colour and size one text: 700 bytes where RDKit's have 13 000.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        return ""
    drawing = rdMolDraw2D.MolDraw2DSVG(*TOOLTIP_SIZE, -1, -1, True)  # True: labels as text, not as outlines
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


def _inline_svg(svg: str, width: int, height: int) -> str:
    """Remove XML head and per-atom classes of an SVG (two thirds of its size), and let it scale with its container."""
    body = svg[svg.index("<!-- END OF HEADER -->") + len("<!-- END OF HEADER -->") :]
    body = re.sub(r" class='[^']*'", "", body).replace("#000000", "currentColor")
    for default in ("fill-rule:evenodd;", ";stroke-linecap:butt", ";stroke-linejoin:miter", ";stroke-opacity:1"):
        body = body.replace(default, "")
    return f"<svg viewBox='0 0 {width} {height}' aria-hidden='true' focusable='false'>{body.strip()}"
