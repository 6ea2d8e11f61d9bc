"""What a trained model takes in the place of aligned uint8 RGB crops, and the JSON file that declares it.

A model's file may have a file of its name and `.json` beside it, as in `model.onnx.json`:

    {"colours": "BGR", "range": [-1, 1]}
    {"colours": "RGB", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "backbone": "resnet50"}

`colours` is the order of the channels. `range` is what 0 and 255 become. In its stead `mean` and `std` are three
numbers each, in that order of channels, as torchvision has them: of the pixel's value / 255. `backbone` names a state
dict's network, as create_model knows it. A .safetensors file may hold the same keys in its own metadata, whose values
are texts: "range": "[0, 255]". The .json file goes first.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

INPUT_KEYS = ("colours", "range", "mean", "std")
NAMES = ("colours", "backbone")  # in a file's metadata these are themselves, the others JSON
EXAMPLE = 'Write, for instance, {"colours": "BGR", "range": [-1, 1]}.'


@dataclass(frozen=True)
class Input:
    """Of a pixel's value v in [0, 255], channel k gets (v - mean[k]) / std[k]. The defaults are ArcFace's."""

    colours: str = "RGB"  # or BGR
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    size: tuple[int, int] = (112, 112)  # height and width in pixels, to which the crop is resized
    interpolation: str = "bicubic"  # or bilinear


def of_range(low: float, high: float) -> dict[str, tuple[float, float, float]]:
    """Input's mean and std for which 0 becomes low and 255 becomes high."""
    std = 255 / (high - low)
    return {"mean": (-low * std,) * 3, "std": (std,) * 3}


def declaration_file(model: Path) -> Path:
    return model.with_name(f"{model.name}.json")


def read_declaration(model: Path, keys: Sequence[str] = INPUT_KEYS, metadata: dict[str, str] | None = None) -> dict:
    """What is declared of a model: by the file beside it or, if there is none, by those of `keys` in its own metadata.

    Raises ValueError, naming the file and the mend, for an unknown key or a value that is not as above.
    """
    file = declaration_file(model)
    try:
        if file.exists():
            declaration = json.loads(file.read_text())
        else:
            file, metadata = model, metadata or {}
            texts = {key: text for key, text in metadata.items() if key in keys}
            declaration = {key: text if key in NAMES else json.loads(text) for key, text in texts.items()}
    except ValueError as error:
        raise ValueError(f"{file}: its declaration is not JSON ({error}). {EXAMPLE}") from None
    if not isinstance(declaration, dict) or not {*declaration} <= {*keys}:
        raise ValueError(f"{file}: must declare some of {', '.join(keys)}, found {str(declaration)[:50]}. {EXAMPLE}")
    check(file, **declaration)
    return declaration


def check(file: Path, colours="RGB", backbone="", range=None, mean=None, std=None) -> None:
    """Raise ValueError, naming file, key and mend, for a value that can't be meant."""
    if colours not in ("RGB", "BGR"):
        raise ValueError(f'{file}: colours must be "RGB" or "BGR", found {colours!r}')
    if not isinstance(backbone, str):
        raise ValueError(f"{file}: backbone must be a name of create_model's, found {backbone!r}")
    if range is not None and (not are_numbers(range, 2) or range[0] >= range[1]):
        raise ValueError(f"{file}: range must be two numbers, low and high, as in [-1, 1], found {range!r}")
    if mean is None and std is None:
        return
    if range is not None:
        raise ValueError(f"{file}: range declares the scale, and mean and std too. Leave one of them out.")
    if not (are_numbers(mean, 3) and are_numbers(std, 3) and min(mean) >= 0 and min(std) > 0 and max(*mean, *std) <= 1):
        raise ValueError(f"{file}: mean and std must be three numbers each in [0, 1], of the value / 255, std above 0")


def are_numbers(value: object, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(number) in (int, float) and math.isfinite(number) for number in value)


def declared(declaration: dict, default: Input) -> Input:
    """The input that a declaration's keys tell, all else as in the default."""
    given = {"colours": declaration.get("colours", default.colours)}
    if "range" in declaration:
        given |= of_range(*declaration["range"])
    elif "mean" in declaration:
        given |= {key: tuple(255 * number for number in declaration[key]) for key in ("mean", "std")}
    return replace(default, **given)
