"""Synthetic faces: seeded, exactly annotated, in LFW's files, and a verification problem that colour does not solve."""

import csv
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from facelib.synthetic import draw as synthetic
from facelib.synthetic import sets
from facelib.synthetic.draw import draw_face
from facelib.synthetic.sets import make_identity_folder, make_lfw

# LFW deep-funneled's average landmarks, in pixels: both eyes, nose tip, both mouth corners
MEANS = np.array([[104, 113], [146, 113], [125, 136], [108, 157], [142, 157]], np.float32)


@pytest.fixture(scope="module")
def faces() -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(identity, image, landmarks) of 30 identities with 4 images each."""
    return [(identity, *draw_face(identity, image)) for identity in range(30) for image in range(4)]


@pytest.fixture(scope="module")
def lfw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "lfw"
    make_lfw(folder, identities=9, images_per_identity=4, pairs_per_fold=10, folds=3, seed=5, first_identity=50)
    return folder


def align(image: np.ndarray, landmarks: np.ndarray, size: int = 64) -> np.ndarray:
    """A crop in which the landmarks lie as near as a similarity transform brings them to their average places."""
    target = (MEANS - 125) * (size / 128) + size / 2
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, target, method=cv2.LMEDS)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_AREA)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def landmark_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "landmarks.csv", newline="") as file:
        return list(csv.DictReader(file))


# --- one face


def test_a_face_depends_on_identity_image_and_seed_only():
    image, landmarks = draw_face(3, 2, seed=1)
    assert image.shape == (250, 250, 3) and image.dtype == np.uint8
    assert landmarks.shape == (5, 2) and landmarks.dtype == np.float32
    draw_face(8, 0)
    again, same_landmarks = draw_face(3, 2, seed=1)
    assert np.array_equal(image, again) and np.array_equal(landmarks, same_landmarks)
    for other in (draw_face(4, 2, seed=1), draw_face(3, 1, seed=1), draw_face(3, 2, seed=2)):
        assert not np.array_equal(image, other[0]) and not np.array_equal(landmarks, other[1])


def test_image_zero_is_not_drawn_with_the_random_numbers_of_its_identity(monkeypatch):
    """numpy seeds (s, i) and (s, i, 0) alike, so a naive image 0 would have its pose determined by its identity."""
    seeds, default_rng = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or default_rng(seed))
    draw_face(7, 0)
    assert len({default_rng(seed).random() for seed in seeds}) == len(seeds) == 2


def test_landmarks_lie_where_lfw_has_them(faces):
    points = np.stack([landmarks for _, _, landmarks in faces])
    assert np.abs(points.mean(axis=0) - MEANS).max() < 2
    assert np.abs(points - MEANS).max() < 40
    left_eye, right_eye, nose, left_mouth, right_mouth = points.transpose(1, 0, 2)
    assert np.linalg.norm(right_eye - left_eye, axis=1).mean() == pytest.approx(42, abs=2)
    assert (left_eye[:, 0] < right_eye[:, 0]).all() and (left_mouth[:, 0] < right_mouth[:, 0]).all()
    assert (np.maximum(left_eye, right_eye)[:, 1] < nose[:, 1]).all()
    assert (nose[:, 1] < np.minimum(left_mouth, right_mouth)[:, 1]).all()
    tilt = np.degrees(np.arctan2(*(right_eye - left_eye).T[::-1]))
    assert 5 < tilt.std() < 10 and np.abs(tilt).max() < 16


def test_eyes_are_found_in_the_pixels_at_their_landmarks(faces):
    """Averaged over aligned faces, pupils are the darkest spots there: the landmarks follow each image's pose."""
    mean = np.mean([align(image, landmarks).mean(axis=2) for _, image, landmarks in faces], axis=0)
    for x, y in ((MEANS[:2] - 125) / 2 + 32).astype(int):
        eye, cheek = mean[y - 1 : y + 2, x - 1 : x + 2].mean(), mean[y + 8 : y + 11, x - 1 : x + 2].mean()
        assert eye < 0.75 * cheek
        window = mean[y - 3 : y + 6, x - 4 : x + 5]  # below the brow; lids and lashes are dark too, hence 2 px
        down, right = np.unravel_index(window.argmin(), window.shape)
        assert abs(down - 3) <= 2 and abs(right - 4) <= 1


def posed(monkeypatch, identity: int, **changes) -> tuple[np.ndarray, np.ndarray]:
    """A sharp, evenly lit face with these parts of its pose, and the rest of it as drawn for image 1."""
    with monkeypatch.context() as patch:
        shot = vars(synthetic.sample_shot(np.random.default_rng(1)))
        shot |= dict(shade=0, noise=0, blur=0.3, gaze=0, glasses=1, occluded=False) | changes
        patch.setattr(synthetic, "sample_shot", lambda rng: SimpleNamespace(**shot))
        return draw_face(identity, 1)


