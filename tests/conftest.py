"""What several tests need: real data where there is some, and a checkout to run make in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from facelib import ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that make's DATA names, if LFW lies in it."""
    folder = Path(os.environ.get("FACELIB_DATA", ROOT / "data"))
    if not (folder / "lfw" / "pairs.txt").exists():
        pytest.skip(f"no LFW in {folder}: set DATA to test on real faces")
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of the files that git would commit, with this environment, in which make can run."""
    folder = tmp_path_factory.mktemp("make") / "facelib"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder
