"""How fast backbones are trained, against the plain loop: float32 in PyTorch's default memory format, each step's loss
asked for, images read by the plain pipeline's loader.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.head import straightforward
from benchmarks.loading import WORKERS, plain_faces
from facelib import data
from facelib.losses import ArcFace
from facelib.models import flops
from facelib.models.backbones import create_model
from facelib.training.config import Config
from facelib.training.machine import keep_freed_memory
from facelib.training.trainer import Run

BACKBONES = ("iresnet50", "efficientnet_b3")


def measure(
    folder: Path, packed: Path, cache: Path, rounds: int, backbones: Sequence[str] = BACKBONES, batch: int = 16
) -> dict:
    """images/s of training in the plain loop and in facelib's, both backbones, steps in turns, each loop in a process
    of its own; and how near the latter comes to the arithmetic that a product of matrices reaches.
    """
    found: dict[str, dict] = {}
    if not packed.exists():
        data.pack(folder, packed, cache=cache)
    for name in backbones:
        sides, pipes = [], {}
        for kind in ("plain", "facelib"):
            pipes[kind], theirs = multiprocessing.Pipe()
            arguments = (theirs, kind, name, folder if kind == "plain" else packed, cache, batch)
            context = multiprocessing.get_context("spawn")
            sides.append(context.Process(target=train_on_demand, args=arguments, daemon=kind == "facelib"))
            sides[-1].start()
            theirs.close()  # so that the end of a process that dies is told, not waited for
        steps = {kind: [] for kind in pipes}
        for _ in tqdm(range(rounds + 1), desc=f"training {name}", mininterval=5):
            for kind, pipe in pipes.items():
                pipe.send(True)
                steps[kind].append(pipe.recv())
        for pipe in pipes.values():
            pipe.send(False)
        known = [pipe.recv() for pipe in pipes.values()][1]
        # The first step builds what the others use.
        of = {kind: statistics.median(speed for speed, _ in taken[1:]) for kind, taken in steps.items()}
        of |= {"ratio": of["facelib"] / of["plain"]} | known
        of["loading"] = statistics.median(waited for _, waited in steps["facelib"][1:])
        # Forward and both gradients, a multiplication and an addition each.
        of["arithmetic"] = 6 * flops.count(name)["flops"] * of["facelib"] / matrix_product(rounds)
        found[name] = of
        for side, pipe in zip(sides, pipes.values()):
            pipe.send(None)
            side.join(10)
            side.kill()
    return {"backbones": found}


def table(found: dict) -> str:
    heads = ("plain", "facelib", "ratio", "loading", "convolving", "arithmetic")
    lines = [f"{'training, images/s':24s}" + "".join(f"{head:>12s}" for head in heads)]
    for name, of in found["backbones"].items():
        shares = f"{of['loading']:12.1%}{of['convolutions']:12.0%}{of['arithmetic']:12.0%}"
        lines.append(f"{name:24s}{of['plain']:12.1f}{of['facelib']:12.1f}{of['ratio']:12.2f}{shares}")
    return "\n".join(lines)


def plain_loop(backbone: nn.Module, batches: Callable, identities: int, device: str = "cpu") -> Iterator[int]:
    """One step after the other as everyone writes them; yields each one's images."""
    backbone.to(device)
    weight = nn.Parameter(torch.randn(identities, 512, device=device) / 100)
    optimizer = torch.optim.SGD([*backbone.parameters(), weight], 0.01, momentum=0.9, weight_decay=5e-4)
    while True:
        for images, labels in batches():
            loss = straightforward(backbone(images.to(device)), weight, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield len(images)


def begin(name: str, packed: Path, cache: Path, batch: int) -> Run:
    """facelib's run of a backbone on the packed faces."""
    config = Config(str(packed), "", str(cache), name, epochs=10**6, batch_size=batch, learning_rate=0.01)
    torch.manual_seed(0)
    faces, backbone = data.Pack(packed), create_model(name)
    return Run(config, data.Share(faces), backbone, ArcFace(512, len(faces.identities)), "cpu")


def our_loop(run: Run) -> Iterator[tuple[int, float]]:
    """Its steps; yields each one's images and the seconds that its batch was waited for."""
    while True:
        began = time.perf_counter()
        for images, labels in run.loader:
            waited = time.perf_counter() - began
            run.step(images, labels).item()
            yield len(images), waited
            began = time.perf_counter()


def train_on_demand(asked: Connection, kind: str, name: str, source: Path, cache: Path, batch: int) -> None:
    """In a process of its own: for each message but the last one a step, and what it took. At last what is known."""
    torch.manual_seed(0)
    if kind == "plain":
        faces = plain_faces(source)
        loader = lambda: DataLoader(faces, batch, shuffle=True, num_workers=WORKERS, drop_last=True)
        steps = ((images, 0.0) for images in plain_loop(create_model(name).train(), loader, len(faces.classes)))
    else:
        keep_freed_memory()  # as facelib.training does
        run = begin(name, source, cache, batch)
        steps = our_loop(run)
    while asked.recv():
        began = time.perf_counter()
        images, waited = next(steps)
        seconds = time.perf_counter() - began
        asked.send((images / seconds, waited / seconds))
    if kind == "plain":
        asked.send({})
    else:
        asked.send({"memory_format": run.config.memory_format, "convolutions": share_of_convolutions(run)})
    asked.recv()


def matrix_product(rounds: int, size: int = 2048) -> float:
    """Floating-point operations a second of a product of two square matrices, float32, median."""
    a, b, seconds = torch.rand(size, size), torch.rand(size, size), []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[1:])


def share_of_convolutions(run: Run) -> float:
    """Of a training step's time, by PyTorch's profiler."""
    run.loader.order.epoch, run.loader.order.skip = divmod(run.done, len(run.loader))
    images, labels = next(iter(run.loader))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run.step(images, labels)
    events = profile.key_averages()
    own = {event.key: event.self_cpu_time_total for event in events}
    return sum(time for key, time in own.items() if "convolution" in key or "conv2d" in key) / sum(own.values())
