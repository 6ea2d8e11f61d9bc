"""The learning rate's schedules against their formulas."""

import math

import pytest

from facelib.training.schedule import learning_rate


def rates(steps: int, **options) -> list[float]:
    return [learning_rate(step, steps, 0.1, **options) for step in range(steps)]


def test_the_polynomial_falls_over_the_steps_that_are_run():
    assert rates(10, power=2.0) == pytest.approx([0.1 * (1 - step / 10) ** 2 for step in range(10)])


def test_the_cosine_is_loshchilovs_without_restarts():
    """SGDR (2017), equation (5) with a lowest rate of 0."""
    assert rates(8, schedule="cosine") == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 8)) for k in range(8)])


@pytest.mark.parametrize("schedule", ["polynomial", "cosine"])
def test_warm_up_rises_linearly_to_the_full_rate_and_the_schedule_has_the_rest(schedule):
    options = {"schedule": schedule, "power": 1.0}
    rising = rates(20, warmup=0.2, **options)
    assert rising[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rising[4:] == pytest.approx(rates(16, **options))
