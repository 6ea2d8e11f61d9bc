"""Runs of six steps on sixteen synthetic faces, whole ones and stopped ones."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from facelib.data import IdentityFolder
from facelib.data.landmarks import find_landmarks
from facelib.models import create_model
from facelib.training import Config, train
from facelib.training.trainer import Run, head_of


def config(faces: Path, output: Path, **other) -> Config:
    """Three epochs of two steps, with a checkpoint after each step."""
    small = {"backbone": "iresnet18_025", "embedding_size": 32, "epochs": 3, "batch_size": 8, "learning_rate": 0.02}
    paths = {"data": str(faces), "output": str(output), "cache": str(faces.parent / "cache")}
    return Config(**(paths | small | {"checkpoint_minutes": 0} | other))


def begin(faces: Path, frozen: bool = False, **options) -> Run:
    """A run before its first step. If `frozen`, batch norm takes no statistics of a batch, so that a batch's images do
    not depend on each other, and all is computed in float64, so that nothing is left of rounding.
    """
    asked = config(faces, faces.parent / "nowhere", **options)
    torch.manual_seed(0)
    backbone = create_model(asked.backbone, asked.embedding_size)
    dataset = IdentityFolder(faces, landmarks=find_landmarks(faces, faces.parent / "cache"))
    head = head_of(asked, len(dataset.identities))
    if not frozen:
        return Run(asked, dataset, backbone, head, "cpu")
    run = Exact(asked, dataset, backbone.double(), head.double(), "cpu")
    for module in run.backbone.modules():
        module.train(not isinstance(module, _BatchNorm))
    return run


class Exact(Run):
    def augmented(self, images, total):
        return super().augmented(images, total).double()


def steps(run: Run, count: int) -> list[float]:
    """Make so many steps. Returns their losses."""
    losses = []
    while len(losses) < count:
        run.loader.order.epoch, run.loader.order.skip = divmod(run.done, len(run.loader))
        for images, labels in run.loader:
            losses.append(run.step(images, labels).item())
            if len(losses) == count:
                break
    return losses


class Stopped(Exception):
    pass


def unfinished(faces: Path, output: Path, number: int = 4, **other) -> Path:
    """The checkpoints of a run that was stopped after so many steps."""
    step = Run.step

    def stopping(run, images, labels):
        if run.done == number:
            raise Stopped
        return step(run, images, labels)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Run, "step", stopping)
        train(config(faces, output, **other))
    return output.with_name(output.name + ".unfinished") / "checkpoints"


def weights(run: Path, name: str = "weights") -> dict[str, bytes]:
    """The bits of each tensor of a run."""
    tensors = safetensors.torch.load_file(run / f"{name}.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
