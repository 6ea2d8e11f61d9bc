"""timm's trained models, in folders and on the Hugging Face hub, as embedders."""

import re
from pathlib import Path

import torch

from facelib.files import first_line
from facelib.models.embedder import TorchEmbedder
from facelib.models.inputs import Input, declaration_file, declared, read_declaration

TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def repository_of(source: str) -> str | None:
    """The hub's repository of `timm/<name>`, `hf_hub:<owner>/<name>` or a name of timm's; None for any other text."""
    if re.match("hf[_-]hub:|timm/", source):
        return source.partition(":")[2] or source
    import timm

    try:
        return timm.get_pretrained_cfg(source).hf_hub_id
    except (AttributeError, RuntimeError):  # no model, or none of this tag
        return None


def load_timm(folder: Path, device: str = "cpu", source: str = "") -> TorchEmbedder:
    """The embedder of a folder with config.json and weights, as timm.models.save_for_hf writes it.

    It gives the pooled features, unless the model's own last layer is an embedding. The whole crop is resized to the
    size that config.json declares: timm's `crop_pct` would cut into a face that is cropped already. Errors name
    `source`, which is the folder unless another is given.
    """
    source = source or str(folder)
    weights = next((folder / file for file in TIMM_WEIGHTS if (folder / file).exists()), None)
    if weights is None or not (folder / "config.json").exists():
        raise FileNotFoundError(f"{source}: no timm model there. It needs config.json and {' or '.join(TIMM_WEIGHTS)}.")
    declaration = read_declaration(folder)
    import timm  # here and below, because it takes seconds to import

    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        # Classes have names, or their number is no multiple of 64. Of timm 1.0.31's 1,826 pretrained models this keeps
        # the last layer of all CLIP towers, with 384 to 1280 numbers, and of no classifier, with 1000 to 115,217.
        if model.num_classes % 64 or model.pretrained_cfg.get("label_names"):
            model.reset_classifier(0)
        wants = timm.data.resolve_model_data_config(model)
        with torch.no_grad():
            shape = model.eval()(torch.zeros(1, *wants["input_size"])).shape
    except Exception as error:  # timm raises many kinds, which share nothing
        raise ValueError(f"{source}: not a model that timm can load ({in_short(error)})") from error
    if len(shape) != 2:
        raise ValueError(f"{source}: must embed an image as a row of numbers (N, D), found {tuple(shape)}")
    scale = {key: tuple(255 * number for number in wants[key]) for key in ("mean", "std")}
    mode = "bilinear" if wants["interpolation"] == "bilinear" else "bicubic"
    takes = Input(**scale, size=tuple(wants["input_size"][1:]), interpolation=mode)
    embedder = TorchEmbedder(source.rpartition("/")[2], model, device, declared(declaration, takes), weights)
    embedder.declaration = str(declaration_file(folder))
    return embedder


def load_hub(repository: str, device: str = "cpu") -> TorchEmbedder:
    """The embedder of a model on the Hugging Face hub, `<owner>/<name>` and perhaps `@<revision>`.

    The hub's client downloads it once; its own environment variables set the cache, time-outs and HF_HUB_OFFLINE.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    name, _, revision = repository.partition("@")
    try:
        folder = Path(hf_hub_download(name, "config.json", revision=revision or None)).parent
        try:
            hf_hub_download(name, TIMM_WEIGHTS[0], revision=revision or None)
        except EntryNotFoundError:
            hf_hub_download(name, TIMM_WEIGHTS[1], revision=revision or None)
    except (OSError, ValueError) as error:
        mend = "Put its config.json and model.safetensors into a folder and give local-dir:<folder>."
        raise FileNotFoundError(f"{repository}: can't be had from the hub ({first_line(error)}). {mend}") from error
    embedder = load_timm(folder, device, repository)
    # A file beside the hub's cache would be lost with it.
    embedder.declaration = "FOLDER.json beside a FOLDER with its config.json and weights, and give local-dir:FOLDER"
    return embedder


def in_short(error: Exception) -> str:
    return " ".join(str(error).split()[:40])
