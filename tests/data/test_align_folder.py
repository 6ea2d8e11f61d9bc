"""Alignment onto ArcFace's template, of an image and of a folder."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facelib import ROOT
from facelib.data.align_folder import align_folder
from facelib.data.landmarks import COLUMNS, find_landmarks
from facelib.data.layout import list_images
from facelib.faces.align import align, similarity_transform
from facelib.faces.detectors import TEMPLATE
from facelib.faces.image import read_image
from facelib.synthetic.draw import draw_face
from facelib.synthetic.sets import make_identity_folder


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


def test_aligned_synthetic_faces_agree_on_where_their_eyes_are(tmp_path):
    """Averaged over aligned people, the eyes' places on the template are darker than the cheeks below them."""
    crops = [align(*draw_face(identity, 1)) for identity in range(12)]
    mean = cv2.GaussianBlur(np.mean(crops, axis=0).mean(axis=2), (5, 5), 1)
    for x, y in TEMPLATE[:2].round().astype(int):
        assert mean[y, x] < 0.75 * mean[y + 16, x]


# --- a folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Three identities of two synthetic faces each, without their landmarks."""
    folder = tmp_path_factory.mktemp("aligned") / "faces"
    make_identity_folder(folder, identities=3, images_per_identity=2)
    (folder / "landmarks.csv").unlink()
    return folder


@pytest.fixture(scope="module")
def aligned(faces):
    """The folder, with an image without a face and one that is none, and what became of it."""
    source = faces.with_name("source")
    shutil.copytree(faces, source)
    (source / "odd one, 写真").mkdir()
    Image.new("RGB", (250, 250), (90, 90, 90)).save(source / "odd one, 写真" / "wall.png")
    Image.new("RGB", (1, 1)).save(source / "odd one, 写真" / "dot.png")
    (source / "odd one, 写真" / "broken.jpg").write_bytes(b"no image")
    return source, align_folder(source, faces.with_name("target"), "viola-jones")


def crops(target):
    return {str(file.relative_to(target)): read_image(file) for file in target.glob("*/*.png")}


def test_every_image_of_the_source_has_a_row_that_tells_what_became_of_it(aligned):
    source, manifest = aligned
    images = sorted(str(file.relative_to(source)) for file in source.glob("*/*"))
    assert sorted(manifest.index) == images
    assert manifest.outcome["odd one, 写真/wall.png"] == "fallback"
    assert manifest.reason["odd one, 写真/wall.png"] == "no face, median landmarks"
    assert manifest.outcome["odd one, 写真/broken.jpg"] == "dropped"
    assert "broken.jpg: not a readable image" in manifest.reason["odd one, 写真/broken.jpg"]
    assert manifest.outcome["odd one, 写真/dot.png"] == "dropped"
    assert manifest.reason["odd one, 写真/dot.png"] == "no face, too small for one"
    found = manifest[manifest.outcome == "aligned"]
    assert len(found) >= 3 and (found.score == 1).all() and (found.right - found.left >= 40).all()
    assert (found.width == 250).all() and (found.height == 250).all()
    written = pd.read_csv(source.with_name("target") / "manifest.csv", index_col="image", keep_default_na=False)
    assert list(written.outcome) == list(manifest.outcome)


def test_a_crop_is_the_source_aligned_by_the_landmarks_of_its_row(aligned):
    source, manifest = aligned
    found = crops(source.with_name("target"))
    kept = manifest[manifest.outcome != "dropped"]
    assert sorted(found) == sorted(kept.crop)
    for image, row in kept.iterrows():
        points = row[COLUMNS[1:11]].to_numpy(np.float32).reshape(5, 2)
        assert np.abs(found[row.crop].astype(int) - align(read_image(source / image), points)).max() <= 1


def test_the_target_is_a_data_folder_whose_crops_are_not_warped_again(aligned):
    target = aligned[0].with_name("target")
    table = find_landmarks(target, "no cache is needed")
    for image, crop in crops(target).items():
        points = table.loc[image].to_numpy(np.float32)[:10].reshape(5, 2)
        assert np.array_equal(align(crop, points), crop)


def test_images_without_a_face_are_dropped_if_so_asked(aligned, tmp_path):
    manifest = align_folder(aligned[0], tmp_path / "target", "viola-jones", faceless="drop")
    assert manifest.outcome["odd one, 写真/wall.png"] == "dropped"
    assert "odd one, 写真/wall.png" not in crops(tmp_path / "target")
    assert set(manifest.outcome) == {"aligned", "dropped"}


def test_without_a_detector_crops_are_the_middle_of_the_images(faces, tmp_path):
    align_folder(faces, tmp_path / "target", "none")
    for image, crop in crops(tmp_path / "target").items():
        assert np.array_equal(crop, read_image(faces / image.replace(".png", ".jpg"))[69:181, 69:181])


