"""Models: backbones by name, and trained ones from any file that holds one, ready to embed faces.

create_model("efficientnet_b3")             # untrained: any timm name, or iresnet18/34/50/100
load_embedder("data/weights/model.onnx")    # trained: a run's folder, ONNX, a state dict, a name of timm's
"""

from facelib.embedder import SIZE, Embedder, TorchEmbedder, choose_device, create_model, normalise
from facelib.pretrained import load_embedder

__all__ = ["SIZE", "Embedder", "TorchEmbedder", "choose_device", "create_model", "load_embedder", "normalise"]
