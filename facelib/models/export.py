"""A network as files for others: an ONNX graph and safetensors that declare what input they take."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn

from facelib.faces.align import SIZE
from facelib.files import save_tensors, write_json

FILES = ("model.onnx", "model.onnx.json", "model.safetensors")
TAKES = {"colours": "RGB", "range": [-1, 1]}
CLOSE = 1e-4  # how far apart two embeddings of unit length may be


def export_model(model: nn.Module, backbone: str, folder: Path) -> None:
    """Write FILES into the folder: the graph, what input it takes (facelib.models.inputs), and the state dict with
    backbone and input in its metadata. Raises ValueError if ONNX's embeddings are not PyTorch's to CLOSE.
    """
    to_onnx(model, folder / "model.onnx")
    write_json(folder / "model.onnx.json", TAKES)
    metadata = {"backbone": backbone, "colours": TAKES["colours"], "range": json.dumps(TAKES["range"])}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(state, folder / "model.safetensors", metadata)


def to_onnx(model: nn.Module, file: Path) -> None:
    """Write a graph from `images` (N, 3, 112, 112) float32 RGB in [-1, 1] to `embeddings` (N, D) float32, any N, and
    compare what both make of random images.

    By PyTorch's exporter that traces: the newer one needs more packages and ten times the time, for what is one chain
    of layers.
    """
    images = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    any_number = {"images": {0: "n"}, "embeddings": {0: "n"}}
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        torch.onnx.export(
            model.eval(), (images[:2],), file, input_names=["images"], output_names=["embeddings"],
            dynamic_axes=any_number, dynamo=False,
        )  # fmt: skip
        expected = F.normalize(model(images)).numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (embeddings,) = session.run(None, {"images": images.numpy()})
    apart = np.abs(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) - expected).max()
    if not apart <= CLOSE:
        raise ValueError(f"{file.name}: its embeddings are up to {apart:.2g} from PyTorch's, {CLOSE:g} is allowed")
