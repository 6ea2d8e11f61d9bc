"""Backbones against published counts and insightface's layout, and trained models from every kind of file."""

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from facelib.models import create_model
from facelib.models.pretrained import load_embedder

BLOCKS = {  # in each of the four layers
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}


def same(embeddings: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for float32's rounding, which differs with the order of additions: by a share of each one's length."""
    return bool(((embeddings - expected).norm(dim=1) < 1e-5 * expected.norm(dim=1)).all())


def on_paper(name: str, embedding_size: int = 512):
    """The model without memory for its numbers: enough to count and name them."""
    with torch.device("meta"):
        return create_model(name, embedding_size)


def insightface_layout(blocks, embedding_size: int = 512) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in insightface's checkpoints, as arcface_torch's iresnet.py builds them."""
    layout = {}

    def batch_norm(name, channels):
        layout.update({f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")})
        layout[f"{name}.num_batches_tracked"] = ()

    layout["conv1.weight"] = (64, 3, 3, 3)
    batch_norm("bn1", 64)
    layout["prelu.weight"] = (64,)
    before = 64
    for layer, (count, channels) in enumerate(zip(blocks, (64, 128, 256, 512)), 1):
        for block in range(count):
            name = f"layer{layer}.{block}"
            batch_norm(f"{name}.bn1", before)
            layout[f"{name}.conv1.weight"] = (channels, before, 3, 3)
            batch_norm(f"{name}.bn2", channels)
            layout[f"{name}.prelu.weight"] = (channels,)
            layout[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            batch_norm(f"{name}.bn3", channels)
            if block == 0:
                layout[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                batch_norm(f"{name}.downsample.1", channels)
            before = channels
    batch_norm("bn2", 512)
    layout |= {"fc.weight": (embedding_size, 512 * 7 * 7), "fc.bias": (embedding_size,)}
    batch_norm("features", embedding_size)
    return layout


def random_state(layout: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Numbers as in a trained model: no statistic at its initial 0 or 1, every layer's output of order 1."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in layout.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000)
        elif len(shape) > 1:
            state[key] = noise * (2 / np.prod(shape[1:])) ** 0.5
        elif key.endswith("running_var"):
            state[key] = 0.5 + noise.abs()
        elif "prelu" in key:
            state[key] = 0.25 + 0.1 * noise
        else:
            state[key] = 0.2 * noise + (1 if key.endswith("weight") else 0)
    return state


def iresnet_forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """insightface's forward pass, from the numbers of a checkpoint alone."""

    def batch_norm(name, x):
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    x = F.prelu(batch_norm("bn1", x), state["prelu.weight"])
    for layer in (1, 2, 3, 4):
        for block in range(100):
            name = f"layer{layer}.{block}"
            if f"{name}.conv1.weight" not in state:
                break
            stride = 2 if block == 0 else 1
            y = F.conv2d(batch_norm(f"{name}.bn1", x), state[f"{name}.conv1.weight"], padding=1)
            y = F.prelu(batch_norm(f"{name}.bn2", y), state[f"{name}.prelu.weight"])
            y = batch_norm(f"{name}.bn3", F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1))
            if block == 0:
                shortcut = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2)
                x = batch_norm(f"{name}.downsample.1", shortcut)
            x = x + y
    x = F.linear(batch_norm("bn2", x).flatten(1), state["fc.weight"], state["fc.bias"])
    return batch_norm("features", x)


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 112, 112), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random_state(insightface_layout(BLOCKS["iresnet18"], embedding_size=8))


@pytest.fixture(scope="module")
def expected(state, crops) -> torch.Tensor:
    """The embeddings of the crops by `state`: RGB in [-1, 1]."""
    with torch.no_grad():
        return iresnet_forward(state, (crops.float() - 127.5) / 127.5)


# --- architectures


@pytest.mark.parametrize(
    "name, millions", [("iresnet18", 24.03), ("iresnet34", 34.14), ("iresnet50", 43.59), ("iresnet100", 65.16)]
)
def test_iresnets_have_the_published_numbers_of_parameters(name, millions):
    count = sum(parameter.numel() for parameter in on_paper(name).parameters())
    assert round(count / 1e6, 2) == millions
    if name == "iresnet50":
        assert count == 43_590_848


def test_efficientnet_b3_has_the_published_number_of_parameters_with_its_classifier_exchanged():
    """12,233,232 with 1000 classes (torchvision and timm); its last features are 1536."""
    count = sum(parameter.numel() for parameter in on_paper("efficientnet_b3").parameters())
    assert count == 12_233_232 - (1536 + 1) * 1000 + (1536 + 1) * 512 == 11_483_176


@pytest.mark.parametrize("name", BLOCKS)
def test_iresnets_have_insightfaces_tensors_by_name_and_shape(name):
    tensors = {key: tuple(tensor.shape) for key, tensor in on_paper(name).state_dict().items()}
    assert tensors == insightface_layout(BLOCKS[name])


def test_iresnet18_computes_what_insightfaces_does(state, expected, crops):
    model = create_model("iresnet18", 8).eval()
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        found = model((crops.float() - 127.5) / 127.5)
    assert expected.std() > 0.1  # a network that has died out would agree with anything
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_new_iresnet_embeds_an_untrained_batch_at_unit_variance(crops):
    """The last batch norm's scale is fixed at 1: every embedded coordinate has mean 0, variance 1 over a batch."""
    model = create_model("iresnet18_025", 8).train()
    embeddings = model((crops.float() - 127.5) / 127.5)
    assert embeddings.mean(0).abs().max() < 1e-3
    assert torch.allclose(embeddings.var(0, correction=0), torch.ones(8), atol=0.01)
    assert not model.features.weight.requires_grad and model.features.bias.requires_grad


@pytest.mark.parametrize("name", ["iresnet18_025", "mobilenetv3_small_050", "resnet18", "vit_tiny_patch16_224"])
def test_a_backbone_maps_faces_to_the_asked_size_and_is_trained_throughout(name):
    model = create_model(name, 24)
    embeddings = model(torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)))
    assert embeddings.shape == (2, 24) and embeddings.dtype == torch.float32
    assert create_model(name, 512)(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
    embeddings.pow(2).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "wrong, meant", [("iresnet5O", "iresnet50"), ("efficientnet-b3", "efficientnet_b3"), ("IResnet18", "iresnet18"),
     ("efficientnet_b3.ra2_in1", "efficientnet_b3.ra2_in1k"), ("EFFICIENTNET_B3", "efficientnet_b3")]
)  # fmt: skip
def test_an_unknown_backbone_is_refused_with_near_matches(wrong, meant):
    with pytest.raises(ValueError, match=f"{wrong}.*{meant}"):
        create_model(wrong)


@pytest.mark.parametrize("name", ["test_convnext3", "test_vit", "crossvit_9_240"])
def test_a_timm_model_of_any_input_size_of_its_own_takes_crops(name):
    assert create_model(name, 8).eval()(torch.zeros(2, 3, 112, 112)).shape == (2, 8)


@pytest.mark.parametrize("name", ["coatnet_0_224", "hrnet_w18_small"])
def test_a_timm_model_that_does_not_take_crops_is_refused_by_name_when_it_is_built(name):
    with pytest.raises(ValueError, match=f"{name} can't be built for 112x112 images"):
        create_model(name)


def test_a_name_near_to_nothing_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="iresnet18.*iresnet50.*timm"):
        create_model("???")


