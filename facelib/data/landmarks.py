"""The five landmarks of every image of a data set: detected once, kept in one CSV file.

Landmarks are five points (x, y) in pixels, in this order: left eye, right eye, nose tip, left and right corner of
the mouth, where left is left in the image.

    python -m facelib.data.landmarks FOLDER CACHE    # detect FOLDER's faces into CACHE, going on where it stopped
"""

import contextlib
import csv
import fcntl
import functools
import hashlib
import io
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from facelib.data.end_with_parent import end_with_parent
from facelib.data.layout import images_folder, list_images
from facelib.faces.detectors import Detector, create_detector
from facelib.faces.image import ImageError, read_image
from facelib.files import telling
from facelib.records import DIGITS

POINTS = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]
COLUMNS = ["image", *(f"{point}_{axis}" for point in POINTS for axis in "xy"), "score"]
SEEN = ["left", "top", "right", "bottom", "width", "height"]  # the face's box and the image's size, in pixels
BATCH = 16
LARGEST = 1600  # pixels, of an image's longer side: in a larger one faces are looked for in a shrunken copy
OWN = "landmarks.csv"  # landmarks that came with the images lie under this name in their folder


def fingerprint(folder: str | Path, images: list[str] | None = None) -> str:
    """DIGITS hex digits of SHA-256 over the images' relative names and sizes in bytes: which data set it is.

    Of a file instead of a folder, over its content.
    """
    folder = Path(folder)
    if folder.is_file():
        with folder.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:DIGITS]
    digest = hashlib.sha256()
    for image in list_images(folder) if images is None else images:
        digest.update(f"{image}\t{size_in_bytes(folder / image)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:DIGITS]


def find_landmarks(
    folder: str | Path, cache: str | Path, device: str = "cpu", detector: str = "", skip_unreadable: bool = False
) -> pd.DataFrame:
    """Landmarks of every image `<identity>/<file>` of the folder: a table with COLUMNS, indexed by image.

    They are those that came with the images, in their folder's landmarks.csv, or, where there are none or a detector
    of faces.detectors is named, detected (by MTCNN unless named) and kept in the folder `cache`. Images in which no
    face is found get the data set's median landmarks and score 0: in face data sets the face is where it usually is.

    Detected once; a killed call continues where it stopped, and a second one waits for the first.
    Raises ImageError, naming them, if some images can't be read (the others' landmarks are kept); with
    `skip_unreadable` their rows are NaN. Raises ValueError if no face is found in any
    image, or a landmarks file that came with the images does not fit them.
    """
    folder = Path(folder)
    file = folder / OWN
    if detector or not file.exists():
        kind = "" if detector in ("", "mtcnn") else f"{detector}-"
        file = Path(cache) / f"landmarks-{kind}{folder.name}-{fingerprint(folder)}.csv"
    images = list_images(folder)
    if not file.exists():
        return detect_folder(folder, images, file, detector or "mtcnn", device, skip_unreadable)
    return read_landmarks(file, images)


def read_landmarks(file: Path, images: list[str]) -> pd.DataFrame:
    """A landmarks file's table. Raises ValueError if it isn't one, or has no row or several for one of the images."""
    try:
        kinds = dict.fromkeys(COLUMNS[1:], float) | {"image": str}
        options = {"encoding_errors": "surrogateescape", "lineterminator": "\n"}  # a name may hold a carriage return
        table = pd.read_csv(file, keep_default_na=False, dtype=kinds, **options)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{file}: not a landmarks file ({error}). Delete it, and faces will be detected.") from None
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{file}: not a landmarks file, its columns should be {', '.join(COLUMNS)}. Delete it.")
    table = table.set_index("image")
    twice, missing = table.index[table.index.duplicated()], sorted({*images} - {*table.index})
    for names, what in ((twice, "more than one row"), (missing, "no row")):
        if len(names):
            raise ValueError(f"{file}: {what} for {len(names)} of {len(images)} images, {names[0]} for one")
    return table


def detect_folder(
    folder: Path, images: list[str], file: Path, detector: str, device: str, skip_unreadable: bool
) -> pd.DataFrame:
    """Detect the folder's images and write the landmarks file, unless some can't be read. Returns find_landmarks'.

    Rows gather beside it, in a file named by folder and detector alone: so they survive a kill, and the mending of an
    unreadable image, which changes the data set's fingerprint.
    """
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:DIGITS]
    with telling(file), rows_file(file.with_name(f"detecting-{detector}-{folder.name}-{place}.csv")) as rows:
        if not file.exists():  # else the process that this one has waited for has made it
            table, unreadable = detect(folder, images, rows, detector, device)
            if unreadable and not skip_unreadable:
                shown = "\n".join([*unreadable.values()][:10])
                raise ImageError(f"{len(unreadable)} of {len(images)} images can't be read:\n{shown}")
            table = with_median(table, folder)[COLUMNS[1:]]
            if unreadable:
                return table.reindex(images)
            finished = file.with_suffix(".partial")
            table.to_csv(finished, float_format="%.3f", errors="surrogateescape")
            os.replace(finished, file)
            os.unlink(rows.name)
    return read_landmarks(file, images)


