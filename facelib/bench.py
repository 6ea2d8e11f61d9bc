"""How fast data is loaded, models are trained and pairs are judged, against what everyone writes: `make bench`.

    python -m facelib.bench [DATA [PART ...]]    # DATA/celeb; without it synthetic faces of the same size

PART is loading, head or training; without one, all. The numbers are kept in build/bench.json.

The head is compared with the straightforward ArcFace (normalise, matmul, clone, margin, scale, cross entropy), in a
process of its own each, which tells the most memory that a step took. The plain loop of training is float32, in
PyTorch's default memory format, asks for each step's loss and reads by the plain pipeline's loader.

The plain pipeline is torchvision's: ImageFolder, RandomHorizontalFlip, CenterCrop, ToTensor, Normalize, DataLoader with
2 workers and batches of 128. Every side reads the same images, in turns, and the median of ROUNDS rounds counts, so
that what else the machine does hits all alike. Printed as ratios.
"""

import json
import multiprocessing
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm import tqdm

from facelib import ROOT, data, flops, freed_memory, memory_format, provenance, synthetic
from facelib.embedder import SIZE, create_model
from facelib.images import list_images
from facelib.landmarks import OWN, find_landmarks
from facelib.losses import ArcFace
from facelib.output import write_json
from facelib.precision import precision_of
from facelib.run_state import Run
from facelib.training_config import Config
from facelib.verification import measures, pair_scores

BUILD = Path("build/bench")
PACK = "faces.pack"
PARTS = ("loading", "head", "training")
BACKBONES = ("iresnet50", "efficientnet_b3")
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


def plain_faces(folder: Path) -> torchvision.datasets.ImageFolder:
    steps = [transforms.RandomHorizontalFlip(), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.5] * 3, [0.5] * 3))
    return torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))


def plain_pipeline(folder: Path) -> Callable:
    faces = plain_faces(folder)
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


def straightforward(x: Tensor, weight: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.5) -> Tensor:
    """ArcFace as everyone writes it."""
    cosine = F.linear(F.normalize(x), F.normalize(weight))
    logits, rows = cosine.clone(), labels[:, None]
    angle = cosine.gather(1, rows).clamp(-1 + 1e-7, 1 - 1e-7).acos()
    logits.scatter_(1, rows, (angle + margin).cos())
    return F.cross_entropy(scale * logits, labels)


def head_step(kind: str, identities: int, batch: int = 512, size: int = 512) -> None:
    """Print the median seconds of a head's forward and backward pass, and the most bytes that one took besides what was
    there before. To be run in a process of its own.
    """
    torch.manual_seed(0)
    head, x = ArcFace(size, identities), torch.randn(batch, size, requires_grad=True)
    labels, seconds, most = torch.randint(0, identities, (batch,)), [], []
    for _ in range(ROUNDS + 1):
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


def bench_head() -> dict:
    """Both heads at MS1MV3's 93,431 identities, and facelib's from 10 thousand to a million."""

    def measured(kind: str, identities: int) -> dict:
        code = f"from facelib import bench; bench.head_step({kind!r}, {identities})"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        return json.loads(done.stdout)

    plain, ours = (measured(kind, 93_431) for kind in ("straightforward", "facelib"))
    grown = {f"{count}": measured("facelib", count) for count in (10_000, 100_000, 1_000_000)}
    ratios = {name: ours[name] / plain[name] for name in ("seconds", "bytes")}
    return {
        "identities": 93_431,
        "batch": 512,
        "straightforward": plain,
        "facelib": ours,
        "ratios": ratios,
        "grown": grown,
    }


def plain_loop(backbone: nn.Module, batches: Callable, identities: int) -> Iterator[int]:
    """One step after the other as everyone writes them; yields each one's images."""
    weight = nn.Parameter(torch.randn(identities, 512) / 100)
    optimizer = torch.optim.SGD([*backbone.parameters(), weight], 0.01, momentum=0.9, weight_decay=5e-4)
    while True:
        for images, labels in batches():
            loss = straightforward(backbone(images), weight, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield len(images)


def begin(name: str, packed: Path, cache: Path, batch: int) -> Run:
    """facelib's run of a backbone on the packed faces."""
    config = Config(str(packed), "", str(cache), name, epochs=10**6, batch_size=batch, learning_rate=0.01)
    torch.manual_seed(0)
    faces, backbone, precision = data.Pack(packed), create_model(name), precision_of("auto", "cpu")
    layout = memory_format.choose(backbone, name, "cpu", precision, cache)
    return Run(config, data.Share(faces), "", backbone, ArcFace(512, len(faces.identities)), "cpu", precision, layout)


def our_loop(run: Run) -> Iterator[tuple[int, float]]:
    """Its steps; yields each one's images and the seconds that its batch was waited for."""
    while True:
        began = time.perf_counter()
        for images, labels in run.loader:
            waited = time.perf_counter() - began
            run.train_step(images, labels).item()
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
        freed_memory.keep()  # as facelib.train does
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
        asked.send({"memory_format": run.memory_format, "convolutions": share_of_convolutions(run)})
    asked.recv()


def bench_training(folder: Path, cache: Path, batch: int = 16) -> dict:
    """images/s of training in the plain loop and in facelib's, both backbones, steps in turns, each loop in a process
    of its own; and how near the latter comes to the arithmetic that a product of matrices reaches.
    """
    found: dict[str, dict] = {}
    if not (BUILD / PACK).exists():
        data.pack(folder, BUILD / PACK, cache=cache)
    for name in BACKBONES:
        begin(name, BUILD / PACK, cache, batch)  # its trial of memory formats, while nothing else runs
        sides, pipes = [], {}
        for kind in ("plain", "facelib"):
            pipes[kind], theirs = multiprocessing.Pipe()
            arguments = (theirs, kind, name, folder if kind == "plain" else BUILD / PACK, cache, batch)
            context = multiprocessing.get_context("spawn")
            sides.append(context.Process(target=train_on_demand, args=arguments, daemon=kind == "facelib"))
            sides[-1].start()
            theirs.close()  # so that the end of a process that dies is told, not waited for
        steps = {kind: [] for kind in pipes}
        for _ in tqdm(range(ROUNDS + 1), desc=f"training {name}", mininterval=5):
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
        of["arithmetic"] = 6 * flops.count(name)["flops"] * of["facelib"] / matrix_product()
        found[name] = of
        for side, pipe in zip(sides, pipes.values()):
            pipe.send(None)
            side.join(10)
            side.kill()
    return found


def matrix_product(size: int = 2048) -> float:
    """Floating-point operations a second of a product of two square matrices, float32, median of ROUNDS."""
    a, b, seconds = torch.rand(size, size), torch.rand(size, size), []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[1:])


