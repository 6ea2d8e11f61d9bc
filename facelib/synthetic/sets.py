"""Data sets of synthetic faces, with the layout and the file names of the real ones."""

import csv
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from facelib.data.landmarks import COLUMNS
from facelib.files import whole_folder
from facelib.synthetic.draw import draw_face


def name_of(identity: int) -> str:
    """The identity's name: its folder and the stem of its files."""
    return f"Synthetic_{identity:06d}"


def new_folder(folder: Path):
    """A whole_folder that replaces nothing. Raises FileExistsError if there is one already."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: remove it, or write to another folder")
    return whole_folder(folder)


def write_faces(folder: Path, counts: Iterable[tuple[int, int]], seed: int) -> None:
    """Write images 1..count of each (identity, count) as JPEG, and landmarks.csv beside the identities' folders.

    Image number n of an identity, <Name>/<Name>_<n in 4 digits>.jpg, is draw_face(identity, n, seed).
    """
    with open(folder / "landmarks.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for identity, count in counts:
            name = name_of(identity)
            (folder / name).mkdir()
            for n in range(1, count + 1):
                path = f"{name}/{name}_{n:04d}.jpg"
                face, landmarks = draw_face(identity, n, seed)
                if not cv2.imwrite(str(folder / path), face[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
                    raise OSError(f"could not write {folder / path}")
                table.writerow([path, *(f"{value:.2f}" for value in landmarks.ravel()), 1])


def make_identity_folder(
    folder: Path, identities: int, images_per_identity: int, seed: int = 0, first_identity: int = 0, spread: int = 0
) -> None:
    """Write a training set: `identities` folders from number `first_identity` on, and landmarks.csv.

    Each identity gets images_per_identity plus a seeded uniform integer in [-spread, spread] images. `folder` must
    not exist; it appears only when complete.
    """
    if not 0 <= spread < images_per_identity:
        raise ValueError(f"spread={spread} must be at least 0 and less than images_per_identity={images_per_identity}")
    counts = []
    for identity in range(first_identity, first_identity + identities):
        rng = np.random.default_rng((seed, identity, 0, 1))  # a stream that no image of the identity uses
        counts.append((identity, images_per_identity + int(rng.integers(-spread, spread + 1))))
    with new_folder(Path(folder)) as partial:
        write_faces(partial, counts, seed)


def sample_pairs(people: np.ndarray, images: int, pairs: int, rng: np.random.Generator) -> list[str]:
    """`pairs` genuine, then `pairs` impostor lines in LFW's format among `people`, each with images 1..`images`."""
    people = sorted(people.tolist())
    both_images = list(combinations(range(1, images + 1), 2))
    both_people = list(combinations(people, 2))
    genuine, impostor = len(people) * len(both_images), len(both_people) * images**2
    if min(genuine, impostor) < pairs:
        raise ValueError(
            f"pairs_per_fold={pairs}, but a fold's {len(people)} identities of images_per_identity={images} give only "
            f"{genuine} genuine and {impostor} impostor pairs: raise identities or images_per_identity, or lower "
            f"pairs_per_fold or folds"
        )
    lines = []
    for index in np.sort(rng.choice(genuine, pairs, replace=False)):
        person, which = divmod(int(index), len(both_images))
        lines.append("{}\t{}\t{}".format(name_of(people[person]), *both_images[which]))
    for index in np.sort(rng.choice(impostor, pairs, replace=False)):
        which, image = divmod(int(index), images**2)
        (a, b), (n1, n2) = both_people[which], divmod(image, images)
        lines.append(f"{name_of(a)}\t{n1 + 1}\t{name_of(b)}\t{n2 + 1}")
    return lines


def make_lfw(
    folder: Path,
    identities: int,
    images_per_identity: int,
    pairs_per_fold: int,
    folds: int = 10,
    seed: int = 0,
    first_identity: int = 0,
) -> None:
    """Write a stand-in for LFW: the images and landmarks.csv in lfw-synthetic/, and the three lists of pairs.

    pairs.txt is View 2: `folds` identity-disjoint folds of pairs_per_fold genuine and as many impostor pairs.
    pairsDevTrain.txt and pairsDevTest.txt are View 1: pairs_per_fold pairs of either kind among one half of the
    identities and among the other. As in LFW the two views share identities. `folder` must not exist; it appears
    only when complete.
    """
    rng = np.random.default_rng((seed, first_identity, 0, 2))
    people = first_identity + rng.permutation(identities)
    view2 = [sample_pairs(fold, images_per_identity, pairs_per_fold, rng) for fold in np.array_split(people, folds)]
    view1 = [sample_pairs(half, images_per_identity, pairs_per_fold, rng) for half in np.array_split(people, 2)]
    with new_folder(Path(folder)) as partial:
        (partial / "pairs.txt").write_text("\n".join([f"{folds}\t{pairs_per_fold}", *sum(view2, [])]) + "\n")
        for file, lines in zip(("pairsDevTrain.txt", "pairsDevTest.txt"), view1):
            (partial / file).write_text("\n".join([str(pairs_per_fold), *lines]) + "\n")
        (partial / "lfw-synthetic").mkdir()
        write_faces(partial / "lfw-synthetic", [(int(person), images_per_identity) for person in sorted(people)], seed)
