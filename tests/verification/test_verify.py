"""Verification measures against scikit-learn, closed forms, counts by hand and brute force."""

import hashlib
import json
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from scipy.stats import norm

from facelib.faces.light import published as low_light
from facelib.models import Embedder, create_model
from facelib.synthetic import sets
from facelib.verification import testset
from facelib.verification.measures import (
    accuracy_of_50_thresholds,
    best_threshold,
    det,
    equal_error_rate,
    fold_accuracies,
    measures,
    precision_recall,
    roc,
    tar_at_far,
)
from facelib.verification.protocol import Protocol
from facelib.verification.scores import embed_images, pair_scores
from facelib.verification.verify import verify

TAR, HALF = "tar_at_far_0.01", "tar_at_far_0.5"
TWO_FOLDS = np.array([0, 0, 1, 1])


def random_pairs(seed: int, n: int = 60, folds: int = 3, digits: int | None = None):
    """Scores of genuine pairs somewhat above the impostors', rounded to `digits` so that some are equal."""
    rng = np.random.default_rng(seed)
    genuine = np.arange(n) % 2 == 0
    scores = np.tanh(0.4 * rng.normal(size=n) + 0.3 * genuine)
    return scores if digits is None else scores.round(digits), genuine, np.arange(n) // (n // folds)


def accuracy(scores, genuine, threshold) -> float:
    """Share of pairs judged rightly, counted one by one."""
    return sum(bool(s >= threshold) == bool(g) for s, g in zip(scores, genuine)) / len(scores)


def cuts(scores) -> list[float]:
    """Every way to part the scores: below all, midway between neighbours, above all."""
    distinct = sorted(set(scores.tolist()))
    return [distinct[0] - 1, *((a + b) / 2 for a, b in zip(distinct, distinct[1:])), distinct[-1] + 1]


# --- the curves and what is read from them


def test_auc_and_average_precision_count_by_hand():
    """Genuine 0.9, 0.6, 0.3 and impostors 0.7, 0.2: four of six orders are right; precision 1, 2/3, 3/4 at each hit."""
    found = measures(np.array([0.9, 0.7, 0.6, 0.3, 0.2]), np.array([True, False, True, True, False]), np.zeros(5, int))
    assert found["pairs"] == 5
    assert found["auc"] == pytest.approx(4 / 6)
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


@pytest.mark.parametrize("digits", [None, 1])
def test_the_curves_enclose_the_measured_areas(digits):
    scores, genuine, fold = random_pairs(0, digits=digits)
    far, tar = roc(scores, genuine)
    wins = [(a > b) + (a == b) / 2 for a in scores[genuine] for b in scores[~genuine]]
    found = measures(scores, genuine, fold)
    assert np.trapezoid(tar, far) == pytest.approx(np.mean(wins)) == pytest.approx(found["auc"])
    precision, recall = precision_recall(scores, genuine)
    assert (np.diff(recall) >= 0).all() and recall[0] == 0 and recall[-1] == 1
    steps = (np.diff(recall) * precision[1:]).sum()
    assert steps == pytest.approx(sklearn.metrics.average_precision_score(genuine, scores))
    assert found["average_precision"] == pytest.approx(steps)


def test_roc_holds_the_shares_accepted_at_every_threshold_and_rises_from_0_to_1():
    scores, genuine, _ = random_pairs(1, digits=1)
    far, tar = roc(scores, genuine)
    counted = [(np.mean(scores[~genuine] >= t), np.mean(scores[genuine] >= t)) for t in sorted(set(scores))[::-1]]
    assert np.column_stack([far, tar]) == pytest.approx(np.array([(0, 0), *counted]))
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("distance", [0.5, 2, 3])
def test_two_gaussians_have_the_error_rates_of_their_closed_forms(distance):
    """Unit variances, means d apart: EER = Phi(-d / 2), AUC = Phi(d / sqrt 2), TAR at FAR f = Phi(d + Phi^-1(f))."""
    rng, n = np.random.default_rng(0), 100_000
    scores = np.concatenate([rng.normal(distance, 1, n), rng.normal(0, 1, n)])
    found = measures(scores, np.arange(2 * n) < n, np.zeros(2 * n, int))
    assert found["eer"] == pytest.approx(norm.cdf(-distance / 2), abs=0.004)
    assert found["auc"] == pytest.approx(norm.cdf(distance / math.sqrt(2)), abs=0.004)
    assert found[TAR] == pytest.approx(norm.cdf(distance + norm.ppf(0.01)), abs=0.015)


