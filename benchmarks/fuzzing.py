"""Random and hostile input: lines of SMILES, files, token strings, latent points, samples to evaluate.

Every row of a file has to be a molecule, a duplicate or a rejected row with a reason, or the file is refused with one
message. Each case runs in a child process with limits of time and memory: one that crashes, hangs or fills the memory
is counted as wrong. Case k of a seed is the same in each run; `--only CLASS --case K` repeats it.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from example import read_example
from rdkit import Chem, rdBase
from record import make_parser, write_result

from molvae.chemistry.selfies_codec import build_constraints, decode_selfies
from molvae.config import DataSettings, FeaturizeSettings
from molvae.data.formats import SMILES_SUFFIXES, find_suffix
from molvae.data.text_tables import find_layout
from molvae.data.token_store import TOKENS_FILE, VOCABULARY_FILE, TokenStore
from molvae.data.tokenizer import ids_to_selfies, tokenize_smiles
from molvae.data.vocabulary import EOS, MAX_TOKENS, SPECIAL, UNK, Vocabulary
from molvae.errors import MolvaeError, Rejected
from molvae.runtime.files import read_json
from molvae.stages.featurize import featurize_rows
from molvae.stages.fetch import fetch

LIMIT_S = 300  # for a case, which takes less than 10 on an idle machine
LIMIT_MB = 1024  # of resident memory, which no reader may take
ADDRESSES_MB = 8192  # of address space, beyond which an allocation fails
SPAWN = multiprocessing.get_context("spawn")
LINES = 2000  # of SMILES in a case
STRINGS = 1000  # of tokens in a case
SUFFIXES = (*[".csv", ".smi", ".parquet"] * 4, *[".tsv", ".txt"] * 2, ".sdf")  # those with most of the code most often
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": functools.partial(gzip.compress, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pyarrow.compress(content, "zstd", asbytes=True)),
    ".zip": lambda content: make_zip({"a.csv": content}),
}
# stereo marks, charges, isotopes, salts, metals, rings of many kinds, what SELFIES cannot write, CXSMILES
HARD = r"""
C[C@H](N)C(=O)O C/C=C/C C/C=C\C [13CH3][C@@H]([2H])O [NH3+][C@@H](C)C([O-])=O O=[N+]([O-])c1ccccc1 [Na+].[Cl-] [Fe]
C1CC2CCC1C2 c1ccc2[nH]ccc2c1 C1=CC=CC=C1C%10CCCC%10 CC(=O)O.CCN [O-][S+](C)C FS(F)(F)(F)(F)F OP(=O)(O)O C#N
[Si](C)(C)(C)C C[N+](C)(C)C.[I-] [H][H] [2H]O[2H] B(O)(O)c1ccccc1 [se]1cccc1 [nH]1cccc1 Cl[Pt](Cl)(N)N [C-]#[O+]
CC(C)(C)c1ccc(cc1)C(=O)N[C@@H](Cc1ccccc1)C(=O)N1CCC[C@H]1C(=O)O C:C(C)CC(=O)O [CH3:1][OH:2] C[C@H](F)Cl|&1:1|
C12C3C4C1C5C2C3C45 F/C=C/C=C\Cl C1=CC=C[CH-]1 [U] [As](=O)(O)(O)O c1ccc(cc1)-c1ccccc1 O=c1[nH]c(=O)[nH]cc1
C1CCCCCCCCCCCCC1 N#[N+][O-] OB1OCCO1
"""
HARD_SMILES = tuple(HARD.split())
MARKS = """
( ) [ ] = # $ : / \\ @ @@ . % + - * 1 2 9 0 %99 %(100) [*] [H+] [Og] [C@@H] [13C] [999C] [C+15] [n-] [#6] [se] [te]
[C@TH2] [C@SP3] [Fe@OH30] ~ ; , {} <> ! ? ' ` _ \x00 \x7f \xe9 \u6f22 c1ccccc1 C(C)(C)(C)C N(=O)=O [CH9] | -> [Xe]
P(F)(F)(F)(F)F
C C N N O O S F Cl Br c n (C) (N) (=O) =C #C C=C [O-] [NH+] [NH3+] [2H] [C@H] [C@@] /C=C/ \\C=C/ C1CC1 c1ccncc1
OC NC .O .Cl
"""
PIECES = tuple(MARKS.split())


@dataclass
class Outcome:
    """What became of the inputs of a case, or of several."""

    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Add those of another case."""
        self.tried += other.tried
        self.outcomes.update(other.outcomes)
        self.lost += other.lost
        self.wrong += other.wrong
        self.notes += other.notes

    def blame(self, note: str, n: int = 1) -> None:
        """Count something that is wrong."""
        self.wrong += n
        self.notes.append(note)

    def refuse(self, path: Path, error: MolvaeError) -> None:
        """Count a file that was refused; its message has to be one that a person reads."""
        self.outcomes[f"refused: {type(error).__name__}"] += 1
        if not 20 < len(str(error)) < 20_000:
            self.blame(f"{path.name}: a message of {len(str(error))} characters")


