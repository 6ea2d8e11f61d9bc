"""Figures of the networks, drawn from the modules that are trained: nothing here knows the name of a model.

Layers, kernels, strides and channels are read from the `nn.Module` objects, the order and the output shapes from a
real forward pass in evaluation mode, the two branches of a residual block from its traced graph (`torch.fx`).
"×" separates sizes, "/2" is a stride of 2, and a shape is channels × height × width of one image.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from matplotlib.textpath import TextPath
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

COLUMN, PAGE = 3.4, 7.1  # inches: one column, and both, of an IEEE page
SMALL, NORMAL = 6.5, 7.0  # points
GREY = "0.35"
MBCONV = {"InvertedResidual", "DepthwiseSeparableConv"}  # timm's classes of what Tan & Le (2019) call MBConv


@dataclass(frozen=True)
class Stage:
    """One row of the architecture: repeated blocks, or one convolution, pooling or linear layer with its company."""

    name: str  # module path, e.g. "layer1" or "blocks.2"; of merged layers the first one's
    kind: str  # class of the repeated block, or the merged layers, e.g. "Conv 3×3, 64 + BN + PReLU"
    repeats: int
    shape: tuple[int, ...]  # output of one image: (C, H, W) or (D,)
    parameters: int  # of all modules of the row
    stride: int = 1  # of the whole stage; merged layers tell theirs in `kind`
    kernels: tuple[int, ...] = ()  # distinct kernel sizes of the blocks, of the depthwise convolutions where there are
    expansions: tuple[float, ...] = ()  # distinct ratios of the depthwise channels to the block's input channels

    @property
    def label(self) -> str:
        """One or two lines, e.g. "14 × Block\\n3×3, 256, /2"; MBConv carries its expansion as in the paper."""
        if not self.kernels:
            joint = " + " if " + " in self.kind else " "
            parts = self.kind.split(joint)
            halves = [(joint.join(parts[:i]), joint.join(parts[i:])) for i in range(1, len(parts))]
            if len(self.kind) <= 16 or not halves:
                return self.kind
            return "\n".join(min(halves, key=lambda pair: max(map(len, pair))))
        kind = self.kind
        if set(kind.split("/")) <= MBCONV:
            kind = "MBConv" + "–".join(f"{e:.2g}" for e in sorted({self.expansions[0], self.expansions[-1]}))
        sizes = "/".join(f"{k}×{k}" for k in self.kernels)
        return f"{self.repeats} × {kind}\n{sizes}, {self.shape[0]}" + (f", /{self.stride}" if self.stride > 1 else "")


class VectorFigure(Figure):
    """Figure that embeds TrueType fonts in a PDF: matplotlib reads that setting when saving, not when drawing."""

    def savefig(self, *args, **kwargs) -> None:
        with mpl.rc_context({"pdf.fonttype": 42}):
            super().savefig(*args, **kwargs)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_layer(module: nn.Module) -> bool:
    """A layer owns its parameters itself; timm's BatchNormAct2d with its activation inside is one layer, too."""
    return not isinstance(module, nn.Sequential) and count(module) == sum(
        parameter.numel() for parameter in module.parameters(recurse=False)
    )


def is_idle(module: nn.Module) -> bool:
    """Layers that change nothing: placeholders of timm, dropout with probability 0."""
    return isinstance(module, nn.Identity) or getattr(module, "p", None) == 0


