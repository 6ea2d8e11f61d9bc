"""Synthetic data and small results made on the spot, so that every notebook runs before anything else was done.

python -m facelib.demo    # the demo profile's synthetic faces, in build/demo/data
"""

import json
from pathlib import Path

from facelib import (
    data_summary,
    detector_study,
    evaluation_ladder,
    flops,
    integrity,
    low_light_study,
    profiles,
    statistics,
    synthetic,
)
from facelib.output import write_json
from facelib.protocol import Protocol
from facelib.train import Config, train
from facelib.verification import verify

DATA = Path("build/demo/data")
EXAMPLE = Path("build/example")  # not where the notebooks write, so that what they leave is never taken for these
RUN = EXAMPLE / "train" / "iresnet18_025-r1"
# What each notebook of a plan computes with its parameters.
STEPS = {
    "flops": flops.measure,
    "train": lambda **given: train(Config(**given)),
    "verify": lambda model, lfw, output, **protocol: verify(model, lfw, output, Protocol(**protocol)),
    "evaluation_ladder": evaluation_ladder.climb,
    "low_light": low_light_study.study,
    "integrity": integrity.check,
    "detectors": detector_study.study,
    "data": lambda train, test, output, duplicates: data_summary.summarise(train, test, output),
    "statistics": statistics.summarise,
}


def make_faces(folder: Path = DATA) -> None:
    """Training faces and an LFW-style test set of other identities, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train").exists():
        synthetic.make_identity_folder(folder / "train", identities=32, images_per_identity=20, spread=6, seed=1)
    if not (folder / "lfw").exists():
        synthetic.make_lfw(
            folder / "lfw", identities=60, images_per_identity=6, pairs_per_fold=30, seed=1, first_identity=1000
        )


def make_run() -> None:
    """One small training run on the synthetic faces, unless it is there."""
    make_faces()
    if not RUN.exists():
        recipe = profiles.read_profiles(Path("notebooks/profiles.toml"))["demo"]["train"] | {"epochs": 1}
        train(Config(data=str(DATA / "train"), output=str(RUN), backbone="iresnet18_025", **recipe))


def make_results() -> Path:
    """The demo report's results if they are there, else small ones of the same kinds, made now."""
    if Path("build/demo/plan.json").exists() and all_done(Path("build/demo")):
        return Path("build/demo")
    make_faces()
    profile = profiles.read_profiles(Path("notebooks/profiles.toml"))["demo"]
    profile |= {"ratios": [0.25], "train": profile["train"] | {"epochs": 1}, "more_seeds": {}}
    profile["training_ladder"] |= {"light_seeds": [], "heavy_seeds": []}
    profile["studies"] |= {"ratio": 0.25, "folds": 2, "most_stops": 0}
    plan = profiles.plan(EXAMPLE.name, profile, Path("data"))
    EXAMPLE.mkdir(parents=True, exist_ok=True)
    write_json(EXAMPLE / "plan.json", plan)
    for run in plan["runs"].values():
        if not (Path(run["parameters"]["output"]) / "metrics.json").exists():
            STEPS[run["notebook"]](**run["parameters"])
    return EXAMPLE


def all_done(build: Path) -> bool:
    plan = json.loads((build / "plan.json").read_text())
    return all((Path(run["parameters"]["output"]) / "metrics.json").exists() for run in plan["runs"].values())


if __name__ == "__main__":
    make_faces()
