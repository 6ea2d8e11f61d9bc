"""What the ArcFace head's forward and backward pass take at many identities, in time and memory.

Against the straightforward implementation (normalise, matmul, clone, margin, scale, cross entropy), in a process of its
own each, which tells the most memory that a step took.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from facelib import ROOT
from facelib.losses import ArcFace

IDENTITIES = 93_431  # of MS1MV3
BATCH = 512


def measure(rounds: int) -> dict:
    """Seconds and bytes of both heads and their ratios, and facelib's from 10 thousand identities to a million."""

    def measured(kind: str, identities: int) -> dict:
        code = f"from benchmarks import head; head.time_steps({kind!r}, {identities}, {rounds})"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        return json.loads(done.stdout)

    plain, ours = (measured(kind, IDENTITIES) for kind in ("straightforward", "facelib"))
    grown = {f"{count}": measured("facelib", count) for count in (10_000, 100_000, 1_000_000)}
    ratios = {name: ours[name] / plain[name] for name in ("seconds", "bytes")}
    sides = {"straightforward": plain, "facelib": ours}
    return {"identities": IDENTITIES, "batch": BATCH} | sides | {"ratios": ratios, "grown": grown}


def table(found: dict) -> str:
    lines = [f"{f'head, batch of {BATCH}':24s}{'identities':>12s}{'seconds':>12s}{'MB':>12s}"]
    rows = [(name, found["identities"], found[name]) for name in ("straightforward", "facelib")]
    for name, count, side in [*rows, *(("facelib", int(count), side) for count, side in found["grown"].items())]:
        lines.append(f"{name:24s}{count:12,d}{side['seconds']:12.2f}{side['bytes'] / 1e6:12,.0f}")
    shares = ", ".join(f"{ratio:.2f} of its {name}" for name, ratio in found["ratios"].items())
    return "\n".join([*lines, f"to straightforward: {shares}"])


def straightforward(x: Tensor, weight: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.5) -> Tensor:
    """ArcFace as everyone writes it."""
    cosine = F.linear(F.normalize(x), F.normalize(weight))
    logits, rows = cosine.clone(), labels[:, None]
    angle = cosine.gather(1, rows).clamp(-1 + 1e-7, 1 - 1e-7).acos()
    logits.scatter_(1, rows, (angle + margin).cos())
    return F.cross_entropy(scale * logits, labels)


def time_steps(kind: str, identities: int, rounds: int, batch: int = BATCH, size: int = 512) -> None:
    """Print the median seconds of a head's forward and backward pass, and the most bytes that one took besides what was
    there before. To be run in a process of its own.
    """
    torch.manual_seed(0)
    head, x = ArcFace(size, identities), torch.randn(batch, size, requires_grad=True)
    labels, seconds, most = torch.randint(0, identities, (batch,)), [], []
    for _ in range(rounds + 1):
        x.grad = head.weight.grad = None
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size counts from here
        before, began = resident("VmRSS"), time.perf_counter()
        loss = straightforward(x, head.weight, labels) if kind == "straightforward" else head(x, labels)
        loss.backward()
        seconds.append(time.perf_counter() - began)
        most.append(resident("VmHWM") - before)
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "bytes": statistics.median(most[1:])}))


def resident(what: str) -> int:
    """Of this process, in bytes: VmRSS now, or VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {what}")
