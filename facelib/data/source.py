"""Data sets of faces, whatever format they are held in. The one place to look for them.

    an identity folder   `<identity>/<image>.jpg`, as CASIA-WebFace unpacks: IdentityFolder
    RecordIO             a folder with insightface's train.rec: RecordIO
    a pack               a folder of memory-mapped arrays of aligned crops, made of any of them by pack(): Pack
    pairs                LFW's pairs.txt: read_pairs; insightface's verification sets, <name>.bin: read_bin

Each holds images as uint8 tensors (3, H, W), RGB, with labels contiguous from 0. Loader makes batches of them.

    python -m facelib.data SOURCE TARGET    # pack(SOURCE, TARGET)
"""

from pathlib import Path

from torch.utils.data import Dataset

from facelib.data.augmentation import augment, random_flip
from facelib.data.bin import BinImages, bin_pairs, read_bin
from facelib.data.folder import IdentityFolder, identity_names
from facelib.data.in_memory import InMemory
from facelib.data.landmarks import find_landmarks, fingerprint
from facelib.data.layout import RECORDS, VERIFICATION_SET, images_folder, is_aligned
from facelib.data.loader import Loader
from facelib.data.packs import Pack, write_pack
from facelib.data.pair_records import PairRecords
from facelib.data.pairs import PairImages, Pairs, read_pairs
from facelib.data.recordio import RecordIO
from facelib.data.share import Share, choose_images
from facelib.faces.align import centre_crop, random_crop

__all__ = [
    "IdentityFolder", "InMemory", "Loader", "Pack", "PairImages", "PairRecords", "Pairs", "RecordIO", "Share",
    "augment", "centre_crop", "choose_images", "fingerprint_of", "identity_names", "is_aligned", "open_crops",
    "open_faces", "open_images", "pack", "random_crop", "random_flip", "read_bin", "read_pairs",
]  # fmt: skip


def open_images(source: str | Path, landmarks=None) -> IdentityFolder | RecordIO | Pack | BinImages:
    """All images of a data set as they are stored: an identity folder's, an LFW folder's, those of a folder with
    train.rec, of a pack or of a verification set. `landmarks` (facelib.data.landmarks) align a folder's.

    Raises ValueError or OSError, naming what is wrong.

    >>> image, label = facelib.open_images("data/faces")[0]
    >>> image.shape, image.dtype, label
    (torch.Size([3, 250, 250]), torch.uint8, 0)
    """
    source = Path(source)
    if source.suffix == VERIFICATION_SET:
        return bin_pairs(source)
    if is_aligned(source):
        return RecordIO(source) if (source / RECORDS).exists() else Pack(source)
    return IdentityFolder(images_folder(source), landmarks=landmarks)


def open_crops(
    source: str | Path, cache: str | Path = "build/landmarks", device: str = "cpu", skip_unreadable: bool = False
) -> IdentityFolder | RecordIO | Pack | BinImages:
    """All images of a data set as aligned crops: open_images, a folder's aligned by landmarks.find_landmarks,
    which `cache`, `device` and `skip_unreadable` are for.
    """
    if is_aligned(source):
        return open_images(source)
    found = find_landmarks(images_folder(source), cache, device, skip_unreadable=skip_unreadable)
    return open_images(source, found)


def open_faces(
    source: str | Path, ratio: float = 1.0, seed: int = 0, keep_one: bool = False, landmarks=None
) -> IdentityFolder | Share:
    """The share of a pack, of a folder with train.rec or of an identity folder that `ratio`, `seed` and `keep_one`
    choose (choose_images), of two identities or more. `landmarks` (facelib.data.landmarks) align an identity
    folder's images.

    Raises ValueError or OSError, naming what is wrong.

    >>> len(facelib.open_faces("data/faces", ratio=0.5)), len(facelib.open_faces("data/faces"))  # 4 identities of 5
    (8, 20)
    """
    source = Path(source)
    if not is_aligned(source):
        return IdentityFolder(source, ratio, seed, keep_one, landmarks, least=2)
    faces = RecordIO(source) if (source / RECORDS).exists() else Pack(source)
    try:
        return Share(faces, ratio, seed, keep_one, least=2)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def fingerprint_of(source: str | Path, images: list[str] | None = None) -> str:
    """Which data set it is, as landmarks.fingerprint; of a pack its own, of RecordIO by train.rec's size."""
    source = Path(source)
    if source.suffix == VERIFICATION_SET:
        return fingerprint(source)
    if (source / RECORDS).exists():
        return fingerprint(source, [RECORDS])
    return Pack(source).about["fingerprint"][:12] if is_aligned(source) else fingerprint(images_folder(source), images)


def pack(
    source: str | Path | Dataset, target: str | Path, cache: str | Path = "build/landmarks", device: str = "cpu"
) -> Pack:
    """facelib.data.packs.write_pack of a data set, or of the one at a path: a folder, whose faces are aligned by their
    landmarks, detected into `cache` if they aren't there yet; or a folder with train.rec.

    >>> packed = facelib.pack("data/faces", "faces.pack")
    >>> packed[19][0].shape, facelib.open_images("faces.pack").labels[19].item()
    (torch.Size([3, 112, 112]), 3)
    """
    if isinstance(source, (str, Path)):
        source = open_crops(source, cache, device, skip_unreadable=True)
    return write_pack(source, target)
