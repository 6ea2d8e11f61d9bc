"""One list of dependencies, pyproject.toml's: the lock, environment.yml and what is installed agree with it."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from facelib import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
CONDA = (ROOT / "environment.yml").read_text()


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def test_every_line_of_the_lock_is_an_exact_pin():
    assert all(re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line) for line in LOCK)


@pytest.mark.parametrize("dependency", PROJECT["dependencies"])
def test_a_dependency_is_locked_and_in_environment_yml_in_the_same_version(dependency):
    pins = [line for line in LOCK if name_of(line) == name_of(dependency)]
    assert pins
    assert all(f'- "{pin}"' in CONDA for pin in pins)
    if "==" in dependency:
        assert pins == [dependency]


def test_environment_yml_lists_no_other_package_and_takes_the_rest_from_the_lock():
    listed = re.findall(r'^      - "([\w.-]+)==', CONDA, flags=re.MULTILINE)
    assert sorted(set(listed)) == sorted(map(name_of, PROJECT["dependencies"]))
    assert "- -r requirements.lock" in CONDA


@pytest.mark.parametrize("dependency", PROJECT["dependencies"])
def test_what_is_installed_is_what_is_locked(dependency):
    versions = {line.split(" ;")[0].split("==")[1] for line in LOCK if name_of(line) == name_of(dependency)}
    assert metadata.version(name_of(dependency)) in versions


def test_all_that_facelib_imports_is_a_dependency():
    modules = {
        "torch",
        "torchvision",
        "timm",
        "fvcore",
        "facenet_pytorch",
        "cv2",
        "onnx",
        "onnxruntime",
        "safetensors",
        "numpy",
    }
    modules |= {"pandas", "PIL", "sklearn", "matplotlib", "seaborn", "tqdm", "papermill", "nbformat"}
    imported = set()
    for file in Path(ROOT / "facelib").glob("*.py"):
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), flags=re.MULTILINE))
    import sys

    assert imported - set(sys.stdlib_module_names) - {"facelib"} <= modules
