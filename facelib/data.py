"""Data sets of faces as uint8 tensors, LFW's pairs, augmentation on the device and the loader.

Training data is an identity folder, `<identity>/<image>.jpg`, as CASIA-WebFace unpacks. Images cross to the device as
uint8; flip, crop and normalisation happen there.
"""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from facelib.alignment import align
from facelib.images import ImageError, list_identities, list_images, read_image
from facelib.models import SIZE, normalise


class IdentityFolder(Dataset):
    """Images of an identity folder: item i is (uint8 RGB (3, H, W), label), labels contiguous from 0.

    `ratio` in (0, 1] keeps floor(n * ratio) of each identity's n images, a choice seeded by `seed` and nested: the
    images of ratio 0.1 are among those of 0.25. Identities left with no image are dropped and counted in `dropped`,
    as in the published run, or kept with one image if `keep_one`. `available` counts the images of ratio 1.
    With `landmarks` (facelib.alignment.find_landmarks) items are aligned 112x112 crops, without it whole images.
    Raises ValueError, naming the parameter, if fewer than two identities are left.
    """

    def __init__(
        self,
        folder: str | Path,
        ratio: float = 1.0,
        seed: int = 0,
        keep_one: bool = False,
        landmarks: pd.DataFrame | None = None,
    ):
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], found {ratio}")
        self.folder = Path(folder)
        by_identity: dict[str, list[str]] = {}
        listed = list_images(folder)
        self.available = len(listed)
        for image in listed:
            by_identity.setdefault(image.split("/")[0], []).append(image)
        self.identities: list[str] = []
        self.images: list[str] = []
        labels: list[int] = []
        for identity, images in by_identity.items():
            count = math.floor(len(images) * ratio + 1e-9)  # 0.29 * 100 is 28.999999999999996 in floating point
            count = max(count, 1) if keep_one else count
            if count == 0:
                continue
            # Seeded by the name: whatever other identities are there, this one's choice stays.
            order = np.random.default_rng([seed, zlib.crc32(identity.encode())]).permutation(len(images))
            labels += [len(self.identities)] * count
            self.images += [images[i] for i in sorted(order[:count])]
            self.identities.append(identity)
        self.dropped = len(list_identities(folder)) - len(self.identities)
        if len(self.identities) < 2:
            most = max(len(images) for images in by_identity.values())
            raise ValueError(
                f"{folder}: ratio {ratio} leaves {len(self.identities)} of {len(by_identity)} identities, but training"
                f" needs two. The largest has {most} images: raise ratio, or set keep_one."
            )
        self.labels = torch.tensor(labels)
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


@dataclass
class Pairs:
    """N pairs of images. `first` and `second` are names `<identity>/<identity>_<nnnn>`, `genuine` and `fold` (N,)."""

    first: list[str]
    second: list[str]
    genuine: np.ndarray  # bool: both images show one identity
    fold: np.ndarray  # int from 0; View 1 is one fold

    def __len__(self) -> int:
        return len(self.first)

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


CROPS = ("aligned", "centre", "random", "resized")


class PairImages(Dataset):
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


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of (N, 3, H, W) mirrored left to right with probability 1/2. The generator lives on the CPU."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, 3, 112, 112) float32 in [-1, 1], on its device: flip, centre crop, normalisation."""
    return normalise(random_flip(centre_crop(images), generator))


class Loader:
    """Batches of (uint8 images, labels) on the device, reshuffled each epoch if `shuffle`, by the seed alone.

    On CUDA the next batch crosses the bus, uint8 and from pinned memory, on a side stream while the current one is
    used. On a CPU it is the plain DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        device: str = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
    ):
        self.device = torch.device(device)
        # The order has a generator of its own: workers draw from the DataLoader's and would change it.
        order = RandomSampler(dataset, generator=torch.Generator().manual_seed(seed)) if shuffle else None
        self.batches = DataLoader(
            dataset,
            batch_size,
            sampler=order,
            drop_last=shuffle and len(dataset) % batch_size == 1,  # batch norm can't train on one image
            num_workers=workers,
            collate_fn=stack,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        try:
            yield from prefetch(self.batches, self.device) if self.device.type == "cuda" else self.batches
        except ImageError as error:  # from a worker process its message is the whole traceback, the sentence last
            raise ImageError(str(error).strip().splitlines()[-1].removeprefix("facelib.images.ImageError: ")) from None


def stack(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Items (image (3, H, W), label) -> ((N, 3, H, W), (N,)). Raises ValueError if the images differ in size."""
    images, labels = zip(*items)
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"images of several sizes (height, width) {sorted(sizes)} in one batch: align them first")
    return torch.stack(images), torch.tensor(labels)


def prefetch(batches: DataLoader, device: torch.device):
    """The batches on a CUDA device, each copied on a side stream while the one before it is used."""
    side = torch.cuda.Stream(device)

    def send(batch):
        with torch.cuda.stream(side):
            return [tensor.to(device, non_blocking=True) for tensor in batch], side.record_event()

    def receive(batch, sent):
        current = torch.cuda.current_stream(device)
        current.wait_event(sent)
        for tensor in batch:
            tensor.record_stream(current)  # else its memory could be reused on the side stream while still in use here
        return tuple(batch)

    ahead = None
    for batch in batches:
        coming = send(batch)
        if ahead is not None:
            yield receive(*ahead)
        ahead = coming
    if ahead is not None:
        yield receive(*ahead)
