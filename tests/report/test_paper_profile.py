"""The paper profile's own code path, end to end, on a stand-in for its data that is as small as its ratios allow.

Backbones, recipe, ratios and epochs are the profile's: only the images are few, and synthetic, and the released model
is a small one. The heavy backbone's larger ratios, further seeds and most of the training ladder are left out, for
they would take minutes and run the same lines.
"""

import json
import shutil
import subprocess

import torch

from facelib import ROOT, Config, Protocol, train, verify
from facelib.models import create_model, flops
from facelib.studies import data_summary, detectors, integrity, low_light
from facelib.synthetic import sets
from facelib.verification import ladder, uncertainty
from notebooks.run import run_notebook
from report import plan as profiles
from report.results import load_results

# What each notebook of a plan computes with its parameters.
STEPS = {
    "flops": flops.measure,
    "train": lambda **given: train(Config(**given)),
    "verify": lambda model, lfw, output, **protocol: verify(model, lfw, output, Protocol(**protocol)),
    "evaluation_ladder": ladder.climb,
    "low_light": low_light.study,
    "integrity": integrity.check,
    "detectors": detectors.study,
    "data": lambda train, test, output, duplicates: data_summary.summarise(train, test, output),
    "statistics": uncertainty.summarise,
}
LEFT_OUT = (
    "iresnet50-r0.25",
    "iresnet50-r0.5",
    "iresnet50-r1",
    "ladder-iresnet50",
    "-s1",
    "-s2",
    "momentum",
    "schedule",
    "alignment",
)


def test_every_run_of_the_paper_profile_ends_in_the_report(tmp_path):
    data = tmp_path / "data"
    sets.make_identity_folder(data / "casia-webface", identities=2, images_per_identity=10, seed=7)
    sets.make_lfw(
        data / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2, seed=7, first_identity=50
    )
    (data / "weights").mkdir()
    torch.save(create_model("iresnet18_025").state_dict(), data / "weights" / "ms1mv3_arcface.pth")

    paper = profiles.read_profiles(ROOT / "notebooks" / "profiles.toml")["paper"]
    paper["studies"]["most_stops"] = 0
    plan = profiles.plan("paper", paper, data)
    for run in plan["runs"].values():
        run["parameters"]["output"] = str(tmp_path / run["parameters"]["output"])
        if "model" in run["parameters"] and "build/" in run["parameters"]["model"]:
            run["parameters"]["model"] = str(tmp_path / run["parameters"]["model"])
    plan["runs"]["statistics"]["parameters"]["results"] = str(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for name, run in plan["runs"].items():
        if not any(left_out in name for left_out in LEFT_OUT):
            STEPS[run["notebook"]](**run["parameters"])

    results = load_results(tmp_path)
    # The grid's are trained and verified in two lights, the ladder's verified in one.
    # The heavy backbone's studies are left out too.
    more_seeds, ladder = 2 * 4 * 2 * 3, (4 + 2 * 4 + 3) * 2
    assert len(results["unfinished"]) == 3 * 3 + more_seeds + ladder + 2 and len(results["ladder_verify"]) == 1
    assert len(results["train"]) == 5 and len(results["verify"]) == 12
    images = {run["metrics"]["ratio"]: run["metrics"]["images"] for run in results["train"].values()}
    assert images == {0.1: 2, 0.25: 4, 0.5: 10, 1.0: 20}
    assert all(run["metrics"]["epochs"] == 12 for run in results["train"].values())

    drawn = {"results": str(tmp_path), "output": str(tmp_path / "figures")}
    run_notebook(ROOT / "notebooks" / "figures.ipynb", tmp_path / "figures.ipynb", drawn)
    text = (tmp_path / "figures" / "report.tex").read_text()
    assert "The released model (" in text and "Synthetic data" not in text
    assert "those of CASIA-WebFace" in text
    latex = tmp_path / "build" / "latex"
    latex.mkdir(parents=True)
    for file in (tmp_path / "figures" / "report.tex", ROOT / "report" / "references.bib"):
        shutil.copy(file, latex)
    latexmk = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    command = latexmk if shutil.which("latexmk") else ["tectonic", "--keep-logs", "report.tex"]
    done = subprocess.run(command, cwd=latex, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    log = (latex / "report.log").read_text(errors="replace")
    assert "undefined" not in log.lower()
