"""Data sets of faces as uint8 tensors, LFW's pairs, augmentation on the device and the loader.

Training data is an identity folder, `<identity>/<image>.jpg`, as CASIA-WebFace unpacks. Images cross to the device as
uint8; flip, crop and normalisation happen there.
"""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from facelib.alignment import align
from facelib.images import ImageError, list_identities, list_images, read_image
from facelib.models import SIZE, normalise


class Images(Dataset):
    """Items that are decoded one by one. A batch of them is decoded by as many threads as PyTorch has."""

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # decoding leaves Python's lock
            return [*pool.map(self.__getitem__, indices)]


def choose_images(
    labels: np.ndarray, identities: Sequence[str], ratio: float = 1.0, seed: int = 0, keep_one: bool = False
) -> np.ndarray:
    """Which images (N,) of those with these labels (M,) make up a share of each identity's: rising indices.

    `ratio` in (0, 1] keeps floor(n * ratio) of each identity's n images, a choice seeded by `seed` and the identity's
    name, and nested: the images of ratio 0.1 are among those of 0.25. Identities left with no image keep none, or one
    if `keep_one`. Raises ValueError, naming the parameter, if fewer than two identities are left.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], found {ratio}")
    counts = np.bincount(labels, minlength=len(identities))
    kept = np.floor(counts * ratio + 1e-9).astype(int)  # 0.29 * 100 is 28.999999999999996 in floating point
    kept = np.maximum(kept, np.minimum(counts, 1)) if keep_one else kept
    if (kept > 0).sum() < 2:
        raise ValueError(
            f"ratio {ratio} leaves {(kept > 0).sum()} of {(counts > 0).sum()} identities, but training needs two. The"
            f" largest has {counts.max()} images: raise ratio, or set keep_one."
        )
    by_identity = np.argsort(labels, kind="stable")
    if (kept < counts).any():
        chosen = []
        for identity, images in enumerate(np.split(by_identity, np.cumsum(counts)[:-1])):
            # Seeded by the name: whatever other identities are there, this one's choice stays.
            rng = np.random.default_rng([seed, zlib.crc32(identities[identity].encode())])
            chosen.append(images[rng.permutation(len(images))[: kept[identity]]])
        by_identity = np.concatenate(chosen)
    return np.sort(by_identity)


class IdentityFolder(Images):
    """Images of an identity folder: item i is (uint8 RGB (3, H, W), label), labels contiguous from 0.

    `ratio`, `seed` and `keep_one` choose a share of each identity's images (choose_images). Identities left with no
    image are dropped and counted in `dropped`, as in the published run. `available` counts the images of ratio 1.
    With `landmarks` (facelib.landmarks.find_landmarks) items are aligned 112x112 crops, without it whole images.
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
        self.folder = Path(folder)
        listed = list_images(folder)
        self.available = len(listed)
        identities, labels = np.unique([image.split("/")[0] for image in listed], return_inverse=True)
        try:
            kept = choose_images(labels, identities, ratio, seed, keep_one)
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


@dataclass
class Pairs:
    """N pairs of images. `first` and `second` are names `<identity>/<identity>_<nnnn>`, `genuine` and `fold` (N,).

    Without a `/` where it isn't known who they show: facelib.verification_bin.
    """

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


class Order(Sampler):
    """The indices of each batch: of `length` images, shuffled each epoch anew by (seed, epoch) alone, or in order.

    Of several `shards` each takes its own images, equally many: up to shards - 1 are left out, in each epoch others.
    A last batch of one image is left out where they are shuffled: batch norm can't train on it.
    """

    def __init__(
        self, length: int, batch_size: int, shuffle: bool = False, seed: int = 0, shard: int = 0, shards: int = 1
    ):
        if not 0 <= shard < shards:
            raise ValueError(f"shard must be in [0, {shards}), found {shard}")
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.shard, self.shards, self.epoch = shard, shards, 0
        self.count = length // shards if shuffle else len(range(shard, length, shards))
        if shuffle and self.count % batch_size == 1:
            self.count -= 1

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        self.epoch += 1
        mine = order[self.shard :: self.shards][: self.count]
        for start in range(0, len(mine), self.batch_size):
            yield mine[start : start + self.batch_size].tolist()


class Loader:
    """Batches of (uint8 images (N, 3, H, W), labels (N,)) on the device.

    `dataset` is an identity folder, a pack or a RecordIO, or any dataset of (uint8 image (3, H, W), label). Shuffled, the
    order depends on the seed and the epoch alone, whatever `workers`; `order.epoch` is the next epoch's number, from 0.
    Of `shards` processes each gets images of its own. On CUDA the next batch crosses the bus, uint8 and from pinned
    memory, on a side stream while the current one is used. On a CPU it is the plain DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        device: str = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        shard: int = 0,
        shards: int = 1,
    ):
        self.device = torch.device(device)
        self.order = Order(len(dataset), batch_size, shuffle, seed, shard, shards)
        self.batches = DataLoader(
            dataset,
            batch_sampler=self.order,
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
        except ValueError as error:  # from a worker process its message is the whole traceback, the sentence last
            kind = ImageError if isinstance(error, ImageError) else ValueError
            sentence = str(error).strip().splitlines()[-1]
            raise kind(sentence.removeprefix("facelib.images.ImageError: ").removeprefix("ValueError: ")) from None


def stack(items: list[tuple[Tensor, int]] | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Items (image (3, H, W), label) -> ((N, 3, H, W), (N,)). Raises ValueError if the images differ in size.

    A batch, images and labels, that the data set itself gathered stays as it is.
    """
    if isinstance(items, tuple):
        return items
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
