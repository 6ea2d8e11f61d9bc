"""The kit for a GPU, at toy size on the CPU: what it packs, what it leaves, and what a kill or too little time does."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import bench as bench_
from benchmarks.gpu import faces, fast, grid, kit
from benchmarks.gpu.__main__ import read_kit
from benchmarks.gpu.bench import Bench
from facelib import ROOT, data, profiles, synthetic
from facelib.models import create_model
from facelib.results import load_results

PROFILE = {
    "description": "toy",
    "synthetic": False,
    "train_faces": "faces",
    "lfw": "lfw",
    "released": "weights/*",
    "heavy": "iresnet18_025",
    "light": "mobilenetv3_small_050",
    "ratios": [0.5, 1.0],
    "train": {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3},
    "recipes": {"light": {"warmup": 0.1}},
    "verify": {"flip": True},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Path, dict]:
    """A kit of a hundred synthetic faces, and its plan."""
    folder = tmp_path_factory.mktemp("kit")
    synthetic.make_identity_folder(folder / "faces", identities=10, images_per_identity=10)
    synthetic.make_lfw(
        folder / "lfw", identities=12, images_per_identity=3, pairs_per_fold=3, folds=3, first_identity=99
    )
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    torch.save(create_model("iresnet18_025").state_dict(), folder / "weights" / "model.pth")
    (folder / "weights" / "model.pth.json").write_text('{"backbone": "iresnet18_025"}')
    plan = profiles.plan("toy", PROFILE, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "MOVES", 1.0)  # an untrained model's accuracy on 18 pairs moves by chance
        kit.write_kit(folder / "kit", plan, kit.grid(plan, [*plan["runs"]]))
    return folder / "kit", plan


def command(toy: Path, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", str(toy), str(out), "--device", "cpu", *words]


def run(toy: Path, out: Path, *words: str) -> str:
    done = subprocess.run(command(toy, out, *words), cwd=toy / "code", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs_in(out: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(out / "runs-1.zip") as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_pieces_of_a_recordio_are_cut_between_records_and_join_to_the_same_bytes(tmp_path, toy, monkeypatch):
    source = toy[0] / "faces-1"
    monkeypatch.setattr(kit, "PIECE", 10 * 2**20 + 60_000)
    kit.write_faces(source, tmp_path)
    pieces = sorted(tmp_path.iterdir())
    assert len(pieces) > 1 and all((piece / "train.rec").stat().st_size < 120_000 for piece in pieces)
    for piece in pieces[1:]:
        assert (piece / "train.rec").read_bytes().startswith(b"\x0a\x23\xd7\xce")  # dmlc's magic number
    faces.join(tmp_path, tmp_path / "joined")
    for name in ("train.rec", "train.idx"):
        assert (tmp_path / "joined" / name).read_bytes() == (source / name).read_bytes()


def test_the_crops_are_those_that_a_verification_sees_but_for_jpeg(toy):
    folder, plan = toy
    stored = faces.LfwCrops(folder / "lfw")
    images, pairs = kit.verification.find_pairs(plan["lfw"])
    crops = kit.verification.find_crops(images, pairs, kit.Protocol(), 0, "", "cpu")
    assert stored.images == crops.images and stored.pairs.first == pairs.first
    assert stored.first.tolist() == crops.first.tolist() and stored.second.tolist() == crops.second.tolist()
    assert (stored.pixels[0].float() - crops[0][0].float()).abs().mean() < 2


def test_the_packages_that_the_machine_may_lack_are_listed_as_they_are_locked(toy):
    listed = (toy[0] / "code" / "wheels.txt").read_text().splitlines()
    locked = [line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    assert len(listed) == 6 and "simplejpeg" in [line.split("==")[0] for line in listed] and {*listed} <= {*locked}


def test_faces_on_the_device_come_in_the_loaders_batches(toy):
    there = faces.TrainingFaces(toy[0] / "faces-1", "cpu")
    loader = data.Loader(data.Share(there, 0.5), 16, shuffle=True, seed=3)
    records = data.Loader(data.Share(data.RecordIO(toy[0] / "faces-1"), 0.5), 16, shuffle=True, seed=3)
    for (images, labels), (truth, numbers) in zip(faces.OnDevice(loader), records, strict=True):
        assert torch.equal(images, truth) and torch.equal(labels, numbers)


def test_runs_that_are_finished_are_left_out():
    plan = profiles.plan("toy", PROFILE, Path("nowhere"))
    left = [name for name in plan["runs"] if "mobilenetv3_small_050-r1" in name]
    assert [*kit.grid(plan, left[:1])] == ["train/mobilenetv3_small_050-r1"] + [
        f"verify/mobilenetv3_small_050-r1-{light}" for light in ("normal", "low")
    ]
    assert kit.grid(plan, []) == {}


def test_a_piece_that_is_too_large_and_a_jpeg_that_moves_the_accuracy_are_refused(tmp_path, toy, monkeypatch):
    plan = toy[1]
    monkeypatch.setattr(kit, "PIECE", 1000)
    monkeypatch.setattr(kit, "MOVES", 1.0)
    with pytest.raises(ValueError, match="/kit/code: 0.[0-9] MiB, a piece may have 0"):
        kit.write_kit(tmp_path / "kit", plan, {})
    monkeypatch.setattr(kit, "MOVES", 0.0)
    with pytest.raises(ValueError, match="its JPEG moves the released model's accuracy by 0.0% or more"):
        kit.write_lfw(Path(plan["lfw"]), plan["released"], tmp_path / "lfw")
    assert not (tmp_path / "kit").exists()


def test_a_missing_and_a_damaged_piece_are_told_by_name_before_anything_runs(tmp_path, toy):
    for name, harm in {"missing": lambda file: file.unlink(), "damaged": lambda file: file.write_bytes(b"x")}.items():
        shutil.copytree(toy[0], tmp_path / name)
        harm(tmp_path / name / "lfw" / "pairs.txt")
        done = subprocess.run(
            command(tmp_path / name, tmp_path / "out"), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and f"lfw/pairs.txt: {name}" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_right_is_told_with_its_error_and_its_bound(tmp_path, toy):
    said = run(toy[0], tmp_path, "--parts", "right", "--minutes", "4")
    found = json.loads((tmp_path / "right.json").read_text())
    assert found.pop("environment")["device"] == "cpu"
    assert all(check.get("right") for check in found.values()), found
    assert {"the released model", "killed and continued", "two processes", "Partial FC: loss and gradients"} <= {*found}
    assert all(f"right: {name}: error" in said for name in found)


@pytest.fixture
def bench(toy, tmp_path) -> Bench:
    (tmp_path / "work").mkdir()
    made = Bench(toy[0], read_kit(toy[0]), tmp_path / "out", tmp_path / "work", "cpu")
    made.until = time.monotonic() + 600
    return made


def test_every_kind_of_speed_is_measured(bench, monkeypatch):
    monkeypatch.setattr(fast, "SECONDS", 0.1)
    measurements = fast.measurements(bench)
    kinds = [
        "bf16, channels_last",
        "plain",
        "loss of 1000 identities, plain",
        "loss of 1000 identities",
        "RecordIO",
        "pack",
    ]
    for kind in kinds:
        name = next(name for name in measurements if name.endswith(kind))
        bench.measure("fast", name, *measurements[name])
    found = json.loads((bench.out / "fast.json").read_text())
    assert found.pop("environment")["commit"] == bench.about["commit"]
    assert len(found) == len(kinds) and all(one["images_per_second"] > 0 for one in found.values()), found


def test_the_formats_taken_are_those_in_which_the_run_is_through_first():
    """1,000 images: at 100 a second 10 s; at 1,000 a second 1 s and two compilations of 4 s; of 5 s they do not pay."""
    eager = {
        "of": {"backbone": "a", "batch_size": 8, "precision": "bf16", "memory_format": "contiguous", "compile": False}
    }
    eager["images_per_second"] = 100.0
    compiled = {"of": eager["of"] | {"compile": True}, "images_per_second": 1000.0, "seconds_to_compile": 4.0}
    other = {"of": eager["of"] | {"batch_size": 16}, "images_per_second": 1e6}
    formats, seconds = grid.soonest({"1": eager, "2": compiled, "3": other, "4": {"failed": "why"}}, "a", 8, 1000)
    assert formats == {"precision": "bf16", "memory_format": "contiguous", "compile": True} and seconds == 9.0
    assert grid.soonest({"1": eager, "2": compiled | {"seconds_to_compile": 5.0}}, "a", 8, 1000)[0]["compile"] is False
    assert grid.soonest({}, "a", 8, 1000) == ({}, 0.0)


def test_what_fails_and_what_there_is_no_time_for_is_written_down_and_the_rest_goes_on(bench):
    bench.measure("right", "broken", 0, lambda bench: 1 / 0)
    bench.measure("right", "long", 601, lambda bench: {"never": "called"})
    bench.measure("right", "good", 0, lambda bench: {"error": 0.0})
    found = json.loads((bench.out / "right.json").read_text())
    del found["environment"]
    broken = {"failed": "ZeroDivisionError: division by zero"}
    assert found == {"broken": broken, "long": {"left out": "no time was left"}, "good": {"error": 0.0}}


def test_a_run_that_is_not_through_in_time_is_stopped_and_tells_its_step(bench):
    bench.until = time.monotonic() + grid.VERIFYING + 1
    (_, call), *_ = grid.runs(bench, {"epochs": 5000}, {"epochs": 5000}).values()
    with pytest.raises(TimeoutError, match="time was up after step [0-9]+ of 35000"):
        call(bench)
    assert not (bench.out / "runs-1.zip").exists()


def test_an_archive_that_would_be_too_large_is_followed_by_another(bench, monkeypatch):
    monkeypatch.setattr(bench_, "LARGEST", 3000)
    contents = {f"train/{k}/log.csv": np.random.default_rng(k).bytes(1200) for k in range(5)}
    for name, content in contents.items():
        bench.keep({name: content})
    archives = sorted(bench.out.glob("runs-*.zip"))
    assert len(archives) == 3 and all(file.stat().st_size <= 3000 for file in archives)
    assert dict(item for file in archives for item in bench_.unzipped(file).items()) == contents


@pytest.mark.parametrize("words", ["epochs", "epochs=two", "epoch=2"])
def test_a_recipe_that_can_not_be_is_refused_by_its_word(words):
    with pytest.raises(ValueError, match=f"'{words}' is no parameter=value"):
        grid.recipe(f"learning_rate=0.1 {words}")


def test_a_recipe_out_of_range_is_told_before_anything_is_measured(tmp_path, toy):
    words = ("--light", "learning_rate=-1")
    done = subprocess.run(command(toy[0], tmp_path, *words), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.endswith("\nlearning_rate must be above 0, found -1.0\n")
    assert not (tmp_path / "right.json").exists()


def test_the_runs_are_those_that_the_report_takes(tmp_path, toy, monkeypatch):
    run(toy[0], tmp_path / "out", "--parts", "grid", "--minutes", "4")
    assert len([*(tmp_path / "out").iterdir()]) <= 8
    monkeypatch.chdir(tmp_path)
    for name, content in runs_in(tmp_path / "out").items():
        (tmp_path / "build/toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "build/toy" / name).write_bytes(content)
    (tmp_path / "build/toy/plan.json").write_text(json.dumps(toy[1]))
    results = load_results(Path("build/toy"))
    runs = {f"{name}-r{ratio}" for name in ("iresnet18_025", "mobilenetv3_small_050") for ratio in ("0.5", "1")}
    assert {*results["train"]} == runs and {*results["verify"]} == {
        f"{r}-{light}" for r in runs for light in ("normal", "low")
    }
    heavy = results["train"]["iresnet18_025-r1"]
    assert heavy["metrics"]["images"] == 100 and heavy["metrics"]["steps"] == len(heavy["log"]) == 14
    verified = results["verify"]["iresnet18_025-r1-low"]
    assert len(verified["score"]) == 18 and verified["first"][0].count("/") == 1
    first = [*json.loads((tmp_path / "out/grid.json").read_text())][1:]
    assert first == ["iresnet18_025-r1", "mobilenetv3_small_050-r1", "iresnet18_025-r0.5", "mobilenetv3_small_050-r0.5"]


def test_another_recipe_is_written_down_and_a_run_that_is_killed_leaves_those_before_it(tmp_path, toy):
    words = ("--parts", "grid", "--minutes", "9", "--heavy", "epochs=1 learning_rate=0.002", "--light", "epochs=1000")
    process = subprocess.Popen(command(toy[0], tmp_path, *words), cwd=toy[0] / "code", stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (tmp_path / "runs-1.zip").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = runs_in(tmp_path)
    parameters = json.loads(found["train/iresnet18_025-r1/parameters.json"])
    assert (parameters["epochs"], parameters["learning_rate"]) == (1, 0.002)
    assert parameters["output"] == "build/toy/train/iresnet18_025-r1"
    with np.load(io.BytesIO(found["verify/iresnet18_025-r1-normal/scores.npz"])) as arrays:
        assert np.isfinite(arrays["score"]).all()
    assert not any("mobilenetv3" in name for name in found)

    said = run(toy[0], tmp_path, "--parts", "grid", "--minutes", "4")  # the same OUT again: what is there stays
    assert "grid: iresnet18_025-r1:" not in said and "grid: mobilenetv3_small_050-r0.5:" in said
    assert found.items() <= runs_in(tmp_path).items()
