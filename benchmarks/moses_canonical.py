"""Which SMILES of the MOSES training set are not what RDKit writes today: the list that the package ships.

`molvae evaluate` takes the text of all other rows for the canonical SMILES, which spares most of the time of its first
call. With --write the rows are added to the shipped list, so that it holds for every release of RDKit that was tried.
"""

from __future__ import annotations

from collections.abc import Sequence

from peer import DOWNLOADS
from record import make_parser, write_result

from molvae.chemistry.descriptors import to_canonical_smiles
from molvae.chemistry.standardise import parse_smiles, silence_rdkit
from molvae.data.moses import download_moses_wheel
from molvae.metrics.reference_cache import MOSES_ROWS_TO_REWRITE, load_moses_rows_to_rewrite, read_moses_split
from molvae.runtime.workers import Workers

TASK_ROWS = 2000


def find_changed_rows(task: tuple[int, Sequence[str]]) -> list[int]:
    """Find the rows, counted from the task's first, whose canonical SMILES differs from the text."""
    first, smiles = task
    with silence_rdkit():
        return [
            first + row
            for row, text in enumerate(smiles)
            if to_canonical_smiles(parse_smiles(text, silence=False)) != text
        ]


def main() -> None:
    parser = make_parser(str(__doc__).splitlines()[0])
    parser.add_argument("--write", action="store_true", help="add the rows to the shipped list")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    smiles = read_moses_split(download_moses_wheel(DOWNLOADS), "train")
    n = 20_000 if arguments.quick else len(smiles)
    tasks = [(start, smiles[start : min(n, start + TASK_ROWS)]) for start in range(0, n, TASK_ROWS)]
    with Workers(arguments.threads) as workers:
        changed = [row for rows in workers.map(find_changed_rows, tasks) for row in rows]
    listed = set(load_moses_rows_to_rewrite())
    missing = sorted(set(changed) - listed)
    print(f"{len(changed)} of {n} rows are not canonical; {len(missing)} of them are not in the shipped list")
    if arguments.write:
        MOSES_ROWS_TO_REWRITE.write_text("".join(f"{row}\n" for row in sorted(listed.union(changed))))
    write_result(arguments.json, {"rows": n, "changed": len(changed), "missing": missing})


if __name__ == "__main__":
    main()
