"""Alignment onto ArcFace's template, MTCNN, and the cache of landmarks."""

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facelib import alignment
from facelib.alignment import COLUMNS, TEMPLATE, Detector, align, find_landmarks, main_face, similarity_transform
from facelib.images import ImageError
from facelib.synthetic import draw_face, make_identity_folder


def similarity(degrees: float, scale: float, shift) -> np.ndarray:
    """The (2, 3) matrix of a rotation by `degrees`, a scale and a shift."""
    angle = np.radians(degrees)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([rotation, shift])


def transformed(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


# --- the transform


def test_the_template_is_insightfaces():
    """arcface_src of insightface's face_align.py, for crops of 112x112."""
    published = "38.2946 51.6963 73.5318 51.5014 56.0252 71.7366 41.5493 92.3655 70.7299 92.2041"
    assert TEMPLATE.shape == (5, 2)
    assert TEMPLATE.ravel() == pytest.approx(np.array(published.split(), dtype=float), abs=1e-5)


@pytest.mark.parametrize("degrees", [0, 17, -90, 180])
@pytest.mark.parametrize("scale", [0.2, 1, 3])
def test_a_known_rotation_scale_and_shift_is_recovered(degrees, scale):
    matrix = similarity(degrees, scale, (31.5, -12))
    source = np.random.default_rng(0).uniform(0, 250, (5, 2))
    assert similarity_transform(source, transformed(matrix, source)) == pytest.approx(matrix, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_noisy_points_are_fitted_by_least_squares(seed):
    """x' = a x - b y + p and y' = b x + a y + q, solved for a, b, p, q by numpy."""
    rng = np.random.default_rng(seed)
    source = rng.uniform(0, 250, (5, 2))
    target = transformed(similarity(rng.uniform(-40, 40), 0.6, (5, 9)), source) + rng.normal(0, 6, (5, 2))
    x, y = source.T
    one, zero = np.ones(5), np.zeros(5)
    equations = np.concatenate([np.column_stack([x, -y, one, zero]), np.column_stack([y, x, zero, one])])
    a, b, p, q = np.linalg.lstsq(equations, target.T.ravel(), rcond=None)[0]
    assert similarity_transform(source, target) == pytest.approx(np.array([[a, -b, p], [b, a, q]]), abs=1e-8)


def test_the_transform_goes_to_the_template_unless_told_otherwise():
    source = transformed(similarity(12, 1.7, (40, 60)), TEMPLATE.astype(float))
    assert transformed(similarity_transform(source), source) == pytest.approx(TEMPLATE, abs=1e-5)


def test_the_transform_never_mirrors():
    """Landmarks of a mirrored face fit the template best by a reflection, which would exchange left and right."""
    mirrored = TEMPLATE.astype(float) * [-1, 1]
    assert np.linalg.det(similarity_transform(mirrored)[:, :2]) >= 0


def test_landmarks_on_one_point_are_refused():
    with pytest.raises(ValueError, match="one point"):
        similarity_transform(np.full((5, 2), 60.0))


@pytest.mark.parametrize("degrees, scale, shift", [(0, 1, (20, 30)), (15, 1.6, (60, 20)), (-25, 2.5, (40, 120))])
def test_align_puts_each_landmark_on_the_template(degrees, scale, shift):
    landmarks = transformed(similarity(degrees, scale, shift), TEMPLATE.astype(float))
    rows, columns = np.mgrid[:400, :420]
    for landmark, target in zip(landmarks, TEMPLATE):
        spot = 255 * np.exp(-((columns - landmark[0]) ** 2 + (rows - landmark[1]) ** 2) / (2 * (3 * scale) ** 2))
        crop = align(np.repeat(spot[:, :, None], 3, axis=2).round().astype(np.uint8), landmarks.astype(np.float32))
        assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8
        weights = crop[:, :, 1].astype(float)
        centre = (weights * np.mgrid[:112, :112][::-1]).sum((1, 2)) / weights.sum()
        assert centre == pytest.approx(target, abs=0.1)


def test_align_keeps_pixels_colours_and_upright_faces_as_they_are():
    image = np.random.default_rng(0).integers(0, 256, (150, 160, 3), dtype=np.uint8)
    assert np.abs(align(image, TEMPLATE + [17, 9]).astype(int) - image[9:121, 17:129]).max() <= 1


def test_align_is_black_outside_the_image():
    crop = align(np.full((112, 112, 3), 200, np.uint8), TEMPLATE + [50, 0])
    assert (crop[:, :61] == 200).all() and (crop[:, 63:] == 0).all()


# --- the detector


def test_the_main_face_is_large_and_central():
    """insightface's rule: area of the box less twice the squared distance of its centre from the image's."""
    boxes = np.array([[25, 70, 85, 130], [85, 85, 115, 115], [40, 70, 100, 130], [100, 100, 101, 101]])
    # in an image of 200x200: 3600 - 2 * 45^2 = -450; 900 - 0; 3600 - 2 * 30^2 = 1800; 1 - 2 * 0.5 = 0
    points, scores = np.arange(40).reshape(4, 5, 2), np.array([1.0, 0.7, 0.9, 0.8])
    for candidates, best in [([0, 1, 2, 3], 2), ([0, 1, 3], 1), ([3, 0], 3), ([0], 0)]:
        found, score = main_face(boxes[candidates], scores[candidates], points[candidates], 200, 200)
        assert np.array_equal(found, points[best]) and found.dtype == np.float32 and score == scores[best]


def test_the_main_face_is_measured_from_the_centre_of_images_that_are_not_square():
    boxes = np.array([[280, 30, 320, 70], [30, 280, 70, 320]])
    points, scores = np.zeros((2, 5, 2)) + [[[0]], [[1]]], np.array([0.9, 0.8])
    assert main_face(boxes, scores, points, 600, 100)[1] == 0.9
    assert main_face(boxes, scores, points, 100, 600)[1] == 0.8


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def test_mtcnn_finds_the_landmarks_of_faces_and_none_where_there_is_no_face(detector):
    faces = [draw_face(identity, 1) for identity in range(3)]
    found = detector([*(image for image, _ in faces), np.full((250, 250, 3), 90, np.uint8)])
    assert found[3] is None and len(found) == 4
    for (_, drawn), (landmarks, score) in zip(faces, found):
        assert landmarks.shape == (5, 2) and landmarks.dtype == np.float32 and 0.7 < score <= 1
        assert np.abs(landmarks - drawn).max() < 8  # pixels, of 42 between the eyes


def test_mtcnn_takes_rgb(detector):
    """Faces in swapped colours are found with less certainty."""
    faces = [draw_face(identity, 1)[0] for identity in range(3)]
    swapped = [face[:, :, ::-1] for face in faces]
    right, wrong = (np.mean([0 if f is None else f[1] for f in detector(images)]) for images in (faces, swapped))
    assert right > wrong


@pytest.mark.parametrize("height, width", [(1, 1), (20, 20), (39, 250)])
def test_images_too_small_for_a_face_have_none(detector, height, width):
    assert detector([np.full((height, width, 3), 90, np.uint8)] * 2) == [None, None]


# --- the landmarks of a folder


class Fake:
    """Instead of MTCNN: finds landmarks that depend on the picture, none in black ones, and notes what it has seen."""

    seen: list[int] = []
    patience = 10**9

    def __init__(self, device="cpu"):
        pass

    def __call__(self, images):
        if len(Fake.seen) + len(images) > Fake.patience:
            raise KeyboardInterrupt
        assert len({image.shape for image in images}) == 1
        values = [int(image[0, 0, 0]) for image in images]
        Fake.seen += values
        return [None if v == 0 else (TEMPLATE + np.float32(v), 0.5 + v / 1000) for v in values]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(alignment, "Detector", Fake)
    monkeypatch.setattr(Fake, "seen", [])
    monkeypatch.setattr(Fake, "patience", 10**9)
    return Fake


def write(folder, **values: int):
    """Pictures <identity>/<name>.png of one value each; `a__b` stands for a/b."""
    return write_all(folder, {f"{name.replace('__', '/')}.png": value for name, value in values.items()})


def write_all(folder, values: dict[str, int], size=(8, 8)):
    for name, value in values.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), value, np.uint8)).save(folder / name)
    return folder


