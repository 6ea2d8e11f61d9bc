"""Backbones by name, and trained ones ready to embed faces.

A backbone maps (N, 3, 112, 112) float RGB in [-1, 1] to (N, embedding_size) float embeddings, not normalised.
An embedder wraps a trained backbone: it takes aligned uint8 crops and owns their normalisation and colour order.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn

from facelib.iresnet import VARIANTS, IResNet

SIZE = 112


def create_model(name: str, embedding_size: int = 512, image_size: int = SIZE) -> nn.Module:
    """An untrained backbone: (N, 3, image_size, image_size) float RGB in [-1, 1] -> (N, embedding_size) float.

    `name` is iresnet18, iresnet34, iresnet50, iresnet100 (ArcFace's improved ResNet), iresnet18_025 (a quarter of its
    width) or any timm model's name, whose classifier is then a linear layer to the embedding. Raises ValueError for an
    unknown name, with near matches, and for a timm model that doesn't take images of this size: one is tried.
    """
    if name in VARIANTS:
        return IResNet(*VARIANTS[name], embedding_size, image_size)
    import timm  # here, because it takes seconds to import and the other backbones don't need it

    name = str(name)
    try:
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
            with torch.no_grad():
                found = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
            if found == (1, embedding_size):
                return model.train()
            reason = f"its output is {tuple(found)}"
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = first_line(error)
    raise ValueError(f"backbone {name} can't be built for {image_size}x{image_size} images ({reason})")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def normalise(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 in [0, 255] -> float32 in [-1, 1], in the same layout."""
    pixels = images.permute(0, 2, 3, 1)
    if pixels.is_contiguous():  # channels-last: three times as fast when it is told so
        return pixels.float().sub_(127.5).div_(127.5).permute(0, 3, 1, 2)
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

    # The activations of 16 images stay in a processor's cache: 1.25 (iresnet50) to 1.6 times (MobileFaceNet) the speed
    # of 64 at a time on an Intel Xeon. A GPU wants more.
    batch_size = 16

    def __init__(self, name: str, device: str = "cpu"):
        self.name = name
        if device == "cuda":
            self.batch_size = 128

    def embed(self, images: Tensor | np.ndarray) -> Tensor:
        """(N, 3, 112, 112) uint8 RGB, aligned, any N -> (N, D) float32, not normalised. Raises ValueError otherwise."""
        if isinstance(images, np.ndarray):
            images = np.ascontiguousarray(images)  # PyTorch takes no negative strides, as a flipped view has
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
            found = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"images must be (N, 3, {SIZE}, {SIZE}) uint8 RGB, found {found}")
        return torch.cat([self._embed(self.prepare(batch)) for batch in images.split(self.batch_size)])

    def embed_values(self, values: Tensor) -> Tensor:
        """Embeddings (N, D) of numbers (N, 3, 112, 112) that stand where normalised images should: in [-1, 1].

        For facelib.published alone, whose normalisation comes at the wrong time.
        """
        return torch.cat([self._embed(self.rescale(batch)) for batch in values.split(self.batch_size)])

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 -> float32 in the range that the model takes."""
        return normalise(images)

    def rescale(self, values: Tensor) -> Tensor:
        """float32 normalised to [-1, 1] -> float32 in the range that the model takes."""
        return values

    def _embed(self, values: Tensor) -> Tensor:
        raise NotImplementedError


class TorchEmbedder(Embedder):
    """A backbone of create_model with trained weights."""

    def __init__(self, name: str, model: nn.Module, device: str = "cpu"):
        super().__init__(name, device)
        self.model = model.eval().to(device, memory_format=torch.channels_last)  # the faster layout for inference
        self.device = device

    def prepare(self, images: Tensor) -> Tensor:
        return normalise(images.to(self.device, memory_format=torch.channels_last))

    @torch.inference_mode()
    def _embed(self, values: Tensor) -> Tensor:
        return self.model(values.to(self.device, memory_format=torch.channels_last)).float().cpu()


class OnnxEmbedder(Embedder):
    """An .onnx file with input (N, 3, 112, 112) float RGB. The range that it takes is read from its graph."""

    def __init__(self, path: Path, device: str = "cpu"):
        super().__init__(path.stem, device)
        try:
            graph = onnx.load(path, load_external_data=False).graph
            providers = ["CUDAExecutionProvider"] if device == "cuda" else []
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()  # else all cores, whatever OMP_NUM_THREADS says
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the core
            self.session = onnxruntime.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])
        except Exception as error:  # onnx and onnxruntime raise many kinds, none of which they share
            raise ValueError(f"{path}: not an ONNX model ({first_line(error)})") from error
        inputs = self.session.get_inputs()
        fits = len(inputs) == 1 and len(inputs[0].shape) == 4
        # A size that the graph leaves open is a name, or nothing, in the place of a number.
        fits = fits and all(n == m or not isinstance(n, int) for n, m in zip(inputs[0].shape[1:], (3, SIZE, SIZE)))
        if not fits or inputs[0].type not in ONNX_FLOATS:
            found = ", ".join(f"{i.name} {i.shape} {i.type}" for i in inputs)
            raise ValueError(f"{path}: input must be (N, 3, {SIZE}, {SIZE}) float, found {found}")
        self.input = inputs[0].name
        self.dtype = ONNX_FLOATS[inputs[0].type]
        self.range = input_range(graph, self.input)
        batch = inputs[0].shape[0]
        self.fixed_batch = isinstance(batch, int) and batch > 0
        if self.fixed_batch:
            self.batch_size = batch
        elif self.rows(1) != 1 or self.rows(2) != 2:  # the graph says that it takes any number, but doesn't
            self.batch_size, self.fixed_batch = 1, True
        if self.rows(self.batch_size if self.fixed_batch else 1) is None:
            raise ValueError(f"{path}: does not embed an image (N, 3, {SIZE}, {SIZE}) as a row of numbers (N, D)")

    def rows(self, count: int) -> int | None:
        """How many embeddings the graph makes of so many black images; None if it fails or they are no rows."""
        try:
            output = self.session.run(None, {self.input: np.zeros((count, 3, SIZE, SIZE), self.dtype)})[0]
        except Exception:  # whatever onnxruntime raises for a graph that can't be run
            return None
        return len(output) if np.ndim(output) > 1 and np.size(output) else None

    def prepare(self, images: Tensor) -> Tensor:
        low, high = self.range
        return normalise(images) if low < 0 else images.float() * (high / 255)

    def rescale(self, values: Tensor) -> Tensor:
        low, high = self.range
        return low + (values + 1) * ((high - low) / 2)

    def _embed(self, values: Tensor) -> Tensor:
        count, batch = len(values), values
        if count < self.batch_size and self.fixed_batch:
            empty = batch.new_zeros(self.batch_size - count, *batch.shape[1:])
            batch = torch.cat([batch, empty])  # the graph takes full batches only
        embeddings = self.session.run(None, {self.input: batch.numpy().astype(self.dtype)})[0][:count]
        return torch.from_numpy(embeddings).float().flatten(1)


ONNX_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# Operators that only move, repeat or rename pixels: what follows them still sees the input's range.
MOVES = "Identity Cast Transpose Gather Slice Split Concat Pad Reshape Unsqueeze Squeeze".split()


def input_range(graph: onnx.GraphProto, name: str) -> tuple[float, float]:
    """The range of pixel values that the graph takes as its input `name`: (-1, 1), (0, 1) or (0, 255).

    A graph whose first steps shift or scale the input normalises it itself, from a range that the constant tells:
    x - 127.5 and x / 255 start from 255, x - 0.5 and x / 0.5 from 1. Where the constant is computed it is 255, as
    insightface's reader has it, which goes by a Sub and a Mul among the first nodes (arcface_onnx.py).
    """
    constants = constants_of(graph)
    for node in graph.node:
        if name not in node.input or node.op_type == "Shape":
            continue
        if node.op_type in MOVES:
            name = node.output[0]
            continue
        if node.op_type not in ("Sub", "Add", "Mul", "Div", "BatchNormalization"):
            return -1.0, 1.0
        # A batch normalisation's inputs are x, scale, bias, mean and variance.
        other = node.input[3] if node.op_type == "BatchNormalization" else next(x for x in node.input if x != name)
        if other not in constants:
            return 0.0, 255.0
        size = mean_size(constants[other])
        if node.op_type == "Mul":
            return (0.0, 255.0) if size < 0.1 else (0.0, 1.0)
        if node.op_type == "BatchNormalization" and size < 0.1:  # already centred on 0
            return -1.0, 1.0
        return (0.0, 255.0) if size > 2 else (0.0, 1.0)
    return -1.0, 1.0


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto | float | Sequence[float]]:
    """The graph's constants by name, and those that are only renamed or cast ones."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.helper.get_attribute_value(node.attribute[0])
        elif node.op_type in ("Identity", "Cast") and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def mean_size(constant: onnx.TensorProto | float | Sequence[float]) -> float:
    """The mean absolute value of a graph's constant."""
    is_tensor = isinstance(constant, onnx.TensorProto)
    return float(np.abs(onnx.numpy_helper.to_array(constant) if is_tensor else constant).mean())


