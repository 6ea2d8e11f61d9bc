"""Duplicate images within one folder of faces and across two: the same file, and the same photograph saved again.

Exact duplicates are files of one SHA-256. Near duplicates are looked for with the 64-bit difference hash (dHash,
Krawetz 2013, "Kind of Like That"): which of two neighbouring pixels of a grey 9x8 thumbnail is the brighter. Where all
images are portraits in one frame, close hashes alone are mostly of different photographs; so pairs whose hashes differ
in at most BITS bits are only candidates, and near duplicates are those whose grey thumbnails of SIDE x SIDE pixels
correlate by CORRELATION or more.

The bounds were chosen by looking at the pairs of 5584 images of CelebA and the 9056 of deep-funneled LFW. There all
pairs of CORRELATION or more were one photograph, re-encoded, retouched or shifted by a few pixels, and their hashes
differed in at most 5 bits (in 8 for synthetic faces, whose smooth grounds leave more bits to chance). The highest
correlations of what was not: 0.956 for two photographs of one person taken in one moment, 0.944 for two people before a
black ground. A photograph that is mirrored, or cropped in another frame, is not found.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from facelib.images import decode_image

BITS = 10
CORRELATION = 0.96
SIDE = 32  # pixels
CHUNK = 256  # images compared with all others at a time: with 15,000 others it takes 30 MB


@dataclass
class Prints:
    """What is kept of N images to compare them: 1 KB each. `images` are their paths in the folder."""

    images: list[str]
    digest: list[str]  # SHA-256 of the file, in hex
    hash: np.ndarray  # (N,) uint64
    thumbnail: np.ndarray  # (N, SIDE * SIDE) uint8, grey

    def __len__(self) -> int:
        return len(self.images)


def read_prints(folder: str | Path, images: list[str]) -> Prints:
    """The prints of `images`, paths in the folder, each read once. Raises ImageError, naming an unreadable one."""
    folder = Path(folder)
    digest, hashes = [], np.empty(len(images), np.uint64)
    thumbnails = np.empty((len(images), SIDE * SIDE), np.uint8)
    for i, image in enumerate(tqdm(images, desc=f"prints of {folder.name}", mininterval=5)):
        content = (folder / image).read_bytes()
        grey = cv2.cvtColor(decode_image(content, folder / image), cv2.COLOR_RGB2GRAY)
        digest.append(hashlib.sha256(content).hexdigest())
        hashes[i] = difference_hash(grey)
        thumbnails[i] = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    return Prints(images, digest, hashes, thumbnails)


def difference_hash(grey: np.ndarray) -> np.uint64:
    """dHash of (H, W) uint8: a bit for each pixel of the 9x8 thumbnail that is brighter than its left neighbour."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)[0]


def exact_pairs(first: Prints, second: Prints | None = None) -> np.ndarray:
    """Indices (P, 2) of all pairs of equal files, across `first` and `second` or, lower index in front, within `first`.

    k equal files in one folder are k (k - 1) / 2 pairs.
    """
    other = first if second is None else second
    left, right = (pd.DataFrame({"digest": prints.digest, "i": range(len(prints))}) for prints in (first, other))
    pairs = left.merge(right, on="digest")[["i_x", "i_y"]].to_numpy()
    return pairs[pairs[:, 0] < pairs[:, 1]] if second is None else pairs


def near_pairs(first: Prints, second: Prints | None = None) -> np.ndarray:
    """Indices (P, 2) of all pairs of near duplicates that are not equal files, across or within, as exact_pairs."""
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
