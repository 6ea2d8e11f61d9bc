"""Write requirements.lock and environment.yml from pyproject.toml: `make lock`. Needs uv and a network."""

import re
import subprocess
import tomllib
from pathlib import Path

LOCK = """\
# Written by `make lock` from pyproject.toml. Install with `pip install --no-deps -r requirements.lock`.
"""
CONDA = """\
# Written by `make lock` from pyproject.toml and requirements.lock: the same environment for conda, with a LaTeX engine.
#     PIP_NO_DEPS=1 conda env create -f environment.yml && conda activate facelib && make report
# PIP_NO_DEPS, because facenet-pytorch asks for an older torch than it needs; the lock lists all that is needed.
name: facelib
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - git
  - make
  - tectonic
  - pip:
      - -e .
      - -r requirements.lock
"""


def direct_dependencies() -> list[str]:
    """Names of pyproject.toml's dependencies, without versions."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return [re.match(r"[\w.-]+", dependency)[0] for dependency in project["dependencies"]]


def pins() -> dict[str, list[str]]:
    """Name -> its lines in requirements.lock, `name==version` with a marker where versions differ."""
    found: dict[str, list[str]] = {}
    for line in Path("requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            found.setdefault(line.split("==")[0], []).append(line)
    return found


def environment_yml() -> str:
    lines = [f'      - "{pin}"' for name in direct_dependencies() for pin in pins()[name]]
    return CONDA + "\n".join(lines) + "\n"


if __name__ == "__main__":
    command = "uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml"
    compiled = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
    Path("requirements.lock").write_text(LOCK + compiled)
    Path("environment.yml").write_text(environment_yml())
