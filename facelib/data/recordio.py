"""insightface's training sets: MXNet's RecordIO files, read without MXNet.

One folder holds `train.rec`, the records; `train.idx`, a line `key<tab>offset` for each; and `property`, the one line
`classes,height,width`.

A record (dmlc-core, recordio.h) is MAGIC and a word, both uint32 and little-endian as all numbers are: the word's upper
3 bits are a flag, its lower 29 the length of the content, which follows and is padded to a multiple of 4 bytes. Where
MAGIC itself lies in the content, at a multiple of 4 bytes, it is left out and the record split: its parts have the
flags 1, then 2, at last 3. A whole one has 0.

The content (mxnet, recordio.py) begins with flag, label, id, id2, a uint32, float32 and two uint64. If flag > 0 so many
float32 labels follow, and `label` is not used. The rest is an encoded image.

insightface (face2rec2.py) puts first, at key 0, a record without an image. Its labels are the key of the first identity
record and one past the last; the images have the keys from 1 to before the identity records. An identity record has no
image either; its labels are the key of the identity's first image and one past its last.
"""

import os
import struct
from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from facelib.data.loader import Images
from facelib.faces.image import ImageError, decode_image
from facelib.files import first_line

MAGIC = struct.pack("<I", 0xCED7230A)
PREFIX = struct.Struct("<4sI")  # MAGIC, flag << 29 | length
LENGTH_BITS = 29
WHOLE, BEGIN, MIDDLE, END = range(4)  # the flag
HEADER = struct.Struct("<IfQQ")  # flag, label, id, id2
EXACT = 2**24  # float32, which identity records are of, holds all whole numbers up to this one


