"""Provenance: digests of the code a stage uses, versions, and the commit."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from molvae.runtime import provenance
from molvae.runtime.provenance import compute_code_digest, find_imported_files, get_git_commit, get_versions

PACKAGE = provenance.PACKAGE
STAGES = [path.stem for path in sorted((PACKAGE / "stages").glob("[a-z]*.py"))]


def list_imported_files(entry: str) -> set[str]:
    return {path.relative_to(provenance.PACKAGE).as_posix() for path in find_imported_files(entry)}


@pytest.fixture
def edit_package(tmp_path, monkeypatch):
    """A function that changes the text of a file in a copy of the package, from which digests are then computed."""
    folder = tmp_path / "molvae"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", folder)

    def edit(name, change) -> None:
        text = (folder / name).read_text()
        changed = change(text)
        assert changed != text, f"the edit of {name} changes nothing"
        (folder / name).write_text(changed)
        provenance._find_imports.cache_clear()
        provenance._read_meaning.cache_clear()

    return edit


def test_training_code_does_not_include_sampling_tracking_or_reports():
    files = list_imported_files("stages.train")
    assert {
        "stages/train.py",
        "training/trainer.py",
        "nn/vae.py",
        "nn/encoder_decoder.py",
        "nn/losses.py",
        "data/dataset.py",
        "data/vocabulary.py",
        "model_io/folder.py",
        "runtime/seeds.py",
        "data/token_store.py",
        "nn/rnn.py",
        "nn/priors.py",
        "inference/posterior_diagnostics.py",
        "inference/decoding.py",
        "training/distributed.py",
        "training/memory.py",
    } <= files
    assert not {"inference/sampling.py", "cli/main.py", "config.py", "cli/options.py"} & files
    assert not [name for name in files if name.startswith(("tracking", "report", "metrics", "chemistry"))]


def test_sampling_code_includes_decoding_and_no_code_of_training_data():
    files = list_imported_files("stages.sample")
    assert {
        "inference/sampling.py",
        "inference/decoding.py",
        "nn/priors.py",
        "model_io/loading.py",
        "chemistry/tokenization.py",
        "chemistry/selfies_codec.py",
        "nn/encoder_decoder.py",
        "chemistry/mcf.csv",
    } <= files
    unrelated = {
        "data/token_store.py",
        "stages/train.py",
        "stages/featurize.py",
        "api.py",
        "metrics/molecule_table.py",
    }
    assert not unrelated & files


@pytest.mark.parametrize("stage", STAGES)
def test_code_of_a_stage_does_not_include_settings_commands_or_tracking(stage):
    files = list_imported_files(f"stages.{stage}")
    assert not [name for name in files if name.startswith(("config", "cli", "commands", "tracking"))]


def test_tables_and_templates_belong_to_the_code_of_the_modules_beside_them():
    assert {"chemistry/mcf.csv", "metrics/moses_test.safetensors"} <= list_imported_files("stages.validate")
    assert {"report/report.html.j2", "report/report.css", "report/report.js"} <= list_imported_files("stages.report")


def test_each_workflow_rule_computes_the_digest_of_an_existing_module():
    rules = (PACKAGE.parent / "workflow" / "rules").glob("*.smk")
    entries = {name for rule in rules for name in re.findall(r'compute_code_digest\("([\w.]+)"\)', rule.read_text())}
    assert entries >= {
        "stages.fetch",
        "stages.featurize",
        "stages.train",
        "stages.prior",
        "stages.sample",
        "stages.validate",
        "stages.report",
    }
    for entry in entries:
        assert len(compute_code_digest(entry)) == 16


def test_code_digest_of_a_module_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="no module 'stages.trian'"):
        compute_code_digest("stages.trian")


def test_code_digest_does_not_depend_on_the_place_of_the_package(edit_package):
    digest = compute_code_digest("stages.train")
    provenance.PACKAGE = PACKAGE
    assert compute_code_digest("stages.train") == digest


def test_code_digest_does_not_depend_on_comments_docstrings_and_layout(edit_package):
    before = compute_code_digest("stages.train")
    edit_package(
        "training/trainer.py",
        lambda text: "# a comment\n\n\n" + text.replace('"""The training loop.', '"""A training loop.'),
    )
    edit_package(
        "training/trainer.py", lambda text: text.replace('"""Train to the last epoch', '"""Train until the last epoch')
    )
    edit_package("training/trainer.py", lambda text: re.sub(r"  # [^\n]*", "", text))
    edit_package(
        "training/trainer.py",
        lambda text: text.replace("        return CheckpointState(", "        return  CheckpointState("),
    )
    edit_package("nn/losses.py", lambda text: text.replace('"""The terms of the loss.', '"""Loss.'))
    assert compute_code_digest("stages.train") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("training/trainer.py", "SAVE_SECONDS = 60.0", "SAVE_SECONDS = 61.0"),
        ("nn/losses.py", "0.5 * (mu", "0.6 * (mu"),
        ("runtime/seeds.py", ">> 1", ">> 2"),
        ("stages/train.py", "checkpoint.unlink", "checkpoint.lstat"),
    ],
)
def test_code_digest_of_a_stage_changes_with_the_code_of_that_stage_only(edit_package, name, old, new):
    before = {stage: compute_code_digest(f"stages.{stage}") for stage in STAGES}
    edit_package(name, lambda text: text.replace(old, new))
    after = {stage: compute_code_digest(f"stages.{stage}") for stage in STAGES}
    assert after["train"] != before["train"]
    assert after["fetch"] == before["fetch"] and after["report"] == before["report"]


def test_code_digest_of_training_does_not_change_with_other_code(edit_package):
    before = compute_code_digest("stages.train")
    for name in ("inference/sampling.py", "cli/main.py", "config.py", "stages/validate.py", "report/page.py"):
        edit_package(name, lambda text: text + "\nEXTRA = 1\n")
    assert compute_code_digest("stages.train") == before


def test_code_digest_changes_with_a_table_beside_the_code(edit_package):
    before = compute_code_digest("stages.validate")
    edit_package("chemistry/mcf.csv", lambda text: text.replace("MCF1", "MCF1b"))
    assert compute_code_digest("stages.validate") != before


def test_modules_import_only_in_ways_that_a_code_digest_can_see():
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
    versions = get_versions()
    assert {"python", "molvae", "torch", "rdkit", "selfies"} <= set(versions)
    assert all(re.match(r"\d+\.\d+", version) for version in versions.values())


def test_git_commit_is_a_hash_with_a_mark_for_changed_files_or_none():
    commit = get_git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}\+?", commit)


def test_git_commit_outside_a_checkout_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", Path(tmp_path / "molvae"))
    assert get_git_commit() is None
