"""How fast images are loaded, the head and the backbones are trained and pairs are judged, against what everyone
writes: `make bench`.

    python -m benchmarks [DATA [PART ...]]    # DATA/celeb; without it synthetic faces of the same size

PART is loading, head or training; without one, all. Sides are measured in turns and medians count, so that what else
the machine does hits all alike. build/bench.json keeps the numbers, for the report.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import head, loading, training
from facelib import records
from facelib.data.landmarks import OWN
from facelib.data.layout import list_images
from facelib.files import write_json
from facelib.synthetic import sets

BUILD = Path("build/bench")
PARTS = ("loading", "head", "training")
ROUNDS = 5


def faces_in(folder: Path, build: Path) -> tuple[Path, bool]:
    """The folder, or one of synthetic faces if there is none; and whether they are synthetic."""
    if folder.is_dir():
        return folder, False
    if not (build / "faces" / OWN).exists():
        sets.make_identity_folder(build / "faces", identities=60, images_per_identity=20)
    return build / "faces", True


def main(
    folder: Path, parts: Sequence[str] = PARTS, cache: Path = Path("build/landmarks"), build: Path = BUILD
) -> None:
    """Bench these parts; build/bench.json keeps what earlier calls found of the others."""
    build.mkdir(parents=True, exist_ok=True)
    folder, synthetic_faces = faces_in(folder, build)
    about = {"synthetic": synthetic_faces, "folder": folder.name, "images": len(list_images(folder))}
    about |= {"threads": torch.get_num_threads(), "rounds": ROUNDS, "environment": records.environment()}
    kind = "synthetic faces" if synthetic_faces else str(folder)
    print(f"{about['images']:,} images of {kind}, {about['threads']} threads, medians of {ROUNDS} rounds")
    packed = build / "faces.pack"
    measure = {
        "loading": lambda: loading.measure(folder, packed, cache, ROUNDS),
        "head": lambda: head.measure(ROUNDS),
        "training": lambda: training.measure(folder, packed, cache, ROUNDS),
    }
    table = {"loading": loading.table, "head": head.table, "training": training.table}
    for part in parts:
        found = measure[part]()
        print(table[part](found))
        kept = build.with_suffix(".json")
        write_json(kept, (json.loads(kept.read_text()) if kept.exists() else {}) | {part: about | found})


if __name__ == "__main__":
    asked = sys.argv[2:] or PARTS
    if not {*asked} <= {*PARTS}:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "data") / "celeb", asked)
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
