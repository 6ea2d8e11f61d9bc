"""facelib.verification.measures on weighted pairs, for many weightings at once: what a bootstrap computes.

Weights are (B, P) float, not negative; a weight of 2 counts a pair twice. A measure is (B,), or (B, K) along a curve,
and NaN where a weighting leaves no genuine or no impostor pair. With all weights 1 it is that of measures.

A curve turns only where an impostor pair follows a genuine one or equal scores meet, so neighbouring pairs of one kind
are summed first: a model that separates well needs a hundred sums in the place of 6,000 pairs.
"""

import numpy as np

from facelib.verification.measures import lowest_far, thresholds_between

ROUNDING = 1e-6  # sums of float32 weights that should be equal may differ by this share


class WeightedPairs:
    """Pairs with scores (P,), genuine (P,) bool and fold (P,) int, sorted once for all weightings."""

    def __init__(self, scores: np.ndarray, genuine: np.ndarray, fold: np.ndarray):
        genuine = np.asarray(genuine, bool)
        self.order = np.argsort(-scores, kind="stable")
        falling, kind = scores[self.order], genuine[self.order]
        equal = np.append(False, falling[1:] == falling[:-1])
        group = np.cumsum(~equal) - 1  # equal scores are accepted together
        mixed = (np.bincount(group, kind) % np.bincount(group) != 0)[group]
        turn = ~equal & (mixed | np.roll(mixed, 1) | (kind != np.roll(kind, 1)))
        turn[0] = True
        self.kind = kind
        self.starts = np.flatnonzero(turn)
        block = np.empty(len(scores), int)
        block[self.order] = np.cumsum(turn) - 1
        folds = np.unique(fold)
        self.folds = [Fold(scores, genuine, fold == k, block) for k in folds] if len(folds) > 1 else []

    def accepted(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of the genuine and of the impostor pairs accepted, (B, K) each, at the K corners of the curves."""
        ordered = weights[:, self.order]
        every = np.add.reduceat(ordered, self.starts, axis=1)
        genuine = np.add.reduceat(ordered * self.kind, self.starts, axis=1)
        return running_sums(genuine), running_sums(every - genuine)

    def measures(self, weights: np.ndarray, far: float) -> dict[str, np.ndarray]:
        """`accuracy` if there are folds, `auc`, `eer` and, if the pairs resolve it, `tar_at_far_<far>`, (B,) each."""
        genuine, impostor = self.accepted(weights)
        with np.errstate(invalid="ignore"):
            fars, tars = impostor / impostor[:, -1:], genuine / genuine[:, -1:]
        found = {
            "auc": np.trapezoid(tars, fars, axis=1),
            "eer": equal_error_rate(fars, tars),
        }
        if far >= lowest_far(self.kind):
            found[f"tar_at_far_{far:g}"] = tar_at_far(fars, tars, np.array([far]))[:, 0]
        return ({"accuracy": self.accuracy(genuine - impostor, weights)} if self.folds else {}) | found

    def roc(self, weights: np.ndarray, far: np.ndarray) -> np.ndarray:
        """The highest TAR (B, K) at a FAR of at most `far` (K,)."""
        genuine, impostor = self.accepted(weights)
        with np.errstate(invalid="ignore"):
            return tar_at_far(impostor / impostor[:, -1:], genuine / genuine[:, -1:], far)

    def precision_recall(self, weights: np.ndarray, recall: np.ndarray) -> np.ndarray:
        """Precision (B, K) where just `recall` (K,), above 0, of the genuine pairs' weight is accepted."""
        genuine, impostor = self.accepted(weights)
        found = []
        for g, i in zip(genuine, impostor):
            wanted = recall * g[-1]
            corner = np.clip(np.searchsorted(g, wanted * (1 - ROUNDING)), 1, len(g) - 1)
            found.append(wanted / (wanted + i[corner]) if g[-1] and i[-1] else np.full(len(recall), np.nan))
        return np.stack(found)

    def accuracy(self, gain: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The mean over folds (B,), each judged with the threshold that is best on the others.

        `gain` (B, K) is the genuine minus the impostor weight accepted at each corner.
        """
        accuracies = np.stack([fold.accuracy(gain, weights[:, fold.own]) for fold in self.folds])
        weighed = ~np.isnan(accuracies)  # a fold of which nothing was drawn has no accuracy
        with np.errstate(invalid="ignore"):
            return np.where(weighed, accuracies, 0).sum(axis=0) / weighed.sum(axis=0)


def running_sums(x: np.ndarray) -> np.ndarray:
    """(B, K) -> (B, K + 1): sums of the first 0, 1, ..., K columns."""
    sums = np.zeros((len(x), x.shape[1] + 1), x.dtype)
    np.cumsum(x, axis=1, out=sums[:, 1:])
    return sums


def equal_error_rate(far: np.ndarray, tar: np.ndarray) -> np.ndarray:
    """(B,) from FAR and TAR (B, K) that rise from 0 to 1: where FAR = 1 - TAR, between the two nearest points."""
    gap = far - (1 - tar)
    after = np.maximum(np.argmax(gap >= 0, axis=1), 1)[:, None]
    x0, x1, y0, y1 = (np.take_along_axis(a, k, 1)[:, 0] for a in (far, gap) for k in (after - 1, after))
    return x0 - y0 / (y1 - y0) * (x1 - x0)


def tar_at_far(fars: np.ndarray, tars: np.ndarray, far: np.ndarray) -> np.ndarray:
    """(B, K): of the curves' points (B, N) the highest TAR at a FAR of at most `far` (K,)."""
    found = np.stack([t[np.searchsorted(f, far + ROUNDING, side="right") - 1] for f, t in zip(fars, tars)])
    found[np.isnan(fars[:, -1]) | np.isnan(tars[:, -1])] = np.nan
    return found


class Fold:
    """One fold, judged with a threshold chosen on the others: all that does not depend on the weights.

    `block` (P,) is the sum that each pair is part of, counted from the highest scores down.
    """

    def __init__(self, scores: np.ndarray, genuine: np.ndarray, here: np.ndarray, block: np.ndarray):
        self.own = np.flatnonzero(here)
        self.own = self.own[np.argsort(-scores[self.own], kind="stable")]
        self.signs = np.where(genuine[self.own], np.float32(1), np.float32(-1))  # gained by accepting the pair
        self.impostor = ~genuine[self.own]
        own_block = block[self.own]
        self.starts = np.flatnonzero(np.append(True, own_block[1:] != own_block[:-1]))
        self.blocks = own_block[self.starts]
        others = np.flatnonzero(~here)
        others = others[np.argsort(scores[others], kind="stable")]
        cuts, _ = thresholds_between(scores[others])
        # A cut within a block is never the best one. Corner k lies below the first k blocks.
        edges = np.flatnonzero(np.concatenate([[True], block[others[1:]] != block[others[:-1]], [True]]))
        self.corners = np.append(block[others] + 1, 0)[edges]
        self.accepted = len(self.own) - np.searchsorted(scores[self.own[::-1]], cuts[edges])

    def accuracy(self, gain: np.ndarray, own: np.ndarray) -> np.ndarray:
        """(B,): the share of this fold's weight `own` (B, N) that is judged rightly; NaN where its weight is 0."""
        signed = own * self.signs
        mine = np.zeros((len(own), gain.shape[1] - 1), np.float32)
        mine[:, self.blocks] = np.add.reduceat(signed, self.starts, axis=1)
        best = middle_of_best((gain - running_sums(mine))[:, self.corners])
        right = np.take_along_axis(running_sums(signed), self.accepted[best][:, None], 1)[:, 0]
        right = right + (own * self.impostor).sum(1)
        with np.errstate(invalid="ignore"):
            return right / own.sum(1)


def middle_of_best(gain: np.ndarray) -> np.ndarray:
    """The index of each row's maximum, (B,); of several equal ones the middle one."""
    best = gain == gain.max(axis=1, keepdims=True)
    count = np.cumsum(best, axis=1, dtype=np.int32)
    return np.argmax(count == count[:, -1:] // 2 + 1, axis=1)
