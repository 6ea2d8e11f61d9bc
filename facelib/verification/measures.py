"""How well scores separate genuine from impostor pairs.

A pair is accepted where score >= threshold. TAR is the share of genuine pairs accepted, FAR that of impostor pairs.
"""

import numpy as np
import sklearn.metrics

from facelib.data.pairs import Pairs
from facelib.verification.protocol import Protocol

FAR = Protocol.far


def thresholds_between(rising: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ways to cut rising scores (N,): thresholds (N + 1,), the k-th rejects the k lowest, and which are possible.

    A threshold lies midway between two neighbouring scores. Equal scores can't be parted.
    """
    lower, upper = rising[:-1], rising[1:]
    middle = np.where((lower + upper) / 2 > lower, (lower + upper) / 2, upper)  # neighbouring floats have none between
    cuts = np.concatenate([[rising[0] - 1], middle, [rising[-1] + 1]])
    return cuts, np.concatenate([[True], upper > lower, [True]])


def best_threshold(scores: np.ndarray, genuine: np.ndarray) -> float:
    """The threshold of highest accuracy: midway between two neighbouring scores; of several, the middle one."""
    order = np.argsort(scores)
    # correct[k]: pairs judged rightly when the k lowest are rejected.
    correct = np.concatenate([[0], np.cumsum(np.where(genuine[order], -1, 1))]) + genuine.sum()
    cuts, possible = thresholds_between(scores[order])
    best = np.flatnonzero(possible & (correct == correct[possible].max()))
    return float(cuts[best[len(best) // 2]])


def right_decisions(scores: np.ndarray, genuine: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Which pairs (P,) bool are judged rightly, each fold's with the threshold that is best on all the others."""
    folds = np.unique(fold)
    if len(folds) < 2:
        raise ValueError("fold accuracy needs at least two folds: use pairs.txt (View 2), not a View 1 file")
    right = np.empty(len(scores), bool)
    for k in folds:
        here = fold == k
        right[here] = (scores[here] >= best_threshold(scores[~here], genuine[~here])) == genuine[here]
    return right


def fold_accuracies(scores: np.ndarray, genuine: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """LFW's protocol (Huang et al. 2007): accuracy in each fold with the threshold that is best on all the others."""
    right = right_decisions(scores, genuine, fold)
    return np.array([right[fold == k].mean() for k in np.unique(fold)])


def roc(scores: np.ndarray, genuine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FAR and TAR (K,), both rising from 0 to 1, over all thresholds."""
    far, tar, _ = sklearn.metrics.roc_curve(genuine, scores, drop_intermediate=False)
    return far, tar


def det(scores: np.ndarray, genuine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FAR and false reject rate 1 - TAR (K,) of the detection error tradeoff (Martin et al. 1997), FAR rising."""
    far, frr, _ = sklearn.metrics.det_curve(genuine, scores)
    return far[::-1], frr[::-1]


def precision_recall(scores: np.ndarray, genuine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (K,) over all thresholds, recall rising from 0 to 1."""
    precision, recall, _ = sklearn.metrics.precision_recall_curve(genuine, scores)
    return precision[::-1], recall[::-1]


def equal_error_rate(scores: np.ndarray, genuine: np.ndarray) -> float:
    """The error where FAR equals the false reject rate 1 - TAR, on the straight line between the two nearest points."""
    far, tar = roc(scores, genuine)
    gap = far - (1 - tar)  # rises from -1 to 1
    k = int(np.argmax(gap >= 0))
    share = -gap[k - 1] / (gap[k] - gap[k - 1])
    return float(far[k - 1] + share * (far[k] - far[k - 1]))


def tar_at_far(scores: np.ndarray, genuine: np.ndarray, far: float) -> float:
    """The highest TAR at a threshold whose FAR is at most `far`. Raises ValueError if the pairs can't resolve that."""
    check_far(far, genuine)
    fars, tars = roc(scores, genuine)
    return float(tars[fars <= far].max())


def lowest_far(genuine: np.ndarray) -> float:
    """The lowest FAR above 0 that these pairs can show: one impostor pair accepted of all."""
    return 1 / int((~genuine).sum())


def check_far(far: float, genuine: np.ndarray) -> None:
    """Raise ValueError if the pairs have too few impostors to show this FAR, or if it is no share."""
    if not 0 < far <= 1:
        raise ValueError(f"far must be in (0, 1], found {far:g}")
    if far < lowest_far(genuine):
        raise ValueError(
            f"far {far:g} can't be resolved by {int((~genuine).sum()):,} impostor pairs, of which one is already"
            f" {lowest_far(genuine):.2g}. Set far to that or more, or take more pairs."
        )


def measures(scores: np.ndarray, genuine: np.ndarray, fold: np.ndarray, far: float = FAR) -> dict[str, float]:
    """All measures of one model on one list of pairs, as shares of 1.

    `accuracy` is the mean over folds, `accuracy_std` their standard deviation (divisor folds - 1), if folds > 1.
    `tar_at_far_<far>` is left out if `lowest_far`, the lowest FAR that the pairs can show, is above it.
    Raises ValueError if a score is not a finite number, or if all pairs are of one kind.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.sum(~np.isfinite(scores))} of {len(scores)} scores are not finite: the model is broken")
    if genuine.all() or not genuine.any():
        raise ValueError(f"all {len(genuine)} pairs are {'genuine' if genuine.all() else 'impostor'}: both are needed")
    found = {
        "pairs": len(scores),
        "auc": float(sklearn.metrics.roc_auc_score(genuine, scores)),
        "average_precision": float(sklearn.metrics.average_precision_score(genuine, scores)),
        "eer": equal_error_rate(scores, genuine),
        "lowest_far": lowest_far(genuine),
    }
    if far >= lowest_far(genuine):
        found[f"tar_at_far_{far:g}"] = tar_at_far(scores, genuine, far)
    if len(np.unique(fold)) > 1:
        accuracies = fold_accuracies(scores, genuine, fold)
        found |= {"accuracy": float(accuracies.mean()), "accuracy_std": float(accuracies.std(ddof=1))}
    return found


def accuracy_of_50_thresholds(scores: np.ndarray, genuine: np.ndarray) -> float:
    """The published report's accuracy: the best of 50 cosine distances in [0, 1), chosen on the pairs it judges."""
    distances = np.arange(50) / 50
    accepted = (1 - scores)[None] <= distances[:, None]
    return float((accepted == genuine).mean(axis=1).max())


def protocol_measures(scores: np.ndarray, pairs: Pairs, protocol: Protocol) -> dict[str, float]:
    """measures(), the accuracy by the protocol's threshold rule."""
    if protocol.threshold == "folds":
        return measures(scores, pairs.genuine, pairs.fold, protocol.far)
    found = measures(scores, pairs.genuine, np.zeros(len(pairs), int), protocol.far)
    return found | {"accuracy": accuracy_of_50_thresholds(scores, pairs.genuine)}