# --- PyTorch checkpoints


WRAPS = {
    "plain": lambda state: state,
    "under state_dict": lambda state: {"state_dict": state, "epoch": 20},
    "from DistributedDataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "from arcface_torch's trainer": lambda state: {
        "epoch": 20,
        "state_dict_backbone": state,
        "state_dict_softmax_fc": {},
    },
    "both": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "compiled, in a trainer's module": lambda state: {f"_orig_mod.backbone.{key}": v for key, v in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_checkpoint_embeds_as_its_network_on_rgb_in_minus_1_to_1(tmp_path, state, expected, crops, wrap):
    file = tmp_path / ("backbone.pt" if wrap == "plain" else "backbone.pth")
    torch.save(WRAPS[wrap](state), file)
    embeddings = load_embedder(file).embed(crops)
    file.unlink()
    assert embeddings.shape == (3, 8) and embeddings.dtype == torch.float32
    assert same(embeddings, expected)


@pytest.mark.parametrize("wrap", ["plain", "from DistributedDataParallel"])
def test_a_safetensors_file_embeds_as_its_network_too(tmp_path, state, expected, crops, wrap):
    safetensors.torch.save_file(WRAPS[wrap](state), tmp_path / "backbone.safetensors")
    assert same(load_embedder(tmp_path / "backbone.safetensors").embed(crops), expected)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_state_dict_is_fed_in_the_order_and_range_that_the_file_beside_it_declares(tmp_path, state, crops, suffix):
    file = tmp_path / f"backbone.{suffix}"
    safetensors.torch.save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    (tmp_path / f"{file.name}.json").write_text('{"colours": "BGR", "range": [0, 1]}')
    with torch.no_grad():
        expected = iresnet_forward(state, crops[:, [2, 1, 0]].float() / 255)
    assert same(load_embedder(file).embed(crops), expected)


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    return create_model("iresnet18_025", 4).state_dict()


def test_a_checkpoint_of_quarter_width_embeds_as_its_network(tmp_path, small_state, crops):
    torch.save(small_state, tmp_path / "quarter.pth")
    x = (crops.float() - 127.5) / 127.5
    expected = iresnet_forward(small_state, x)
    assert same(load_embedder(tmp_path / "quarter.pth").embed(crops), expected)


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


WRONG = {
    "another network": lambda state: {"features.0.weight": torch.zeros(3), "classifier.bias": torch.zeros(3)},
    "no tensors": lambda state: {"epoch": 3, "lr": 0.1},
    "a list": lambda state: [torch.zeros(3)],
    "one tensor": lambda state: torch.zeros(3),
    "nothing": lambda state: {},
    "numbered tensors": lambda state: {0: torch.zeros(3), 1: torch.zeros(3)},
    "a number for its first convolution": lambda state: state | {"conv1.weight": torch.tensor(1.0)},
    "a number for its last layer": lambda state: state | {"fc.weight": torch.tensor(1.0)},
    "a missing block": lambda state: {key: value for key, value in state.items() if not key.startswith("layer3.1")},
    "a missing tensor": lambda state: without(state, "layer2.0.bn1.running_mean"),
    "a tensor too many": lambda state: state | {"extra.weight": torch.zeros(3)},
    "another shape": lambda state: state | {"layer1.0.conv1.weight": torch.zeros(16, 16, 5, 5)},
    "no last layer": lambda state: without(state, "fc.weight"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path, small_state, kind):
    torch.save(WRONG[kind](small_state), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth"):
        load_embedder(tmp_path / "other.pth")


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("kind", ["checkpoint", "bare pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, kind):
    harmful, harmed = {"weight": torch.zeros(2), "payload": Payload(tmp_path / "harmed")}, tmp_path / "harmed"
    file = tmp_path / "harmful.pth"
    torch.save(harmful, file) if kind == "checkpoint" else file.write_bytes(pickle.dumps(harmful, protocol=2))
    with pytest.raises(ValueError, match="harmful.pth.*refused"):
        load_embedder(file)
    assert not harmed.exists()
    pickle.loads(pickle.dumps(harmful))
    assert harmed.exists()  # so it would have shown


GARBAGE = {
    "empty": b"",
    "text": b"not a model\n" * 99,
    "zeros": bytes(1000),
    "half a zip archive": b"PK\x03\x04" + bytes(500),
    "a pickle of nothing": b"\x80\x02.",
}


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors", "onnx"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_refused_by_name(tmp_path, suffix, kind):
    (tmp_path / f"garbage.{suffix}").write_bytes(GARBAGE[kind])
    with pytest.raises(ValueError, match=f"garbage.{suffix}"):
        load_embedder(tmp_path / f"garbage.{suffix}")


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, small_state):
    torch.save(small_state, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.pth").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="cut.pth"):
            load_embedder(tmp_path / "cut.pth")


def test_a_missing_source_and_an_unknown_kind_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_embedder(tmp_path / "nowhere.pth")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="model.bin.*onnx"):
        load_embedder(tmp_path / "model.bin")


# --- folders of runs


@pytest.fixture
def run(tmp_path, small_state) -> Path:
    folder = tmp_path / "2024-05-01-arcface"
    folder.mkdir()
    (folder / "parameters.json").write_text(json.dumps({"backbone": "iresnet18_025", "embedding_size": 4, "epochs": 1}))
    safetensors.torch.save_file(small_state, folder / "weights.safetensors")
    return folder


def test_a_run_embeds_with_its_backbone_and_weights(run, small_state, crops):
    model = create_model("iresnet18_025", 4).eval()
    model.load_state_dict(small_state)
    with torch.no_grad():
        expected = model((crops.float() - 127.5) / 127.5)
    for source in (run, str(run)):
        assert same(load_embedder(source).embed(crops), expected)


@pytest.mark.parametrize("missing", ["parameters.json", "weights.safetensors"])
def test_an_unfinished_run_is_refused_with_what_it_lacks(run, missing):
    (run / missing).unlink()
    with pytest.raises(ValueError, match=f"{run.name}.*{missing}"):
        load_embedder(run)


@pytest.mark.parametrize("content", ["", "{", '{"embedding_size": 4}', '{"backbone": "iresnet18_025"}', "[]"])
def test_a_run_with_broken_parameters_is_refused_by_name(run, content):
    (run / "parameters.json").write_text(content)
    with pytest.raises(ValueError, match=run.name):
        load_embedder(run)


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, safetensors.torch.save({"a": torch.zeros(2)})])
def test_a_run_with_other_weights_is_refused_by_name(run, content):
    (run / "weights.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="weights.safetensors"):
        load_embedder(run)


# --- ONNX files


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


def save_onnx(file: Path, batch="N", inside="nothing", shape=(3, 112, 112), listed: bool = False) -> Path:
    """A model that normalises by the steps of `inside`, then takes four filters' products with the whole image.

    `listed` names the weights among the graph's inputs, as ONNX asked for before version 4 of its representation.
    """
    nodes, weights, last = [], [array("filter", FILTER)], "data"
    for operator, number in INSIDE[inside]:
        kind = np.int64 if operator == "Gather" else np.float32
        weights.append(numpy_helper.from_array(np.asarray(number, kind), f"by{operator}"))
        axis = {"axis": 1} if operator == "Gather" else {}
        nodes.append(helper.make_node(operator, [last, f"by{operator}"], [f"after{operator}"], **axis))
        last = f"after{operator}"
    nodes.append(helper.make_node("Conv", [last, "filter"], ["products"]))
    nodes.append(helper.make_node("Flatten", ["products"], ["embedding"]))
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, *shape])]
    if listed:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 4])
    graph = helper.make_graph(nodes, "model", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=3 if listed else 7)
    onnx.save(model, file)
    return file


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
    save_graph(tmp_path / "model.onnx", nodes, "N")
    expected = crops.float().mean((2, 3)) / 255
    assert same(load_embedder(tmp_path / "model.onnx").embed(crops), expected)


def save_graph(file: Path, nodes: list, batch, outputs: tuple = ("N", 3, 1, 1), weights=()) -> None:
    """A model of these nodes from `data`, aligned crops, to `embedding`."""
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 112, 112])
    graph = helper.make_graph(
        nodes, "model", [data], [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, outputs)], weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), file)


@pytest.mark.parametrize("shape", [[1, -1], [1, 3]], ids=["all images in one row", "one image only"])
def test_an_onnx_model_that_takes_one_image_but_says_any_number_is_given_one_at_a_time(tmp_path, crops, shape):
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["embedding"]),
    ]
    weights = [numpy_helper.from_array(np.array(shape, np.int64), "shape")]
    save_graph(tmp_path / "model.onnx", nodes, "N", ("N", "D"), weights)
    expected = (crops.double().mean((2, 3)) - 127.5) / 127.5  # near 0, so that rounding is not small beside it
    assert load_embedder(tmp_path / "model.onnx").embed(crops).numpy() == pytest.approx(expected.numpy(), abs=1e-4)


def test_an_onnx_model_that_makes_no_rows_of_numbers_is_refused_by_name(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["data"], ["embedding"], keepdims=0)]
    save_graph(tmp_path / "number.onnx", nodes, "N", ())
    with pytest.raises(ValueError, match="number.onnx.*row of numbers"):
        load_embedder(tmp_path / "number.onnx")


