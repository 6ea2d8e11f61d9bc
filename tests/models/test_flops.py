"""The cost of a backbone, against published figures and the textbook's formula."""

import json

import numpy as np
import onnx
import pytest

from facelib.models import flops


def test_resnet50_costs_what_the_published_table_says():
    cost = flops.count("iresnet50")
    assert cost["parameters"] / 1e6 == pytest.approx(43.59, abs=0.005)
    assert cost["flops"] / 1e9 == pytest.approx(6.33, abs=0.005)


def test_efficientnet_b3_costs_what_the_published_table_says():
    cost = flops.count("efficientnet_b3")
    assert cost["parameters"] / 1e6 == pytest.approx(11.483, abs=0.0005)
    assert cost["flops"] / 1e9 == pytest.approx(0.275, abs=0.0005)


def test_flops_grow_with_the_area_of_the_image():
    # ResNet-18's strides divide both sizes, so that every convolution has four times the pixels; only the head has not.
    small, large = (flops.count("resnet18", size=size)["flops"] for size in (128, 256))
    assert large / small == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("name, size", [("iresnet18_025", 96), ("vit_tiny_patch16_224", 224)])
def test_a_model_whose_layers_depend_on_the_image_size_is_counted_at_any(name, size):
    assert flops.count(name, size=size)["flops"] > 0


def test_an_image_size_that_the_model_does_not_take_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="vit_tiny_patch16_224.*8x8"):
        flops.count("vit_tiny_patch16_224", size=8)


@pytest.mark.parametrize("name", ["iresnet18_025", "efficientnet_b0"])
def test_fvcore_counts_the_textbooks_multiply_adds_and_batch_norm_on_top(name):
    by_hand, counted = flops.convolutions_and_linear(name), flops.count(name)["flops"]
    assert by_hand < counted < 1.06 * by_hand


def test_activations_are_what_convolutions_and_linear_layers_put_out():
    # iresnet18_025, by hand: stem, then per stage two blocks of two 3x3 convolutions and one 1x1, then the embedding.
    stem = 16 * 112 * 112
    stages = sum(
        c * (4 * s * s) + c * s * s + 2 * c * s * s + c * s * s  # conv1 before the stride, conv2, second block, 1x1
        for c, s in ((16, 56), (32, 28), (64, 14), (128, 7))
    )
    assert flops.count("iresnet18_025")["activations"] == stem + stages + 512


@pytest.mark.parametrize("layout", flops.LAYOUTS.values())
def test_speed_is_a_positive_number_of_images_a_second(layout):
    assert flops.speed("iresnet18_025", training=True, layout=layout, batch_size=2, repeats=1) > 0


@pytest.fixture
def onnx_file(tmp_path):
    """A 3x3 convolution of stride 2 from 3 to 8 channels, batch norm, and a linear layer to 5 numbers."""
    make = onnx.helper
    shapes = {"kernel": (8, 3, 3, 3), "scale": (8,), "bias": (8,), "mean": (8,), "variance": (8,), "linear": (8, 5)}
    constants = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [
        make.make_node("Conv", ["data", "kernel"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        make.make_node("BatchNormalization", ["a", "scale", "bias", "mean", "variance"], ["b"]),
        make.make_node("GlobalAveragePool", ["b"], ["c"]),
        make.make_node("Flatten", ["c"], ["d"]),
        make.make_node("Gemm", ["d", "linear"], ["embedding"]),
    ]
    data = make.make_tensor_value_info("data", onnx.TensorProto.FLOAT, ["N", 3, 112, 112])
    out = make.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["N", 5])
    graph = make.make_graph(nodes, "g", [data], [out], constants)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_an_onnx_file_is_counted_by_the_textbook(onnx_file):
    """9 * 3 * 8 multiply-adds at 56 * 56 pixels, then 8 * 5; the batch norm learns 8 scales and 8 biases."""
    counted = flops.count_onnx(onnx_file)
    assert counted == {"parameters": 9 * 3 * 8 + 2 * 8 + 8 * 5, "flops": 9 * 3 * 8 * 56 * 56 + 8 * 5}


def test_a_released_model_is_measured_beside_the_backbones(onnx_file):
    found = flops.measure_released(str(onnx_file), batch_size=2)
    assert found["backbone"] == "model" and found["inference_speed"]["as released"] > 0
    assert found["latency"]["as released"] > 0


def test_what_was_measured_is_a_result_with_a_column_for_each_model(tmp_path, monkeypatch, onnx_file):
    monkeypatch.setattr(flops, "speed", lambda *_, **__: 4.0)
    metrics = flops.measure("iresnet18_025", "iresnet18_025", str(tmp_path / "cost"), released=str(onnx_file))
    assert [*metrics] == ["heavy", "light", "released"] and json.loads((tmp_path / "cost/metrics.json").read_text())
    assert metrics["light"]["training_speed"] == {"contiguous": 4.0, "channels last": 4.0}
    assert metrics["light"]["latency"]["contiguous"] == 0.25
