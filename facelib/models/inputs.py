"""What a trained model takes in the place of aligned uint8 RGB crops, and the JSON file that declares it.

A model's file may have a file of its name and `.json` beside it, as in `model.onnx.json`:

    {"colours": "BGR", "range": [-1, 1]}
    {"colours": "RGB", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "backbone": "resnet50"}

`colours` is the order of the channels. `range` is what 0 and 255 become. In its stead `mean` and `std` are three
numbers each, in that order of channels, as torchvision has them: of the pixel's value / 255. `backbone` names a state
dict's network, as create_model knows it. A .safetensors file may hold the same keys in its own metadata, whose values
are texts: "range": "[0, 255]". The .json file goes first.
"""

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

INPUT_KEYS = ("colours", "range", "mean", "std")


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
    """What is declared of a model, checked: by the file beside it or, if there is none, by its own metadata.

    Raises ValueError, naming file, key and mend, for a key that is not among `keys`, and for a value that is not as
    above. Metadata may hold keys of others; only one that looks like a misspelt one is refused.
    """
    file = declaration_file(model)
    if file.exists():
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f'{file}: not JSON ({error}). Write, for instance, {{"colours": "BGR"}}.') from None
        if not isinstance(found, dict):
            raise ValueError(f'{file}: must be an object like {{"colours": "BGR"}}, found {json.dumps(found)[:50]}')
        unknown = [key for key in found if key not in keys]
    else:
        file, metadata = model, metadata or {}
        unknown = [key for key in metadata if key not in keys and difflib.get_close_matches(key, keys, 1, 0.8)]
        found = {key: parsed(file, key, value) for key, value in metadata.items() if key in keys}
    if unknown:
        raise ValueError(f"{file}: unknown key {unknown[0]!r}. The keys are {', '.join(keys)}.")
    check(file, found)
    return found


def parsed(file: Path, key: str, text: str) -> object:
    """The value that a metadata's text stands for."""
    if key in ("colours", "backbone"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"{file}: metadata {key} must be numbers in brackets, as JSON, found {text!r}") from None


def check(file: Path, found: dict) -> None:
    """Raise ValueError, naming file, key and mend, for a value that can't be meant."""
    if found.get("colours", "RGB") not in ("RGB", "BGR"):
        raise ValueError(f'{file}: colours must be "RGB" or "BGR", found {found["colours"]!r}')
    if not isinstance(found.get("backbone", ""), str):
        raise ValueError(f"{file}: backbone must be a name of create_model's, found {found['backbone']!r}")
    if "range" in found and not (are_numbers(found["range"], 2) and found["range"][0] < found["range"][1]):
        raise ValueError(f"{file}: range must be two numbers, low and high, as in [-1, 1], found {found['range']!r}")
    for key, other in (("mean", "std"), ("std", "mean")):
        if key in found and "range" in found:
            raise ValueError(f"{file}: {key} and range both declare the scale. Leave one of them out.")
        if key in found and other not in found:
            raise ValueError(f"{file}: {key} needs {other} beside it, three numbers too")
        if key in found and not (are_numbers(found[key], 3) and all(0 <= n <= 1 for n in found[key])):
            raise ValueError(f"{file}: {key} must be three numbers in [0, 1], of the value / 255, found {found[key]!r}")
    if 0 in found.get("std", []):
        raise ValueError(f"{file}: std must be above 0, found {found['std']!r}")


def are_numbers(value: object, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(number) in (int, float) and math.isfinite(number) for number in value)


def declared(found: dict, default: Input) -> Input:
    """The input that a declaration's keys tell, all else as in the default."""
    given = {"colours": found["colours"]} if "colours" in found else {}
    if "range" in found:
        given |= of_range(*found["range"])
    elif "mean" in found:
        given |= {key: tuple(255 * number for number in found[key]) for key in ("mean", "std")}
    return replace(default, **given)
