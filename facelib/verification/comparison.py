"""Two models on the same pairs: is one more accurate, and how small a difference could these pairs have shown?"""

from dataclasses import dataclass

import numpy as np
import scipy.stats

from facelib.verification.bootstrap import LEVEL, RESAMPLES, Interval, intervals
from facelib.verification.measures import FAR, right_decisions
from facelib.verification.weighted import WeightedPairs

POWER = 0.8


@dataclass
class Comparison:
    """The first model's accuracy over folds minus the second's."""

    difference: Interval  # by bootstrap over identities, both models on the same resamples
    only_first: int  # pairs that only the first model judges rightly
    only_second: int
    p: float  # of McNemar's exact test
    detectable: float  # the smallest true difference that such pairs would show with POWER
    verdict: str  # better, worse (of the first model) or even: not to be told apart


def compare(
    first: np.ndarray,
    second: np.ndarray,
    genuine: np.ndarray,
    fold: np.ndarray,
    identities: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the scores (P,) that two models give to the same pairs; `identities` (P, 2) as in bootstrap.

    One model is called better only if the bootstrap's interval excludes 0 and McNemar's test (1947) rejects equality at
    the same level: the one knows that pairs share people, the other makes no approximation.
    """
    models = [WeightedPairs(scores, genuine, fold) for scores in (first, second)]

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        a, b = (model.measures(weights, FAR)["accuracy"] for model in models)
        return {"accuracy": a - b}

    found = intervals(difference, identities, resamples, seed)["accuracy"]
    only_first, only_second, p = mcnemar(*(right_decisions(scores, genuine, fold) for scores in (first, second)))
    normal = scipy.stats.norm.ppf
    error = (found.high - found.low) / (2 * normal((1 + LEVEL) / 2))
    told = found.low * found.high > 0 and p < 1 - LEVEL
    return Comparison(
        difference=found,
        only_first=only_first,
        only_second=only_second,
        p=p,
        detectable=float((normal((1 + LEVEL) / 2) + normal(POWER)) * error),
        verdict="even" if not told else "better" if found.estimate > 0 else "worse",
    )


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """Of two models' right decisions (P,) bool: how many only the first and only the second has, and the p-value.

    McNemar (1947), exact: if both are equally accurate, either is as likely to be the one that is right where just one
    is, so that the count is binomial with probability 1/2.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differ = only_first + only_second
    p = scipy.stats.binomtest(only_first, differ, 0.5).pvalue if differ else 1.0
    return only_first, only_second, float(p)
