"""The tour in docs/ runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["latent-space.md"])
def test_the_blocks_of_a_tour_run_one_after_the_other(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 7
    names: dict = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    assert names["back"] == names["model"].decode(names["mu"][:2]) and len(names["several"]) == 5
    assert "similarity" in capsys.readouterr().out
