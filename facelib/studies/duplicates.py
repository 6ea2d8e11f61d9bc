"""Duplicate images within one data set of faces and across two: the same pixels, and the same photograph saved again.

Exact duplicates are images whose pixels have one SHA-256. Near duplicates are looked for with the 64-bit difference
hash (dHash, Krawetz 2013, "Kind of Like That"): which of two neighbouring pixels of a grey 9x8 thumbnail is the
brighter. Where all images are portraits in one frame, close hashes alone are mostly of different photographs; so pairs
whose hashes differ in at most BITS bits are only candidates, and near duplicates are those whose grey thumbnails of
SIDE x SIDE pixels correlate by CORRELATION or more.

The bounds were chosen by looking at the pairs of 5584 images of CelebA and the 9056 of deep-funneled LFW. There all
pairs of CORRELATION or more were one photograph, re-encoded, retouched or shifted by a few pixels, and their hashes
differed in at most 5 bits (in 8 for synthetic faces, whose smooth grounds leave more bits to chance). The highest
correlations of what was not: 0.956 for two photographs of one person taken in one moment, 0.944 for two people before a
black ground. Aligned crops, of which half as many again correlate so, were not looked at. A photograph that is
mirrored, or cropped in another frame, is not found.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from torch.utils.data import Dataset
from tqdm import tqdm

from facelib.data.folder import identity_names
from facelib.data.loader import by_threads
from facelib.faces.image import ImageError

BITS = 10
CORRELATION = 0.96
SIDE = 32  # pixels
CHUNK = 256  # images compared with all others at a time: with 15,000 others it takes 30 MB


@dataclass
class Prints:
    """What is kept of N images to compare them: 1 KB each, and their names."""

    images: list[str]
    identities: list[str]  # of each
    digest: list[str]  # SHA-256 of the shape and the pixels, in hex
    hash: np.ndarray  # (N,) uint64
    thumbnail: np.ndarray  # (N, SIDE * SIDE) uint8, grey

    def __len__(self) -> int:
        return len(self.images)


def read_prints(faces: Dataset, skip_unreadable: bool = False) -> Prints:
    """The prints of the images of a data set (facelib.data.open_images), each read once. Raises ImageError, naming an
    unreadable one, or leaves them out.
    """

    def print_of(i: int) -> tuple[str, np.uint64, np.ndarray] | None:
        try:
            image = np.ascontiguousarray(faces[i][0].permute(1, 2, 0))
        except ImageError:
            if not skip_unreadable:
                raise
            return None
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        thumbnail = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes())
        return digest.hexdigest(), difference_hash(grey), thumbnail.ravel()

    found = []
    with tqdm(total=len(faces), desc="prints", mininterval=5) as bar:
        for start in range(0, len(faces), CHUNK):
            found += by_threads(print_of, range(len(faces))[start : start + CHUNK])
            bar.update(len(found) - bar.n)
    read = [i for i, prints in enumerate(found) if prints is not None]
    if not read:
        raise ImageError(f"none of {len(faces)} images can be read")
    digest, hashes, thumbnails = zip(*(found[i] for i in read))
    names, identities = ([of[i] for i in read] for of in (faces.images, identity_names(faces)))
    return Prints(names, identities, [*digest], np.array(hashes, np.uint64), np.stack(thumbnails))


def difference_hash(grey: np.ndarray) -> np.uint64:
    """dHash of (H, W) uint8: a bit for each pixel of the 9x8 thumbnail that is brighter than its left neighbour."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)[0]


def exact_pairs(first: Prints, second: Prints | None = None) -> np.ndarray:
    """Indices (P, 2) of all pairs of equal images, across `first` and `second` or, lower index first, within `first`.

    k equal images in one data set are k (k - 1) / 2 pairs.
    """
    other = first if second is None else second
    left, right = (pd.DataFrame({"digest": prints.digest, "i": range(len(prints))}) for prints in (first, other))
    pairs = left.merge(right, on="digest")[["i_x", "i_y"]].to_numpy()
    return pairs[pairs[:, 0] < pairs[:, 1]] if second is None else pairs


def near_pairs(first: Prints, second: Prints | None = None) -> np.ndarray:
    """Indices (P, 2) of all pairs of near duplicates that are not equal, across or within, as exact_pairs."""
    other = first if second is None else second
    found = []
    for start in range(0, len(first), CHUNK):
        rows = first.hash[start : start + CHUNK]
        i, j = np.nonzero(np.bitwise_count(rows[:, None] ^ other.hash) <= BITS)
        i += start
        new = np.array([first.digest[a] != other.digest[b] for a, b in zip(i, j)], bool)
        if second is None:
            new &= i < j
        i, j = i[new], j[new]
        for k in range(0, len(i), CHUNK):  # images without detail have equal hashes, so candidates may be many
            a, b = i[k : k + CHUNK], j[k : k + CHUNK]
            near = correlation(first.thumbnail[a], other.thumbnail[b]) >= CORRELATION
            found.append(np.column_stack([a[near], b[near]]))
    return np.concatenate(found) if found else np.empty((0, 2), int)


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's correlation (P,) of the rows of two arrays (P, K); 0 where one of them is constant."""
    first, second = (rows - rows.mean(1, keepdims=True) for rows in (first.astype(float), second.astype(float)))
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.divide((first * second).sum(1), scale, out=np.zeros(len(scale)), where=scale > 0)


def find_duplicates(prints: dict[str, Prints]) -> pd.DataFrame:
    """All pairs of duplicates within two data sets and across, one a row.

    Columns: kind (exact or near); first_set, first, first_identity; second_set, second, second_identity.
    """
    rows = []
    for one, other in sides(prints):
        for kind, find in (("exact", exact_pairs), ("near", near_pairs)):
            for i, j in find(prints[one], None if one == other else prints[other]):
                a, b = prints[one], prints[other]
                rows.append((kind, one, a.images[i], a.identities[i], other, b.images[j], b.identities[j]))
    names = [f"{place}_{what}" if what else place for place in ("first", "second") for what in ("set", "", "identity")]
    return pd.DataFrame(rows, columns=["kind", *names])


def sides(names: Iterable[str]) -> list[tuple[str, str]]:
    """Of two data sets: within the first, within the second, across."""
    first, second = names
    return [(first, first), (second, second), (first, second)]


def count_duplicates(pairs: pd.DataFrame, names: Iterable[str]) -> dict:
    """The counts of the rows of find_duplicates() of two data sets, by name, and `across`.

    Within one, a pair of two identities means that a label is wrong.
    """
    counts = {}
    for one, other in sides(names):
        here = pairs[(pairs.first_set == one) & (pairs.second_set == other)]
        two = here.first_identity != here.second_identity
        found = {}
        for kind in ("exact", "near"):
            found[kind] = int((here.kind == kind).sum())
            if one == other:
                found[f"{kind}_of_two_identities"] = int(((here.kind == kind) & two).sum())
        counts[one if one == other else "across"] = found
    return counts
