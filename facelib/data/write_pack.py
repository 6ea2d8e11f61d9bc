"""Write a pack (facelib.data.packs): in parallel, resumed after a kill, whole or not at all.

Chunks are appended to <target>.partial, each then noted in <target>.journal, a line of JSON.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat, starmap
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from xxhash import xxh3_64_intdigest

from facelib.data.end_with_parent import end_with_parent
from facelib.data.packs import BLANK, CHUNK, DTYPES, FORMAT, SHAPE, VERSION, Pack, checksum
from facelib.faces.align import SIZE
from facelib.faces.image import ImageError
from facelib.files import telling

BEGIN = 8192  # the first image's place. The header takes 1.5 kB and six times the source's description at most
DESCRIPTION = 1000  # characters of the source's description that are kept
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


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
    if (
        earlier is not None
        and (earlier.metadata["fingerprint"], earlier.jpeg) == (mark, jpeg)
        and whole(earlier, source)
    ):
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
    if target.is_dir():
        raise FileExistsError(
            f"{target}: a folder is there. It will not be replaced: delete it, or name another target."
        )
    try:
        return Pack(target)
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{error} It will not be replaced: delete it, or name another target.") from None


def whole(earlier: Pack, source: Dataset) -> bool:
    """Whether the pack holds all that can be read of its source: what was dropped may have been mended since.

    Raises ValueError, naming the chunks, if the pack is damaged.
    """
    earlier.verify()
    if not len(earlier.dropped):
        return True
    left_out = {*source.images} - {*earlier.images}
    return not any(readable(source, i) for i, image in enumerate(source.images) if image in left_out)


def readable(source: Dataset, i: int) -> bool:
    try:
        source[i]
    except ImageError:
        return False
    return True


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
                    f"{image.dtype} of {width}x{height} pixels is no aligned crop, uint8 of {SIZE}x{SIZE}: align"
                    " the images first"
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
        stored,
        CHUNK,
        sampler=missing,
        num_workers=workers,
        collate_fn=join,
        generator=torch.Generator(),
        worker_init_fn=end_with_parent,
    )
    chunk, noted = [], len(progress.dropped)
    with tqdm(total=len(stored), initial=progress.next, desc=f"pack {target.name}", mininterval=5) as bar:
        for item in chain.from_iterable(starmap(split, alive(batches, target))):
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


def alive(batches: DataLoader, target: Path) -> Iterator:
    """The batches. Raises OSError, naming the target, if a process that reads them dies."""
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(f"{target}: a process that reads images died, maybe for want of memory. Run it again.") from None


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