Case = Callable[[random.Random, int, Path], Outcome]  # of random numbers, a number, and a folder to write in


# --- lines of SMILES


@functools.cache
def read_molecules() -> tuple[str, ...]:
    """Read the shipped molecules."""
    return tuple(read_example())


def draw_molecule(numbers: random.Random) -> str:
    """Draw a SMILES that RDKit can read."""
    return numbers.choice(HARD_SMILES if numbers.random() < 0.2 else read_molecules())


def mutate_bytes(numbers: random.Random, content: bytes, other: bytes, pieces: list[bytes]) -> bytes:
    """Change one place of a text: bits or bytes of it, a part deleted, repeated, or taken from another text."""
    start = numbers.randrange(len(content) + 1)
    end = min(len(content), start + min(1 + int(numbers.expovariate(0.2)), 1000))
    part = content[start:end]
    kind = numbers.choice((0, 1, 2, 2, 3, 4, 4, 4, 5, 5, 6, 7))
    if kind == 0 and part:
        part = bytes([part[0] ^ 1 << numbers.randrange(8)]) + part[1:]
    elif kind == 1:
        part = numbers.randbytes(len(part))
    elif kind == 2:
        part = b""
    elif kind == 3:
        part *= numbers.choice((2, 2, 3, 30))
    elif kind == 4:
        part = numbers.choice(pieces) + part
    elif kind == 5:
        part = numbers.choice(pieces)
    elif kind == 6:
        return content[:start] + other[numbers.randrange(len(other) + 1) :]
    else:
        part = part[::-1]
    return content[:start] + part + content[end:]


def make_line(numbers: random.Random) -> bytes:
    """Make a line of a mutated SMILES, every other one with changes of whole atoms only, which more often is one."""
    text = draw_molecule(numbers).encode()
    pieces = [piece.encode() for piece in PIECES]
    for _ in range(1 + int(numbers.expovariate(1.2))):
        if numbers.random() < 0.5:
            atoms = [match.span() for match in re.finditer(rb"\[[^]]*\]|Cl|Br|[A-Zcnos]", text)] or [(0, 0)]
            start, end = numbers.choice(atoms)
            text = text[: numbers.choice((start, end))] + numbers.choice(pieces) + text[end:]
        else:
            text = mutate_bytes(numbers, text, draw_molecule(numbers).encode(), pieces)
    if numbers.random() < 0.001:
        text *= numbers.choice((50, 2000))
    return re.sub(rb"[\r\n]", b"", text)


def run_lines(numbers: random.Random, number: int, folder: Path) -> Outcome:
    """Featurise lines of mutated SMILES: is each accounted for, and does each one's tokens stand for its molecule?"""
    lines = [b"CCO", *(make_line(numbers) for _ in range(LINES - 1))]  # the first shows that there is no header
    (folder / "a.smi").write_bytes(b"\n".join(lines) + b"\n")
    settings = FeaturizeSettings(
        largest_fragment=number % 2 == 0, neutralise=number % 3 != 0, stereo="strip" if number % 5 == 4 else "keep",
        merges=100 * (number % 2), augmentations=number % 4 == 3, valid_fraction=0.1, max_tokens=256,
    )  # fmt: skip
    fetch(DataSettings(source=str(folder / "a.smi")), folder / "rows.parquet")
    counts = featurize_rows(folder / "rows.parquet", settings, folder / "tokens")
    outcome = Outcome(tried=len(lines))
    rejected = pyarrow.parquet.read_table(folder / "tokens/rejected.parquet").to_pylist()
    kept = pyarrow.parquet.read_table(folder / "tokens/molecules.parquet").to_pylist()
    outcome.outcomes.update(row["reason"] or "" for row in rejected)
    outcome.outcomes["kept"] = len(kept)
    numbers_seen = Counter(row["row"] for row in [*rejected, *kept])
    outcome.lost = sum(k not in numbers_seen for k in range(1, len(lines) + 1))
    if any(count > 1 for count in numbers_seen.values()) or len(numbers_seen) + outcome.lost != len(lines):
        outcome.blame("a row is there twice")
    if n := sum(not row["reason"] for row in rejected):
        outcome.blame(f"{n} rows without a reason", n)
    if counts["rows_in"] != counts["kept"] + counts["duplicates"] + sum(counts["rejected"].values()) or (
        counts["kept"] != len(kept) or counts["rows_in"] != len(lines)
    ):
        outcome.blame(f"the counts do not add up: {counts}")
    n_unknown = 0
    for row, ids, stands_for in iter_strings(folder / "tokens", kept, settings.augmentations):
        if UNK in ids and row["split"] != "train":  # a symbol that no training molecule has, which is counted
            n_unknown += int((ids == UNK).sum())
        elif stands_for(ids) != row["smiles"]:
            outcome.blame(f"{lines[row['row'] - 1]!r} is kept as {row['smiles']!r}, but not its tokens")
    if n_unknown != sum(counts["unknown_symbols"].values()):
        outcome.blame(f"{n_unknown} unknown symbols, and {counts['unknown_symbols']} were counted")
    return outcome


