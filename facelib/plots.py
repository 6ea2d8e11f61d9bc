"""The report's plots, from the scores that verification left. Drawing never computes a score.

A backbone keeps its colour in every figure, a ratio its dashes, so that the curves can be told apart in grey too.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facelib import verification

COLUMN = 3.45  # inches, the width of an IEEE column
HEAVY, LIGHT, RELEASED = "#1b3a6b", "#e08214", "#5a5a5a"  # dark, light and middle in grey
DASHES = {0.1: (1, 1.5), 0.25: (4, 1.5, 1, 1.5), 0.5: (4, 1.5), 1.0: ""}
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
                x, y = verification.roc(model["score"], model["genuine"])
            else:
                y, x = verification.precision_recall(model["score"], model["genuine"])
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
    handles, labels = axes[0][0].get_legend_handles_labels()
    columns = 2 if len(labels) > 1 else 1
    figure.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=columns, frameon=False, handlelength=2.6
    )
    return figure


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
    """AUC on each rung of the evaluation ladder, downwards. A model: {"label", "color", "marker", "auc" (K,), "low" (K,),
    "high" (K,)}, NaN where it has no such rung. `turn` is the number of rungs above the line: those of the way up.
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
    sns.histplot(
        frame, x="cosine", hue="pairs", element="step", bins=50, palette={"genuine": LIGHT, "impostor": HEAVY}, ax=axis
    )
