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
        seconds = {form: step_seconds(backbone, device, precision, layout) for form, layout in FORMATS.items()}
        known[kind] = min(seconds, key=seconds.get)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known, indent=2) + "\n")
        partial.replace(file)
    return known[kind]


def step_seconds(backbone: nn.Module, device: str, precision: str, layout: torch.memory_format) -> float:
    """Seconds of a forward and a backward pass of IMAGES images, the median of STEPS. The backbone stays as it is, and
    so do PyTorch's random numbers.
    """
    model = copy.deepcopy(backbone).to(device, memory_format=layout).train()
    images = torch.zeros(IMAGES, 3, SIZE, SIZE, device=device).contiguous(memory_format=layout)
    seconds = []
    with torch.random.fork_rng():
        for _ in range(STEPS + 1):
            began = time.perf_counter()
            with autocast(precision, device):
                embeddings = model(images)
            embeddings.float().square().sum().backward()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])  # the first one builds what the others use
