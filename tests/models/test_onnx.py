"""ONNX models against numpy: the range that each is fed, its batch size, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from insightface_iresnet import same
from onnx import TensorProto, helper, numpy_helper

from facelib.models.pretrained import load_embedder

FILTER = np.random.default_rng(0).normal(size=(4, 3, 112, 112)).astype(np.float32) / 100


def array(name: str, value) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


INSIDE = {
    "nothing": [],
    "colours swapped, Sub and Mul": [("Gather", [2, 1, 0]), ("Sub", 127.5), ("Mul", 1 / 128)],
    "Sub and Mul": [("Sub", 127.5), ("Mul", 1 / 128)],  # insightface's models that came from MXNet
    "Div": [("Div", 255)],
    "Mul and Add": [("Mul", 1 / 127.5), ("Add", -1)],
    "Sub and Div of a share": [("Sub", 0.5), ("Div", 0.5)],  # torchvision's ToTensor divided by 255 before
    "Mul and Sub of a share": [("Mul", 2), ("Sub", 1)],
}


def save_graph(
    file: Path, nodes: list, weights=(), takes=("N", 3, 112, 112), gives=None, half=False, listed=False
) -> Path:
    """A model of these nodes from `data` to `embedding`, float32 or float16.

    `listed` names the weights among the graph's inputs, as ONNX asked for before version 4 of its representation.
    """
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("data", kind, takes)]
    if listed:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights]
    outputs = [helper.make_tensor_value_info("embedding", kind, gives)]
    graph = helper.make_graph(nodes, "model", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=3 if listed else 7)
    onnx.save(model, file)
    return file


def save_onnx(file: Path, batch="N", inside="nothing", listed: bool = False) -> Path:
    """A model that normalises by the steps of `inside`, then takes four filters' products with the whole image."""
    nodes, weights, last = [], [array("filter", FILTER)], "data"
    for operator, number in INSIDE[inside]:
        kind = np.int64 if operator == "Gather" else np.float32
        weights.append(numpy_helper.from_array(np.asarray(number, kind), f"by{operator}"))
        axis = {"axis": 1} if operator == "Gather" else {}
        nodes.append(helper.make_node(operator, [last, f"by{operator}"], [f"after{operator}"], **axis))
        last = f"after{operator}"
    nodes.append(helper.make_node("Conv", [last, "filter"], ["products"]))
    nodes.append(helper.make_node("Flatten", ["products"], ["embedding"]))
    return save_graph(file, nodes, weights, (batch, 3, 112, 112), listed=listed)


def products(crops: torch.Tensor, inside: str) -> np.ndarray:
    """What that model should make of the crops, whatever range of pixel values its first steps ask for."""
    x = crops.numpy().astype(np.float64)
    x = {
        "nothing": (x - 127.5) / 127.5,
        "Sub and Mul": (x - 127.5) / 128,
        "colours swapped, Sub and Mul": (x[:, ::-1] - 127.5) / 128,
        "Div": x / 255,
        "Mul and Add": x / 127.5 - 1,
        "Sub and Div of a share": (x / 255 - 0.5) / 0.5,
        "Mul and Sub of a share": 2 * (x / 255) - 1,
    }[inside]
    return np.einsum("nchw,dchw->nd", x, FILTER.astype(np.float64))


@pytest.mark.parametrize("listed", [False, True], ids=["", "weights among the inputs"])
@pytest.mark.parametrize("inside", INSIDE)
def test_an_onnx_model_is_fed_the_range_that_it_takes(tmp_path, crops, inside, listed):
    embedder = load_embedder(save_onnx(tmp_path / "model.onnx", inside=inside, listed=listed))
    embeddings = embedder.embed(crops)
    assert embeddings.dtype == torch.float32
    assert embeddings.numpy() == pytest.approx(products(crops, inside), abs=1e-3)


