"""A run is never lost: what stops it, what is kept, what goes on from it and what is refused."""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import kill_trial
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml

from facelib import ROOT, accumulation_trial, checkpoint, run_state, synthetic
from facelib.data import IdentityFolder
from facelib.preemption import Preempted
from facelib.train import train
from facelib.training_config import Config
from facelib.validation import Validation, measures_of


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "faces"
    synthetic.make_identity_folder(folder, identities=4, images_per_identity=4, seed=3)
    return folder


def config(faces, output, **other) -> Config:
    small = {"backbone": "iresnet18_025", "embedding_size": 32, "epochs": 3, "batch_size": 8, "learning_rate": 0.02}
    paths = {"data": str(faces), "output": str(output), "cache": str(faces.parent / "cache")}
    return Config(**(paths | small | {"checkpoint_minutes": 0} | other))


class Stopped(Exception):
    pass


def unfinished(faces, output, monkeypatch, number: int = 4, **other) -> None:
    """A run of six steps that was stopped after some."""
    with monkeypatch.context() as patched:
        step = run_state.Run.train_step

        def stopping(run, images, labels):
            if run.step == number:
                raise Stopped
            return step(run, images, labels)

        patched.setattr(run_state.Run, "train_step", stopping)
        with pytest.raises(Stopped):
            train(config(faces, output, **other))


def weights(run) -> dict:
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in safetensors.torch.load_file(run / "weights.safetensors").items()
    }


def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_bits():
    """tests/kill_trial.py, at a size for every day; its own is 50 kills."""
    found = kill_trial.main(kills=8, seed=1)
    assert sum(found.values()) - found["runs"] == 8


