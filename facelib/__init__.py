"""facelib: train face-verification backbones with the ArcFace loss and judge them on pairs of faces.

>>> import facelib, torch
>>> backbone = facelib.create_model("iresnet18_025").eval()
>>> backbone(torch.zeros(2, 3, 112, 112)).shape  # crops in [-1, 1] -> embeddings
torch.Size([2, 512])
>>> head = facelib.ArcFace(512, num_classes=10, scale=64.0, margin=0.5)
>>> head(torch.randn(4, 512), torch.tensor([0, 1, 2, 3])).shape  # embeddings, labels -> the loss
torch.Size([])

Each name is imported when it is first used: `import facelib` itself loads neither PyTorch nor timm.
"""

import importlib
from pathlib import Path

ROOT = Path(__file__).parent.parent  # the repository: relative paths in notebooks and profiles start here

PLACES = {
    "create_model": "models.backbones",
    "load_embedder": "models.pretrained",
    "ArcFace": "losses.arcface",
    "Softmax": "losses.softmax",
    "align": "faces.align",
    "open_faces": "data.source",
    "open_images": "data.source",
    "pack": "data.source",
    "Loader": "data.loader",
    "Config": "training.config",
    "train": "training.trainer",
    "Protocol": "verification.protocol",
    "open_test": "verification.testset",
    "verify": "verification.verify",
}
__all__ = [*PLACES, "ROOT"]


def __getattr__(name: str):
    if name not in PLACES:
        raise AttributeError(f"module 'facelib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"facelib.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