def test_two_images_of_one_stem_keep_a_crop_each(faces, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(faces, source)
    (one,) = source.glob("*0/*_0001.jpg")
    shutil.copy(one, one.with_suffix(".jpeg"))
    assert align_folder(source, tmp_path / "target", "none").crop.is_unique
    assert len(crops(tmp_path / "target")) == 7


KILLED = """
import os, sys
from facelib.data import align_folder, landmarks
where, after, source, target = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
landmarks.BATCH = 2
count, original = 0, {"replace": os.replace, "detect_batch": landmarks.detect_batch}[where]
def dying(*arguments):
    global count
    count += 1
    if count > after:
        os.kill(os.getpid(), 9)
    return original(*arguments)
setattr(os if where == "replace" else landmarks, where, dying)
landmarks.torch.set_num_threads(1)
align_folder.align_folder(source, target, "none")
"""


def files_in(folder) -> dict[str, bytes]:
    """All but what is kept for the next call."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("where, after", [*(("detect_batch", k) for k in (0, 2)), *(("replace", k) for k in range(9))])
def test_after_a_kill_the_same_call_leaves_what_an_undisturbed_one_does(faces, tmp_path, where, after):
    """Killed while it looks for faces, and before each of the files it makes is in its place: the note of what is
    aligned how, six crops, the manifest and the landmarks.
    """
    run = subprocess.run([sys.executable, "-c", KILLED, where, str(after), faces, tmp_path / "killed"])
    assert run.returncode == -9 and not (tmp_path / "killed" / "landmarks.csv").exists()
    for target in ("killed", "whole"):
        align_folder(faces, tmp_path / target, "none")
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "whole")


def test_a_disk_that_is_full_or_read_only_is_told_and_what_was_done_is_kept(faces, tmp_path, monkeypatch):
    written, write = [], Path.write_bytes

    def refuse(file, content):
        written.append(file)
        if len(written) > 4:  # the note, three crops
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(OSError, match="target: no space left on the disk. Make room and run it again"):
        align_folder(faces, tmp_path / "target", "none")
    monkeypatch.undo()
    done = {name: (tmp_path / "target" / name).stat().st_ino for name in crops(tmp_path / "target")}
    assert len(done) == 3
    align_folder(faces, tmp_path / "target", "none")
    assert all((tmp_path / "target" / name).stat().st_ino == inode for name, inode in done.items())
    assert len(crops(tmp_path / "target")) == 6

    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match="other: can't be written .Read-only file system.. Name another place"):
        align_folder(faces, tmp_path / "other", "none")


def test_two_calls_at_once_leave_what_one_does(faces, tmp_path):
    command = [sys.executable, "-m", "facelib.data.align_folder", faces, tmp_path / "both", "none"]
    calls = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert ["6 images, 6 aligned" in call.communicate()[0] for call in calls] == [True, True]
    align_folder(faces, tmp_path / "one", "none")
    assert files_in(tmp_path / "both") == files_in(tmp_path / "one")


def test_only_what_is_new_or_changed_is_aligned_again(faces, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(faces, source)
    align_folder(source, target, "none")
    before = {name: (target / name).stat().st_ino for name in crops(target)}
    changed, new = sorted(source.glob("*/*.jpg"))[0], source / "another" / "1.jpg"
    new.parent.mkdir()
    shutil.copy(changed, new)
    Image.new("RGB", (200, 200), (9, 9, 9)).save(changed)
    manifest = align_folder(source, target, "none")
    after = {name: (target / name).stat().st_ino for name in crops(target)}
    assert {name for name in before if after[name] != before[name]} == {manifest.crop[str(changed.relative_to(source))]}
    assert {*after} - {*before} == {"another/1.png"}


def test_crops_whose_source_is_gone_go_too(faces, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(faces, source)
    align_folder(source, target, "none")
    sorted(source.glob("*/*.jpg"))[0].unlink()
    align_folder(source, target, "none")
    assert len(crops(target)) == len(find_landmarks(target, "")) == 5


def test_pairs_files_go_with_an_lfw_folder(faces, tmp_path):
    (tmp_path / "lfw").mkdir()
    shutil.copytree(faces, tmp_path / "lfw" / "lfw_funneled")
    (tmp_path / "lfw" / "pairs.txt").write_text("1\n")
    assert len(align_folder(tmp_path / "lfw", tmp_path / "target", "none")) == 6
    assert (tmp_path / "target" / "pairs.txt").read_text() == "1\n"


def test_a_target_of_another_alignment_or_with_other_things_is_refused(faces, tmp_path):
    align_folder(faces, tmp_path / "target", "none")
    with pytest.raises(
        ValueError, match="target: was aligned from .* detector none, faceless median, not from .* viola-jones"
    ):
        align_folder(faces, tmp_path / "target", "viola-jones")
    with pytest.raises(ValueError, match="holds something else"):
        align_folder(faces, faces, "none")


def test_wrong_names_are_refused_before_anything_is_written(faces, tmp_path):
    with pytest.raises(ValueError, match="detector must be one of mtcnn, viola-jones, none"):
        align_folder(faces, tmp_path / "target", "dlib")
    with pytest.raises(ValueError, match="faceless must be one of median, drop, found 'keep'"):
        align_folder(faces, tmp_path / "target", "none", faceless="keep")
    assert not (tmp_path / "target").exists()


def test_bombs_links_and_huge_images_are_each_told_and_cost_nothing_else(faces, tmp_path):
    """A PNG of 400 million pixels in 50 kB, a link to nowhere, a link to an image, and an image 20,000 pixels wide."""
    source = tmp_path / "source"
    shutil.copytree(faces, source)
    odd = source / "odd"
    odd.mkdir()
    Image.new("1", (20_000, 20_000)).save(odd / "bomb.png")
    Image.new("RGB", (20_000, 60), (90, 90, 90)).save(odd / "wide.png")
    (odd / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (odd / "linked.jpg").symlink_to(sorted(faces.glob("*/*.jpg"))[0])
    manifest = align_folder(source, tmp_path / "target", "none")
    assert manifest.outcome[["odd/bomb.png", "odd/nowhere.png"]].tolist() == ["dropped", "dropped"]
    assert "exceeds limit" in manifest.reason["odd/bomb.png"] and "nowhere.png" in manifest.reason["odd/nowhere.png"]
    assert manifest.outcome[["odd/wide.png", "odd/linked.jpg"]].tolist() == ["aligned", "aligned"]
    assert (odd / "bomb.png").stat().st_size < 100_000 and len(crops(tmp_path / "target")) == 8


def test_names_that_are_no_utf_8_links_to_themselves_and_pipes_cost_nothing_else(faces, tmp_path):
    source = shutil.copytree(faces, tmp_path / "source")
    odd = os.fsencode(source) + b"/lat\xe9 1"
    os.mkdir(odd)
    shutil.copy(sorted(faces.glob("*/*.jpg"))[0], odd + b"/\xe9.jpg")
    shutil.copy(sorted(faces.glob("*/*.jpg"))[1], odd + b"/carriage\rreturn.jpg")
    os.symlink("loop.jpg", odd + b"/loop.jpg")
    os.mkfifo(odd + b"/pipe.jpg")
    manifest = align_folder(source, tmp_path / "target", "none")
    assert manifest.outcome.value_counts().to_dict() == {"aligned": 8, "dropped": 2}
    assert "no regular file" in manifest.reason[os.fsdecode(b"lat\xe9 1/pipe.jpg")]
    assert len(find_landmarks(tmp_path / "target", tmp_path / "cache")) == len(list_images(tmp_path / "target")) == 8
    read = pd.read_csv(tmp_path / "target" / "manifest.csv", encoding_errors="surrogateescape", lineterminator="\n")
    assert read.image.tolist() == manifest.index.tolist()


def test_a_picture_replaced_by_one_of_equal_size_is_looked_at_again(tmp_path):
    folder = tmp_path / "source" / "a"
    folder.mkdir(parents=True)
    for name, shape in (("1.bmp", (100, 200)), ("2.bmp", (100, 200))):
        Image.new("RGB", shape, (90, 90, 90)).save(folder / name)
    align_folder(tmp_path / "source", tmp_path / "target", "none")
    size = (folder / "1.bmp").stat().st_size
    Image.new("RGB", (200, 100), (90, 90, 90)).save(folder / "1.bmp")
    assert (folder / "1.bmp").stat().st_size == size
    manifest = align_folder(tmp_path / "source", tmp_path / "target", "none")
    assert manifest.width.tolist() == [200, 100]


def test_of_crops_by_the_median_it_is_known_that_no_face_was_found(aligned):
    source, manifest = aligned
    target = source.with_name("target")
    scores = find_landmarks(target, "").score
    fallback = manifest.crop[manifest.outcome == "fallback"]
    assert (scores[fallback] == 0).all() and (scores.drop(fallback) == 1).all() and len(fallback)


def test_files_that_are_passed_over_are_told(faces, tmp_path):
    source = shutil.copytree(faces, tmp_path / "source")
    shutil.copy(sorted(faces.glob("*/*.jpg"))[0], source / "loose.jpg")
    next(source.glob("*0")).joinpath("photo.heic").write_bytes(b"?")
    command = [sys.executable, "-m", "facelib.data.align_folder", source, tmp_path / "target", "none"]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert "6 images, 6 aligned" in said and "2 files are passed over" in said
    assert "loose.jpg" in said and "photo.heic" in said


ORPHANED = """
import os, sys, time
from facelib.data import landmarks
landmarks.torch.set_num_threads(2)
landmarks.BATCH = 1
if __name__ == "__main__":
    for _ in landmarks.each_batch(landmarks.Path(sys.argv[1]), [[name] for name in sys.argv[2:]], "none", "cpu", 2):
        os.kill(os.getpid(), 9)
"""


def test_processes_that_detect_end_when_theirs_is_killed(faces, tmp_path):
    (tmp_path / "orphaned.py").write_text(ORPHANED)
    command = [sys.executable, tmp_path / "orphaned.py", faces, *list_images(faces)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    killed.communicate(timeout=60)  # their ends of the pipe are closed when the last one has ended
    assert killed.returncode == -9
