"""Plots of what a data set looks like. Colours are report.figures.curves'."""

import contextlib
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

from facelib.faces.image import ImageError
from report.figures.curves import COLUMN, HEAVY, LIGHT

LOOKS = {"train": {"color": HEAVY, "alpha": 0.7}, "test": {"color": LIGHT, "histtype": "step"}}
TITLES = {
    "images": "images of an identity",
    "brightness": "brightness of the crop",
    "residual": "off the template (pixels)",
    "scale": "pixels to one of the crop",
}


def data_panels(tables: dict[str, pd.DataFrame]) -> Figure:
    """Four histograms, as shares of identities or images, training filled and test outlined: images an identity,
    brightness, residual and scale. `tables` maps "train" and "test" to data_summary.describe's tables; one that
    lacks a measure is not in its panel, and a panel of none is left out.
    """
    figure, axes = plt.subplots(2, 2, figsize=(COLUMN, 2.7))
    for axis, (measure, title) in zip(axes.flat, TITLES.items()):
        values = {name: values_of(table, measure) for name, table in tables.items()}
        values = {name: found for name, found in values.items() if len(found)}
        axis.set_visible(bool(values))
        if not values:
            continue
        most = max(np.quantile(found, 0.995) for found in values.values())  # a few far out would flatten the rest
        bins = np.histogram_bin_edges(np.clip(np.concatenate([*values.values()]), None, most), 30)
        for name, found in values.items():
            axis.hist(
                np.clip(found, None, most), bins, weights=np.full(len(found), 1 / len(found)), label=name, **LOOKS[name]
            )
        axis.set(xlabel=title)
        axis.set_yticks([])
    axes[0, 0].set_ylabel("share")
    axes[1, 0].set_ylabel("share")
    sns.despine(figure)
    figure.tight_layout(h_pad=0.6, w_pad=0.6)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=2, frameon=False)
    return figure


def values_of(table: pd.DataFrame, measure: str) -> np.ndarray:
    """What a panel shows of a data set: images of each identity, or the measure of each image; none if not known."""
    if measure == "images":
        return table.identity[table.identity != ""].value_counts().to_numpy()
    return table[measure].dropna().to_numpy()


def readable(faces: Dataset, indices: Iterable[int], most: int) -> list[Tensor]:
    """The first images (3, H, W) of these that can be read."""
    found = []
    for i in indices:
        with contextlib.suppress(ImageError):
            found.append(faces[i][0])
        if len(found) == most:
            break
    return found


def contact_sheet(crops: Sequence[Tensor], columns: int = 8) -> Figure:
    """Crops (3, H, W) uint8 side by side, in rows of `columns`."""
    rows = -(-len(crops) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(COLUMN, COLUMN * rows / columns), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, crop in zip(axes.flat, crops):
        axis.imshow(crop.permute(1, 2, 0).numpy())
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.03, hspace=0.03)
    return figure
