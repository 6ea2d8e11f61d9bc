"""Trained models from every kind of file that people have them in, ready to embed faces.

None of these runs code that a file brings: checkpoints are read with `weights_only=True`.
"""

import functools
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from facelib.devices import choose_device
from facelib.files import first_line
from facelib.models.backbones import create_model
from facelib.models.embedder import Embedder, TorchEmbedder
from facelib.models.inputs import INPUT_KEYS, Input, declaration_file, declared, read_declaration
from facelib.models.iresnet import VARIANTS
from facelib.models.onnx import OnnxEmbedder

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
    - `timm/<name>`, `hf_hub:<owner>/<name>` or a name of timm.list_pretrained: the same from the Hugging Face hub,
      whose cache is asked first

    What a file wants to be fed may be declared (facelib.models.inputs); a timm model's config.json does, and else it is
    ArcFace's RGB in [-1, 1], or what an ONNX graph tells. Raises FileNotFoundError if the source is missing or can't
    be downloaded, and ValueError, naming it, if it is none of these, or of another architecture.
    """
    path, device = Path(source), choose_device(device)
    if path.is_dir():
        is_timm = (path / "config.json").exists() and not (path / "parameters.json").exists()
        return load_timm(path, path.name, device) if is_timm else load_run(path, device)
    if path.is_file():
        if path.suffix.lower() == ".onnx":
            return OnnxEmbedder(path, device)
        if path.suffix.lower() in STATE_DICTS:
            return load_state_dict(path, device)
        raise ValueError(f"{path}: a model must be {KINDS}")
    kind, _, name = str(source).partition(":")
    if kind == "local-dir":
        return load_timm(Path(name), Path(name).name, device)
    repository = on_hub(str(source))
    if repository is None:
        raise FileNotFoundError(f"{source}: no such model. Give {KINDS}.")
    embedder = load_timm(hub_folder(repository), Path(repository).name, device)
    # A file beside the hub's cache would be lost with it.
    embedder.declaration = "FOLDER.json beside a FOLDER with its config.json and weights, and give local-dir:FOLDER"
    return embedder


def load_run(folder: Path, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a folder that `facelib.training` left."""
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
    return TorchEmbedder(folder.name, model, device, file=weights)


# What DistributedDataParallel, torch.compile and a trainer's own module put before a backbone's names.
WRAPPERS = r"^((module|_orig_mod|backbone)\.)+"


