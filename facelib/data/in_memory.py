"""A data set decoded once and kept as uint8 where it is used: on a GPU nothing crosses the bus any more."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelib.data.loader import Loader


class InMemory(Dataset):
    """`dataset` with its images, all of one size, as `pixels` (N, 3, H, W) uint8 on the device.

    A batch is gathered there and not waited for, images and labels: facelib.data.Loader takes whole batches, and is to
    be told no device, for there is nothing to send. N images of 112 x 112 pixels take N * 37,632 bytes.
    """

    def __init__(self, dataset: Dataset, device: str = "cpu"):
        self.labels, self.identities, self.images = dataset.labels, dataset.identities, dataset.images
        self.pixels = torch.cat([images for images, _ in Loader(dataset, 256, workers=os.cpu_count())])
        self.pixels = self.pixels.contiguous().to(device)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.pixels[i], int(self.labels[i])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.pixels[torch.as_tensor(indices).to(self.pixels.device, non_blocking=True)], self.labels[indices]