def iter_strings(
    tokens: Path, kept: list[dict[str, Any]], augmentations: int
) -> Iterator[tuple[dict[str, Any], np.ndarray, Callable[[np.ndarray], str | None]]]:
    """Iterate over the strings of a token store: the row, token ids of it or of an augmentation, how they decode."""
    vocabulary = Vocabulary.from_json(read_json(tokens / VOCABULARY_FILE), str(tokens))
    store = TokenStore.open(tokens / TOKENS_FILE)
    stands_for = functools.partial(decode_canonical, vocabulary)
    for split, strings in store.splits.items():
        for place, row in enumerate(row for row in kept if row["split"] == split):
            yield row, strings.ids[slice(*strings.offsets[place : place + 2])], stands_for
            if augmentations and split == "train" and store.augmentations is not None:
                start, end = store.augmentations.offsets[place : place + 2]
                yield row, store.augmentations.ids[start:end], stands_for


def decode_canonical(vocabulary: Vocabulary, ids: np.ndarray) -> str | None:
    """Decode token ids to a canonical SMILES; None: RDKit refuses what comes out."""
    decoded = decode_selfies(ids_to_selfies(vocabulary, [int(k) for k in ids]), vocabulary.constraints)
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(decoded)
        # the second turn is that of `standardise`: perception runs on reading only
        return None if mol is None else Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(mol)))


# --- files


