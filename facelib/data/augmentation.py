"""What training does to a batch of uint8 crops: half of them mirrored, all scaled to [-1, 1]."""

import cv2
import numpy as np
import torch
from torch import Tensor

from facelib.faces.align import centre_crop


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


def normalise(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1], of any shape, in the same layout."""
    if images.device.type != "cpu" or images.numel() == 0:
        return images.float().sub_(127.5).div_(127.5)
    # OpenCV's table of 256 values takes a quarter of the time, and PyTorch's threads, which wait by spinning, would
    # take theirs from the processes that decode.
    side_by_side = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    values = (images.permute(0, 2, 3, 1) if side_by_side else images).contiguous()
    table = (np.arange(256, dtype=np.float32) - 127.5) / 127.5
    found = torch.from_numpy(cv2.LUT(values.numpy().reshape(1, -1), table)).view(values.shape)
    return found.permute(0, 3, 1, 2) if side_by_side else found
