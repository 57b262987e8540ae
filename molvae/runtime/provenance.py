"""Where a result comes from: the code a stage uses, the versions around it, the commit.

Standard library only: the Snakefile imports this in every job.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
DECLARATIONS = {"config.py"}  # its values reach a stage as tracked settings, so its text need not count as code
LIBRARIES = (
    "molvae", "torch", "numpy", "rdkit", "selfies", "tokenizers", "pandas", "scikit-learn", "fcd-torch", "mlflow",
    "snakemake",
)  # fmt: skip


def compute_code_digest(entry: str) -> str:
    """Compute a digest of a module of this package and of all in the package that it imports, directly or not.

    Comments, docstrings and layout do not count, so that editing them re-runs nothing. Files that are not
    Python (templates, tables) count for every module of their folder.

    Args:
        entry: dotted name inside the package, for example "stages.train".

    Raises:
        ValueError: there is no such module.
    """
    if _find_module_file(entry.split(".")) is None:
        raise ValueError(f"no module {entry!r} in {PACKAGE}: its digest would never change.")
    digest = hashlib.sha256()
    for path in sorted(find_imported_files(entry)):
        digest.update(str(path.relative_to(PACKAGE)).encode())
        digest.update(_read_meaning(path))
    return digest.hexdigest()[:16]


def find_imported_files(entry: str) -> set[Path]:
    """Find the files of this package that the module `entry` reaches through imports, lazy ones included."""
    pending, seen = [_find_module_file(entry.split("."))], set()
    while pending:
        path = pending.pop()
        if path is None or path in seen or path.name in DECLARATIONS:
            continue
        seen.add(path)
        if path.suffix == ".py":
            pending += [_find_module_file(name.split(".")) for name in _find_imports(path)]
            if path.parent != PACKAGE:
                neighbours = (file for file in path.parent.iterdir() if file.is_file())
                pending += [file for file in neighbours if file.suffix not in {".py", ".pyc"}]
    return seen


def _find_module_file(parts: list[str]) -> Path | None:
    """Find the file of a module of this package; None for a name inside a module, which is found by its module."""
    path = PACKAGE.joinpath(*parts)
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@cache
def _find_imports(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for node in _iter_run_time_nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name.removeprefix("molvae.") for name in names if name.startswith("molvae."))


def _iter_run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except what stands under `if TYPE_CHECKING:`, which never runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _iter_run_time_nodes(node)


@cache
def _read_meaning(path: Path) -> bytes:
    """Read what a file does: for Python its syntax tree without docstrings, else its bytes."""
    if path.suffix != ".py":
        return path.read_bytes()
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value.value = None
    return ast.dump(tree).encode()


def get_versions() -> dict[str, str]:
    """Look up the versions of Python and of each library that can change a result.

    They are those of the installed packages' metadata: `selfies.__version__` is not up to date.
    """
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def get_git_commit() -> str | None:
    """Look up the commit of the checkout that this package runs from, with '+' if files differ; None outside git."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(PACKAGE.parent), *arguments], capture_output=True, text=True, timeout=10)
        return run.stdout.strip() if run.returncode == 0 else ""

    try:
        is_tracked = git("ls-files", "--error-unmatch", "molvae/runtime/provenance.py")
        commit = git("rev-parse", "HEAD") if is_tracked else ""
        return (commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")) or None
    except (OSError, subprocess.TimeoutExpired):
        return None
