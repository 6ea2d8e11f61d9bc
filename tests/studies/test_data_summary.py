"""What is said of a data set, against images of which it is known."""

import json
import pickle

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks.loading import write_recordio
from facelib import data
from facelib.data.align_folder import align_folder
from facelib.data.folder import IdentityFolder
from facelib.data.landmarks import COLUMNS
from facelib.faces.detectors import TEMPLATE
from facelib.studies.data_summary import counts, describe, summarise
from facelib.synthetic import sets
from report.figures import data as data_plots
from report.results import read_images


def described(folder, images: dict[str, tuple], points: dict[str, np.ndarray], score: float = 1.0) -> pd.DataFrame:
    """describe() of plain images: name -> (width, height, colour), with these landmarks; of two identities or more."""
    for name, (width, height, colour) in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), colour).save(folder / name)
    rows = [[*points[name].ravel(), score] for name in images]
    landmarks = pd.DataFrame(rows, columns=COLUMNS[1:], index=pd.Index([*images], name="image"))
    return describe(IdentityFolder(folder), landmarks)


def test_brightness_is_the_mean_grey_value_of_the_crop(tmp_path):
    """ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B."""
    images = {
        "a/1.png": (112, 112, (200, 100, 50)),
        "a/2.png": (112, 112, (0, 0, 0)),
        "b/1.png": (112, 112, (255,) * 3),
    }
    table = described(tmp_path, images, dict.fromkeys(images, TEMPLATE))
    assert table.brightness.tolist() == pytest.approx([0.299 * 200 + 0.587 * 100 + 0.114 * 50, 0, 255], abs=0.6)


@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_scale_is_the_images_pixels_to_one_of_the_crop_and_a_template_fits_itself(tmp_path, scale):
    images = dict.fromkeys(["a/1.png", "b/1.png"], (400, 300, (9, 9, 9)))
    table = described(tmp_path, images, dict.fromkeys(images, TEMPLATE * scale + 7))
    assert table.loc["a/1.png", ["identity", "width", "height"]].tolist() == ["a", 400, 300]
    assert table.scale.iloc[0] == pytest.approx(scale, rel=1e-4) and table.residual.iloc[0] == pytest.approx(
        0, abs=1e-3
    )


def test_residual_is_the_root_mean_square_distance_that_no_similarity_removes(tmp_path):
    """By numpy's least squares: x' = a x - b y + p, y' = b x + a y + q."""
    points = TEMPLATE + np.random.default_rng(0).normal(0, 4, (5, 2)).astype(np.float32)
    x, y = points.astype(float).T
    one, zero = np.ones(5), np.zeros(5)
    equations = np.concatenate([np.column_stack([x, -y, one, zero]), np.column_stack([y, x, zero, one])])
    squares = np.linalg.lstsq(equations, TEMPLATE.astype(float).T.ravel(), rcond=None)[1][0]
    images = dict.fromkeys(["a/1.png", "b/1.png"], (112, 112, (9, 9, 9)))
    table = described(tmp_path, images, dict.fromkeys(images, points))
    assert table.residual.iloc[0] == pytest.approx(np.sqrt(squares / 5), rel=1e-3)


def test_counts_are_of_images_identities_and_sizes(tmp_path):
    images = {f"a/{n}.png": (112, 120, (9, 9, 9)) for n in range(4)} | {"b/1.png": (130, 112, (9, 9, 9))}
    found = counts(described(tmp_path, images, dict.fromkeys(images, TEMPLATE), score=0.0))
    assert (found["images"], found["identities"], found["faces_found"]) == (5, 2, 0)
    assert found["images_per_identity"] == {"least": 1, "median": 2.5, "most": 4}
    assert (found["sizes"], found["commonest_size"]) == (2, [112, 120])


