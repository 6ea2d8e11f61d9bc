"""Models: backbones by name, and trained ones from any file that holds one, ready to embed faces.

    create_model("efficientnet_b3")             # untrained: any timm name, or iresnet18/34/50/100
    load_embedder("data/weights/model.onnx")    # trained: a run's folder, ONNX, a state dict, a name of timm's

A name is imported when it is first used: timm takes seconds.
"""

import importlib

PLACES = {
    "create_model": "backbones",
    "Embedder": "embedder",
    "TorchEmbedder": "embedder",
    "load_embedder": "pretrained",
}
__all__ = [*PLACES]

# What released embedders lie in, and how the names of those begin that insightface packs beside its embedders:
# detectors, landmarks, attributes.
MODELS = (".onnx", ".pth", ".pt", ".safetensors")
NOT_EMBEDDERS = ("det_", "scrfd", "1k3d68", "2d106det", "genderage")


def __getattr__(name: str):
    if name not in PLACES:
        raise AttributeError(f"module 'facelib.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"facelib.models.{PLACES[name]}"), name)
