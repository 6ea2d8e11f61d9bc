"""The parameters of a training run."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from facelib import memory_format, precision, schedules
from facelib.parameters import convert


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
    learning_rate: float = 0.1  # of this batch_size: facelib.schedules
    momentum: float = 0.9  # of SGD
    weight_decay: float = 5e-4
    decay_norms: bool = True  # False: no weight decay for norms and biases
    clip: float = 5.0  # largest norm of the backbone's gradient; 0: unclipped
    schedule: str = "polynomial"  # or cosine, step
    power: float = 2.0  # of the polynomial
    drops: str = "0.5 0.75 0.9"  # of step: shares of the run at which the rate falls to a tenth
    decay_over: str = "run"  # its length: the steps of this run, or of ratio 1 as the published run had it: full
    warmup: float = 0.0  # share of the steps over which the learning rate rises from 0
    ema: float = 0.0  # decay of a moving average of the weights, which is kept in their place; 0: none
    precision: str = "auto"  # bf16, fp16, float32, or auto: bf16 where the hardware is faster in it
    memory_format: str = "auto"  # channels_last, contiguous, or auto: the faster one, by a trial
    compile: bool = False  # torch.compile
    deterministic: bool = False  # PyTorch's deterministic algorithms, which a CPU's are anyway
    sync_batch_norm: bool = True  # batch statistics over all processes, as of one
    validate: str = ""  # LFW folder or <name>.bin: its measures after each epoch, by which nothing is chosen
    checkpoint_minutes: float = 10.0
    device: str = "auto"
    processes: int = 1  # on this machine, started from here; torchrun starts its own
    workers: int = 0  # that load images, of each process
    seed: int = 0

    @classmethod
    def read(cls, file: str | Path) -> "Config":
        """From a YAML or JSON file. Raises ValueError, naming file and parameter, if it does not fit."""
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        try:
            given = yaml.safe_load(Path(file).read_text())
        except OSError as error:
            raise ValueError(f"{file}: can't be read ({error.strerror})") from None
        except (yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError among them
            place, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
            where = f", line {place.line + 1}" if place else ""
            raise ValueError(f"{file}{where}: is neither YAML nor JSON ({str(problem).splitlines()[0]})") from None
        if not isinstance(given, dict):
            raise ValueError(f"{file}: expected lines `parameter: value`")
        for name, value in given.items():
            if name not in kinds:
                raise ValueError(f"{file}: there is no parameter {name!r}. There are: {', '.join(kinds)}")
            try:
                given[name] = convert(value, kinds[name])
            except (ValueError, OverflowError):
                raise ValueError(f"{file}: {name} must be {kinds[name].__name__}, found {value!r}") from None
        missing = [name for name in ("data", "output") if name not in given]
        if missing:
            raise ValueError(f"{file}: {missing[0]} is missing")
        return cls(**given)

    def check(self) -> None:
        """Raise ValueError, naming the parameter, if one is out of range."""
        choices = {
            "loss": ("arcface", "softmax"),
            "optimizer": ("sgd", "adamw"),
            "schedule": schedules.NAMES,
            "decay_over": ("run", "full"),
            "precision": ("auto", *precision.NAMES),
            "memory_format": ("auto", *memory_format.FORMATS),
            "device": ("auto", "cpu", "cuda"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}")
        for name in ("data", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name a folder")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}")
        positive = ("embedding_size", "scale", "epochs", "batch_size", "accumulate", "learning_rate", "power")
        for name in (*positive, "processes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, found {getattr(self, name)}")
        for name in ("ratio", "sample_rate"):
            if getattr(self, name) > 1 or not getattr(self, name) > 0:
                raise ValueError(f"{name} must be in (0, 1], found {getattr(self, name)}")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2^63, found {self.seed}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 for batch normalisation, found {self.batch_size}")
        if not 0 <= self.margin <= math.pi / 2:
            raise ValueError(f"margin must be in [0, pi/2] radians, found {self.margin}")
        for name in ("weight_decay", "clip", "workers", "seed", "checkpoint_minutes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be below 0, found {getattr(self, name)}")
        for name in ("momentum", "warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), found {getattr(self, name)}")
        if self.sample_rate < 1 and (self.loss, self.optimizer) != ("arcface", "sgd"):
            raise ValueError("sample_rate below 1 is Partial FC's: it wants loss arcface and optimizer sgd")
        schedules.parse_drops(self.drops)
