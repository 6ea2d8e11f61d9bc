"""The landmarks of a folder: detected once, whatever happens in between."""

import fcntl
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facelib.data import landmarks
from facelib.data.landmarks import COLUMNS, find_landmarks
from facelib.faces.detectors import TEMPLATE, Face
from facelib.faces.image import ImageError
from facelib.synthetic.draw import draw_face
from facelib.synthetic.sets import make_identity_folder


class Fake:
    """Instead of a detector: finds landmarks that depend on the picture, none in black ones, and notes what it saw."""

    seen: list[int] = []
    patience = 10**9

    def __init__(self, name, device):
        assert name == "mtcnn"

    def __call__(self, images):
        if len(Fake.seen) + len(images) > Fake.patience:
            raise KeyboardInterrupt
        assert len({image.shape for image in images}) == 1
        values = [int(image[0, 0, 0]) for image in images]
        Fake.seen += values
        return [
            None if v == 0 else Face(np.array([1, 2, 3, 4]), TEMPLATE + np.float32(v), 0.5 + v / 1000) for v in values
        ]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(landmarks, "create_detector", Fake)
    monkeypatch.setattr(landmarks.torch, "get_num_threads", lambda: 1)  # in this process, where Fake is known
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
    monkeypatch.setattr(landmarks, "create_detector", None)
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
    assert len(fake.seen) - before == 40 - 16  # the first batch was whole; the second is detected again


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
    again = [value for value in {*fake.seen} if fake.seen.count(value) > 1]
    assert {*fake.seen} == {*values.values()} and {*again} <= {*range(1, 17)}  # at most those of its batch


def test_where_no_face_is_found_the_median_of_the_others_stands_with_score_0(tmp_path, fake):
    folder = write(tmp_path / "faces", a__1=10, a__2=0, b__1=20, b__2=90, b__3=0)
    table = find_landmarks(folder, tmp_path / "cache")
    for name in ("a/2.png", "b/3.png"):
        *points, score = table.loc[name]
        assert points == pytest.approx((TEMPLATE + 20).ravel(), abs=2e-3) and score == 0
    found = table[table.score > 0]
    check(found, {"a/1.png": 10, "b/1.png": 20, "b/2.png": 90})


def test_the_median_is_of_shares_where_images_differ_in_size(tmp_path, fake):
    """A face in the middle of the others is expected in the middle, whatever the image's size."""
    write_all(tmp_path / "faces", {"a/1.png": 10}, (100, 200))
    write_all(tmp_path / "faces", {"a/2.png": 0}, (50, 400))
    points = find_landmarks(tmp_path / "faces", tmp_path / "cache").loc["a/2.png"].to_numpy()[:10].reshape(5, 2)
    assert points == pytest.approx((TEMPLATE + 10) * [2, 0.5], abs=2e-3)


def test_in_a_large_image_faces_are_looked_for_in_a_shrunken_copy(tmp_path, monkeypatch):
    """Its landmarks are those of the large one: a face drawn three times as large has its points there."""
    image, drawn = draw_face(0, 1)
    (tmp_path / "faces" / "a").mkdir(parents=True)
    Image.fromarray(image).resize((750, 750), Image.BICUBIC).save(tmp_path / "faces" / "a" / "1.png")
    monkeypatch.setattr(landmarks, "LARGEST", 250)
    points = find_landmarks(tmp_path / "faces", tmp_path / "cache").iloc[0].to_numpy()[:10].reshape(5, 2)
    assert np.abs(points - 3 * drawn).max() < 24


def test_a_second_process_waits_for_the_first_and_takes_what_it_found(tmp_path, fake, capfd):
    folder, cache = write_all(tmp_path / "faces", MANY), tmp_path / "cache"
    left = interrupted(folder, cache, fake, after=33)
    with left.open("a+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=find_landmarks, args=(folder, cache))
        second.start()
        second.join(0.5)
        assert second.is_alive() and "Waiting" in capfd.readouterr().out
    second.join(20)
    check(find_landmarks(folder, cache), MANY)
    assert sorted(fake.seen) == sorted(MANY.values())


def test_several_processes_find_what_one_finds(tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    make_identity_folder(folder, identities=6, images_per_identity=4)
    (folder / "landmarks.csv").unlink()
    monkeypatch.setattr(landmarks.torch, "get_num_threads", lambda: 2)
    two = find_landmarks(folder, tmp_path / "two")
    monkeypatch.setattr(landmarks.torch, "get_num_threads", lambda: 1)
    pd.testing.assert_frame_equal(find_landmarks(folder, tmp_path / "one"), two)


def test_a_link_to_nowhere_is_named_like_any_unreadable_image(tmp_path, fake):
    folder = write(tmp_path / "faces", a__1=1)
    (folder / "a" / "2.png").symlink_to("gone.png")
    with pytest.raises(ImageError, match="1 of 2 .*\n.*a/2.png"):
        find_landmarks(folder, tmp_path / "cache")


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
    again = [value for value in {*fake.seen} if fake.seen.count(value) > 1]
    assert {*fake.seen} == {*values.values()} and {*again} <= {*range(1, 17)}  # at most those of its batch


def test_unreadable_images_may_be_left_to_whoever_reads_them(tmp_path, fake):
    folder, bad = write_all(tmp_path / "faces", MANY), "person0/003.png"
    (folder / bad).write_bytes(b"no image")
    table = find_landmarks(folder, tmp_path / "cache", skip_unreadable=True)
    assert table.loc[bad].isna().all()
    check(table.drop(bad), {name: value for name, value in MANY.items() if name != bad})
    with pytest.raises(ImageError, match=bad):
        find_landmarks(folder, tmp_path / "cache")


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
