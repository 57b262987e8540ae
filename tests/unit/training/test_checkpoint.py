"""Checkpoints: read as they were written, or refused."""

from __future__ import annotations

import json

import pytest
import torch

from molvae.errors import ModelFileError
from molvae.model_io.tensors import write_tensors
from molvae.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint

STATE = CheckpointState(
    {"epoch": 1, "history": [{"loss": 0.1}]},
    {
        "a": torch.arange(6.0).reshape(2, 3),
        "half": torch.ones(3).bfloat16(),
        "one": torch.tensor(3),
        "no": torch.ones(0),
    },
)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", STATE, "run")
    state = load_checkpoint(tmp_path / "a.safetensors", "run")
    assert state.progress == STATE.progress and set(state.tensors) == set(STATE.tensors)
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in STATE.tensors.items())


def test_a_checkpoint_with_any_bit_changed_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, STATE, "run")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ModelFileError):
            load_checkpoint(path, "run")


@pytest.mark.parametrize("metadata", [{}, {"progress": "{"}, {"progress": json.dumps(STATE.progress), "sha256": "0"}])
def test_a_checkpoint_without_its_progress_or_checksum_is_refused(tmp_path, metadata):
    write_tensors(tmp_path / "a.safetensors", STATE.tensors, {"run_id": "run", **metadata})
    with pytest.raises(ModelFileError, match="its checksum is wrong"):
        load_checkpoint(tmp_path / "a.safetensors", "run")


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", STATE, "run")
    with pytest.raises(ModelFileError, match="of other settings, data or code"):
        load_checkpoint(tmp_path / "a.safetensors", "other")
