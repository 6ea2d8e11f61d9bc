"""The figures of the networks: they show what the published tables say, read from the modules themselves."""

import io
import itertools
from functools import partial

import pytest
import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.text import Text
from torch import nn

from facelib.models import create_model
from report.figures.architecture import Stage, draw_architectures, draw_block, stages


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return create_model("iresnet50")


@pytest.fixture(scope="module")
def efficientnet() -> nn.Module:
    return create_model("efficientnet_b3")


def blocks(rows: list[Stage]) -> list[Stage]:
    return [row for row in rows if row.kernels]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def faults(figure: Figure) -> list[str]:
    """Texts that leave the figure, lie over each other or are too small to be read in print."""
    figure.set_dpi(300)  # fine enough that the hinting of the glyphs does not move them
    FigureCanvasAgg(figure).draw()
    found = [text for text in figure.findobj(Text) if text.get_text()]
    boxes = [text.get_window_extent().padded(-1) for text in found]
    width, height = figure.bbox.width, figure.bbox.height
    out = [t.get_text() for t, b in zip(found, boxes) if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]
    pairs = itertools.combinations(zip(found, boxes), 2)
    out += [f"{s.get_text()} / {t.get_text()}" for (s, a), (t, b) in pairs if a.overlaps(b)]
    return out + [text.get_text() for text in found if text.get_fontsize() < 6.5]


def test_the_improved_resnet_50_has_the_stages_of_the_arcface_paper(resnet):
    """3, 4, 14 and 3 blocks as insightface's r50; each stage halves the resolution, from 112 to 7 pixels."""
    rows = stages(resnet)
    assert [row.repeats for row in blocks(rows)] == [3, 4, 14, 3]
    assert [row.shape for row in blocks(rows)] == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert [(row.stride, row.kernels) for row in blocks(rows)] == [(2, (3,))] * 4
    assert [row.name for row in rows] == ["conv1", "layer1", "layer2", "layer3", "layer4", "bn2"]
    assert rows[0].kind == "Conv 3×3, 64 + BN + PReLU"
    assert rows[-1].kind == "BN + FC 512 + BN" and rows[-1].shape == (512,)


def test_efficientnet_b3_has_the_stages_of_its_paper(efficientnet):
    """Table 1 of Tan & Le (2019) for B0, with B3's depth 1.4 and width 1.2; the strides are the table's, too."""
    rows = blocks(stages(efficientnet))
    assert [row.repeats for row in rows] == [2, 3, 3, 5, 5, 6, 2]
    assert [row.kernels for row in rows] == [(3,), (3,), (5,), (3,), (5,), (5,), (3,)]
    assert [row.expansions for row in rows] == [(1.0,)] + [(6.0,)] * 6
    assert [row.shape[0] for row in rows] == [24, 32, 48, 96, 136, 232, 384]
    assert [row.stride for row in rows] == [1, 2, 2, 2, 1, 2, 1]
    assert [row.kind for row in rows] == ["DepthwiseSeparableConv"] + ["InvertedResidual"] * 6


@pytest.mark.parametrize(
    ("name", "repeats"),
    [
        ("iresnet18", [2, 2, 2, 2]),
        ("resnet18", [2, 2, 2, 2]),
        ("efficientnet_b0", [1, 2, 2, 3, 3, 4, 1]),
        ("mobilenetv3_small_100", [1, 2, 3, 2, 3, 1]),
        ("convnext_atto", [2, 2, 6, 2]),
    ],
)
def test_any_convolutional_network_is_read_whole(name, repeats):
    model = create_model(name)
    rows = stages(model)
    assert [row.repeats for row in blocks(rows)] == repeats
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in model.parameters())
    assert rows[-1].shape == (512,)


def test_the_rows_follow_the_forward_pass_not_the_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 2)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.act = nn.ReLU()
            self.stem = nn.ModuleList([nn.Conv2d(3, 4, 5, stride=3)])

        def forward(self, x):
            return self.last(self.pool(self.act(self.stem[0](x))).flatten(1))

    kinds = [(row.kind, row.shape) for row in stages(Backwards(), size=35)]
    assert kinds == [("Conv 5×5, 4, /3 + ReLU", (4, 11, 11)), ("Global average pooling", (4, 1, 1)), ("FC 2", (2,))]