@pytest.mark.parametrize("kind", ["value_float", "value_floats", "value", "cast"])
def test_a_constant_within_an_onnx_model_tells_its_range_however_it_is_written(tmp_path, crops, kind):
    """x / 255 by a Constant node of each kind that ONNX has: the model is fed 0 to 255."""
    number = {"value_float": 255.0, "value_floats": [255.0], "value": array("", 255)}.get(kind, array("", 255))
    nodes = [helper.make_node("Constant", [], ["number"], **{kind if kind != "cast" else "value": number})]
    if kind == "cast":
        nodes.append(helper.make_node("Cast", ["number"], ["number as float"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Div", ["data", nodes[-1].output[0]], ["share"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["share"], ["embedding"]))
    save_graph(tmp_path / "model.onnx", nodes)
    expected = crops.float().mean((2, 3)) / 255
    assert same(load_embedder(tmp_path / "model.onnx").embed(crops), expected)


@pytest.mark.parametrize("shape", [[1, -1], [1, 3]], ids=["all images in one row", "one image only"])
def test_an_onnx_model_that_takes_one_image_but_says_any_number_is_given_one_at_a_time(tmp_path, crops, shape):
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["embedding"]),
    ]
    weights = [numpy_helper.from_array(np.array(shape, np.int64), "shape")]
    save_graph(tmp_path / "model.onnx", nodes, weights)
    expected = (crops.double().mean((2, 3)) - 127.5) / 127.5  # near 0, so that rounding is not small beside it
    assert load_embedder(tmp_path / "model.onnx").embed(crops).numpy() == pytest.approx(expected.numpy(), abs=1e-4)


def test_an_onnx_model_that_makes_no_rows_of_numbers_is_refused_by_name(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["data"], ["embedding"], keepdims=0)]
    save_graph(tmp_path / "number.onnx", nodes, gives=())
    with pytest.raises(ValueError, match="number.onnx.*row of numbers"):
        load_embedder(tmp_path / "number.onnx")


@pytest.mark.parametrize("inside", ["nothing", "Sub and Mul"])
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_an_onnx_model_of_fixed_batch_size_embeds_any_number(tmp_path, crops, batch, inside):
    embedder = load_embedder(save_onnx(tmp_path / "model.onnx", batch=batch, inside=inside))
    for count in (1, 2, 3):
        assert embedder.embed(crops[:count]).numpy() == pytest.approx(products(crops[:count], inside), abs=1e-3)


def test_an_onnx_model_of_half_precision_and_open_size_embeds_too(tmp_path, crops):
    nodes = [helper.make_node("GlobalAveragePool", ["data"], ["embedding"])]  # (N, 3, 1, 1)
    save_graph(tmp_path / "half.onnx", nodes, takes=("N", 3, "height", "width"), half=True)
    embeddings = load_embedder(tmp_path / "half.onnx").embed(crops)
    assert embeddings.dtype == torch.float32
    assert embeddings.numpy() == pytest.approx(crops.float().mean((2, 3)).numpy() / 127.5 - 1, abs=2e-3)


@pytest.mark.parametrize("shape", [(3, 224, 224), (112, 112, 3), (1, 112, 112)])
def test_an_onnx_model_of_another_input_is_refused_with_the_shape_found(tmp_path, shape):
    save_graph(tmp_path / "other.onnx", [helper.make_node("Flatten", ["data"], ["embedding"])], takes=("N", *shape))
    with pytest.raises(ValueError, match=f"other.onnx.*{', '.join(map(str, shape))}"):
        load_embedder(tmp_path / "other.onnx")


def test_a_truncated_onnx_model_is_refused_by_name(tmp_path):
    whole = save_onnx(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.onnx"):
        load_embedder(tmp_path / "cut.onnx")


@pytest.fixture(params=["onnx", "onnx of fixed batch size", "run"])
def embedder(request, tmp_path):
    if request.param == "run":
        return load_embedder(request.getfixturevalue("run"))
    return load_embedder(save_onnx(tmp_path / "model.onnx", batch=2 if "fixed" in request.param else "N"))


def test_images_are_taken_as_arrays_too_and_embedded_one_by_one_as_together(embedder, crops):
    together = embedder.embed(crops)
    assert torch.equal(embedder.embed(crops.numpy()), together)
    one_by_one = torch.cat([embedder.embed(crop[None]) for crop in crops])
    assert (one_by_one - together).abs().max() < 1e-5 * together.abs().max()


def test_no_images_have_no_embeddings(embedder, crops):
    assert embedder.embed(crops[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 3, 112, 112),
        np.zeros((1, 3, 112, 112)),
        torch.zeros(3, 112, 112, dtype=torch.uint8),
        torch.zeros(1, 112, 112, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 112, 96, dtype=torch.uint8),
        torch.zeros(1, 1, 112, 112, dtype=torch.uint8),
    ],
    ids=["float", "float64 array", "one image", "channels last", "not square", "grey"],
)
def test_other_than_aligned_uint8_crops_are_refused_with_what_was_found(embedder, wrong):
    shape = r"\({}\).*{}".format(", ".join(map(str, wrong.shape)), str(wrong.dtype).removeprefix("torch."))
    with pytest.raises(ValueError, match=f"112.*uint8.*{shape}"):
        embedder.embed(wrong)
