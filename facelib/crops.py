"""Cuts of images and what training does to them on the device: crop, flip, normalisation."""

import cv2
import numpy as np
import torch
from torch import Tensor

from facelib.embedder import SIZE, normalise


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


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """(N, 3, H, W) uint8, of which those in `which`, (N,) bool on the CPU, are mirrored left to right.

    The result is channels-last in memory on a CPU: OpenCV mirrors such images in a tenth of PyTorch's time.
    """
    if images.device.type != "cpu":
        which = which.to(images.device, non_blocking=True)  # else it would wait for all that the GPU has yet to do
        return torch.where(which[:, None, None, None], images.flip(-1), images)
    flipped = images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    pixels = flipped.numpy()
    for i in np.flatnonzero(which):
        cv2.flip(pixels[i], 1, dst=pixels[i])
    return flipped.permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of (N, 3, H, W) uint8 mirrored with probability 1/2. The generator lives on the CPU."""
    return mirror(images, torch.rand(len(images), generator=generator) < 0.5)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, 3, 112, 112) float32 in [-1, 1], on its device: flip, centre crop, normalisation."""
    return normalise(random_flip(centre_crop(images), generator))
