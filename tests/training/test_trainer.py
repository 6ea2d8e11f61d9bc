"""Training: what a run leaves, that it learns, and what it refuses before the first step."""

import json

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from small_runs import begin, config, steps, weights
from torch.nn.functional import cross_entropy

from facelib.models.pretrained import load_embedder
from facelib.training import train, trainer
from facelib.training.trainer import Run
from facelib.verification.validation import measures_of
from facelib.verification.verify import verify


def test_a_decay_as_long_as_if_all_images_were_seen_hardly_lowers_the_rate_of_a_small_share(faces, tmp_path):
    """The published run's schedule: of 16 images a ratio of 0.5 keeps 8, so its decay is half done at the end."""
    train(config(faces, tmp_path / "run", ratio=0.5, batch_size=2, epochs=1, power=1.0, decay_over="full"))
    rates = pd.read_csv(tmp_path / "run" / "log.csv").learning_rate
    assert list(rates) == pytest.approx([0.02 * (1 - step / 8) for step in range(4)])


def test_a_run_leaves_a_folder_that_says_how_to_repeat_it_and_embeds(faces, tmp_path):
    metrics = train(config(faces, tmp_path / "run"))
    files = {"weights.safetensors", "head.safetensors", "parameters.json", "metrics.json", "log.csv"}
    files |= {"environment.json", "tensorboard"}
    assert {file.name for file in (tmp_path / "run").iterdir()} == files
    assert json.loads((tmp_path / "run" / "parameters.json").read_text())["backbone"] == "iresnet18_025"
    assert metrics["images"] == 16 and metrics["identities"] == 4 and metrics["steps"] == 6
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(environment["data"]) == 12
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert list(log.step) == list(range(1, 7))
    assert load_embedder(tmp_path / "run").embed(torch.zeros(2, 3, 112, 112, dtype=torch.uint8)).shape == (2, 32)


def test_a_step_of_sgd_is_the_plain_one(faces):
    """The softmax loss of the images, as they are or mirrored, and a step against its gradient."""
    run = begin(faces, frozen=True, loss="softmax", clip=0.0, weight_decay=0.0)
    images, labels = next(iter(run.loader))
    scaled = images.double() / 127.5 - 1
    mirrored = (torch.rand(8, generator=torch.Generator().manual_seed(0)) < 0.5)[:, None, None, None]
    weights = [*run.parameters().values()]
    before = [weight.detach().clone() for weight in weights]
    embeddings = run.backbone(torch.where(mirrored, scaled.flip(-1), scaled))
    loss = cross_entropy(embeddings @ run.head.weight.T, labels)
    gradients = torch.autograd.grad(loss, weights)
    assert float(run.step(images, labels)) == pytest.approx(float(loss.detach()), rel=1e-6)
    for weight, old, gradient in zip(weights, before, gradients, strict=True):
        assert torch.allclose(weight, old - 0.02 * gradient, atol=1e-6)


@pytest.mark.parametrize("loss", ["arcface", "softmax"])
def test_training_lowers_the_loss(faces, tmp_path, loss):
    metrics = train(config(faces, tmp_path / "run", loss=loss, epochs=8, scale=16.0, margin=0.2))
    assert metrics["last_epoch_loss"] < 0.7 * metrics["first_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(faces, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(config(faces, tmp_path / name, epochs=1, seed=seed))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a")["fc.weight"] != weights(tmp_path / "c")["fc.weight"]


