"""Duplicates, planted among synthetic faces and found, and the vectorised search against one in plain Python."""

import hashlib
import shutil

import cv2
import numpy as np
import pytest

from benchmarks.loading import write_recordio
from facelib import data
from facelib.data.folder import IdentityFolder
from facelib.data.layout import list_images
from facelib.faces.image import ImageError
from facelib.studies import duplicates
from facelib.studies.duplicates import (
    BITS,
    CORRELATION,
    SIDE,
    Prints,
    count_duplicates,
    difference_hash,
    exact_pairs,
    find_duplicates,
    near_pairs,
    read_prints,
)
from facelib.synthetic import sets

FACE = "Synthetic_000000/Synthetic_000000_0001.jpg"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Four identities of two images."""
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    sets.make_identity_folder(folder, identities=4, images_per_identity=2)
    return folder


@pytest.fixture
def faces(drawn, tmp_path):
    """A copy of them, to plant duplicates in."""
    return shutil.copytree(drawn, tmp_path / "faces")


def named(pairs: np.ndarray, first: Prints, second: Prints | None = None) -> list[tuple[str, str]]:
    return sorted((first.images[i], (second or first).images[j]) for i, j in pairs)


def save(file, image: np.ndarray, quality: int = 95) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def prints_of(folder, **options) -> Prints:
    return read_prints(IdentityFolder(folder), **options)


def found_in(folder) -> tuple[list, list]:
    prints = prints_of(folder)
    return named(exact_pairs(prints), prints), named(near_pairs(prints), prints)


def test_faces_that_are_merely_faces_are_no_duplicates_even_of_one_identity(faces):
    assert found_in(faces) == ([], [])


def test_a_copied_file_is_an_exact_duplicate_and_not_a_near_one_too(faces):
    shutil.copy(faces / FACE, faces / "Synthetic_000003" / "z.jpg")
    assert found_in(faces) == ([(FACE, "Synthetic_000003/z.jpg")], [])


def test_three_equal_files_are_three_pairs(faces):
    for name in ("y.jpg", "z.jpg"):
        shutil.copy(faces / FACE, faces / "Synthetic_000003" / name)
    y, z = "Synthetic_000003/y.jpg", "Synthetic_000003/z.jpg"
    assert found_in(faces) == ([(FACE, y), (FACE, z), (y, z)], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        lambda image: cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
        lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
        lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=8),
        lambda image: image,
    ],
    ids=["halved", "doubled", "grey", "paler", "re-encoded"],
)
def test_the_same_photograph_saved_again_is_a_near_duplicate(faces, change):
    for k, image in enumerate(list_images(faces)):
        save(faces / "again" / f"{k:02d}.jpg", change(cv2.imread(str(faces / image))), quality=60)
    exact, near = found_in(faces)
    originals = [image for image in list_images(faces) if not image.startswith("again")]
    assert exact == [] and near == [(image, f"again/{k:02d}.jpg") for k, image in enumerate(originals)]


@pytest.mark.parametrize(
    "change",
    [lambda image: image[:, ::-1], lambda image: image[::-1], lambda image: 255 - image],
    ids=["mirrored", "upside down", "negative"],
)
def test_a_mirrored_or_inverted_face_is_not(faces, change):
    save(faces / "again" / "z.jpg", change(cv2.imread(str(faces / FACE))))
    assert found_in(faces) == ([], [])


def test_across_two_folders_only_pairs_of_one_image_in_each_are_found(faces, tmp_path):
    other = tmp_path / "other"
    (other / "a").mkdir(parents=True)
    shutil.copy(faces / FACE, other / "a" / "copy.jpg")
    save(other / "a" / "again.jpg", cv2.imread(str(faces / FACE)), quality=60)
    (other / "b").mkdir()
    save(other / "b" / "z.jpg", np.zeros((9, 9, 3), np.uint8))
    first, second = map(prints_of, (faces, other))
    assert named(exact_pairs(first, second), first, second) == [(FACE, "a/copy.jpg")]
    assert named(near_pairs(first, second), first, second) == [(FACE, "a/again.jpg")]


def test_images_without_detail_are_not_taken_for_one_another(tmp_path):
    for value in (0, 90, 255):
        save(tmp_path / f"{value}" / "a.png", np.full((50, 40, 3), value, np.uint8))
    assert found_in(tmp_path) == ([], [])


def test_an_unreadable_image_is_named_or_left_out(faces):
    (faces / FACE).write_bytes((faces / FACE).read_bytes()[:500])
    with pytest.raises(ImageError, match=f"{FACE}.*Replace or delete"):
        prints_of(faces)
    left = prints_of(faces, skip_unreadable=True)
    assert FACE not in left.images and len(left) == 7
    for image in list_images(faces):
        (faces / image).write_bytes(b"")
    with pytest.raises(ImageError, match="none of 8 images can be read"):
        prints_of(faces, skip_unreadable=True)


def test_the_digest_is_of_the_shape_and_the_pixels_whatever_the_file(faces):
    image = cv2.imread(str(faces / FACE))
    save(faces / "again" / "z.png", image)
    prints = prints_of(faces)
    digest = hashlib.sha256(f"{image.shape}".encode() + image[:, :, ::-1].tobytes()).hexdigest()
    assert [name for name, of in zip(prints.images, prints.digest) if of == digest] == [FACE, "again/z.png"]
    assert len(prints) == 9 and prints.thumbnail.shape == (9, SIDE * SIDE)


def test_each_image_has_its_identity_whatever_the_format_calls_it(faces, tmp_path):
    data.pack(faces, tmp_path / "faces.pack")
    assert read_prints(data.Pack(tmp_path / "faces.pack")).identities == prints_of(faces).identities
    write_recordio(faces, tmp_path / "records")
    assert read_prints(data.RecordIO(tmp_path / "records")).identities == [str(k // 2) for k in range(8)]


def test_rows_tell_the_identities_and_counts_which_pairs_have_two(faces):
    shutil.copy(faces / FACE, faces / "Synthetic_000003" / "z.jpg")
    save(faces / "Synthetic_000000" / "again.jpg", cv2.imread(str(faces / FACE)), quality=60)
    found = find_duplicates({"one": prints_of(faces), "other": prints_of(faces)})
    within = found[(found.first_set == "one") & (found.second_set == "one")]
    one, other = "Synthetic_000000", "Synthetic_000003"
    assert sorted(zip(within.kind, within.first_identity, within.second_identity)) == [
        ("exact", one, other),
        ("near", one, one),
        ("near", one, other),
    ]
    counts = count_duplicates(found, ("one", "other"))
    here = {"exact": 1, "exact_of_two_identities": 1, "near": 2, "near_of_two_identities": 1}
    assert counts == {"one": here, "other": here, "across": {"exact": 10 + 2, "near": 4}}


def test_the_hash_has_a_bit_for_each_pixel_brighter_than_the_one_to_its_left():
    rising = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))
    assert int(difference_hash(rising)) == 2**64 - 1
    assert int(difference_hash(rising[:, ::-1].copy())) == 0
    assert int(difference_hash(np.full((8, 9), 7, np.uint8))) == 0
    one_row = np.full((8, 9), 50, np.uint8)
    one_row[3] = [0, 10, 5, 5, 6, 7, 1, 0, 200]
    assert int(difference_hash(one_row)).bit_count() == 4
    assert difference_hash(np.kron(rising, np.ones((20, 30), np.uint8))) == difference_hash(rising)


@pytest.mark.parametrize("chunk", [3, 256])
def test_near_pairs_are_those_of_a_search_pair_by_pair(monkeypatch, chunk):
    monkeypatch.setattr(duplicates, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (5, SIDE * SIDE))
    noise = rng.normal(0, rng.choice([1, 15, 25, 60], (40, 1)), (40, SIDE * SIDE))
    thumbnails = np.clip(base[rng.integers(0, 5, 40)] + noise, 0, 255).astype(np.uint8)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, BITS + 2), replace=False)) for _ in range(40)]
    hashes = np.array([int(h) ^ flip for h, flip in zip(rng.choice([0, 2**63 + 5], 40), flips)], np.uint64)
    digests = [str(k // 2) for k in range(40)]
    prints = Prints([str(k) for k in range(40)], [""] * 40, digests, hashes, thumbnails)

    def alike(i: int, j: int) -> bool:
        close = (int(hashes[i]) ^ int(hashes[j])).bit_count() <= BITS
        return close and digests[i] != digests[j] and np.corrcoef(thumbnails[i], thumbnails[j])[0, 1] >= CORRELATION

    expected = [(i, j) for i in range(40) for j in range(40) if alike(i, j)]
    assert 10 < len(expected) < 700
    assert sorted(map(tuple, near_pairs(prints, prints).tolist())) == expected
    assert sorted(map(tuple, near_pairs(prints).tolist())) == [(i, j) for i, j in expected if i < j]
