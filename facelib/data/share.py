"""A share of each identity's images, the same ones however the data set is held."""

import os
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


def choose_images(
    labels: np.ndarray,
    identities: Sequence[str],
    ratio: float = 1.0,
    seed: int = 0,
    keep_one: bool = False,
    least: int = 1,
) -> np.ndarray:
    """Which images (N,) of those with these labels (M,) make up a share of each identity's: rising indices.

    `ratio` in (0, 1] keeps floor(n * ratio) of each identity's n images, a choice seeded by `seed` and the identity's
    name, and nested: the images of ratio 0.1 are among those of 0.25. Identities left with no image keep none, or one
    if `keep_one`. Raises ValueError, naming the parameter, if fewer than `least` identities are left: two to train on.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], found {ratio}")
    counts = np.bincount(labels, minlength=len(identities))
    kept = np.floor(counts * ratio + 1e-9).astype(int)  # 0.29 * 100 is 28.999999999999996 in floating point
    kept = np.maximum(kept, np.minimum(counts, 1)) if keep_one else kept
    if (kept > 0).sum() < least:
        needed = "training needs two" if least == 2 else "one is needed"
        raise ValueError(
            f"ratio {ratio} leaves {(kept > 0).sum()} of {(counts > 0).sum()} identities, but {needed}. The"
            f" largest has {counts.max()} images: raise ratio, or set keep_one."
        )
    by_identity = np.argsort(labels, kind="stable")
    if (kept < counts).any():
        chosen = []
        for identity, images in enumerate(np.split(by_identity, np.cumsum(counts)[:-1])):
            # Seeded by the name: whatever other identities are there, this one's choice stays.
            rng = np.random.default_rng([seed, zlib.crc32(os.fsencode(identities[identity]))])
            chosen.append(images[rng.permutation(len(images))[: kept[identity]]])
        by_identity = np.concatenate(chosen)
    return np.sort(by_identity)


class Share(Dataset):
    """A share of the images of each identity of a pack or a RecordIO, as IdentityFolder takes one of its folder.

    `faces` has items (uint8 RGB (3, H, W), label), `labels` (N,) and `identities`. Raises ValueError as choose_images.
    """

    def __init__(self, faces: Dataset, ratio: float = 1.0, seed: int = 0, keep_one: bool = False, least: int = 1):
        self.faces, self.available = faces, len(faces)
        self.index = choose_images(faces.labels.numpy(), faces.identities, ratio, seed, keep_one, least)
        left, labels = np.unique(faces.labels.numpy()[self.index], return_inverse=True)
        self.identities = [faces.identities[i] for i in left]
        self.labels = torch.from_numpy(labels)
        self.dropped = len(faces.identities) - len(left)
        self.images = Chosen(faces.images, self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.faces[int(self.index[i])][0], int(self.labels[i])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor] | list[tuple[Tensor, int]]:
        found = self.faces.__getitems__(self.index[indices])
        if isinstance(found, tuple):
            return found[0], self.labels[indices]
        return [(image, int(self.labels[i])) for (image, _), i in zip(found, indices)]


class Chosen(Sequence):
    """Those of the names with these indices (N,), each looked up when it is asked for."""

    def __init__(self, names: Sequence[str], index: np.ndarray):
        self.names, self.index = names, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        return self.names[int(self.index[i])]
