"""The loader: batches of uint8 images, in an order that the seed and the epoch decide alone, on the device."""

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from facelib.data.end_with_parent import end_with_parent
from facelib.faces.align import centre_crop
from facelib.faces.image import ImageError


class Images(Dataset):
    """Items that are decoded one by one. A batch of them is decoded by as many threads as PyTorch has."""

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        return by_threads(self.__getitem__, indices)


def by_threads(item: Callable, indices: list[int]) -> list:
    """item(i) of each index, by as many threads as PyTorch has: decoding leaves Python's lock."""
    threads = min(torch.get_num_threads(), len(indices))
    parts = np.array_split(indices, threads)  # one task a thread: 128 of them would wait for the lock between any two
    with ThreadPoolExecutor(threads) as pool:  # a new one: threads don't live on in a forked worker
        return [*chain.from_iterable(pool.map(lambda part: [item(int(i)) for i in part], parts))]


class Order(Sampler):
    """The indices of each batch: of `length` images, shuffled each epoch anew by (seed, epoch) alone, or in order.

    Of several `shards` each takes its share of every batch: which images make up a batch does not depend on them. Where
    a batch is to be computed in `parts`, one after the other, it is its share of the first, of the second, ...
    Shuffled, a last batch of one image is left out, for batch norm can't train on it, or of fewer than one for each
    shard; in each epoch it holds others. `epoch` numbers the next one, from 0; its first `skip` batches are left out.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        shard: int = 0,
        shards: int = 1,
        parts: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}")
        if not 0 <= shard < shards:
            raise ValueError(f"shard must be in [0, {shards}), found {shard}")
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.shard, self.shards, self.parts, self.epoch, self.skip = shard, shards, parts, 0, 0
        self.length, rest = length, length % batch_size
        self.count = length - rest if shuffle and rest < max(2, shards) else length

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(self.count / self.batch_size)

    def part_sizes(self, number: int) -> list[int]:
        """How many images, all shards', each part of batch `number` of an epoch has: two and one a shard at least."""
        size = min(self.batch_size, self.count - number * self.batch_size)
        parts = max(1, min(self.parts, size // max(2, self.shards)))
        return [len(part) for part in np.array_split(np.arange(size), parts)]

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """The indices of each batch of this epoch, all shards'."""
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for start in range(0, self.count, self.batch_size):
            yield order[start : min(start + self.batch_size, self.count)]

    def __iter__(self) -> Iterator[list[int]]:
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        for number, batch in islice(enumerate(self.batches(epoch)), skip, None):
            parts = np.split(batch, np.cumsum(self.part_sizes(number))[:-1])
            mine = [i for part in parts for i in np.array_split(part, self.shards)[self.shard].tolist()]
            if mine:  # in order, a last batch may be too small for all
                yield mine


class Loader:
    """Batches of (uint8 images (N, 3, H, W), labels (N,)) on the device.

    `dataset` is an identity folder, a pack or a RecordIO, or any dataset of (uint8 image (3, H, W), label). Shuffled,
    the order depends on the seed and the epoch alone, whatever `workers`: Order, which is `order`. Of
    `shards` processes each gets its share of every batch. `crop` leaves the middle of each image alone, which crosses
    processes and the bus faster. On CUDA the next batch crosses the bus, uint8 and from pinned
    memory, on a side stream while the current one is used. On a CPU it is the plain DataLoader.

    >>> loader = facelib.Loader(facelib.open_faces("data/faces"), batch_size=8, shuffle=True)
    >>> [(images.shape, labels.shape) for images, labels in loader][0]
    (torch.Size([8, 3, 250, 250]), torch.Size([8]))
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
        crop: int | None = None,
        parts: int = 1,
    ):
        self.device = torch.device(device)
        self.order = Order(len(dataset), batch_size, shuffle, seed, shard, shards, parts)
        self.batches = DataLoader(
            dataset,
            batch_sampler=self.order,
            num_workers=workers,
            collate_fn=functools.partial(stack, crop=crop),
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=end_with_parent,
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
            raise kind(sentence.removeprefix("facelib.faces.image.ImageError: ").removeprefix("ValueError: ")) from None


def stack(items: list[tuple[Tensor, int]] | tuple[Tensor, Tensor], crop: int | None = None) -> tuple[Tensor, Tensor]:
    """Items (image (3, H, W), label) -> ((N, 3, H, W), (N,)), of each image the middle `crop` x `crop` pixels if given.

    Raises ValueError if the images differ in size or are smaller than the crop.

    A batch, images and labels, that the data set itself gathered stays as it is.
    """
    if isinstance(items, tuple):
        return items
    images, labels = zip(*items)
    images = images if crop is None else [centre_crop(image, crop) for image in images]
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"images of several sizes (height, width) {sorted(sizes)} in one batch: align them first")
    # Decoders put a pixel's colours side by side, so that this is a plain copy; the batch is channels-last in memory.
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2), torch.tensor(labels)


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
