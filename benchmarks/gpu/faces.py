"""A kit's faces, decoded once: the training faces stay on the device, uint8."""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelib.data import Loader, RecordIO, read_pairs


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

    def some(begin: int) -> Tensor:
        indices = [*range(begin, min(begin + 256, len(dataset)))]
        return torch.stack([image for image, _ in dataset.__getitems__(indices)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders leave the interpreter to other threads
        return torch.cat([*pool.map(some, range(0, len(dataset), 256))])


class TrainingFaces:
    """What facelib.data.Share takes a share of, its pixels on the device."""

    def __init__(self, folder: Path, device: str):
        records = RecordIO(folder)
        self.labels, self.identities, self.images = records.labels, records.identities, records.images
        self.pixels = pixels(records).to(device)

    def __len__(self) -> int:
        return len(self.pixels)


class OnDevice:
    """The batches of a facelib Loader of a Share of TrainingFaces, gathered on the device, which is not waited for."""

    def __init__(self, loader: Loader):
        share = loader.batches.dataset
        self.order, self.pixels = loader.order, share.faces.pixels
        self.index = torch.from_numpy(share.index).to(self.pixels.device)
        self.labels = share.labels.to(self.pixels.device)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.gather, self.order)

    def gather(self, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        where = torch.as_tensor(batch).to(self.pixels.device, non_blocking=True)
        return self.pixels[self.index[where]], self.labels[where]


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
