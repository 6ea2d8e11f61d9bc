"""Intervals by resampling identities, against standard errors in closed form."""

import numpy as np
import pytest

from facelib.verification.bootstrap import Interval, intervals


def mean_of(values: np.ndarray):
    """The statistic: the weighted mean of one number a pair."""

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": weights @ values / weights.sum(1)}

    return statistic


def half_width(values: np.ndarray, identities: np.ndarray, resamples: int = 4000) -> float:
    found = intervals(mean_of(values), identities, resamples)["mean"]
    assert found.estimate == pytest.approx(values.mean()) and found.low < found.estimate < found.high
    return (found.high - found.low) / 2


def test_genuine_pairs_of_one_person_count_as_one_observation():
    # 200 people of 1 to 5 genuine pairs, whose values are the person's own: the cluster-robust standard error.
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, 200)
    people = np.repeat(np.arange(200), counts)
    values = np.repeat(rng.normal(size=200), counts) + 0.3 * rng.normal(size=len(people))
    sums = np.bincount(people, values - values.mean())
    error = np.sqrt((sums**2).sum()) / len(people)
    assert half_width(values, np.stack([people, people], 1)) == pytest.approx(1.96 * error, rel=0.06)
    assert error > 1.3 * values.std() / np.sqrt(len(values))  # taking pairs for independent would be wrong


def test_impostor_pairs_that_share_no_person_are_independent():
    rng = np.random.default_rng(1)
    values = rng.normal(size=400)
    found = half_width(values, np.arange(800).reshape(400, 2))
    assert found == pytest.approx(1.96 * values.std() / np.sqrt(400), rel=0.06)


def test_impostor_pairs_that_share_people_vary_with_them():
    # All pairs of 60 people, each pair's value the sum of its people's: its mean is twice the mean over people.
    rng = np.random.default_rng(2)
    person = rng.normal(size=60)
    pairs = np.array([(i, j) for i in range(60) for j in range(i)])
    error = 2 * person.std() / np.sqrt(60)
    assert half_width(person[pairs].sum(1), pairs) == pytest.approx(1.96 * error, rel=0.06)


def test_a_curves_interval_is_that_of_each_of_its_points():
    rng = np.random.default_rng(3)
    values, identities = rng.normal(size=(300, 2)), np.arange(600).reshape(300, 2)
    curve = intervals(lambda weights: {"curve": weights @ values / weights.sum(1)[:, None]}, identities, 500)["curve"]
    for k in (0, 1):
        point = intervals(mean_of(values[:, k]), identities, 500)["mean"]
        assert (curve.low[k], curve.high[k]) == pytest.approx((point.low, point.high))


def test_the_seed_decides_the_resamples():
    rng = np.random.default_rng(4)
    values, identities = rng.normal(size=100), np.arange(200).reshape(100, 2)

    def interval(seed: int) -> Interval:
        return intervals(mean_of(values), identities, 300, seed)["mean"]

    assert interval(0) == interval(0) != interval(1)


def test_one_person_cannot_be_resampled():
    with pytest.raises(ValueError, match="needs at least two, the pairs show 1"):
        intervals(mean_of(np.ones(3)), np.zeros((3, 2), int))
