"""Pack what a machine without a network needs to check, time and train a profile's grid (`make gpu-kit`).

A kit is a folder of pieces of at most 60 MiB, which can be sent one by one: code (facelib, benchmarks, kit.json), lfw
(View 2's aligned crops as RecordIO, names.txt, pairs.txt), faces-1, faces-2, ... (the training faces' RecordIO, cut
between two records), model (the released one) and wheels, the packages that code/wheels.txt lists: a machine with
PyTorch and timm may lack them.
"""

import argparse
import hashlib
import io
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from benchmarks.gpu.faces import LfwCrops
from facelib import ROOT, demo, profiles, provenance, verification
from facelib.data import RecordIO, fingerprint_of, open_crops
from facelib.output import whole_folder, write_json
from facelib.pretrained import load_embedder
from facelib.protocol import Protocol
from facelib.recordio import HEADER, MAGIC, PREFIX
from facelib.results import load_results

PIECE = 60 * 2**20  # bytes at most
MOVES = 0.001  # of 1, that the crops' JPEG may move the released model's accuracy
COMPILED, PURE = ["simplejpeg"], ["facenet-pytorch", "fvcore", "iopath", "termcolor", "yacs"]


def grid(plan: dict, unfinished: list[str]) -> dict[str, dict]:
    """The plan's training runs that are verified in both lights, and these verifications, but for finished ones."""
    names = [name.removeprefix("train/") for name in plan["runs"] if name.startswith("train/")]
    runs = [[f"train/{name}", f"verify/{name}-normal", f"verify/{name}-low"] for name in names]
    wanted = [run for run in runs if {*run} <= {*plan["runs"]} and {*run} & {*unfinished}]
    return {name: plan["runs"][name] for run in wanted for name in run}


def write_records(crops: Dataset, folder: Path) -> None:
    """Items (crop (3, 112, 112) uint8, label) as train.rec and train.idx, JPEG of full colour resolution."""
    folder.mkdir(parents=True)
    with (folder / "train.rec").open("wb") as records, (folder / "train.idx").open("w") as index:
        for key in range(len(crops)):
            (crop, label), jpeg = crops[key], io.BytesIO()
            Image.fromarray(crop.permute(1, 2, 0).numpy()).save(jpeg, "JPEG", quality=95, subsampling=0)
            content = HEADER.pack(0, label, key, 0) + jpeg.getvalue()
            index.write(f"{key}\t{records.tell()}\n")
            records.write(PREFIX.pack(MAGIC, len(content)) + content + bytes(-len(content) % 4))


