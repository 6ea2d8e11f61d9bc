"""Fast? Images a second, data included, and through the loss at many identities; all against the plain ways."""

import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, repeat

import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.gpu.grid import attempt, begin_in_memory
from benchmarks.gpu.kit import Kit
from benchmarks.head import straightforward
from benchmarks.training import plain_loop
from facelib.data import Loader, Pack, RecordIO, Share, pack
from facelib.losses import ArcFace
from facelib.models.backbones import create_model
from facelib.training import Config

SECONDS = 1.5  # that is measured, after the first steps, which build what the others use
FLIP = transforms.RandomHorizontalFlip()
SCALE = transforms.Compose([transforms.ConvertImageDtype(torch.float32), transforms.Normalize([0.5] * 3, [0.5] * 3)])


def measured(counts: Iterator[int], kit: Kit) -> dict:
    """Of what yields each step's images: the first steps' seconds, images a second and, on a GPU, the share of the
    time in which a kernel runs and the most memory.
    """
    wait = torch.cuda.synchronize if kit.device == "cuda" else lambda: None
    if kit.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    sum(next(counts) for _ in range(4))
    wait()
    first, images, began = time.perf_counter() - began, 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        images += sum(next(counts) for _ in range(4))  # so that a GPU is not waited for after each step
        wait()
    found = {"images/s": images / (time.perf_counter() - began), "seconds to begin": first}
    if kit.device == "cuda":
        found["peak memory"] = torch.cuda.max_memory_allocated()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            began = time.perf_counter()
            sum(next(counts) for _ in range(4))
            wait()
            seconds = time.perf_counter() - began
        found["GPU busy"] = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / seconds
    return found


def training(kit: Kit, backbone: str, batch: int, precision: str, layout: str, compiled: bool = False) -> dict:
    torch.compiler.reset()
    shape = {"batch_size": batch, "precision": precision, "memory_format": layout, "compile": compiled}
    run = begin_in_memory(kit.faces, Config("", "", backbone=backbone, epochs=10**6, **shape), kit.device)

    def steps() -> Iterator[int]:
        for images, labels in chain.from_iterable(repeat(run.loader)):
            if len(images) < batch:  # an epoch's last one, for which all kernels would be chosen anew
                run.done += 1
                continue
            run.step(images, labels)
            yield batch

    return measured(steps(), kit)


def plain_training(kit: Kit, backbone: str, batch: int) -> dict:
    """DataLoader, float32, contiguous, each step's loss asked for."""
    collate = lambda items: (torch.stack([SCALE(FLIP(x)) for x, _ in items]), torch.tensor([y for _, y in items]))
    options = {"num_workers": os.cpu_count(), "collate_fn": collate, "shuffle": True, "drop_last": True}
    batches = partial(DataLoader, RecordIO(kit.records), batch, **options)
    return measured(plain_loop(create_model(backbone), batches, len(kit.faces.identities), kit.device), kit)


def head(kit: Kit, identities: int, batch: int, plain: bool = False) -> dict:
    loss, x = ArcFace(512, identities).to(kit.device), torch.randn(batch, 512, device=kit.device)
    labels = torch.randint(0, identities, (batch,), device=kit.device)

    def steps() -> Iterator[int]:
        while True:
            loss.weight.grad, mine = None, x.clone().requires_grad_()
            (straightforward(mine, loss.weight, labels) if plain else loss(mine, labels)).backward()
            yield batch

    return measured(steps(), kit)


def loading(kit: Kit, batch: int, packed: bool) -> dict:
    """To the device, from RecordIO, which all cores decode, or from a pack of ten thousand."""
    faces = RecordIO(kit.records)
    if packed:
        pack(Share(faces, min(1.0, 10_000 / len(faces)), keep_one=True), target := kit.records.with_suffix(".pack"))
        faces = Pack(target)
    loader = Loader(faces, batch, kit.device, shuffle=True, workers=0 if packed else os.cpu_count())
    return measured((len(images) for images, _ in chain.from_iterable(repeat(loader))), kit)


def measurements(kit: Kit, until: float) -> Iterator[tuple[str, dict]]:
    plan, cpu = kit.about["plan"], kit.device == "cpu"
    both, (small, large) = (plan["heavy"], plan["light"]), (8, 16) if cpu else (128, 512)
    many, most = (1000, 5000) if cpu else (93_431, 1_000_000)
    shapes = [(p, f) for p in ("bf16", "fp16", "float32")[:: 2 if cpu else 1] for f in ("channels_last", "contiguous")]
    # Name: the seconds that it may take and what to call.
    calls = {f"{b}, {small} at a time, plain": (8, partial(plain_training, kit, b, small)) for b in both}
    calls |= {f"{b}, {p}, {f}": (8, partial(training, kit, b, small, p, f)) for p, f in shapes for b in both}
    calls |= {f"loss of {many} identities, plain": (4, partial(head, kit, many, large, True))}
    calls |= {f"loss of {n} identities": (4, partial(head, kit, n, large)) for n in (many, most)}
    calls |= {f"loading {'a pack' if p else 'RecordIO'}": (8, partial(loading, kit, small, p)) for p in (False, True)}
    calls |= {f"{b}, {large} at a time": (8, partial(training, kit, b, large, *shapes[0])) for b in both}
    calls |= {f"{b}, compiled": (60, partial(training, kit, b, small, *shapes[0], True)) for b in both}
    for name, (seconds, call) in calls.items():
        yield name, attempt(call, seconds, until)