def load_state_dict(file: Path, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a state dict, of the backbone that is declared or, without one, that its keys tell."""
    state, metadata = read_safetensors(file) if file.suffix.lower() == ".safetensors" else (read_checkpoint(file), {})
    given = read_declaration(file, (*INPUT_KEYS, "backbone"), metadata)
    state = {re.sub(WRAPPERS, "", key): value for key, value in state.items()}
    if "backbone" in given:
        name, why = given["backbone"], "which it declares"
    else:
        name, why = backbone_of(state, file), "whose blocks it has"
    model = with_weights(name, state, f"{file}: not the weights of {name}, {why}")
    embedder = TorchEmbedder(file.stem, model, device, declared(given, Input()), file)
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
        raise ValueError(
            f"{file}: refused, damaged or not a checkpoint of plain tensors. Save the model's state_dict() instead."
        ) from error
    for key in ("state_dict", "state_dict_backbone"):  # the latter in the checkpoints of arcface_torch's trainer
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{file}: not a state dict, which maps names to tensors")
    return state


def backbone_of(state: dict[str, Tensor], file: Path) -> str:
    """Which of insightface's ResNets has these tensors, by their names."""
    blocks = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    width = sum(state["conv1.weight"].shape[:1]) if "conv1.weight" in state else 0
    name = next((name for name in VARIANTS if VARIANTS[name] == (blocks, width)), None)
    if name is None or "fc.weight" not in state or state["fc.weight"].ndim != 2:
        known = ", ".join(f"{name} {blocks}" for name, (blocks, _) in VARIANTS.items())
        raise ValueError(
            f"{file}: not an insightface ResNet. It has blocks per layer {blocks}, width {width}; known are {known}."
            f' Of another backbone declare the name: {{"backbone": ...}} in {declaration_file(file)}.'
        )
    return name


def with_weights(name: str, state: dict[str, Tensor], wrong: str) -> nn.Module:
    """create_model's backbone with these weights and the embedding size that they have.

    Raises ValueError, which begins with `wrong`, if they are of another.
    """
    try:
        model = create_model(name)
        wanted = model.state_dict()
        shared = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
        sizes = {tuple(state[key].shape[:1]) for key in shared}
        if len(sizes) == 1 and sizes != {()}:  # only the last layers differ, if it is this backbone at all
            model = create_model(name, *sizes.pop())
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{wrong}: {in_short(error)}") from error
    return model


def in_short(error: Exception) -> str:
    return " ".join(str(error).split()[:40])


TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SECONDS = 5  # within which the hub must answer a first question: its client alone retries for most of a minute


def load_timm(folder: Path, name: str, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a folder with config.json and weights, as timm.models.save_for_hf writes it.

    It gives the pooled features, unless the model's own last layer is an embedding. The whole crop is resized to the
    size that config.json declares: timm's `crop_pct` would cut into a face that is cropped already.
    """
    weights = next((folder / file for file in TIMM_WEIGHTS if (folder / file).exists()), None)
    if weights is None or not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder}: no timm model there. It needs config.json and {' or '.join(TIMM_WEIGHTS)}.")
    given = read_declaration(folder)
    import timm  # here, because it takes seconds to import and the other kinds don't need it

    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        if has_classes(model):
            model.reset_classifier(0)
        wants = timm.data.resolve_model_data_config(model)
        with torch.no_grad():
            found = model.eval()(torch.zeros(1, 3, *wants["input_size"][1:])).shape
    except Exception as error:  # timm raises many kinds, which share nothing
        raise ValueError(f"{folder}: not a model that timm can load ({in_short(error)})") from error
    if len(found) != 2:
        raise ValueError(f"{folder}: does not embed an image as a row of numbers (N, D), found {tuple(found)}")
    scale = {key: tuple(255 * number for number in wants[key]) for key in ("mean", "std")}
    mode = "bilinear" if wants["interpolation"] == "bilinear" else "bicubic"
    takes = Input(**scale, size=tuple(wants["input_size"][1:]), interpolation=mode)
    embedder = TorchEmbedder(name, model, device, declared(given, takes), weights)
    embedder.declaration = str(declaration_file(folder))
    return embedder


def has_classes(model: nn.Module) -> bool:
    """Whether a timm model's last layer tells classes: they have names, or their number is no multiple of 64.

    Of timm 1.0.31's 1,826 pretrained models this keeps the last layer of all CLIP towers, with 384 to 1280 numbers, and
    of no classifier, with 1000 to 115,217 classes.
    """
    return bool(model.num_classes % 64 or model.pretrained_cfg.get("label_names"))


def on_hub(source: str) -> str | None:
    """The hub's repository of a model's name, `<owner>/<name>` and perhaps `@<revision>`; None if it is no such name.

    Raises ValueError for a model of timm's without weights there.
    """
    kind, _, name = source.partition(":")
    if kind in ("hf_hub", "hf-hub"):
        return name
    if source.startswith("timm/"):
        return source
    if "/" in source or Path(source).suffix.lower() in (".onnx", *STATE_DICTS):
        return None
    import timm

    if not timm.is_model(source):
        return None
    try:
        repository = timm.get_pretrained_cfg(source).hf_hub_id
    except (AttributeError, RuntimeError):  # no pretrained model at all, or none of this tag
        repository = None
    if not repository:
        known = timm.list_pretrained(f"{source.partition('.')[0]}.*")
        hint = (
            f"Those of this backbone are {', '.join(known)}." if known else "Name another, of timm.list_pretrained()."
        )
        raise ValueError(f"{source}: timm has no pretrained weights of this name on the hub. {hint}")
    return repository


def hub_folder(repository: str) -> Path:
    """The folder in the hub's cache with a model's config.json and weights, downloaded if they are not there yet.

    Raises FileNotFoundError, saying what to put where, if they can't be had.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    mend = (
        f"Download config.json and model.safetensors from {constants.ENDPOINT}/{name}, put them into a folder and give"
        " local-dir:<folder>."
    )

    def fetch(**where) -> Path:
        download = functools.partial(hf_hub_download, name, revision=revision or None, **where)
        config = Path(download("config.json"))
        try:
            download(TIMM_WEIGHTS[0])
        except EntryNotFoundError:
            download(TIMM_WEIGHTS[1])
        return config.parent

    try:
        return fetch(local_files_only=True)
    except LocalEntryNotFoundError:
        if not answers(constants.ENDPOINT):
            sentence = f"{repository}: not in the hub's cache, and {constants.ENDPOINT} can't be reached. {mend}"
            raise FileNotFoundError(sentence) from None
    except Exception as error:  # a name that can't be one
        raise ValueError(f"{repository}: not a name on the hub, <owner>/<name> ({first_line(error)})") from None
    try:
        return fetch()
    except Exception as error:  # a download fails in many ways, which share nothing
        raise FileNotFoundError(f"{repository}: can't be downloaded ({first_line(error)}). {mend}") from error


def answers(endpoint: str) -> bool:
    """Whether the server says anything at all within SECONDS."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
