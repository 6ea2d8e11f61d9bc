"""What a data set of faces looks like: how many of whom, how large, how bright, how well they fit the template.

One summary leaves one folder:

    images.csv         a row for each image: data set, image and describe()'s columns
    metrics.json       for each data set its counts and quantiles
    parameters.json    the folders
    environment.json   commit, package versions, machine, fingerprints of the data
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from facelib import provenance
from facelib.alignment import align, similarity_transform
from facelib.detectors import TEMPLATE
from facelib.embedder import choose_device
from facelib.images import lfw_images, list_images, read_image
from facelib.landmarks import find_landmarks, fingerprint
from facelib.output import whole_folder, write_json

FILES = ("images.csv", "metrics.json", "parameters.json", "environment.json")
MEASURES = ("brightness", "residual", "scale")
QUANTILES = (0.05, 0.5, 0.95)


def summarise(
    train: str, test: str, output: str, cache: str = "build/landmarks", device: str = "auto"
) -> dict[str, dict]:
    """Summarise an identity folder and an LFW folder, `train` and `test`, write the folder `output`.

    Returns data set -> counts and quantiles: what metrics.json holds. Raises ValueError or FileNotFoundError, naming
    what is wrong.
    """
    device = choose_device(device)
    environment = provenance.environment(device)
    folders = {"train": Path(train), "test": lfw_images(test)}
    with whole_folder(output, FILES) as folder:
        tables = {}
        for name, place in folders.items():
            tables[name] = describe(place, find_landmarks(place, cache, device))
            environment[name] = fingerprint(place)
        pd.concat(tables, names=["data set", "image"]).to_csv(folder / "images.csv", float_format="%.4f")
        metrics = {name: counts(table) for name, table in tables.items()}
        write_json(folder / "parameters.json", {"train": str(train), "test": str(test)})
        write_json(folder / "environment.json", environment)
        write_json(folder / "metrics.json", metrics)
    return metrics


def describe(folder: Path, landmarks: pd.DataFrame) -> pd.DataFrame:
    """A row for each image of the folder, indexed by image.

    identity; width and height in pixels; brightness: mean grey value (ITU-R BT.601) of the aligned crop, [0, 255];
    residual: root mean square distance of the aligned landmarks from the template, in pixels of the crop; scale:
    pixels of the image to one of the crop, below 1 where the face is enlarged; score: the detector's, 0 without a face.
    """
    images = list_images(folder)
    points = landmarks.loc[images].to_numpy(np.float32)[:, :10].reshape(-1, 5, 2)

    def row(image: str, points: np.ndarray) -> tuple:
        picture = read_image(folder / image)
        matrix = similarity_transform(points)
        grey = cv2.cvtColor(align(picture, points), cv2.COLOR_RGB2GRAY)
        off = points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE
        residual, scale = np.sqrt((off**2).sum(1).mean()), 1 / np.sqrt(np.linalg.det(matrix[:, :2]))
        return image.split("/")[0], picture.shape[1], picture.shape[0], grey.mean(), residual, scale

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        shown = {"desc": f"images of {folder.name}", "total": len(images), "mininterval": 5}
        rows = [*tqdm(pool.map(row, images, points), **shown)]
    table = pd.DataFrame(rows, columns=["identity", "width", "height", *MEASURES], index=pd.Index(images, name="image"))
    return table.assign(score=landmarks.score)


def counts(table: pd.DataFrame) -> dict:
    """What describe's table comes to: images, identities, images an identity, sizes, faces found, quantiles."""
    each = table.identity.value_counts()
    sizes = table.groupby(["width", "height"]).size().sort_values(ascending=False)
    found = {
        "images": len(table),
        "identities": len(each),
        "images_per_identity": {"least": int(each.min()), "median": float(each.median()), "most": int(each.max())},
        "sizes": len(sizes),
        "commonest_size": [int(side) for side in sizes.index[0]],
        "faces_found": int((table.score > 0).sum()),
    }
    return found | {name: {f"{q:g}": float(table[name].quantile(q)) for q in QUANTILES} for name in MEASURES}
