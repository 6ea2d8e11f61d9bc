"""What a model is fed as its file declares, told by a model that embeds an image as the mean of each channel."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from facelib.models.pretrained import load_embedder

RED, GREEN, BLUE = 51, 102, 255  # 0.2, 0.4 and 1 of white


def save_model(file: Path, normalises: bool = False) -> Path:
    """An ONNX model that gives the mean of each channel, of x or, if it normalises by itself, of x / 255."""
    nodes = [helper.make_node("Div", ["data", "white"], ["share"])] if normalises else []
    nodes.append(helper.make_node("GlobalAveragePool", ["share" if normalises else "data"], ["embedding"]))
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3, 1, 1])
    white = numpy_helper.from_array(np.float32([255]), "white")
    graph = helper.make_graph(nodes, "means", [data], [embedding], [white] if normalises else [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), file)
    return file


def fed(model: Path) -> list[float]:
    """What the model was fed in each channel for crops of one colour."""
    crops = torch.tensor([RED, GREEN, BLUE], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 112, 112)
    first, second = load_embedder(model).embed(crops).tolist()
    assert first == second
    return first


def declare(model: Path, declaration: object) -> Path:
    text = declaration if isinstance(declaration, str) else json.dumps(declaration)
    model.with_name(model.name + ".json").write_text(text)
    return model


FED = [
    ({}, [-0.6, -0.2, 1]),
    ({"colours": "RGB"}, [-0.6, -0.2, 1]),
    ({"colours": "BGR"}, [1, -0.2, -0.6]),
    ({"range": [0, 255]}, [51, 102, 255]),
    ({"range": [0, 1]}, [0.2, 0.4, 1]),
    ({"range": [-1, 1]}, [-0.6, -0.2, 1]),
    ({"range": [-127.5, 127.5], "colours": "BGR"}, [127.5, -25.5, -76.5]),
    ({"mean": [0.1, 0.2, 0.5], "std": [0.1, 0.2, 0.25]}, [1, 1, 2]),
    ({"mean": [0.5, 0.2, 0.1], "std": [0.25, 0.2, 0.1], "colours": "BGR"}, [2, 1, 1]),
]


@pytest.mark.parametrize("declaration, expected", FED)
def test_a_model_is_fed_in_the_declared_order_and_scale(tmp_path, declaration, expected):
    assert fed(declare(save_model(tmp_path / "means.onnx"), declaration)) == pytest.approx(expected, rel=1e-4)


def test_without_a_declaration_it_is_rgb_in_minus_1_to_1_or_what_the_graph_tells(tmp_path):
    assert fed(save_model(tmp_path / "means.onnx")) == pytest.approx([-0.6, -0.2, 1], rel=1e-4)
    assert fed(save_model(tmp_path / "inside.onnx", normalises=True)) == pytest.approx([0.2, 0.4, 1], rel=1e-4)


def test_a_declared_order_leaves_the_range_that_the_graph_tells_and_a_declared_range_replaces_it(tmp_path):
    model = save_model(tmp_path / "inside.onnx", normalises=True)
    assert fed(declare(model, {"colours": "BGR"})) == pytest.approx([1, 0.4, 0.2], rel=1e-4)
    assert fed(declare(model, {"range": [0, 1]})) == pytest.approx([0.2 / 255, 0.4 / 255, 1 / 255], rel=1e-4)


def test_values_that_stand_for_normalised_pixels_are_reordered_and_rescaled_too(tmp_path):
    embedder = load_embedder(declare(save_model(tmp_path / "means.onnx"), {"colours": "BGR", "range": [0, 255]}))
    values = torch.tensor([-1.0, 0, 2])[None, :, None, None].expand(1, 3, 112, 112)
    assert embedder.embed_values(values).tolist() == [pytest.approx([382.5, 127.5, 0], abs=1e-4)]


WRONG = [
    ("{", "not JSON"),
    ("", "not JSON"),
    ([1], "must declare some of colours, range, mean, std, found [1]"),
    ({"colors": "BGR"}, "must declare some of colours, range, mean, std, found {'colors'"),
    ({"backbone": "resnet18"}, "must declare some of colours, range, mean, std"),
    ({"colours": "bgr"}, 'colours must be "RGB" or "BGR", found \'bgr\''),
    ({"range": [1, -1]}, "range must be two numbers, low and high"),
    ({"range": [0, 1, 2]}, "range must be two numbers"),
    ({"range": [False, True]}, "range must be two numbers"),
    ('{"range": [0, NaN]}', "range must be two numbers"),
    ({"mean": [0.5, 0.5, 0.5]}, "mean and std must be three numbers each"),
    ({"mean": [127.5] * 3, "std": [127.5] * 3}, "in [0, 1], of the value / 255"),
    ({"mean": [0.5] * 3, "std": [0.5, 0.5, 0]}, "std above 0"),
    ({"mean": [0.5] * 3, "std": [0.5] * 3, "range": [0, 1]}, "range declares the scale, and mean and std too. Leave"),
]


@pytest.mark.parametrize("declaration, told", WRONG)
def test_a_wrong_declaration_is_refused_in_a_sentence_with_file_key_and_mend(tmp_path, declaration, told):
    with pytest.raises(ValueError) as caught:
        load_embedder(declare(save_model(tmp_path / "means.onnx"), declaration))
    assert str(caught.value).startswith(f"{tmp_path / 'means.onnx.json'}: ") and told in str(caught.value)
    assert "\n" not in str(caught.value)
