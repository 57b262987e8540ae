"""A shard: one of several equal parts of a stage's rows, as Snakemake's scatter names it, "2-of-4"."""

from __future__ import annotations

import re
from typing import NamedTuple

from molvae.errors import MolvaeError


class Shard(NamedTuple):
    """Part `number` of `total`, counted from 1."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read a shard from its name, "2-of-4".

        Raises:
            MolvaeError: it is no such name, or the number is above the total.

        >>> Shard.parse("2-of-4").range(10)
        range(2, 5)
        """
        match = re.fullmatch(r"(\d+)-of-(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise MolvaeError(f"--shard {text!r}: write it as 1-of-4, 2-of-4, …")
        return cls(int(match[1]), int(match[2]))

    def range(self, n_items: int) -> range:
        """Compute which of `n_items` items are the shard's own."""
        return range(n_items * (self.number - 1) // self.total, n_items * self.number // self.total)
