"""Five-point alignment: a face warped onto ArcFace's 112x112 template; and cuts of an image that need no face."""

import cv2
import numpy as np
from torch import Tensor

from facelib.faces.detectors import CROP_SIZE, TEMPLATE

SIZE = 112


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
    """(H, W, 3) uint8 and (5, 2) landmarks -> (112, 112, 3) uint8, the face on ArcFace's template, black outside.

    >>> landmarks = np.array([[98, 113], [152, 113], [125, 144], [103, 177], [148, 177]])
    >>> facelib.align(np.zeros((250, 250, 3), np.uint8), landmarks).shape
    (112, 112, 3)
    """
    matrix = similarity_transform(landmarks)
    return cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderValue=0)


def centre_crop(images: Tensor, size: int = SIZE) -> Tensor:
    """(..., H, W) -> (..., size, size), the middle. Raises ValueError if the images are smaller."""
    height, width = spare(images, size)
    return images[..., height // 2 : height // 2 + size, width // 2 : width // 2 + size]


def random_crop(images: Tensor, rng: np.random.Generator, size: int = SIZE) -> Tensor:
    """(..., H, W) -> (..., size, size), every place as likely. Raises ValueError if the images are smaller."""
    top, left = (int(rng.integers(0, pixels + 1)) for pixels in spare(images, size))
    return images[..., top : top + size, left : left + size]


def spare(images: Tensor, size: int) -> tuple[int, int]:
    """By how many pixels (..., H, W) is higher and wider than size. Raises ValueError if it is smaller."""
    height, width = images.shape[-2:]
    if height < size or width < size:
        raise ValueError(f"images of {width}x{height} pixels are smaller than the crop of {size}x{size}")
    return height - size, width - size
