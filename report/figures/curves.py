"""The report's plots, from the scores that verification left. Drawing never computes a score.

A backbone keeps its colour in every figure, a ratio its dashes, so that the curves can be told apart in grey too.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy.stats import norm

from facelib.verification import measures

COLUMN = 3.45  # inches, the width of an IEEE column
HEAVY, LIGHT, RELEASED = "#1b3a6b", "#e08214", "#5a5a5a"  # dark, light and middle in grey
PAIRS = {"genuine": LIGHT, "impostor": HEAVY}
DASHES = {0.1: (1, 1.5), 0.25: (4, 1.5, 1, 1.5), 0.5: (4, 1.5), 1.0: ""}
DEVIATES = [0.001, 0.01, 0.05, 0.2, 0.5, 0.8]  # shares named on normal-deviate axes
LIGHTS = {"normal": "normal light", "low": "low light"}


def style() -> None:
    """seaborn's paper style at the size of an IEEE column, with fonts embedded as text."""
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans")
    small = {"font.size": 7, "axes.labelsize": 7, "axes.titlesize": 7.5, "legend.fontsize": 6}
    ticks = {"xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "lines.linewidth": 1.1, "axes.linewidth": 0.6}
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.bbox": "tight", "savefig.pad_inches": 0.02} | small | ticks)


def dashes(ratio: float) -> tuple:
    """Matplotlib's line style of a ratio; ratios that the report doesn't use are drawn solid."""
    pattern = DASHES.get(ratio, "")
    return (0, pattern) if pattern else "-"


def curve_panels(scores: dict[str, list[dict]], kind: str) -> Figure:
    """One panel a light, or what else the panels are named by, one curve a model. `scores` maps a light to
    {"label", "color", "ratio", "score", "genuine"}.

    `kind` is "roc" (TAR against FAR) or "pr" (precision against recall). The dotted grey line is chance. A model's
    `bands`, if it has them, are kind -> (x (K,), low (K,), high (K,)), shaded.
    """
    figure, axes = plt.subplots(1, len(scores), figsize=(COLUMN, 1.95), sharey=True, squeeze=False)
    for axis, (light, models) in zip(axes[0], scores.items()):
        for model in models:
            if kind == "roc":
                x, y = measures.roc(model["score"], model["genuine"])
            else:
                y, x = measures.precision_recall(model["score"], model["genuine"])
            axis.plot(x, y, color=model["color"], linestyle=dashes(model["ratio"]), label=model["label"])
            if "bands" in model:
                axis.fill_between(*model["bands"][kind], color=model["color"], alpha=0.13, linewidth=0)
        axis.plot([0, 1], [0, 1] if kind == "roc" else [0.5, 0.5], color="0.6", linestyle=":", linewidth=0.8)
        axis.set(title=LIGHTS.get(light, light), xlim=(-0.01, 1.01), xlabel="FAR" if kind == "roc" else "recall")
        axis.set_ylim(*((-0.01, 1.01) if kind == "roc" else (0.47, 1.01)))
        axis.set_box_aspect(1)
    axes[0][0].set_ylabel("TAR" if kind == "roc" else "precision")
    sns.despine(figure)
    figure.tight_layout(w_pad=0.6)
    legend_below(figure, axes[0][0])
    return figure


def det_panels(scores: dict[str, list[dict]]) -> Figure:
    """Detection error tradeoff: false reject rate against FAR, both on normal-deviate axes, on which the curve of
    Gaussian scores is a straight line (Martin et al. 1997, "The DET curve in assessment of detection task
    performance"). `scores` as for curve_panels.
    """
    figure, axes = plt.subplots(1, len(scores), figsize=(COLUMN, 1.95), sharey=True, squeeze=False)
    ends = norm.ppf([0.0005, 0.9])
    for axis, (light, models) in zip(axes[0], scores.items()):
        for model in models:
            far, frr = measures.det(model["score"], model["genuine"])
            seen = (far > 0) & (frr > 0)  # zero lies at minus infinity
            style = {"color": model["color"], "linestyle": dashes(model["ratio"]), "label": model["label"]}
            axis.plot(norm.ppf(far[seen]), norm.ppf(frr[seen]), **style)
        axis.plot(ends, -ends, color="0.6", linestyle=":", linewidth=0.8)
        axis.set(title=LIGHTS.get(light, light), xlim=ends, ylim=ends, xlabel="FAR (%)")
        labels = [f"{100 * share:g}" for share in DEVIATES]
        axis.set_xticks(norm.ppf(DEVIATES), labels)
        axis.set_yticks(norm.ppf(DEVIATES), labels)
        axis.set_box_aspect(1)
    axes[0][0].set_ylabel("false reject rate (%)")
    sns.despine(figure)
    figure.tight_layout(w_pad=0.6)
    legend_below(figure, axes[0][0])
    return figure


def legend_below(figure: Figure, axis: Axes) -> None:
    """The first panel's legend below all panels."""
    handles, labels = axis.get_legend_handles_labels()
    columns = 2 if len(labels) > 1 else 1
    figure.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=columns, frameon=False, handlelength=2.6
    )


