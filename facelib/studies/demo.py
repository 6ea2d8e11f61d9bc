"""Synthetic faces and a small run on them, so that a notebook runs before anything else was done.

python -m facelib.studies.demo    # the demo profile's synthetic faces, in build/demo/data
"""

import tomllib
from pathlib import Path

from facelib import ROOT
from facelib.synthetic import sets
from facelib.training import Config, train

DATA = Path("build/demo/data")
EXAMPLE = Path("build/example")  # not where the notebooks write, so that what they leave is never taken for these
RUN = EXAMPLE / "train" / "iresnet18_025-r1"


def make_faces(folder: Path = DATA) -> None:
    """Training faces and an LFW-style test set of other identities, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train").exists():
        sets.make_identity_folder(folder / "train", identities=32, images_per_identity=20, spread=6, seed=1)
    if not (folder / "lfw").exists():
        sets.make_lfw(
            folder / "lfw", identities=60, images_per_identity=6, pairs_per_fold=30, seed=1, first_identity=1000
        )


def make_run() -> None:
    """One small training run on the synthetic faces, unless it is there."""
    make_faces()
    if not RUN.exists():
        profile = tomllib.loads((ROOT / "notebooks" / "profiles.toml").read_text())["demo"]
        recipe = profile["train"] | {"epochs": 1}
        train(Config(data=str(DATA / "train"), output=str(RUN), backbone="iresnet18_025", **recipe))


if __name__ == "__main__":
    make_faces()