def make_zip(members: dict[str, bytes]) -> bytes:
    """Make a zip archive of files by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def make_content(numbers: random.Random, suffix: str) -> bytes:
    """Make a whole file of a kind, of a few molecules."""
    molecules = [draw_molecule(numbers) for _ in range(numbers.choice((1, 3, 40)))]
    splits = [numbers.choice(("train", "test", "", "x")) for _ in molecules]
    if suffix == ".parquet":  # not compressed, a changed byte is a changed value
        column: Any = pyarrow.array(molecules)
        if numbers.random() < 0.3:
            column = column.dictionary_encode()
        buffer = io.BytesIO()
        table = pyarrow.table({"SMILES": column, "SPLIT": splits, "y": range(len(molecules))})
        compression = numbers.choice(("none", "snappy", "zstd"))
        pyarrow.parquet.write_table(table, buffer, compression=compression, use_dictionary=numbers.random() < 0.5)
        return buffer.getvalue()
    if suffix == ".sdf":
        with rdBase.BlockLogs():
            found = [Chem.MolFromSmiles(smiles) for smiles in molecules]
            blocks = [Chem.MolToMolBlock(mol) for mol in found if mol is not None]
        return "".join(f"{block}> <y>\n1\n\n$$$$\n" for block in blocks).encode()
    if suffix in SMILES_SUFFIXES and numbers.random() < 0.7:
        return "".join(f"{smiles} name {k}\n" for k, smiles in enumerate(molecules)).encode()
    delimiter = "\t" if suffix == ".tsv" else numbers.choice(",,;|\t ")
    quote = numbers.choice(('"', ""))
    lines = [delimiter.join(("SMILES", "SPLIT", "name"))]
    for k, (smiles, split) in enumerate(zip(molecules, splits, strict=True)):
        lines.append(delimiter.join((quote + smiles + quote, split, f"{quote}name {k}{quote}")))
    encoding = numbers.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin1"))
    return numbers.choice(("\n", "\n", "\r\n", "\r")).join([*lines, ""]).encode(encoding)


def make_file(numbers: random.Random, folder: Path) -> Path:
    """Make a file of random bytes, or one of a kind, damaged before and after it is compressed, perhaps misnamed."""
    suffix = numbers.choice(SUFFIXES)
    compression = numbers.choice([*["", ".gz"] * 12, *COMPRESSIONS]) if suffix != ".parquet" else ""
    pieces = [
        b'"',
        b'""',
        b",",
        b"\t",
        b"\n",
        b"\r",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"SMILES",
        b"\n\n",
        b"'",
        b"|",
    ]
    content = make_content(numbers, suffix)
    if numbers.random() < 0.15:
        content = numbers.randbytes(numbers.choice((0, 1, 10, 1000, 100_000)))
    has_places = suffix == ".parquet" and numbers.random() < 0.8  # a byte more or less spoils all behind it
    for _ in range(numbers.choice((0, 1, 1, 2, 5, 20))):
        if has_places and len(content) > 1:
            at = numbers.randrange(len(content) - 1)
            content = content[:at] + numbers.choice((numbers.randbytes(1), b"\xff", b"\0")) + content[at + 1 :]
            continue
        content = mutate_bytes(numbers, content, numbers.choice((content, make_content(numbers, suffix))), pieces)
    content = COMPRESSIONS[compression](content)
    damage = numbers.randrange(8)
    if damage == 0:
        content = content[: numbers.randrange(len(content) + 1)]
    elif damage == 1 and compression:
        content = mutate_bytes(numbers, content, content, pieces)
    elif damage == 2 and compression:
        content += numbers.choice((numbers.randbytes(50), bytes(50), content))
    elif damage == 3:
        content = COMPRESSIONS[numbers.choice([*COMPRESSIONS])](content)
    if numbers.random() < 0.1:
        suffix = numbers.choice(SUFFIXES)
    if numbers.random() < 0.05:
        compression = numbers.choice([*COMPRESSIONS])
    path = folder / f"a{suffix}{compression}"
    path.write_bytes(content)
    return path


def count_rows(path: Path) -> int | None:
    """Count the rows that a file has by its lines, without the reader; None where that is not known."""
    if find_suffix(path.name) == ".parquet":
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    layout = find_layout(path)
    content = path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes())
    text = content.decode(layout.encoding, "replace")
    lines = re.split("\r\n|\r|\n", text)
    n_lines = len(lines) - (lines[-1] == "")
    return n_lines if layout.delimiter is None else n_lines - layout.n_skipped - 1


def fetch_file(path: Path, n_rows: int | None = None) -> Outcome:
    """Fetch a file: it is refused with one message, or every row of it is there."""
    outcome = Outcome(tried=1)
    rows = path.parent / "rows.parquet"
    try:
        counts = fetch(DataSettings(source=str(path)), rows)
    except MolvaeError as err:
        outcome.refuse(path, err)
        return outcome
    outcome.outcomes["read"] += 1
    table = pyarrow.parquet.read_table(rows)
    n_rows = count_rows(path) if n_rows is None else n_rows
    if table["row"].to_pylist() != list(range(1, len(table) + 1)) or counts["rows_in"] != len(table):
        outcome.blame(f"{path.name}: its rows are not numbered from 1 to their count")
    if n_rows is not None and n_rows != len(table):
        outcome.lost += max(0, n_rows - len(table))
        outcome.blame(f"{path.name}: {len(table)} rows of {n_rows}")
    return outcome


def run_file(numbers: random.Random, number: int, folder: Path) -> Outcome:
    """Fetch a damaged file."""
    return fetch_file(make_file(numbers, folder))


# --- hostile files


def write_bomb(path: Path, piece: bytes, n_bytes: int) -> Path:
    """Write a gzip file that expands to a piece repeated to so many bytes: each member of it is the same."""
    part = piece * (10_000_000 // len(piece))
    member = gzip.compress(part, mtime=0)
    path.write_bytes(member * -(-n_bytes // len(part)))
    return path


def write_column(path: Path, *columns: Any, names: tuple[str, ...] = ("SMILES", "SPLIT"), **options: Any) -> Path:
    """Write a parquet file."""
    pyarrow.parquet.write_table(pyarrow.table(list(columns), names=list(names)[: len(columns)]), path, **options)
    return path


def make_link(path: Path, target: str | Path) -> Path:
    """Make a symbolic link."""
    path.symlink_to(target)
    return path


def make_fifo(path: Path) -> Path:
    """Make a pipe that nobody writes to."""
    os.mkfifo(path)
    return path


def make_folder(path: Path) -> Path:
    """Make a folder of a file's name."""
    path.mkdir()
    return path


def write(path: Path, *parts: bytes) -> Path:
    """Write a file."""
    with open(path, "wb") as file:
        file.writelines(parts)
    return path


def write_sparse(path: Path, n_bytes: int) -> Path:
    """Write a file of a molecule and then of zeros that take no room on the disk."""
    with open(path, "wb") as file:
        file.write(b"CCO\n" * 100)
        file.truncate(n_bytes)
    return path