def test_of_stored_crops_what_landmarks_would_tell_is_left_out(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for k, name in enumerate(("a/1.png", "a/2.png", "b/1.png")):
        Image.new("RGB", (112, 112), (40 * k,) * 3).save(tmp_path / name)
    align_folder(tmp_path, tmp_path / "crops", "none")
    data.pack(tmp_path / "crops", tmp_path / "crops.pack")
    found = counts(describe(data.open_images(tmp_path / "crops.pack")))
    assert (found["images"], found["identities"], found["commonest_size"]) == (3, 2, [112, 112])
    assert found["brightness"]["0.5"] == 40
    assert found["faces_found"] is found["residual"] is found["scale"] is None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summary")
    sets.make_identity_folder(folder / "train", identities=3, images_per_identity=4)
    sets.make_lfw(folder / "lfw", identities=4, images_per_identity=2, pairs_per_fold=1, folds=2)
    summarise(str(folder / "train"), str(folder / "lfw"), str(folder / "out"))
    return folder


def test_a_summary_leaves_a_row_for_each_image_and_the_counts(place):
    table = pd.read_csv(place / "out" / "images.csv")
    metrics = json.loads((place / "out" / "metrics.json").read_text())
    assert metrics["train"]["images"] == (table["data set"] == "train").sum() == 12
    assert metrics["test"]["images"] == (table["data set"] == "test").sum()
    assert not table[["data set", "image"]].duplicated().any() and (table.residual >= 0).all()


def test_both_data_sets_are_drawn_in_each_of_four_panels(place):
    table = pd.read_csv(place / "out" / "images.csv")
    tables = {name: table[table["data set"] == name] for name in ("train", "test")}
    figure = data_plots.data_panels(tables)
    assert [axis.get_xlabel() for axis in figure.axes] == [*data_plots.TITLES.values()]
    assert all(len(axis.patches) > 30 for axis in figure.axes)
    plt.close(figure)


def bin_of(faces: data.IdentityFolder, file) -> None:
    """A verification set of the first ten images, each with the next one."""
    encoded = [cv2.imencode(".png", faces[i][0].permute(1, 2, 0).numpy()[:, :, ::-1])[1].tobytes() for i in range(10)]
    file.write_bytes(pickle.dumps(([encoded[k // 2 + k % 2 - 10 * (k == 19)] for k in range(20)], [True, False] * 5)))


def test_any_two_formats_are_summarised_and_drawn_as_far_as_they_tell(place, tmp_path):
    data.pack(place / "train", tmp_path / "train.pack")
    write_recordio(place / "train", tmp_path / "records")
    bin_of(data.open_crops(place / "train", tmp_path), tmp_path / "lfw.bin")
    for train, test, panels in (
        (tmp_path / "train.pack", tmp_path / "lfw.bin", [True, True, False, False]),
        (tmp_path / "records", place / "lfw", [True] * 4),
    ):
        metrics = summarise(str(train), str(test), str(tmp_path / "out"))
        assert (metrics["train"]["images"], metrics["train"]["identities"]) == (12, 3)
        table = read_images(tmp_path / "out")
        figure = data_plots.data_panels({name: table[table["data set"] == name] for name in ("train", "test")})
        assert [axis.get_visible() for axis in figure.axes] == panels
        plt.close(figure)
        if test.suffix:
            assert metrics["test"]["images"] == 10 and metrics["test"]["images_per_identity"] is None
        json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_a_contact_sheet_shows_every_crop_once_in_rows():
    crops = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 3, 4, 4)
    figure = data_plots.contact_sheet(crops, columns=4)
    shown = [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes if axis.images]
    assert shown == [*range(10)] and len(figure.axes) == 12
    plt.close(figure)


def test_unreadable_images_are_counted_and_named_and_the_others_described(tmp_path):
    for name, value in (("a/1.png", 10), ("a/2.png", 30), ("b/1.png", 50)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (112, 112), (value,) * 3).save(tmp_path / name)
    (tmp_path / "b" / "torn.png").write_bytes(b"no image")
    found = counts(describe(data.open_images(tmp_path)))
    assert (found["images"], found["unreadable"], found["unreadable_named"]) == (3, 1, ["b/torn.png"])
    assert found["brightness"]["0.5"] == 30
