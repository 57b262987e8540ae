"""The documentation: its code blocks run as they are, its commands exist, its configuration page is up to date."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from molvae.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config/README.md", *sorted(DOCS.glob("*.md"))]
ANY_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[\w-]*)?\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def run_blocks(page: Path) -> dict:
    """Run the Python and shell blocks of a page in order; return the names that the Python blocks define."""
    names: dict = {}
    for language, block in BLOCK.findall(page.read_text("utf-8")):
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
        else:
            subprocess.run(["bash", "-ec", block], check=True)
    return names


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """An empty working directory, with `molvae` on the PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_code_blocks_of_the_latent_space_page_run_in_order(folder, capsys):
    names = run_blocks(DOCS / "latent-space.md")
    assert names["reconstructed"] == names["model"].decode(names["mu"][:2]) and len(names["decoded"]) == 5
    assert (folder / "diagnostics/projections.parquet").exists()
    assert "similarity" in capsys.readouterr().out


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "usage.md"], ids=lambda page: page.name)
def test_python_block_of_a_page_runs(page, folder):
    (block,) = [block for language, block in BLOCK.findall(page.read_text("utf-8")) if language == "python"]
    names: dict = {}
    exec(compile(block, page.name, "exec"), names)
    assert len(names["samples"]) == 100 and names["history"]["score"].max() > 0.5


def list_molvae_commands() -> list[str]:
    """List the commands of all pages, without comments and redirections."""
    blocks = [block for page in PAGES for block in ANY_BLOCK.findall(page.read_text("utf-8"))]
    lines = [line.split("   #")[0] for block in blocks for line in block.splitlines()]
    return sorted({line.strip() for line in lines if line.strip().startswith("molvae ")})


@pytest.mark.parametrize("command", list_molvae_commands())
def test_documented_command_has_only_options_that_exist(command):
    result = CliRunner().invoke(app, [*shlex.split(command, comments=True)[1:], "--help"])
    assert result.exit_code == 0, result.output


def test_documented_command_with_an_unknown_option_would_be_found():
    assert CliRunner().invoke(app, ["sample", "--no-such-option", "1", "--help"]).exit_code == 2


def test_links_between_pages_lead_to_files():
    links = [(page, link) for page in PAGES for link in LINK.findall(CODE.sub("", page.read_text("utf-8")))]
    assert links
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_configuration_page_is_that_of_the_settings():
    build_page = runpy.run_path(str(DOCS / "write_configuration.py"))["build_page"]
    assert (DOCS / "configuration.md").read_text("utf-8") == build_page(), "run `make schema`"
