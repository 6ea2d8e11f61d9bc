"""Data sets of faces, whatever format they are held in. The one place to look for them.

    an identity folder   `<identity>/<image>.jpg`, as CASIA-WebFace unpacks: IdentityFolder
    RecordIO             a folder with insightface's train.rec: RecordIO
    a pack               one memory-mapped file of aligned crops, made of any of them by pack(): Pack
    pairs                LFW's pairs.txt: read_pairs; insightface's verification sets, <name>.bin: read_bin

Each holds images as uint8 tensors (3, H, W), RGB, with labels contiguous from 0. Loader makes batches of them.

    python -m facelib.data SOURCE TARGET [--jpeg]    # pack(SOURCE, TARGET)
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset

from facelib import write_pack
from facelib.crops import augment, centre_crop, random_crop, random_flip
from facelib.formats import RECORDS, VERIFICATION_SET, is_aligned
from facelib.identity_folder import IdentityFolder, Share, choose_images, identity_names
from facelib.images import images_folder
from facelib.in_memory import InMemory
from facelib.landmarks import find_landmarks, fingerprint
from facelib.loader import Loader
from facelib.pack import Pack
from facelib.pair_records import PairRecords
from facelib.pairs import PairImages, Pairs, read_pairs
from facelib.recordio import RecordIO
from facelib.verification_bin import BinImages, bin_pairs, read_bin

__all__ = [
    "IdentityFolder", "InMemory", "Loader", "Pack", "PairImages", "PairRecords", "Pairs", "RecordIO", "Share",
    "augment", "centre_crop", "choose_images", "fingerprint_of", "identity_names", "is_aligned", "open_crops",
    "open_faces", "open_images", "pack", "random_crop", "random_flip", "read_bin", "read_pairs",
]  # fmt: skip


def open_images(source: str | Path, landmarks=None) -> IdentityFolder | RecordIO | Pack | BinImages:
    """All images of a data set as they are stored: an identity folder's, an LFW folder's, those of a folder with
    train.rec, of a pack or of a verification set. `landmarks` (facelib.landmarks.find_landmarks) align a folder's.

    Raises ValueError or OSError, naming what is wrong.
    """
    source = Path(source)
    if source.suffix == VERIFICATION_SET:
        return bin_pairs(source)
    if is_aligned(source):
        return Pack(source) if source.is_file() else RecordIO(source)
    return IdentityFolder(images_folder(source), landmarks=landmarks)


def open_crops(
    source: str | Path, cache: str | Path = "build/landmarks", device: str = "cpu", skip_unreadable: bool = False
) -> IdentityFolder | RecordIO | Pack | BinImages:
    """All images of a data set as aligned crops: open_images, a folder's aligned by facelib.landmarks.find_landmarks,
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
    choose (choose_images), of two identities or more. `landmarks` (facelib.landmarks.find_landmarks) align an identity
    folder's images.

    Raises ValueError or OSError, naming what is wrong.
    """
    source = Path(source)
    if not is_aligned(source):
        return IdentityFolder(source, ratio, seed, keep_one, landmarks, least=2)
    faces = Pack(source) if source.is_file() else RecordIO(source)
    try:
        return Share(faces, ratio, seed, keep_one, least=2)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def fingerprint_of(source: str | Path, images: list[str] | None = None) -> str:
    """Which data set it is, as facelib.landmarks.fingerprint; of a pack its own, of RecordIO by train.rec's size."""
    source = Path(source)
    if source.suffix == VERIFICATION_SET:
        return fingerprint(source)
    if source.is_file():
        return Pack(source).metadata["fingerprint"][:12]
    return fingerprint(source, [RECORDS]) if is_aligned(source) else fingerprint(images_folder(source), images)


def pack(
    source: str | Path | Dataset,
    target: str | Path,
    jpeg: bool = False,
    workers: int = 0,
    cache: str | Path = "build/landmarks",
    device: str = "cpu",
) -> dict:
    """facelib.write_pack.pack of a data set, or of the one at a path: a folder, whose faces are aligned by their
    landmarks, detected into `cache` if they aren't there yet; or a folder with train.rec.
    """
    if isinstance(source, (str, Path)):
        source = open_crops(source, cache, device, skip_unreadable=True)
    return write_pack.pack(source, target, jpeg, workers)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["--jpeg"]):
        sys.exit(__doc__)
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        counts = pack(*sys.argv[1:3], jpeg="--jpeg" in sys.argv, workers=torch.get_num_threads(), device=device)
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{sys.argv[2]}: interrupted. The same command goes on.")
    print(f"{sys.argv[2]}: {counts['images']:,} images of {counts['identities']:,} identities")
