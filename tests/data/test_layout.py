"""The same faces in every format that holds them: the same images, the same shares, the same training."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.loading import write_recordio
from facelib import data
from facelib.data.align_folder import align_folder
from facelib.data.landmarks import find_landmarks
from facelib.synthetic import sets
from facelib.training import Config, train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Synthetic faces as photographs, as aligned crops, as a pack of either and as RecordIO."""
    folder = tmp_path_factory.mktemp("formats")
    sets.make_identity_folder(folder / "photos", identities=4, images_per_identity=5, seed=3)
    shutil.copytree(folder / "photos", folder / "bare", ignore=shutil.ignore_patterns("landmarks.csv"))
    align_folder(folder / "bare", folder / "crops", "none")
    data.pack(folder / "photos", folder / "photos.pack")
    data.pack(folder / "crops", folder / "crops.pack")
    write_recordio(folder / "crops", folder / "records")
    data.pack(folder / "records", folder / "records.pack")
    return folder


def opened(place, name: str, **choice):
    folder = place / name
    landmarks = None if data.is_aligned(folder) else find_landmarks(folder, place / "cache")
    return data.open_faces(folder, landmarks=landmarks, **choice)


SAME = [("photos", "photos.pack"), ("crops", "crops.pack"), ("crops", "records"), ("crops", "records.pack")]


# RecordIO numbers its identities, and a choice is seeded by their names: there only all images are the same.
@pytest.mark.parametrize("one, other, ratio", [(*pair, 1.0) for pair in SAME] + [(*pair, 0.4) for pair in SAME[:2]])
def test_a_share_holds_the_same_images_and_labels_in_either_format(place, one, other, ratio):
    first, second = (opened(place, name, ratio=ratio, seed=7) for name in (one, other))
    assert first.labels.tolist() == second.labels.tolist() and first.available == second.available
    assert len(first.identities) == len(second.identities) == 4
    for i in range(len(first)):
        assert torch.equal(first[i][0], second[i][0]) and first[i][1] == second[i][1]


@pytest.mark.parametrize("name", ["photos", "photos.pack", "records", "records.pack"])
def test_the_loader_takes_every_format(place, name):
    faces = opened(place, name, ratio=0.6)
    images, labels = zip(*data.Loader(faces, 5, shuffle=True, seed=1, workers=1))
    images, labels = torch.cat(images), torch.cat(labels)
    assert images.shape == (12, 3, 112, 112) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [3, 3, 3, 3]
    one = {image.numpy().tobytes() for image in images}
    assert one == {np.ascontiguousarray(faces[i][0]).tobytes() for i in range(12)}


def test_a_run_on_a_pack_is_the_run_on_the_folder_it_was_made_of(place, tmp_path):
    small = {"backbone": "iresnet18_025", "embedding_size": 32, "epochs": 2, "batch_size": 8, "ratio": 0.8}
    for name in ("photos", "photos.pack"):
        train(Config(data=str(place / name), output=str(tmp_path / name), learning_rate=0.02, device="cpu", **small))
    folder, pack = (pd.read_csv(tmp_path / name / "log.csv").loss for name in ("photos", "photos.pack"))
    assert pack.tolist() == folder.tolist()


def test_a_torn_image_is_left_out_of_a_pack_of_a_folder_and_told(place, tmp_path, capsys):
    folder = shutil.copytree(place / "bare", tmp_path / "torn")
    torn = sorted(folder.glob("*/*.jpg"))[3]
    torn.write_bytes(torn.read_bytes()[:700])
    packed = data.pack(folder, tmp_path / "torn.pack", cache=tmp_path / "cache")
    name = str(torn.relative_to(folder))
    assert len(packed) == 19 and len(packed.dropped) == 1 and packed.dropped[0].startswith(f"{name}: not a read")
    assert name not in packed.images
    assert f"1 of 20 images can't be read and are left out: {name}" in capsys.readouterr().out


def test_every_format_is_opened_with_all_its_images_stored_or_as_crops(place):
    photos, crops = data.open_images(place / "photos"), data.open_crops(place / "photos", place / "cache")
    assert len(photos) == len(crops) == 20 and photos[0][0].shape != crops[0][0].shape == (3, 112, 112)
    for name in ("photos.pack", "records", "records.pack"):
        stored, aligned = data.open_images(place / name), data.open_crops(place / name)
        assert len(stored) == len(stored.images) == 20 and torch.equal(stored[7][0], aligned[7][0])
        assert data.identity_names(stored) == [stored.identities[k // 5] for k in range(20)]


def test_an_empty_share_names_the_source_and_the_parameter(place):
    with pytest.raises(ValueError, match="photos.pack: ratio 0.1 leaves 0 of 4 identities"):
        opened(place, "photos.pack", ratio=0.1)


def test_a_source_that_is_none_is_refused_by_name(place, tmp_path):
    (tmp_path / "some.pack").write_bytes(b"no pack at all")
    with pytest.raises(ValueError, match="some.pack: a file, but a pack is a folder now"):
        data.open_faces(tmp_path / "some.pack")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.open_faces(tmp_path / "nowhere")
