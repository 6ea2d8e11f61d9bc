"""That the bench measures what it says, at a size that takes seconds. Its speeds are not looked at."""

import json

import pytest
import torch

from benchmarks import __main__, training
from benchmarks import head as bench_head
from benchmarks import loading as bench_loading
from facelib import data
from facelib.losses import arcface
from facelib.synthetic import sets


@pytest.fixture
def faces(tmp_path):
    sets.make_identity_folder(tmp_path / "faces", identities=4, images_per_identity=5)
    return tmp_path / "faces"


def test_every_side_loads_every_image_and_the_ratios_are_those_of_the_speeds(tmp_path, faces, monkeypatch):
    monkeypatch.setattr(bench_loading, "BATCH", 6)
    seen = []

    def counted(batches, count):
        seen.append(torch.cat([torch.as_tensor(images) for images, _ in batches()]))
        return 1000.0 * len(seen)

    monkeypatch.setattr(bench_loading, "images_per_second", counted)
    found = bench_loading.measure(faces, tmp_path / "faces.pack", tmp_path / "cache", rounds=1)
    assert [len(images) for images in seen] == [20] * 6
    plain, folder, recordio, numbers, pixels, _ = seen
    for images in (plain, folder, recordio, numbers):  # equal work: crops, normalised
        assert images.shape[1:] == (3, 112, 112) and images.dtype == torch.float32 and images.min() >= -1
    assert pixels.dtype == torch.uint8
    assert found["ratios"]["recordio"] == 3.0 and found["ratios"]["pack uint8"] == 5.0
    assert len(data.Pack(tmp_path / "faces.pack")) == 20


def test_training_steps_are_taken_in_turns_and_the_shares_are_shares(tmp_path, faces):
    found = training.measure(faces, tmp_path / "faces.pack", tmp_path / "cache", 2, ["iresnet18_025"])
    (of,) = found["backbones"].values()
    assert of["ratio"] == of["facelib"] / of["plain"] and of["memory_format"] in ("channels_last", "contiguous")
    assert 0 < of["loading"] < 1 and 0 < of["convolutions"] < 1 and of["arithmetic"] > 0
    assert "iresnet18_025" in training.table(found)


def test_the_straightforward_head_computes_what_facelibs_does():
    torch.manual_seed(0)
    head, x, labels = arcface.ArcFace(16, 30), torch.randn(7, 16), torch.randint(0, 30, (7,))
    straightforward = bench_head.straightforward(x, head.weight, labels)
    assert straightforward.item() == pytest.approx(head(x, labels).item(), rel=1e-5)


def test_a_heads_seconds_and_bytes_are_measured_in_a_process_of_its_own(capsys):
    bench_head.time_steps("facelib", 2000, rounds=2, batch=64, size=64)
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 0 and found["bytes"] >= 0


def test_parts_measured_before_are_kept_and_without_data_the_faces_are_called_synthetic(tmp_path, monkeypatch, capsys):
    (tmp_path / "bench.json").write_text('{"loading": "as before"}')
    make = sets.make_identity_folder
    monkeypatch.setattr(sets, "make_identity_folder", lambda folder, **_: make(folder, 4, 5))
    monkeypatch.setattr(bench_head, "measure", lambda rounds: {"found": rounds})
    monkeypatch.setattr(bench_head, "table", lambda found: "a table")
    __main__.main(tmp_path / "nothing there", ["head"], tmp_path / "cache", tmp_path / "bench")
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["loading"] == "as before" and kept["head"]["found"] == __main__.ROUNDS
    assert kept["head"]["synthetic"] and kept["head"]["images"] == 20
    assert "20 images of synthetic faces" in capsys.readouterr().out