@pytest.mark.parametrize("yaw", (-20, 20))
@pytest.mark.parametrize("pitch", (-8, 8))
def test_landmarks_follow_a_turned_head(monkeypatch, yaw, pitch):
    """Averaged over people, the pupil stays the darkest spot at the eye's landmark."""
    patches = []
    for identity in range(10):
        face, landmarks = posed(monkeypatch, identity, yaw=np.radians(yaw), pitch=np.radians(pitch), squint=1.1)
        patches.append([cv2.getRectSubPix(face, (17, 9), eye.tolist()).mean(axis=2) for eye in landmarks[:2]])
    for patch in np.mean(patches, axis=0):
        down, right = np.unravel_index(cv2.GaussianBlur(patch, (5, 5), 1).argmin(), patch.shape)
        assert abs(right - 8) <= 1 and abs(down - 4) <= 1


def test_landmarks_turn_and_move_with_the_image(monkeypatch):
    """A head turned, grown and shifted has its landmarks and its pixels where that warp takes the upright head's."""
    image, landmarks = posed(monkeypatch, 6, roll=0, scale=1, shift=np.zeros(2))
    angle, scale, shift = np.radians(9), 1.07, (5, -4)
    moved, moved_landmarks = posed(monkeypatch, 6, roll=angle, scale=scale, shift=np.array(shift))
    matrix = cv2.getRotationMatrix2D((125, 125), -9, 1.07)  # OpenCV's angles run counter-clockwise
    matrix[:, 2] += shift
    expected = landmarks @ matrix[:, :2].T + matrix[:, 2]
    assert moved_landmarks == pytest.approx(expected, abs=1e-3)
    warped = cv2.warpAffine(image, matrix.astype(np.float32), (250, 250), flags=cv2.INTER_LINEAR)
    face = np.s_[90:165, 95:155]
    difference = np.abs(warped[face].astype(float) - moved[face]).mean()
    assert difference < 4 and difference < 0.4 * np.abs(image[face].astype(float) - moved[face]).mean()


def auc(identities: np.ndarray, features: np.ndarray) -> float:
    """The chance that a random genuine pair's features (n, d) are nearer than a random impostor pair's."""
    first, second = np.triu_indices(len(features), 1)
    distance = np.linalg.norm(features[first] - features[second], axis=1)
    same = identities[first] == identities[second]
    return float((distance[same][:, None] < distance[~same][None, ::7]).mean())


def test_identities_can_be_told_apart_but_not_by_their_colour(faces):
    identities = np.array([identity for identity, _, _ in faces])
    crops = np.stack([align(image, landmarks) for _, image, landmarks in faces]).astype(np.float64)
    colour = crops.mean(axis=(1, 2))
    # edges under even light: blurred crop minus its blurrier self, scaled to unit length
    edges = [cv2.GaussianBlur(crop, (0, 0), 1.5) - cv2.GaussianBlur(crop, (0, 0), 6) for crop in crops.mean(axis=3)]
    edges = np.stack(edges)[:, 8:56, 12:52].reshape(len(faces), -1)
    edges /= np.linalg.norm(edges, axis=1, keepdims=True)
    assert 0.5 < auc(identities, colour) < 0.9
    assert auc(identities, edges) > 0.7
    assert auc(np.random.default_rng(0).permutation(identities), edges) == pytest.approx(0.5, abs=0.06)


# --- a folder of identities


def test_identity_folder_has_lfws_layout_and_a_landmark_row_an_image(tmp_path):
    make_identity_folder(tmp_path / "faces", identities=3, images_per_identity=2, seed=4, first_identity=17)
    names = [f"Synthetic_{i:06d}/Synthetic_{i:06d}_{n:04d}.jpg" for i in (17, 18, 19) for n in (1, 2)]
    assert sorted(files(tmp_path / "faces")) == sorted([*names, "landmarks.csv"])
    rows = landmark_rows(tmp_path / "faces")
    assert list(rows[0]) == (
        "image,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y,"
        "mouth_left_x,mouth_left_y,mouth_right_x,mouth_right_y,score"
    ).split(",")
    assert [row["image"] for row in rows] == names
    for row, (identity, n) in zip(rows, [(i, n) for i in (17, 18, 19) for n in (1, 2)]):
        drawn, landmarks = draw_face(identity, n, seed=4)
        *values, score = list(row.values())[1:]
        assert values == [f"{value:.2f}" for value in landmarks.ravel()] and float(score) == 1
        stored = cv2.imread(str(tmp_path / "faces" / row["image"]))[:, :, ::-1]
        assert np.abs(stored.astype(float) - drawn).mean() < 6  # JPEG's loss; red and blue swapped would exceed it


