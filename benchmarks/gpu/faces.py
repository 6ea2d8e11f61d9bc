"""A kit's faces, decoded once: the training faces stay on the device, uint8."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelib.data import RecordIO, read_pairs


def join(kit: Path, folder: Path) -> None:
    """The training faces' pieces as one RecordIO folder."""
    folder.mkdir()
    with (folder / "train.rec").open("wb") as whole:
        for piece in sorted(kit.glob("faces-*"), key=lambda piece: int(piece.name.split("-")[1])):
            whole.write((piece / "train.rec").read_bytes())
    for name in ("train.idx", "property"):
        if (kit / "faces-1" / name).exists():
            shutil.copyfile(kit / "faces-1" / name, folder / name)


def pixels(dataset: Dataset) -> Tensor:
    """All images of a dataset, (N, 3, 112, 112) uint8."""
    parts = np.array_split(np.arange(len(dataset)), -(-len(dataset) // 1024))
    return torch.cat([torch.stack([image for image, _ in dataset.__getitems__(part.tolist())]) for part in parts])


class TrainingFaces(Dataset):
    """What facelib.data.Share takes a share of, on the device."""

    def __init__(self, folder: Path, device: str):
        records = RecordIO(folder)
        self.labels, self.identities, self.images = records.labels, records.identities, records.images
        self.pixels = pixels(records).to(device)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.pixels[torch.as_tensor(indices, device=self.pixels.device)], self.labels[indices]


class OnDevice:
    """A facelib Loader's batches in the same order, gathered on the device."""

    def __init__(self, loader, device: str):
        self.share, self.order, self.device = loader.batches.dataset, loader.order, device

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.order:
            images, labels = self.share.__getitems__(batch)
            yield images, labels.to(self.device)


class LfwCrops(Dataset):
    """The kit's piece of LFW: item i is (aligned crop (3, 112, 112) uint8, i); `first` and `second` (P,) make pairs."""

    def __init__(self, piece: Path):
        self.pixels, self.pairs = pixels(RecordIO(piece)), read_pairs(piece / "pairs.txt")
        self.images = (piece / "names.txt").read_text(errors="surrogateescape").splitlines()
        index = {name.rsplit(".", 1)[0]: i for i, name in enumerate(self.images)}
        self.first, self.second = (
            np.array([index[name] for name in side]) for side in (self.pairs.first, self.pairs.second)
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.pixels[i], i
