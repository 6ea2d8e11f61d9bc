"""Training faces as a folder of images an identity."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelib.data.layout import list_identities, list_images
from facelib.data.loader import Images
from facelib.data.share import choose_images
from facelib.faces.align import align
from facelib.faces.image import read_image


def identity_names(faces: Dataset) -> list[str]:
    """The identity of each image of a data set, by name; of a verification set, which doesn't tell them, all empty."""
    names = [*faces.identities]
    return [names[label] for label in faces.labels.tolist()]


class IdentityFolder(Images):
    """Images of an identity folder: item i is (uint8 RGB (3, H, W), label), labels contiguous from 0.

    `ratio`, `seed`, `keep_one` and `least` choose a share of each identity's images (choose_images). Identities left
    with no image are dropped and counted in `dropped`, as in the published run. `available` counts the images of ratio
    1. With `landmarks` (facelib.data.landmarks) items are aligned 112x112 crops, without it whole images.
    Raises ValueError, naming the parameter, if too few identities are left.
    """

    def __init__(
        self,
        folder: str | Path,
        ratio: float = 1.0,
        seed: int = 0,
        keep_one: bool = False,
        landmarks: pd.DataFrame | None = None,
        least: int = 1,
    ):
        self.folder = Path(folder)
        listed = list_images(folder)
        self.available = len(listed)
        identities, labels = np.unique([image.split("/")[0] for image in listed], return_inverse=True)
        try:
            kept = choose_images(labels, identities, ratio, seed, keep_one, least)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        left, labels = np.unique(labels[kept], return_inverse=True)
        self.identities = [str(name) for name in identities[left]]
        self.images = [listed[i] for i in kept]
        self.labels = torch.from_numpy(labels)
        self.dropped = len(list_identities(folder)) - len(self.identities)
        self.landmarks = None
        if landmarks is not None:
            self.landmarks = landmarks.loc[self.images].to_numpy(np.float32)[:, :10].reshape(-1, 5, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = read_image(self.folder / self.images[i])
        if self.landmarks is not None:
            image = align(image, self.landmarks[i])
        return torch.from_numpy(image).permute(2, 0, 1), int(self.labels[i])
