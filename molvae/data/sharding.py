"""One of several equal parts of a stage's rows, as Snakemake's scatter names it: "2-of-4"."""

from __future__ import annotations

import re
from typing import NamedTuple

from molvae.errors import MolvaeError


class Share(NamedTuple):
    """Part `number` of `of`, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that "2-of-4" names."""
        match = re.fullmatch(r"(\d+)-of-(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise MolvaeError(f"--share {text!r}: write it as 1-of-4, 2-of-4, …")
        return cls(int(match[1]), int(match[2]))

    def range(self, total: int) -> range:
        """The share's own stretch of `total` items."""
        return range(total * (self.number - 1) // self.of, total * self.number // self.of)
