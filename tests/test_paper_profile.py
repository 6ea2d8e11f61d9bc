"""The paper profile's own code path, end to end, on a stand-in for its data that is as small as its ratios allow.

Backbones, recipe, ratios and epochs are the profile's: only the images are few, and synthetic.
"""

import torch

from facelib import ROOT, flops, profiles, report, synthetic
from facelib.models import create_model
from facelib.train import Config, train
from facelib.verification import verify


def test_every_run_of_the_paper_profile_ends_in_the_report(tmp_path):
    data = tmp_path / "data"
    synthetic.make_identity_folder(data / "casia-webface", identities=2, images_per_identity=10, seed=7)
    synthetic.make_lfw(
        data / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2, seed=7, first_identity=50
    )
    (data / "weights").mkdir()
    torch.save(create_model("iresnet50").state_dict(), data / "weights" / "ms1mv3_arcface_r50.pth")

    paper = profiles.read_profiles(ROOT / "notebooks" / "profiles.toml")["paper"]
    plan = profiles.plan("paper", paper, data)
    steps = {"flops": flops.measure, "train": lambda **given: train(Config(**given)), "verify": verify}
    for run in plan["runs"].values():
        run["parameters"]["output"] = str(tmp_path / run["parameters"]["output"])
        if run["notebook"] == "verify" and "build/" in run["parameters"]["model"]:
            run["parameters"]["model"] = str(tmp_path / run["parameters"]["model"])
        steps[run["notebook"]](**run["parameters"])

    (tmp_path / "plan.json").write_text(profiles.json.dumps(plan))
    results = report.load_results(tmp_path)
    assert not results["unfinished"]
    assert len(results["train"]) == 8 and len(results["verify"]) == 18
    images = {run["metrics"]["ratio"]: run["metrics"]["images"] for run in results["train"].values()}
    assert images == {0.1: 2, 0.25: 4, 0.5: 10, 1.0: 20}
    assert all(run["metrics"]["epochs"] == 12 for run in results["train"].values())
    report.write(results, tmp_path / "figures")
    numbers = (tmp_path / "figures" / "numbers.tex").read_text()
    assert r"\releasedtrue" in numbers and r"\syntheticfalse" in numbers
    assert "CASIA-WebFace" in numbers
