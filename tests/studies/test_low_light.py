"""The low-light study on a few synthetic faces, against a verification and what is known of each condition."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from facelib.faces.light import REPAIRS
from facelib.studies.low_light import noise_generator, study, table
from facelib.verification import testset
from facelib.verification.measures import measures
from facelib.verification.protocol import Protocol
from facelib.verification.verify import verify
from report.figures import low_light


@pytest.fixture(scope="module")
def place(place):
    """The place with a study of it."""
    study(str(place / "model.pth"), str(place / "lfw"), str(place / "study"), most_stops=1)
    return place


def scores(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def run(place, output, **given) -> dict:
    return study(str(place / "model.pth"), str(place / "lfw"), str(output), **given)


def test_every_light_and_repair_is_a_condition_with_scores_and_their_measures(place):
    metrics = json.loads((place / "study" / "metrics.json").read_text())
    expected = ["normal", "published", *(f"{k}/{repair}" for k in (0, 1) for repair in REPAIRS)]
    assert [*metrics["conditions"]] == expected
    assert (metrics["stops"], metrics["repairs"], metrics["pairs"]) == ([0, 1], [*REPAIRS], 24)
    found = scores(place / "study")
    assert metrics["images"] == len({*found["first"], *found["second"]})
    for name in expected:
        score = found[f"score/{name}"]
        assert score.shape == (24,) and score.dtype == np.float64
        assert metrics["conditions"][name] == measures(score, found["genuine"], found["fold"])


@pytest.mark.parametrize("condition, light", [("normal", "normal"), ("published", "low")])
@pytest.mark.parametrize("flip", [False, True])
def test_undarkened_scores_are_those_of_a_verification(place, tmp_path, condition, light, flip):
    verify(str(place / "model.pth"), str(place / "lfw"), str(tmp_path / "verified"), Protocol(light=light, flip=flip))
    run(place, tmp_path / "study", flip=flip, most_stops=0, repairs=False)
    verified, found = scores(tmp_path / "verified"), scores(tmp_path / "study")
    assert found[f"score/{condition}"] == pytest.approx(verified["score"], abs=1e-6)
    for name in ("genuine", "fold", "first", "second"):
        assert found[name].tolist() == verified[name].tolist()


def test_conditions_differ_from_one_another(place):
    found = {name: score for name, score in scores(place / "study").items() if name.startswith("score/")}
    assert len({score.round(6).tobytes() for score in found.values()}) == len(found)


def test_a_study_without_repairs_has_the_same_noise(place, tmp_path):
    metrics = run(place, tmp_path / "bare", most_stops=1, repairs=False)
    assert metrics["repairs"] == ["none"]
    assert [*metrics["conditions"]] == ["normal", "published", "0/none", "1/none"]
    bare, whole = scores(tmp_path / "bare"), scores(place / "study")
    assert bare["score/1/none"] == pytest.approx(whole["score/1/none"], abs=1e-6)


def test_another_seed_is_another_noise_and_the_same_normal_light(place, tmp_path):
    run(place, tmp_path / "other", most_stops=1, repairs=False, seed=1)
    other, found = scores(tmp_path / "other"), scores(place / "study")
    assert other["score/normal"] == pytest.approx(found["score/normal"], abs=1e-6)
    assert abs(other["score/1/none"] - found["score/1/none"]).max() > 1e-5


def test_seeds_and_stops_have_noises_of_their_own():
    draws = [torch.rand(4, generator=noise_generator(seed, k)).tolist() for seed in range(3) for k in range(3)]
    assert len({tuple(draw) for draw in draws}) == 9
    assert torch.rand(4, generator=noise_generator(2, 1)).tolist() == draws[7]


def test_two_folds_are_the_first_two_of_the_pairs_file(place, tmp_path):
    metrics = run(place, tmp_path / "two", folds=2, most_stops=0, repairs=False)
    found, whole = scores(tmp_path / "two"), scores(place / "study")
    assert metrics["pairs"] == 16 and found["fold"].tolist() == [0] * 8 + [1] * 8
    for name in ("first", "second", "genuine"):
        assert found[name].tolist() == whole[name].tolist()[:16]
    assert found["score/normal"] == pytest.approx(whole["score/normal"][:16], abs=1e-6)


@pytest.mark.parametrize("given", [{"folds": 1}, {"folds": 4}, {"folds": -1}, {"most_stops": -1}, {"seed": -1}])
def test_a_wrong_parameter_is_named_before_faces_are_detected(place, tmp_path, monkeypatch, given):
    monkeypatch.setattr(testset, "find_landmarks", lambda *_: pytest.fail("detection takes minutes"))
    (name, value), *_ = given.items()
    with pytest.raises(ValueError, match=f"{name} must be 0.*found {value}"):
        run(place, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_study_leaves_what_says_how_to_repeat_it(place):
    asked = json.loads((place / "study" / "parameters.json").read_text())
    assert asked == {
        "model": str(place / "model.pth"),
        "lfw": str(place / "lfw"),
        "images": "lfw-synthetic",
        "pairs": "pairs.txt",
        "folds": 0,
        "flip": False,
        "most_stops": 1,
        "repairs": True,
        "seed": 0,
    }
    environment = json.loads((place / "study" / "environment.json").read_text())
    assert {"commit", "data", "model", "device"} <= environment.keys()


def test_the_table_has_a_row_for_each_light_and_a_column_for_each_repair(place):
    metrics = json.loads((place / "study" / "metrics.json").read_text())
    found = table(metrics, "auc")
    assert found.index.tolist() == [0, 1] and [*found] == [*REPAIRS]
    assert found.loc[1, "clahe"] == metrics["conditions"]["1/clahe"]["auc"]


# --- the plots


def test_the_example_has_a_column_for_each_light_and_a_row_for_each_repair_that_get_darker():
    figure = low_light.example_row(stops=(0, 3), seed=1)
    pictures = np.array([axis.images[0].get_array() for axis in figure.axes])
    assert pictures.shape == (2 * len(REPAIRS), 112, 112, 3)
    assert pictures[1].mean() < 0.6 * pictures[0].mean()
    plt.close(figure)


def test_curves_go_through_the_measured_values_and_bands_lie_about_them(place):
    metrics = json.loads((place / "study" / "metrics.json").read_text())
    curves = low_light.repair_curves(metrics, "accuracy")
    curves[0] |= {"low": curves[0]["values"] - 0.1, "high": curves[0]["values"] + 0.1}
    figure = low_light.against_stops(curves, "accuracy", {"normal": 0.9})
    (axis,) = figure.axes
    for line, repair in zip(axis.lines, REPAIRS):
        expected = [metrics["conditions"][f"{k}/{repair}"]["accuracy"] for k in (0, 1)]
        assert line.get_xdata().tolist() == [0, 1] and line.get_ydata().tolist() == expected
    assert len(axis.collections) == 1
    assert [0.9, 0.9] in [list(line.get_ydata()) for line in axis.lines]
    plt.close(figure)
