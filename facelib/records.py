"""Where a result comes from: commit, package versions, machine."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ["torch", "torchvision", "timm", "fvcore", "facenet-pytorch", "onnxruntime", "numpy", "scikit-learn"]
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
