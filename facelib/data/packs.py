"""Aligned crops in one memory-mapped file, a pack: no decoding and no file to open for each image while training.

A pack is a safetensors file (format: github.com/huggingface/safetensors): 8 bytes, the header's length as a
little-endian number; the header, JSON padded with spaces; the tensors, one after the other, numbers little-endian.
Any tool for safetensors opens it, and no code runs on reading. The first tensor begins on a page, at 4096 * k.

    images           uint8   (N, 112, 112, 3), RGB: the decoders' order, and channels-last when permuted
    or jpeg          uint8   the images as N JPEG files, one after the other, and
       jpeg_ends     uint64  (N,) where each ends
    checksums        uint64  xxh3_64 of the bytes of each chunk of CHUNK consecutive images, the last one may be shorter
    labels           int32   (N,) from 0, every identity has an image
    names            uint8   the images' names in UTF-8, one after the other, and name_ends, uint64 (N,)
    identities       uint8   the identities' names likewise, and identity_ends
    dropped          uint8   `name: reason` of each image left out likewise, and dropped_ends

The header's `__metadata__` has format, version, chunk (CHUNK), source and fingerprint (what was packed),
dropped_identities (how many were left with no image) and checksum: xxh3_64, 16 hex digits, of the whole file but for
the images, these digits taken as zeros. So a change of any bit is found.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from xxhash import xxh3_64, xxh3_64_intdigest

from facelib.data.loader import by_threads
from facelib.faces.align import SIZE
from facelib.faces.image import ImageError, decode_image

FORMAT, VERSION = "facelib pack", 1
CHUNK = 16  # images under one checksum: 0.6 MB, read at once when the first of them is asked for
SHAPE = (SIZE, SIZE, 3)
BYTES = SIZE * SIZE * 3
DTYPES = {"U8": "|u1", "I32": "<i4", "U64": "<u8"}
LONGEST = 100_000_000  # bytes of a header, safetensors' own limit
AGAIN = "Delete the file and pack again."
BLANK = b'"checksum":"0000000000000000"'


class Names(Sequence):
    """Strings in a UTF-8 blob, uint8 (bytes,), with their ends, uint64 (N,): each is decoded when it is asked for."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray):
        self.blob, self.ends = blob, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        i = range(len(self))[i]
        start = int(self.ends[i - 1]) if i else 0
        return self.blob[start : int(self.ends[i])].tobytes().decode("utf-8", "surrogateescape")


