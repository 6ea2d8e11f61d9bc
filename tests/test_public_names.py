"""What a user imports from facelib: each name has an example in its docstring, which runs."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
import torch

import facelib
from facelib.synthetic.sets import make_identity_folder, make_lfw

NAMES = [name for name in facelib.__all__ if name != "ROOT"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the data of the examples: four identities of five images, and an LFW of three folds."""
    folder = tmp_path_factory.mktemp("examples")
    make_identity_folder(folder / "data" / "faces", identities=4, images_per_identity=5)
    make_lfw(folder / "data" / "lfw", identities=12, images_per_identity=2, pairs_per_fold=2, folds=3)
    return folder


def run(value, name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(
        value, name, globs={"facelib": facelib, "torch": torch, "np": np}
    )
    assert example.examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_each_name_gives_what_it_says(name, place, monkeypatch):
    monkeypatch.chdir(place)
    run(getattr(facelib, name), name)


def test_the_examples_of_the_module_give_what_they_say():
    run(facelib, "facelib")


def test_facelib_is_imported_without_pytorch_and_timm():
    code = "import facelib, sys; print({'torch', 'timm', 'cv2', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=facelib.ROOT)
    assert done.stdout.strip() == "set()"
