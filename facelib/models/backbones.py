"""Backbones by name.

A backbone maps (N, 3, 112, 112) float RGB in [-1, 1] to (N, embedding_size) float embeddings, not normalised.
"""

import difflib
from collections import OrderedDict

import torch
from torch import nn

from facelib.faces.align import SIZE
from facelib.files import first_line
from facelib.models.heads import HEADS
from facelib.models.iresnet import VARIANTS, IResNet


def create_model(name: str, embedding_size: int = 512, image_size: int = SIZE) -> nn.Module:
    """An untrained backbone: (N, 3, image_size, image_size) float RGB in [-1, 1] -> (N, embedding_size) float.

    `name` is iresnet18, iresnet34, iresnet50, iresnet100 (ArcFace's improved ResNet), iresnet18_025 (a quarter of its
    width) or any timm model's name, whose classifier is then a linear layer to the embedding, or with +bn, +flat or
    +gdc behind it that of facelib.models.heads. Raises ValueError for an unknown name, with near matches, and for a
    timm model that doesn't take images of this size: one is tried.

    >>> facelib.create_model("iresnet18_025", embedding_size=128).eval()(torch.zeros(2, 3, 112, 112)).shape
    torch.Size([2, 128])
    """
    if name in VARIANTS:
        return IResNet(*VARIANTS[name], embedding_size, image_size)
    import timm  # here, because it takes seconds to import and the other backbones don't need it

    name, plus, head = str(name).partition("+")
    try:
        if plus and head not in HEADS:
            raise ValueError(f"backbone {name}+{head}: behind the + must be one of {', '.join(HEADS)}")
        if not timm.is_model(name):
            raise RuntimeError
        config = timm.get_pretrained_cfg(name)  # raises RuntimeError for an unknown tag, as in efficientnet_b3.tag
    except RuntimeError:
        known = [*VARIANTS, *timm.list_models(), *timm.list_pretrained()]
        near = difflib.get_close_matches(name.lower(), known, n=5)
        hint = f"Near matches: {', '.join(near)}." if near else f"Choose {', '.join(VARIANTS)} or a name of timm's."
        raise ValueError(f"backbone {name!r} is unknown. {hint}") from None
    # Some models of fixed input size want to know the size, others take any.
    sizes = [{"img_size": image_size}, {}] if config is not None and config.fixed_input_size else [{}]
    for size in sizes:
        try:
            model = timm.create_model(name, num_classes=embedding_size, **size)
            if head:
                model.reset_classifier(0, "")  # its output is the last map now
                with torch.no_grad():
                    _, channels, _, side = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
                model = nn.Sequential(OrderedDict(features=model, head=HEADS[head](channels, side, embedding_size)))
            with torch.no_grad():
                found = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
            if found == (1, embedding_size):
                return model.train()
            reason = f"its output is {tuple(found)}"
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = first_line(error)
    raise ValueError(f"backbone {name} can't be built for {image_size}x{image_size} images ({reason})")
