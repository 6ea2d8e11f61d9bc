"""What the explore notebook's sliders show: figures of an explore.Scored, and pictures that follow the sliders.

Figures are as wide as a notebook, not as a column of the report, and pyplot doesn't know them: a slider makes hundreds,
which it would keep.
"""

import html
import io
from collections.abc import Callable

import pandas as pd
import seaborn as sns
import torch
from ipywidgets import HTML, Dropdown, FloatSlider, Image, Layout, ValueWidget
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from facelib.studies import explore
from facelib.studies.explore import Scored
from report.figures.curves import HEAVY, LIGHT, score_histogram

WIDTH = 9  # inches
DPI = 144  # shown at 100: sharp on a screen of small pixels too
SHOWN = 5  # pairs of each kind of error
IDENTITIES = 8
MARKERS = "osD^v<>p"  # beside the colours, so that identities can be told apart in grey too


def style() -> None:
    """seaborn's style at the size of a notebook."""
    sns.set_theme(context="notebook", style="ticks", font="DejaVu Sans", font_scale=0.8)


def show(axis: Axes, crop: Tensor) -> None:
    """A crop (3, H, W) uint8 without ticks and frame."""
    axis.imshow(crop.permute(1, 2, 0).numpy())
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def decisions(scored: Scored, threshold: float) -> Figure:
    """The histograms of both kinds of pairs, parted by the threshold; beside them its FAR, FRR and accuracy."""
    figure = Figure((WIDTH, 3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    score_histogram(scored.score, scored.pairs.genuine, left)
    left.axvline(threshold, color="black", linewidth=1.2)
    left.set_ylabel("pairs")
    left.get_legend().set(title=None, frame_on=False)
    left.set_title(f"{scored.embedder.name}: accepted from {threshold:.3f} on")
    rates = explore.error_rates(scored.score, scored.pairs.genuine, threshold)
    bars = right.barh([*rates], [*rates.values()], color=[HEAVY, LIGHT, "0.6"], height=0.6)
    right.bar_label(bars, [f"{100 * rate:.2f} %" for rate in rates.values()], padding=4)
    right.set(xlim=(0, 1.4), xticks=[])
    right.invert_yaxis()
    right.tick_params(axis="y", length=0)
    sns.despine(ax=left)
    sns.despine(ax=right, bottom=True)
    return figure


def worst_pairs(scored: Scored, threshold: float) -> Figure:
    """The SHOWN worst false accepts, and below them the worst false rejects, with their scores and pairs' numbers."""
    genuine = scored.pairs.genuine
    wrong = explore.wrong_pairs(scored.score, genuine, threshold)
    titles = "false accepts: {} of {} impostor pairs", "false rejects: {} of {} genuine pairs"
    figure = Figure((WIDTH, 3.1), layout="constrained")
    for part, title, pairs, count in zip(figure.subfigures(2), titles, wrong, ((~genuine).sum(), genuine.sum())):
        part.suptitle(title.format(len(pairs), count), x=0.01, ha="left", fontsize="medium")
        axes = part.subplots(1, SHOWN)
        for axis in axes[len(pairs) :]:
            axis.set_axis_off()
        for axis, pair in zip(axes, pairs):
            show(axis, torch.cat([*scored.crops(pair)], dim=2))
            axis.set_xlabel(f"{scored.score[pair]:.3f}, pair {pair}", labelpad=2)
    return figure


def identities(scored: Scored, seed: int) -> Figure:
    """The embeddings of the IDENTITIES largest identities on a plane."""
    frame, same = explore.identity_map(scored, IDENTITIES, seed)
    figure = Figure((WIDTH, 4.5), layout="constrained")
    axis = figure.subplots()
    names = [*frame.identity.unique()]
    for name, marker, color in zip(names, MARKERS, sns.color_palette("colorblind", IDENTITIES)):
        points = frame[frame.identity == name]
        label = f"{name.replace('_', ' ')} ({len(points)})"
        axis.scatter(points.x, points.y, color=color, marker=marker, s=40, linewidth=0, label=label)
    axis.set(xticks=[], yticks=[])
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_title(f"{scored.embedder.name}: the nearest other image shows the same person for {100 * same:.0f} %")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="identity (images)")
    return figure


def pair_in_light(scored: Scored, pair: int, stops: int, dark: Tensor, score: float, threshold: float) -> Figure:
    """explore.pair_in_light's crops and score of a pair, beside its score as it is and the threshold."""
    figure = Figure((WIDTH, 2.5), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 2))
    for axis, crop, name in zip(axes, dark, scored.names(pair)):
        show(axis, crop)
        axis.set_xlabel(name.split("/")[1].replace("_", " "))
    scale(axes[2], {"as it is": scored.score[pair], f"{stops} stop{'s' * (stops != 1)} less": score}, threshold)
    kind = "one person" if scored.pairs.genuine[pair] else "two persons"
    axes[2].set_title(f"pair {pair}, {kind}: {'accepted' if score >= threshold else 'rejected'}")
    return figure


def scale(axis: Axes, scores: dict[str, float], threshold: float) -> None:
    """Scores below one another on a scale from -1 to 1, on which the threshold parts rejected from accepted."""
    axis.axvspan(threshold, 1, color=LIGHT, alpha=0.15, linewidth=0)
    axis.axvspan(-1, threshold, color=HEAVY, alpha=0.15, linewidth=0)
    axis.axvline(threshold, color="black", linewidth=1.2)
    for row, score in enumerate(scores.values()):
        axis.plot(score, row, "o", color="black")
        axis.annotate(f"{score:.3f}", (score, row), (0, 6), textcoords="offset points", ha="center")
    axis.set(xlim=(-1, 1), ylim=(len(scores) - 0.4, -0.7), xlabel="cosine")
    axis.set_yticks(range(len(scores)), scores)
    axis.tick_params(axis="y", length=0)
    sns.despine(ax=axis, left=True)


def live(draw: Callable[..., Figure], **controls: ValueWidget) -> Image:
    """A picture of what `draw` makes of the controls' values, by name, drawn anew whenever one of them changes.

    Not an Output widget: it would need pyplot, and its answers to the kernel can make a run without a browser hang.
    """
    picture = Image(format="png", layout=Layout(width=f"{100 * WIDTH}px", max_width="100%"))

    def redraw(_=None) -> None:
        file = io.BytesIO()
        draw(**{name: control.value for name, control in controls.items()}).savefig(file, format="png", dpi=DPI)
        picture.value = file.getvalue()

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    return picture


def measures_of(choice: Dropdown, scored: Callable[[str], Scored], threshold: FloatSlider) -> HTML:
    """The chosen model's measures; with each choice the threshold starts where that model's is best.

    For a model that can't be used it says why, and the choice goes back. Make it before what else follows the choice.
    """
    text = HTML()

    def follow(change=None) -> None:
        text.value = f"Embedding the images with {html.escape(choice.value)} ..."
        try:
            found = scored(choice.value)
        except explore.Unusable as error:
            choice.value = change.old
            text.value = f"<pre>{html.escape(str(error))}</pre>"
            return
        text.value = pd.DataFrame(found.measures, index=[found.embedder.name]).round(4).to_html()
        threshold.value = found.threshold

    choice.observe(follow, "value")
    follow()
    return text