def load_embedder(source: str | Path, device: str = "cpu") -> Embedder:
    """A trained model from a run's folder, an insightface ResNet checkpoint (.pth, .pt) or an .onnx file.

    No code of the file is run: checkpoints are read with `weights_only=True`. Raises FileNotFoundError if the source
    is missing and ValueError, naming it, if it is none of these or of another architecture.
    """
    source, device = Path(source), choose_device(device)
    if not source.exists():
        raise FileNotFoundError(
            f"{source}: no such model. Give a run's folder, a checkpoint (.pth, .pt) or an .onnx file."
        )
    if source.is_dir():
        return load_run(source, device)
    if source.suffix.lower() == ".onnx":
        return OnnxEmbedder(source, device)
    if source.suffix.lower() in (".pth", ".pt"):
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


# What DistributedDataParallel, torch.compile and a trainer's own module put before a backbone's names.
WRAPPERS = r"^((module|_orig_mod|backbone)\.)+"


def load_insightface(path: Path, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a PyTorch checkpoint as insightface releases them, its architecture read from the keys."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file can make the unpickler raise anything
        raise ValueError(
            f"{path}: refused, damaged or not a checkpoint of plain tensors. Save the model's state_dict() instead."
        ) from error
    for key in ("state_dict", "state_dict_backbone"):  # the latter in the checkpoints of arcface_torch's trainer
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path}: not a state dict, which maps names to tensors")
    state = {re.sub(WRAPPERS, "", key): value for key, value in state.items()}
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
