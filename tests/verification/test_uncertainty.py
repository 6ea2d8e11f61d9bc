"""What the statistics of a plan's verifications hold, on scores drawn from known distributions."""

import json
import math

import numpy as np
import pytest
from scipy.stats import norm

from facelib.verification import uncertainty
from facelib.verification.measures import fold_accuracies, measures, roc

FOLD = np.repeat(np.arange(5), 40)
GENUINE = np.tile(np.arange(40) < 20, 5)
# Pair k shows person k, an impostor pair person k + 1000 too.
FIRST = np.array([f"p{k:04d}/p{k:04d}_0001" for k in range(200)])
SECOND = np.array([f"p{k + 1000 * (not g):04d}/p{k + 1000 * (not g):04d}_0002" for k, g in enumerate(GENUINE)])


@pytest.fixture
def results(tmp_path):
    """Verifications of a light and a heavy backbone in both lights; the heavy one separates better."""
    runs = {}
    for seed, name in enumerate(["light-r1-normal", "light-r1-low", "heavy-r1-normal", "heavy-r1-low"]):
        folder = tmp_path / "verify" / name
        folder.mkdir(parents=True)
        score = np.random.default_rng(seed).normal(size=200) + (4 if "heavy" in name else 1) * GENUINE
        np.savez(folder / "scores.npz", score=score, genuine=GENUINE, fold=FOLD, first=FIRST, second=SECOND)
        (folder / "metrics.json").write_text("{}")
        runs[f"verify/{name}"] = {"notebook": "verify", "parameters": {"output": str(folder)}}
    plan = {"light": "light", "heavy": "heavy", "ratios": [1.0], "runs": runs}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    return tmp_path


def test_every_verification_has_intervals_and_the_backbones_are_compared(results):
    metrics = uncertainty.summarise(str(results), str(results / "statistics"), resamples=200)
    assert json.loads((results / "statistics" / "metrics.json").read_text()) == metrics
    assert set(metrics["verify"]) == {"light-r1-normal", "light-r1-low", "heavy-r1-normal", "heavy-r1-low"}
    for numbers in metrics["verify"].values():
        for measure in ("accuracy", "auc", "eer", "tar_at_far_0.01"):
            assert 0 <= numbers[measure]["low"] <= numbers[measure]["estimate"] <= numbers[measure]["high"] <= 1
    assert {key: found["verdict"] for key, found in metrics["compare"].items()} == {
        "r1-normal": "worse",
        "r1-low": "worse",
    }


def test_the_auc_of_two_gaussians_lies_within_its_interval(results):
    numbers = uncertainty.summarise(str(results), str(results / "statistics"), resamples=400)["verify"]
    for name, separation in (("light-r1-normal", 1), ("heavy-r1-normal", 4)):
        assert numbers[name]["auc"]["low"] <= norm.cdf(separation / math.sqrt(2)) <= numbers[name]["auc"]["high"]


def test_errors_are_those_that_the_accuracy_over_folds_leaves(results):
    numbers = uncertainty.summarise(str(results), str(results / "statistics"), resamples=50)["verify"]["light-r1-low"]
    pairs = uncertainty.read_scores(results / "verify" / "light-r1-low")
    accuracies = fold_accuracies(pairs["score"], GENUINE, FOLD)
    assert numbers["errors"] == round(200 * (1 - accuracies.mean()))


def test_the_band_of_a_curve_holds_the_curve(results):
    uncertainty.summarise(str(results), str(results / "statistics"), resamples=200)
    far, tar = roc(uncertainty.read_scores(results / "verify" / "light-r1-normal")["score"], GENUINE)
    with np.load(results / "statistics" / "bands.npz") as bands:
        low, high = bands["light-r1-normal/roc"]
    at = np.array([tar[far <= x + 1e-9].max() for x in uncertainty.GRID])
    assert (low <= at + 1e-6).all() and (at <= high + 1e-6).all()
    assert (high - low)[20:100].min() > 0.02  # and is no line


def test_who_is_in_a_pair_is_read_from_the_images_names(results):
    identities = uncertainty.read_scores(results / "verify" / "light-r1-normal")["identities"]
    assert ((identities[:, 0] == identities[:, 1]) == GENUINE).all()
    assert len(np.unique(identities)) == 200 + 100


