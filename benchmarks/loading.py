"""How fast images are loaded and pairs are judged.

The plain pipeline is torchvision's: ImageFolder, RandomHorizontalFlip, CenterCrop, ToTensor, Normalize, DataLoader with
2 workers and batches of 128. Every side reads the same images, in turns.
"""

import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from facelib import data
from facelib.data.landmarks import find_landmarks
from facelib.data.layout import list_images
from facelib.faces.align import SIZE
from facelib.verification.measures import measures
from facelib.verification.scores import pair_scores

BATCH = 128
WORKERS = 2


def measure(folder: Path, packed: Path, cache: Path, rounds: int) -> dict:
    """images/s of each way to load the folder's images and their ratios, and the seconds that a user waits for a first
    batch and for View 2's measures. Medians over the rounds.
    """
    recordio = packed.with_name("recordio")
    if not recordio.exists():
        write_recordio(folder, recordio)
    aligned = data.IdentityFolder(folder, landmarks=find_landmarks(folder, cache))
    data.pack(aligned, packed)
    whole, records, pack = data.IdentityFolder(folder), data.RecordIO(recordio), data.Pack(packed)
    pack.verify()  # so that its pages are in memory, as the other sides' files are
    sides = {
        "plain": plain_pipeline(folder),
        "folder": loaded(whole, augmented=True, workers=WORKERS),
        "recordio": loaded(records, augmented=True, workers=WORKERS),
        "pack float32": loaded(pack, augmented=True),
        "pack uint8": loaded(pack, augmented=False),
        "memcpy": copied(pack),
    }
    taken = {name: [] for name in sides}
    for _ in tqdm(range(rounds), desc="rounds", mininterval=5):
        for name, batches in sides.items():
            taken[name].append(images_per_second(batches, len(whole)))
    speeds = {name: statistics.median(of) for name, of in taken.items()}
    ratios = {name: speeds[name] / speeds["plain"] for name in ("folder", "recordio", "pack float32", "pack uint8")}
    ratios["pack uint8 to memcpy"] = speeds["pack uint8"] / speeds["memcpy"]
    seconds = {"first batch, seconds": first_batch(packed, rounds), "view 2, seconds": view_2(rounds)}
    return {"speeds": speeds, "ratios": ratios} | seconds


def table(found: dict) -> str:
    lines = [f"{'loading':24s}{'images/s':>12s}{'to plain':>12s}"]
    for name, speed in found["speeds"].items():
        lines.append(f"{name:24s}{speed:12,.0f}{speed / found['speeds']['plain']:12.2f}")
    lines.append(f"pack, uint8, to memcpy: {found['ratios']['pack uint8 to memcpy']:.2f}")
    lines.append(f"first batch of a pack: {found['first batch, seconds']:.3f} s")
    lines.append(f"scores and measures of View 2's 6,000 pairs: {found['view 2, seconds']:.3f} s")
    return "\n".join(lines)


def images_per_second(batches: Callable, count: int) -> float:
    """Of one pass over `count` images, the start of workers and the first batch left out."""
    iterator = iter(batches())
    first = len(next(iterator)[0])
    began = time.perf_counter()
    for _ in iterator:
        pass
    return (count - first) / (time.perf_counter() - began)


def plain_faces(folder: Path) -> torchvision.datasets.ImageFolder:
    steps = [transforms.RandomHorizontalFlip(), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.5] * 3, [0.5] * 3))
    return torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))


def plain_pipeline(folder: Path) -> Callable:
    faces = plain_faces(folder)
    return lambda: DataLoader(faces, BATCH, shuffle=True, num_workers=WORKERS)


def loaded(faces: Dataset, augmented: bool, workers: int = 0) -> Callable:
    """facelib's loader: uint8, or augmented float32. A pack needs no workers."""
    loader, flips = data.Loader(faces, BATCH, shuffle=True, workers=workers, crop=SIZE), torch.Generator()

    def batches():
        for images, labels in loader:
            yield (data.augment(images, flips) if augmented else images), labels

    return batches


def copied(faces: Dataset) -> Callable:
    """numpy's copy of as many bytes as the packed images have, batch by batch."""
    source = np.ones((len(faces), SIZE, SIZE, 3), np.uint8)
    target = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)

    def batches():
        for start in range(0, len(source), BATCH):
            batch = source[start : start + BATCH]
            np.copyto(target[: len(batch)], batch)
            yield batch, None

    return batches


def write_recordio(folder: Path, target: Path) -> None:
    """The folder's files as insightface's train.rec, by dmlc's framing and insightface's header records."""
    target.mkdir(parents=True)
    images = list_images(folder)
    identities = sorted({image.split("/")[0] for image in images})
    keys = {name: [k for k, image in enumerate(images, 1) if image.split("/")[0] == name] for name in identities}
    first, last = len(images) + 1, len(images) + 1 + len(identities)

    def header(key: int, label: float, labels: tuple = ()) -> bytes:
        return struct.pack("<IfQQ", len(labels), label, key, 0) + struct.pack(f"<{len(labels)}f", *labels)

    label_of = {name: label for label, name in enumerate(identities)}
    with (target / "train.rec").open("wb") as records, (target / "train.idx").open("w") as index:
        for key in range(last):
            if key == 0:
                content = header(0, 0, (first, last))
            elif key < first:
                image = images[key - 1]
                content = header(key, label_of[image.split("/")[0]]) + (folder / image).read_bytes()
            else:
                of = keys[identities[key - first]]
                content = header(key, 0, (of[0], of[-1] + 1))
            index.write(f"{key}\t{records.tell()}\n")
            records.write(struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4))


def first_batch(packed: Path, rounds: int) -> float:
    """Seconds from opening the pack to its first shuffled batch."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        next(iter(data.Loader(data.Pack(packed), BATCH, shuffle=True)))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def view_2(rounds: int, images: int = 7701, dimensions: int = 512, folds: int = 10, n: int = 300) -> float:
    """Seconds for the scores of View 2's 6,000 pairs of embeddings at hand, and all measures."""
    rng = np.random.default_rng(0)
    embeddings = torch.nn.functional.normalize(torch.randn(images, dimensions))
    first, second = rng.integers(0, images, (2, folds * 2 * n))
    genuine, fold = np.tile(np.repeat([True, False], n), folds), np.repeat(np.arange(folds), 2 * n)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        measures(pair_scores(embeddings, first, second), genuine, fold)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
