"""The tour in docs/ runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["latent-space.md"])
def test_the_blocks_of_a_tour_run_one_after_the_other(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", (DOCS / name).read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 13
    names: dict = {}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, name, "exec"), names)
        else:
            subprocess.run(["bash", "-ec", block], check=True)
    assert names["back"] == names["model"].decode(names["mu"][:2]) and len(names["several"]) == 5
    assert (tmp_path / "card/maps.parquet").exists()
    assert "similarity" in capsys.readouterr().out
