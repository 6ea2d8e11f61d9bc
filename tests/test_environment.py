"""One list of dependencies, pyproject.toml's: the lock and what is installed agree with it."""

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest

from facelib import ROOT
from report import stale

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def test_every_line_of_the_lock_is_an_exact_pin():
    assert all(re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line) for line in LOCK)


@pytest.mark.parametrize("dependency", PROJECT["dependencies"])
def test_a_dependency_is_locked_in_a_version_that_it_allows(dependency):
    pins = [line for line in LOCK if name_of(line) == name_of(dependency)]
    assert pins
    if "==" in dependency:
        assert pins == [dependency]


def test_condas_environment_takes_its_packages_from_the_lock():
    assert "      - -e .\n      - -r requirements.lock\n" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize("dependency", PROJECT["dependencies"])
def test_what_is_installed_is_what_is_locked(dependency):
    versions = {line.split(" ;")[0].split("==")[1] for line in LOCK if name_of(line) == name_of(dependency)}
    assert metadata.version(name_of(dependency)) in versions


def imports(code: str) -> set[str]:
    """Top-level modules that the code imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(re.sub("^%.*", "", code, flags=re.MULTILINE))):  # a notebook's magics are no Python
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_all_that_is_imported_is_a_dependency():
    folders = ("facelib", "report", "benchmarks", "notebooks", "tests")
    code = [file.read_text() for folder in folders for file in (ROOT / folder).rglob("*.py")]
    code += [stale.code_of(file) for file in (ROOT / "notebooks").glob("*.ipynb")]
    ours = {*folders, *(file.stem for file in (ROOT / "tests").rglob("*.py"))}
    imported = set().union(*map(imports, code)) - set(sys.stdlib_module_names) - ours
    assert {"torch", "onnx", "seaborn"} <= imported
    distributions = metadata.packages_distributions()
    declared = {name_of(dependency).lower() for dependency in PROJECT["dependencies"]}
    for module in imported:
        assert declared & {name.lower().replace("_", "-") for name in distributions[module]}, (
            f"{module} is not declared"
        )
