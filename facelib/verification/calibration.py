"""Does a threshold hold where it was not chosen? Each fold is judged with thresholds that are chosen on the others.

Two thresholds: that of highest accuracy, and the lowest one whose FAR stays within what was asked for. They may be
chosen on other scores of the same pairs, say those in normal light, and judge the scores in low light.
"""

from dataclasses import dataclass

import numpy as np

from facelib.verification.measures import best_threshold, check_far, thresholds_between


@dataclass
class Calibration:
    """Shares of 1; `_std` are standard deviations over folds (divisor folds - 1)."""

    threshold: float  # of highest accuracy, mean over folds
    threshold_std: float
    far: float  # with it, of all impostor pairs
    frr: float  # false reject rate, of all genuine pairs
    asked_far: float
    realised_far: float  # with the threshold that kept to asked_far on the other folds, of all impostor pairs
    realised_far_std: float
    realised_frr: float


def threshold_at_far(scores: np.ndarray, genuine: np.ndarray, far: float) -> float:
    """The lowest threshold whose FAR is at most `far`: midway between two neighbouring scores.

    Raises ValueError if the pairs can't resolve that FAR.
    """
    check_far(far, genuine)
    order = np.argsort(scores)
    cuts, possible = thresholds_between(scores[order])
    rejected = np.concatenate([[0], np.cumsum(~genuine[order])])
    fars = 1 - rejected / rejected[-1]
    return float(cuts[possible & (fars <= far + 1e-12)][0])


def calibrate(
    chosen_on: np.ndarray, judged: np.ndarray, genuine: np.ndarray, fold: np.ndarray, far: float
) -> Calibration:
    """Thresholds from the scores `chosen_on` (P,) of all other folds, applied to the scores `judged` (P,) of each.

    Raises ValueError if there are fewer than two folds, or if the pairs outside a fold can't resolve `far`.
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        raise ValueError("a threshold is calibrated across folds, at least two: use pairs.txt (View 2)")
    chosen, asked = (
        np.array([choose(chosen_on[fold != k], genuine[fold != k]) for k in folds])
        for choose in (best_threshold, lambda scores, genuine: threshold_at_far(scores, genuine, far))
    )
    where = np.searchsorted(folds, fold)
    accepted, within = judged >= chosen[where], judged >= asked[where]
    by_fold = [within[(fold == k) & ~genuine].mean() for k in folds]
    return Calibration(
        threshold=float(chosen.mean()),
        threshold_std=float(chosen.std(ddof=1)),
        far=float(accepted[~genuine].mean()),
        frr=float((~accepted[genuine]).mean()),
        asked_far=far,
        realised_far=float(within[~genuine].mean()),
        realised_far_std=float(np.std(by_fold, ddof=1)),
        realised_frr=float((~within[genuine]).mean()),
    )
