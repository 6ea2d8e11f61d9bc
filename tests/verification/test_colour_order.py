"""The check of a model's colour order, on data whose people differ in red alone, against a count over all pairs."""

import itertools
import json

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from facelib.models import Embedder, create_model
from facelib.models.inputs import Input
from facelib.verification import colour_order
from facelib.verification.colour_order import check, gaps, warn
from facelib.verification.protocol import Protocol
from facelib.verification.verify import verify


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    embeddings = np.random.default_rng(seed).normal(size=(n, d))
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def test_the_gap_is_that_of_all_pairs_and_of_all_without_a_person():
    person = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    embeddings = unit(10, 4)

    def count(left_out: int | None) -> float:
        genuine, impostor = [], []
        for a, b in itertools.combinations(range(10), 2):
            if left_out not in (person[a], person[b]):
                (genuine if person[a] == person[b] else impostor).append(float(embeddings[a] @ embeddings[b]))
        return (np.mean(genuine) - np.mean(impostor)) / np.std(impostor)

    assert gaps(embeddings, person) == pytest.approx([count(left_out) for left_out in (None, 0, 1, 2, 3)])


class Pictures(torch.utils.data.Dataset):
    """Two pictures of each person: a pattern of that person's in red, of each picture's own in green and blue."""

    def __init__(self, people: int, grey: bool = False):
        rng = np.random.default_rng(0)
        self.images = [f"p{k:02}/p{k:02}_000{i}.png" for k in range(people) for i in (1, 2)]
        self.first, self.second = np.arange(0, 2 * people, 2), np.arange(1, 2 * people, 2)
        patterns = rng.integers(0, 256, (people, 7, 7))
        self.pictures = []
        for i in range(2 * people):
            channels = [patterns[i // 2], *rng.integers(0, 256, (2, 7, 7))]
            channels[0] = np.clip(channels[0] + rng.normal(0, 60, (7, 7)), 0, 255)
            picture = np.stack([channels[0]] * 3 if grey else channels).astype(np.uint8)
            self.pictures.append(torch.from_numpy(picture).repeat_interleave(16, 1).repeat_interleave(16, 2))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int):
        return self.pictures[i], i


class Channel(Embedder):
    """Embeds the pattern of one channel of what it is fed."""

    def __init__(self, channel: int, colours: str = "RGB"):
        super().__init__("channel", takes=Input(colours))
        self.channel, self.declaration = channel, "channel.onnx.json"

    def _embed(self, values):
        return values[:, self.channel, ::16, ::16].flatten(1)


def all_genuine(pictures: Pictures) -> np.ndarray:
    return np.ones(len(pictures.first), bool)


@pytest.mark.parametrize(
    "channel, declared, better", [(0, "RGB", "RGB"), (2, "RGB", "BGR"), (2, "BGR", "BGR"), (0, "BGR", "RGB")]
)
def test_the_order_that_parts_people_is_found_and_a_wrong_declaration_told(channel, declared, better, capsys):
    """A model that reads its first channel for red takes RGB, one that reads its third takes BGR."""
    pictures, embedder = Pictures(40), Channel(channel, declared)
    found = check(embedder, pictures, all_genuine(pictures))
    assert found["declared"] == declared and found["better"] == better
    assert found["images"] == 80 and found["people"] == 40
    assert (found["gap"] > found["swapped_gap"] + 3 * found["standard_error"]) == (better == declared)
    assert check(embedder, pictures, all_genuine(pictures)) == found
    capsys.readouterr()
    warn(embedder, found)
    told = capsys.readouterr().out
    if better == declared:
        assert told == ""
    else:
        assert f"channel looks as if it takes {better}, not {declared}" in told
        assert f'Declare {{"colours": "{better}"}} in channel.onnx.json.' in told and told.count("\n") == 1


def test_grey_pictures_and_channels_that_tell_nothing_do_not_tell_an_order(capsys):
    grey, coloured = Pictures(40, grey=True), Pictures(40)
    for pictures, channel in ((grey, 0), (coloured, 1)):
        found = check(Channel(channel), pictures, all_genuine(pictures))
        assert found["better"] == "can't be told" and found["gap"] == found["swapped_gap"]
        warn(Channel(channel), found)
    assert capsys.readouterr().out == ""


def test_a_difference_between_orders_that_hardly_part_people_tells_nothing(monkeypatch):
    """The order is clear, but the gap not: as of a network that was never trained on faces."""
    monkeypatch.setattr(colour_order, "LEAST_GAP", 100)
    assert check(Channel(2), Pictures(40), np.ones(40, bool))["better"] == "can't be told"


def test_few_people_and_a_model_that_sees_nothing_do_not_tell_an_order():
    assert check(Channel(2), Pictures(19), np.ones(19, bool)) == {"declared": "RGB", "better": "can't be told"}

    class Blind(Channel):
        def _embed(self, values):
            return torch.full((len(values), 5), float(self.channel))

    for number in (0, 1):
        assert check(Blind(number), Pictures(40), np.ones(40, bool))["better"] == "can't be told"


def test_it_looks_at_the_first_genuine_pairs_and_no_more_than_150():
    pictures, genuine = Pictures(200), np.arange(200) % 2 == 1
    assert check(Channel(0), pictures, genuine)["images"] == 200
    assert check(Channel(0), pictures, all_genuine(pictures))["images"] == 300


# --- in a verification


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """LFW's layout with the pictures of 40 people, and a model whose third channel should be red: it takes BGR."""
    folder, pictures = tmp_path_factory.mktemp("colours"), Pictures(40)
    for name, picture in zip(pictures.images, pictures.pictures):
        (folder / "lfw" / "lfw" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / "lfw" / "lfw" / name)
    lines = ["2\t20"]
    for fold in (range(0, 20), range(20, 40)):
        lines += [f"p{k:02}\t1\t2" for k in fold]
        lines += [f"p{k:02}\t1\tp{(k + 1) % 40:02}\t2" for k in fold]
    (folder / "lfw" / "pairs.txt").write_text("\n".join(lines) + "\n")
    kernel = np.zeros((1, 3, 1, 1), np.float32)
    kernel[0, 2] = 1
    nodes = [helper.make_node("Conv", ["data", "kernel"], ["red"], strides=[16, 16])]
    nodes.append(helper.make_node("Flatten", ["red"], ["embedding"]))
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 49])
    graph = helper.make_graph(nodes, "red", [data], [embedding], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), folder / "red.onnx")
    return folder, pictures


