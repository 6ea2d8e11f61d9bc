"""Aligned crops of a folder of photographs, and a manifest that tells what became of each.

Landmarks are facelib.data.landmarks', found by one of facelib.faces.detectors.

    python -m facelib.data.align_folder SOURCE TARGET [DETECTOR [FACELESS]]
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from facelib.data.landmarks import COLUMNS, OWN, SEEN, detect, rows_file, with_median
from facelib.data.layout import images_folder, list_images, passed_over
from facelib.faces.align import align
from facelib.faces.detectors import DETECTORS, SMALLEST, TEMPLATE
from facelib.faces.image import read_image
from facelib.files import telling

FACELESS = ("median", "drop")
MANIFEST = "manifest.csv"


def align_folder(
    source: str | Path, target: str | Path, detector: str = "mtcnn", faceless: str = "median", device: str = "cpu"
) -> pd.DataFrame:
    """Align every image `<identity>/<file>` of a folder, or of an LFW folder, into `<target>/<identity>/<file>.png`.

    Of several faces in an image the large and central one is taken (detectors.main_face). An image without
    one is aligned by the median landmarks of the others, in shares of its sides, or dropped: with `faceless` "drop", or
    if it is too small for a face.
    Crops are 112x112, lossless. The target also gets

        manifest.csv     a row for each image of the source: outcome (aligned, fallback, dropped), reason, crop,
                         landmarks, score, box, width, height, in pixels of the source
        landmarks.csv    the template for each crop, so that what reads the target detects nothing
        pairs*.txt       as they are in the source

    and is a data folder like any other. Returns the manifest. A killed call continues where it stopped; images that
    are new or changed since are aligned, others left alone. Raises ValueError or OSError, naming what is wrong: an
    unknown detector, a source without a face, a target that was aligned in another way or holds other things.
    """
    source, target = Path(source), Path(target)
    if detector not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, found {detector!r}")
    if faceless not in FACELESS:
        raise ValueError(f"faceless must be one of {', '.join(FACELESS)}, found {faceless!r}")
    pairs = sorted(source.glob("pairs*.txt"))
    images = images_folder(source)
    listed = list_images(images)
    how = f"from {images.resolve()} with detector {detector}, faceless {faceless}"
    with telling(target), target_of(target, how) as rows:
        table, unreadable = detect(images, listed, rows, detector, device)
        manifest = outcomes(with_median(table, images).reindex(listed), unreadable, faceless)
        manifest["crop"] = crop_names(listed)
        write_crops(images, target, manifest)
        manifest.loc[manifest.outcome == "dropped", "crop"] = ""
        columns = ["outcome", "reason", "crop", *COLUMNS[1:], *SEEN]
        write_table(manifest[columns], target / MANIFEST)
        kept = manifest.crop[manifest.outcome != "dropped"]
        template = pd.DataFrame(
            [[*TEMPLATE.ravel(), 1.0]] * len(kept), columns=COLUMNS[1:], index=pd.Index(kept, name="image")
        )
        template.loc[manifest.crop[manifest.outcome == "fallback"], "score"] = 0.0  # no face was found
        write_table(template, target / OWN)
        for file in pairs:
            shutil.copy(file, target)
    return manifest[columns]


def outcomes(table: pd.DataFrame, unreadable: dict[str, str], faceless: str) -> pd.DataFrame:
    """The table with what becomes of each image, and why; rows of unreadable ones are empty."""
    small = table[["width", "height"]].min(axis=1) < SMALLEST
    reasons = [table.index.isin([*unreadable]), table.score > 0, small, faceless == "drop"]
    why = [table.index.map(unreadable).astype(object), "", "no face, too small for one", "no face"]
    outcome = np.select(reasons, ["dropped", "aligned", "dropped", "dropped"], "fallback")
    return table.assign(outcome=outcome, reason=np.select(reasons, why, "no face, median landmarks"))


@contextlib.contextmanager
def target_of(target: Path, how: str) -> Iterator[BinaryIO]:
    """The file of the faces found so far, in the target, which is made, for this process alone.

    Raises ValueError if the target was aligned in another way, or holds other things.
    """
    note = target / ".alignment"

    def check_note() -> None:
        if note.exists() and (was := os.fsdecode(note.read_bytes())) != how:
            raise ValueError(f"{target}: was aligned {was}, not {how}. Choose another target, or delete it.")

    check_note()
    if target.exists() and not note.exists() and any(not file.name.startswith(".") for file in target.iterdir()):
        raise ValueError(f"{target}: holds something else. Choose a new folder as target.")
    target.mkdir(parents=True, exist_ok=True)
    with rows_file(target / ".faces.csv") as rows:
        aside = note.with_suffix(".partial")
        if not note.exists():
            aside.write_bytes(os.fsencode(how))
            os.replace(aside, note)
        check_note()  # again: another process may have written it meanwhile
        yield rows


def crop_names(images: list[str]) -> list[str]:
    """`<identity>/<stem>.png` of each image; its whole name before .png where an earlier one has the same stem."""
    taken, names = set(), []
    for image in images:
        name = image.rsplit(".", 1)[0] + ".png"
        name = f"{image}.png" if name in taken else name
        taken.add(name)
        names.append(name)
    return names


def write_crops(source: Path, target: Path, manifest: pd.DataFrame) -> None:
    """The crops of those images that aren't dropped, by PyTorch's number of threads.

    A crop has its source's time of change: one that has it already is left alone, but for those by the median, which
    other images may have moved.
    """

    def write(row) -> None:
        file, aside = target / row.crop, (target / row.crop).with_suffix(".partial")
        changed = (source / row.Index).stat().st_mtime_ns
        if row.outcome == "aligned" and file.exists() and file.stat().st_mtime_ns == changed:
            return
        points = np.array([getattr(row, name) for name in COLUMNS[1:-1]], np.float32).reshape(5, 2)
        crop = align(read_image(source / row.Index), points)
        file.parent.mkdir(exist_ok=True)
        aside.write_bytes(cv2.imencode(".png", crop[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
        os.utime(aside, ns=(changed, changed))
        os.replace(aside, file)

    kept = manifest[manifest.outcome != "dropped"]
    for stale in {str(file.relative_to(target)) for file in target.glob("*/*.png")} - {*kept.crop}:
        (target / stale).unlink()  # its source is gone
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in tqdm(
            pool.map(write, kept.itertuples()), desc=f"crops of {source.name}", total=len(kept), mininterval=5
        ):
            pass


def write_table(table: pd.DataFrame, file: Path) -> None:
    aside = file.with_suffix(".partial")
    table.to_csv(aside, float_format="%.3f", errors="surrogateescape")
    os.replace(aside, file)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    try:
        manifest = align_folder(*sys.argv[1:], device="cuda" if torch.cuda.is_available() else "cpu")
        others = passed_over(images_folder(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{sys.argv[2]}: interrupted. The same command goes on.")
    dropped = manifest[manifest.outcome == "dropped"]
    for image, reason in dropped.reason[:10].items():
        print(reason if image in reason else f"{image}: {reason}")
    if len(dropped) > 10:
        print(f"... and {len(dropped) - 10} more")
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        print(f"{len(others)} files are passed over, in no identity's folder or no image by their names: {shown}")
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in manifest.outcome.value_counts().items())
    print(f"{sys.argv[2]}: {len(manifest):,} images, {counts}. {MANIFEST} tells of each.")