def auc_against_ratio(table: pd.DataFrame) -> Figure:
    """AUC against the share of training images. Columns: backbone, color, ratio, light ("normal" or "low"), auc."""
    figure, axis = plt.subplots(figsize=(COLUMN, 1.7))
    for (backbone, light), rows in table.sort_values("ratio").groupby(["backbone", "light"], sort=False):
        color, name = rows.color.iloc[0], f"{backbone}, {LIGHTS[light]}"
        if light == "normal":
            axis.plot(rows.ratio, rows.auc, "-o", color=color, markersize=3.5, label=name)
        else:
            axis.plot(rows.ratio, rows.auc, "--s", color=color, markersize=3.5, markerfacecolor="white", label=name)
    axis.axhline(0.5, color="0.6", linestyle=":", linewidth=0.8)
    axis.text(1.0, 0.503, "chance", color="0.4", fontsize=6, ha="right", va="bottom")
    ratios = sorted(table.ratio.unique())
    axis.set(
        xscale="log",
        xlabel="share of each identity's images, $r$",
        ylabel="AUC",
        ylim=(min(0.48, table.auc.min() - 0.02), 1.0),
    )
    axis.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    axis.minorticks_off()
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.26), ncol=2)
    sns.despine(figure)
    return figure


def loss_curves(logs: list[dict]) -> Figure:
    """Training loss against the share of the run that is done. A run: {"label", "color", "ratio", "log"}."""
    figure, axis = plt.subplots(figsize=(COLUMN, 1.5))
    for run in logs:
        log = run["log"]
        smooth = log.loss.rolling(max(1, len(log) // 40), min_periods=1).mean()
        axis.plot(log.step / len(log), smooth, color=run["color"], linestyle=dashes(run["ratio"]), label=run["label"])
    axis.set(xlabel="share of the run's steps", ylabel="loss", ylim=(0, None), xlim=(0, 1))
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncol=2, handlelength=2.6)
    sns.despine(figure)
    return figure


def ladder(rungs: list[str], models: list[dict], turn: int) -> Figure:
    """AUC on each rung of the evaluation ladder, downwards. A model: {"label", "color", "marker", "auc" (K,),
    "low" (K,), "high" (K,)}, NaN where it has no such rung. `turn` is the number of rungs above the
    line: those of the way up.
    """
    height = 0.15 * len(rungs) + 0.6
    figure, axis = plt.subplots(figsize=(COLUMN, height))
    figure.subplots_adjust(left=0.46, right=0.99, bottom=0.5 / height, top=1 - 0.05 / height)
    for shift, model in zip(np.linspace(-0.2, 0.2, len(models)), models):
        rows = np.arange(len(rungs)) + (shift if len(models) > 1 else 0)
        axis.hlines(rows, model["low"], model["high"], color=model["color"], linewidth=0.8)
        axis.plot(model["auc"], rows, model["marker"], color=model["color"], markersize=3, label=model["label"])
    axis.axvline(0.5, color="0.6", linestyle=":", linewidth=0.8)
    axis.axhline(turn - 0.5, color="0.6", linewidth=0.6)
    axis.set(xlabel="AUC", ylim=(len(rungs) - 0.5, -0.5))
    axis.set_yticks(range(len(rungs)), rungs)
    axis.tick_params(axis="y", length=0)
    figure.legend(frameon=False, loc="lower center", ncol=len(models), columnspacing=1, borderaxespad=0)
    sns.despine(figure)
    return figure


def score_histogram(score: np.ndarray, genuine: np.ndarray, axis: Axes) -> None:
    """Histograms of the genuine and the impostor pairs' cosine on the axis."""
    frame = pd.DataFrame({"cosine": score, "pairs": np.where(genuine, "genuine", "impostor")})
    sns.histplot(frame, x="cosine", hue="pairs", element="step", bins=50, palette=PAIRS, ax=axis)


COSTS = {"parameters": "parameters (M)", "flops": "FLOPs (G)", "inference": "images/s", "latency": "one image (ms)"}
ACCURACIES = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998]


