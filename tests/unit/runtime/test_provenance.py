"""Digests of the code a stage uses."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from molvae.runtime import provenance
from molvae.runtime.provenance import closure, code_digest, git_commit, versions

PACKAGE = provenance.PACKAGE
STAGES = [path.stem for path in sorted((PACKAGE / "stages").glob("[a-z]*.py"))]


def names(entry: str) -> set[str]:
    return {path.relative_to(provenance.PACKAGE).as_posix() for path in closure(entry)}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The package as a copy that a test may edit: copy(file, edit) does, and forgets what was read before."""
    folder = tmp_path / "molvae"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", folder)

    def edit(name, change) -> None:
        text = (folder / name).read_text()
        (folder / name).write_text(change(text))
        provenance._imports.cache_clear()
        provenance._meaning.cache_clear()

    return edit


def test_training_does_not_depend_on_sampling_tracking_or_reports():
    found = names("stages.train")
    assert {
        "stages/train.py", "training/trainer.py", "nn/vae.py", "nn/encoder_decoder.py", "nn/losses.py",
        "data/dataset.py", "data/vocabulary.py", "model_io/folder.py", "runtime/seeds.py", "data/token_store.py",
        "nn/rnn.py", "nn/priors.py", "inference/posterior_diagnostics.py", "inference/decoding.py",
        "training/distributed.py", "training/memory.py",
    } <= found  # fmt: skip
    assert not {"inference/sampling.py", "cli/main.py", "config.py", "cli/options.py"} & found
    assert not [name for name in found if name.startswith(("tracking", "report", "metrics", "chemistry"))]


def test_sampling_depends_on_how_strings_are_decoded_and_not_on_training_data():
    found = names("stages.sample")
    assert {
        "inference/sampling.py",
        "inference/decoding.py",
        "nn/priors.py",
        "model_io/loading.py",
        "chemistry/tokenization.py",
        "chemistry/selfies_codec.py",
        "nn/encoder_decoder.py",
        "chemistry/mcf.csv",
    } <= found
    assert (
        not {"data/token_store.py", "stages/train.py", "stages/featurize.py", "api.py", "metrics/molecule_table.py"}
        & found
    )


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_settings_commands_or_tracking(stage):
    assert not [name for name in names(f"stages.{stage}") if name.startswith(("config", "cli", "tracking"))]


def test_tables_and_templates_count_for_the_modules_beside_them():
    assert "chemistry/mcf.csv" in names("stages.validate") and "metrics/moses_test.safetensors" in names(
        "stages.validate"
    )
    assert {"report/report.html.j2", "report/report.css", "report/report.js"} <= names("stages.report")


def test_every_rule_names_a_module_that_there_is():
    rules = (PACKAGE.parent / "workflow" / "rules").glob("*.smk")
    named = {name for rule in rules for name in re.findall(r'code_digest\("([\w.]+)"\)', rule.read_text())}
    assert named >= {
        "stages.fetch",
        "stages.featurize",
        "stages.train",
        "stages.prior",
        "stages.sample",
        "stages.validate",
        "stages.report",
    }
    for name in named:
        assert len(code_digest(name)) == 16


def test_a_module_that_there_is_not_has_no_digest():
    with pytest.raises(ValueError, match="no module 'stages.trian'"):
        code_digest("stages.trian")


def test_the_same_code_elsewhere_has_the_same_digest(copy):
    here = code_digest("stages.train")
    provenance.PACKAGE = PACKAGE
    assert code_digest("stages.train") == here


def test_comments_docstrings_and_layout_do_not_count(copy):
    before = code_digest("stages.train")
    copy(
        "training/trainer.py",
        lambda text: "# a comment\n\n\n" + text.replace('"""One training run:', '"""A training run:'),
    )
    copy(
        "training/trainer.py", lambda text: text.replace('"""Train to the last epoch', '"""Train until the last epoch')
    )
    copy(
        "training/trainer.py",
        lambda text: re.sub(r"  # [^\n]*", "", text).replace("        return State(", "        return  State("),
    )
    copy("nn/losses.py", lambda text: text.replace('"""The loss and its schedules.', '"""Loss.'))
    assert code_digest("stages.train") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("training/trainer.py", "SAVE_SECONDS = 60.0", "SAVE_SECONDS = 61.0"), ("nn/losses.py", "0.5 * (mu", "0.6 * (mu"),
     ("runtime/seeds.py", ">> 1", ">> 2"), ("stages/train.py", "checkpoint.unlink", "checkpoint.lstat")],
)  # fmt: skip
def test_an_edit_of_the_code_of_a_stage_counts_for_that_stage(copy, name, old, new):
    before = {stage: code_digest(f"stages.{stage}") for stage in STAGES}
    copy(name, lambda text: text.replace(old, new))
    after = {stage: code_digest(f"stages.{stage}") for stage in STAGES}
    assert after["train"] != before["train"]
    assert after["fetch"] == before["fetch"] and after["report"] == before["report"]


def test_an_edit_of_other_code_does_not(copy):
    before = code_digest("stages.train")
    for name in ("inference/sampling.py", "cli/main.py", "config.py", "stages/validate.py", "report/page.py"):
        copy(name, lambda text: text + "\nEXTRA = 1\n")
    assert code_digest("stages.train") == before


def test_an_edit_of_a_table_counts(copy):
    before = code_digest("stages.validate")
    copy("chemistry/mcf.csv", lambda text: text.replace("MCF1", "MCF1b"))
    assert code_digest("stages.validate") != before


def test_no_module_imports_in_a_way_that_a_digest_cannot_see():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: write it as from molvae. … import"
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"
            ):
                raise AssertionError(f"{path}:{node.lineno}: a module imported by name is missing from the digest")


def test_versions_are_those_of_the_installed_libraries():
    found = versions()
    assert {"python", "molvae", "torch", "rdkit", "selfies"} <= set(found)
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())


def test_a_commit_is_one_or_none():
    found = git_commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}\+?", found)


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", Path(tmp_path / "molvae"))
    assert git_commit() is None