def check(table: pd.DataFrame, values: dict[str, int]):
    """The table has a row for each image, sorted, with what the fake detector makes of its value."""
    assert list(table.columns) == COLUMNS[1:] and table.index.name == "image"
    assert list(table.index) == sorted(values, key=lambda name: name.split("/"))
    for name, value in values.items():
        *points, score = table.loc[name]
        assert points == pytest.approx((TEMPLATE + value).ravel(), abs=2e-3)
        assert score == pytest.approx(0.5 + value / 1000)


MANY = {f"person{n // 8}/{n:03d}.png": n + 1 for n in range(40)}


def test_landmarks_that_come_with_a_folder_are_used_and_nothing_is_detected(tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "Detector", None)
    make_identity_folder(tmp_path / "faces", identities=2, images_per_identity=1, seed=3)
    table = find_landmarks(tmp_path / "faces", tmp_path / "cache")
    assert list(table.columns) == COLUMNS[1:] and len(table) == 2 and (table.score == 1).all()
    for identity, name in enumerate(["Synthetic_000000", "Synthetic_000001"]):
        drawn = draw_face(identity, 1, seed=3)[1].ravel()
        assert table.loc[f"{name}/{name}_0001.jpg"].to_numpy()[:10] == pytest.approx(drawn, abs=0.006)
    assert not (tmp_path / "cache").exists()


