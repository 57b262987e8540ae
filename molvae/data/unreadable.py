"""Why a file gave no molecules: the first row as it was read, and the likely cause, for a message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from molvae.chemistry.standardise import is_molecule, parse_smiles, silence_rdkit
from molvae.data.readers import MAX_NAMES, Row, read_column_names, read_rows
from molvae.data.text_tables import find_layout, open_text, read_first_lines
from molvae.errors import DataError, MolvaeError, Rejected

N_ROWS = 20  # of a file, that are looked at
STRUCTURAL_CAUSES = {
    "too_many_columns": "The rows have more fields than the header: give each column a name.",
    "too_few_columns": "The rows have fewer fields than the header: is it another delimiter?",
    "line_too_long": "The lines are too long for a table of molecules: is the file one?",
}
SDF_CAUSE = "That looks like an SDF file; a file of SMILES is needed."
TEXT_CAUSES = {  # by a pattern in the text
    r"^InChI=": "That is an InChI; SMILES are needed.",
    r"^[A-Z]{14}-[A-Z]{10}-[A-Z]$": "That is an InChIKey, from which no molecule can be read; SMILES are needed.",
    r"^[\"'“‘]|^b'": "It stands in quotation marks: remove them.",
    r"^[{\[]\s*\"": "That looks like JSON; a table or a file of SMILES is needed.",
    r">.*>": "That is a reaction; SMILES of single molecules are needed.",
    r"^<[a-z]+>": "It holds tokens of another program, such as <bos>: remove them.",
    r"M  END|V[23]000": SDF_CAUSE,
}
_DELIMITERS = re.compile(r"[\s,;|]+")
_SELFIES = re.compile(r"(\[[^\[\]]+\]){2,}")


def require_a_molecule(path: Path, rows: Sequence[Row]) -> None:
    """Refuse a file of which no row is a molecule: the wrong column was read, most likely.

    Raises:
        DataError: with the first row and the likely cause.
    """
    first: tuple[str, str] | None = None
    with silence_rdkit():
        for row in rows:
            try:
                if row.problem:
                    raise Rejected(row.problem)
                parse_smiles(row.smiles, silence=False)
            except Rejected as rejection:
                if first is None or first[1] == "empty":
                    first = row.smiles, rejection.reason
            else:
                return
    if first is not None:
        raise make_unreadable_error(path, len(rows), *first)


def make_unreadable_error(path: Path, n_rows: int, text: str, reason: str) -> DataError:
    """Make the error of a file of which no row is a molecule.

    Args:
        path: the file.
        n_rows: rows in it.
        text: the first row that was rejected, as it was read.
        reason: why.
    """
    return DataError(f"{path}: none of {n_rows} rows is a molecule. {explain_unreadable(path, text, reason)}")


def explain_unreadable(path: Path | None, text: str, reason: str) -> str:
    """Explain why nothing in a file could be read as a molecule.

    Args:
        path: the file, if it is still there.
        text: the first row that was rejected, as it was read.
        reason: why.

    Returns:
        sentences to put behind what has failed.
    """
    if reason in STRUCTURAL_CAUSES:
        return f"The first row was read as {text[:100]!r} ({reason}). {STRUCTURAL_CAUSES[reason]}"
    cause = _guess_cause_by_text(text)
    if path is not None and path.is_file():
        with suppress(MolvaeError):  # the file has been read already: what else is wrong with it is no news
            cause = _guess_cause_by_file(path) or cause
    return f"The first row was read as {text[:100]!r} ({reason}). {cause}".rstrip()


def _guess_cause_by_text(text: str) -> str:
    if _SELFIES.fullmatch(text) and len(text.split("][")) > 2:
        return "That looks like SELFIES; SMILES are needed."
    for pattern, cause in TEXT_CAUSES.items():
        if re.search(pattern, text):
            return cause
    if mark := re.search(r"[,;|]", text):
        return f"It holds {mark[0]!r}: if the file is a table, it needs a header that names the column of SMILES."
    return "Check which column holds the SMILES."


def _guess_cause_by_file(path: Path) -> str:
    """Find molecules in another column than the one that was read; "" if there are none."""
    if names := read_column_names(path):
        distinct = islice(dict.fromkeys(names), MAX_NAMES)
        found = next((name for name in distinct if _are_molecules(_read_texts(path, name))), None)
        return f"Column {found!r} holds molecules: name it (--column, data.column)." if found else ""
    with open_text(path, find_layout(path).encoding) as file:
        if re.search(r"V[23]000$|^M  END", "".join(read_first_lines(file, 500)), re.MULTILINE):
            return SDF_CAUSE
    with open_text(path, find_layout(path).encoding) as file:
        fields = [_DELIMITERS.split(line.strip()) for line in read_first_lines(file, N_ROWS)]
    for place in range(min(MAX_NAMES, max(map(len, fields), default=0))):
        values = [record[place] for record in fields if len(record) > place]
        if _are_molecules(values):
            return (
                f"Field {place + 1} of the lines holds molecules ({values[0][:100]!r}): put the SMILES first, white "
                "space behind it, or give the file a header that names its columns."
            )
    return ""


def _read_texts(path: Path, column: str) -> list[str]:
    rows: Sequence[Row] = list(islice(read_rows(path, column), N_ROWS))
    return [row.usable_smiles or "" for row in rows]


def _are_molecules(texts: Sequence[str]) -> bool:
    """Whether more than half of the texts are molecules."""
    return 2 * sum(map(is_molecule, texts)) > len(texts)