def with_median(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with the median of all faces' landmarks for images without one, in shares of the images' sides.

    Raises ValueError if there is no face in any image, ImageError if there is no image.
    """
    if len(table) == 0:
        raise ImageError(f"{folder}: none of its images can be read")
    if (table.score == 0).all():
        raise ValueError(f"{folder}: no face found in any of {len(table)} images")
    points, sides = COLUMNS[1:-1], table[["width", "height"] * 5].to_numpy()
    shares = table[points] / sides
    faceless = table.score == 0
    table = table.copy()
    table.loc[faceless, points] = (shares[~faceless].median().to_numpy() * sides)[faceless]
    return table


@contextlib.contextmanager
def rows_file(path: Path) -> Iterator[BinaryIO]:
    """The file of the rows found so far, for this process alone: another one that wants it waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as rows:
        try:
            fcntl.flock(rows, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path}: another process is detecting these faces. Waiting for it.", flush=True)
            fcntl.flock(rows, fcntl.LOCK_EX)
        yield rows


def detect(
    folder: Path, images: list[str], rows: BinaryIO, detector: str, device: str = "cpu"
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The faces of these images: a table of COLUMNS and SEEN, zeros where there is none, and image -> message of those
    that can't be read. What is new is appended to `rows` as it comes.

    On a CPU there is a process for each of PyTorch's threads: two detect twice as fast as one of two threads.
    """
    stamps = {image: stamp(folder / image) for image in images}
    found = {image: row for image, row in read_rows(rows).items() if stamps.get(image) == row[-1]}
    # What MTCNN finds depends a little on what else is in the batch: so an image is always among the same others.
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    batches = [batch for batch in batches if not found.keys() >= {*batch}]
    unreadable: dict[str, str] = {}
    for batch in [batch for batch in batches if found.keys() & {*batch}]:  # was done but for what could not be read
        bad = errors_of(folder, [image for image in batch if image not in found])
        if bad.keys() | found.keys() >= {*batch}:
            unreadable |= bad
            batches.remove(batch)
    processes = min(torch.get_num_threads() if device == "cpu" else 1, len(batches))
    text = io.TextIOWrapper(rows, "utf-8", "surrogateescape", "", write_through=True)
    writer = csv.writer(text)
    with tqdm(total=sum(map(len, batches)), desc=f"faces of {folder.name}", mininterval=5) as bar:
        for faces, bad in each_batch(folder, batches, detector, device, processes):
            unreadable |= bad
            for image, numbers in faces.items():
                found[image] = [*(f"{number:.3f}" for number in numbers), stamps[image]]
                writer.writerow([image, *found[image]])
            rows.flush()
            bar.update(len(faces) + len(bad))
    text.detach()
    table = [[image, *map(float, found[image][:-1])] for image in images if image in found]
    return pd.DataFrame(table, columns=COLUMNS + SEEN).set_index("image"), unreadable


def errors_of(folder: Path, images: list[str]) -> dict[str, str]:
    """Image -> message of those that can't be read."""
    errors = {}
    for image in images:
        try:
            read_image(folder / image)
        except ImageError as error:
            errors[image] = str(error)
    return errors


def size_in_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # a link to nowhere: it is told when it is read
        return -1


def stamp(file: Path) -> str:
    """Size in bytes and time of change: another one once the file is another."""
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}"


def read_rows(rows: BinaryIO) -> dict[str, list[str]]:
    """Image -> its numbers and stamp, as detect writes them; a torn last row is cut off."""
    rows.seek(0)
    content = rows.read()
    whole = content[: content.rfind(b"\n") + 1]
    rows.truncate(len(whole))
    table = csv.reader(io.StringIO(whole.decode("utf-8", "surrogateescape"), newline=""))
    return {row[0]: row[1:] for row in table if len(row) == len(COLUMNS) + len(SEEN) + 1}


def each_batch(folder: Path, batches: list[list[str]], name: str, device: str, processes: int) -> Iterator[tuple]:
    """detect_batch of each, in their order."""
    if processes < 2:
        detector = create_detector(name, device)
        yield from (detect_batch(detector, folder, batch) for batch in batches)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start_process, (folder, name, device))
    try:
        yield from pool.map(detect_in_process, batches)
    except BrokenProcessPool:
        raise OSError(f"{folder}: a process that detects faces died, maybe for want of memory. Run it again.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def start_process(folder: Path, name: str, device: str) -> None:
    global process
    end_with_parent()
    torch.set_num_threads(1)
    process = functools.partial(detect_batch, create_detector(name, device), folder)


def detect_in_process(images: list[str]) -> tuple[dict[str, list[float]], dict[str, str]]:
    return process(images)


def detect_batch(detector: Detector, folder: Path, images: list[str]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Image -> the numbers of its row; and image -> message of those that can't be read."""
    unreadable, by_size, numbers = {}, {}, {}
    for image in images:
        try:
            picture = read_image(folder / image)
        except ImageError as error:
            unreadable[image] = str(error)
            continue
        height, width = picture.shape[:2]
        shrunk = min(1.0, LARGEST / max(height, width))
        if shrunk < 1:
            size = max(1, round(width * shrunk)), max(1, round(height * shrunk))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        by_size.setdefault(picture.shape, []).append((image, picture, width, height))
    for group in by_size.values():
        for (image, picture, width, height), face in zip(group, detector([picture for _, picture, *_ in group])):
            scale = np.array([width / picture.shape[1], height / picture.shape[0]])
            points = np.zeros(10) if face is None else (face.landmarks * scale).ravel()
            box = np.zeros(4) if face is None else face.box * np.tile(scale, 2)
            numbers[image] = [*points, 0.0 if face is None else face.score, *box, width, height]
    return numbers, unreadable


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        folder = images_folder(sys.argv[1])
        table = find_landmarks(folder, sys.argv[2], "cuda" if torch.cuda.is_available() else "cpu")
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    print(f"{folder}: {len(table)} images, no face found in {(table.score == 0).sum()}")
