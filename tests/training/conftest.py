"""Faces for small runs."""

import pytest

from facelib.synthetic import sets


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """Four images of each of four identities."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    sets.make_identity_folder(folder, identities=4, images_per_identity=4, seed=3)
    return folder


@pytest.fixture(scope="session")
def lfw(tmp_path_factory):
    """Eight pairs of other identities."""
    folder = tmp_path_factory.mktemp("pairs") / "lfw"
    options = {"identities": 6, "images_per_identity": 2, "pairs_per_fold": 2, "folds": 2, "seed": 4}
    sets.make_lfw(folder, **options, first_identity=9)
    return folder
