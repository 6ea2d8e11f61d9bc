"""A run of several processes is the run of one, where batch norm takes no statistics of a process's own images."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from in_processes import in_processes
from small_runs import begin, config, steps

from facelib import ROOT
from facelib.synthetic import sets
from facelib.training import checkpoint, train


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Four images of each of seven identities, which no number of processes divides."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    sets.make_identity_folder(folder, identities=7, images_per_identity=4, seed=3)
    return folder


def exact(faces, options: dict):
    recipe = {"embedding_size": 16, "epochs": 20, "batch_size": 7, "scale": 16.0, "margin": 0.2}
    return begin(faces, frozen=True, **recipe | options)


def trained(faces, options: dict, count: int) -> tuple:
    """Losses of the first steps, then a checkpoint's tensors."""
    run = exact(faces, options)
    return steps(run, count), checkpoint.tensors_of(run)


def compare(losses: list[float], tensors: dict, expected: dict, rtol: float = 1e-7) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point() and not name.startswith("log"):
            assert (tensors[name] - tensor).abs().max() <= rtol * (1 + tensor.abs().max()), name


KINDS = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3},
    "in parts": {"accumulate": 2},
    "partial": {"sample_rate": 0.6},
    "average": {"ema": 0.9},
    "timm": {"backbone": "efficientnet_b0", "batch_size": 6},
}


@pytest.mark.parametrize("kind, count", [*((kind, 2) for kind in KINDS), ("sgd", 3), ("partial", 3)])
def test_losses_and_weights_are_those_of_one_process(many, kind, count):
    number = 2 if kind == "timm" else 4
    expected = trained(many, KINDS[kind], number)
    for losses, tensors in in_processes(count, trained, many, KINDS[kind], number):
        assert losses == pytest.approx(expected[0], rel=1e-7)
        compare(losses, tensors, expected[1])


def begun(faces, folder, options: dict) -> None:
    run = exact(faces, options)
    steps(run, 3)
    checkpoint.save_run(run, folder)


def continued(faces, folder, options: dict) -> tuple:
    run = exact(faces, options)
    checkpoint.restore(run, *checkpoint.load_last(folder))
    return steps(run, 3), checkpoint.tensors_of(run)


@pytest.mark.parametrize("first, second", [(3, 2), (1, 3), (2, 1)])
def test_a_checkpoint_of_some_processes_is_continued_by_others(many, tmp_path, first, second):
    options = {"sample_rate": 0.6, "ema": 0.9}
    in_processes(first, begun, many, tmp_path, options)
    expected, tensors = trained(many, options, 6)
    for losses, found in in_processes(second, continued, many, tmp_path, options):
        assert losses == pytest.approx(expected[3:], rel=1e-7)
        random = {name: tensor for name, tensor in found.items() if name.startswith("random.torch")}
        compare(losses, found, tensors | random)


def test_more_processes_than_images_of_a_batch_are_refused(many):
    def refused() -> str:
        with pytest.raises(ValueError) as told:
            begin(many, batch_size=2)
        return str(told.value)

    assert in_processes(3, refused) == ["batch_size 2 and 28 images leave some of 3 processes none"] * 3


def torchrun(file, **other) -> list[str]:
    """The command of a run by two processes."""
    file.write_text(yaml.safe_dump(vars(config(**other))))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*launcher, "-m", "facelib.training", str(file)]


def test_torchrun_makes_a_run_that_a_sigterm_stops_and_the_same_command_continues(faces, tmp_path):
    asked = {"faces": faces, "output": tmp_path / "run", "epochs": 15, "checkpoint_minutes": 60.0}
    command, alone = (
        torchrun(tmp_path / "run.yaml", **asked),
        {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}},
    )
    running = subprocess.Popen(command, **alone, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "run.unfinished" / "tensorboard").glob("*")):
        time.sleep(0.1)
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode and "run: ended by SIGTERM after step" in said
    assert len(checkpoint.saved(tmp_path / "run.unfinished" / "checkpoints")) == 1
    subprocess.run(command, **alone, check=True, capture_output=True)
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_a_loss_that_is_no_number_is_told_by_the_processes_that_torchrun_started(faces, tmp_path):
    asked = {"faces": faces, "output": tmp_path / "run", "learning_rate": 1e30, "clip": 0.0}
    done = subprocess.run(torchrun(tmp_path / "run.yaml", **asked), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "at step 2 of 6, learning rate" in done.stderr and "The batch's images: " in done.stderr


def test_one_process_leaves_no_group_behind(faces, tmp_path):
    assert train(config(faces, tmp_path / "run", epochs=1))["processes"] == 1
