"""Errors because of too little memory or too few open files, in words that say what to do."""

from __future__ import annotations

import errno
import re
import sys

from molvae.errors import MolvaeError

# how libraries say that there is no memory, where they raise no MemoryError
MEMORY_WORDS = re.compile(
    "can't allocate memory|cannot allocate memory|out of memory|bad_alloc|failed to map segment|can't start new thread"
    "|error return without exception set",  # of the interpreter, while it imports
    re.IGNORECASE,
)
MIN_FILES = 64  # open at once; with fewer, libraries that draw and compute end in errors of their own
FILES_ADVICE = "Raise the limit on open files (`ulimit -n 1024`)"
MEMORY_ADVICE = (
    "Use fewer --threads or a smaller batch_size, or allow more memory: `ulimit -v`, the limit of the container, or "
    "on a cluster mem_mb of the rule (--set-resources RULE:mem_mb=16000)."
)


def check_file_limit() -> None:
    """Check that enough files may be open at once.

    Raises:
        MolvaeError: too few.
    """
    if sys.platform == "win32":
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < MIN_FILES:  # -1: no limit
        raise MolvaeError(f"{limit} files may be open at once, and molvae needs {MIN_FILES}. {FILES_ADVICE}.")


def _find_lack_of_memory(error: BaseException | None) -> str | None:
    """Find the words of an error, or of one that led to it, that memory for data, a library or a thread is lacking."""
    while error is not None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, MemoryError):
            return lines[0][:300]
        if isinstance(error, RuntimeError | ImportError | OSError | SystemError):
            for line in lines:
                if MEMORY_WORDS.search(line):
                    return line.strip()[:300]
        error = error.__cause__ or error.__context__
    return None


def explain_shortage(error: Exception) -> str | None:
    """Explain an error because of too little memory or too few files; None for another one."""
    if words := _find_lack_of_memory(error):
        return f"out of memory ({words}). {MEMORY_ADVICE}"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"{error}. {FILES_ADVICE}, or use fewer --threads."
    return None