LONG = b"C" * 30_000_000
BIG_TEXT = pyarrow.array([LONG.decode()])
DAYS = pyarrow.array([2**62, -(2**62)])
# file -> how it is made, and its rows; None: it is refused
HOSTILE_FILES: dict[str, tuple[Callable[[Path], Path], int | None]] = {
    "folder.csv": (make_folder, None),
    "pipe.csv": (make_fifo, None),
    "zero.smi": (lambda path: make_link(path, "/dev/zero"), None),
    "random.parquet": (lambda path: make_link(path, "/dev/urandom"), None),
    "loop.smi": (lambda path: make_link(path, path), None),
    "nothing.csv.gz": (lambda path: make_link(path, path.with_name("none")), None),
    "long-line.smi": (lambda path: write(path, b"CCO\n", LONG, b"\nC\n"), 3),
    "long-last-line.smi": (lambda path: write(path, b"CCO\n", LONG), 2),
    "long-name.txt": (lambda path: write(path, b"CCO ", LONG, b"\nC\n"), 2),
    "long-field.csv": (lambda path: write(path, b"SMILES,x\nCCO,", LONG, b"\nC,\n"), 2),
    "long-field.tsv": (lambda path: write(path, b"SMILES\tx\n", LONG, b"\t1\nC\t1\n"), 2),
    "long-header.csv": (lambda path: write(path, b"SMILES,", LONG, b"\nC,\n"), None),
    "many-columns.csv": (lambda path: write(path, b"a,b" * 300_000, b"\nC,\n"), None),
    "many-commas.csv": (lambda path: write(path, b"SMILES,x\n", b"," * 30_000_000, b"\nC,\n"), 2),
    "long-texts.smi": (lambda path: write(path, *[b"C" * 500_000 + b"\n"] * 300), 300),
    "open-quote.csv": (lambda path: write(path, b'SMILES,x\nCCO,1\n"', LONG), 2),
    "open-quote-lines.csv": (lambda path: write(path, b'SMILES,x\nCCO,1\n"', b"C\n" * 10_000_000), None),
    "quoted-fields.csv": (lambda path: write(path, b"SMILES,x\n", b'"a\n",' * 3_000_000), None),
    "zeros.smi": (lambda path: write_sparse(path, 500_000_000), 101),
    "splits.csv": (lambda path: write(path, b"SMILES,SPLIT\n", *[b"C," + b"x" * 100_000 + b"\n"] * 200), 200),
    "bomb-of-a-line.smi.gz": (lambda path: write_bomb(path, b"C", 1_300_000_000), None),
    "bomb-of-zeros.csv.gz": (lambda path: write_bomb(path, b"\0", 1_300_000_000), None),
    "bomb-of-lines.csv.gz": (lambda path: write_bomb(path, b"C" * 99_999 + b"\n", 1_300_000_000), None),
    "members.smi.gz": (lambda path: write(path, gzip.compress(b"CCO\n"), gzip.compress(b"C\nN\n")), 3),
    "gz-of-gz.smi.gz": (lambda path: write(path, gzip.compress(gzip.compress(b"CCO\n"))), None),
    "garbage-behind.smi.gz": (lambda path: write(path, gzip.compress(b"CCO\n"), b"garbage"), None),
    "zeros-behind.smi.gz": (lambda path: write(path, gzip.compress(b"CCO\n"), bytes(1000)), 1),
    "cut.smi.gz": (lambda path: write(path, gzip.compress(b"CCO\n" * 1000)[:-9]), None),
    "empty.smi.gz": (lambda path: write(path), None),
    "zip.csv": (lambda path: write(path, make_zip({"a.csv": b"SMILES\nC\n"})), None),
    "two.csv.zip": (lambda path: write(path, make_zip({"a.csv": b"SMILES\nC\n", "b.csv": b"SMILES\nN\n"})), None),
    "bzip2.csv.gz": (lambda path: write(path, bz2.compress(b"SMILES\nC\n")), None),
    "xz.smi": (lambda path: write(path, lzma.compress(b"C\n")), None),
    "zstd.smi": (lambda path: write(path, COMPRESSIONS[".zst"](b"C\n")), None),
    "endless-property.sdf": (lambda path: write(path, b"\n\n\n  0  0\nM  END\n> <x>\n", LONG), None),
    "endless-property.txt": (lambda path: write(path, b"\n\n\n  0  0\nM  END\n> <x>\n", LONG), 7),
    "durations.parquet": (lambda path: write_column(path, DAYS.cast("duration[ns]")), None),
    "times.parquet": (lambda path: write_column(path, DAYS.cast("timestamp[us]")), None),
    "times-as-split.parquet": (lambda path: write_column(path, ["C", "N"], DAYS.cast("timestamp[us]")), None),
    "list.parquet": (lambda path: write_column(path, pyarrow.array([["C"], ["N"]])), None),
    "struct.parquet": (lambda path: write_column(path, pyarrow.array([{"x": "C"}])), None),
    "dictionary.parquet": (lambda path: write_column(path, pyarrow.array(["C", None, "C"]).dictionary_encode()), 3),
    "nulls.parquet": (lambda path: write_column(path, pyarrow.nulls(3)), 3),
    "numbers.parquet": (lambda path: write_column(path, pyarrow.array([1e308, float("nan"), float("inf")])), 3),
    "two-columns.parquet": (lambda path: write_column(path, ["C"], ["C"], names=("SMILES", "SMILES")), None),
    "no-rows.parquet": (lambda path: write_column(path, pyarrow.array([], pyarrow.string())), None),
    "big-text.parquet": (lambda path: write_column(path, BIG_TEXT), 1),
    "big-text-repeated.parquet": (lambda path: write_column(path, pyarrow.chunked_array([BIG_TEXT] * 20)), 20),
    "bomb.parquet": (
        lambda path: write_column(path, pyarrow.chunked_array([BIG_TEXT] * 4), row_group_size=1, compression="zstd"),
        None,
    ),
    "bomb-of-rows.parquet": (lambda path: write_column(path, np.zeros(200_000_000, np.int8), compression="zstd"), None),
    "big-dictionary.parquet": (
        lambda path: write_column(
            path, pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(5000, np.int32)), BIG_TEXT),
            dictionary_pagesize_limit=2**30,
        ),
        5000,
    ),
}  # fmt: skip