class RecordFile:
    """A train.rec: its records by byte offset. Reading raises ImageError, naming file and byte, for a damaged one.

    Several threads and forked processes may read it, and it can be pickled into new ones.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size = path.stat().st_size

    def __getstate__(self) -> dict:
        return {"path": self.path, "size": self.size}

    @cached_property
    def file(self):
        return self.path.open("rb", buffering=0)

    def name(self, offset: int) -> str:
        return f"{self.path}@{offset}"

    def read(self, length: int, offset: int) -> bytes:
        content = os.pread(self.file.fileno(), length, offset)  # leaves no position that threads would share
        if len(content) < length:
            raise ImageError(f"{self.name(offset)}: the file ends within a record. Replace the file.")
        return content

    def part(self, offset: int) -> tuple[int, int, int]:
        """Of the part of a record at the byte offset: flag, length and where the next one begins."""
        magic, word = PREFIX.unpack(self.read(PREFIX.size, offset))
        flag, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
        end = offset + PREFIX.size + length + -length % 4
        if magic != MAGIC:
            raise ImageError(
                f"{self.name(offset)}: no record begins there, the magic number is missing. Replace the file, or delete"
                " train.idx if that is wrong."
            )
        if flag > END:
            raise ImageError(f"{self.name(offset)}: the record has the unknown flag {flag}. Replace the file.")
        if end > self.size:
            raise ImageError(
                f"{self.name(offset)}: the record should end at byte {end}, the file ends at {self.size}. Replace it."
            )
        return flag, length, end

    def record(self, offset: int) -> tuple[bytes, int]:
        """The content of the record at the byte offset, its parts joined, and where the next record begins."""
        parts, at = [], offset
        while True:
            flag, length, end = self.part(at)
            if (flag in (WHOLE, BEGIN)) != (at == offset):
                what = "a record goes on" if at == offset else f"the record of byte {offset} does not go on"
                raise ImageError(f"{self.name(at)}: {what} there, by its flag {flag}. Replace the file.")
            parts.append(self.read(length, at + PREFIX.size))
            if flag in (WHOLE, END):
                return MAGIC.join(parts), end
            at = end

    def header(self, offset: int, content: bytes, length: int) -> tuple[int, float, int]:
        """Of a content of this length, of which the first 28 bytes are needed: id, label, where the image begins."""
        if length < HEADER.size:
            raise ImageError(f"{self.name(offset)}: a record of {length} bytes has no header. Replace the file.")
        flag, label, key, _ = HEADER.unpack_from(content)
        start = HEADER.size + 4 * flag
        if start > length:
            raise ImageError(f"{self.name(offset)}: a record of {length} bytes has no {flag} labels. Replace the file.")
        return key, struct.unpack_from("<f", content, HEADER.size)[0] if flag else label, start

    def head(self, offset: int) -> tuple[int, float, bool, int]:
        """Of the record at the byte offset: id, label, whether it holds an image, and where the next one begins."""
        flag, length, end = self.part(offset)
        if flag == WHOLE:
            content = self.read(min(length, HEADER.size + 4), offset + PREFIX.size)
        else:
            content, end = self.record(offset)
            length = len(content)
        key, label, start = self.header(offset, content, length)
        return key, label, start < length, end

    def image(self, offset: int) -> tuple[float, bytes]:
        """Label and encoded image of the record at the byte offset."""
        content, _ = self.record(offset)
        _, label, start = self.header(offset, content, len(content))
        return label, content[start:]

    def keys(self, offset: int) -> tuple[int, int] | None:
        """The two labels of a record without an image, which are keys, or None if it is none of that kind."""
        content, _ = self.record(offset)
        _, _, start = self.header(offset, content, len(content))
        if start < len(content) or start < HEADER.size + 8:
            return None
        first, last = struct.unpack_from("<2f", content, HEADER.size)
        if not (first.is_integer() and last.is_integer()):
            raise ImageError(f"{self.name(offset)}: {first} and {last} should be two keys, whole numbers")
        return int(first), int(last)

    def scan(self) -> pd.DataFrame:
        """All records by key: columns key, offset, label and image, 1 if there is one.

        The keys are the records' ids or, where two are equal, numbers from 0.
        """
        columns = {"key": array("Q"), "offset": array("q"), "label": array("f"), "image": array("b")}
        at = 0
        with tqdm(total=self.size, desc=f"records of {self.path}", unit="B", unit_scale=True, mininterval=5) as bar:
            while at < self.size:
                key, label, image, end = self.head(at)
                for column, value in zip(columns.values(), (key, at, label, image)):
                    column.append(value)
                bar.update(end - at)
                at = end
        records = pd.DataFrame({name: np.frombuffer(column, column.typecode) for name, column in columns.items()})
        if not records.key.is_unique:
            records["key"] = np.arange(len(records))
        return records.sort_values("key", ignore_index=True)


class RecordIO(Images):
    """Images of a folder with insightface's train.rec: item i is (uint8 RGB (3, H, W), label), labels from 0.

    Images are in the order of their keys. `labels` is (N,) int64, contiguous from 0 in the order of the file's own
    labels; `identities` are these, as text; `dropped` counts the identities without an image. `images` names each
    image, `train.rec@<byte offset>`.

    An identity's label is that of its first image, its images are the range that its identity record tells: so of a
    file of millions only two records an identity are read here. That an image's own label is its identity's is checked
    when the image is read. Where there are no identity records, or keys above EXACT, which they can't tell exactly,
    every image's own label is read here; and where there is no train.idx, the records are found by going through
    train.rec once. Either takes minutes for tens of gigabytes.

    Raises FileNotFoundError without a train.rec, and ValueError, naming file and byte offset, if train.idx, property
    or the identity records disagree with it. On reading raises ImageError, naming both too, for a damaged record, one
    that is no image and one whose label is not its identity's.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.index = self.folder / "train.idx"
        path = self.folder / "train.rec"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file. Expected train.rec, train.idx and property in one folder.")
        self.rec = RecordFile(path)
        indexed = self.index.is_file()
        records = self.read_index() if indexed else self.rec.scan()
        first, last = self.announced(records)
        if indexed and first and last <= EXACT:
            self.offsets, own, self.dropped = self.by_identity(records.offset.to_numpy(), first, last)
        else:
            records = self.scan_indexed(records) if indexed else records
            self.offsets, own, self.dropped = self.by_image(records, first)
        if len(own) == 0:
            raise ValueError(f"{path}: no images, only {len(records)} records of other kinds")
        wrong = np.flatnonzero(~(abs(own) <= EXACT) | (own != np.rint(own)))
        if len(wrong):
            at = self.rec.name(self.offsets[wrong[0]])
            raise ValueError(f"{at}: the label {own[wrong[0]]:g} is no whole number of an identity")
        self.values, labels = np.unique(own.astype(np.int64), return_inverse=True)
        self.labels = torch.from_numpy(labels)
        self.identities = [str(value) for value in self.values]
        self.images = Names(self.offsets)
        self.check_property()

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = decode_image(self.read_bytes(i), self.rec.name(self.offsets[i]), "Replace the file.")
        return torch.from_numpy(image).permute(2, 0, 1), int(self.labels[i])

    def read_bytes(self, i: int) -> bytes:
        """The encoded image, as it was put into the file."""
        offset = int(self.offsets[i])
        label, image = self.rec.image(offset)
        expected = self.values[self.labels[i]]
        if label != expected:
            at = self.rec.name(offset)
            raise ImageError(f"{at}: the image's label is {label:.9g}, its identity's {expected}. Replace the file.")
        return image

    def read_index(self) -> pd.DataFrame:
        """The columns key and offset, int64, of train.idx, by key.

        Raises ValueError if that is no such file, or doesn't begin and end where train.rec does.
        """
        try:
            table = pd.read_csv(self.index, sep="\t", header=None, dtype=np.int64)
            table.columns = ["key", "offset"]
            if table.min(axis=None) < 0:
                raise ValueError("one is below 0")
        except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
            reason = first_line(error)
            raise ValueError(f"{self.index}: expected lines `key<tab>offset`, two whole numbers ({reason})") from None
        for column in table:
            rising = np.sort(table[column])
            twice = rising[1:][rising[1:] == rising[:-1]]
            if len(twice):
                raise ValueError(f"{self.index}: the {column} {twice[0]} is there twice")
        size, mend = self.rec.size, "Replace the wrong one, or delete train.idx, and the records are found without it."
        begin, last = int(rising[0]), int(rising[-1])
        if last >= size:
            raise ValueError(f"{self.index}: a record at byte {last}, but train.rec ends at {size}. {mend}")
        if begin > 0:
            raise ValueError(f"{self.index}: no record at byte 0 of train.rec, the first is at {begin}. {mend}")
        _, end = self.rec.record(last)
        if end != size:
            raise ValueError(f"{self.index}: the last record ends at byte {end}, but train.rec at {size}. {mend}")
        return table.sort_values("key", ignore_index=True)

    def scan_indexed(self, indexed: pd.DataFrame) -> pd.DataFrame:
        """What RecordFile.scan finds, by the keys of train.idx. Raises ValueError if that has other records."""
        found = self.rec.scan().drop(columns="key")
        records = indexed.merge(found, on="offset")  # in the order of indexed
        if not len(records) == len(indexed) == len(found):
            at = np.setxor1d(indexed.offset, found.offset)[0]
            raise ValueError(
                f"{self.index}: lists {len(indexed)} records, train.rec has {len(found)}; they differ at byte {at}."
                " Delete train.idx, and the records are found without it."
            )
        return records

    def announced(self, records: pd.DataFrame) -> tuple[int, int]:
        """The keys of the first identity record and past the last one, by the record of key 0; zeros if it's an image.

        Raises ValueError if the keys are others than announced.
        """
        if len(records) == 0:
            raise ValueError(f"{self.rec.path}: holds no record")
        offset = int(records.offset.iloc[0])
        found = self.rec.keys(offset) if records.key.iloc[0] == 0 else None
        if found is None:
            return 0, 0
        first, last = found
        highest = int(records.key.iloc[-1])
        # Of more than EXACT keys the header tells the number rounded to float32.
        if highest != len(records) - 1 or np.float32(len(records)) != last or not 1 <= first <= last:
            raise ValueError(
                f"{self.rec.name(offset)}: announces identity records of the keys {first} to {last - 1}, the last ones,"
                f" but there are {len(records)} records with keys up to {highest}. If {self.index.name} lacks some,"
                " delete it, and they are found without it."
            )
        return first, last

    def by_identity(self, offsets: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The images' offsets (N,) and labels (N,) float by the identity records, and how many of these are empty.

        Raises ValueError if these don't share out the images.
        """
        identity, own = np.full(first, -1), []
        for offset in offsets[first:last].tolist():
            start, stop = self.rec.keys(offset) or (0, 0)
            if not 1 <= start <= stop <= first:
                raise ValueError(f"{self.rec.name(offset)}: no identity record of images of the keys 1 to {first - 1}")
            if (identity[start:stop] >= 0).any():
                raise ValueError(f"{self.rec.name(offset)}: some of the keys {start} to {stop - 1} have an identity")
            if start < stop:
                identity[start:stop] = len(own)
                own.append(self.rec.head(int(offsets[start]))[1])
        lost = np.flatnonzero(identity[1:] < 0) + 1
        if len(lost):
            raise ValueError(f"{self.rec.name(offsets[lost[0]])}: no identity record has this image, key {lost[0]}")
        return offsets[1:first].copy(), np.array(own)[identity[1:]], last - first - len(own)

    def by_image(self, records: pd.DataFrame, first: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The same by the images' own labels, for `first` as in announced()."""
        images = records[records.image == 1] if first else records
        if first and np.float32(len(images) + 1) != first:
            at = self.rec.name(records.offset.iloc[0])
            raise ValueError(f"{at}: announces {first - 1} images, but {len(images)} records hold one")
        others = len(records) - 1 - len(images) if first else 0
        return images.offset.to_numpy(), images.label.to_numpy(float), max(0, others - images.label.nunique())

    def check_property(self) -> None:
        """Raise ValueError if there is a file `property` and it doesn't fit what was found, the first image's size."""
        file = self.folder / "property"
        if not file.is_file():
            return
        try:
            classes, height, width = (int(word) for word in file.read_text().split(","))
        except ValueError:
            raise ValueError(f"{file}: expected `classes,height,width`, three numbers. Correct or delete it.") from None
        found = len(self.identities) + self.dropped, *self[0][0].shape[1:]
        if (classes, height, width) != found:
            raise ValueError(
                f"{file}: tells {classes},{height},{width} (classes, height, width), but train.rec has"
                f" {','.join(map(str, found))}. Correct or delete it."
            )


def write_records(images: Iterable[tuple[int, bytes]], folder: Path) -> None:
    """Labels and encoded images as train.rec and train.idx, without identity records."""
    folder.mkdir(parents=True)
    with (folder / "train.rec").open("wb") as records, (folder / "train.idx").open("w") as index:
        for key, (label, image) in enumerate(images):
            content = HEADER.pack(0, label, key, 0) + image
            index.write(f"{key}\t{records.tell()}\n")
            records.write(PREFIX.pack(MAGIC, len(content)) + content + bytes(-len(content) % 4))


class Names(Sequence):
    """Names of the records at these byte offsets, `train.rec@<byte offset>`, each made when it is asked for."""

    def __init__(self, offsets: np.ndarray):
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i):
        return Names(self.offsets[i]) if isinstance(i, slice) else f"train.rec@{self.offsets[i]}"