def test_equal_error_rate_by_hand():
    """Genuine 4, 3, 1 and impostors 2, 0, -1: at threshold 2 one in three of either kind is wrong."""
    assert equal_error_rate(np.array([4, 3, 1, 2, 0, -1.0]), np.arange(6) < 3) == pytest.approx(1 / 3)


def test_equal_error_rate_lies_on_the_line_between_two_thresholds():
    """Genuine 2, 1, 1 and impostors 1, 0: from (FAR 0, FRR 2/3) to (1/2, 0), equal at 2/7."""
    assert equal_error_rate(np.array([2, 1, 1, 1, 0.0]), np.arange(5) < 3) == pytest.approx(2 / 7)


def test_tar_at_far_by_hand():
    """Ten impostors 0..9; genuine pairs at 9.5, 8.5, 7.5, 0.5. FAR 0.1 admits two, FAR 0.2 three."""
    scores = np.array([9.5, 8.5, 7.5, 0.5, *range(10)])
    genuine = np.arange(14) < 4
    for far, tar in [(0.1, 0.5), (0.19, 0.5), (0.2, 0.75), (0.89, 0.75), (0.9, 1), (1, 1)]:
        assert tar_at_far(scores, genuine, far) == tar


def test_tar_at_far_rejects_genuine_pairs_whose_score_an_impostor_shares():
    assert tar_at_far(np.array([1, 0.5, 0.5, 0.4, 0.0]), np.array([True, True, False, False, False]), 1 / 3) == 1
    assert tar_at_far(np.array([1, 0.5, 0.5, 0.5, 0.0]), np.array([True, True, False, False, False]), 1 / 3) == 0.5


@pytest.mark.parametrize("far", [1e-4, 1 / 3001])
def test_a_far_that_3000_impostor_pairs_cannot_show_is_refused(far):
    scores, genuine = np.linspace(-1, 1, 6000), np.arange(6000) >= 3000
    with pytest.raises(ValueError, match="far .* can't be resolved by 3,000 impostor pairs.*0.00033. Set far"):
        tar_at_far(scores, genuine, far)
    assert tar_at_far(scores, genuine, 1 / 3000) == 1
    for share in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="far must be in"):
            tar_at_far(scores, genuine, share)


def test_measures_leave_out_what_the_pairs_cannot_resolve_and_say_what_they_could():
    scores, genuine = np.linspace(-1, 1, 100), np.arange(100) >= 50
    found = measures(scores, genuine, np.zeros(100, int))
    assert TAR not in found and found["lowest_far"] == 1 / 50
    assert measures(scores, genuine, np.zeros(100, int), far=0.1)["tar_at_far_0.1"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_det_curve_is_the_roc_with_rejects_in_the_place_of_accepts(seed):
    """At each FAR of the DET curve its false reject rate is 1 - TAR by the count of pairs."""
    scores, genuine, _ = random_pairs(seed, digits=1)
    for far, frr in zip(*det(scores, genuine)):
        assert any(
            far == (scores[~genuine] >= cut).mean() and frr == pytest.approx((scores[genuine] < cut).mean())
            for cut in cuts(scores)
        )
    assert (np.diff(det(scores, genuine)[0]) >= 0).all()


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([0.9, 0.1, 0.8, 0.2], {"auc": 1, "average_precision": 1, "eer": 0, HALF: 1, "accuracy": 1}),
        ([0.1, 0.9, 0.2, 0.8], {"auc": 0, "average_precision": 5 / 12, "eer": 1, HALF: 0}),
        ([0.5, 0.5, 0.5, 0.5], {"auc": 0.5, "average_precision": 0.5, "eer": 0.5, HALF: 0, "accuracy": 0.5}),
    ],
    ids=["perfect", "inverted", "constant"],
)
def test_perfect_inverted_and_constant_scores(scores, expected):
    found = measures(np.array(scores), np.array([True, False, True, False]), TWO_FOLDS, far=0.5)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


# --- thresholds and folds