def run_hostile_file(numbers: random.Random, number: int, folder: Path) -> Outcome:
    """Fetch one of HOSTILE_FILES."""
    name, (make, n_rows) = list(HOSTILE_FILES.items())[number]
    outcome = fetch_file(make(folder / name), n_rows or 0)
    if ("read" in outcome.outcomes) != (n_rows is not None):
        outcome.blame(f"{name}: {dict(outcome.outcomes)}, which is not what was expected")
    return outcome


# --- strings of tokens


def make_vocabulary(numbers: random.Random) -> Vocabulary:
    """Make a vocabulary of the symbols of many molecules, with random merges."""
    symbols: set[str] = set()
    for smiles in [*HARD_SMILES, *read_molecules()[:300]]:
        try:
            symbols.update(tokenize_smiles(smiles))
        except Rejected:
            continue
    vocabulary = Vocabulary.build(symbols, build_constraints(symbols))
    n_singles = len(SPECIAL) + len(vocabulary.symbols)
    merges: list[tuple[int, int]] = []
    for k in range(50):
        merges.append((numbers.randrange(4, n_singles + min(k, 9)), numbers.randrange(4, n_singles)))
    content = {**vocabulary.to_json(), "merges": merges}
    return Vocabulary.from_json(content, "vocabulary")


