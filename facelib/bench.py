"""How fast data is loaded and pairs are judged, against what everyone writes: `make bench`.

    python -m facelib.bench [DATA]    # DATA/celeb and DATA/lfw; without them synthetic faces of the same size

The plain pipeline is torchvision's: ImageFolder, RandomHorizontalFlip, CenterCrop, ToTensor, Normalize, DataLoader with
2 workers and batches of 128. Every side reads the same images, in turns, and the median of ROUNDS rounds counts, so
that what else the machine does hits all alike. Printed as ratios; the numbers are kept in build/bench.json.
"""

import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm import tqdm

from facelib import data, provenance, synthetic
from facelib.embedder import SIZE
from facelib.images import list_images
from facelib.landmarks import OWN, find_landmarks
from facelib.output import write_json
from facelib.verification import measures, pair_scores

BUILD = Path("build/bench")
PACK = "faces.pack"
ROUNDS = 5
BATCH = 128
WORKERS = 2


def images_per_second(batches: Callable, count: int) -> float:
    """Of one pass over `count` images, the start of workers and the first batch left out."""
    iterator = iter(batches())
    first = len(next(iterator)[0])
    began = time.perf_counter()
    for _ in iterator:
        pass
    return (count - first) / (time.perf_counter() - began)


def plain_pipeline(folder: Path) -> Callable:
    steps = [transforms.RandomHorizontalFlip(), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.5] * 3, [0.5] * 3))
    faces = torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))
    return lambda: DataLoader(faces, BATCH, shuffle=True, num_workers=WORKERS)


def loaded(faces: data.Dataset, augmented: bool, workers: int = 0) -> Callable:
    """facelib's loader: uint8, or augmented float32. A pack needs no workers."""
    loader, flips = data.Loader(faces, BATCH, shuffle=True, workers=workers, crop=SIZE), torch.Generator()

    def batches():
        for images, labels in loader:
            yield (data.augment(images, flips) if augmented else images), labels

    return batches


def copied(faces: data.Dataset) -> Callable:
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


def bench_loading(folder: Path, cache: Path) -> dict[str, float]:
    """images/s of each way to load the folder's images, medians over ROUNDS."""
    recordio, packed = BUILD / "recordio", BUILD / PACK
    if not recordio.exists():
        write_recordio(folder, recordio)
    aligned = data.IdentityFolder(folder, landmarks=find_landmarks(folder, cache))
    data.pack(aligned, packed)
    whole, records, pack = data.IdentityFolder(folder), data.RecordIO(recordio), data.Pack(packed)
    pack.verify()  # now, not while it is timed: each chunk's checksum is compared once
    sides = {
        "plain": plain_pipeline(folder),
        "folder": loaded(whole, augmented=True, workers=WORKERS),
        "recordio": loaded(records, augmented=True, workers=WORKERS),
        "pack float32": loaded(pack, augmented=True),
        "pack uint8": loaded(pack, augmented=False),
        "memcpy": copied(pack),
    }
    speeds = {name: [] for name in sides}
    for _ in tqdm(range(ROUNDS), desc="rounds", mininterval=5):
        for name, batches in sides.items():
            speeds[name].append(images_per_second(batches, len(whole)))
    return {name: statistics.median(of) for name, of in speeds.items()}


def first_batches() -> float:
    """Seconds from opening the pack to its first shuffled batch, checksums compared, median over ROUNDS."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        next(iter(data.Loader(data.Pack(BUILD / PACK), BATCH, shuffle=True)))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def bench_verification(images: int = 7701, dimensions: int = 512, folds: int = 10, n: int = 300) -> float:
    """Seconds for the scores of View 2's 6000 pairs of embeddings at hand, and all measures, median over ROUNDS."""
    rng = np.random.default_rng(0)
    embeddings = torch.nn.functional.normalize(torch.randn(images, dimensions))
    first, second = rng.integers(0, images, (2, folds * 2 * n))
    genuine, fold = np.tile(np.repeat([True, False], n), folds), np.repeat(np.arange(folds), 2 * n)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        measures(pair_scores(embeddings, first, second), genuine, fold)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main(folder: Path, cache: Path = Path("build/landmarks")) -> None:
    synthetic_faces = not folder.is_dir()
    if synthetic_faces:
        folder = BUILD / "faces"
        if not (folder / OWN).exists():
            synthetic.make_identity_folder(folder, identities=60, images_per_identity=20)
    BUILD.mkdir(parents=True, exist_ok=True)
    speeds = bench_loading(folder, cache)
    plain, memcpy = speeds["plain"], speeds["memcpy"]
    ratios = {name: speeds[name] / plain for name in ("folder", "recordio", "pack float32", "pack uint8")}
    ratios["pack uint8 to memcpy"] = speeds["pack uint8"] / memcpy
    found = {"synthetic": synthetic_faces, "folder": folder.name, "images": len(list_images(folder))}
    found |= {
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "loading": speeds,
        "ratios": ratios,
        "first batch, seconds": first_batches(),
    }
    found |= {"view 2, seconds": bench_verification(), "environment": provenance.environment()}
    write_json(BUILD.with_suffix(".json"), found)
    kind = "synthetic faces" if synthetic_faces else str(folder)
    print(f"{found['images']:,} images of {kind}, {found['threads']} threads, medians of {ROUNDS} rounds")
    print(f"{'':24s}{'images/s':>12s}{'to plain':>12s}")
    for name, speed in speeds.items():
        print(f"{name:24s}{speed:12,.0f}{speed / plain:12.2f}")
    print(f"pack, uint8, to memcpy: {ratios['pack uint8 to memcpy']:.2f}")
    print(f"first batch of a pack: {found['first batch, seconds']:.3f} s")
    print(f"scores and measures of View 2's 6,000 pairs: {found['view 2, seconds']:.3f} s")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "data") / "celeb")
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