def test_of_unfinished_verifications_nothing_is_told_and_nothing_compared(results):
    (results / "verify" / "heavy-r1-low" / "metrics.json").unlink()
    metrics = uncertainty.summarise(str(results), str(results / "statistics"), resamples=50)
    assert set(metrics["verify"]) == {"light-r1-normal", "light-r1-low", "heavy-r1-normal"}
    assert set(metrics["compare"]) == {"r1-normal"}


def study_folder(folder, scores: dict[str, np.ndarray], thresholds: dict[str, str]) -> None:
    """What an evaluation ladder leaves, of 40 pairs of 20 people in two folds."""
    n = np.arange(40)
    genuine = n % 2 == 0
    first = np.array([f"p{i % 20}/p{i % 20}_0001" for i in n])
    second = np.array([f"p{(i if i % 2 == 0 else i + 2) % 20}/x_0001" for i in n])
    arrays = {}
    for name, score in scores.items():
        of = {"score": score, "genuine": genuine, "fold": n // 20, "first": first, "second": second}
        arrays |= {f"{kind}/{name}": values for kind, values in of.items()}
    np.savez(folder / "scores.npz", **arrays)
    (folder / "parameters.json").write_text(json.dumps({"rungs": {k: {"threshold": t} for k, t in thresholds.items()}}))


def test_a_rung_is_compared_with_the_corrected_protocol_on_the_same_pairs(tmp_path):
    """The corrected protocol is always right, the rung always wrong about who is who at random."""
    genuine = np.arange(40) % 2 == 0
    right, random = genuine + 0.0, np.random.default_rng(0).normal(size=40)
    rungs = {"down/corrected": right, "down/low light": random, "down/same pairs": right}
    study_folder(
        tmp_path, rungs, {"down/corrected": "folds", "down/low light": "folds", "down/same pairs": "same pairs"}
    )
    found = uncertainty.uncertainty_of_study(uncertainty.read_study(tmp_path), resamples=50, seed=0)
    assert found["down/corrected"]["auc"]["estimate"] == 1 and found["down/corrected"]["errors"] == 0
    loss = found["down/low light"]["loss"]
    assert loss["verdict"] == "worse" and loss["only_first"] == 0
    assert loss["difference"]["estimate"] == pytest.approx(-found["down/low light"]["errors"] / 40)
    assert "errors" not in found["down/same pairs"] and "accuracy" not in found["down/same pairs"]


def test_results_without_suspects_are_those_of_the_other_pairs(results):
    """Without the people of the first fold's pairs four folds are left; whose measures the others' scores give."""
    suspects = sorted({name.split("/")[0] for name in [*FIRST[:40], *SECOND[:40]]})
    folder = results / "integrity"
    folder.mkdir()
    overlap = {"suspect_lfw": suspects, "beyond_chance": {"suspect_lfw": []}}
    (folder / "metrics.json").write_text(json.dumps({"overlap": overlap}))
    plan = json.loads((results / "plan.json").read_text())
    plan["runs"]["integrity"] = {"notebook": "integrity", "parameters": {"output": str(folder)}}
    (results / "plan.json").write_text(json.dumps(plan))
    metrics = uncertainty.summarise(str(results), str(results / "statistics"), resamples=50)
    found = metrics["without_suspects"]["light-r1-normal"]
    score = uncertainty.read_scores(results / "verify" / "light-r1-normal")["score"]
    assert found["threshold"] == measures(score[40:], GENUINE[40:], FOLD[40:])
    assert found["chance"] == measures(score, GENUINE, FOLD)


def test_thresholds_are_calibrated_in_their_own_light_and_from_normal_to_low(results):
    found = uncertainty.summarise(str(results), str(results / "statistics"), resamples=50)["calibration"]
    assert set(found) == set()  # 80 impostor pairs outside a fold don't show a FAR of 1 %
    scores = {}
    for light, seed in (("normal", 0), ("low", 1)):
        genuine, n = np.tile(np.arange(400) < 200, 2), np.arange(800)
        score = np.random.default_rng(seed).normal(size=800) + genuine
        scores[f"a-{light}"] = {"score": score, "genuine": genuine, "fold": n // 400, "first": n}
    assert set(uncertainty.calibration("a-low", scores)) == {"a-low", "a-low from normal"}
    assert set(uncertainty.calibration("a-normal", scores)) == {"a-normal"}