def test_a_batch_that_is_computed_in_parts_has_the_same_loss_and_makes_the_same_step(faces):
    """Three unequal parts, where no batch norm looks at the whole batch."""
    runs = [begin(faces, frozen=True, batch_size=7, accumulate=accumulate) for accumulate in (1, 3)]
    losses = [steps(run, 3) for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # they are summed in float32
    for name, weight in runs[0].parameters().items():
        assert torch.allclose(weight, runs[1].parameters()[name], rtol=1e-7, atol=1e-9), name


def test_autocast_to_bf16_trains_too(faces, tmp_path):
    metrics = train(config(faces, tmp_path / "run", epochs=1, batch_size=4, precision="bf16"))
    assert metrics["precision"] == "bf16" and np.isfinite(metrics["last_epoch_loss"])


def test_a_moving_average_is_what_is_kept_of_a_run_that_asks_for_one(faces, tmp_path):
    """w = d w + (1 - d) v after every step, from the first step's weights on."""
    seen, step = [], Run.step

    def watched(run, *batch):
        loss = step(run, *batch)
        seen.append(run.backbone.state_dict()["fc.weight"].clone())
        return loss

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "step", watched)
        train(config(faces, tmp_path / "run", ema=0.75))
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    kept = safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors")["fc.weight"]
    assert torch.allclose(kept, expected, atol=1e-7) and not torch.allclose(kept, seen[-1], atol=1e-5)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"epochs": 0}, "epochs must be above 0"),
        ({"ratio": 0.1}, "ratio 0.1 leaves 0 of 4 identities.*raise ratio, or set keep_one"),
        ({"backbone": "efficientnet_b33"}, "efficientnet_b3"),
        ({"device": "cuda"}, "no CUDA GPU"),
    ],
)
def test_a_wrong_parameter_is_told_before_training_and_leaves_nothing(faces, tmp_path, wrong, message):
    if wrong == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match=message):
        train(config(faces, tmp_path / "run", **wrong))
    assert not list(tmp_path.iterdir())


def test_a_missing_data_folder_is_named_with_what_is_beside_it(faces, tmp_path):
    with pytest.raises(FileNotFoundError, match="facess: no such data folder.*faces"):
        train(config(faces.with_name("facess"), tmp_path / "run"))


@pytest.mark.parametrize("wrong", [{"ratio": 0.1}, {"backbone": "efficientnet_b33"}])
def test_what_is_wrong_is_told_before_faces_are_detected(faces, tmp_path, monkeypatch, wrong):
    def detect(*_):
        raise AssertionError("detection takes minutes")

    monkeypatch.setattr(trainer, "find_landmarks", detect)
    with pytest.raises(ValueError, match="ratio 0.1 leaves 0 of 4 identities|efficientnet_b3"):
        train(config(faces, tmp_path / "run", **wrong))


def test_faces_not_found_are_counted_only_where_they_were_detected(faces, tmp_path):
    assert train(config(faces, tmp_path / "run", epochs=1))["faces_not_found"] is None  # landmarks came with them


def test_a_folder_that_is_not_an_earlier_run_is_not_replaced(faces, tmp_path):
    with pytest.raises(FileExistsError, match="faces: will not be replaced.*Synthetic_"):
        train(config(faces, faces))
    assert list(faces.glob("*/*.jpg"))


def test_weights_that_the_last_step_breaks_are_not_kept(faces, tmp_path):
    # Two steps an epoch: the second's loss is still that of weights which the first left finite.
    options = {"learning_rate": 1e38, "weight_decay": 1e38, "clip": 0.0, "checkpoint_minutes": 60.0}
    with pytest.raises(FloatingPointError, match="not finite after the last step. Lower learning_rate"):
        train(config(faces, tmp_path / "run", epochs=1, batch_size=16, **options))
    assert not list(tmp_path.iterdir())


def test_measures_after_each_epoch_are_written_down_and_choose_nothing(faces, lfw, tmp_path):
    options = {"cache": str(tmp_path / "cache")}
    looked = config(faces, tmp_path / "looked", validate=str(lfw), **options)
    with pytest.raises(ValueError, match="validate is set: hand"):
        train(looked)
    train(looked, measures_of(str(lfw), looked.cache, looked.device))
    train(config(faces, tmp_path / "not", **options))
    assert weights(tmp_path / "looked") == weights(tmp_path / "not")
    table = pd.read_csv(tmp_path / "looked" / "validation.csv")
    assert table.epoch.tolist() == [1, 2, 3] and table.auc.between(0, 1).all() and (table.pairs == 8).all()
    last = verify(str(tmp_path / "looked"), str(lfw), str(tmp_path / "verified"))
    assert last["auc"] == pytest.approx(table.auc.iloc[-1])
