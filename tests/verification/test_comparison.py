"""Comparing two models on the same pairs: McNemar's published example, simulations, and the verdict."""

import numpy as np
import pytest

from facelib.verification.comparison import compare, mcnemar
from facelib.verification.measures import fold_accuracies, right_decisions


def decisions(both: int, only_first: int, only_second: int, neither: int):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return np.array(first), np.array(second)


def test_mcnemars_p_is_twice_the_binomial_tail():
    # Of 10 pairs that only one model judges rightly the first has 2: p = 2 (1 + 10 + 45) / 2^10.
    assert mcnemar(*decisions(50, 2, 8, 40)) == (2, 8, pytest.approx(2 * (1 + 10 + 45) / 1024))


def test_models_that_judge_alike_cannot_be_told_apart():
    assert mcnemar(*decisions(50, 0, 0, 3)) == (0, 0, 1.0)


def scored(separation: float, noise: np.ndarray, shared: np.ndarray, genuine: np.ndarray) -> np.ndarray:
    return separation * genuine + 0.8 * shared + 0.6 * noise


@pytest.fixture(scope="module")
def view():
    """600 pairs in 10 folds of people of their own: genuine, identities, fold, and noise that models share or not."""
    rng = np.random.default_rng(0)
    genuine, fold = np.tile(np.arange(60) < 30, 10), np.repeat(np.arange(10), 60)
    first = np.arange(600)
    identities = np.stack([first, np.where(genuine, first, first + 600)], 1)
    return genuine, fold, identities, rng.normal(size=(3, 600))


def test_a_clearly_better_model_is_called_better_and_from_the_other_side_worse(view):
    genuine, fold, identities, (shared, a, b) = view
    good, poor = scored(3.5, a, shared, genuine), scored(2.0, b, shared, genuine)
    found = compare(good, poor, genuine, fold, identities, resamples=500)
    expected = (fold_accuracies(good, genuine, fold) - fold_accuracies(poor, genuine, fold)).mean()
    assert found.difference.estimate == pytest.approx(expected, abs=1e-6)
    assert found.verdict == "better" and found.p < 0.05 and found.difference.low > 0
    assert compare(poor, good, genuine, fold, identities, resamples=500).verdict == "worse"


def test_equal_models_are_even_and_a_difference_of_the_detectable_size_would_have_shown(view):
    genuine, fold, identities, (shared, a, b) = view
    found = compare(scored(3, a, shared, genuine), scored(3, b, shared, genuine), genuine, fold, identities, 500)
    assert found.verdict == "even"
    half = (found.difference.high - found.difference.low) / 2
    assert found.detectable == pytest.approx(half * (1.96 + 0.8416) / 1.96, rel=1e-3)


def test_a_model_compared_with_itself_differs_by_nothing(view):
    genuine, fold, identities, (shared, a, _) = view
    same = scored(2, a, shared, genuine)
    found = compare(same, same, genuine, fold, identities, resamples=100)
    assert (found.difference.estimate, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.verdict == "even" and found.detectable == 0


def test_right_decisions_are_what_the_accuracy_over_folds_counts(view):
    genuine, fold, _, (shared, a, _) = view
    scores = scored(2, a, shared, genuine)
    right = right_decisions(scores, genuine, fold)
    assert [right[fold == k].mean() for k in range(10)] == pytest.approx(fold_accuracies(scores, genuine, fold))
