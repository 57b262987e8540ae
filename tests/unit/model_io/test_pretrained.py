"""The models that come with the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import molvae
from molvae.errors import ModelFileError
from molvae.metrics.molecule_table import describe_all
from molvae.model_io import pretrained

FOLDER = Path(pretrained.__file__).parent
MOST_BYTES = 20 * 10**6


@pytest.mark.parametrize("name", pretrained.names())
def test_a_model_is_small_has_a_card_and_says_how_it_was_made(name):
    folder = pretrained.folder_of(f"pretrained:{name}")
    assert (folder / "model.safetensors").stat().st_size < MOST_BYTES
    card = json.loads((folder / "model.json").read_text())
    assert {"settings", "training", "metrics", "versions"} <= set(card)
    text = (folder / "README.md").read_text()
    for part in ("## Data", "## Figures", "## Limits", "## Licence"):
        assert part in text, part


def test_samples_are_drug_like_molecules(caplog):
    samples = molvae.load("pretrained:moses").sample(200, seed=0)
    rows = describe_all(samples)
    assert len(samples) == 200 and rows["is_valid"].all()
    assert len(set(rows["canonical"])) >= 198
    assert rows["passes_filters"].mean() > 0.95, "MOSES' training molecules pass all, random tokens half"
    assert 0.75 < rows["qed"].mean() < 0.85  # 0.80 of the training molecules


def test_a_molecule_comes_back_from_the_latent_space():
    model = molvae.load("pretrained:moses-latent")
    molecules = ["COc1ccc(NC(=O)CN2CCOCC2)cc1", "Cc1nc(CN2CCN(C(=O)c3ccco3)CC2)no1", "O=C(Nc1ccccc1F)c1cccs1"]
    back = describe_all(model.decode(model.encode(molecules)[0]))["canonical"]
    assert back.tolist() == molecules


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(ModelFileError, match="no pretrained model of that name; there are moses, moses-latent"):
        molvae.load("pretrained:nothing")
    assert pretrained.folder_of("some/folder") == Path("some/folder")


def test_the_shell_knows_them(tmp_path):
    command = [sys.executable, "-m", "molvae", "sample", "--model", "pretrained:moses", "-n", "3", "--out", "-"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(ended.stdout.split()) == 3