def test_every_image_is_detected_once_and_kept(tmp_path, fake):
    folder, cache = write_all(tmp_path / "faces", MANY), tmp_path / "new" / "cache"
    check(find_landmarks(folder, cache), MANY)
    assert sorted(fake.seen) == sorted(MANY.values())
    check(find_landmarks(folder, cache), MANY)
    assert len(fake.seen) == 40
    assert [file.suffix for file in cache.iterdir()] == [".csv"]
    assert sorted(path.name for path in folder.iterdir()) == [f"person{n}" for n in range(5)]  # nothing written there


def test_pictures_of_several_sizes_are_detected_together_and_keep_their_places(tmp_path, fake):
    folder = write_all(tmp_path / "faces", {f"a/{n}.png": n for n in range(1, 9, 2)}, (8, 8))
    write_all(folder, {f"a/{n}.png": n for n in range(2, 9, 2)}, (6, 9))
    check(find_landmarks(folder, tmp_path), {f"a/{n}.png": n for n in range(1, 9)})


def test_another_data_set_of_the_same_name_is_detected_anew(tmp_path, fake):
    for place, values in (("one", {"a/1.png": 5}), ("two", {"a/1.png": 6, "a/2.png": 7})):
        check(find_landmarks(write_all(tmp_path / place / "faces", values), tmp_path / "cache"), values)


def interrupted(folder, cache, fake, after: int):
    """Detection that is killed once the detector has seen `after` images; returns the file that it leaves."""
    fake.patience = after
    with pytest.raises(KeyboardInterrupt):
        find_landmarks(folder, cache)
    fake.patience = 10**9
    assert 0 < len(fake.seen) < 40
    (left,) = cache.iterdir()
    assert left.name.startswith("detecting-")
    return left


def test_a_killed_detection_continues_where_it_stopped(tmp_path, fake):
    folder = write_all(tmp_path / "faces", MANY)
    interrupted(folder, tmp_path / "cache", fake, after=33)
    check(find_landmarks(folder, tmp_path / "cache"), MANY)
    assert sorted(fake.seen) == sorted(MANY.values())  # none twice


@pytest.mark.parametrize("torn", [1, 3, 20, 60])
def test_a_torn_last_row_is_detected_again(tmp_path, fake, torn):
    folder = write_all(tmp_path / "faces", MANY)
    left = interrupted(folder, tmp_path / "cache", fake, after=33)
    left.write_bytes(left.read_bytes()[:-torn])
    before = len(fake.seen)
    check(find_landmarks(folder, tmp_path / "cache"), MANY)
    assert len(fake.seen) - before == 40 - before + 1


ODD = {
    "Lee, Ann/Lee, Ann_0001.png": 1,
    'O\'Neil "Bob"/it\'s, "he".png': 2,
    "Zoë Ångström/größe 1.png": 3,
    "山田 太郎/写真,1.png": 4,
    "Иван/фото.png": 5,
    " spaces /  two  .png": 6,
    "NA/1.png": 7,
    "1/2.png": 8,
    "#hash/%41 100%.png": 9,
}


def test_names_with_commas_quotes_spaces_and_letters_of_any_script_are_kept(tmp_path, fake):
    folder = write_all(tmp_path / "faces", ODD)
    for _ in range(2):
        check(find_landmarks(folder, tmp_path / "cache"), ODD)


@pytest.mark.parametrize("form", ["comma, {}", 'quote" {}', 'both", {}', " spaces {} ", "写真 {}"])
def test_a_killed_detection_continues_whatever_the_names(tmp_path, fake, form):
    values = {f"{form.format(n // 8)}/{form.format(n)}.png": n + 1 for n in range(40)}
    folder = write_all(tmp_path / "faces", values)
    interrupted(folder, tmp_path / "cache", fake, after=33)
    check(find_landmarks(folder, tmp_path / "cache"), values)
    assert sorted(fake.seen) == sorted(values.values())


