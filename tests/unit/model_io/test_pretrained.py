"""The models that come with the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import molvae
from molvae.errors import ModelFileError
from molvae.metrics.molecule_table import describe_smiles
from molvae.model_io import pretrained

FOLDER = Path(pretrained.__file__).parent
MAX_BYTES = 20 * 10**6


@pytest.mark.parametrize("name", pretrained.list_pretrained())
def test_pretrained_model_is_small_and_has_a_card_and_a_readme(name):
    folder = pretrained.resolve_model_folder(f"pretrained:{name}")
    assert (folder / "model.safetensors").stat().st_size < MAX_BYTES
    card = json.loads((folder / "model.json").read_text())
    assert {"settings", "training", "metrics", "versions"} <= set(card)
    text = (folder / "README.md").read_text()
    for part in ("## Data", "## Metrics", "## Limits", "## Licence"):
        assert part in text, part


def test_pretrained_model_samples_drug_like_molecules():
    samples = molvae.load("pretrained:moses").sample(200, seed=0)
    table = describe_smiles(samples)
    assert len(samples) == 200 and table["is_valid"].all()
    assert len(set(table["canonical"])) >= 198
    assert table["passes_filters"].mean() > 0.95, "of MOSES' training molecules all pass, of random tokens half"
    assert 0.75 < table["qed"].mean() < 0.85  # 0.80 of the training molecules


def test_pretrained_latent_model_reconstructs_molecules():
    model = molvae.load("pretrained:moses-latent")
    molecules = ["COc1ccc(NC(=O)CN2CCOCC2)cc1", "Cc1nc(CN2CCN(C(=O)c3ccco3)CC2)no1", "O=C(Nc1ccccc1F)c1cccs1"]
    reconstructions = describe_smiles(model.decode(model.encode(molecules)[0]))["canonical"]
    assert reconstructions.tolist() == molecules


def test_unknown_pretrained_model_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ModelFileError, match="no pretrained model of that name; there are moses, moses-latent"):
        molvae.load("pretrained:nothing")
    assert pretrained.resolve_model_folder("some/folder") == Path("some/folder")


def test_pretrained_model_can_be_named_in_the_shell(tmp_path):
    command = [sys.executable, "-m", "molvae", "sample", "--model", "pretrained:moses", "-n", "3", "--out", "-"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(process.stdout.split()) == 3
