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

import contextlib
import fcntl
import hashlib
import io
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, repeat, starmap
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from xxhash import xxh3_64, xxh3_64_intdigest

from facelib.images import ImageError, read_image
from facelib.models import SIZE
from facelib.output import no_space

FORMAT, VERSION = "facelib pack", 1
CHUNK = 16  # images under one checksum: 0.6 MB, read at once when the first of them is asked for
SHAPE = (SIZE, SIZE, 3)
BYTES = SIZE * SIZE * 3
BEGIN = 8192  # the first image's place. The header takes 1.5 kB and six times the source's description at most
DESCRIPTION = 1000  # characters of the source's description that are kept
DTYPES = {"U8": "|u1", "I32": "<i4", "U64": "<u8"}
LONGEST = 100_000_000  # bytes of a header, safetensors' own limit
AGAIN = "Delete the file and pack again."
BLANK = b'"checksum":"0000000000000000"'
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


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
            images = np.empty((len(indices), *SHAPE), np.uint8)
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                for image, decoded in zip(images, pool.map(self.decode, indices)):
                    image[:] = decoded
        else:
            images = self.pixels[indices]  # one copy a row, at two thirds of a plain copy's speed; threads don't help
        return torch.from_numpy(images).permute(0, 3, 1, 2), self.labels[torch.from_numpy(indices)]

    def decode(self, i: int) -> np.ndarray:
        """Image i of a JPEG pack, (112, 112, 3) uint8."""
        try:
            image = read_image(io.BytesIO(self.blob[self.start(i) : self.start(i + 1)]))
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
        raise FileNotFoundError(f"{file}: there is no such file")
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
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError(f"{file}: not a safetensors file, or one cut off or damaged in its header") from None
    if form != FORMAT:
        raise ValueError(f"{file}: a safetensors file but not a {FORMAT}")
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


# ---- Writing. Chunks are appended to <target>.partial, each then noted in <target>.journal, a line of JSON.


@dataclass
class Progress:
    """What the partial file holds: all images of the source before `next`, but for those dropped."""

    next: int = 0
    ends: array = field(default_factory=lambda: array("Q"))  # of each image, in bytes from the first one's start
    checksums: array = field(default_factory=lambda: array("Q"))  # of each chunk
    dropped: list[tuple[int, str]] = field(default_factory=list)  # number in the source, reason

    @property
    def written(self) -> int:
        return self.ends[-1] if self.ends else 0

    def add(self, sizes: list[int], checksum: int) -> None:
        """A finished chunk whose images have these sizes in bytes."""
        for size in sizes:
            self.ends.append(self.written + size)
        self.checksums.append(checksum)