OPTIONS = [
    {"optimizer": "adamw", "learning_rate": 1e-3},
    {"ema": 0.9, "schedule": "cosine", "decay_norms": False},
    {"accumulate": 2, "precision": "bf16"},
    {"sample_rate": 0.75},
    {"workers": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_with_every_option_a_run_goes_on_as_if_it_had_not_been_stopped(faces, tmp_path, monkeypatch, options):
    unfinished(faces, tmp_path / "run", monkeypatch, number=3, **options)
    metrics = train(config(faces, tmp_path / "run", **options))
    train(config(faces, tmp_path / "whole", **options))
    assert metrics["continued_after_steps"] == [3] and metrics["steps"] == 6
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    losses = [pd.read_csv(tmp_path / name / "log.csv").loss.tolist() for name in ("run", "whole")]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_two_checkpoints_are_kept_while_it_runs_and_none_afterwards(faces, tmp_path, monkeypatch):
    unfinished(faces, tmp_path / "run", monkeypatch)
    left = tmp_path / "run.unfinished" / "checkpoints"
    assert [file.name for file in checkpoint.saved(left)] == ["step-00000003.safetensors", "step-00000004.safetensors"]
    train(config(faces, tmp_path / "run"))
    assert not (tmp_path / "run.unfinished").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(faces, tmp_path, monkeypatch, capsys):
    unfinished(faces, tmp_path / "run", monkeypatch)
    before, last = checkpoint.saved(tmp_path / "run.unfinished" / "checkpoints")
    content = bytearray(last.read_bytes())
    content[-9] ^= 1
    last.write_bytes(content)
    metrics = train(config(faces, tmp_path / "run"))
    assert f"{last}: a damaged checkpoint" in capsys.readouterr().out
    assert metrics["continued_after_steps"] == [3]
    train(config(faces, tmp_path / "whole"))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut off", "empty", "no safetensors"])
def test_where_all_are_damaged_the_run_begins_anew_and_says_so(faces, tmp_path, monkeypatch, capsys, damage):
    unfinished(faces, tmp_path / "run", monkeypatch)
    for file in checkpoint.saved(tmp_path / "run.unfinished" / "checkpoints"):
        content = file.read_bytes()
        file.write_bytes({"cut off": content[:-100], "empty": b"", "no safetensors": b"\x80\x04nonsense" * 9}[damage])
    assert train(config(faces, tmp_path / "run"))["continued_after_steps"] == []
    assert "no checkpoint is whole, the run begins anew" in capsys.readouterr().out


def test_a_checkpoint_is_a_safetensors_file_with_json(faces, tmp_path, monkeypatch):
    """Nothing in it is a program, and all that a run draws by chance is there."""
    unfinished(faces, tmp_path / "run", monkeypatch)
    file = checkpoint.saved(tmp_path / "run.unfinished" / "checkpoints")[-1]
    with safetensors.safe_open(file, "pt") as opened:
        names, state = {*opened.keys()}, json.loads(opened.metadata()["state"])
    assert {"random.flips", "random.torch", "log", "head.weight", "backbone.fc.weight"} <= names
    assert "optimizer.head.weight.momentum_buffer" in names
    assert state["step"] == 4 and state["config"]["batch_size"] == 8 and {"python", "numpy", "scaler"} <= {*state}


def test_other_parameters_are_refused_by_name_but_for_those_that_change_no_result(faces, tmp_path, monkeypatch):
    unfinished(faces, tmp_path / "run", monkeypatch)
    with pytest.raises(
        ValueError, match="run.unfinished: holds an unfinished run.*learning_rate 0.02, now 0.5; seed 0, now 3"
    ):
        train(config(faces, tmp_path / "run", learning_rate=0.5, seed=3))
    metrics = train(config(faces, tmp_path / "run", workers=1, checkpoint_minutes=7.0))
    assert metrics["continued_after_steps"] == [4]


def test_another_data_set_is_refused(faces, tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    synthetic.make_identity_folder(folder, identities=3, images_per_identity=4, seed=5)
    unfinished(folder, tmp_path / "run", monkeypatch, number=1)
    image = next(folder.glob("*/*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="data set [0-9a-f]{12}, now [0-9a-f]{12}"):
        train(config(folder, tmp_path / "run"))


def test_a_second_run_into_the_same_folder_is_refused(faces, tmp_path):
    class Nested(Exception):
        pass

    def second() -> None:
        command = [sys.executable, "-m", "facelib.train", "--params", tmp_path / "run.json"]
        (tmp_path / "run.json").write_text(json.dumps(vars(config(faces, tmp_path / "run"))))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "run: another run is training into it. Wait until it is done, or name another output" in done.stderr
        raise Nested

    step = run_state.Run.train_step
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Nested):
        patched.setattr(
            run_state.Run, "train_step", lambda run, *batch: second() if run.step == 2 else step(run, *batch)
        )
        train(config(faces, tmp_path / "run"))


def test_sigterm_leaves_a_checkpoint_and_an_exit_code_of_its_own(faces, tmp_path):
    asked = config(faces, tmp_path / "run", epochs=400, checkpoint_minutes=60.0)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(vars(asked)))
    command = [sys.executable, "-m", "facelib.train", "--params", tmp_path / "run.yaml"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "run.unfinished" / "tensorboard").glob("*")):
        time.sleep(0.1)
        assert running.poll() is None
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 75 and "Traceback" not in said
    step = int(re.search(r"ended by SIGTERM after step (\d+) of 800. The same command goes on", said)[1])
    (file,) = checkpoint.saved(tmp_path / "run.unfinished" / "checkpoints")
    assert file.name == f"step-{step:08d}.safetensors"


def end_now(*_) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_sigterm_before_the_first_step_ends_the_run_as_one(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("facelib.train.create_head", end_now)
    with pytest.raises(Preempted, match="run: ended by SIGTERM. The same command goes on"):
        train(config(faces, tmp_path / "run"))
    assert not (tmp_path / "run.unfinished").exists()


def test_after_the_last_step_a_sigterm_is_no_reason_to_lose_the_run(faces, tmp_path, monkeypatch):
    metrics = run_state.Run.metrics
    monkeypatch.setattr(run_state.Run, "metrics", lambda run: (end_now(), metrics(run))[1])
    assert train(config(faces, tmp_path / "run", checkpoint_minutes=60.0))["steps"] == 6
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_a_sigterm_does_not_wait_for_a_validation_which_is_made_when_the_run_goes_on(faces, tmp_path, monkeypatch):
    synthetic.make_lfw(
        tmp_path / "lfw", identities=6, images_per_identity=2, pairs_per_fold=2, folds=2, seed=4, first_identity=9
    )
    asked = config(faces, tmp_path / "run", checkpoint_minutes=60.0, validate=str(tmp_path / "lfw"))
    with monkeypatch.context() as patched, pytest.raises(Preempted, match="ended by SIGTERM after step 2"):
        patched.setattr(Validation, "measure", end_now)
        train(asked, measures_of(asked))
    assert train(asked, measures_of(asked))["continued_after_steps"] == [2]
    assert pd.read_csv(tmp_path / "run" / "validation.csv").epoch.tolist() == [1, 2, 3]


def test_a_sigterm_ends_several_processes_whatever_they_do(faces, tmp_path):
    timer = threading.Timer(2, end_now)  # they are being started
    timer.start()
    with pytest.raises(Preempted, match="run: ended by SIGTERM"):
        train(config(faces, tmp_path / "run", epochs=400, processes=2))


def test_a_folder_that_is_no_run_of_ours_is_left_as_it_is(faces, tmp_path):
    (tmp_path / "run.unfinished").mkdir()
    (tmp_path / "run.unfinished" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"run.unfinished: will not be replaced.*thesis.txt"):
        train(config(faces, tmp_path / "run"))
    assert (tmp_path / "run.unfinished" / "thesis.txt").read_text() == "mine"


def test_what_a_kill_left_half_written_is_cleared_away(faces, tmp_path, monkeypatch):
    """safetensors writes into .tmp<letters> and renames."""
    unfinished(faces, tmp_path / "run", monkeypatch)
    for name in (".tmpAbC123", "validation.partial", "checkpoints/.tmpXyZ789", "checkpoints/step-00000005.partial"):
        (tmp_path / "run.unfinished" / name).write_text("half")
    train(config(faces, tmp_path / "run"))
    whole = {"weights.safetensors", "head.safetensors", "parameters.json", "metrics.json", "log.csv"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == whole | {"environment.json", "tensorboard"}


def test_a_disk_too_small_for_the_checkpoints_is_told_before_the_first_step(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(
        OSError, match=r"run: no space left .* for a run's checkpoints \(\d+ MB are needed, 1 MB are free"
    ):
        train(config(faces, tmp_path / "run"))


def test_others_may_read_the_weights_as_they_may_the_other_files(faces, tmp_path):
    train(config(faces, tmp_path / "run", epochs=1))
    assert len({file.stat().st_mode for file in (tmp_path / "run").iterdir() if file.is_file()}) == 1


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint_and_names_the_images(faces, tmp_path, monkeypatch):
    step = run_state.Run.train_step

    def breaking(run, images, labels):
        loss = step(run, images, labels)
        return loss * float("nan") if run.step == 4 else loss

    monkeypatch.setattr(run_state.Run, "train_step", breaking)
    with pytest.raises(
        FloatingPointError, match="became nan at step 4 of 6, learning rate 0.00.*The batch's images: Synth"
    ) as told:
        train(config(faces, tmp_path / "run"))
    monkeypatch.undo()
    assert str(told.value).count(".jpg") == 8
    listed = (tmp_path / "run.unfinished" / "not-finite.txt").read_text().split()
    images = sorted(str(file.relative_to(faces)) for file in faces.glob("*/*.jpg"))
    shuffled = np.arange(16)
    np.random.default_rng([0, 1]).shuffle(shuffled)  # of the second epoch
    assert listed == [images[i] for i in shuffled[8:]]
    assert train(config(faces, tmp_path / "run"))["continued_after_steps"] == [3]


def test_an_image_that_breaks_on_the_way_loses_nothing(faces, tmp_path):
    folder = tmp_path / "faces"
    synthetic.make_identity_folder(folder, identities=4, images_per_identity=4, seed=3)
    shuffled = np.arange(16)
    np.random.default_rng([0, 0]).shuffle(shuffled)
    images = sorted(folder.glob("*/*.jpg"))
    broken = images[shuffled[12]]  # of the second batch
    whole = broken.read_bytes()
    broken.write_bytes(b"\xff" * len(whole))
    with pytest.raises(ValueError, match=f"{broken.name}: not a readable image"):
        train(config(folder, tmp_path / "run", checkpoint_minutes=60.0))
    broken.write_bytes(whole)
    assert train(config(folder, tmp_path / "run", checkpoint_minutes=60.0))["continued_after_steps"] == [1]


def small_memory(error: Exception, most: int):
    """Of a convolution that takes so many images at most."""
    forward = torch.nn.Conv2d.forward

    def convolve(module, x):
        if len(x) > most:
            raise error
        return forward(module, x)

    return convolve


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
    ],
    ids=["CUDA", "CPU", "oneDNN"],
)
def test_out_of_memory_suggests_the_accumulation_that_fits(faces, tmp_path, monkeypatch, error):
    monkeypatch.setattr("facelib.memory_format.choose", lambda *_: "contiguous")
    monkeypatch.setattr(torch.nn.Conv2d, "forward", small_memory(error, most=3))
    tried = []
    monkeypatch.setattr(
        accumulation_trial, "fits", lambda run, images, parts: tried.append(parts) or images / parts <= 3
    )
    with pytest.raises(MemoryError, match="the 8 images of a step do not fit.*: set accumulate to 4, .* parts of 2"):
        train(config(faces, tmp_path / "run"))
    assert tried == [2, 4]
    assert train(config(faces, tmp_path / "run", accumulate=4))["steps"] == 6
    monkeypatch.setattr(accumulation_trial, "fits", lambda *_: False)
    with pytest.raises(MemoryError, match="not even two at a time do. Take a smaller backbone"):
        train(config(faces, tmp_path / "run"))


def test_whether_a_step_fits_is_tried_in_a_process_of_its_own(faces):
    asked = config(faces, "nowhere")
    run = SimpleNamespace(config=asked, dataset=IdentityFolder(faces), device="cpu")
    run.precision, run.memory_format = "float32", "contiguous"
    assert accumulation_trial.fits(run, 8, 4)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**32, limit[1]))
    try:
        run.config = dataclasses.replace(asked, embedding_size=10**6)  # its last layer has 3 * 10^9 weights
        assert not accumulation_trial.fits(run, 8, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
