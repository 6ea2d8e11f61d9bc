"""Measures on weighted pairs, against scikit-learn's weighted ones, repeated pairs and the trial of every threshold."""

import numpy as np
import pytest
import sklearn.metrics

from facelib.verification import measures
from facelib.verification.weighted import WeightedPairs

FAR = 0.05


def pairs(seed: int, digits: int | None = None, n: int = 240):
    """Scores, genuine, fold and whole weights from 0 to 3; rounded to `digits` some scores are equal."""
    rng = np.random.default_rng(seed)
    genuine = np.arange(n) % 2 == 0
    scores = np.tanh(0.4 * rng.normal(size=n) + 0.3 * genuine)
    scores = scores if digits is None else scores.round(digits)
    return scores, genuine, np.arange(n) // (n // 4), rng.integers(0, 4, n).astype(np.float32)


CASES = [(seed, digits) for seed in range(5) for digits in (None, 1, 2)]


@pytest.mark.parametrize("seed, digits", CASES)
def test_auc_is_scikit_learns_with_sample_weights(seed, digits):
    scores, genuine, fold, weights = pairs(seed, digits)
    found = WeightedPairs(scores, genuine, fold).measures(weights[None], FAR)["auc"][0]
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(genuine, scores, sample_weight=weights), abs=1e-5)


@pytest.mark.parametrize("seed, digits", CASES)
def test_tar_at_far_and_the_roc_are_scikit_learns_with_sample_weights(seed, digits):
    scores, genuine, fold, weights = pairs(seed, digits)
    fars, tars, _ = sklearn.metrics.roc_curve(genuine, scores, sample_weight=weights, drop_intermediate=False)
    weighted = WeightedPairs(scores, genuine, fold)
    grid = np.linspace(0.001, 0.999, 50)
    expected = [tars[fars <= far + 1e-9].max() for far in grid]
    assert weighted.roc(weights[None], grid)[0] == pytest.approx(expected, abs=1e-5)
    assert weighted.measures(weights[None], FAR)["tar_at_far_0.05"][0] == pytest.approx(
        tars[fars <= FAR + 1e-9].max(), abs=1e-5
    )


@pytest.mark.parametrize("seed, digits", CASES)
def test_measures_with_whole_weights_are_those_of_pairs_repeated_as_often(seed, digits):
    scores, genuine, fold, weights = pairs(seed, digits)
    times = weights.astype(int)
    repeated = measures.measures(np.repeat(scores, times), np.repeat(genuine, times), np.repeat(fold, times))
    found = WeightedPairs(scores, genuine, fold).measures(weights[None], measures.FAR)
    for name in ("auc", "eer", "tar_at_far_0.01"):
        assert found[name][0] == pytest.approx(repeated[name], abs=1e-5), name


@pytest.mark.parametrize("seed, digits", CASES)
def test_precision_at_a_recall_is_scikit_learns_where_just_so_much_is_accepted(seed, digits):
    scores, genuine, fold, weights = pairs(seed, digits)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(genuine, scores, sample_weight=weights)
    corners = np.unique(recall[recall > 0])
    best = [precision[np.isclose(recall, r)].max() for r in corners]  # where a lower threshold adds impostors only
    assert WeightedPairs(scores, genuine, fold).precision_recall(weights[None], corners)[0] == pytest.approx(
        best, abs=1e-5
    )


@pytest.mark.parametrize("seed, digits", CASES)
def test_a_folds_accuracy_is_that_of_a_best_threshold_of_the_others(seed, digits):
    scores, genuine, fold, weights = pairs(seed, digits)

    def right(threshold, where):
        return (weights * ((scores >= threshold) == genuine))[where].sum()

    distinct = np.unique(scores)
    thresholds = [distinct[0] - 1, *((distinct[:-1] + distinct[1:]) / 2), distinct[-1] + 1]
    lowest, highest = [], []
    for k in np.unique(fold):
        others = [right(threshold, fold != k) for threshold in thresholds]
        best = [threshold for threshold, n in zip(thresholds, others) if n == max(others)]
        mine = [right(threshold, fold == k) / weights[fold == k].sum() for threshold in best]
        lowest.append(min(mine))
        highest.append(max(mine))
    found = WeightedPairs(scores, genuine, fold).measures(weights[None], FAR)["accuracy"][0]
    assert np.mean(lowest) - 1e-6 <= found <= np.mean(highest) + 1e-6


@pytest.mark.parametrize("digits", [None, 1])
def test_with_equal_weights_the_measures_are_those_of_the_verification(digits):
    scores, genuine, fold, _ = pairs(7, digits)
    expected = measures.measures(scores, genuine, fold)
    found = WeightedPairs(scores, genuine, fold).measures(np.full((1, len(scores)), 2, np.float32), measures.FAR)
    for name, values in found.items():
        assert values[0] == pytest.approx(expected[name], abs=1e-6), name


def test_many_weightings_at_once_are_each_alone():
    scores, genuine, fold, _ = pairs(3)
    weights = np.random.default_rng(0).integers(0, 4, (5, len(scores))).astype(np.float32)
    weighted = WeightedPairs(scores, genuine, fold)
    together = weighted.measures(weights, FAR)
    for i, alone in enumerate(weights):
        for name, values in weighted.measures(alone[None], FAR).items():
            assert together[name][i] == values[0]


def test_without_genuine_or_without_impostor_weight_a_measure_is_not_a_number():
    scores, genuine, fold, _ = pairs(3)
    weighted = WeightedPairs(scores, genuine, fold)
    for kept in (genuine, ~genuine):
        found = weighted.measures(kept[None].astype(np.float32), FAR)
        assert np.isnan([found["auc"][0], found["eer"][0], found["tar_at_far_0.05"][0]]).all()