def test_parameters_that_no_row_shows_are_an_error():
    model = create_model("iresnet18_025")
    model.unused = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="16 of"):
        stages(model)


def test_reading_a_model_leaves_it_as_it_was():
    model = create_model("iresnet18_025").train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stages(model)
    draw_block(model.layer2[0], (16, 56, 56))
    assert model.training and model.layer2.training and not model.layer1.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_both_architectures_stand_in_one_column(resnet, efficientnet):
    figure = draw_architectures({"ResNet": resnet, "EfficientNet": efficientnet}, {"ResNet": "#336699"})
    shown = texts(figure)
    for text in ("14 × Block", "3×3, 256, /2", "256×14×14", "16.3 M", "6 × MBConv6", "5×5, 232, /2", "2 × MBConv1"):
        assert text in shown
    assert shown.count("3×112×112 image") == shown.count("512-D embedding") == 2
    assert "43.6 M parameters" in shown  # as insightface's model zoo and the papers that use r50 tell
    assert figure.get_figwidth() == 3.4
    assert faults(figure) == []


def test_three_architectures_take_both_columns():
    figure = draw_architectures({name: create_model(name) for name in ("resnet18", "convnext_atto", "iresnet18_025")})
    assert figure.get_figwidth() == 7.1
    assert faults(figure) == []


def test_the_block_shows_its_layers_in_order_and_where_it_strides(resnet):
    figure = draw_block(resnet.layer2[0], (64, 56, 56))
    shown = texts(figure)
    names = ["bn1", "conv1", "bn2", "prelu", "conv2", "bn3"]
    assert [text for text in shown if text in names] == names
    layers = [shown[shown.index(name) - 1] for name in names]
    assert layers == ["BN", "Conv 3×3, 128", "BN", "PReLU", "Conv 3×3, 128, /2", "BN"]
    assert {"64×56×56", "128×56×56", "128×28×28"} <= set(shown)
    assert "Conv 1×1, 128, /2" in shown and "downsample.0" in shown and "identity" not in shown
    assert len(figure.findobj(Circle)) == 1
    assert figure.get_figwidth() == 3.4
    assert faults(figure) == []


def test_a_block_without_downsampling_has_an_identity_skip(resnet):
    figure = draw_block(resnet.layer2[1], (128, 28, 28))
    assert "identity" in texts(figure) and not [text for text in texts(figure) if "1×1" in text]
    assert faults(figure) == []


def test_an_inverted_residual_that_strides_has_no_skip(efficientnet):
    striding, repeated = efficientnet.blocks[1][:2]
    for block, shape, pluses in ((striding, (24, 56, 56), 0), (repeated, (32, 28, 28), 1)):
        figure = draw_block(block, shape)
        assert len(figure.findobj(Circle)) == pluses
        assert ("identity" in texts(figure)) == bool(pluses)
        assert faults(figure) == []


def test_a_layer_after_the_plus_is_drawn_below_it():
    """He et al. 2016: the second ReLU follows the sum."""
    figure = draw_block(timm.create_model("resnet18").layer1[0], (64, 28, 28))
    plus = figure.findobj(Circle)[0].center[1]
    below = {text.get_text(): text.get_position()[1] > plus for text in figure.findobj(Text)}
    assert below["act2"] and not below["act1"] and not below["bn2"]


def test_saved_pdfs_embed_no_type_3_fonts(resnet):
    """IEEE's PDF check rejects Type 3 fonts, which are what matplotlib embeds unless told otherwise."""
    figure = draw_block(resnet.layer1[1], (64, 56, 56))
    for save, type3 in ((figure.savefig, False), (partial(Figure.savefig, figure), True)):
        file = io.BytesIO()
        save(file, format="pdf")
        assert (b"/Type3" in file.getvalue()) == type3
