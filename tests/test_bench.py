"""That the bench measures what it says, at a size that takes seconds. Its speeds are not looked at."""

import json

import pytest
import torch

from facelib import bench, data


def test_every_side_loads_every_image_and_the_ratios_are_those_of_the_speeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "BUILD", tmp_path / "bench")
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "BATCH", 6)
    synthetic = bench.synthetic.make_identity_folder
    monkeypatch.setattr(bench.synthetic, "make_identity_folder", lambda folder, **_: synthetic(folder, 4, 5))
    seen = {}

    def counted(batches, count):
        seen.setdefault(count, []).append(torch.cat([torch.as_tensor(images) for images, _ in batches()]))
        return 1000.0 * len(seen[count])

    monkeypatch.setattr(bench, "images_per_second", counted)
    bench.main(tmp_path / "nothing there", ["loading"], tmp_path / "cache")
    found = json.loads((tmp_path / "bench.json").read_text())["loading"]
    assert found["synthetic"] and found["images"] == 20 and "synthetic faces" in capsys.readouterr().out
    assert [len(images) for images in seen[20]] == [20] * 6
    plain, folder, recordio, numbers, pixels, _ = seen[20]
    for images in (plain, folder, recordio, numbers):  # equal work: crops, normalised
        assert images.shape[1:] == (3, 112, 112) and images.dtype == torch.float32 and images.min() >= -1
    assert pixels.dtype == torch.uint8
    assert found["ratios"]["recordio"] == 3.0 and found["ratios"]["pack uint8"] == 5.0
    assert len(data.Pack(tmp_path / "bench" / bench.PACK)) == 20


def test_training_steps_are_taken_in_turns_and_the_shares_are_shares(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "BUILD", tmp_path / "bench")
    monkeypatch.setattr(bench, "ROUNDS", 2)
    monkeypatch.setattr(bench, "BACKBONES", ("iresnet18_025",))
    synthetic = bench.synthetic.make_identity_folder
    monkeypatch.setattr(bench.synthetic, "make_identity_folder", lambda folder, **_: synthetic(folder, 4, 5))
    bench.main(tmp_path / "nothing there", ["training"], tmp_path / "cache")
    (found,) = json.loads((tmp_path / "bench.json").read_text())["training"]["backbones"].values()
    assert found["ratio"] == found["facelib"] / found["plain"] and found["memory_format"] in (
        "channels_last",
        "contiguous",
    )
    assert 0 < found["loading"] < 1 and 0 < found["convolutions"] < 1 and found["arithmetic"] > 0


def test_the_straightforward_head_computes_what_facelibs_does():
    torch.manual_seed(0)
    head, x, labels = bench.ArcFace(16, 30), torch.randn(7, 16), torch.randint(0, 30, (7,))
    assert bench.straightforward(x, head.weight, labels).item() == pytest.approx(head(x, labels).item(), rel=1e-5)


def test_a_heads_seconds_and_bytes_are_measured_in_a_process_of_its_own(capsys):
    bench.head_step("facelib", 2000, batch=64, size=64)
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 0 and found["bytes"] >= 0
