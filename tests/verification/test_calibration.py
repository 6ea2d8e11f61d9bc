"""A threshold judged where it was not chosen: by hand, and on Gaussian scores whose rates are known."""

import numpy as np
import pytest
from scipy.stats import norm

from facelib.verification.calibration import calibrate, threshold_at_far

FAR = 0.1


def gaussian(n: int, seed: int = 0):
    """Impostors N(0, 1), genuine N(2, 1), in ten folds."""
    rng = np.random.default_rng(seed)
    genuine = np.arange(n) % 2 == 0
    return rng.normal(size=n) + 2 * genuine, genuine, np.arange(n) * 10 // n


def test_the_threshold_at_a_far_by_hand():
    """Ten impostors 0..9: FAR 0.2 accepts 8 and 9, and the genuine 7.5 lies between 8 and 7."""
    scores = np.array([*range(10), 7.5, 20.0])
    genuine = np.arange(12) >= 10
    assert threshold_at_far(scores, genuine, 0.2) == 7.25
    assert threshold_at_far(scores, genuine, 0.25) == 7.25
    assert threshold_at_far(scores, genuine, 0.1) == 8.5


def test_equal_scores_are_not_parted():
    scores, genuine = np.array([0.0, 1, 1, 1, 2]), np.array([False, False, False, False, True])
    assert threshold_at_far(scores, genuine, 0.5) == 1.5


def test_a_far_that_the_pairs_cannot_resolve_is_refused():
    with pytest.raises(ValueError, match="far 0.1 can't be resolved by 5 impostor pairs.*0.2"):
        threshold_at_far(np.arange(6.0), np.arange(6) == 5, FAR)


def test_of_gaussian_scores_the_rates_are_the_known_ones():
    """Best at 1, between the means: FAR and FRR Phi(-1). At FAR 0.1 the FRR is Phi(Phi^-1(0.9) - 2)."""
    scores, genuine, fold = gaussian(100_000)
    found = calibrate(scores, scores, genuine, fold, FAR)
    assert found.threshold == pytest.approx(1, abs=0.05) and found.threshold_std < 0.03
    assert found.far + found.frr == pytest.approx(2 * norm.cdf(-1), abs=0.005)
    assert found.realised_far == pytest.approx(FAR, abs=0.005)
    assert found.realised_frr == pytest.approx(norm.cdf(norm.ppf(0.9) - 2), abs=0.01)
    assert 0 < found.realised_far_std < 0.02  # binomial: sqrt(0.1 * 0.9 / 5000) = 0.004


def test_a_threshold_from_other_light_rejects_what_has_moved_down():
    """All scores one lower: the old threshold lies at 2 of the impostors and 0 of the genuine."""
    scores, genuine, fold = gaussian(100_000)
    found = calibrate(scores, scores - 1, genuine, fold, FAR)
    assert found.far == pytest.approx(norm.cdf(-2), abs=0.006)
    assert found.frr == pytest.approx(norm.cdf(0), abs=0.02)


def test_each_fold_is_judged_by_the_others_alone():
    """Fold 0's impostors score 10, fold 1's 0; each is judged by a threshold from the other."""
    scores = np.array([10.0, 10, 11, 11, 0, 0, 1, 1])
    genuine = np.array([False, False, True, True] * 2)
    fold = np.repeat([0, 1], 4)
    found = calibrate(scores, scores, genuine, fold, 0.5)
    assert (found.far, found.frr) == (0.5, 0.5)  # fold 0 is accepted whole, fold 1 rejected whole
    assert found.threshold == (10.5 + 0.5) / 2


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        calibrate(np.arange(4.0), np.arange(4.0), np.arange(4) > 1, np.zeros(4, int), 0.5)
