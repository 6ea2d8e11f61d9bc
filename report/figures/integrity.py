"""The plot of the integrity check: how similar the training identities are to those of the test.

Colours are report.figures.curves'. It shows cosines, never a face.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from report.figures.curves import COLUMN, HEAVY, LIGHT, RELEASED


def similarity_histogram(cosine: np.ndarray, chance: np.ndarray, threshold: float, limit: float) -> Figure:
    """Histogram of each training identity's highest cosine (N,) to an LFW identity, and of what chance does: each LFW
    identity's to another one, (M,), as an outline. Lines mark the threshold of single pairs and chance's limit.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 1.7))
    bins = np.histogram_bin_edges(np.concatenate([cosine, chance]), 50)
    for values, label, look in (
        (cosine, "training identities", {"color": HEAVY, "alpha": 0.7}),
        (chance, "LFW identities", {"color": LIGHT, "histtype": "step"}),
    ):
        axis.hist(values, bins, weights=np.full(len(values), 1 / len(values)), label=label, **look)
    axis.axvline(threshold, color=RELEASED, linestyle="--", label=f"threshold {threshold:.3f}")
    axis.axvline(limit, color=RELEASED, linestyle=":", label=f"chance's limit {limit:.3f}")
    axis.set(xlabel="highest cosine to an LFW identity", ylabel="share of identities")
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncol=2)
    sns.despine(figure)
    return figure