def run_strings(numbers: random.Random, number: int, folder: Path) -> Outcome:
    """Decode random strings of tokens: each is a molecule, or no atom."""
    vocabulary = make_vocabulary(numbers)
    outcome = Outcome(tried=STRINGS)
    units = [vocabulary.encode(unit.split()) for unit in ("[C] <1", "[C] [C] 1>", "( [C] )", "[C]", "[C] <2", "[C] 2>")]
    for k in range(STRINGS):
        length = numbers.randrange(MAX_TOKENS if k % 100 == 0 else 130)
        few = numbers.choices(range(len(vocabulary)), k=numbers.choice((2, 5, len(vocabulary))))
        # the decoder never writes UNK; it writes each other id
        ids = [i for i in numbers.choices(few, k=length) if i != UNK and (i != EOS or numbers.random() < 0.1)]
        if k % 20 == 0:  # hundreds of rings and branches
            ids = [i for unit in numbers.choices(units, k=length // 2) for i in unit]
        smiles = decode_canonical(vocabulary, np.array(ids, dtype=int))
        outcome.outcomes["no molecule" if smiles is None else "a molecule" if smiles else "no atom"] += 1
        if smiles is None:
            outcome.blame(f"no molecule: {vocabulary.decode(ids)}"[:3000])
    return outcome


def run_points(numbers: random.Random, number: int, folder: Path) -> Outcome:
    """Decode latent points, some of which are far away or no number: a SMILES for each, or one message."""
    import molvae

    model = load_model()
    values = np.random.default_rng(numbers.getrandbits(32)).normal(size=(10, model.latent_dim))
    scale = numbers.choice((0, 1, 1, 3, 10, 1e4, 1e20, 1e37, 1e38, 1e300, np.inf, np.nan))
    outcome = Outcome(tried=len(values))
    with np.errstate(all="ignore"):
        points = values * scale
    if numbers.random() < 0.1:
        points = points[:, : numbers.randrange(model.latent_dim)]
    temperature = numbers.choice((0.0, 0.0, 1.0, 1.0, 1e-30, 1e-300, 1e30, np.inf, np.nan, -1.0))
    try:
        smiles = model.decode(points, temperature=temperature, seed=numbers.choice((0, 2**70)))
    except molvae.errors.MolvaeError as err:
        outcome.outcomes[f"refused: {type(err).__name__}"] += len(values)
        return outcome
    with rdBase.BlockLogs():
        not_read = [text for text in smiles if Chem.MolFromSmiles(text) is None]
    outcome.outcomes["a molecule, or no atom"] = len(smiles) - len(not_read)
    outcome.lost = len(values) - len(smiles)
    if not_read:
        outcome.blame(f"scale {scale}, temperature {temperature}: no molecule: {not_read[0]}", len(not_read))
    return outcome


@functools.cache
def load_model() -> Any:
    """Load a shipped model."""
    import torch

    import molvae

    torch.set_num_threads(1)
    return molvae.load("pretrained:moses")


# --- samples to evaluate


def make_samples(numbers: random.Random, folder: Path) -> Path:
    """Make a file of samples with odd columns and values, perhaps damaged."""
    n = numbers.choice((0, 1, 2, 5, 12, 12, 12))
    odd = ("", "nan", "NaN", "1e400", "-inf", "None", "C.C", "*", "[Og]", "xx", "C" * 6000, "=1+1", "\u202e", "[C")
    texts = [numbers.choice(odd) if numbers.random() < 0.3 else draw_molecule(numbers) for _ in range(n)]
    columns: dict[str, list[Any]] = {numbers.choice(("SMILES", "smiles", " Smiles ", "canonical_smiles", "x")): texts}
    for _ in range(numbers.randrange(4)):
        name = numbers.choice(("selfies", "SPLIT", "reason", "is_valid", "row", "", "x", "canonical", "smiles"))
        kind = numbers.randrange(4)
        values = [[10**400, float("nan"), "[C][O]", None][kind] if numbers.random() < 0.7 else "" for _ in range(n)]
        columns[name] = [None if value == "" or value is None else str(value) for value in values]
    suffix = numbers.choice((".csv", ".smi", ".parquet", ".tsv", ".csv.gz"))
    path = folder / f"samples{suffix}"
    if suffix == ".parquet":
        names = [*columns, *numbers.choices(["x", "SMILES", "selfies"], k=numbers.choice((0, 0, 1)))]
        parts = [pyarrow.array(values, pyarrow.string()) for values in columns.values()]
        parts += [pyarrow.array([numbers.choice((0.0, 1e308, float("nan"))) for _ in range(n)])] * (
            len(names) - len(parts)
        )
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(parts, names=names), buffer)
        content = buffer.getvalue()
    elif suffix == ".smi":
        content = "\n".join(texts).encode()
    else:
        delimiter = "\t" if "tsv" in suffix else ","
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        content = "".join(delimiter.join(text or "" for text in row) + "\n" for row in rows).encode()
    for _ in range(numbers.choice((0, 0, 1, 3))):
        content = mutate_bytes(numbers, content, content, [b",", b"\n", b'"', b"\0", b"SMILES", b"selfies"])
    path.write_bytes(gzip.compress(content) if suffix == ".csv.gz" else content)
    return path


def run_samples(numbers: random.Random, number: int, folder: Path) -> Outcome:
    """Evaluate a file of samples: one message, or counts that add up, and figures that JSON can hold."""
    from molvae.commands.evaluate import evaluate

    path, outcome = make_samples(numbers, folder), Outcome(tried=1)
    reference = folder.parent / "reference.smi"
    if not reference.exists():
        reference.write_text("\n".join(read_molecules()[:50]))
    try:
        evaluation = evaluate(
            path, reference, train=str(reference) if number % 2 else None, with_baselines=number % 6 == 1,
            flagged=folder / "flagged.csv", cache=folder.parent / "cache",
        )  # fmt: skip
    except MolvaeError as err:
        outcome.refuse(path, err)
        return outcome
    outcome.outcomes["evaluated"] += 1
    json.dumps(evaluation, allow_nan=False)
    counts, n_rows = evaluation["counts"], count_rows(path)
    if counts["rows_in"] != counts["kept"] + counts["duplicates"] + sum(counts["rejected"].values()):
        outcome.blame(f"{path.name}: the counts do not add up: {counts}")
    if n_rows is not None and n_rows != counts["rows_in"]:
        outcome.lost += max(0, n_rows - counts["rows_in"])
        outcome.blame(f"{path.name}: {counts['rows_in']} rows of {n_rows}")
    return outcome


def run_command(numbers: random.Random, number: int, folder: Path) -> Outcome:
    """Evaluate a file of samples with the command: does it end with a result, or with one message?"""
    path, outcome = make_samples(numbers, folder), Outcome(tried=1)
    (folder / "reference.smi").write_text("\n".join(read_molecules()[:50]))
    command = [sys.executable, "-m", "molvae", "evaluate", str(path), "--reference", str(folder / "reference.smi")]
    environment = {**os.environ, "MOLVAE_CACHE": str(folder / "cache")}
    process = subprocess.run(
        [*command, "--threads", "1", "--out", str(folder / "out.json")], env=environment, capture_output=True, text=True
    )
    outcome.outcomes[f"exit code {process.returncode}"] += 1
    has_message = process.returncode == 1 and "molvae: " in process.stderr
    if "Traceback" in process.stderr or not (has_message or process.returncode == 0):
        outcome.blame(f"{path.name}: {process.stderr[-500:]}")
    return outcome


# --- child processes


def serve(connection: Any, folder: str) -> None:
    """Run the cases that come through a connection, each in an empty folder."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES_MB << 20, ADDRESSES_MB << 20))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        case, key, number = connection.recv()
        with ExitStack() as stack:
            stack.enter_context(redirect_stderr(io.StringIO()))
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            try:
                outcome = case(random.Random(key), number, place)
            except BaseException:  # noqa: BLE001  whatever it is, the case did not end as it should
                outcome = Outcome(tried=1, outcomes=Counter(["crashed"]))
                outcome.blame(traceback.format_exc()[-1500:])
        connection.send((outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Child:
    """A process that runs cases, and is started again when it dies or hangs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def _start(self) -> None:
        self._connection, other_end = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(other_end, str(self._folder)))
        self._process.start()
        other_end.close()

    def run(self, case: Case, key: str, number: int) -> tuple[Outcome, float]:
        """Run a case; returns what became of it, and the most memory that the process has had, in MB."""
        self._connection.send((case, key, number))
        try:
            if self._connection.poll(LIMIT_S):
                outcome, peak = self._connection.recv()
                return outcome, peak
            end = f"no end within {LIMIT_S} s"
        except EOFError:
            self._process.join()
            end = f"exit code {self._process.exitcode}"
        self.stop()
        self._start()
        outcome = Outcome(tried=1, outcomes=Counter([end]))
        outcome.blame(end)
        return outcome, 0.0

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