class Pack(Dataset):
    """A packed data set: item i is (uint8 RGB (3, 112, 112), label). Opening reads its header and tables, no image.

    `labels` is an int64 tensor (N,); `identities`, `images` (the images' names) and `dropped` are lazy sequences of
    str, `metadata` is the header's. facelib.data.Loader takes whole batches by `__getitems__`. Sent to a worker process
    it is opened there anew.

    Raises FileNotFoundError if there is no such file, and ValueError naming it if it is not a pack, of a newer version
    or damaged. A chunk's checksum is compared when one of its images is first asked for: ValueError names the chunk.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file)
        head, header = read_header(self.file)
        self.metadata = header.pop("__metadata__")
        data = np.memmap(self.file, np.uint8, "r").view(np.ndarray)[len(head) :]
        try:
            tables = {name: view(data, entry) for name, entry in header.items()}
            self.jpeg = "jpeg" in tables
            self.pixels = tables["jpeg"] if self.jpeg else tables["images"].reshape(-1, *SHAPE)
            self.ends = tables["jpeg_ends"] if self.jpeg else None
            self.checksums, labels = tables["checksums"], tables["labels"]
            self.images = Names(tables["names"], tables["name_ends"])
            self.identities = Names(tables["identities"], tables["identity_ends"])
            self.dropped = Names(tables["dropped"], tables["dropped_ends"])
            self.chunk = int(self.metadata["chunk"])
            stored = len(self.ends) if self.jpeg else len(self.pixels)
            self.blob = self.pixels.reshape(-1)
            written = self.metadata["checksum"]
            found = checksum(head.replace(f'"checksum":"{written}"'.encode(), BLANK, 1), [data[self.start(stored) :]])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{self.file}: a pack whose header is damaged ({error}). {AGAIN}") from None
        if found != written:
            raise ValueError(f"{self.file}: a pack whose header or tables are damaged, their checksum differs. {AGAIN}")
        counts = [len(labels), stored, len(self.images), len(self.checksums)]
        if counts != [stored] * 3 + [-(-stored // self.chunk)]:
            labelled, stored, named, chunks = counts
            raise ValueError(
                f"{self.file}: a pack whose counts disagree, {labelled} labels, {stored} images, {named} names and"
                f" {chunks} checksums of {self.chunk} images each. {AGAIN}"
            )
        if stored and not 0 <= labels.min() <= labels.max() < len(self.identities):
            raise ValueError(
                f"{self.file}: a pack whose labels go beyond its {len(self.identities)} identities. {AGAIN}"
            )
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.checked = np.zeros(len(self.checksums), bool)

    def __reduce__(self):
        return Pack, (self.file,)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        images, labels = self.__getitems__([range(len(self))[i]])
        return images[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """n numbers in [0, N), in any order -> (uint8 (n, 3, 112, 112), channels-last in memory, int64 (n,)).

        Raises IndexError for any other number, ValueError for a damaged chunk, and ImageError naming the file and the
        image for a JPEG that is none.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.file}: images are numbered 0 to {len(self) - 1}, found {indices.tolist()}")
        chunks = indices // self.chunk
        chunks = np.unique(chunks[~self.checked[chunks]])
        self.check(chunks)
        self.checked[chunks] = True
        if self.jpeg:
            images = np.stack(by_threads(self.decode, indices))
        else:
            images = self.pixels[indices]  # one copy a row, at two thirds of a plain copy's speed; threads don't help
        return torch.from_numpy(images).permute(0, 3, 1, 2), self.labels[torch.from_numpy(indices)]

    def decode(self, i: int) -> np.ndarray:
        """Image i of a JPEG pack, (112, 112, 3) uint8."""
        try:
            image = decode_image(self.blob[self.start(i) : self.start(i + 1)].tobytes(), self.images[i])
            if image.shape != SHAPE:
                raise ImageError(f"its shape is {image.shape}")
        except ImageError as error:
            raise ImageError(f"{self.file}: image {i}, {self.images[i]}, can't be decoded ({error})") from None
        return image

    def start(self, i: int) -> int:
        """Where image i starts, in bytes from the first one's start; that of image N is where the last one ends."""
        if self.ends is None:
            return BYTES * int(i)
        return int(self.ends[i - 1]) if i else 0

    def check(self, chunks: Iterable[int]) -> None:
        """Compare the checksums of these chunks. Raises ValueError naming the damaged ones and their images."""
        damaged = []
        for chunk in chunks:
            first, last = self.chunk * int(chunk), min(self.chunk * (int(chunk) + 1), len(self)) - 1
            if xxh3_64_intdigest(self.blob[self.start(first) : self.start(last + 1)]) != self.checksums[chunk]:
                damaged.append(f"{chunk} (images {first} to {last}, {self.images[first]} to {self.images[last]})")
        if damaged:
            shown = ", ".join(damaged[:10]) + (", ..." if len(damaged) > 10 else "")
            raise ValueError(
                f"{self.file}: {len(damaged)} of {len(self.checksums)} chunks are damaged, by number: {shown}. {AGAIN}"
            )

    def verify(self) -> None:
        """Read the whole file and compare every chunk's checksum. Raises ValueError naming all that are damaged."""
        self.check(tqdm(range(len(self.checksums)), desc=f"verify {self.file.name}", unit="chunk", mininterval=5))


def read_header(file: Path) -> tuple[bytes, dict]:
    """A pack's first bytes, up to the tensors, and the header in them. Raises as Pack does."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file.")
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        if length <= min(size - 8, LONGEST):
            head += stream.read(length)
    try:
        header = json.loads(head[8:])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = len(head) + max(ends, default=0)
        metadata = header.get("__metadata__", {})
        form, version = metadata.get("format"), int(metadata.get("version", VERSION))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        raise ValueError(
            f"{file}: not a safetensors file, or one cut off or damaged in its header. If it was a pack: {AGAIN}"
        ) from None
    if form != FORMAT:
        raise ValueError(f"{file}: a safetensors file but not a {FORMAT}.")
    if version > VERSION:
        raise ValueError(f"{file}: a {FORMAT} of version {version}, this facelib reads up to {VERSION}. Update it.")
    if size != expected:
        words = "cut off" if size < expected else "too long"
        raise ValueError(f"{file}: a pack {words}, {size:,} bytes instead of {expected:,}. {AGAIN}")
    return head, header


def view(data: np.ndarray, entry: dict) -> np.ndarray:
    """The tensor that the header's entry describes, in the bytes after the header."""
    start, end = entry["data_offsets"]
    return data[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])


def checksum(head: bytes, tables: Iterable[bytes]) -> str:
    """The metadata's `checksum`: of the file's first bytes, with zeros in its place, and all after the images."""
    digest = xxh3_64(head)
    for table in tables:
        digest.update(table)
    return digest.hexdigest()
