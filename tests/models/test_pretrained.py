"""State dicts of declared backbones, and timm's models against timm's own preprocessing, without a network."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.data
import torch
from huggingface_hub import constants
from PIL import Image
from torch import nn

from facelib.models.pretrained import load_embedder

HALF = [0.5, 0.5, 0.5]


def network(name: str, outputs: int) -> nn.Module:
    """timm's network with random weights, statistics like a trained one's."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=outputs).eval()
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


def near(embeddings: torch.Tensor, expected: torch.Tensor, share: float = 1e-5) -> bool:
    """Equal but for a share of each one's length."""
    assert embeddings.shape == expected.shape and expected.std() > 0
    return bool(((embeddings - expected).norm(dim=1) < share * expected.norm(dim=1)).all())


# --- state dicts


@pytest.mark.parametrize("outputs", [8, 512])
@pytest.mark.parametrize("how", ["metadata", ".safetensors.json", ".pth.json", ".pt.json, wrapped"])
def test_a_state_dict_embeds_as_the_backbone_that_it_declares(tmp_path, crops, how, outputs):
    model = network("test_resnet", outputs)
    file, state = (
        tmp_path / f"model{how.split('.json')[0] if how != 'metadata' else '.safetensors'}",
        model.state_dict(),
    )
    if how == "metadata":
        about = {"backbone": "test_resnet", "range": "[0, 1]", "format": "pt", "made by": "someone"}
        safetensors.torch.save_file(state, file, about)
    else:
        state = {f"module.{key}": value for key, value in state.items()} if "wrapped" in how else state
        save = safetensors.torch.save_file if "safetensors" in how else torch.save
        save(state, file)
        Path(f"{file}.json").write_text(json.dumps({"backbone": "test_resnet", "range": [0, 1]}))
    with torch.no_grad():
        expected = model(crops.float() / 255)
    assert near(load_embedder(file).embed(crops), expected)


def test_the_file_beside_it_goes_before_a_files_own_metadata(tmp_path, crops):
    model = network("test_resnet", 8)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors", {"backbone": "x", "range": "x"})
    (tmp_path / "model.safetensors.json").write_text(json.dumps({"backbone": "test_resnet", "colours": "BGR"}))
    with torch.no_grad():
        expected = model(crops[:, [2, 1, 0]].float() / 127.5 - 1)
    assert near(load_embedder(tmp_path / "model.safetensors").embed(crops), expected)


@pytest.mark.parametrize(
    "metadata, told",
    [
        ({"backbone": "test_resnett"}, "not the weights of test_resnett: backbone 'test_resnett'"),
        ({"backbone": "test_convnext"}, "not the weights of test_convnext: Error(s)"),
        ({}, 'declare the name: {"backbone": ...} in'),
        ({"colours": "GBR"}, "colours must be"),
        ({"range": "-1 to 1"}, "declaration is not JSON"),
        ({"range": "[1, -1]"}, "range must be two numbers"),
    ],
)
def test_wrong_metadata_is_refused_in_a_sentence_with_file_key_and_mend(tmp_path, metadata, told):
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(network("test_resnet", 8).state_dict(), file, metadata)
    with pytest.raises(ValueError) as caught:
        load_embedder(file)
    assert str(caught.value).startswith(f"{file}: ") and told in str(caught.value) and "\n" not in str(caught.value)


# --- timm's models in folders


def save_timm(
    folder: Path, name: str, model: nn.Module, interpolation: str = "bilinear", side: int = 160, **more
) -> Path:
    """A folder as timm's documents describe it: config.json and model.safetensors."""
    folder.mkdir(parents=True)
    wants = {
        "input_size": [3, side, side],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_pct": 1.0,
    }
    wants |= {"interpolation": interpolation, "first_conv": "conv1", "classifier": "fc", "pool_size": [5, 5]}
    config = {"architecture": name, "num_classes": model.num_classes, "pretrained_cfg": wants | more}
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def by_timm(model: nn.Module, folder: Path, crops: torch.Tensor) -> torch.Tensor:
    """timm's own preprocessing of the crops as pictures, then the features that go into its classifier."""
    wants = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct")
    transform = timm.data.create_transform(**{key: wants[key] for key in keys}, is_training=False)
    x = torch.stack([transform(Image.fromarray(np.asarray(crop.permute(1, 2, 0)))) for crop in crops])
    with torch.no_grad():
        return model.forward_head(model.forward_features(x), pre_logits=True)