def cosines(pictures: Pictures, channel: int) -> list[float]:
    """Of the pairs in `place`, computed from the pixels."""
    x = torch.stack(pictures.pictures)[:, channel, ::16, ::16].flatten(1).double().numpy() - 127.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    pairs = []
    for fold in (range(0, 20), range(20, 40)):
        pairs += [(2 * k, 2 * k + 1) for k in fold] + [(2 * k, 2 * ((k + 1) % 40) + 1) for k in fold]
    return [float(x[a] @ x[b]) for a, b in pairs]


def verified(folder, name: str, model) -> tuple[dict, np.ndarray]:
    verify(str(model), str(folder / "lfw"), str(folder / name), Protocol(crop="centre"))
    with np.load(folder / name / "scores.npz") as arrays:
        return json.loads((folder / name / "metrics.json").read_text()), arrays["score"]


def test_a_verification_warns_of_a_wrong_order_and_its_scores_stay_those_of_the_declared_one(place, capsys):
    folder, pictures = place
    metrics, scores = verified(folder, "undeclared", folder / "red.onnx")
    assert metrics["colour_order"]["declared"] == "RGB" and metrics["colour_order"]["better"] == "BGR"
    assert scores == pytest.approx(cosines(pictures, 2), abs=1e-5)
    told = capsys.readouterr().out
    assert "red looks as if it takes BGR, not RGB: " in told and f"in {folder / 'red.onnx'}.json." in told
    (folder / "red.onnx.json").write_text('{"colours": "BGR"}')
    mended, scores = verified(folder, "declared", folder / "red.onnx")
    assert mended["colour_order"]["declared"] == mended["colour_order"]["better"] == "BGR"
    assert scores == pytest.approx(cosines(pictures, 0), abs=1e-5)
    assert mended["auc"] > metrics["auc"] + 0.2
    assert capsys.readouterr().out == ""


def test_a_run_of_facelibs_own_is_not_asked(place):
    folder, _ = place
    run = folder / "run"
    run.mkdir()
    (run / "parameters.json").write_text(json.dumps({"backbone": "iresnet18_025", "embedding_size": 8}))
    safetensors.torch.save_file(create_model("iresnet18_025", 8).state_dict(), run / "weights.safetensors")
    assert "colour_order" not in verified(folder, "own", run)[0]
