"""Plots of the low-light study: what the light and the repairs do to a face, and a measure against the light.

Colours are report.figures.curves'. Repairs have a marker each too, so that they can be told apart in grey.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from facelib.faces.align import align
from facelib.faces.light import REPAIRS, darken
from facelib.studies.low_light import noise_generator, table
from facelib.synthetic import draw
from report.figures.curves import COLUMN, HEAVY, LIGHT, RELEASED

NAMES = {"none": "as it is", "gain": "gain", "gamma": "gamma", "equalise": "equalised", "clahe": "CLAHE"}
STYLES = {  # colour and marker of each repair
    "none": (HEAVY, "o"),
    "gain": (LIGHT, "s"),
    "gamma": ("#3f8f5b", "^"),
    "equalise": (RELEASED, "v"),
    "clahe": ("#a8437d", "D"),
}
MEASURES = {"accuracy": "accuracy", "auc": "AUC", "eer": "equal error rate"}
FAR_ABOVE_CHANCE = 0.8  # a measure above which no curve needs chance beside it
LABEL = 0.17  # inches beside and above the pictures


def synthetic_crop(identity: int = 18, image: int = 1) -> Tensor:
    """(1, 3, 112, 112) uint8: one of facelib.synthetic.draw's faces, aligned. It shows nobody."""
    return torch.from_numpy(align(*draw.draw_face(identity, image))).permute(2, 0, 1)[None]


def example_row(stops: tuple[int, ...] = (0, 2, 4, 6), seed: int = 0) -> Figure:
    """A synthetic face in ever less light, a column for each of `stops`; below it each repair, a row each."""
    crop = synthetic_crop()
    side = (COLUMN - LABEL) / len(stops)
    size = (COLUMN, LABEL + side * len(REPAIRS))
    figure, axes = plt.subplots(len(REPAIRS), len(stops), figsize=size, squeeze=False)
    for column, k in enumerate(stops):
        dark = darken(crop, k, noise_generator(seed, k))
        for row, (name, repair) in enumerate(REPAIRS.items()):
            axis = axes[row, column]
            axis.imshow((dark if repair is None else repair(dark))[0].permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(f"{k} stop" if k == 1 else f"{k} stops", pad=2)
            if column == 0:
                axis.set_ylabel(NAMES[name], labelpad=2)
    edge = {"left": LABEL / size[0], "right": 1, "bottom": 0, "top": 1 - LABEL / size[1]}
    figure.subplots_adjust(**edge, wspace=0.03, hspace=0.03)
    return figure


def repair_curves(metrics: dict, measure: str) -> list[dict]:
    """The curves for against_stops of one study's metrics, one a repair."""
    columns = table(metrics, measure)
    styles = {name: {"color": STYLES[name][0], "marker": STYLES[name][1]} for name in columns}
    return [{"label": NAMES[name], "stops": columns.index, "values": columns[name]} | styles[name] for name in columns]


def against_stops(curves: list[dict], measure: str, levels: dict[str, float] | None = None) -> Figure:
    """A measure ("accuracy", "auc" or "eer") against the stops of light that are missing.

    A curve: {"label", "color", "stops" (K,), "values" (K,)} and, if it has them, "marker", and "low" and "high" (K,),
    between which it is shaded. `levels` are label -> value, dashed grey lines across. The dotted line, where a curve
    comes near it, is chance.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 1.9))
    figure.subplots_adjust(left=0.13, right=0.84)  # beside the axis the levels are named
    for curve in curves:
        dots = {"marker": curve.get("marker", "o"), "markersize": 3, "markeredgewidth": 0}
        axis.plot(curve["stops"], curve["values"], color=curve["color"], label=curve["label"], **dots)
        if "low" in curve:
            band = curve["stops"], curve["low"], curve["high"]
            axis.fill_between(*band, color=curve["color"], alpha=0.13, linewidth=0)
    most = max(np.max(curve["stops"]) for curve in curves)
    for label, value in (levels or {}).items():
        axis.axhline(value, color="0.45", linestyle="--", linewidth=0.7)
        axis.annotate(label, (1.01, value), xycoords=("axes fraction", "data"), fontsize=6, color="0.35", va="center")
    if min(np.min(curve["values"]) for curve in curves) < FAR_ABOVE_CHANCE:  # else it would only flatten the curves
        axis.axhline(0.5, color="0.6", linestyle=":", linewidth=0.8)
        axis.annotate("chance", (1.01, 0.5), xycoords=("axes fraction", "data"), fontsize=6, color="0.35", va="center")
    axis.set(xlabel="stops of light missing, $k$", ylabel=MEASURES[measure], xlim=(-0.15, most + 0.15))
    axis.set_xticks(range(int(most) + 1))
    columns = min(len(curves), 5)
    axis.legend(
        frameon=False, loc="upper center", bbox_to_anchor=(0.52, -0.24), ncol=columns, handlelength=1.4, columnspacing=1
    )
    sns.despine(figure)
    return figure
