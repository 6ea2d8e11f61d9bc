"""What guards a run against its machine: a SIGTERM, a full disk, too little memory."""

import os
import resource
import signal
import subprocess

import pandas as pd
import pytest
import torch
from small_runs import config

from facelib.training import progress, train
from facelib.training.machine import Preempted
from facelib.verification.validation import Validation, measures_of


def end_now(*_) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_sigterm_before_the_first_step_ends_the_run_as_one(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("facelib.training.trainer.Run", end_now)
    with pytest.raises(Preempted, match="run: ended by SIGTERM. The same command goes on"):
        train(config(faces, tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_after_the_last_step_a_sigterm_is_no_reason_to_lose_the_run(faces, tmp_path, monkeypatch):
    metrics = progress.metrics
    monkeypatch.setattr(progress, "metrics", lambda *of: (end_now(), metrics(*of))[1])
    assert train(config(faces, tmp_path / "run", checkpoint_minutes=60.0))["steps"] == 6
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_a_sigterm_does_not_wait_for_a_validation_which_is_made_when_the_run_goes_on(faces, lfw, tmp_path, monkeypatch):
    asked = config(faces, tmp_path / "run", checkpoint_minutes=60.0, validate=str(lfw))
    with monkeypatch.context() as patched, pytest.raises(Preempted, match="ended by SIGTERM after step 2"):
        patched.setattr(Validation, "measure", end_now)
        train(asked, measures_of(str(lfw), asked.cache, asked.device))
    assert train(asked, measures_of(str(lfw), asked.cache, asked.device))["continued_after_steps"] == [2]
    assert pd.read_csv(tmp_path / "run" / "validation.csv").epoch.tolist() == [1, 2, 3]


def test_a_file_system_that_takes_no_file_of_that_size_is_told_before_training(faces, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match="run: no space left on the disk. Make room and run it again"):
            train(config(faces, tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("megabytes", [1, 60], ids=["before training", "at a checkpoint"])
def test_a_full_disk_is_told_in_a_sentence(faces, tmp_path, megabytes):
    """On a real file system of that size, where this user may mount one. The weights and their reserve take 13 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={megabytes}m"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(OSError, match="no space left on the disk.* Make room and run it again"):
            train(config(faces, disk / "run", embedding_size=256 if megabytes > 1 else 32))
        left = [file.name for file in disk.rglob("*") if file.name.startswith("step")]
        assert left if megabytes > 1 else not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
    ],
    ids=["CUDA", "CPU", "oneDNN"],
)
def test_out_of_memory_says_what_to_set_and_keeps_pytorchs_own_words(faces, tmp_path, monkeypatch, error):
    """A convolution takes three images at most."""
    forward = torch.nn.Conv2d.forward

    def convolve(module, x):
        if len(x) > 3:
            raise error
        return forward(module, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", convolve)
    with pytest.raises(MemoryError, match="run: out of memory .* Set accumulate to 2 or more") as raised:
        train(config(faces, tmp_path / "run"))
    assert raised.value.__cause__ is error
    assert train(config(faces, tmp_path / "run", accumulate=4))["steps"] == 6
