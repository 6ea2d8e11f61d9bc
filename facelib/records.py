"""A result's records: what came out, what was asked for, and where: commit, package versions, machine."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from facelib.files import whole_folder, write_json

PACKAGES = ["torch", "torchvision", "timm", "fvcore", "facenet-pytorch", "onnxruntime", "numpy", "scikit-learn"]
FILES = ("metrics.json", "parameters.json", "environment.json")  # of every result
DIGITS = 12  # of a fingerprint, in hex


def commit() -> str:
    """The repository's commit, 12 hex digits, followed by `+changes` if files differ from it, or `unknown`."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(device: str = "cpu") -> str:
    """Processor, cores and memory, and the GPU if the device is CUDA."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].strip() if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB{gpu}"


def installed(package: str) -> str | None:
    """The version of a package, or None where it is missing: a machine that only trains needs no detector."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment(device: str = "cpu") -> dict:
    """What a run's environment.json holds."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
        "machine": machine(device),
        "device": device,
    }


@dataclass
class Result:
    """What a result's folder will hold beside the files that are written into it."""

    folder: Path
    parameters: dict
    environment: dict
    metrics: dict = field(default_factory=dict)

    def write(self) -> None:
        for name, content in zip(FILES, (self.metrics, self.parameters, self.environment)):
            write_json(self.folder / name, content)


@contextlib.contextmanager
def save_result(
    output: str | Path, parameters: dict, device: str = "cpu", more: tuple[str, ...] = ()
) -> Iterator[Result]:
    """A result to fill in the block, whose folder appears whole when the block ends.

    The block may write files of the names `more` into its folder. An earlier result of these files is replaced;
    anything else at `output` raises FileExistsError before the block runs.
    """
    result = Result(Path(output), parameters, environment(device))  # now: the repository may have moved on by the end
    with whole_folder(output, (*FILES, *more)) as result.folder:
        yield result
        result.write()