@pytest.mark.parametrize("inside", ["nothing", "Sub and Mul"])
@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_an_onnx_model_of_fixed_batch_size_embeds_any_number(tmp_path, crops, batch, inside):
    embedder = load_embedder(save_onnx(tmp_path / "model.onnx", batch=batch, inside=inside))
    for count in (1, 2, 3):
        assert embedder.embed(crops[:count]).numpy() == pytest.approx(products(crops[:count], inside), abs=1e-3)


def test_an_onnx_model_of_half_precision_and_open_size_embeds_too(tmp_path, crops):
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),  # (N, 3, 1, 1)
        helper.make_node("Identity", ["mean"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT16, ["N", 3, "height", "width"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT16, ["N", 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.save(model, tmp_path / "half.onnx")
    embeddings = load_embedder(tmp_path / "half.onnx").embed(crops)
    assert embeddings.dtype == torch.float32
    assert embeddings.numpy() == pytest.approx(crops.float().mean((2, 3)).numpy() / 127.5 - 1, abs=2e-3)


@pytest.mark.parametrize("shape", [(3, 224, 224), (112, 112, 3), (1, 112, 112)])
def test_an_onnx_model_of_another_input_is_refused_with_the_shape_found(tmp_path, shape):
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["data"], ["embedding"])],
        "model",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", int(np.prod(shape))])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=f"other.onnx.*{', '.join(map(str, shape))}"):
        load_embedder(tmp_path / "other.onnx")


def test_a_truncated_onnx_model_is_refused_by_name(tmp_path):
    whole = save_onnx(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.onnx"):
        load_embedder(tmp_path / "cut.onnx")


# --- what an embedder takes


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
