"""Five-point alignment: find a face's landmarks, then warp it onto ArcFace's 112x112 template.

Landmarks are five points (x, y) in pixels, in this order: left eye, right eye, nose tip, left and right corner of
the mouth, where left is left in the image. The detector is MTCNN (Zhang et al. 2016), with the weights that ship
inside facenet-pytorch. It runs once a data set; the landmarks are kept in one CSV file.

    python -m facelib.alignment FOLDER CACHE    # detect the faces of FOLDER into CACHE, continuing where it stopped
"""

import csv
import hashlib
import io
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from facelib.images import ImageError, lfw_images, list_images, read_image

# Where ArcFace puts the five landmarks in a 112x112 crop (insightface, face_align.py).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
CROP_SIZE = 112
POINTS = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]
COLUMNS = ["image", *(f"{point}_{axis}" for point in POINTS for axis in "xy"), "score"]
BATCH = 16
DIGITS = 12  # of a fingerprint, in hex
OWN = "landmarks.csv"  # landmarks that came with the images lie under this name in their folder


def similarity_transform(landmarks: np.ndarray, template: np.ndarray = TEMPLATE) -> np.ndarray:
    """The (2, 3) matrix of rotation, uniform scale and shift that takes (K, 2) landmarks nearest to the template.

    Least squares in closed form (Umeyama 1991, without reflection).
    """
    source = landmarks.astype(np.float64)
    target = template.astype(np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    x, y = (source - source_mean).T
    u, v = (target - target_mean).T
    spread = (x * x + y * y).sum()
    if spread == 0:
        raise ValueError("all landmarks lie on one point: no similarity transform takes them to the template")
    a = (x * u + y * v).sum() / spread
    b = (x * v - y * u).sum() / spread
    rotation = np.array([[a, -b], [b, a]])
    return np.column_stack([rotation, target_mean - rotation @ source_mean])


def align(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (5, 2) landmarks -> (112, 112, 3) uint8, the face on ArcFace's template, black outside."""
    matrix = similarity_transform(landmarks)
    return cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderValue=0)


class Detector:
    """MTCNN: (H, W, 3) uint8 RGB images -> for each the (5, 2) landmarks of its main face, or None."""

    def __init__(self, device: str = "cpu", min_face_size: int = 40):
        from facenet_pytorch import MTCNN  # here, because the package is slow to import and often not needed

        self.mtcnn = MTCNN(keep_all=True, min_face_size=min_face_size, post_process=False, device=device)

    def __call__(self, images: list[np.ndarray]) -> list[tuple[np.ndarray, float] | None]:
        """Images of one size -> for each (landmarks (5, 2) float32, score in [0, 1]), or None where no face is."""
        height, width = images[0].shape[:2]
        if min(height, width) < self.mtcnn.min_face_size:
            return [None] * len(images)  # MTCNN fails on them
        with torch.inference_mode():
            boxes, scores, points = self.mtcnn.detect(np.stack(images), landmarks=True)
        return [None if b is None else main_face(b, s, p, width, height) for b, s, p in zip(boxes, scores, points)]


def main_face(boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, width: int, height: int):
    """Of several faces the large and central one: box area minus twice the squared distance from the image's centre."""
    boxes = np.asarray(boxes, dtype=np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    off_centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - np.array([width, height]) / 2
    best = int(np.argmax(area - 2 * (off_centre**2).sum(1)))
    return np.asarray(points[best], dtype=np.float32), float(scores[best])


def fingerprint(folder: str | Path, images: list[str] | None = None) -> str:
    """DIGITS hex digits of SHA-256 over the images' relative names and sizes in bytes: which data set it is."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for image in list_images(folder) if images is None else images:
        digest.update(f"{image}\t{(folder / image).stat().st_size}\n".encode())
    return digest.hexdigest()[:DIGITS]


def landmarks_file(folder: str | Path, cache: str | Path) -> Path:
    """Where the landmarks of this data set are: beside its images if they came with them, else in the cache folder."""
    own = Path(folder) / OWN
    return own if own.exists() else Path(cache) / f"landmarks-{Path(folder).name}-{fingerprint(folder)}.csv"


def find_landmarks(folder: str | Path, cache: str | Path, device: str = "cpu") -> pd.DataFrame:
    """Landmarks of every image `<identity>/<file>` of the folder: a table with COLUMNS, indexed by image.

    Images in which no face is found get the data set's median landmarks and score 0: in face data sets the face is
    where it usually is. Detected once; a killed call continues where it stopped.
    Raises ImageError, naming them, if some images can't be read (the others' landmarks are kept), and ValueError
    if no face is found in any image, or a landmarks file that came with the images does not fit them.
    """
    file = landmarks_file(folder, cache)
    if not file.exists():
        detect_folder(folder, file, device)
    return read_landmarks(file, list_images(folder))


def read_landmarks(file: Path, images: list[str]) -> pd.DataFrame:
    """A landmarks file's table. Raises ValueError if it isn't one, or has no row or several for one of the images."""
    try:
        table = pd.read_csv(file, keep_default_na=False, dtype=dict.fromkeys(COLUMNS[1:], float) | {"image": str})
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


def detect_folder(folder: str | Path, file: Path, device: str = "cpu") -> None:
    """Detect every image of the folder and write the landmarks file.

    Rows gather beside it, in a file named by the folder alone, with each image's size in bytes: so they survive a
    kill, and the mending of an unreadable image, which changes the data set's fingerprint.
    """
    folder, images = Path(folder), list_images(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:DIGITS]
    partial = file.with_name(f"detecting-{folder.name}-{place}.csv")
    sizes = {image: (folder / image).stat().st_size for image in images}
    found = {image: row for image, row in read_rows(partial).items() if sizes.get(image) == int(row[-1])}
    undetected = [image for image in images if image not in found]
    detector = Detector(device)
    unreadable = []
    with partial.open("a", newline="", encoding="utf-8") as rows:
        writer = csv.writer(rows)
        with tqdm(total=len(undetected), desc=f"faces of {folder.name}", mininterval=5) as bar:
            for start in range(0, len(undetected), BATCH):
                names = undetected[start : start + BATCH]
                pictures = {}
                for name in names:
                    try:
                        pictures[name] = read_image(folder / name)
                    except ImageError as error:
                        unreadable.append(str(error))
                for name, numbers in detect_all(detector, pictures).items():
                    found[name] = [*numbers, sizes[name]]
                    writer.writerow([name, *(f"{number:.3f}" for number in numbers), sizes[name]])
                rows.flush()
                bar.update(len(names))
    if unreadable:
        shown = "\n".join(unreadable[:10])
        raise ImageError(f"{len(unreadable)} of {len(images)} images can't be read:\n{shown}")
    table = pd.DataFrame([[image, *map(float, found[image][:11])] for image in images], columns=COLUMNS)
    if (table.score == 0).all():
        raise ValueError(f"{folder}: no face found in any of {len(table)} images")
    points = COLUMNS[1:-1]
    table.loc[table.score == 0, points] = table.loc[table.score > 0, points].median().to_numpy()
    finished = file.with_suffix(".partial")
    table.to_csv(finished, index=False, float_format="%.3f")
    os.replace(finished, file)
    partial.unlink()


def read_rows(file: Path) -> dict[str, list[str]]:
    """Image -> its ten coordinates, score and size, as detect_folder writes them; a torn last row is cut off."""
    if not file.exists():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        file.write_bytes(whole)
    rows = csv.reader(io.StringIO(whole.decode("utf-8"), newline=""))
    return {row[0]: row[1:] for row in rows if len(row) == len(COLUMNS) + 1}


def detect_all(detector: Detector, pictures: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Ten coordinates and a score for each picture (zeros where no face is), in batches of equal size."""
    sizes: dict[tuple, list[str]] = {}
    for name, picture in pictures.items():
        sizes.setdefault(picture.shape, []).append(name)
    found = {}
    for names in sizes.values():
        for name, face in zip(names, detector([pictures[name] for name in names])):
            found[name] = [0.0] * 11 if face is None else [*face[0].ravel().tolist(), face[1]]
    return found


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        folder = Path(sys.argv[1])
        folder = lfw_images(folder) if (folder / "pairs.txt").exists() else folder
        table = find_landmarks(folder, sys.argv[2], "cuda" if torch.cuda.is_available() else "cpu")
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    print(f"{folder}: {len(table)} images, no face found in {(table.score == 0).sum()}")