@pytest.mark.parametrize("digits", [None, 2, 1])
@pytest.mark.parametrize("seed", range(5))
def test_best_threshold_is_as_accurate_as_the_best_found_by_trying_all(seed, digits):
    scores, genuine, _ = random_pairs(seed, n=40, digits=digits)
    threshold = best_threshold(scores, genuine)
    tried = {cut: accuracy(scores, genuine, cut) for cut in cuts(scores)}
    assert accuracy(scores, genuine, threshold) == max(tried.values())
    best = [cut for cut in tried if tried[cut] == max(tried.values())]
    below, above = sum(cut < threshold - 1e-12 for cut in best), sum(cut > threshold + 1e-12 for cut in best)
    assert below + above == len(best) - 1 and abs(below - above) <= 1  # midway, and of several the middle one


def test_best_threshold_lies_midway_between_the_kinds_it_separates():
    assert best_threshold(np.array([0.9, 0.1, 0.7, 0.3]), np.array([True, False, True, False])) == pytest.approx(0.5)


def test_best_threshold_of_one_kind_alone_accepts_or_rejects_all():
    scores = np.array([0.2, 0.4])
    assert best_threshold(scores, np.array([True, True])) < 0.2
    assert best_threshold(scores, np.array([False, False])) > 0.4


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("seed", range(4))
def test_fold_accuracies_are_those_of_a_best_threshold_of_the_other_folds(seed, digits):
    scores, genuine, fold = random_pairs(seed, digits=digits)
    found = fold_accuracies(scores, genuine, fold)
    assert len(found) == 3
    for k in range(3):
        rest, here = fold != k, fold == k
        tried = {cut: accuracy(scores[rest], genuine[rest], cut) for cut in cuts(scores[rest])}
        best = [cut for cut in tried if tried[cut] == max(tried.values())]
        middle = {best[(len(best) - 1) // 2], best[len(best) // 2]}
        assert any(found[k] == pytest.approx(accuracy(scores[here], genuine[here], cut)) for cut in middle)


def test_a_fold_does_not_choose_its_own_threshold():
    """Fold 0 alone would be parted at 0.2, fold 1 at 0.8; with the other's threshold each has half right."""
    scores, genuine = np.array([0.3, 0.1, 0.9, 0.7]), np.array([True, False, True, False])
    assert fold_accuracies(scores, genuine, TWO_FOLDS).tolist() == [0.5, 0.5]
    assert fold_accuracies(scores, genuine, np.array([0, 1, 1, 1]))[0] == 0


def test_accuracy_is_the_mean_over_folds_with_the_standard_deviation_of_a_sample():
    scores, genuine, fold = random_pairs(3)
    accuracies, found = fold_accuracies(scores, genuine, fold), measures(scores, genuine, fold)
    mean = sum(accuracies) / 3
    assert found["accuracy"] == pytest.approx(mean)
    assert found["accuracy_std"] == pytest.approx(math.sqrt(sum((a - mean) ** 2 for a in accuracies) / 2))
    assert found["accuracy_std"] > 0


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_scores_of_a_broken_model_have_no_measures(broken):
    scores, genuine = np.array([0.1, broken, 0.3, 0.4]), np.array([True, True, False, False])
    with pytest.raises(ValueError, match="1 of 4 scores are not finite"):
        measures(scores, genuine, np.zeros(4, int))


@pytest.mark.parametrize("kind, word", [(True, "genuine"), (False, "impostor")])
def test_pairs_of_one_kind_have_no_measures(kind, word):
    with pytest.raises(ValueError, match=f"all 3 pairs are {word}"):
        measures(np.array([0.1, 0.2, 0.3]), np.full(3, kind), np.zeros(3, int))


def test_one_fold_has_no_fold_accuracy():
    scores, genuine, _ = random_pairs(0)
    one = np.zeros(len(scores), int)
    assert not {"accuracy", "accuracy_std"} & measures(scores, genuine, one).keys()
    with pytest.raises(ValueError, match="two folds.*View 2"):
        fold_accuracies(scores, genuine, one)


# --- embeddings and scores


class Projection(Embedder):
    """A fixed random linear map of the pixels, mirror images apart."""

    def __init__(self):
        super().__init__("projection")
        self.weight = torch.randn(3 * 112 * 112, 5, generator=torch.Generator().manual_seed(0))

    def _embed(self, values):
        return values.flatten(1) @ self.weight


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 112, 112), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def dataset(crops):
    return [(crop, i) for i, crop in enumerate(crops)]


def test_pair_scores_are_cosines():
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    first, second = np.array([0, 2, 5, 3]), np.array([1, 2, 0, 3])
    expected = [F.cosine_similarity(embeddings[a], embeddings[b], dim=0) for a, b in zip(first, second)]
    scores = pair_scores(unit, first, second)
    assert scores.dtype == np.float64 and scores == pytest.approx(np.array(expected), abs=1e-6)
    assert scores[[1, 3]] == pytest.approx(1, abs=1e-6)


def test_embeddings_are_those_of_the_model_at_unit_length_in_order(crops):
    raw = Projection().embed(crops)
    found = embed_images(Projection(), dataset(crops))
    assert found.dtype == torch.float32
    assert torch.allclose(found, raw / raw.norm(dim=1, keepdim=True), atol=1e-6)


def test_flip_test_adds_the_mirrored_embedding_before_normalising(crops):
    total = Projection().embed(crops) + Projection().embed(crops[..., torch.arange(111, -1, -1)])
    found = embed_images(Projection(), dataset(crops), flip=True)
    assert torch.allclose(found, total / total.norm(dim=1, keepdim=True), atol=1e-6)


def test_flip_test_gives_an_image_and_its_mirror_image_one_embedding(crops):
    pictures, mirrored = dataset(crops), dataset(crops.flip(-1))
    assert torch.equal(embed_images(Projection(), pictures, flip=True), embed_images(Projection(), mirrored, flip=True))
    assert not torch.allclose(embed_images(Projection(), pictures), embed_images(Projection(), mirrored), atol=0.01)


def test_a_transform_changes_what_the_model_sees(crops):
    dimmed = embed_images(Projection(), dataset(crops), transform=low_light)
    assert torch.allclose(dimmed, embed_images(Projection(), dataset(low_light(crops))))
    assert not torch.allclose(dimmed, embed_images(Projection(), dataset(crops)), atol=0.01)


def test_the_published_accuracy_is_the_best_of_50_distances_on_the_pairs_themselves():
    """A grid of 0.02 can't part 0.501 from 0.509, and no distance of 1 or more is tried."""
    genuine = np.array([True, False])
    assert accuracy_of_50_thresholds(np.array([0.60, 0.50]), genuine) == 1
    assert accuracy_of_50_thresholds(np.array([0.509, 0.501]), genuine) == 0.5
    assert accuracy_of_50_thresholds(np.array([-0.1, -0.5]), genuine) == 0.5


def test_pairs_of_missing_images_are_told_before_faces_are_detected(tmp_path, monkeypatch):
    sets.make_lfw(tmp_path / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2)
    gone = sorted((tmp_path / "lfw" / "lfw-synthetic").glob("*/*_0002.jpg"))
    for file in gone:
        file.unlink()
    torch.save(create_model("iresnet18_025", 8).state_dict(), tmp_path / "model.pth")
    monkeypatch.setattr(testset, "find_landmarks", lambda *_: pytest.fail("detection takes minutes"))
    with pytest.raises(FileNotFoundError, match="lfw-synthetic: .* images that the pairs file names are missing: "):
        verify(str(tmp_path / "model.pth"), str(tmp_path / "lfw"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_verification_leaves_what_says_how_to_repeat_it(tmp_path):
    sets.make_lfw(tmp_path / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2)
    torch.save(create_model("iresnet18_025", 8).state_dict(), tmp_path / "model.pth")
    found = verify(str(tmp_path / "model.pth"), str(tmp_path / "lfw"), str(tmp_path / "out"), Protocol(light="low"))
    assert found["pairs"] == 8 and json.loads((tmp_path / "out" / "metrics.json").read_text()) == found
    asked = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert asked["images"] == "lfw-synthetic" and asked["light"] == "low" and asked["flip"] is False
    digest = hashlib.sha256((tmp_path / "model.pth").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "out" / "environment.json").read_text())["model"] == digest[:12]
    with np.load(tmp_path / "out" / "scores.npz") as arrays:
        assert abs(arrays["score"]).max() <= 1 + 1e-6
        shown = [[str(name).split("/")[0] for name in arrays[which]] for which in ("first", "second")]
        assert [a == b for a, b in zip(*shown)] == arrays["genuine"].tolist()
        assert arrays["fold"].tolist() == [0] * 4 + [1] * 4
