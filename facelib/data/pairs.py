"""LFW's pairs: the files that list them, and the crops of their images."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from facelib.data.layout import list_images
from facelib.data.loader import Images
from facelib.faces.align import SIZE, align, centre_crop, random_crop
from facelib.faces.image import read_image


@dataclass
class Pairs:
    """N pairs of images. `first` and `second` are names `<identity>/<identity>_<nnnn>`, `genuine` and `fold` (N,).

    Without a `/` where it isn't known who they show: facelib.data.bin.
    """

    first: list[str]
    second: list[str]
    genuine: np.ndarray  # bool: both images show one identity
    fold: np.ndarray  # int from 0; View 1 is one fold

    def __len__(self) -> int:
        return len(self.first)

    def arrays(self) -> dict[str, np.ndarray | list[str]]:
        """What scores.npz keeps of pairs beside their scores."""
        return {"genuine": self.genuine, "fold": self.fold, "first": self.first, "second": self.second}

    def first_folds(self, folds: int) -> "Pairs":
        """The pairs of the first `folds` folds, all of them if it is 0. Raises ValueError for one, or more than all."""
        there = int(self.fold.max()) + 1
        if folds != 0 and not 2 <= folds <= there:
            raise ValueError(f"folds must be 0, for all, or from 2 to the {there} of the pairs file, found {folds}")
        count = int((self.fold < folds).sum()) if folds else len(self)
        return Pairs(self.first[:count], self.second[:count], self.genuine[:count], self.fold[:count])


def read_pairs(file: str | Path) -> Pairs:
    """Read LFW's pairs.txt (View 2) or pairsDevTrain.txt / pairsDevTest.txt (View 1).

    The first line is `folds n` or just `n`; each fold has n genuine lines `name i j` and n impostor lines
    `name i name j`, separated by tabs or, where there is no tab, by spaces. Raises FileNotFoundError if the file is
    missing and ValueError with the file and line if it is not so.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such pairs file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text in UTF-8 ({error.reason} at byte {error.start})") from None
    lines = [
        (number, line.split("\t" if "\t" in line else None))
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    try:
        numbers = [int(word) for word in lines[0][1]]
        folds, n = numbers if len(numbers) == 2 else (1, *numbers)
        if folds < 1 or n < 1:
            raise ValueError
    except (IndexError, ValueError, TypeError):
        raise ValueError(f"{file}: the first line must be `folds pairs` or `pairs`, two or one numbers") from None
    if len(lines) - 1 != folds * 2 * n:
        raise ValueError(f"{file}: {folds} folds of {n} + {n} pairs announced, but {len(lines) - 1} lines follow")
    first, second = [], []
    for pair, (number, words) in enumerate(lines[1:]):
        genuine = pair % (2 * n) < n
        try:
            a, i, b, j = (words[0], words[1], words[0], words[2]) if genuine else words
            if len(words) != 3 + (not genuine):
                raise ValueError
            first.append(f"{a}/{a}_{int(i):04d}")
            second.append(f"{b}/{b}_{int(j):04d}")
        except (ValueError, IndexError):
            expected = "name i j" if genuine else "name i name j"
            raise ValueError(f"{file}, line {number}: expected `{expected}`, found {' '.join(words)!r}") from None
    pair = np.arange(len(first))
    return Pairs(first, second, pair % (2 * n) < n, pair // (2 * n))


def images_of_pairs(folder: str | Path, pairs: Pairs, images: Iterable[str]) -> dict[str, str]:
    """The distinct names in the pairs, sorted -> their files among `images`, the paths of those in the folder.

    Raises FileNotFoundError naming images that are missing.
    """
    there = {image.rsplit(".", 1)[0]: image for image in images}
    names = sorted({*pairs.first, *pairs.second})
    missing = [name for name in names if name not in there]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(names)} images that the pairs file names are missing: {shown}"
        )
    return {name: there[name] for name in names}


def identity_of(image: str) -> str:
    """The identity of an image's name or path: its folder."""
    return image.split("/")[0]


def without(first: Iterable[str], second: Iterable[str], identities: Iterable[str]) -> np.ndarray:
    """Which pairs (P,) bool of images `<identity>/...`, first and second, show none of the identities."""
    left_out = {*identities}
    return np.array([not {identity_of(a), identity_of(b)} & left_out for a, b in zip(first, second)], bool)


CROPS = ("aligned", "centre", "random", "resized")


class PairImages(Images):
    """The images of the pairs as crops: item i is (uint8 RGB (3, 112, 112), i). `first` and `second` are (N,) int:
    each pair's two items.

    `crop` is aligned (by the landmarks, which the others do without), centre (the middle 112x112 pixels), resized (the
    whole image) or random: 112x112 pixels from a place that is drawn, by the seed, for each image of each pair, as in
    the published run. But for the last every distinct image is one item, however many pairs it is in.
    Raises FileNotFoundError naming images that are missing, and on reading ValueError naming one smaller than its crop.
    """

    def __init__(
        self,
        folder: str | Path,
        pairs: Pairs,
        landmarks: pd.DataFrame | None = None,
        crop: str = "aligned",
        seed: int = 0,
    ):
        self.folder, self.crop, self.seed = Path(folder), crop, seed
        files = images_of_pairs(folder, pairs, list_images(folder) if landmarks is None else landmarks.index)
        if crop == "random":
            self.images = [files[name] for name in [*pairs.first, *pairs.second]]
            self.first, self.second = np.arange(2 * len(pairs)).reshape(2, -1)
        else:
            self.images = [*files.values()]
            index = {name: i for i, name in enumerate(files)}
            self.first = np.array([index[name] for name in pairs.first])
            self.second = np.array([index[name] for name in pairs.second])
        if crop == "aligned":
            self.landmarks = landmarks.loc[self.images].to_numpy(np.float32)[:, :10].reshape(-1, 5, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = read_image(self.folder / self.images[i])
        if self.crop == "aligned":
            image = align(image, self.landmarks[i])
        elif self.crop == "resized":
            image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(image).permute(2, 0, 1)
        try:
            if self.crop == "centre":
                image = centre_crop(image)
            elif self.crop == "random":
                image = random_crop(image, np.random.default_rng([self.seed, i]))
        except ValueError as error:
            raise ValueError(f"{self.folder / self.images[i]}: {error}") from None
        return image, i