def first(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def stride_of(module: nn.Module) -> int:
    """The largest stride within: the branches of a block stride by the same factor, once each."""
    strides = (getattr(part, "stride", None) for part in module.modules())
    return max((first(s) for s in strides if isinstance(s, int | tuple)), default=1)


def describe(layer: nn.Module) -> str:
    """E.g. "Conv 3×3, 64, /2", "BN + SiLU", "FC 512"."""
    name = type(layer).__name__.replace("2d", "").replace("1d", "")
    if isinstance(layer, nn.Conv2d):
        name = "Depthwise conv" if 1 < layer.groups == layer.in_channels else "Conv"
        text = f"{name} {layer.kernel_size[0]}×{layer.kernel_size[1]}, {layer.out_channels}"
        return text + (f", /{layer.stride[0]}" if layer.stride[0] > 1 else "")
    if isinstance(layer, nn.Linear):
        return f"FC {layer.out_features}"
    if isinstance(layer, _BatchNorm):
        return " + ".join(["BN", *(describe(part) for part in layer.children() if not is_idle(part))])
    if "Adaptive" in name:
        average = "Avg" in name or getattr(layer, "pool_type", "") == "avg"
        return f"Global {'average ' if average else ''}pooling"
    if "Pool" in name and hasattr(layer, "kernel_size"):
        kernel, stride = first(layer.kernel_size), stride_of(layer)
        return f"{name} {kernel}×{kernel}" + (f", /{stride}" if stride > 1 else "")
    return name


def holders(module: nn.Module) -> list[nn.Sequential]:
    """The innermost Sequentials within the module that hold blocks only: one for each stage of a network."""
    inner = [holder for child in module.children() for holder in holders(child)]
    if inner or not isinstance(module, nn.Sequential) or not len(module):
        return inner
    return [] if any(isinstance(child, nn.Sequential) or is_layer(child) for child in module) else [module]


def stage_of(name: str, module: nn.Module, shape: tuple[int, ...]) -> Stage:
    """The row of a module of repeated blocks, or of a single block."""
    holder = next(iter(holders(module)), None)
    blocks = list(holder) if holder is not None else [module]
    kernels, expansions = [], []
    for block in blocks:
        convs = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
        deep = [conv for conv in convs if 1 < conv.groups == conv.in_channels]
        kernels += [conv.kernel_size[0] for conv in deep] or [max((c.kernel_size[0] for c in convs), default=1)]
        expansions += [conv.out_channels / convs[0].in_channels for conv in deep]
    # A stage may also stride in front of its blocks, as ConvNeXt does.
    before = [] if holder in (None, module) else [part for part in module.children() if part is not holder]
    return Stage(
        name=name,
        kind="/".join(dict.fromkeys(type(block).__name__ for block in blocks)),
        repeats=len(blocks),
        shape=shape,
        parameters=count(module),
        stride=math.prod(stride_of(part) for part in [*before, *blocks]),
        kernels=tuple(sorted(set(kernels))),
        expansions=tuple(sorted(set(expansions))),
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[Tensor]:
    """Evaluation mode without gradients, so that drawing leaves no trace in a model; yields one of its parameters."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield next(module.parameters())
    finally:
        for part, training in modes.items():
            part.training = training


def stages(model: nn.Module, size: int = 112) -> list[Stage]:
    """Rows of the model in the order in which they run on one (3, size, size) image.

    Containers of several stages are opened, and so is a head, which is what puts out a vector. Normalisations,
    activations and flattening join the convolution, pooling or linear layer before them, after blocks the next one.
    The rows' parameters add up to the model's, or a ValueError tells that some have no module that ran.
    """
    order: dict[nn.Module, int] = {}
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    hooks = []

    def starts(module: nn.Module, _: tuple) -> None:
        order.setdefault(module, len(order))

    def ends(module: nn.Module, _: tuple, output: Tensor) -> None:
        shapes[module] = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(starts))
        hooks.append(module.register_forward_hook(ends))
    try:
        with evaluating(model) as like:
            model(like.new_zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()

    rows: list[Stage] = []
    merged: list[tuple[str, nn.Module]] = []

    def close() -> None:
        if merged:
            kind = " + ".join(describe(layer) for _, layer in merged)
            rows.append(Stage(merged[0][0], kind, 1, shapes[merged[-1][1]], sum(count(layer) for _, layer in merged)))
        merged.clear()

    def is_main(layer: nn.Module) -> bool:
        return isinstance(layer, nn.Conv2d | nn.Linear) or "Pool" in type(layer).__name__

    def visit(parent: nn.Module, prefix: str) -> None:
        # A list of modules does not run itself: its first member that does tells its place.
        places = [
            (min(order[part] for part in child.modules() if part in order), name, child)
            for name, child in parent.named_children()
            if any(part in order for part in child.modules())
        ]
        for _, name, child in sorted(places, key=lambda place: place[0]):
            if is_layer(child):
                if is_idle(child):
                    continue
                if is_main(child) and any(is_main(layer) for _, layer in merged):
                    close()
                merged.append((prefix + name, child))
                continue
            found = len(holders(child))
            plain = isinstance(child, nn.Sequential) and not found
            if found > 1 or plain or len(shapes.get(child, ())) <= 1:
                visit(child, f"{prefix}{name}.")
            else:
                close()
                rows.append(stage_of(prefix + name, child, shapes[child]))

    visit(model, "")
    close()
    missing = count(model) - sum(row.parameters for row in rows)
    if missing:
        raise ValueError(f"{missing} of {count(model)} parameters belong to no layer that ran exactly once")
    return rows


def canvas(width: float, height: float) -> tuple[VectorFigure, Axes]:
    figure = VectorFigure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def measure(texts: Sequence[str], size: float, weight: str = "normal") -> float:
    """Width in inches of the widest line."""
    font = mpl.font_manager.FontProperties(weight=weight)
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    return max((TextPath((0, 0), line, size=size, prop=font).get_extents().width for line in lines), default=0.0) / 72


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, fill: float) -> None:
    """A box centred on (x, y); fill is the share of the colour in its white ground."""
    ground = tuple(1 - fill * (1 - channel) for channel in to_rgb(color))
    style = "round,pad=0,rounding_size=0.03"
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=ground, edgecolor=color, lw=0.8))
    write(axes, x, y, text, size=NORMAL, color="black")


def write(axes: Axes, x: float, y: float, text: str, ha: str = "center", **style) -> None:
    """Lines whose capitals are centred on y. Each is set by its baseline: matplotlib's own centre and line distance
    depend on which letters a line happens to have."""
    style = {"size": SMALL, "color": GREY} | style
    em = style["size"] / 72
    lines = text.split("\n")
    for i, line in enumerate(lines):
        axes.text(x, y + (1.2 * (i - (len(lines) - 1) / 2) + 0.36) * em, line, ha=ha, va="baseline", **style)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>,head_width=0.1,head_length=0.2", "lw": 0.7, "color": GREY, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def beside(row: Stage) -> str:
    """Output shape and parameters, e.g. "256×14×14\\n17.3 M"."""
    return "\n".join(filter(None, (times(row.shape), short(row.parameters))))


def times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def short(parameters: int) -> str:
    """Three significant digits, e.g. "16.3 M", "227 k"; nothing for none."""
    if parameters < 1000:
        return str(parameters or "")
    value, unit = (parameters / 1e6, "M") if parameters >= 999_500 else (parameters / 1e3, "k")
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


class BlockTracer(fx.Tracer):
    """Traces a block down to its layers; a gate such as squeeze-and-excitation remains one layer."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


Layers = list[tuple[str, str, tuple[int, ...]]]  # (name in the block, description, output shape) in running order


def branches(block: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Layers, Layers, Layers | None, Layers]:
    """Layers before the skip path leaves, beside it, on it and after the plus; a block without a plus has None on it.

    The plus is the last sum of two tensors that both come from the input; its shorter branch is the skip path.
    """
    with evaluating(block) as like:
        graph = BlockTracer().trace(block)
        ShapeProp(fx.GraphModule(block, graph)).propagate(like.new_zeros(1, *input_shape))

    def layers(nodes: set[fx.Node]) -> Layers:
        found = []
        for node in (node for node in graph.nodes if node in nodes):
            if node.op == "call_module" and not is_idle(block.get_submodule(node.target)):
                name, text = node.target, describe(block.get_submodule(node.target))
            elif node.op == "call_function" and hasattr(nn.functional, node.target.__name__):
                name, text = "", node.target.__name__
            else:
                continue
            found.append((name, text, tuple(node.meta["tensor_meta"].shape[1:])))
        return found

    plus, before = None, {}  # before: all nodes that a node depends on, with itself
    for node in graph.nodes:
        before[node] = {node}.union(*(before[source] for source in node.all_input_nodes))
        name = getattr(node.target, "__name__", node.target).strip("_")
        sides = [before[source] for source in node.all_input_nodes]
        if name in ("add", "iadd") and len(sides) == 2 and any(n.op == "placeholder" for n in sides[0] & sides[1]):
            plus = node
    if plus is None:
        return layers(set(graph.nodes)), [], None, []
    one, two = (before[source] for source in plus.all_input_nodes)
    skip, main = sorted((layers(one - two), layers(two - one)), key=len)
    return layers(one & two), main, skip, layers(set(graph.nodes) - before[plus])


def draw_block(block: nn.Module, input_shape: tuple[int, int, int], color: str = "C0") -> Figure:
    """The residual block as a chain of its layers with the skip path beside it, one column wide.

    input_shape: (C, H, W) of the block's input. Shapes are written where they change.
    """
    before, main, skip, after = branches(block, input_shape)
    chain = [*before, *main, *after]
    high, gap, radius = 0.2, 0.15, 0.075  # inches: box, arrow, plus
    wide = max(1.1, measure([text for _, text, _ in chain], NORMAL) + 0.16)
    names = measure([name for name, _, _ in chain], SMALL) + 0.08
    # Between the boxes of both branches lies a lane for the texts beside their arrows; a block of one branch has none.
    side = measure([text for _, text, _ in skip], NORMAL) + 0.16 if skip else 0.0
    lane = 0.0 if skip is None else max(0.55, measure([name for name, _, _ in skip], SMALL) + 0.2 - side / 2)
    lane = min(lane, COLUMN - 0.04 - names - wide - side)
    total = names + wide + lane + side
    x = (COLUMN - total) / 2 + names + wide / 2
    x_skip = x + wide / 2 + lane + side / 2
    height = 0.36 + len(chain) * (high + gap) + gap + (0.1 + gap + 2 * radius if skip is not None else 0.0)
    figure, axes = canvas(COLUMN, height)

    def draw(rows: Layers, y: float, shape: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        for name, text, output in rows:
            arrow(axes, (x, y), (x, y + gap))
            y += gap + high
            box(axes, x, y - high / 2, wide, high, text, color, 0.22 if "onv" in text else 0.06)
            write(axes, x - wide / 2 - 0.05, y - high / 2, name, ha="right")
            if output != shape and (name, text, output) != chain[-1]:
                write(axes, x + 0.06, y + gap / 2, times(output), ha="left")
            shape = output
        return y, shape

    write(axes, x, 0.09, times(input_shape))
    y, shape = draw(before, 0.17, input_shape)
    if skip is not None:
        top = y + 0.07
        axes.plot([x, x], [y, y + 0.1], color=GREY, lw=0.7, solid_capstyle="butt")
        y, shape = draw(main, y + 0.1, shape)
        arrow(axes, (x, y), (x, y + gap))
        y += gap + 2 * radius
        middle = y - radius
        # The skip path: its boxes lie half-way between the branching and the plus.
        ys = [(top + middle) / 2 + (i - (len(skip) - 1) / 2) * (high + gap) for i in range(len(skip))]
        axes.plot([x, x_skip, x_skip], [top, top, middle], color=GREY, lw=0.7, solid_joinstyle="miter", zorder=0)
        arrow(axes, (x_skip, middle), (x + radius, middle))
        for (name, text, _), y_skip in zip(skip, ys):
            arrow(axes, (x_skip, y_skip - high / 2 - gap / 2), (x_skip, y_skip - high / 2))
            box(axes, x_skip, y_skip, side, high, text, color, 0.22 if "onv" in text else 0.06)
            write(axes, x_skip - 0.06, y_skip - high / 2 - gap / 2, name, ha="right")
        if not skip:
            write(axes, x_skip - 0.06, (top + middle) / 2, "identity", ha="right")
        axes.add_patch(Circle((x, middle), radius, facecolor="white", edgecolor=color, lw=0.8))
        for dx, dy in ((0.045, 0), (0, 0.045)):
            axes.plot([x - dx, x + dx], [middle - dy, middle + dy], color="black", lw=0.8)
        y, shape = draw(after, y, shape)
    arrow(axes, (x, y), (x, y + gap))
    write(axes, x, y + gap + 0.08, times(shape))
    return figure


def draw_architectures(
    models: dict[str, nn.Module], colors: dict[str, str] | None = None, size: int = 112, width: float | None = None
) -> Figure:
    """The models side by side, from the image to the embedding: a box for each row, its output and parameters beside.

    models, colors: by the title to be drawn. size: edge of the input image in pixels. width: inches; without it one
    column of the page if the text fits into it, otherwise both.
    """
    rows = {title: stages(model, size) for title, model in models.items()}
    colors = {title: f"C{i % 10}" for i, title in enumerate(models)} | (colors or {})
    high, gap, top = 0.27, 0.09, 0.46  # inches: box, shortest arrow, title and input
    wide = {title: measure([row.label for row in rows[title]], NORMAL) + 0.12 for title in models}
    notes = {title: measure([beside(row) for row in rows[title]], SMALL) + 0.05 for title in models}
    needed = sum(wide.values()) + sum(notes.values())
    if width is None:
        width = COLUMN if needed + 0.08 * len(models) <= COLUMN else max(PAGE, needed + 0.08 * len(models))
    height = top + max(map(len, rows.values())) * (high + gap) + gap + 0.18
    figure, axes = canvas(width, height)
    space = (width - needed) / len(models)  # half of it on either side of each model
    left = 0.0
    for title in models:
        x = left + space / 2 + wide[title] / 2
        left += wide[title] + notes[title] + space
        write(axes, x, 0.09, title, size=NORMAL + 0.5, weight="bold", color="black")
        write(axes, x, 0.21, f"{short(sum(row.parameters for row in rows[title]))} parameters")
        write(axes, x, top - 0.08, f"{times((3, size, size))} image")
        # All models end at the same height: the shorter ones get longer arrows.
        step = (height - top - 0.18 - len(rows[title]) * high) / (len(rows[title]) + 1)
        y = top
        for row in rows[title]:
            arrow(axes, (x, y), (x, y + step))
            y += step + high
            box(axes, x, y - high / 2, wide[title], high, row.label, colors[title], 0.22 if row.kernels else 0.04)
            write(axes, x + wide[title] / 2 + 0.05, y - high / 2, beside(row), ha="left")
        arrow(axes, (x, y), (x, y + step))
        write(axes, x, y + step + 0.09, f"{times(row.shape)}-D embedding")
    return figure
