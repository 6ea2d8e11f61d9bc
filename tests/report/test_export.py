"""A run as files for others: they embed as the run does, and its card says what its numbers say."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from facelib.models import export as model_export
from facelib.models import load_embedder
from facelib.synthetic import sets
from facelib.training import Config, train
from facelib.verification.protocol import Protocol
from facelib.verification.verify import verify
from report.card import card, export, limits


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small run, its verification, and both exported."""
    folder = tmp_path_factory.mktemp("export")
    sets.make_identity_folder(folder / "faces", identities=4, images_per_identity=4, seed=3)
    sets.make_lfw(
        folder / "lfw", identities=6, images_per_identity=2, pairs_per_fold=2, folds=2, seed=4, first_identity=9
    )
    small = {"backbone": "iresnet18_025", "embedding_size": 32, "epochs": 1, "batch_size": 8, "learning_rate": 0.02}
    train(Config(str(folder / "faces"), str(folder / "run"), str(folder), **small))
    verify(str(folder / "run"), str(folder / "lfw"), str(folder / "verified"))
    export(folder / "run", folder / "out", (folder / "verified",))
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_each_file_embeds_as_the_run_does(place, name):
    images = torch.randint(0, 256, (5, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected, found = (
        torch.nn.functional.normalize(load_embedder(place / of).embed(images)) for of in ("run", f"out/{name}")
    )
    assert (found - expected).abs().max() < 1e-4


def test_the_graph_takes_any_number_of_images(place):
    (given,) = onnx.load(place / "out" / "model.onnx").graph.input
    first, *others = given.type.tensor_type.shape.dim
    assert first.dim_param and not first.dim_value and [size.dim_value for size in others] == [3, 112, 112]


def test_the_exported_model_verifies_as_the_run_does(place, tmp_path):
    found = verify(str(place / "out" / "model.onnx"), str(place / "lfw"), str(tmp_path / "out"))
    metrics = json.loads((place / "verified" / "metrics.json").read_text())
    assert found["auc"] == pytest.approx(metrics["auc"]) and found["accuracy"] == pytest.approx(metrics["accuracy"])


def test_the_card_has_the_runs_numbers_and_the_verifications_with_intervals(place):
    text = (place / "out" / "README.md").read_text()
    metrics = json.loads((place / "verified" / "metrics.json").read_text())
    assert "16 images of 4 identities of `faces`" in text and "epochs 1, batch_size 8" in text
    assert f"| lfw-synthetic, pairs.txt | normal | 8 | {100 * metrics['accuracy']:.2f} [" in text
    assert "The faces of the test are synthetic" in text and "non-commercial research" in text


def test_limits_follow_the_numbers():
    def row(auc: float, light: str = "normal", **changes) -> dict:
        return {"light": light, "changes": changes, "metrics": {"auc": auc}, "images": "lfw"}

    assert limits([])["normal"] is None and limits([row(0.48, normalise="first")])["normal"] is None
    assert limits([row(0.62)])["verdict"] == "unreliable"
    good = limits([row(0.999), row(0.955, "low")])
    assert good["verdict"] == "good" and good["low_change"] == pytest.approx(-0.044)


def test_a_row_of_the_card_says_where_its_protocol_was_changed(place, tmp_path):
    changed = {"crop": "random", "normalise": "first", "threshold": "same pairs", "folds": 2, "flip": True}
    verify(str(place / "run"), str(place / "lfw"), str(tmp_path / "changed"), Protocol(**changed))
    text = card(place / "run", [tmp_path / "changed"])
    words = "flip-test, random crop, normalised first, threshold of the same pairs, 2 folds | normal"
    assert f"lfw-synthetic, pairs.txt, {words}" in text


def test_the_recipe_is_told_as_far_as_it_was_used(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    asked = json.loads((tmp_path / "run" / "parameters.json").read_text())
    asked |= {"loss": "softmax", "optimizer": "adamw", "schedule": "cosine", "aligned": False}
    (tmp_path / "run" / "parameters.json").write_text(json.dumps(asked))
    text = card(tmp_path / "run", [])
    assert "power" not in text and "clip 5.0" in text and "middle of a photograph, not aligned" in text
    assert not any(f"{name} " in text for name in ("scale", "margin", "momentum", "power"))


def test_a_verification_of_other_weights_is_refused(place, tmp_path):
    verify(str(place / "out" / "model.onnx"), str(place / "lfw"), str(tmp_path / "other"))
    with pytest.raises(ValueError, match="other: is a verification of .*model.onnx with other weights than .*run"):
        export(place / "run", tmp_path / "out", (tmp_path / "other",))
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="nothing: is no result of facelib's, parameters.json is missing"):
        export(place / "run", tmp_path / "out", (tmp_path / "nothing",))


def test_a_graph_that_embeds_otherwise_is_not_kept(place, tmp_path, monkeypatch):
    session = model_export.onnxruntime.InferenceSession

    class Off(session):
        def run(self, *arguments):
            (found,) = super().run(*arguments)
            return (found + np.float32(0.01) * np.abs(found).max(),)

    monkeypatch.setattr(model_export.onnxruntime, "InferenceSession", Off)
    with pytest.raises(ValueError, match="model.onnx: its embeddings are up to .* from PyTorch's"):
        export(place / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
