"""GPUs of a workstation, with an nvidia-smi that is a script: no two processes use the same GPU."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest
import torch

from molvae.errors import MolvaeError
from molvae.runtime import devices

HOLD_PROGRAM = (
    "import sys; from molvae.runtime.devices import take_gpus\n"
    "print('asking', flush=True)\n"
    "print(','.join(take_gpus(int(sys.argv[1]))), flush=True); sys.stdin.read()"
)


@pytest.fixture
def workstation(tmp_path, monkeypatch):
    """A function that installs an nvidia-smi, given the free memory of each GPU; locks lie in a folder of the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(devices, "_held", [])
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.05)
    monkeypatch.setenv(devices.VISIBLE, "")  # so that what is set here goes away after the test
    monkeypatch.delenv(devices.VISIBLE)
    for name in (*devices.SCHEDULERS, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def install(*free: int, status: int = 0) -> None:
        lines = "\n".join(f"echo '{k}, GPU-{k}, {memory}'" for k, memory in enumerate(free))
        program = tmp_path / "bin/nvidia-smi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{lines}\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


@pytest.fixture
def hold():
    """A function that starts a process that takes n GPUs and holds them, at the latest until the test ends."""
    started = []

    def start(count: int) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD_PROGRAM, str(count)], text=True, stdin=-1, stdout=-1, stderr=-3
            )
        )
        assert started[-1].stdout.readline() == "asking\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_processes_never_share_a_gpu_and_release_it_when_they_end(workstation, hold):
    workstation(100, 300, 200)
    first, second = hold(1), hold(2)
    names = [set(process.stdout.readline().strip().split(",")) for process in (first, second)]
    assert names[0] | names[1] == {"GPU-0", "GPU-1", "GPU-2"} and not names[0] & names[1]
    third = hold(1)
    assert select.select([third.stdout], [], [], 0.5)[0] == []  # it waits
    first.kill()  # however a process ends, its lock ends with it
    assert {third.stdout.readline().strip()} == names[0]


def test_gpu_with_most_free_memory_is_taken_first_and_is_the_only_one_visible(workstation):
    workstation(100, 300, 200)
    assert devices.take_gpus(1) == ["GPU-1"] and os.environ[devices.VISIBLE] == "GPU-1"


def test_gpus_are_taken_only_among_those_the_user_has_chosen(workstation, monkeypatch):
    workstation(100, 300, 200)
    monkeypatch.setenv(devices.VISIBLE, "0,2")
    assert devices.take_gpus(2) == ["GPU-2", "GPU-0"]


def test_gpus_chosen_by_a_scheduler_or_torchrun_are_left_as_they_are(workstation, monkeypatch):
    workstation(100, 300)
    for name in ("SLURM_JOB_ID", "LOCAL_RANK"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            patch.setenv(devices.VISIBLE, "0")
            assert devices.take_gpus(1) == [] and os.environ[devices.VISIBLE] == "0"


@pytest.mark.parametrize("name", devices.SCHEDULERS)
def test_processes_in_an_allocation_of_several_gpus_take_different_ones(workstation, monkeypatch, hold, name):
    workstation(100, 300, 200)
    monkeypatch.setenv(name, "1")
    first, second = hold(1), hold(2)
    names = [process.stdout.readline().strip().split(",") for process in (first, second)]
    assert sorted(sum(names, [])) == ["GPU-0", "GPU-1", "GPU-2"]
    assert devices.take_gpus(3) == []  # as many as are there: they are what the job was granted


def test_gpus_can_be_taken_by_a_user_without_a_name(workstation, monkeypatch):
    workstation(100)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert devices.take_gpus(1) == ["GPU-0"]


def test_taking_more_gpus_than_exist_is_an_error_and_taking_none_takes_none(workstation):
    workstation(100)
    with pytest.raises(MolvaeError, match="2 GPUs were granted, and 1 can be used"):
        devices.take_gpus(2)
    assert devices.take_gpus(0) == [] and devices.VISIBLE not in os.environ


@pytest.mark.parametrize("has_driver", [True, False])
def test_machine_without_a_gpu_computes_on_the_cpu(workstation, monkeypatch, has_driver):
    if has_driver:
        workstation(status=9)  # a driver without a card
    else:
        monkeypatch.setenv("PATH", "")
    assert devices.choose_device(1) == torch.device("cpu")
    devices.launch_torchrun(2)  # returns


def test_device_is_the_cpu_without_granted_gpus_and_else_the_gpu_of_the_rank(workstation, monkeypatch):
    workstation(100)
    assert devices.choose_device(0) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose_device(0) == torch.device("cpu")
    assert devices.choose_device(1) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert devices.choose_device(4) == torch.device("cuda", 3)


def test_several_gpus_get_a_process_each_and_their_training_is_saved_when_stopped(workstation, featurised, tmp_path):
    """Under the real torchrun; without CUDA its processes meet on the CPU."""
    workstation(100, 300)
    sizes = ("--embedding-dim", "4", "--latent-dim", "3", "--encoder-hidden", "5", "--decoder-hidden", "5")
    command = ["train", featurised(20, 5), "--out", tmp_path / "model", *sizes, "--gpus", "2", "--threads", "1"]
    command = [sys.executable, "-m", "molvae", *map(str, command), "--epochs", "100000", "--patience", "100000"]
    process = subprocess.Popen(command, text=True, stderr=-1, cwd=tmp_path)
    try:
        lines = iter(process.stderr.readline, "")
        assert next(line for line in lines if "using GPU" in line).strip().endswith("GPU-1, GPU-0")
        assert next(line for line in lines if "epoch 3" in line)
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode > 0 and "the same command resumes from there" in rest, rest
    assert list((tmp_path / "checkpoints").iterdir()) and not (tmp_path / "model/model.safetensors").exists()