def test_where_no_face_is_found_the_median_of_the_others_stands_with_score_0(tmp_path, fake):
    folder = write(tmp_path / "faces", a__1=10, a__2=0, b__1=20, b__2=90, b__3=0)
    table = find_landmarks(folder, tmp_path / "cache")
    for name in ("a/2.png", "b/3.png"):
        *points, score = table.loc[name]
        assert points == pytest.approx((TEMPLATE + 20).ravel(), abs=2e-3) and score == 0
    found = table[table.score > 0]
    check(found, {"a/1.png": 10, "b/1.png": 20, "b/2.png": 90})


def test_a_folder_without_any_face_is_refused_by_name(tmp_path, fake):
    with pytest.raises(ValueError, match="faces: no face .* 2 images"):
        find_landmarks(write(tmp_path / "faces", a__1=0, b__1=0), tmp_path / "cache")


def test_unreadable_images_are_named_and_the_others_landmarks_kept(tmp_path, fake):
    folder = write_all(tmp_path / "faces", MANY)
    for name in ("person0/003.png", "person4/039.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(ImageError, match="2 of 40 .*\n.*person0/003.png.*\n.*person4/039.png"):
        find_landmarks(folder, tmp_path / "cache")
    assert len(fake.seen) == 38
    with pytest.raises(ImageError, match="2 of 40"):
        find_landmarks(folder, tmp_path / "cache")
    assert len(fake.seen) == 38


@pytest.mark.parametrize("mended", ["replaced", "deleted"])
def test_once_an_unreadable_image_is_replaced_or_deleted_the_others_are_not_detected_again(tmp_path, fake, mended):
    folder, bad = write_all(tmp_path / "faces", MANY), "person0/003.png"
    (folder / bad).write_bytes(b"no image")
    with pytest.raises(ImageError, match=bad):
        find_landmarks(folder, tmp_path / "cache")
    if mended == "replaced":
        write_all(folder, {bad: MANY[bad]})
    else:
        (folder / bad).unlink()
    values = {name: value for name, value in MANY.items() if mended == "replaced" or name != bad}
    check(find_landmarks(folder, tmp_path / "cache"), values)
    assert sorted(fake.seen) == sorted(values.values())


def test_a_batch_of_unreadable_images_alone_does_no_harm(tmp_path, fake):
    folder = write_all(tmp_path / "faces", MANY)
    for name in list(MANY)[:20]:
        (folder / name).write_bytes(b"")
    with pytest.raises(ImageError, match="20 of 40"):
        find_landmarks(folder, tmp_path / "cache")
    assert len(fake.seen) == 20


def test_a_landmarks_file_with_other_columns_is_refused_by_name(tmp_path):
    folder = write(tmp_path / "faces", a__1=1)
    (folder / "landmarks.csv").write_text("image,x,y\na/1.png,1,2\n")
    with pytest.raises(ValueError, match="landmarks.csv.*left_eye_x"):
        find_landmarks(folder, tmp_path / "cache")


def test_aligned_synthetic_faces_agree_on_where_their_eyes_are(tmp_path):
    """Averaged over aligned people, the eyes' places on the template are darker than the cheeks below them."""
    crops = [align(*draw_face(identity, 1)) for identity in range(12)]
    mean = cv2.GaussianBlur(np.mean(crops, axis=0).mean(axis=2), (5, 5), 1)
    for x, y in TEMPLATE[:2].round().astype(int):
        assert mean[y, x] < 0.75 * mean[y + 16, x]


@pytest.mark.parametrize(
    "rows, message",
    [
        (["a/1.png", "a/1.png", "a/2.png"], "more than one row for 1 of 2 images, a/1.png"),
        (["a/1.png"], "no row for 1 of 2 images, a/2.png"),
    ],
)
def test_landmarks_that_came_with_other_images_are_refused_by_name(tmp_path, rows, message):
    folder = write(tmp_path / "faces", a__1=1, a__2=2)
    lines = [",".join([row, *["50"] * 10, "1"]) for row in rows]
    (folder / "landmarks.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    with pytest.raises(ValueError, match=f"landmarks.csv: {message}"):
        find_landmarks(folder, tmp_path / "cache")


def test_landmarks_that_are_no_numbers_are_refused_by_name(tmp_path):
    folder = write(tmp_path / "faces", a__1=1)
    (folder / "landmarks.csv").write_text(",".join(COLUMNS) + "\na/1.png" + ",here" * 11 + "\n")
    with pytest.raises(ValueError, match="landmarks.csv: not a landmarks file"):
        find_landmarks(folder, tmp_path / "cache")
