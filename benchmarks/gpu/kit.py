"""Pack what a machine without a network needs to check, time and train a profile's grid (`make gpu-kit`).

A kit is a folder of pieces of at most 60 MiB, which can be sent one by one: code (facelib, report, benchmarks, a
device's tests, kit.json), lfw (facelib.data.pair_records), faces-1, faces-2, ... (the training faces' RecordIO, cut
between two records), model (the released one) and wheels, the packages that code/wheels.txt lists: such a machine may
lack them.
"""

import argparse
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from facelib import ROOT, records
from facelib.data import InMemory, PairRecords, RecordIO, fingerprint_of, open_crops
from facelib.data.layout import lfw_images
from facelib.data.pair_records import write_crops, write_pair_records
from facelib.devices import choose_device
from facelib.files import whole_folder, write_json
from facelib.models.pretrained import load_embedder
from facelib.studies import demo
from facelib.verification import measures
from facelib.verification import scores as verification
from facelib.verification.protocol import Protocol
from facelib.verification.testset import open_test
from report import plan as profiles

PIECE = 60 * 2**20  # bytes at most
MOVES = 0.001  # of 1, that the crops' JPEG may move the released model's accuracy
COMPILED, PURE = ["simplejpeg"], ["facenet-pytorch", "fvcore", "iopath", "termcolor", "yacs"]


class Kit:
    """What lies in a kit, the training faces on the device. Raises OSError, naming it, for what is missing."""

    def __init__(self, folder: Path, work: Path, device: str):
        self.folder, self.device, self.records = folder, choose_device(device), work / "faces"
        self.about = json.loads((folder / "code" / "kit.json").read_text())
        self.environment = records.environment(self.device) | {"commit": self.about["commit"]}
        shutil.copytree(folder / "faces-1", self.records)
        with (self.records / "train.rec").open("ab") as whole:
            for k in range(2, 1 + self.about["pieces"]):
                whole.write((folder / f"faces-{k}" / "train.rec").read_bytes())
        self.faces, self.lfw = InMemory(RecordIO(self.records), self.device), open_test(folder / "lfw")


def write_faces(source: Path, kit: Path) -> int:
    """The pieces of a RecordIO, or of any other faces' aligned crops. Returns how many."""
    if not (source / "train.rec").is_file():
        write_crops(open_crops(source), kit / "faces-1")
        return 1
    whole, begins = (source / "train.rec").read_bytes(), np.sort(RecordIO(source).offsets)
    count = -(-len(whole) // (PIECE - 10 * 2**20))  # the first one holds train.idx too
    inner = [int(begins[np.searchsorted(begins, len(whole) * k // count)]) for k in range(1, count)]
    for k, (begin, end) in enumerate(pairwise([0, *inner, len(whole)]), 1):
        (kit / f"faces-{k}").mkdir()
        (kit / f"faces-{k}" / "train.rec").write_bytes(whole[begin:end])
    for file in filter(Path.exists, (source / "train.idx", source / "property")):
        shutil.copyfile(file, kit / "faces-1" / file.name)
    return count


def write_lfw(lfw: Path, released: str | None, piece: Path) -> None:
    """LFW's piece. Raises ValueError if its JPEG moves the released model's accuracy by MOVES."""
    test, protocol = open_test(lfw), Protocol(flip=True)
    write_pair_records(test.crops, lfw / "pairs.txt", piece)
    if released:
        embedder, sides = load_embedder(released), (test.crops, PairRecords(piece))
        scores = [verification.score_pairs(embedder, crops, protocol) for crops in sides]
        before, after = (measures.protocol_measures(side, test.pairs, protocol)["accuracy"] for side in scores)
        print(f"{released}: accuracy {before:.2%}, of the crops as JPEG {after:.2%}")
        if abs(after - before) >= MOVES:
            raise ValueError(f"{piece}: its JPEG moves the released model's accuracy by {MOVES:.1%} or more")


def write_kit(target: Path, plan: dict) -> None:
    with whole_folder(target, ("code", "lfw", "model", "wheels", *(f"faces-{k}" for k in range(1, 1000)))) as kit:
        for package in ("facelib", "report", "benchmarks"):
            shutil.copytree(ROOT / package, kit / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
        (kit / "code" / "tests").mkdir()
        shutil.copy(ROOT / "tests" / "test_device.py", kit / "code" / "tests")
        (kit / "code" / "wheels.txt").write_text("\n".join(locked(COMPILED + PURE)) + "\n")
        about = {"plan": plan, "commit": records.commit(), "pieces": write_faces(Path(plan["train_faces"]), kit)}
        write_lfw(Path(plan["lfw"]), plan["released"], kit / "lfw")
        (kit / "model").mkdir()
        for file in map(Path, [plan["released"], f"{plan['released']}.json"] if plan["released"] else []):
            if file.exists():  # not every model has a declaration
                shutil.copy(file, kit / "model")
        images = (kit / "lfw" / "names.txt").read_text(errors="surrogateescape").splitlines()
        about |= {"images": lfw_images(plan["lfw"]).name, "lfw": fingerprint_of(plan["lfw"], images)}
        write_json(kit / "code" / "kit.json", about)
        for piece in sorted(kit.iterdir()):
            size = sum(file.stat().st_size for file in piece.rglob("*") if file.is_file())
            print(f"{target / piece.name}: {size / 2**20:.1f} MiB")
            if size > PIECE:
                raise ValueError(f"{target / piece.name}: {size / 2**20:.1f} MiB, a piece may have {PIECE / 2**20:.0f}")


def locked(names: list[str]) -> list[str]:
    """These packages as requirements.lock pins them."""
    lines = [line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines()]
    return [line for line in lines if line.split("==")[0] in names]


def fetch_wheels(folder: Path) -> None:
    """For Python 3.12 on Linux (x86-64)."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    where = ["--only-binary=:all:", "--python-version=3.12", "--platform=manylinux_2_28_x86_64", f"--dest={folder}"]
    subprocess.run([*pip, "download", "--no-deps", *where, *locked(COMPILED)], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", *locked(PURE)], check=True)


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
    write_kit(asked.kit, json.loads(Path(f"build/{profile}/plan.json").read_text()))
    if asked.wheels:
        fetch_wheels(asked.kit / "wheels")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"\n{error}")
