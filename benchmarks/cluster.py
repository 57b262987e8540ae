"""The workflow on a SLURM of its own, as the tests of the workflow start it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from molvae.config import PriorSettings
from molvae.model_io.card import WEIGHTS_FILE
from molvae.model_io.folder import save_prior
from molvae.model_io.pretrained import resolve_model_folder
from molvae.runtime.files import compute_sha256

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/workflow"))

from slurm import list_missing_programs
from workspace import Workspace


def require_slurm() -> None:
    """End the program where this machine has no SLURM."""
    if names := list_missing_programs():
        raise SystemExit(
            f"SLURM is not installed ({', '.join(names)} not found); on Debian and Ubuntu `make slurm` installs it"
        )


def add_pretrained_model(workspace: Workspace) -> None:
    """Put `pretrained:moses` into the experiment's folder, as if training had ended in it."""
    model = workspace.folder / "results/example/model"
    shutil.copytree(resolve_model_folder("pretrained:moses"), model)
    card = {"settings": PriorSettings().model_dump(), "weights_sha256": compute_sha256(model / WEIGHTS_FILE)}
    save_prior(model, None, card)
