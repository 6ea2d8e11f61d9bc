"""The integrity check on a few synthetic faces with planted faults, against numpy and against what was planted."""

import csv
import json
import shutil

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from facelib.data import read_pairs
from facelib.data.landmarks import fingerprint
from facelib.data.layout import list_images
from facelib.data.pairs import without
from facelib.faces import align
from facelib.faces.image import read_image
from facelib.models import create_model
from facelib.models.pretrained import load_embedder
from facelib.studies import integrity
from facelib.studies.integrity import check, in_both, in_several_folds, shared_names
from facelib.synthetic import sets
from facelib.verification.measures import best_threshold
from report.figures import integrity as integrity_plots

FILES = {"metrics.json", "parameters.json", "environment.json", "suspects.csv", "duplicates.csv", "similarity.npz"}
COPIED, STRANGER = "Somebody_Else", "Synthetic_000100"


def add_landmarks(folder, rows: list[list[str]]) -> None:
    with open(folder / "landmarks.csv", "a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def landmark_rows(folder) -> dict[str, list[str]]:
    with open(folder / "landmarks.csv", newline="") as file:
        return {row[0]: row[1:] for row in csv.reader(file)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An LFW of three folds, a training folder of five strangers, an untrained model. Planted into the training folder:
    an LFW identity's images under another name, and a stranger's image, saved again, as another stranger's."""
    folder = tmp_path_factory.mktemp("integrity")
    sets.make_lfw(folder / "lfw", identities=12, images_per_identity=2, pairs_per_fold=2, folds=3)
    sets.make_identity_folder(folder / "train", identities=5, images_per_identity=2, first_identity=100)
    images = folder / "lfw" / "lfw-synthetic"
    pairs = read_pairs(folder / "lfw" / "pairs.txt")
    named = {*pairs.first, *pairs.second}
    known = next(name for name in sorted({n.split("/")[0] for n in named}) if f"{name}/{name}_0001" in named)
    (folder / "train" / COPIED).mkdir()
    rows = landmark_rows(images)
    for image in [image for image in rows if image.removesuffix(".jpg") in named and image.startswith(known)]:
        shutil.copy(images / image, folder / "train" / COPIED / image.split("/")[1])
        add_landmarks(folder / "train", [[f"{COPIED}/{image.split('/')[1]}", *rows[image]]])
    again = f"{STRANGER}/{STRANGER}_0001.jpg"
    wrong = "Synthetic_000101/again.jpg"
    image = cv2.imread(str(folder / "train" / again))
    cv2.imwrite(str(folder / "train" / wrong), image, [cv2.IMWRITE_JPEG_QUALITY, 70])
    add_landmarks(folder / "train", [[wrong, *landmark_rows(folder / "train")[again]]])
    torch.manual_seed(0)
    torch.save(create_model("iresnet18_025", 8).state_dict(), folder / "model.pth")
    metrics = run(folder, folder / "check")
    return folder, known, metrics


def run(folder, output, **given) -> dict:
    places = {"model": str(folder / "model.pth"), "train": str(folder / "train"), "lfw": str(folder / "lfw")}
    return check(output=str(output), **places | given)


def unit_embeddings(model, folder, images: list[str]) -> np.ndarray:
    """(N, D) float64: the crops of the images, embedded and divided by their length."""
    rows = landmark_rows(folder)
    points = [np.array(rows[image][:10], np.float32).reshape(5, 2) for image in images]
    crops = np.stack([align.align(read_image(folder / image), p) for image, p in zip(images, points)])
    embeddings = load_embedder(model).embed(torch.from_numpy(crops).permute(0, 3, 1, 2)).double().numpy()
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def means(embeddings: np.ndarray, images: list[str]) -> dict[str, np.ndarray]:
    by_identity: dict[str, list[np.ndarray]] = {}
    for image, embedding in zip(images, embeddings):
        by_identity.setdefault(image.split("/")[0], []).append(embedding)
    found = {identity: np.mean(rows, axis=0) for identity, rows in by_identity.items()}
    return {identity: mean / np.linalg.norm(mean) for identity, mean in found.items()}


@pytest.fixture(scope="module")
def truth(place):
    """Computed here: each training identity's (cosine, nearest in LFW), the threshold, LFW's means by identity."""
    folder, _, _ = place
    pairs = read_pairs(folder / "lfw" / "pairs.txt")
    tested = sorted({f"{name}.jpg" for name in [*pairs.first, *pairs.second]})
    embeddings = unit_embeddings(folder / "model.pth", folder / "lfw" / "lfw-synthetic", tested)
    index = {image.removesuffix(".jpg"): k for k, image in enumerate(tested)}
    scores = np.array([embeddings[index[a]] @ embeddings[index[b]] for a, b in zip(pairs.first, pairs.second)])
    theirs = means(embeddings, tested)
    images = list_images(folder / "train")
    ours = means(unit_embeddings(folder / "model.pth", folder / "train", images), images)
    nearest = {name: max((float(mean @ other), who) for who, other in theirs.items()) for name, mean in ours.items()}
    return nearest, best_threshold(scores, pairs.genuine), theirs


# --- the faces


def test_an_lfw_identity_that_was_trained_on_under_another_name_heads_the_suspects(place):
    folder, known, metrics = place
    suspects = pd.read_csv(folder / "check" / "suspects.csv")
    assert [*suspects.columns] == ["train", "lfw", "cosine"]
    assert suspects.iloc[0].train == COPIED and suspects.iloc[0].lfw == known
    assert suspects.iloc[0].cosine == pytest.approx(1, abs=1e-5)
    assert metrics["overlap"]["highest"] == pytest.approx(1, abs=1e-5)
    assert known in metrics["overlap"]["suspect_lfw"]


def test_the_nearest_lfw_identity_and_its_cosine_are_those_of_the_mean_embeddings(place, truth):
    folder, _, _ = place
    with np.load(folder / "check" / "similarity.npz", allow_pickle=False) as found:
        assert found["train"].tolist() == sorted(truth[0])
        for name, lfw, cosine in zip(found["train"], found["lfw"], found["cosine"]):
            assert cosine == pytest.approx(truth[0][name][0], abs=1e-5)
            assert lfw == truth[0][name][1]


def test_suspects_are_all_training_identities_at_or_above_the_threshold_of_view_2_falling(place, truth):
    folder, _, metrics = place
    nearest, threshold, _ = truth
    suspects = pd.read_csv(folder / "check" / "suspects.csv")
    assert metrics["overlap"]["threshold"] == pytest.approx(threshold, abs=1e-5)
    assert {*suspects.train} == {name for name, (cosine, _) in nearest.items() if cosine >= threshold}
    assert suspects.cosine.is_monotonic_decreasing
    assert metrics["overlap"]["suspects"] == len(suspects)
    assert metrics["overlap"]["suspect_lfw"] == sorted({*suspects.lfw})
    cosines = sorted(cosine for cosine, _ in nearest.values())
    assert metrics["overlap"]["quantiles"]["0.5"] == pytest.approx((cosines[2] + cosines[3]) / 2, abs=1e-5)


def test_beyond_chance_are_those_nearer_to_lfw_than_all_but_a_hundredth_of_lfw_is_to_itself(place, truth):
    folder, known, metrics = place
    nearest, _, theirs = truth
    chance = [max(float(a @ b) for other, b in theirs.items() if other != name) for name, a in theirs.items()]
    with np.load(folder / "check" / "similarity.npz", allow_pickle=False) as found:
        assert found["chance"] == pytest.approx(chance, abs=1e-5)
    beyond = metrics["overlap"]["beyond_chance"]
    assert beyond["threshold"] == pytest.approx(np.quantile(chance, 0.99), abs=1e-5)
    assert beyond["quantiles"]["0.95"] == pytest.approx(np.quantile(chance, 0.95), abs=1e-5)
    assert beyond["suspects"] == sum(cosine >= beyond["threshold"] for cosine, _ in nearest.values())
    assert known in beyond["suspect_lfw"]


def test_pairs_without_the_suspects_are_counted(place):
    folder, _, metrics = place
    pairs = read_pairs(folder / "lfw" / "pairs.txt")
    suspects = metrics["overlap"]["suspect_lfw"]
    left = [(a, b) for a, b in zip(pairs.first, pairs.second) if not any(f"{name}/" in f"{a} {b}" for name in suspects)]
    assert (metrics["overlap"]["pairs"], metrics["overlap"]["pairs_without"]) == (12, len(left))


def test_without_leaves_the_pairs_that_show_none_of_the_identities():
    first = np.array(["A/A_0001", "A/A_0001", "AB/AB_0001", "C/C_0002"])
    second = np.array(["A/A_0002", "C/C_0001", "D/D_0001", "D/D_0003"])
    assert without(first, second, ["A"]).tolist() == [False, False, True, True]
    assert without(first, second, ["D", "A"]).tolist() == [False] * 4
    assert without(first, second, []).tolist() == [True] * 4


# --- the photographs


def test_planted_duplicates_are_listed_and_counted(place):
    folder, known, metrics = place
    copies = sorted(path.name for path in (folder / "train" / COPIED).iterdir())
    with open(folder / "check" / "duplicates.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["kind", "first_set", "first", "first_identity", "second_set", "second", "second_identity"]
    again = "Synthetic_000101"
    assert sorted(rows) == [
        *(["exact", "train", f"{COPIED}/{name}", COPIED, "lfw", f"{known}/{name}", known] for name in copies),
        ["near", "train", f"{STRANGER}/{STRANGER}_0001.jpg", STRANGER, "train", f"{again}/again.jpg", again],
    ]
    nothing = {"exact": 0, "exact_of_two_identities": 0, "near": 0, "near_of_two_identities": 0}
    assert metrics["duplicates"] == {
        "train": nothing | {"near": 1, "near_of_two_identities": 1},
        "lfw": nothing,
        "across": {"exact": len(copies), "near": 0},
    }


# --- the lists of pairs


def test_folds_that_share_an_identity_are_found(place, tmp_path):
    _, _, metrics = place
    assert metrics["folds"] == {"folds": 3, "identities": 0, "named": []}
    (tmp_path / "pairs.txt").write_text("2 1\nA 1 2\nB 1 C 1\nD 1 2\nE 1 B 2\n")
    assert in_several_folds(read_pairs(tmp_path / "pairs.txt")) == ["B"]


def test_of_many_identities_in_several_folds_only_some_are_named_but_all_counted(place, tmp_path):
    folder, _, _ = place
    shutil.copytree(folder / "lfw", tmp_path / "lfw")
    header, *lines = (tmp_path / "lfw" / "pairs.txt").read_text().splitlines()
    (tmp_path / "lfw" / "pairs.txt").write_text("\n".join(["2\t2", *lines[:4], *lines[:4]]))
    (tmp_path / "lfw" / "pairsDevTest.txt").unlink()
    expected = sorted({word for line in lines[:4] for word in line.split("\t") if word.startswith("Synthetic")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrity, "NAMED", 2)
        metrics = run(folder, tmp_path / "out", lfw=str(tmp_path / "lfw"))
    assert metrics["folds"] == {"folds": 2, "identities": len(expected), "named": expected[:2]}
    assert metrics["view1"] is None


def test_identities_in_both_lists_of_view_1_are_found(place, tmp_path):
    _, _, metrics = place
    assert metrics["view1"] == {"identities": 0, "named": []}
    (tmp_path / "one.txt").write_text("2\nA 1 2\nB 1 2\nC 1 D 1\nE 1 F 2\n")
    (tmp_path / "other.txt").write_text("1\nF 1 2\nAB 1 B 2\n")
    assert in_both(read_pairs(tmp_path / "one.txt"), read_pairs(tmp_path / "other.txt")) == ["B", "F"]


def test_names_are_compared_without_case_accents_and_punctuation(place):
    shared = shared_names(["Zoe O'Hara", "Ann_Lee", "Ann_Leeds", "JOSE-LUIS"], ["Zoë_O_Hara", "ann lee", "José_Luis"])
    assert shared == ["Ann_Lee", "JOSE-LUIS", "Zoe O'Hara"]
    _, _, metrics = place
    assert metrics["names"] == {"identities": 0, "named": []}


# --- what it leaves, and what it refuses


def test_a_check_leaves_what_says_how_to_repeat_it(place):
    folder, _, metrics = place
    assert {path.name for path in (folder / "check").iterdir()} == FILES
    assert json.loads((folder / "check" / "metrics.json").read_text()) == metrics
    assert (metrics["train"]["identities"], metrics["train"]["images"]) == (6, len(list_images(folder / "train")))
    assert metrics["lfw"]["folder_images"] == 24
    assert json.loads((folder / "check" / "parameters.json").read_text()) == {
        "model": str(folder / "model.pth"),
        "train": str(folder / "train"),
        "lfw": str(folder / "lfw"),
        "images": "lfw-synthetic",
    }
    environment = json.loads((folder / "check" / "environment.json").read_text())
    assert environment["train"] == fingerprint(folder / "train")
    assert {"commit", "data", "model", "device"} <= environment.keys()


def missing_image(folder) -> str:
    pairs = read_pairs(folder / "lfw" / "pairs.txt")
    (folder / "lfw" / "lfw-synthetic" / f"{pairs.first[0]}.jpg").unlink()
    return pairs.first[0]


def torn_image(folder) -> str:
    file = folder / "train" / list_images(folder / "train")[0]
    file.write_bytes(file.read_bytes()[:500])
    return file.name


def no_pairs(folder) -> str:
    (folder / "lfw" / "pairsDevTest.txt").write_text("several\n")
    return "pairsDevTest.txt"


def foreign_output(folder) -> str:
    (folder / "out").mkdir()
    (folder / "out" / "diary.txt").write_text("")
    return "diary.txt"


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: shutil.rmtree(folder / "train") or "train: no such data folder",
        lambda folder: shutil.rmtree(folder / "lfw" / "lfw-synthetic") or "no LFW images",
        lambda folder: (folder / "lfw" / "pairs.txt").unlink() or "pairs.txt: no such pairs file",
        lambda folder: (folder / "model.pth").unlink() or "model.pth",
        lambda folder: (folder / "model.pth").write_text("nothing") and "model.pth",
        missing_image,
        torn_image,
        no_pairs,
        foreign_output,
    ],
    ids=["train", "lfw", "pairs", "model", "bad model", "image", "torn image", "view 1", "output"],
)
def test_what_is_wrong_is_named_before_an_image_is_embedded(place, tmp_path, monkeypatch, harm):
    folder, _, _ = place
    shutil.copytree(folder / "lfw", tmp_path / "lfw")
    shutil.copytree(folder / "train", tmp_path / "train")
    shutil.copy(folder / "model.pth", tmp_path / "model.pth")
    monkeypatch.setattr(integrity, "embed_images", lambda *_: pytest.fail("embedding takes minutes"))
    message = harm(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()


# --- the plot


def test_the_histogram_counts_every_identity_once_and_marks_both_thresholds():
    cosine, chance = np.array([0.1, 0.2, 0.2, 0.9]), np.array([0.3, 0.5])
    figure = integrity_plots.similarity_histogram(cosine, chance, 0.35, 0.45)
    (axis,) = figure.axes
    (bars,) = axis.containers
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    assert axis.patches[-1].get_xy()[:, 1].max() == 0.5  # the outline: 0.3 and 0.5 are half of it each
    assert [line.get_xdata()[0] for line in axis.lines] == [0.35, 0.45]
    plt.close(figure)