# class of input -> case, how many of them, how many in a quick run, whether memory is that of the readers alone
CLASSES: dict[str, tuple[Case, int, int, bool]] = {
    "mutated lines of SMILES": (run_lines, 52, 1, False),
    "random and mutated files": (run_file, 6000, 200, True),
    "hostile files": (run_hostile_file, len(HOSTILE_FILES), 16, True),
    "random strings of tokens": (run_strings, 30, 1, False),
    "latent points": (run_points, 60, 3, False),
    "mutated samples, evaluated": (run_samples, 200, 8, False),
    "mutated samples, molvae evaluate": (run_command, 6, 1, False),
}


def run_class(fault: str, seed: int, folder: Path, *, is_quick: bool, only: int | None) -> dict[str, Any]:
    """Run all cases of a class of inputs; returns a row of the result.

    Args:
        fault: the class, of CLASSES.
        seed: of the cases.
        folder: to write in.
        is_quick: run fewer.
        only: run one case, by its number; None: all.
    """
    case, n_full, n_quick, is_limited = CLASSES[fault]
    cases = range(0, n_full, n_full // n_quick if is_quick else 1) if only is None else [only]
    began, peak, total = time.monotonic(), 0.0, Outcome()
    folder.mkdir()
    child = Child(folder)
    try:
        for number in cases:
            outcome, memory = child.run(case, f"{seed} {fault} {number}", number)
            if is_limited and memory > LIMIT_MB >= peak:
                outcome.blame(f"{memory:.0f} MB of memory")
            peak = max(peak, memory)
            if outcome.notes:
                print(f"{fault}, case {number}, 1 of {len(outcome.notes)}: {outcome.notes[0]}", flush=True)
            total.add(outcome)
    finally:
        child.stop()
    return {
        "fault": fault, "tried": total.tried, "outcomes": dict(total.outcomes.most_common()), "lost": total.lost,
        "wrong": total.wrong, "peak_mb": round(peak), "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--only", default="", help="classes whose name contains this")
    parser.add_argument("--case", type=int, help="only the case of this number")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for k, fault in enumerate(fault for fault in CLASSES if arguments.only in fault):
            folder = Path(temporary) / str(k)
            rows.append(run_class(fault, arguments.seed, folder, is_quick=arguments.quick, only=arguments.case))
            print(rows[-1], flush=True)
    write_result(arguments.json, {"seed": arguments.seed, "rows": rows})
    if any(row["lost"] or row["wrong"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
