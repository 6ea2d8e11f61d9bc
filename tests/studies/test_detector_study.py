"""The detector study on a few synthetic faces, against verifications with the same landmarks."""

import json

import numpy as np
import pytest

from facelib.data import PairImages
from facelib.data.landmarks import find_landmarks
from facelib.faces.detectors import DETECTORS
from facelib.models.pretrained import load_embedder
from facelib.studies import detectors as detector_study
from facelib.studies.detectors import images_per_second, study
from facelib.verification.measures import measures
from facelib.verification.scores import embed_images, pair_scores
from facelib.verification.testset import open_test


@pytest.fixture(scope="module")
def place(place):
    """The place with a study of it."""
    study(*(str(place / name) for name in ("model.pth", "lfw", "study")), cache=str(place / "cache"))
    return place


def test_every_detector_has_its_counts_its_speed_and_the_measures_of_its_scores(place):
    metrics = json.loads((place / "study" / "metrics.json").read_text())
    assert [*metrics] == [*DETECTORS] == ["mtcnn", "viola-jones", "none"]
    with np.load(place / "study" / "scores.npz", allow_pickle=False) as arrays:
        for name, of in metrics.items():
            score = arrays[f"score/{name}"]
            assert score.shape == (24,) and of["images"] == len({*arrays["first"], *arrays["second"]})
            assert 0 <= of["found"] <= of["images"] and of["images_per_second"] > 0
            assert of.items() >= measures(score, arrays["genuine"], arrays["fold"]).items()
    assert metrics["none"]["found"] == metrics["none"]["images"]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detectors_scores_are_those_of_its_landmarks_though_others_came_with_the_images(place, name):
    test = open_test(place / "lfw")
    images, listed = test.images, test.pairs
    dataset = PairImages(images, listed, find_landmarks(images, place / "cache", detector=name))
    embeddings = embed_images(load_embedder(str(place / "model.pth")), dataset)
    with np.load(place / "study" / "scores.npz", allow_pickle=False) as arrays:
        found = arrays[f"score/{name}"]
    assert found == pytest.approx(pair_scores(embeddings, dataset.first, dataset.second), abs=1e-6)


def test_speed_is_the_median_over_batches_after_the_first(monkeypatch, tmp_path):
    """A detector that takes 1 s for the first batch of 16 and then 4, 2, 8 and 2 s: medians of 4, 8, 2 and 8 are 6."""
    clock, seconds = [0.0], iter([1.0, 4.0, 2.0, 8.0, 2.0])

    def detector(batch):
        clock[0] += next(seconds)

    monkeypatch.setattr(detector_study.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(detector_study, "create_detector", lambda name, device: detector)
    monkeypatch.setattr(detector_study, "read_image", lambda file: None)
    assert images_per_second("fake", [tmp_path] * 80) == 6