def cost_against_accuracy(points: list[dict]) -> Figure:
    """A panel for each of COSTS, accuracy upwards, spaced by the logarithm of the error.

    A point: {"label", "color", "marker", "accuracy"}, a number for each of COSTS that is known and, if it has an
    interval, "low" and "high". A `published` one, not measured here, is hollow and named by a number instead.
    """
    figure, axes = plt.subplots(2, 2, figsize=(COLUMN, 3.8), sharey=True)
    published = [point for point in points if point.get("published")]
    highest = min(0.5, max(1 - point.get("low", point["accuracy"]) for point in points) * 1.3)
    lowest = min(1 - point.get("high", point["accuracy"]) for point in points) / 1.5
    shown = [accuracy for accuracy in ACCURACIES if lowest <= 1 - accuracy <= highest]
    for axis, (cost, words) in zip(axes.flat, COSTS.items()):
        for point in points:
            if cost not in point:
                continue
            error = 1 - point["accuracy"]
            if "low" in point:
                axis.vlines(point[cost], 1 - point["high"], 1 - point["low"], color=point["color"], linewidth=0.8)
            fill = "none" if point.get("published") else point["color"]
            axis.plot(point[cost], error, point["marker"], color=point["color"], markerfacecolor=fill, markersize=3.5)
            if point.get("published"):
                number = str(published.index(point) + 1)
                place = {"xytext": (3, -1), "textcoords": "offset points", "fontsize": 6, "va": "center"}
                axis.annotate(number, (point[cost], error), color=point["color"], **place)
        axis.set(xscale="log", yscale="log", xlabel=words, ylim=(max(highest, 0.5), max(lowest, 1e-4)))
        axis.margins(x=0.25)
        axis.set_yticks(*([1 - a for a in shown], [f"{100 * a:g}" for a in shown]))
        axis.minorticks_off()
        low, high = axis.get_xlim()
        # 1, 2, 5, 10 leave a narrow panel without a number, 1, 10, 100 a wider one.
        narrow, wide = MaxNLocator(4), LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,))
        axis.xaxis.set_major_locator(narrow if high < 5 * low else wide)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    measured = {point["label"]: point for point in points if not point.get("published")}
    named = [(point, label) for label, point in measured.items()]
    named += [(point, f"{i}: {point['label']}") for i, point in enumerate(published, 1)]
    handles = []
    for point, label in named:
        style = {"marker": point["marker"], "color": point["color"], "label": label, "markersize": 3.5}
        fill = "none" if point.get("published") else point["color"]
        handles.append(Line2D([], [], linestyle="", markerfacecolor=fill, **style))
    figure.legend(handles=handles, loc="lower center", ncol=2, frameon=False, columnspacing=1, handletextpad=0.2)
    below = (0.45 + 0.13 * math.ceil(len(handles) / 2)) / 3.8  # the numbers and name of the axes, the legend's lines
    figure.subplots_adjust(left=0.14, right=0.99, top=0.99, bottom=below, wspace=0.08, hspace=0.36)
    sns.despine(figure)
    return figure


def score_panels(scores: dict[str, dict[str, dict]]) -> Figure:
    """Histograms of genuine and impostor pairs: a row a model, a column a light. `scores` maps a model's name to light
    to {"score", "genuine"} and, if it has one, "threshold", drawn as a line.
    """
    lights = list(dict.fromkeys(light for of in scores.values() for light in of))
    size = (COLUMN, 0.45 + 0.95 * len(scores))
    figure, axes = plt.subplots(len(scores), len(lights), figsize=size, sharex=True, squeeze=False)
    for row, (model, of) in zip(axes, scores.items()):
        for axis, light in zip(row, lights):
            if light in of:
                score_histogram(of[light]["score"], of[light]["genuine"], axis)
                axis.get_legend().remove()
                if "threshold" in of[light]:
                    axis.axvline(of[light]["threshold"], color="0.3", linewidth=0.8, linestyle="--")
            else:
                axis.set_axis_off()
            axis.set(xlabel="", ylabel="", yticks=[], xlim=(-1, 1), xticks=(-0.5, 0, 0.5))
        row[0].text(0, 1.02, model, transform=row[0].transAxes, fontsize=6.5)
    for axis, light in zip(axes[0], lights):
        axis.set_title(LIGHTS.get(light, light), pad=10)
    figure.supxlabel("cosine", fontsize=7)
    sns.despine(figure, left=True)
    figure.tight_layout(h_pad=0.4, w_pad=0.4)
    kinds = [Patch(color=color, alpha=0.5, label=kind) for kind, color in PAIRS.items()]
    figure.legend(handles=kinds, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=2, frameon=False)
    return figure
