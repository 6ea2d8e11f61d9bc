"""Confidence intervals and bands by resampling identities.

Pairs that share a person are not independent, so it is people that are drawn with replacement, as many as there are. A
genuine pair weighs as often as its person was drawn, an impostor pair as the product of its two people's draws.

An impostor pair is thereby drawn twice, once with each of its people, and its own noise, which no other pair shares,
counts three times instead of once: with draws of variance 1, (1 + 1)^2 - 1 = 3 (Owen 2007, "The pigeonhole bootstrap").
Where each person is in a few pairs only, as in LFW, intervals would be far too wide. What the impostor pairs' own noise
alone contributes is therefore measured by resampling those pairs, and its surplus is taken off the variance, as in the
standard errors for dyads of Aronow, Samii and Assenova (2015, "Cluster-robust variance estimation for dyadic data").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
BATCH = 250  # resamples at a time: memory for their weights and sums over 6,000 pairs stays below 100 MB
LEVEL = 0.95
# A statistic maps weights (B, P) of the pairs to its values in each of the B resamples: name -> (B,) or (B, K).
Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass
class Interval:
    """An estimate with its confidence interval at LEVEL; each a number, or an array (K,) along a curve."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


def intervals(
    statistic: Statistic, identities: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """The statistic's values on all pairs, each with its interval by bootstrap over identities.

    `identities` is (P, 2) int: who is in each pair; the two are equal in a genuine pair. Raises ValueError if fewer
    than two people are there to be drawn.
    """
    people, index = np.unique(identities, return_inverse=True)
    if len(people) < 2:
        raise ValueError(f"a bootstrap over identities needs at least two, the pairs show {len(people)}")
    first, second = index.reshape(-1, 2).T
    impostor = np.flatnonzero(first != second)
    rng = np.random.default_rng(seed)

    def by_identity(count: int) -> np.ndarray:
        drawn = draws(len(people), count, rng)
        weights = drawn[:, first]
        weights[:, impostor] *= drawn[:, second[impostor]]
        return weights

    def by_impostor_pair(count: int) -> np.ndarray:
        weights = np.ones((count, len(first)), np.float32)
        weights[:, impostor] = draws(len(impostor), count, rng)
        return weights

    every = {name: values[0] for name, values in statistic(np.ones((1, len(first)), np.float32)).items()}
    drawn, own = (resampled(statistic, draw, resamples) for draw in (by_identity, by_impostor_pair))
    return {name: interval(every[name], drawn[name], own[name]) for name in every}


def draws(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n was drawn when n were drawn with replacement: (count, n) float32, `count` times."""
    drawn = rng.integers(0, n, (count, n)) + np.arange(count)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float32)


def resampled(statistic: Statistic, draw: Callable[[int], np.ndarray], resamples: int) -> dict[str, np.ndarray]:
    """The statistic's values in all resamples, (resamples,) or (resamples, K) each, computed in batches."""
    parts = [statistic(draw(min(BATCH, resamples - start))) for start in range(0, resamples, BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(estimate: np.ndarray, drawn: np.ndarray, own: np.ndarray) -> Interval:
    """From values resampled by identity and by impostor pair: percentiles, drawn together by the surplus variance."""
    variance, surplus = np.nanvar(drawn, axis=0), 2 * np.nanvar(own, axis=0)
    # At least a third: that much is left where there is nothing but the impostor pairs' own noise.
    share = np.maximum(variance - surplus, variance / 3) / np.where(variance > 0, variance, 1)
    low, middle, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2], axis=0)
    return Interval(estimate, estimate + np.sqrt(share) * (low - middle), estimate + np.sqrt(share) * (high - middle))