def pack(source: Dataset, target: str | Path, jpeg: bool = False, workers: int = 0) -> dict:
    """Write the images of `source` into the pack `target`, in `workers` processes, or in this one if it is 0.

    The source has items (uint8 RGB (3, 112, 112), label), `labels` (N,), `identities` and `images`, a name for each
    image: facelib.data.IdentityFolder with landmarks is one. With `jpeg` the images are stored as JPEG, its own bytes
    where it offers `read_bytes(i)`, else encoded at quality 95 without subsampling. Packs of one source are equal.

    A killed call is continued by the next one. A whole pack of the same source, by names, labels, landmarks and sizes
    in bytes (`sizes` (N,), or those of the files in `folder`, if it has one of them), is left as it is; one of another
    source is replaced when the new one is whole. Images that can't be read are left out, then identities without any.
    Returns the numbers of `images`, `identities` and `dropped_identities`, and `dropped`: `name: reason` of each image.

    Raises FileExistsError if another file is at `target`, OSError naming it if it can't be written, the disk is full or
    another process is packing to it, ImageError if no image can be read, and ValueError naming an image that is no
    aligned crop. What was at `target` before stays.
    """
    target = Path(target)
    labels = np.asarray(source.labels)
    if not 0 < len(source) == len(labels) == len(source.images):
        raise ValueError(
            f"{target}: the source must have as many labels and names as images, and one at least: found"
            f" {len(labels)} labels, {len(source.images)} names and {len(source)} images"
        )
    if not 0 <= labels.min() <= labels.max() < len(source.identities):
        raise ValueError(f"{target}: the source's labels must be in [0, {len(source.identities)}), its identities")
    earlier = earlier_pack(target)
    mark = fingerprint(source)
    partial, journal = (target.with_name(target.name + suffix) for suffix in (".partial", ".journal"))
    if earlier is not None and (earlier.metadata["fingerprint"], earlier.jpeg) == (mark, jpeg):
        if journal.exists() and not partial.exists():  # that call was killed when it had only the journal to delete
            with contextlib.suppress(OSError), lock(journal, target):
                journal.unlink()
        print(f"{target}: whole already, {len(earlier):,} images of {len(earlier.identities):,} identities")
        return counts(earlier)
    with lock(journal, target) as lines:
        with opened(partial, target) as images:
            with telling(target):
                progress = resume(mark, jpeg, lines, images, target)
            append(Stored(source, jpeg), workers, progress, lines, images, target)
            with telling(target):
                if progress.checksums:
                    finish(source, jpeg, mark, progress, images)
                    os.replace(partial, target)
                else:
                    partial.unlink()
                journal.unlink()
    if progress.dropped:
        names = [source.images[i] for i, _ in progress.dropped[:10]] + ["..."] * (len(progress.dropped) > 10)
        share = f"{len(progress.dropped):,} of {len(source):,} images can't be read"
        if not progress.checksums:
            raise ImageError(f"{target}: not made, {share}: {', '.join(names)}. {progress.dropped[0][1]}")
        print(f"{target}: {share} and are left out, `dropped` tells why: {', '.join(names)}")
    return counts(Pack(target))


def counts(packed: Pack) -> dict:
    """What `pack` returns."""
    return {
        "images": len(packed),
        "identities": len(packed.identities),
        "dropped_identities": int(packed.metadata["dropped_identities"]),
        "dropped": list(packed.dropped),
    }


def earlier_pack(target: Path) -> Pack | None:
    """The pack at `target`. Raises FileExistsError if something else is there, a damaged pack included."""
    if not target.exists():
        return None
    try:
        return Pack(target)
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{error} It will not be replaced: delete it, or name another target.") from None


def fingerprint(source: Dataset) -> str:
    """SHA-256 over all that tells one source from another without reading its images, in hex."""
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


@contextlib.contextmanager
def telling(target: Path) -> Iterator[None]:
    """What the disk refuses, as one sentence that names the target."""
    try:
        yield
    except OSError as error:
        refused = OSError(f"{target}: can't be written ({error.strerror or error}). Name another target.")
        raise no_space(target, error) or refused from error


