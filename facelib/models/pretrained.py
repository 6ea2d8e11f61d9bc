"""Trained models from every kind of file that people have them in, ready to embed faces.

None of these runs code that a file brings: checkpoints are read with `weights_only=True`.
"""

import json
import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from facelib.devices import choose_device
from facelib.files import first_line
from facelib.models.backbones import create_model
from facelib.models.embedder import Embedder, TorchEmbedder
from facelib.models.inputs import INPUT_KEYS, Input, declaration_file, declared, read_declaration
from facelib.models.iresnet import VARIANTS
from facelib.models.onnx import OnnxEmbedder
from facelib.models.timm_models import in_short, load_hub, load_timm, repository_of

STATE_DICTS = (".pth", ".pt", ".safetensors")
KINDS = (
    "a run's folder, an .onnx file, a state dict (.pth, .pt, .safetensors), or a pretrained model of timm's by name,"
    " as timm/<name>, hf_hub:<owner>/<name> or local-dir:<folder>"
)


def load_embedder(source: str | Path, device: str = "cpu") -> Embedder:
    """A trained model: a file or folder, or one of timm's by name.

    - a folder that `facelib.training` left
    - an .onnx file
    - a state dict (.pth, .pt, .safetensors) of insightface's ResNet or of the declared `backbone`
    - `local-dir:<folder>`, or the folder itself: config.json and weights as timm saves them
    - `timm/<name>`, `hf_hub:<owner>/<name>` or a name of timm.list_pretrained: the same from the Hugging Face hub

    What a file wants to be fed may be declared (facelib.models.inputs); a timm model's config.json does, and else it is
    ArcFace's RGB in [-1, 1], or what an ONNX graph tells. Raises FileNotFoundError if the source is missing or can't
    be downloaded, and ValueError, naming it, if it is none of these, or of another architecture.

    >>> torch.save(facelib.create_model("iresnet18_025").state_dict(), "model.pth")
    >>> facelib.load_embedder("model.pth").embed(torch.zeros(2, 3, 112, 112, dtype=torch.uint8)).shape
    torch.Size([2, 512])
    """
    path, device = Path(source), choose_device(device)
    if str(source).startswith("local-dir:"):
        return load_timm(Path(str(source).removeprefix("local-dir:")), device)
    if path.is_dir():
        is_timm = (path / "config.json").exists() and not (path / "parameters.json").exists()
        return load_timm(path, device) if is_timm else load_run(path, device)
    if path.is_file() and path.suffix.lower() == ".onnx":
        return OnnxEmbedder(path, device)
    if path.is_file() and path.suffix.lower() in STATE_DICTS:
        return load_state_dict(path, device)
    if path.is_file():
        raise ValueError(f"{path}: a model must be {KINDS}")
    repository = repository_of(str(source))
    if repository is None:
        raise FileNotFoundError(f"{source}: no such model, or none with pretrained weights. Give {KINDS}.")
    return load_hub(repository, device)


def load_run(folder: Path, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a folder that `facelib.training` left."""
    parameters, weights = folder / "parameters.json", folder / "weights.safetensors"
    for file in (parameters, weights):
        if not file.exists():
            raise ValueError(f"{folder}: not a finished run, {file.name} is missing. Run the train notebook again.")
    try:
        config = json.loads(parameters.read_text())
        model = create_model(config["backbone"], config["embedding_size"])
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        message = f"{folder}: parameters.json and weights.safetensors are not those of a run ({first_line(error)})"
        raise ValueError(message) from error
    return TorchEmbedder(folder.name, model, device, file=weights)


def load_state_dict(file: Path, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a state dict, of the backbone that is declared or, without one, that its keys tell."""
    state, metadata = read_safetensors(file) if file.suffix.lower() == ".safetensors" else (read_checkpoint(file), {})
    declaration = read_declaration(file, (*INPUT_KEYS, "backbone"), metadata)
    # What DistributedDataParallel, torch.compile and a trainer's own module put before a backbone's names.
    state = {re.sub(r"^((module|_orig_mod|backbone)\.)+", "", key): value for key, value in state.items()}
    name = declaration.get("backbone") or backbone_of(state, file)
    try:
        shapes = {key: tensor.shape for key, tensor in create_model(name).state_dict().items()}
        # Only the last layers' sizes differ, if it is this backbone at all: they tell the size of the embedding.
        sizes = {state[key].shape[:1] for key in shapes if key in state and state[key].shape != shapes[key]}
        model = create_model(name, *(sizes.pop() if len(sizes) == 1 else ()))
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{file}: not the weights of {name}: {in_short(error)}") from error
    embedder = TorchEmbedder(file.stem, model, device, declared(declaration, Input()), file)
    embedder.declaration = str(declaration_file(file))
    return embedder


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name and the metadata of a .safetensors file."""
    try:
        with safetensors.safe_open(file, "pt") as content:
            return {key: content.get_tensor(key) for key in content.keys()}, content.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{file}: damaged, or not a .safetensors file ({first_line(error)})") from error


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors by name of a PyTorch checkpoint, as they are or as trainers wrap them."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file can make the unpickler raise anything
        message = (
            f"{file}: refused, damaged or not a checkpoint of plain tensors. Save the model's state_dict() instead."
        )
        raise ValueError(message) from error
    for key in ("state_dict", "state_dict_backbone"):  # the latter in the checkpoints of arcface_torch's trainer
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{file}: not a state dict, which maps names to tensors")
    return state


def backbone_of(state: dict[str, Tensor], file: Path) -> str:
    """Which of insightface's ResNets has these tensors: by its blocks in each layer and its width."""
    blocks = tuple(len({k.split(".")[1] for k in state if k.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4))
    width = sum(state["conv1.weight"].shape[:1]) if "conv1.weight" in state else 0
    for name, variant in VARIANTS.items():
        if variant == (blocks, width):
            return name
    raise ValueError(
        f"{file}: not an insightface ResNet: blocks per layer {blocks}, width {width}."
        f' Of another backbone declare the name: {{"backbone": ...}} in {declaration_file(file)}.'
    )
