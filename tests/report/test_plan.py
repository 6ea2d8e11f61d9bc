"""Which profile is taken, what it computes, and what is said when data are missing."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
from empty_files import put

from facelib import ROOT
from facelib.training import Config
from notebooks.run import check_parameters, declared_parameters
from report import plan as profiles
from report import training_ladder

PROFILES = profiles.read_profiles(ROOT / "notebooks" / "profiles.toml")


SMALL = ("celeb/a/1.jpg", "lfw/pairs.txt")
PAPER = ("casia-webface/a/1.jpg", "lfw/pairs.txt")


def test_without_data_the_demo_is_taken_and_the_reason_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.chdir(put(tmp_path, "data/README.md", "data/celebs/a/1.jpg"))
    name, line = profiles.choose(PROFILES, Path("data"), gpu=True)
    assert name == "demo"
    assert "data/casia-webface/<identity>/<image>.jpg" in line and "LFW in data/lfw" in line
    assert "data holds: celebs" in line


def test_a_folder_that_was_named_but_holds_no_data_set_is_an_error_and_no_demo(tmp_path):
    with pytest.raises(ValueError, match=f"DATA={tmp_path} has no data set.*holds: celebs, lfw"):
        profiles.choose(PROFILES, put(tmp_path, "celebs/a/1.jpg", "lfw/pairs.txt"), gpu=True)
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        profiles.choose(PROFILES, tmp_path / "nowhere", gpu=False)


def test_the_largest_profile_that_data_and_device_allow_is_taken(tmp_path):
    assert profiles.choose(PROFILES, put(tmp_path / "a", *SMALL), gpu=True)[0] == "small"
    both = put(tmp_path / "b", *SMALL, *PAPER)
    assert profiles.choose(PROFILES, both, gpu=True)[0] == "paper"
    name, line = profiles.choose(PROFILES, both, gpu=False)
    assert name == "small" and "paper needs a CUDA GPU" in line


def test_training_faces_may_be_recordio_or_a_pack_which_is_taken_before_the_folder_of_its_name(tmp_path):
    small = PROFILES["small"]
    for name, there, taken, aligned in (
        ("folder", ("celeb/a/1.jpg",), "celeb", ""),
        ("records", ("celeb/train.rec",), "celeb", "yes"),
        ("pack", ("celeb.pack/index.json",), "celeb.pack", "yes"),
        ("both", ("celeb/a/1.jpg", "celeb.pack/index.json"), "celeb.pack", "yes"),
    ):
        folder = put(tmp_path / name, "lfw/pairs.txt", *there)
        assert profiles.choose(PROFILES, folder, gpu=False)[0] == "small"
        plan = profiles.plan("small", small, folder)
        assert plan["runs"]["train/iresnet50-r1"]["parameters"]["data"] == str(folder / taken)
        assert plan["runs"]["integrity"]["parameters"]["train"] == plan["train_faces"] == str(folder / taken)
        assert f"TRAIN_ALIGNED := {aligned}\n" in profiles.makefile(plan)


def test_the_paper_profile_is_the_published_setting_with_arcfaces_recipe():
    paper = PROFILES["paper"]
    assert (paper["heavy"], paper["light"], paper["ratios"]) == ("iresnet50", "efficientnet_b3", [0.1, 0.25, 0.5, 1.0])
    recipe = {"epochs": 12, "batch_size": 128, "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9}
    recipe |= {"weight_decay": 5e-4, "power": 2.0, "scale": 64.0, "margin": 0.5, "warmup": 0.0}
    assert recipe.items() <= paper["train"].items()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_leaves_no_part_of_its_recipe_to_the_notebooks_defaults(name):
    # The notebook's are for a look at synthetic faces; facelib.training's own are ArcFace's.
    declared = declared_parameters(ROOT / "notebooks" / "train.ipynb")
    of_a_run = ("data", "output", "backbone", "ratio")
    for recipe in profiles.grid_runs(PROFILES[name]).values():
        for field in dataclasses.fields(Config):
            if field.name in declared and field.name not in (*of_a_run, *recipe):
                assert declared[field.name][1] == field.default, f"[{name}.train] should say {field.name}"


@pytest.mark.parametrize("name", PROFILES)
def test_every_run_of_a_profile_has_parameters_that_its_notebook_takes(name, tmp_path):
    plan = profiles.plan(name, PROFILES[name], put(tmp_path, "weights/model.onnx"))
    for run in plan["runs"].values():
        check_parameters(ROOT / "notebooks" / f"{run['notebook']}.ipynb", run["parameters"])


def test_each_backbone_is_trained_at_each_ratio_and_verified_in_both_lights(tmp_path):
    runs = profiles.plan("small", PROFILES["small"], put(tmp_path, "weights/model.onnx"))["runs"]
    seeds = 3 + 1  # of the light and of the heavy backbone
    grid = [name for name in runs if "/ladder-" not in name]
    assert sum(name.startswith("train/") for name in grid) == seeds * 4
    assert sum(name.startswith("verify/") for name in grid) == (seeds * 4 + 1) * 2
    assert runs["train/efficientnet_b3-r0.5-s2"]["parameters"] == runs["train/efficientnet_b3-r0.5"]["parameters"] | {
        "seed": 2,
        "output": "build/small/train/efficientnet_b3-r0.5-s2",
    }
    assert runs["verify/released-normal"]["parameters"]["flip"] is True


def test_the_training_ladder_goes_from_the_published_recipe_to_the_mended_one_a_change_at_a_time(tmp_path):
    """Four rungs; three seeds of the light backbone, one of the heavy; each verified in normal light."""
    runs = profiles.plan("small", PROFILES["small"], tmp_path)["runs"]
    ladder = {name: run["parameters"] for name, run in runs.items() if name.startswith("train/ladder-")}
    assert len(ladder) == 4 * (3 + 1) == sum(name.startswith("verify/ladder-") for name in runs)
    rungs = [ladder[f"train/ladder-iresnet50-{rung}-s0"] for rung in ("published", "momentum", "schedule", "alignment")]
    first, last = rungs[0], rungs[-1]
    assert (first["momentum"], first["decay_over"], first["aligned"]) == (0.0, "full", False)
    assert (last["momentum"], last["decay_over"], last["aligned"]) == (0.9, "run", True)
    assert (first["learning_rate"], first["batch_size"], first["clip"], first["power"]) == (0.01, 64, 5.0, 2.0)
    light = ladder["train/ladder-efficientnet_b3-published-s2"]
    assert (light["learning_rate"], light["batch_size"], light["seed"]) == (0.1, 32, 2)
    for before, after in zip(rungs, rungs[1:]):
        assert sum(before[key] != after[key] for key in before if key != "output") == 1
    with pytest.raises(ValueError, match="no rung 'warmup'. It has: published, momentum, schedule, alignment"):
        training_ladder.recipe("light", "warmup")


def test_parameters_of_one_run_alone_stand_above_those_of_all(tmp_path):
    profile = PROFILES["small"] | {"runs": {"iresnet50-r0.25": {"learning_rate": 0.01, "seed": 7}}}
    runs = profiles.plan("small", profile, tmp_path)["runs"]
    changed = {name for name, run in runs.items() if run["parameters"].get("seed") == 7}
    assert changed == {"train/iresnet50-r0.25"}
    assert runs["train/iresnet50-r0.25"]["parameters"]["epochs"] == PROFILES["small"]["train"]["epochs"]


def test_parameters_of_a_run_that_the_profile_does_not_have_are_refused_with_its_runs(tmp_path):
    profile = PROFILES["small"] | {"runs": {"iresnet50-0.25": {"seed": 7}}}
    with pytest.raises(ValueError, match=r"\[small.runs\] names iresnet50-0.25.*iresnet50-r0.25"):
        profiles.plan("small", profile, tmp_path)


def test_a_missing_released_model_is_left_out_with_a_sentence_that_says_what_to_put_where(tmp_path):
    plan = profiles.plan("small", PROFILES["small"], tmp_path)
    assert not any("released" in name for name in plan["runs"])
    assert f"no model in {tmp_path}/weights" in plan["left_out"][0]


def test_of_several_released_models_the_one_shown_is_named_and_the_others_too(tmp_path):
    put(tmp_path, "weights/b.onnx", "weights/a.pth", "weights/notes.txt")
    plan = profiles.plan("small", PROFILES["small"], tmp_path)
    assert plan["released"] == f"{tmp_path}/weights/a.pth"
    assert plan["left_out"] == ["Of the released models a.pth is shown, the first by name; not b.onnx."]


def test_the_detectors_that_come_with_a_released_model_are_passed_over(tmp_path):
    put(tmp_path, *(f"weights/{name}.onnx" for name in ("1k3d68", "2d106det", "det_10g", "genderage", "w600k_r50")))
    plan = profiles.plan("small", PROFILES["small"], tmp_path)
    assert plan["released"] == f"{tmp_path}/weights/w600k_r50.onnx" and not plan["left_out"]


def test_a_released_models_declaration_is_what_its_runs_depend_on_too(tmp_path):
    runs = profiles.plan("small", PROFILES["small"], put(tmp_path, "weights/model.safetensors"))["runs"]
    assert runs["verify/released-normal"]["needs"][-1] == f"{tmp_path}/weights/model.safetensors"
    put(tmp_path, "weights/model.safetensors.json")
    runs = profiles.plan("small", PROFILES["small"], tmp_path)["runs"]
    for run in ("verify/released-normal", "low_light/released", "integrity"):
        assert f"{tmp_path}/weights/model.safetensors.json" in runs[run]["needs"]


def test_a_model_with_a_space_in_its_name_is_refused_because_make_cannot_name_it(tmp_path):
    with pytest.raises(ValueError, match="my model.onnx.*spaces"):
        profiles.plan("small", PROFILES["small"], put(tmp_path, "weights/my model.onnx"))


@pytest.mark.parametrize(
    "says, gpu", [("echo GPU 0: H100", True), ("echo no devices were found; exit 6", False), ("exit 9", False)]
)
def test_a_gpu_is_there_if_its_driver_lists_one(tmp_path, monkeypatch, says, gpu):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert profiles.has_gpu() is gpu


def test_an_unknown_profile_and_missing_data_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="PROFILE=smal is unknown.*demo, small, gpu, paper"):
        profiles.main(str(tmp_path), "smal")
    put(tmp_path, "celebs/a/1.jpg", "lfw/pairs.txt")
    with pytest.raises(ValueError, match=r"PROFILE=small needs training images in .*/celeb/.*holds: celebs, lfw"):
        profiles.main(str(tmp_path), "small")


@pytest.mark.parametrize("light, execute, code", [("gone", "true", 0), ("gone", "false", 2), ("there", "false", 0)])
def test_the_second_lights_result_is_made_with_the_firsts_or_again_and_a_failure_is_one(tmp_path, light, execute, code):
    """By Make itself, with a command that succeeds or fails in the place of the notebook's run."""
    plan = profiles.plan("demo", PROFILES["demo"], Path("data"))
    run = plan["runs"]["verify/efficientnet_b0-r1-low"]
    normal, low = (f"build/demo/verify/efficientnet_b0-r1-{each}/metrics.json" for each in ("normal", "low"))
    trained = run["needs"][-1]
    needs = ["build/demo/parameters/verify/efficientnet_b0-r1-low.json", "build/demo/code/verify.txt", trained, normal]
    put(tmp_path, *needs, *([low] if light == "there" else []))
    (tmp_path / "plan.mk").write_text(profiles.makefile(plan))
    variables = [f"EXECUTE={execute}", "FLOPS=", "LFW_LANDMARKS=", "PAIRS="]
    command = ["make", "-f", "plan.mk", f"--old-file={trained}", f"--old-file={normal}", *variables, low]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == code
