"""What a data set of faces looks like: how many of whom, how large, how bright, how well they fit the template.

One summary leaves one folder:

    images.csv         a row for each image: data set, image and describe()'s columns
    metrics.json       for each data set its counts and quantiles
    parameters.json    the data sets
    environment.json   commit, package versions, machine, fingerprints of the data
"""

import cv2
import numpy as np
import pandas as pd
from torch.utils.data import Dataset
from tqdm import tqdm

from facelib import data, records
from facelib.data.folder import identity_names
from facelib.data.landmarks import find_landmarks
from facelib.data.layout import images_folder
from facelib.data.loader import by_threads
from facelib.devices import choose_device
from facelib.faces.align import align, similarity_transform
from facelib.faces.detectors import TEMPLATE
from facelib.faces.image import ImageError

MEASURES = ("brightness", "residual", "scale")
QUANTILES = (0.05, 0.5, 0.95)
BATCH = 256
NAMED = 20  # at most, of the images that can't be read


def summarise(
    train: str, test: str, output: str, cache: str = "build/landmarks", device: str = "auto"
) -> dict[str, dict]:
    """Summarise two data sets of any format of facelib.data, `train` and `test`, and write the folder `output`.

    Returns data set -> counts and quantiles: what metrics.json holds. Raises ValueError or FileNotFoundError, naming
    what is wrong.
    """
    device = choose_device(device)
    sources = {"train": train, "test": test}
    stored = {name: data.open_images(source) for name, source in sources.items()}
    asked = {name: str(source) for name, source in sources.items()}
    with records.save_result(output, asked, device, ("images.csv",)) as result:
        tables = {}
        for name, source in sources.items():
            detected = not data.is_aligned(source)
            landmarks = find_landmarks(images_folder(source), cache, device, skip_unreadable=True) if detected else None
            tables[name] = describe(stored[name], landmarks)
            result.environment[name] = data.fingerprint_of(source)
        pd.concat(tables, names=["data set", "image"]).to_csv(result.folder / "images.csv", float_format="%.4f")
        result.metrics = {name: counts(table) for name, table in tables.items()}
    return result.metrics


def describe(faces: Dataset, landmarks: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row for each image of a data set (facelib.data.open_images), indexed by image.

    identity, empty if the format doesn't tell; width and height in pixels; brightness: mean grey value (ITU-R BT.601)
    of the aligned crop, [0, 255]; residual: root mean square distance of the aligned landmarks from the template, in
    pixels of the crop; scale: pixels of the image to one of the crop, below 1 where the face is enlarged; score: the
    detector's, 0 without a face. Without landmarks the images are crops themselves, and the last three NaN. An
    unreadable image has 0 by 0 pixels and NaN.
    """
    images = [*faces.images]
    points = None if landmarks is None else landmarks.loc[images].to_numpy(np.float32)[:, :10].reshape(-1, 5, 2)

    def row(i: int) -> tuple:
        try:
            picture = np.ascontiguousarray(faces[i][0].permute(1, 2, 0))
        except ImageError:
            return 0, 0, np.nan, np.nan, np.nan
        crop, residual, scale = picture, np.nan, np.nan
        if points is not None:
            matrix = similarity_transform(points[i])
            off = points[i] @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE
            crop = align(picture, points[i])
            residual, scale = np.sqrt((off**2).sum(1).mean()), 1 / np.sqrt(np.linalg.det(matrix[:, :2]))
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        return picture.shape[1], picture.shape[0], grey.mean(), residual, scale

    rows = []
    with tqdm(total=len(images), desc="images", mininterval=5) as bar:
        for start in range(0, len(images), BATCH):
            rows += by_threads(row, range(len(images))[start : start + BATCH])
            bar.update(len(rows) - bar.n)
    table = pd.DataFrame(rows, columns=["width", "height", *MEASURES], index=pd.Index(images, name="image"))
    table.insert(0, "identity", identity_names(faces))
    return table.assign(score=np.nan if landmarks is None else landmarks.score)


def counts(table: pd.DataFrame) -> dict:
    """What describe's table comes to: images, identities, images an identity, sizes, faces found, quantiles; None
    where the data set does not tell. All of the images that can be read; the others are counted and some named.
    """
    unreadable = table.index[table.width == 0]
    table = table[table.width > 0]
    each = table.identity[table.identity != ""].value_counts()
    sizes = table.groupby(["width", "height"]).size().sort_values(ascending=False)
    several = {"least": int(each.min()), "median": float(each.median()), "most": int(each.max())} if len(each) else None
    found = {
        "images": len(table),
        "unreadable": len(unreadable),
        "unreadable_named": [*unreadable[:NAMED]],
        "identities": len(each) or None,
        "images_per_identity": several,
        "sizes": len(sizes),
        "commonest_size": [int(side) for side in sizes.index[0]],
        "faces_found": None if table.score.isna().all() else int((table.score > 0).sum()),
    }
    return found | {name: quantiles(table[name]) for name in MEASURES}


def quantiles(values: pd.Series) -> dict[str, float] | None:
    """QUANTILES of the values, by their share; None if there are none."""
    return None if values.isna().all() else {f"{share:g}": float(values.quantile(share)) for share in QUANTILES}
