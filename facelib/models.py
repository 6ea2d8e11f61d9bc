"""Backbones by name, and trained ones ready to embed faces.

A backbone maps (N, 3, 112, 112) float RGB in [-1, 1] to (N, embedding_size) float embeddings, not normalised.
An embedder wraps a trained backbone: it takes aligned uint8 crops and owns their normalisation and colour order.
"""

import difflib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn

from facelib.iresnet import VARIANTS, IResNet

SIZE = 112


def create_model(name: str, embedding_size: int = 512) -> nn.Module:
    """An untrained backbone: (N, 3, 112, 112) float RGB in [-1, 1] -> (N, embedding_size) float.

    `name` is iresnet18, iresnet34, iresnet50, iresnet100 (ArcFace's improved ResNet), iresnet18_025 (a quarter of its
    width) or any timm model's name, whose classifier is then a linear layer to the embedding. Raises ValueError for an
    unknown name, with near matches, and for a timm model that can't be built for 112x112 images.
    """
    if name in VARIANTS:
        return IResNet(*VARIANTS[name], embedding_size)
    import timm  # here, because it takes seconds to import and the other backbones don't need it

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*VARIANTS, *timm.list_models()], n=5)
        hint = f"Near matches: {', '.join(near)}." if near else f"Choose {', '.join(VARIANTS)} or a name of timm's."
        raise ValueError(f"backbone {name!r} is unknown. {hint}")
    config = timm.get_pretrained_cfg(name)
    size = {"img_size": SIZE} if config is not None and config.fixed_input_size else {}
    try:
        return timm.create_model(name, num_classes=embedding_size, **size)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(f"backbone {name} can't be built for {SIZE}x{SIZE} images ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def normalise(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return images.float().sub_(127.5).div_(127.5)


def choose_device(device: str) -> str:
    """auto, cpu or cuda -> cpu or cuda. Raises ValueError if there is no CUDA GPU, or for another name."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch sees no CUDA GPU here. Set device to cpu or auto.")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, found {device!r}")
    return device


class Embedder:
    """A trained model: `embed` takes aligned uint8 RGB crops (N, 3, 112, 112) and returns (N, D) float32 on the CPU."""

    batch_size = 64

    def __init__(self, name: str):
        self.name = name

    def embed(self, images: Tensor | np.ndarray) -> Tensor:
        """(N, 3, 112, 112) uint8 RGB, aligned, any N -> (N, D) float32, not normalised. Raises ValueError otherwise."""
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
            found = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"images must be (N, 3, {SIZE}, {SIZE}) uint8 RGB, found {found}")
        return torch.cat([self._embed(batch) for batch in images.split(self.batch_size)])

    def _embed(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class TorchEmbedder(Embedder):
    """A backbone of create_model with trained weights."""

    def __init__(self, name: str, model: nn.Module, device: str = "cpu"):
        super().__init__(name)
        self.model = model.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def _embed(self, images: Tensor) -> Tensor:
        return self.model(normalise(images.to(self.device))).float().cpu()


class OnnxEmbedder(Embedder):
    """An .onnx file with input (N, 3, 112, 112) float RGB. Whether it normalises inside is read from its graph."""

    def __init__(self, path: Path, device: str = "cpu"):
        super().__init__(path.stem)
        try:
            graph = onnx.load(path, load_external_data=False).graph
            providers = ["CUDAExecutionProvider"] if device == "cuda" else []
            self.session = onnxruntime.InferenceSession(path, providers=[*providers, "CPUExecutionProvider"])
        except Exception as error:  # onnx and onnxruntime raise many kinds, none of which they share
            raise ValueError(f"{path}: not an ONNX model ({first_line(error)})") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].shape[1:] != [3, SIZE, SIZE]:
            found = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise ValueError(f"{path}: input must be (N, 3, {SIZE}, {SIZE}), found {found}")
        self.input = inputs[0].name
        self.normalises = normalises_inside(graph, self.input)
        if isinstance(inputs[0].shape[0], int):
            self.batch_size = inputs[0].shape[0]

    def _embed(self, images: Tensor) -> Tensor:
        count = len(images)
        batch = images.float() if self.normalises else normalise(images)
        if count < self.batch_size and isinstance(self.session.get_inputs()[0].shape[0], int):
            empty = batch.new_zeros(self.batch_size - count, *batch.shape[1:])
            batch = torch.cat([batch, empty])  # the graph takes full batches only
        return torch.from_numpy(self.session.run(None, {self.input: batch.numpy()})[0][:count]).float()


def normalises_inside(graph: onnx.GraphProto, name: str) -> bool:
    """Whether the graph shifts or scales its input before the first convolution: then it takes 0 to 255, else [-1, 1].

    insightface's own reader goes by a Sub and a Mul among the first nodes (arcface_onnx.py).
    """
    for node in graph.node:
        if name in node.input and node.op_type != "Shape":
            if node.op_type in ("Sub", "Add", "Mul", "Div", "BatchNormalization"):
                return True
            if node.op_type not in ("Identity", "Cast", "Transpose"):
                return False
            name = node.output[0]
    return False


def load_embedder(source: str | Path, device: str = "cpu") -> Embedder:
    """A trained model from a run's folder, an insightface ResNet checkpoint (.pth, .pt) or an .onnx file.

    No code of the file is run: checkpoints are read with `weights_only=True`. Raises FileNotFoundError if the source
    is missing and ValueError, naming it, if it is none of these or of another architecture.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(
            f"{source}: no such model. Give a run's folder, a checkpoint (.pth, .pt) or an .onnx file."
        )
    if source.is_dir():
        return load_run(source, device)
    if source.suffix == ".onnx":
        return OnnxEmbedder(source, device)
    if source.suffix in (".pth", ".pt"):
        return load_insightface(source, device)
    raise ValueError(f"{source}: a model must be a run's folder, a .pth or .pt checkpoint or an .onnx file")


def load_run(folder: Path, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a folder that `facelib.train` left."""
    parameters, weights = folder / "parameters.json", folder / "weights.safetensors"
    for file in (parameters, weights):
        if not file.exists():
            raise ValueError(f"{folder}: not a finished run, {file.name} is missing. Run the train notebook again.")
    try:
        config = json.loads(parameters.read_text())
        model = create_model(config["backbone"], config["embedding_size"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{parameters}: not the parameters of a run ({first_line(error)})") from error
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{weights}: not the weights of {config['backbone']} ({first_line(error)})") from error
    return TorchEmbedder(folder.name, model, device)


def load_insightface(path: Path, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a PyTorch checkpoint as insightface releases them, its architecture read from the keys."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file can make the unpickler raise anything
        raise ValueError(f"{path}: not a checkpoint of plain tensors, refused ({first_line(error)})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path}: not a state dict, which maps names to tensors")
    state = {key.removeprefix("module."): value for key, value in state.items()}  # saved from DistributedDataParallel
    blocks = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    width = sum(state["conv1.weight"].shape[:1]) if "conv1.weight" in state else 0
    name = next((name for name in VARIANTS if VARIANTS[name] == (blocks, width)), None)
    if name is None or "fc.weight" not in state or state["fc.weight"].ndim != 2:
        known = ", ".join(f"{name} {blocks}" for name, (blocks, _) in VARIANTS.items())
        found = f"blocks per layer {blocks}, width {width}"
        raise ValueError(f"{path}: not an insightface ResNet. It has {found}; known are {known}")
    model = create_model(name, len(state["fc.weight"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split()[:40])
        raise ValueError(f"{path}: looks like {name} by its blocks, but is not: {detail}") from error
    return TorchEmbedder(path.stem, model, device)
