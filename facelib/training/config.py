"""The parameters of a training run. This is their only list."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from facelib.training import machine, schedule
from facelib.training.parameters import convert

CHOICES = {
    "loss": ("arcface", "softmax"),
    "optimizer": ("sgd", "adamw"),
    "schedule": schedule.NAMES,
    "decay_over": ("run", "full"),
    "precision": ("auto", *machine.DTYPES),
    "memory_format": (*machine.LAYOUTS,),
    "device": ("auto", "cpu", "cuda"),
}
# Words for a range, what is in it, and the parameters that must be.
RANGES = (
    ("must be above 0", lambda x: x > 0, "embedding_size scale epochs batch_size accumulate learning_rate power"),
    ("must not be below 0", lambda x: x >= 0, "weight_decay clip workers seed checkpoint_minutes"),
    ("must be in (0, 1]", lambda x: 0 < x <= 1, "ratio sample_rate"),
    ("must be in [0, 1)", lambda x: 0 <= x < 1, "momentum warmup ema"),
    ("must be in [0, pi/2] radians", lambda x: 0 <= x <= math.pi / 2, "margin"),
    ("must be at least 2 for batch normalisation", lambda x: x >= 2, "batch_size"),
    ("must be below 2^63", lambda x: x < 2**63, "seed"),
)


@dataclass
class Config:
    """Parameters of a run. The defaults are ArcFace's recipe (Deng et al. 2019, section 3.1) but for the schedule."""

    data: str  # identity folder, <identity>/<image>.jpg; or a folder with train.rec; or a pack
    output: str  # folder of the run
    cache: str = "build/landmarks"  # where detected landmarks are kept
    backbone: str = "iresnet50"
    embedding_size: int = 512
    loss: str = "arcface"  # or softmax
    scale: float = 64.0
    margin: float = 0.5  # radians
    sample_rate: float = 1.0  # share of the identities that a step's loss sees (Partial FC)
    ratio: float = 1.0  # share of each identity's images
    keep_one: bool = False  # keep identities that the ratio leaves without an image
    aligned: bool = True  # False: the centre of the image as it is
    epochs: int = 12
    batch_size: int = 128  # of a step, over all processes
    accumulate: int = 1  # parts of a batch that are computed one after the other
    optimizer: str = "sgd"  # or adamw
    learning_rate: float = 0.1  # of this batch_size: facelib.training.schedule
    momentum: float = 0.9  # of SGD
    weight_decay: float = 5e-4
    clip: float = 5.0  # largest norm of the backbone's gradient; 0: unclipped
    schedule: str = "polynomial"  # or cosine
    power: float = 2.0  # of the polynomial
    decay_over: str = "run"  # its length: the steps of this run, or of ratio 1 as the published run had it: full
    warmup: float = 0.0  # share of the steps over which the learning rate rises from 0
    ema: float = 0.0  # decay of a moving average of the weights, which is kept in their place; 0: none
    precision: str = "auto"  # bf16, fp16, float32, or auto: bf16 where the hardware is faster in it
    memory_format: str = "channels_last"  # or contiguous
    compile: bool = False  # torch.compile
    deterministic: bool = False  # PyTorch's deterministic algorithms, which a CPU's are anyway
    validate: str = ""  # LFW folder or <name>.bin: its measures after each epoch, by which nothing is chosen
    checkpoint_minutes: float = 10.0
    device: str = "auto"
    workers: int = 0  # that load images, of each process
    seed: int = 0

    @classmethod
    def read(cls, file: str | Path) -> "Config":
        """From a YAML or JSON file. Raises ValueError, naming file and parameter, if it does not fit."""
        try:
            text = Path(file).read_text()
        except OSError as error:
            raise ValueError(f"{file}: can't be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: is neither YAML nor JSON ({error})") from None
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: str, source: str = "more", **others: object) -> "Config":
        """From YAML, lines `parameter: value`, in addition to `others` or in their place.

        Values may be text, as a command line gives them. Raises ValueError, naming source and parameter, if it does
        not fit.
        """
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        try:
            given = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            place, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
            where = f", line {place.line + 1}" if place else ""
            raise ValueError(f"{source}{where}: is neither YAML nor JSON ({str(problem).splitlines()[0]})") from None
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise ValueError(f"{source}: expected lines `parameter: value`")
        given = others | given
        for name, value in given.items():
            if name not in kinds:
                raise ValueError(f"{source}: there is no parameter {name!r}. There are: {', '.join(kinds)}")
            try:
                given[name] = convert(value, kinds[name])
            except (ValueError, OverflowError):
                raise ValueError(f"{source}: {name} must be {kinds[name].__name__}, found {value!r}") from None
        missing = [name for name in ("data", "output") if name not in given]
        if missing:
            raise ValueError(f"{source}: {missing[0]} is missing")
        return cls(**given)

    def check(self) -> None:
        """Raise ValueError, naming the parameter, if one is out of range."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}")
        for name in ("data", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name a folder")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}")
        for words, holds, names in RANGES:
            for name in names.split():
                if not holds(getattr(self, name)):
                    raise ValueError(f"{name} {words}, found {getattr(self, name)}")
        if self.sample_rate < 1 and (self.loss, self.optimizer) != ("arcface", "sgd"):
            raise ValueError("sample_rate below 1 is Partial FC's: it wants loss arcface and optimizer sgd")