@contextlib.contextmanager
def lock(journal: Path, target: Path) -> Iterator[io.FileIO]:
    """The journal, open, and no other process's until the block ends. Raises BlockingIOError if it is another's now.

    lockf and not flock: a lock of the latter would live on in the worker processes when this one is killed.
    """
    with telling(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with opened(journal, target) as lines:
            try:
                fcntl.lockf(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise BlockingIOError(
                    f"{target}: another process is packing to it. Wait until it is done, or name another target."
                ) from None
            except OSError as error:
                raise OSError(
                    f"{target}: its folder can't be locked ({error.strerror}). Name another target."
                ) from None
            if journal.exists() and os.path.samefile(journal, lines.fileno()):  # else one that was done just now
                yield lines
                return


@contextlib.contextmanager
def opened(file: Path, target: Path) -> Iterator[io.FileIO]:
    """The file, open for reading and writing without a buffer, made if it is missing."""
    with telling(target):
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(number, "r+b", buffering=0) as stream:
        yield stream


def write_all(stream: io.FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:  # a full disk takes a part before it refuses
        rest = rest[os.write(stream.fileno(), rest) :]


class Stored(Dataset):
    """The images of the source as they are stored. An error is an item too: a worker can't raise it as it is."""

    def __init__(self, source: Dataset, jpeg: bool):
        self.source, self.jpeg = source, jpeg

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> bytes | ValueError:
        try:
            image = self.source[i][0].permute(1, 2, 0).numpy()
            if image.shape != SHAPE or image.dtype != np.uint8:
                height, width = image.shape[:2]
                raise ValueError(
                    f"{image.dtype} of {width}x{height} pixels is no aligned crop, uint8 of {SIZE}x{SIZE}: give the"
                    " source landmarks"
                )
            if not self.jpeg:
                return image.tobytes()
            if hasattr(self.source, "read_bytes"):  # read above all the same, to know that they are an image's
                return bytes(self.source.read_bytes(i))
            return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG)[1].tobytes()
        except ImageError as error:
            return ImageError(str(error).split(f"{self.source.images[i]}: ", 1)[-1])
        except ValueError as error:
            return ValueError(f"{self.source.images[i]}: {error}")


def join(items: list[bytes | ValueError]) -> tuple[Tensor, list[int | ValueError]]:
    """The bytes of all items, uint8, and each item's size or error.

    A tensor crosses processes in shared memory. In a pipe the bytes of a worker whose parent was killed would be stuck,
    and the worker with them.
    """
    found = bytearray().join(item for item in items if isinstance(item, bytes))
    sizes = [len(item) if isinstance(item, bytes) else item for item in items]
    return torch.from_numpy(np.frombuffer(found, np.uint8)), sizes


def split(joined: Tensor, sizes: list[int | ValueError]) -> Iterator[bytes | ValueError]:
    """What was joined, item by item."""
    end = 0
    for size in sizes:
        if isinstance(size, int):
            end += size
        yield joined[end - size : end].numpy().tobytes() if isinstance(size, int) else size


def resume(mark: str, jpeg: bool, journal: io.FileIO, images: io.FileIO, target: Path) -> Progress:
    """What the two files hold of this source's pack; they are cut off behind it, where the next chunk goes."""
    options = {"journal": FORMAT, "version": VERSION, "chunk": CHUNK, "jpeg": jpeg, "fingerprint": mark}
    first = json.dumps(options).encode() + b"\n"
    progress, whole = Progress(), 0
    with open(journal.fileno(), "rb", closefd=False) as lines:  # closing a file of its own would give up the lock
        found = lines.readline()
        if found == first:
            whole = len(first)
            for line in tqdm(lines, desc=f"check {target.name}", unit="chunk", mininterval=5):
                if not take_over(line, progress, images):
                    break
                whole += len(line)
    if progress.checksums:
        print(f"{target}: going on after {len(progress.ends):,} images that an earlier call packed")
    elif found and found != first:
        print(f"{target}: an earlier call packed other images or in another way and did not finish, starting anew")
    journal.truncate(whole)
    journal.seek(whole)
    if not whole:
        write_all(journal, first)
    images.truncate(BEGIN + progress.written)
    images.seek(BEGIN + progress.written)
    return progress


def take_over(line: bytes, progress: Progress, images: io.FileIO) -> bool:
    """Add the chunk of this line of the journal, if the line is whole and the chunk is in the file as it says."""
    try:
        entry = json.loads(line)
        sizes, expected = entry["sizes"], int(entry["checksum"], 16)
        position, dropped = entry["next"], [*map(tuple, entry["dropped"])]
        chunk = os.pread(images.fileno(), sum(sizes), BEGIN + progress.written)
    except (ValueError, TypeError, KeyError):
        return False
    if not line.endswith(b"\n") or len(chunk) != sum(sizes) or xxh3_64_intdigest(chunk) != expected:
        return False
    progress.add(sizes, expected)
    progress.next = position
    progress.dropped += dropped
    return True


def append(
    stored: Stored, workers: int, progress: Progress, journal: io.FileIO, images: io.FileIO, target: Path
) -> None:
    """Write what is missing, chunk by chunk, each into the images first and into the journal then."""
    missing = range(progress.next, len(stored))
    # Its generator is its own: else packing would change what the caller draws at random afterwards.
    batches = DataLoader(
        stored, CHUNK, sampler=missing, num_workers=workers, collate_fn=join, generator=torch.Generator()
    )
    chunk, noted = [], len(progress.dropped)
    with tqdm(total=len(stored), initial=progress.next, desc=f"pack {target.name}", mininterval=5) as bar:
        for item in chain.from_iterable(starmap(split, batches)):
            if isinstance(item, ImageError):
                progress.dropped.append((progress.next, str(item)))
            elif isinstance(item, ValueError):
                raise item
            else:
                chunk.append(item)
            progress.next += 1
            bar.update()
            if len(chunk) == CHUNK or (chunk and progress.next == len(stored)):
                sizes, content = [*map(len, chunk)], b"".join(chunk)
                progress.add(sizes, xxh3_64_intdigest(content))
                entry = {"next": progress.next, "checksum": f"{progress.checksums[-1]:016x}", "sizes": sizes}
                with telling(target):
                    write_all(images, content)
                    write_all(journal, json.dumps(entry | {"dropped": progress.dropped[noted:]}).encode() + b"\n")
                chunk, noted = [], len(progress.dropped)


def finish(source: Dataset, jpeg: bool, mark: str, progress: Progress, images: io.FileIO) -> None:
    """Write the tables behind the images and the header before them, onto the disk."""
    kept = np.ones(len(source), bool)
    kept[[i for i, _ in progress.dropped]] = False
    present, labels = np.unique(np.asarray(source.labels)[kept], return_inverse=True)
    names, name_ends = text_table(source.images[i] for i in np.flatnonzero(kept))
    identities, identity_ends = text_table(source.identities[i] for i in present)
    dropped, dropped_ends = text_table(f"{source.images[i]}: {reason}" for i, reason in progress.dropped)
    padding = -progress.written % 8  # torch wants each number at a multiple of its size
    tables = {
        **({"jpeg_ends": np.array(progress.ends, "<u8")} if jpeg else {}),
        "checksums": np.array(progress.checksums, "<u8"),
        "name_ends": name_ends,
        "identity_ends": identity_ends,
        "dropped_ends": dropped_ends,
        "labels": labels.astype("<i4"),
        "names": names,
        "identities": identities,
        "dropped": dropped,
    }
    end = progress.written + padding
    shape = [end] if jpeg else [len(progress.ends), *SHAPE]
    dtypes = {numpy_name: dtype for dtype, numpy_name in DTYPES.items()}
    header = {"jpeg" if jpeg else "images": {"dtype": "U8", "shape": shape, "data_offsets": [0, end]}}
    for name, table in tables.items():
        header[name] = {
            "dtype": dtypes[table.dtype.str],
            "shape": [len(table)],
            "data_offsets": [end, end + table.nbytes],
        }
        end += table.nbytes
    described = f"{type(source).__name__} {getattr(source, 'folder', '')}".strip()[:DESCRIPTION]
    header["__metadata__"] = {
        "format": FORMAT,
        "version": str(VERSION),
        "chunk": str(CHUNK),
        "source": described.encode("utf-8", "replace").decode(),
        "fingerprint": mark,
        "dropped_identities": str(len(source.identities) - len(present)),
        "checksum": "0" * 16,
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    head = (BEGIN - 8).to_bytes(8, "little") + text.ljust(BEGIN - 8)
    rest = [bytes(padding), *(table.view(np.uint8) for table in tables.values())]
    for table in rest:
        write_all(images, table)
    images.seek(0)
    write_all(images, head.replace(BLANK, f'"checksum":"{checksum(head, rest)}"'.encode(), 1))
    os.fsync(images.fileno())


def text_table(strings: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Strings -> their UTF-8 one after the other, uint8, and where each ends, uint64."""
    blob, ends = bytearray(), array("Q")
    for string in strings:
        blob += string.encode("utf-8", "surrogateescape")
        ends.append(len(blob))
    return np.frombuffer(blob, np.uint8), np.array(ends, "<u8")