@pytest.mark.parametrize(
    "interpolation, side, share",
    [("bilinear", 160, 1e-5), ("bicubic", 160, 2e-3), ("bicubic", 112, 1e-5), ("bilinear", 96, 1e-5)],
)  # of bicubic a pixel in a hundred is a level beside Pillow's
def test_a_timm_model_gives_the_features_of_timms_own_preprocessing(tmp_path, crops, interpolation, side, share):
    model = network("test_resnet", 1000)
    folder = save_timm(tmp_path / "model", "test_resnet", model, interpolation, side)
    expected = by_timm(model, folder, crops)
    assert near(load_embedder(f"local-dir:{folder}").embed(crops), expected, share)
    assert near(load_embedder(folder).embed(crops), expected, share)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_features_are_those_of_timm_without_classes(tmp_path, crops, name):
    model = network(name, 1000)
    config = timm.get_pretrained_cfg(name)
    more = {"mean": HALF, "std": HALF, "first_conv": config.first_conv, "classifier": config.classifier}
    more |= {"fixed_input_size": config.fixed_input_size}
    folder = save_timm(tmp_path / "model", name, model, "bilinear", **more)
    without = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    x = nn.functional.interpolate(crops, (160, 160), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = without(x.float() / 127.5 - 1)
    assert near(load_embedder(folder).embed(crops), expected, 1e-4)


def test_a_last_layer_that_is_an_embedding_stays(tmp_path, crops):
    """64 numbers without names are taken for an embedding; with names they are classes."""
    model = network("test_resnet", 64)
    folder = save_timm(tmp_path / "embedding", "test_resnet", model, side=112, mean=HALF, std=HALF)
    x = crops.float() / 127.5 - 1
    with torch.no_grad():
        expected = model(x)
    assert near(load_embedder(folder).embed(crops), expected)
    named = save_timm(tmp_path / "classes", "test_resnet", model, side=112, label_names=[str(i) for i in range(64)])
    assert load_embedder(named).embed(crops).shape == (3, model.num_features) != (3, 64)


def test_a_timm_folder_may_have_its_order_declared_beside_it(tmp_path, crops):
    folder = save_timm(tmp_path / "model", "test_resnet", network("test_resnet", 64), mean=HALF, std=HALF)
    rgb = load_embedder(folder).embed(crops[:, [2, 1, 0]])
    (tmp_path / "model.json").write_text('{"colours": "BGR"}')
    assert torch.equal(load_embedder(folder).embed(crops), rgb)


def test_a_folder_that_timm_cannot_load_is_refused_in_a_sentence(tmp_path):
    model = network("test_resnet", 64)

    def refused(folder: Path, error, told: str) -> None:
        with pytest.raises(error) as caught:
            load_embedder(f"local-dir:{folder}")
        assert str(folder) in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)

    refused(tmp_path / "nowhere", FileNotFoundError, "needs config.json and model.safetensors")
    unfinished = save_timm(tmp_path / "unfinished", "test_resnet", model)
    (unfinished / "model.safetensors").unlink()
    refused(unfinished, FileNotFoundError, "needs config.json and model.safetensors")
    refused(save_timm(tmp_path / "unknown", "test_resnett", model), ValueError, "test_resnett")
    refused(save_timm(tmp_path / "other", "test_convnext", model), ValueError, "not a model that timm can load")
    broken = save_timm(tmp_path / "broken", "test_resnet", model)
    (broken / "config.json").write_text("{")
    refused(broken, ValueError, "not a model that timm can load")


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_timm_models_weights_is_refused_and_not_run(tmp_path):
    folder = save_timm(tmp_path / "model", "test_resnet", network("test_resnet", 64))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Payload(tmp_path / "harmed")}, protocol=2))
    with pytest.raises(ValueError, match="model: not a model that timm can load"):
        load_embedder(folder)
    assert not (tmp_path / "harmed").exists()


# --- timm's models by name


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "name, repository",
    [
        ("timm/test_resnet.r160_in1k", "timm/test_resnet.r160_in1k"),
        ("hf-hub:someone/faces", "someone/faces"),
        ("test_resnet", "timm/test_resnet.r160_in1k"),
    ],
)
def test_a_model_that_cannot_be_downloaded_is_told_with_what_to_put_where(offline, name, repository):
    with pytest.raises(FileNotFoundError, match=f"{repository}: can't be had from the hub .*local-dir:<folder>"):
        load_embedder(name)


@pytest.mark.parametrize("name", ["timm/test_resnet.r160_in1k", "test_resnet"])
def test_a_model_in_the_hubs_cache_needs_no_network(offline, crops, name):
    model = network("test_resnet", 64)
    place = offline / "models--timm--test_resnet.r160_in1k"
    save_timm(place / "snapshots" / ("0123abcd" * 5), "test_resnet", model, side=112, mean=HALF, std=HALF)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abcd" * 5)
    embedder = load_embedder(name)
    with torch.no_grad():
        assert near(embedder.embed(crops), model(crops.float() / 127.5 - 1))
    assert embedder.name == "test_resnet.r160_in1k" and embedder.file.name == "model.safetensors"


@pytest.mark.parametrize("name", ["test_resnett", "test_resnet.nonsense", "weights/test_resnet"])
def test_a_name_that_is_none_is_told_in_a_sentence(name):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such model.*Give a run's folder, .*timm/<name>"):
        load_embedder(name)
