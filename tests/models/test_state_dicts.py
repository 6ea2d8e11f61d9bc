"""State dicts and the folders of runs: what embeds as its network, and what is refused."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from insightface_iresnet import iresnet_forward, same

from facelib.models import create_model
from facelib.models.pretrained import load_embedder

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
