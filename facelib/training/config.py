"""The parameters of a training run. This is their only list: name, type, range and default."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import yaml


class Range(NamedTuple):
    """What a number must be: low <= number <= high, or low < number if it is `open`."""

    words: str
    low: float
    high: float = math.inf
    open: bool = False

    def holds(self, number: float) -> bool:
        return math.isfinite(number) and self.low <= number <= self.high and not (self.open and number == self.low)


Place = Annotated[str, "not empty"]
Count = Annotated[int, Range("above 0", 1)]
Positive = Annotated[float, Range("a finite number above 0", 0, open=True)]
Amount = Annotated[float, Range("a finite number of 0 or more", 0)]
Share = Annotated[float, Range("in (0, 1]", 0, 1, open=True)]
Fraction = Annotated[float, Range("in [0, 1)", 0, math.nextafter(1, 0))]
Angle = Annotated[float, Range("in [0, pi/2] radians", 0, math.pi / 2)]


@dataclass
class Config:
    """Parameters of a run. The defaults are ArcFace's recipe (Deng et al. 2019, section 3.1) but for the schedule.

    >>> facelib.Config(data="data/faces", output="run", margin=2.0).check()
    Traceback (most recent call last):
    ValueError: margin must be in [0, pi/2] radians, found 2.0
    """

    data: Place  # identity folder, <identity>/<image>.jpg; or a folder with train.rec; or a pack
    output: Place  # folder of the run
    cache: str = "build/landmarks"  # where detected landmarks are kept
    backbone: str = "iresnet50"
    embedding_size: Count = 512
    loss: Literal["arcface", "softmax"] = "arcface"  # facelib.losses.LOSSES
    scale: Positive = 64.0
    margin: Angle = 0.5  # radians
    sample_rate: Share = 1.0  # share of the identities that a step's loss sees (Partial FC)
    ratio: Share = 1.0  # share of each identity's images
    keep_one: bool = False  # keep identities that the ratio leaves without an image
    aligned: bool = True  # False: the centre of the image as it is
    epochs: Count = 12
    batch_size: Annotated[int, Range("at least 2 for batch normalisation", 2)] = 128  # of a step, over all processes
    accumulate: Count = 1  # parts of a batch that are computed one after the other
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.1  # of this batch_size: facelib.training.schedule
    momentum: Fraction = 0.9  # of SGD
    weight_decay: Amount = 5e-4
    clip: Amount = 5.0  # largest norm of the backbone's gradient; 0: unclipped
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    power: Positive = 2.0  # of the polynomial
    decay_over: Literal["run", "full"] = "run"  # its steps: those of this run, or of ratio 1 as the published run had
    warmup: Fraction = 0.0  # share of the steps over which the learning rate rises from 0
    ema: Fraction = 0.0  # decay of a moving average of the weights, which is kept in their place; 0: none
    precision: Literal["auto", "bf16", "fp16", "float32"] = "auto"  # auto: bf16 where the hardware is faster in it
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    compile: bool = False  # torch.compile
    deterministic: bool = False  # PyTorch's deterministic algorithms, which a CPU's are anyway
    validate: str = ""  # LFW folder or <name>.bin: its measures after each epoch, by which nothing is chosen
    checkpoint_minutes: Amount = 10.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Range("0 or more", 0)] = 0  # that load images, of each process
    seed: Annotated[int, Range("in [0, 2^63)", 0, 2**63 - 1)] = 0

    @classmethod
    def read(cls, file: str | Path) -> "Config":
        """From a YAML or JSON file. Raises ValueError, naming file and parameter, if it does not fit."""
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: can't be read as YAML or JSON ({error})") from None
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: str, source: str = "more", **others: object) -> "Config":
        """From YAML, lines `parameter: value`, in addition to `others` or in their place.

        Values may be text, as a command line gives them. Raises ValueError, naming source and parameter, if it does
        not fit.
        """
        try:
            given = yaml.safe_load(text) or {}
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{source}: can't be read as YAML or JSON ({' '.join(str(error).split())})") from None
        if not isinstance(given, dict):
            raise ValueError(f"{source}: expected lines `parameter: value`")
        kinds = get_type_hints(cls)
        given = others | given
        for name, value in given.items():
            if name not in kinds:
                raise ValueError(f"{source}: there is no parameter {name!r}. There are: {', '.join(kinds)}")
            kind = type(get_args(kinds[name])[0]) if get_origin(kinds[name]) is Literal else kinds[name]
            given[name] = convert(value, kind, f"{source}: {name}")
        for name in ("data", "output"):
            if name not in given:
                raise ValueError(f"{source}: {name} is missing")
        return cls(**given)

    def check(self) -> None:
        """Raise ValueError, naming the parameter, if one is out of range."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value, rule = getattr(self, name), get_args(hint)[-1] if get_origin(hint) is Annotated else None
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ValueError(f"{name} must be one of {', '.join(get_args(hint))}, found {value!r}")
            if isinstance(rule, Range) and not rule.holds(value):
                raise ValueError(f"{name} must be {rule.words}, found {value}")
            if isinstance(rule, str) and not value:
                raise ValueError(f"{name} is empty: name a folder")
        if self.sample_rate < 1 and self.optimizer != "sgd":
            raise ValueError("sample_rate below 1 is Partial FC's: it wants optimizer sgd")


def convert(value: Any, kind: type, name: str) -> Any:
    """The value as bool, int, float or str, from text too. Raises ValueError, beginning with `name`, if it is none."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if isinstance(value, (str, kind)) or kind is float and isinstance(value, int):
            if not isinstance(value, bool):
                return kind(value)
    except (KeyError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be {kind.__name__}, found {value!r}")
