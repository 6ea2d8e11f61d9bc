"""A device computes what the CPU computes, whatever the precision; on a GPU, what no other test can see.

FACELIB_DEVICE=cuda makes it a GPU's (benchmarks.gpu does). Each error is |found - truth| / |truth| and is printed.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import simplejpeg
import torch
import torch.nn.functional as F
import torchvision
import yaml
from torch import Tensor

from benchmarks.head import straightforward
from facelib import ROOT, data
from facelib.data.augmentation import mirror, normalise
from facelib.losses import ArcFace, Softmax
from facelib.models.backbones import create_model
from facelib.synthetic import sets
from facelib.training import Config
from facelib.training.trainer import Run

DEVICE = os.environ.get("FACELIB_DEVICE", "cpu")
BACKBONES = ("iresnet18_025", "mobilenetv3_small_050") if DEVICE == "cpu" else ("iresnet50", "efficientnet_b3")


def check(found: list[Tensor], truth: list[Tensor], bound: float) -> None:
    found, truth = (torch.cat([t.detach().cpu().double().flatten() for t in side]) for side in (found, truth))
    error = float((found - truth).norm() / truth.norm())
    print(f"off by {error:.2g}, may be {bound:g}", end=" ")
    assert error <= bound


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces") / "crops"
    sets.make_identity_folder(folder, identities=8, images_per_identity=16)
    return folder


@pytest.mark.parametrize("kind", ["softmax", "arcface", "partial_fc"])
def test_losses_and_their_gradients_are_those_of_the_plain_formula_in_float64(kind):
    torch.manual_seed(0)
    options = {"sample_rate": 0.2} if kind == "partial_fc" else {}
    head = (Softmax if kind == "softmax" else ArcFace)(512, 1000, **options).to(DEVICE)
    x, labels = torch.randn(64, 512), torch.randint(0, 1000, (64,))
    rows, columns, seen = slice(None), labels, head.weight
    if options:
        head.draw(labels.to(DEVICE), step=3)
        rows, seen = head.drawn.cpu(), head.seen
        columns = torch.searchsorted(rows, labels)
    here = x.to(DEVICE).requires_grad_()
    found = head(here, labels.to(DEVICE))
    leaves = [x.double().requires_grad_(), head.weight.detach().cpu()[rows].double().requires_grad_()]
    plain = (lambda x, w, y: F.cross_entropy(x @ w.T, y)) if kind == "softmax" else straightforward
    truth = plain(*leaves, columns)
    gradients = torch.autograd.grad(found, [here, seen]), torch.autograd.grad(truth, leaves)
    check([found, *gradients[0]], [truth, *gradients[1]], 1e-4)


def change(backbone: str, device: str, precision: str, images: Tensor, labels: Tensor) -> list[Tensor]:
    """By what a step changes each weight."""
    torch.manual_seed(0)
    config = Config("", "", backbone=backbone, batch_size=len(images), precision=precision)
    run = Run(config, list(zip(images, labels)), create_model(backbone), ArcFace(512, 8), device)
    # At its usual first scale fp16 overflows, and the step is left out.
    run.scaler = torch.amp.GradScaler(device, init_scale=256.0, enabled=precision == "fp16")
    weights = [*run.backbone.parameters(), *run.head.parameters()]
    before = [weight.detach().clone() for weight in weights]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        run.step(images.to(device), labels.to(device))
    return [new.detach() - old for new, old in zip(weights, before)]


@pytest.mark.parametrize("precision, bound", {"float32": 0.01, "fp16": 0.1, "bf16": 0.5}.items())
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_changes_the_weights_as_in_float32_on_the_cpu(backbone, precision, bound, faces):
    batch = next(iter(data.Loader(data.IdentityFolder(faces), 16, shuffle=True, crop=112)))
    found = change(backbone, DEVICE, precision, *batch)
    check(found, change(backbone, "cpu" if precision == "float32" else DEVICE, "float32", *batch), bound)


def test_a_batch_is_loaded_mirrored_and_scaled_as_on_the_cpu(faces):
    batches = [
        next(iter(data.Loader(data.IdentityFolder(faces), 64, device, shuffle=True, workers=2, crop=112)))
        for device in (DEVICE, "cpu")
    ]
    assert batches[0][0].device.type == DEVICE and batches[0][1].tolist() == batches[1][1].tolist()
    which = torch.arange(64) % 3 == 0
    found, truth = ([normalise(mirror(images, which))] for images, _ in batches)
    check(found, truth, 1e-6)


def test_jpeg_is_decoded_to_the_same_levels(faces):
    files = [file.read_bytes() for file in sorted(faces.rglob("*.jpg"))[:16]]
    raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    here = [torch.from_numpy(simplejpeg.decode_jpeg(file, "RGB")).permute(2, 0, 1).float() for file in files]
    check([image.float() for image in torchvision.io.decode_jpeg(raw, device=DEVICE)], here, 0.01)


def trained(folder: Path, faces: Path, name: str, *launcher: str, kill: bool = False) -> Path:
    """The folder of a small run by facelib's command, which is killed after a checkpoint or not."""
    recipe = {"backbone": "mobilenetv3_small_050", "learning_rate": 0.01, "epochs": 2, "batch_size": 32}
    recipe |= {"deterministic": True, "precision": "float32", "memory_format": "channels_last", "device": DEVICE}
    asked = recipe | {"data": str(faces), "output": str(folder / name), "aligned": False, "checkpoint_minutes": 0.0}
    params = folder / f"{name}.yaml"
    params.write_text(yaml.safe_dump(asked))
    command = [sys.executable, "-m", *launcher, "facelib.training", str(params)]
    alone = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}}  # threads that wait for each other's core
    if not kill:
        subprocess.run(command, check=True, **alone)
        return folder / name
    process, saved = subprocess.Popen(command, start_new_session=True, **alone), folder / f"{name}.unfinished"
    while not [*saved.glob("checkpoints/*.safetensors")]:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return saved


@pytest.fixture(scope="module")
def whole(tmp_path_factory, faces) -> Path:
    return trained(tmp_path_factory.mktemp("whole"), faces, "run")


def test_a_run_that_was_killed_and_goes_on_ends_with_the_same_bits(tmp_path, faces, whole):
    trained(tmp_path, faces, "run", kill=True)
    found = trained(tmp_path, faces, "run")
    assert (found / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_two_processes_have_the_losses_of_one(tmp_path, faces, whole):
    """Near them on CPUs, where batch norm takes the statistics of each process's own images. Of GPUs there may be but
    one card for both: NCCL may refuse that.
    """
    found = trained(tmp_path, faces, "run", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    check(
        *([torch.tensor(pd.read_csv(run / "log.csv").loss.to_numpy())] for run in (found, whole)),
        0.2 if DEVICE == "cpu" else 0.01,
    )