def test_spread_varies_the_number_of_images_reproducibly(tmp_path):
    for name, first in (("a", 0), ("b", 0), ("c", 4)):
        make_identity_folder(tmp_path / name, 12 - first, 3, seed=2, first_identity=first, spread=2)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    counts = [len(list(person.glob("*.jpg"))) for person in sorted((tmp_path / "a").glob("Synthetic_*"))]
    assert len(counts) == 12 and set(counts) <= {1, 2, 3, 4, 5} and len(set(counts)) > 2
    later = {path: content for path, content in files(tmp_path / "c").items() if path.endswith(".jpg")}
    assert later.items() <= files(tmp_path / "a").items()  # an identity is the same whichever set it comes in
    with pytest.raises(ValueError, match="spread=3 .* less than images_per_identity=3"):
        make_identity_folder(tmp_path / "d", 1, 3, spread=3)


@pytest.mark.parametrize("make", [lambda f: make_identity_folder(f, 2, 2), lambda f: make_lfw(f, 4, 2, 2, folds=2)])
def test_a_killed_call_leaves_nothing_that_passes_for_finished(tmp_path, monkeypatch, make):
    calls = []

    def killed(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_face(*args)

    folder = tmp_path / "deep" / "faces"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sets, "draw_face", killed)
        make(folder)
    assert not folder.exists()
    (tmp_path / "deep" / "faces.partial").mkdir(exist_ok=True)  # as a kill would leave it
    (tmp_path / "deep" / "faces.partial" / "stale.txt").write_text("left over")
    make(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["faces"]
    assert not list(folder.rglob("stale.txt"))
    before = files(folder)
    with pytest.raises(FileExistsError, match=str(folder)):
        make(folder)
    assert files(folder) == before


# --- the stand-in for LFW


def read_pairs(lines: list[str]) -> list[tuple[bool, tuple[str, int], tuple[str, int]]]:
    """LFW's lines -> (genuine, (name, image number), (name, image number))."""
    pairs = []
    for parts in (line.split("\t") for line in lines):
        assert len(parts) in (3, 4)
        if len(parts) == 3:
            pairs.append((True, (parts[0], int(parts[1])), (parts[0], int(parts[2]))))
        else:
            pairs.append((False, (parts[0], int(parts[1])), (parts[2], int(parts[3]))))
    return pairs


def check_block(pairs: list, count: int, folder: Path) -> set[str]:
    """A block is `count` genuine then `count` impostor pairs of existing images, none twice; returns its names."""
    assert [genuine for genuine, _, _ in pairs] == [True] * count + [False] * count
    assert len({frozenset([a, b]) for _, a, b in pairs}) == 2 * count
    for genuine, a, b in pairs:
        assert a != b and (a[0] == b[0]) == genuine
        for name, n in (a, b):
            assert (folder / "lfw-synthetic" / name / f"{name}_{n:04d}.jpg").is_file()
    return {name for _, a, b in pairs for name, _ in (a, b)}


def test_view_2_has_identity_disjoint_folds_of_distinct_pairs(lfw):
    header, *lines = (lfw / "pairs.txt").read_text().splitlines()
    assert header == "3\t10" and len(lines) == 3 * 20
    names = [check_block(read_pairs(lines[20 * fold : 20 * fold + 20]), 10, lfw) for fold in range(3)]
    assert sum(len(fold) for fold in names) == len(set.union(*names)) == 9


def test_view_1_trains_and_tests_on_different_people(lfw):
    names = []
    for file in ("pairsDevTrain.txt", "pairsDevTest.txt"):
        header, *lines = (lfw / file).read_text().splitlines()
        assert header == "10" and len(lines) == 20
        names.append(check_block(read_pairs(lines), 10, lfw))
    assert not names[0] & names[1]


def test_lfw_holds_the_asked_identities_with_their_landmarks_and_is_reproducible(lfw, tmp_path):
    images = sorted(path.relative_to(lfw / "lfw-synthetic").as_posix() for path in lfw.rglob("*.jpg"))
    assert images == [f"Synthetic_{i:06d}/Synthetic_{i:06d}_{n:04d}.jpg" for i in range(50, 59) for n in (1, 2, 3, 4)]
    assert [row["image"] for row in landmark_rows(lfw / "lfw-synthetic")] == images
    make_lfw(tmp_path / "lfw", 9, 4, 10, folds=3, seed=5, first_identity=50)
    assert files(tmp_path / "lfw") == files(lfw)


def test_too_few_distinct_pairs_are_refused_before_anything_is_written(tmp_path):
    make_lfw(tmp_path / "just_enough", identities=4, images_per_identity=3, pairs_per_fold=6, folds=2)
    with pytest.raises(ValueError, match="pairs_per_fold=7, .* 6 genuine and 9 impostor .* raise identities"):
        make_lfw(tmp_path / "genuine", identities=4, images_per_identity=3, pairs_per_fold=7, folds=2)
    with pytest.raises(ValueError, match="1 identities of images_per_identity=9 .* 0 impostor"):
        make_lfw(tmp_path / "impostor", identities=3, images_per_identity=9, pairs_per_fold=1, folds=2)
    assert [path.name for path in tmp_path.iterdir()] == ["just_enough"]
