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

from benchmarks.gpu import grid, kit, speed
from benchmarks.gpu.kit import Kit
from facelib import ROOT, data
from facelib.models import create_model
from facelib.synthetic import sets
from report import plan as profiles
from report.results import load_results

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
    sets.make_identity_folder(folder / "faces", identities=10, images_per_identity=10)
    sets.make_lfw(folder / "lfw", identities=12, images_per_identity=3, pairs_per_fold=3, folds=3, first_identity=99)
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    torch.save(create_model("iresnet18_025").state_dict(), folder / "weights" / "model.pth")
    (folder / "weights" / "model.pth.json").write_text('{"backbone": "iresnet18_025"}')
    plan = profiles.plan("toy", PROFILE, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "MOVES", 1.0)  # an untrained model's accuracy on 18 pairs moves by chance
        kit.write_kit(folder / "kit", plan)
    return folder / "kit", plan


@pytest.fixture(scope="module")
def opened(toy, tmp_path_factory) -> Kit:
    return Kit(toy[0], tmp_path_factory.mktemp("work"), "cpu")


def command(toy: Path, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", str(toy), str(out), "--device", "cpu", *words]


def run(toy: Path, out: Path, *words: str, code: int = 0) -> str:
    """What is said by the kit's own code; of a failure the error."""
    done = subprocess.run(command(toy, out, *words), cwd=toy / "code", capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def runs_in(out: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(out / "runs.zip") as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_pieces_of_a_recordio_are_cut_between_records_and_join_to_the_same_bytes(tmp_path, toy, monkeypatch):
    source, copy = toy[0] / "faces-1", tmp_path / "kit"
    shutil.copytree(toy[0], copy, ignore=shutil.ignore_patterns("faces-*"))
    monkeypatch.setattr(kit, "PIECE", 10 * 2**20 + 60_000)
    count = kit.write_faces(source, copy)
    pieces = sorted(copy.glob("faces-*"))
    assert count == len(pieces) > 1 and all((piece / "train.rec").stat().st_size < 120_000 for piece in pieces)
    for piece in pieces[1:]:
        assert (piece / "train.rec").read_bytes().startswith(b"\x0a\x23\xd7\xce")  # dmlc's magic number
    (copy / "code" / "kit.json").write_text(json.dumps({"commit": "", "pieces": count}))
    for name in ("train.rec", "train.idx"):
        joined = Kit(copy, tmp_path / f"for {name}", "cpu").records / name
        assert joined.read_bytes() == (source / name).read_bytes()


def test_the_packages_that_the_machine_may_lack_are_listed_as_they_are_locked(toy):
    listed = (toy[0] / "code" / "wheels.txt").read_text().splitlines()
    locked = [line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    assert len(listed) == 6 and "simplejpeg" in [line.split("==")[0] for line in listed] and {*listed} <= {*locked}


def test_a_run_has_the_batches_that_it_has_from_a_file(toy, opened):
    config = grid.Config("", "", backbone="iresnet18_025", ratio=0.5, batch_size=16, seed=3, precision="float32")
    records = data.Share(data.RecordIO(toy[0] / "faces-1"), 0.5, seed=3)
    found = grid.begin_in_memory(opened.faces, config, "cpu").loader
    truth = data.Loader(records, 16, shuffle=True, seed=3)
    for (images, labels), (pixels, numbers) in zip(found, truth, strict=True):
        assert torch.equal(images, pixels) and torch.equal(labels, numbers)


def test_a_piece_that_is_too_large_and_a_jpeg_that_moves_the_accuracy_are_refused(tmp_path, toy, monkeypatch):
    plan = toy[1]
    monkeypatch.setattr(kit, "PIECE", 1000)
    monkeypatch.setattr(kit, "MOVES", 1.0)
    with pytest.raises(ValueError, match="/kit/code: [0-9.]+ MiB, a piece may have 0"):
        kit.write_kit(tmp_path / "kit", plan)
    monkeypatch.setattr(kit, "MOVES", 0.0)
    with pytest.raises(ValueError, match="its JPEG moves the released model's accuracy by 0.0% or more"):
        kit.write_lfw(Path(plan["lfw"]), plan["released"], tmp_path / "lfw")
    assert not (tmp_path / "kit").exists()


def test_a_missing_and_a_damaged_piece_are_told_before_anything_runs(tmp_path, toy):
    shutil.copytree(toy[0], tmp_path / "kit")
    (tmp_path / "kit" / "faces-1" / "train.rec").write_bytes(b"x")
    assert "train.rec" in run(tmp_path / "kit", tmp_path / "out", code=1)
    shutil.rmtree(tmp_path / "kit" / "faces-1")
    said = run(tmp_path / "kit", tmp_path / "out", code=1)
    assert "kit/faces-1" in said and "Traceback" not in said
    assert [*(tmp_path / "out").iterdir()] == []


def test_what_is_right_and_what_is_not_is_told_test_by_test(tmp_path, toy):
    shutil.copytree(toy[0], tmp_path / "kit")
    tests = tmp_path / "kit" / "code" / "tests" / "test_device.py"
    tests.write_text("def test_a():\n    assert False\n\n\ndef test_b():\n    print('off by 0.1, may be 1', end=' ')\n")
    run(tmp_path / "kit", tmp_path / "out", "--parts", "right")
    found = json.loads((tmp_path / "out" / "right.json").read_text())
    assert (found["test_a"], found["test_b"]) == ({"right": False}, {"right": True, "off by": "0.1, may be 1"})
    tests.write_text("import time\n\n\ndef test_a():\n    time.sleep(600)\n")
    run(tmp_path / "kit", tmp_path / "out", "--parts", "right", "--minutes", "0.3")
    assert {"left out": "no time was left"} in json.loads((tmp_path / "out" / "right.json").read_text()).values()


def test_every_kind_of_speed_is_measured(opened, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.1)
    # What is compiled takes minutes here.
    monkeypatch.setattr(speed, "attempt", lambda call, seconds, until: call() if seconds < 60 else {})
    found = dict(speed.measurements(opened, until=0.0))
    compiled = [found.pop(name) for name in [*found] if name.endswith("compiled")]
    assert compiled == [{}, {}] and len(found) == 17 and all(one["images/s"] > 0 for one in found.values()), found


def test_what_fails_and_what_there_is_no_time_for_is_told():
    soon = time.monotonic() + 60
    assert grid.attempt(lambda: 1 / 0, 0, soon) == {"failed": "ZeroDivisionError: division by zero"}
    assert grid.attempt(lambda: {"never": "called"}, 61, soon) == {"left out": "no time was left"}
    assert grid.attempt(lambda: {"error": 0.0}, 0, soon) == {"error": 0.0}


def test_a_run_that_is_not_through_in_time_is_stopped_and_tells_its_step(tmp_path, opened):
    (name, config), *_ = grid.runs(opened, tmp_path, {"epochs": 5000}, {}, "*").items()
    with pytest.raises(TimeoutError, match="time was up after step [0-9]+ of 35000"):
        grid.train_and_verify(opened, time.monotonic() + grid.VERIFYING + 1, tmp_path, name, config)
    assert not (tmp_path / "runs.zip").exists()


def test_the_runs_come_in_the_order_in_which_they_are_needed(tmp_path, opened):
    found = [*grid.runs(opened, tmp_path, {}, {}, "*")]
    assert found == ["iresnet18_025-r1", "mobilenetv3_small_050-r1", "iresnet18_025-r0.5", "mobilenetv3_small_050-r0.5"]
    assert [*grid.runs(opened, tmp_path, {}, {}, "mobile*-r1")] == ["mobilenetv3_small_050-r1"]


def test_a_recipe_that_can_not_be_is_told_before_anything_is_measured(tmp_path, toy):
    said = run(toy[0], tmp_path, "--light", "{learning_rate: -1}", code=1)
    assert (
        said.endswith("\nlearning_rate must be a finite number above 0, found -1\n")
        and not (tmp_path / "right.json").exists()
    )
    assert "unexpected keyword argument 'epoch'" in run(toy[0], tmp_path, "--heavy", "{epoch: 2}", code=1)


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
    words = (
        "--parts",
        "grid",
        "--minutes",
        "9",
        "--heavy",
        "{epochs: 1, learning_rate: 0.002}",
        "--light",
        "{epochs: 1000}",
    )
    process = subprocess.Popen(command(toy[0], tmp_path, *words), cwd=toy[0] / "code", stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (tmp_path / "runs.zip").exists() and time.monotonic() < until:
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
