"""Aligned crops in a folder of NumPy arrays, a pack: no decoding and no file to open for each image while training.

    images.npy    uint8 (N, 112, 112, 3), RGB: the decoders' order, and channels-last when permuted
    labels.npy    int64 (N,) from 0, every identity has an image
    index.json    form and version; names of the images and identities; images left out and why; the source and its
                  fingerprint; checksum, xxh3_64 of the images' and labels' bytes, 16 hex digits

np.load("faces.pack/images.npy", mmap_mode="r") opens it anywhere, and no code runs on reading.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from xxhash import xxh3_64

from facelib.data.layout import PACK_INDEX
from facelib.data.loader import by_threads
from facelib.faces.align import SIZE
from facelib.faces.image import ImageError
from facelib.files import locked, telling, whole_folder, write_json

FORM, VERSION = "facelib pack", 2  # version 1 was a single file
FILES = (PACK_INDEX, "images.npy", "labels.npy")
SHAPE = (SIZE, SIZE, 3)
BATCH = 256  # images that are read, or checked, at a time
AGAIN = "Delete it and pack again."


class Pack(Dataset):
    """A packed data set: item i is (uint8 RGB (3, 112, 112), label). Opening it reads its index and labels, no image.

    `labels` is an int64 tensor (N,); `identities`, `images` (the images' names) and `dropped` (`name: reason`) are
    lists of str, `about` is the index. facelib.data.Loader takes whole batches by `__getitems__`. Sent to a worker
    process it is opened there anew.

    Raises FileNotFoundError if there is no such folder, and ValueError naming it if it is not a pack, of another
    version, or if its files don't fit together. A changed bit of an image is found by verify() alone.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.is_file():
            raise ValueError(f"{folder}: a file, but a pack is a folder now. {AGAIN}")
        if not (self.folder / PACK_INDEX).is_file():
            raise FileNotFoundError(f"{folder}: no pack is there, it would have an {PACK_INDEX}.")
        try:
            self.about = json.loads((self.folder / PACK_INDEX).read_text("utf-8"))
            form, version = self.about["form"], self.about["version"]
        except (ValueError, TypeError, LookupError):
            raise ValueError(f"{folder}: its {PACK_INDEX} is not a pack's. If it was a pack: {AGAIN}") from None
        if (form, version) != (FORM, VERSION):
            raise ValueError(f"{folder}: {form}, version {version}; this facelib reads {FORM}, version {VERSION}.")
        try:
            self.images, self.identities = self.about["images"], self.about["identities"]
            self.dropped = self.about["dropped"]
            self.pixels = np.load(self.folder / "images.npy", mmap_mode="r").view(np.ndarray)
            self.labels = torch.from_numpy(np.load(self.folder / "labels.npy"))
        except (KeyError, ValueError, OSError, EOFError, TypeError) as error:
            raise ValueError(f"{folder}: a pack that is damaged or cut off ({error}). {AGAIN}") from None
        expected = (len(self.images), *SHAPE), np.dtype(np.uint8), (len(self.images),), torch.int64
        if (self.pixels.shape, self.pixels.dtype, tuple(self.labels.shape), self.labels.dtype) != expected:
            raise ValueError(
                f"{folder}: a pack whose files disagree: {len(self.images)} names, images of {self.pixels.shape}"
                f" {self.pixels.dtype}, labels of {tuple(self.labels.shape)} {self.labels.dtype}. {AGAIN}"
            )
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.identities):
            raise ValueError(f"{folder}: a pack whose labels go beyond its {len(self.identities)} identities. {AGAIN}")

    def __reduce__(self):
        return Pack, (self.folder,)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        images, labels = self.__getitems__([range(len(self))[i]])
        return images[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """n numbers in [0, N), in any order -> (uint8 (n, 3, 112, 112), channels-last in memory, int64 (n,)).

        Raises IndexError for any other number.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.folder}: images are numbered 0 to {len(self) - 1}, found {indices.tolist()}")
        images = self.pixels[indices]  # one copy a row, at two thirds of a plain copy's speed; threads don't help
        return torch.from_numpy(images).permute(0, 3, 1, 2), self.labels[torch.from_numpy(indices)]

    def verify(self) -> None:
        """Read all images and compare the checksum. Raises ValueError if a bit of them has changed."""
        digest = xxh3_64()
        for start in tqdm(range(0, len(self), BATCH), desc=f"verify {self.folder.name}", mininterval=5):
            digest.update(self.pixels[start : start + BATCH])
        digest.update(self.labels.numpy())
        if digest.hexdigest() != self.about.get("checksum"):
            raise ValueError(f"{self.folder}: a pack that is damaged, its checksum differs. {AGAIN}")


def write_pack(source: Dataset, target: str | Path) -> Pack:
    """Write the images of `source` into the pack `target`, which appears when it is whole.

    The source has items (uint8 RGB (3, 112, 112), label), `labels` (N,), `identities` and `images`, a name for each
    image: facelib.data.IdentityFolder with landmarks is one. Images that can't be read are left out and told, then
    identities without any. A whole pack of the same source, by names, labels, landmarks and sizes in bytes, is verified
    and left as it is; a pack of another source is replaced.

    Raises FileExistsError if something else is at `target`, OSError naming it if it can't be written, the disk is full
    or another process is packing to it, ImageError if no image can be read, and ValueError naming an image that is no
    aligned crop. What was at `target` before stays.
    """
    target, labels = Path(target), np.asarray(source.labels)
    if not 0 < len(source) == len(labels) == len(source.images):
        counts = f"{len(labels)} labels, {len(source.images)} names and {len(source)} images"
        raise ValueError(
            f"{target}: the source must have a label and a name for each image, and one at least: {counts}"
        )
    mark = fingerprint(source)
    if (target / PACK_INDEX).is_file() and (earlier := Pack(target)).about["fingerprint"] == mark:
        earlier.verify()
        print(f"{target}: whole already, {len(earlier):,} images of {len(earlier.identities):,} identities")
        return earlier
    with telling(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(target.name + ".lock")
    with locked(lock, f"{target}: another process is packing to it. Wait until it is done, or name another target."):
        try:
            with whole_folder(target, FILES) as folder:
                dropped = write_files(source, labels, mark, folder, target)
        finally:
            lock.unlink()
    if dropped:
        shown = ", ".join(line.split(": ")[0] for line in dropped[:10]) + (", ..." if len(dropped) > 10 else "")
        print(f"{target}: {len(dropped):,} of {len(source):,} images can't be read and are left out: {shown}")
    return Pack(target)


def write_files(source: Dataset, labels: np.ndarray, mark: str, folder: Path, target: Path) -> list[str]:
    """Write a pack's files. Returns `name: reason` of each image left out."""
    kept, dropped, digest = write_images(source, folder / "images.npy", target)
    present, labels = np.unique(labels[kept], return_inverse=True)
    labels = labels.astype(np.int64)
    np.save(folder / "labels.npy", labels)
    digest.update(labels)
    index = {
        "form": FORM,
        "version": VERSION,
        "source": f"{type(source).__name__} {getattr(source, 'folder', '')}".strip(),
        "fingerprint": mark,
        "checksum": digest.hexdigest(),
        "identities": [source.identities[i] for i in present],
        "dropped_identities": len(source.identities) - len(present),
        "dropped": dropped,
        "images": [source.images[i] for i in kept],
    }
    write_json(folder / PACK_INDEX, index)
    return dropped


def write_images(source: Dataset, file: Path, target: Path) -> tuple[list[int], list[str], xxh3_64]:
    """Write images.npy. Returns the numbers of its images in the source, `name: reason` of the others, the checksum."""
    kept, dropped, digest = [], [], xxh3_64()
    with file.open("wb") as stream:
        header(stream, len(source))  # its number of images may become smaller: NumPy leaves room for it
        for i, image in read(source, target):
            if isinstance(image, ImageError):
                name = source.images[i]
                dropped.append(f"{name}: {str(image).split(f'{name}: ', 1)[-1]}")
                continue
            if image.shape != SHAPE or image.dtype != np.uint8:
                height, width = image.shape[:2]
                raise ValueError(
                    f"{source.images[i]}: {image.dtype} of {width}x{height} pixels is no aligned crop, uint8 of"
                    f" {SIZE}x{SIZE}: align the images first"
                )
            stream.write(image)
            digest.update(image)
            kept.append(i)
        stream.seek(0)
        header(stream, len(kept))
        stream.flush()
        os.fsync(stream.fileno())
    if not kept:
        raise ImageError(f"{target}: not made, none of {len(source)} images can be read. {dropped[0]}")
    return kept, dropped, digest


def header(stream, images: int) -> None:
    content = {"descr": "|u1", "fortran_order": False, "shape": (images, *SHAPE)}
    np.lib.format.write_array_header_1_0(stream, content)


def read(source: Dataset, target: Path) -> Iterator[tuple[int, np.ndarray | ImageError]]:
    """The source's images in their order, (112, 112, 3), or why one can't be read."""

    def image(i: int) -> np.ndarray | ImageError:
        try:
            return np.ascontiguousarray(source[i][0].permute(1, 2, 0).numpy())
        except ImageError as error:
            return error

    for start in tqdm(range(0, len(source), BATCH), desc=f"pack {target.name}, {BATCH} at a time", mininterval=5):
        numbers = [*range(start, min(start + BATCH, len(source)))]
        yield from zip(numbers, by_threads(image, numbers))


def fingerprint(source: Dataset) -> str:
    """SHA-256 over all that tells one source from another without reading its images, in hex: the names, labels, sizes
    in bytes (`sizes` (N,), or those of the files in `folder`, if it has one of them) and landmarks.
    """
    digest = hashlib.sha256()
    sizes = getattr(source, "sizes", None)
    if sizes is None:
        folder = getattr(source, "folder", None)
        sizes = repeat(0) if folder is None else (file_size(os.path.join(folder, image)) for image in source.images)
    for name in source.identities:
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape"))
    for image, label, size in zip(source.images, np.asarray(source.labels), sizes):
        digest.update(f"\n{image}\0{int(label)}\0{int(size)}".encode("utf-8", "surrogateescape"))
    if getattr(source, "landmarks", None) is not None:
        digest.update(np.ascontiguousarray(source.landmarks))
    return digest.hexdigest()


def file_size(file: str) -> int:
    """In bytes, or -1 for a missing file."""
    try:
        return os.stat(file).st_size
    except OSError:
        return -1
