"""Which memory format a backbone trains faster in: channels last or contiguous, by a short trial."""

import copy
import json
import os
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from facelib.embedder import SIZE
from facelib.precision import autocast

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
IMAGES, STEPS = 8, 3


def choose(backbone: nn.Module, name: str, device: str, precision: str, cache: str | Path) -> str:
    """The faster one of FORMATS for this backbone on this device, cpu or cuda, in this precision.

    The trial is made once: its outcome is kept in `cache`, so that all runs on one machine have the same.
    """
    kind, file = f"{name}, {device}, {precision}", Path(cache) / "memory-format.json"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    if kind not in known:
        seconds = step_seconds(backbone, device, precision)
        known[kind] = min(seconds, key=seconds.get)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known, indent=2) + "\n")
        partial.replace(file)
    return known[kind]


def step_seconds(backbone: nn.Module, device: str, precision: str) -> dict[str, float]:
    """Seconds of a forward and a backward pass of IMAGES images in each format, the medians of STEPS, taken in turns,
    so that what else the machine does hits both alike. The backbone stays as it is, and so do PyTorch's random numbers.
    """
    models = {form: copy.deepcopy(backbone).to(device, memory_format=of).train() for form, of in FORMATS.items()}
    images = torch.zeros(IMAGES, 3, SIZE, SIZE, device=device)
    seconds: dict[str, list[float]] = {form: [] for form in FORMATS}
    with torch.random.fork_rng():
        for _ in range(STEPS + 1):
            for form, model in models.items():
                began = time.perf_counter()
                with autocast(precision, device):
                    embeddings = model(images.contiguous(memory_format=FORMATS[form]))
                embeddings.float().square().sum().backward()
                if device != "cpu":
                    torch.cuda.synchronize()
                seconds[form].append(time.perf_counter() - began)
    return {form: statistics.median(taken[1:]) for form, taken in seconds.items()}  # without the first
