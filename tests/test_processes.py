"""A run of several processes is the run of one: the same losses, the same weights."""

import dataclasses

import pytest
import torch
from in_processes import in_processes

from facelib import checkpoint, synthetic
from facelib.data import IdentityFolder
from facelib.landmarks import find_landmarks
from facelib.losses import ArcFace
from facelib.models import create_model
from facelib.run_state import Run
from facelib.train import train, train_here
from facelib.training_config import Config


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "faces"
    synthetic.make_identity_folder(folder, identities=7, images_per_identity=4, seed=3)
    return folder


class Exact(Run):
    """Computed in float64, so that nothing is left of rounding."""

    def augment(self, images, total):
        return super().augment(images, total).double()


def begin(faces, options: dict, exact: bool = True) -> Run:
    asked = {"backbone": "iresnet18_025", "embedding_size": 16, "epochs": 20, "batch_size": 7, "learning_rate": 0.02}
    config = Config(data=str(faces), output="nowhere", cache=str(faces), **(asked | options))
    torch.manual_seed(0)
    backbone = create_model(config.backbone, config.embedding_size)
    dataset = IdentityFolder(faces, landmarks=find_landmarks(faces, faces))
    head = ArcFace(16, 7, 16.0, 0.2, config.sample_rate)
    if exact:
        return Exact(config, dataset, "data", backbone.double(), head.double(), "cpu", "float32", "contiguous")
    return Run(config, dataset, "data", backbone, head, "cpu", "float32", "contiguous")


def steps(run: Run, count: int) -> list[float]:
    found = []
    while len(found) < count:
        run.loader.order.epoch, run.loader.order.skip = divmod(run.step, len(run.loader))
        for images, labels in run.loader:
            found.append(run.train_step(images, labels).item())
            if len(found) == count:
                break
    return found


def trained(faces, options: dict, count: int = 20, exact: bool = True) -> tuple:
    """Losses of the first steps, then a checkpoint's tensors."""
    run = begin(faces, options, exact)
    return steps(run, count), run.tensors()


def compare(found: tuple, expected: tuple, rtol: float = 1e-7, kinds: tuple[str, ...] = ("",)) -> None:
    assert found[0] == pytest.approx(expected[0], rel=rtol, abs=rtol)
    assert found[1].keys() == expected[1].keys()
    for name, tensor in expected[1].items():
        if tensor.is_floating_point() and name.startswith(kinds):
            assert torch.allclose(found[1][name], tensor, rtol=rtol, atol=rtol), name


KINDS = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3},
    "in parts": {"accumulate": 2},
    "partial": {"sample_rate": 0.6},
    "average": {"ema": 0.9, "decay_norms": False},
    "timm": {"backbone": "efficientnet_b0", "batch_size": 6},
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_weights_are_those_of_one_process(faces, kind, count):
    number = 2 if kind == "timm" else 4
    expected = trained(faces, KINDS[kind], number)
    for found in in_processes(count, trained, faces, KINDS[kind], number):
        compare(found, expected)


def test_after_20_steps_they_are_equal_to_float32_rounding(faces):
    slow = {"learning_rate": 1e-3, "batch_size": 14}
    expected = trained(faces, slow, 20, False)
    for found in in_processes(3, trained, faces, slow, 20, False):
        # Rounding grows with every step: a change of the last bit in the first one does as much.
        compare(found, expected, 1e-2, ("backbone.", "head."))


def begun(faces, folder, options: dict) -> None:
    run = begin(faces, options)
    steps(run, 3)
    run.save(folder)


def continued(faces, folder, options: dict) -> tuple:
    run = begin(faces, options)
    run.restore(*checkpoint.load_last(folder))
    return steps(run, 3), run.tensors()


@pytest.mark.parametrize("first, second", [(3, 2), (1, 3), (2, 1)])
def test_a_checkpoint_of_some_processes_is_continued_by_others(faces, tmp_path, first, second):
    options = {"sample_rate": 0.6, "ema": 0.9}
    in_processes(first, begun, faces, tmp_path, options)
    losses, tensors = trained(faces, options, 6)
    for found in in_processes(second, continued, faces, tmp_path, options):
        compare(
            found, (losses[3:], {name: t for name, t in tensors.items() if name != "log"} | {"log": found[1]["log"]})
        )


def test_the_launcher_starts_them_and_fails_with_the_workers_own_message(faces, tmp_path, capfd):
    asked = {"backbone": "iresnet18_025", "embedding_size": 16, "epochs": 1, "batch_size": 14, "processes": 2}
    config = Config(data=str(faces), output=str(tmp_path / "run"), cache=str(tmp_path), **asked)
    assert train(config)["processes"] == 2
    assert "100%" in capfd.readouterr().out  # the bar came through
    with pytest.raises(RuntimeError, match="the loss became .* at step 2 of 2, learning rate .*The batch's images: "):
        train(dataclasses.replace(config, output=str(tmp_path / "bad"), learning_rate=1e30, clip=0.0))
    said = "".join(capfd.readouterr())  # not by the launcher, and by the error alone
    assert not any(word in said for word in ("Traceback", "local_rank", "became"))


def test_more_processes_than_images_of_a_batch_are_refused(faces):
    def refused() -> str:
        config = Config(data=str(faces), output="nowhere", cache=str(faces), backbone="iresnet18_025", batch_size=2)
        with pytest.raises(ValueError) as told:
            train_here(config, "cpu")
        return str(told.value)

    assert in_processes(3, refused) == ["batch_size 2 and 28 images leave some of 3 processes none"] * 3