def share_of_convolutions(run: Run) -> float:
    """Of a training step's time, by PyTorch's profiler."""
    run.loader.order.epoch, run.loader.order.skip = divmod(run.step, len(run.loader))
    images, labels = next(iter(run.loader))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run.train_step(images, labels)
    events = profile.key_averages()
    own = {event.key: event.self_cpu_time_total for event in events}
    return sum(time for key, time in own.items() if "convolution" in key or "conv2d" in key) / sum(own.values())


def faces_in(folder: Path) -> tuple[Path, bool]:
    """The folder, or one of synthetic faces if there is none; and whether they are synthetic."""
    if folder.is_dir():
        return folder, False
    if not (BUILD / "faces" / OWN).exists():
        synthetic.make_identity_folder(BUILD / "faces", identities=60, images_per_identity=20)
    return BUILD / "faces", True


def main(folder: Path, parts: Sequence[str] = PARTS, cache: Path = Path("build/landmarks")) -> None:
    """Bench these parts; build/bench.json keeps what earlier calls found of the others."""
    BUILD.mkdir(parents=True, exist_ok=True)
    folder, synthetic_faces = faces_in(folder)
    kept = BUILD.with_suffix(".json")
    found = json.loads(kept.read_text()) if kept.exists() else {}
    about = {"synthetic": synthetic_faces, "folder": folder.name, "images": len(list_images(folder))}
    about |= {"threads": torch.get_num_threads(), "rounds": ROUNDS, "environment": provenance.environment()}
    kind = "synthetic faces" if synthetic_faces else str(folder)
    print(f"{about['images']:,} images of {kind}, {about['threads']} threads, medians of {ROUNDS} rounds")
    if "loading" in parts:
        speeds = bench_loading(folder, cache)
        ratios = {name: speeds[name] / speeds["plain"] for name in ("folder", "recordio", "pack float32", "pack uint8")}
        ratios["pack uint8 to memcpy"] = speeds["pack uint8"] / speeds["memcpy"]
        seconds = {"first batch, seconds": first_batches(), "view 2, seconds": bench_verification()}
        found["loading"] = about | {"speeds": speeds, "ratios": ratios} | seconds
        print(f"{'':24s}{'images/s':>12s}{'to plain':>12s}")
        for name, speed in speeds.items():
            print(f"{name:24s}{speed:12,.0f}{speed / speeds['plain']:12.2f}")
        print(f"pack, uint8, to memcpy: {ratios['pack uint8 to memcpy']:.2f}")
        print(f"first batch of a pack: {seconds['first batch, seconds']:.3f} s")
        print(f"scores and measures of View 2's 6,000 pairs: {seconds['view 2, seconds']:.3f} s")
    if "head" in parts:
        head = found["head"] = about | bench_head()
        print(f"{'head, batch of 512':24s}{'identities':>12s}{'seconds':>12s}{'MB':>12s}")
        sides = {"straightforward": head["straightforward"], "facelib": head["facelib"]}
        rows = [(name, head["identities"], side) for name, side in sides.items()]
        for name, count, side in [*rows, *(("facelib", int(count), side) for count, side in head["grown"].items())]:
            print(f"{name:24s}{count:12,d}{side['seconds']:12.2f}{side['bytes'] / 1e6:12,.0f}")
        print(
            "to straightforward: " + ", ".join(f"{ratio:.2f} of its {name}" for name, ratio in head["ratios"].items())
        )
    if "training" in parts:
        training = found["training"] = about | {"backbones": bench_training(folder, cache)}
        print(
            f"{'training, images/s':24s}{'plain':>12s}{'facelib':>12s}{'ratio':>12s}{'loading':>12s}{'convolving':>12s}"
            f"{'arithmetic':>12s}"
        )
        for name, of in training["backbones"].items():
            shares = f"{of['loading']:12.1%}{of['convolutions']:12.0%}{of['arithmetic']:12.0%}"
            print(f"{name:24s}{of['plain']:12.1f}{of['facelib']:12.1f}{of['ratio']:12.2f}{shares}")
    write_json(kept, found)


if __name__ == "__main__":
    asked = sys.argv[2:] or PARTS
    if not {*asked} <= {*PARTS}:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "data") / "celeb", asked)
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
