"""Fast? Images a second, data included, and what the loss at many identities takes; all against the plain ways."""

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import functional as F

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.grid import begin
from facelib.bench_head import straightforward
from facelib.bench_training import plain_loop
from facelib.data import Loader, Pack, RecordIO, Share, pack
from facelib.embedder import create_model
from facelib.losses import ArcFace
from facelib.run_state import Run
from facelib.training_config import Config

SECONDS = 1.5  # that is measured, after the first steps, which build what the others use
FLIP = transforms.RandomHorizontalFlip()


def per_second(counts: Iterator[int], device: str) -> float:
    """Images a second of an iterator that yields how many each step took."""
    for _ in range(4):
        next(counts)
    images, began = 0, now(device)
    while (seconds := now(device) - began) < SECONDS:
        images += sum(next(counts) for _ in range(4))  # so that a GPU is not waited for after each step
    return images / seconds


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def steps(run: Run) -> Iterator[int]:
    for images, labels in itertools.chain.from_iterable(itertools.repeat(run.loader)):
        run.train_step(images, labels)
        yield len(images)


def gpu_busy(backbone: str, batch: int, bench: Bench) -> dict:
    """The share of ten steps' time in which a kernel runs, by PyTorch's profiler, in bf16 and channels last."""
    run = begin(bench.faces, Config("", "", backbone=backbone, batch_size=batch, precision="bf16"), bench.device)
    counts = steps(run)
    per_second(counts, bench.device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        began = now(bench.device)
        for _ in range(10):
            next(counts)
        seconds = now(bench.device) - began
    return {"gpu_busy": sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / seconds}


def training(backbone: str, batch: int, precision: str, layout: str, compiled: bool, bench: Bench) -> dict:
    shape = {"batch_size": batch, "precision": precision, "memory_format": layout, "compile": compiled}
    torch.compiler.reset()
    run = begin(bench.faces, Config("", "", backbone=backbone, epochs=10**6, **shape), bench.device)
    began, speed = time.perf_counter(), per_second(steps(run), bench.device)
    known = {"of": {"backbone": backbone} | shape, "images_per_second": speed}
    return known | ({"seconds_to_compile": time.perf_counter() - began - SECONDS} if compiled else {})


def plain_batch(items: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoded items as torchvision's pipeline makes a batch: one by one mirrored, then float32 in [-1, 1]."""
    images = [F.normalize(F.convert_image_dtype(FLIP(image)), [0.5] * 3, [0.5] * 3) for image, _ in items]
    return torch.stack(images), torch.tensor([label for _, label in items])


def plain_training(backbone: str, batch: int, bench: Bench) -> dict:
    """The plain loop: DataLoader, float32, contiguous, each step's loss asked for."""
    faces, options = RecordIO(bench.records), {"num_workers": os.cpu_count(), "collate_fn": plain_batch}
    batches = partial(DataLoader, faces, batch, shuffle=True, drop_last=True, **options)
    counts = plain_loop(create_model(backbone), batches, len(faces.identities), bench.device)
    return {"images_per_second": per_second(counts, bench.device)}


def head(identities: int, batch: int, plain: bool, bench: Bench) -> dict:
    """Images a second through the loss, forward and backward."""
    loss, x = ArcFace(512, identities).to(bench.device), torch.randn(batch, 512, device=bench.device)
    labels = torch.randint(0, identities, (batch,), device=bench.device)

    def counts() -> Iterator[int]:
        while True:
            loss.weight.grad = None
            mine = x.clone().requires_grad_()
            (straightforward(mine, loss.weight, labels) if plain else loss(mine, labels)).backward()
            yield batch

    return {"images_per_second": per_second(counts(), bench.device)}


def loading(packed: bool, batch: int, bench: Bench) -> dict:
    """The loader to the device, from RecordIO, which all cores decode, or from a pack."""
    faces = RecordIO(bench.records)
    if packed:
        some = Share(faces, min(1.0, 10_000 / len(faces)), keep_one=True)
        pack(some, bench.work / "faces.pack", workers=os.cpu_count())
        faces = Pack(bench.work / "faces.pack")
    loader = Loader(faces, batch, bench.device, shuffle=True, workers=0 if packed else os.cpu_count())
    counts = (len(images) for images, _ in itertools.chain.from_iterable(itertools.repeat(loader)))
    return {"images_per_second": per_second(counts, bench.device)}


def with_memory(call: Callable, bench: Bench) -> dict:
    """What the call returns, and on a GPU the most memory that it took."""
    if bench.device == "cpu":
        return call(bench)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    return call(bench) | {"peak_memory": torch.cuda.max_memory_allocated() - before}


def measurements(bench: Bench) -> dict[str, tuple[float, Callable]]:
    """Name -> the seconds that it may take and what to call, in the order of what the grid needs."""
    plan, device = bench.about["plan"], bench.device
    both, (small, large) = (plan["heavy"], plan["light"]), (8, 16) if device == "cpu" else (128, 512)
    many, most = (1000, 5000) if device == "cpu" else (93_431, 1_000_000)

    precisions = ("bf16", "float32") if device == "cpu" else ("bf16", "fp16", "float32")

    def trainings(batch: int, compiled: bool, precisions=precisions, layouts=("channels_last", "contiguous")) -> dict:
        return {
            f"{name}, batch {batch}, {precision}, {layout}{', compiled' if compiled else ''}": (
                60 if compiled else 5, partial(training, name, batch, precision, layout, compiled)
            )
            for precision, layout, name in itertools.product(precisions, layouts, both)
        }  # fmt: skip

    found = trainings(small, False)
    found |= {f"{name}, batch {small}, plain": (8, partial(plain_training, name, small)) for name in both}
    found |= {
        f"{name}, batch {small}, GPU busy": (5, partial(gpu_busy, name, small)) for name in both if device != "cpu"
    }
    sides = ((many, True), (many, False), (most, False))
    found |= {f"loss of {n} identities{', plain' * p}": (4, partial(head, n, large, p)) for n, p in sides}
    found |= {f"loading {'a pack' if p else 'RecordIO'}": (8, partial(loading, p, small)) for p in (False, True)}
    found |= trainings(small, True, ["bf16"], ["channels_last"]) | trainings(large, False)
    return {name: (seconds, partial(with_memory, call)) for name, (seconds, call) in found.items()}