def write_faces(source: Path, kit: Path) -> None:
    """The pieces of a RecordIO, or of any other faces' aligned crops: facelib.data.open_crops."""
    if not (source / "train.rec").is_file():
        write_records(open_crops(source), kit / "faces-1")
        return
    whole, begins = (source / "train.rec").read_bytes(), np.sort(RecordIO(source).offsets)
    count = -(-len(whole) // (PIECE - 10 * 2**20))  # the first one holds train.idx too
    inner = [int(begins[np.searchsorted(begins, len(whole) * k // count)]) for k in range(1, count)]
    for k, (begin, end) in enumerate(pairwise([0, *inner, len(whole)]), 1):
        (kit / f"faces-{k}").mkdir()
        (kit / f"faces-{k}" / "train.rec").write_bytes(whole[begin:end])
    for file in [file for file in (source / "train.idx", source / "property") if file.exists()]:
        shutil.copyfile(file, kit / "faces-1" / file.name)


def write_lfw(lfw: Path, released: str | None, piece: Path) -> dict:
    """LFW's piece. Returns the released model's measures on its JPEG, or raises ValueError if these move by MOVES."""
    (images, pairs), protocol = verification.find_pairs(lfw), Protocol(flip=True)
    crops = verification.find_crops(images, pairs, protocol, 0, "build/landmarks", "cpu")
    write_records(crops, piece)
    (piece / "names.txt").write_text("".join(f"{name}\n" for name in crops.images), errors="surrogateescape")
    shutil.copyfile(lfw / "pairs.txt", piece / "pairs.txt")
    if released is None:
        return {}
    scores = [verification.score_pairs(load_embedder(released), side, protocol) for side in (crops, LfwCrops(piece))]
    before, after = (verification.protocol_measures(side, pairs, protocol) for side in scores)
    print(f"{released}: accuracy {before['accuracy']:.2%}, of the crops as JPEG {after['accuracy']:.2%}")
    if abs(after["accuracy"] - before["accuracy"]) >= MOVES:
        raise ValueError(f"{piece}: its JPEG moves the released model's accuracy by {MOVES:.1%} or more")
    return after


def write_kit(target: Path, plan: dict, runs: dict[str, dict]) -> None:
    pieces = ["code", "lfw", "model", "wheels", *(f"faces-{k}" for k in range(1, 1000))]
    with whole_folder(target, (*pieces,)) as kit:
        for package in ("facelib", "benchmarks"):
            shutil.copytree(ROOT / package, kit / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
        (kit / "code" / "wheels.txt").write_text("\n".join(lacking(COMPILED + PURE)) + "\n")
        write_faces(Path(plan["train_faces"]), kit)
        measures = write_lfw(Path(plan["lfw"]), plan["released"], kit / "lfw")
        if plan["released"]:
            (kit / "model").mkdir()
            for file in (Path(plan["released"]), Path(f"{plan['released']}.json")):  # its declaration, if there is one
                if file.exists():
                    shutil.copyfile(file, kit / "model" / file.name)
        images = (kit / "lfw" / "names.txt").read_text(errors="surrogateescape").splitlines()
        about = {"plan": plan | {"runs": runs}, "commit": provenance.commit(), "released": measures}
        about |= {"images": verification.lfw_images(plan["lfw"]).name, "lfw": fingerprint_of(plan["lfw"], images)}
        files = [file for file in sorted(kit.rglob("*")) if file.is_file()]
        about["files"] = {str(f.relative_to(kit)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
        write_json(kit / "code" / "kit.json", about)
        for piece in sorted(kit.iterdir()):
            size = sum(file.stat().st_size for file in piece.rglob("*") if file.is_file())
            print(f"{target / piece.name}: {size / 2**20:.1f} MiB")
            if size > PIECE:
                raise ValueError(f"{target / piece.name}: {size / 2**20:.1f} MiB, a piece may have {PIECE / 2**20:.0f}")


def lacking(names: list[str]) -> list[str]:
    """These packages as requirements.lock pins them."""
    lines = [line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    return [line for line in lines if line.split("==")[0] in names]


def fetch_wheels(folder: Path) -> None:
    """The packages that the machine may lack, for Python 3.12 on Linux (x86-64)."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    where = ["--only-binary=:all:", "--python-version=3.12", "--platform=manylinux2014_x86_64"]
    where += ["--platform=manylinux_2_28_x86_64", f"--dest={folder}"]
    subprocess.run([*pip, "download", "--no-deps", *where, *lacking(COMPILED)], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", *lacking(PURE)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--profile", default="", help="whose grid; default: the largest one that the data allow")
    parser.add_argument("--wheels", action="store_true", help="fetch the packages that the machine may lack")
    asked = parser.parse_args()
    known = profiles.read_profiles(ROOT / "notebooks" / "profiles.toml")
    profile = asked.profile or profiles.choose(known, asked.data, gpu=True)[0]
    profiles.main(str(asked.data), profile)
    if known[profile]["synthetic"]:
        demo.make_faces()
    results = load_results(Path("build") / profile)
    runs = grid(results["plan"], results["unfinished"])
    write_kit(asked.kit, results["plan"], runs)
    if asked.wheels:
        fetch_wheels(asked.kit / "wheels")
    print(f"{asked.kit}: {len(runs) // 3} training runs of profile {profile} that build/{profile} lacks")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"\n{error}")
