"""All that a training run is between two steps: how it begins, makes a step, is saved and goes on.

Of several processes (torch.distributed) each has the same backbone, its share of every batch and its share of the
head's rows. They make the steps of one process: batches, mirrored images, batch statistics and gradients are the same.
"""

import dataclasses
import math
import random
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from facelib import checkpoint, data, losses, memory_format, processes, schedules
from facelib.crops import centre_crop, mirror
from facelib.embedder import SIZE, create_model, normalise
from facelib.precision import autocast, precision_of
from facelib.sync_batch_norm import synchronise
from facelib.training_config import Config

COLUMNS = ("step", "epoch", "learning_rate", "loss", "images_per_second", "seconds")
# What may change when a run goes on.
FREE = ("output", "cache", "device", "workers", "processes", "checkpoint_minutes")


def create_head(config: Config, identities: int) -> losses.Head:
    if config.loss == "softmax":
        return losses.Softmax(config.embedding_size, identities)
    options = {"scale": config.scale, "margin": config.margin, "sample_rate": config.sample_rate, "seed": config.seed}
    return losses.ArcFace(config.embedding_size, identities, **options)


@dataclass
class Run:
    config: Config
    dataset: data.IdentityFolder | data.Share
    fingerprint: str  # of the data
    backbone: nn.Module
    head: nn.Module
    device: str
    precision: str  # bf16, fp16 or float32
    memory_format: str  # channels_last or contiguous
    step: int = 0  # done
    rows: list[tuple] = field(default_factory=list)  # the log, COLUMNS
    continued: list[int] = field(default_factory=list)  # the steps after which the run went on

    def __post_init__(self):
        config, kind = self.config, torch.device(self.device).type
        self.layout = memory_format.FORMATS[self.memory_format]
        if processes.count() > 1 and config.sync_batch_norm:
            self.backbone = synchronise(self.backbone, kind)
        self.backbone.to(self.device, memory_format=self.layout).train()
        self.head.to(self.device).train()
        self.average = (
            AveragedModel(self.backbone, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
        )
        self.model = self.backbone  # as it is called
        if processes.count() > 1:
            self.model = DistributedDataParallel(self.backbone)
            self.model.broadcast_buffers = not config.sync_batch_norm  # PyTorch before 2.14 has no argument of its name
            self.model.register_comm_hook(None, sum_over_processes)
        if config.compile:
            self.model = torch.compile(self.model)
        self.loader = data.Loader(
            self.dataset, config.batch_size, self.device, shuffle=True, seed=config.seed, workers=config.workers,
            crop=SIZE, shard=processes.rank(), shards=processes.count(), parts=config.accumulate,
        )  # fmt: skip
        self.optimizer = self.make_optimizer()
        self.autocast = autocast(self.precision, kind)
        self.scaler = torch.amp.GradScaler(kind, enabled=self.precision == "fp16")
        self.flips = torch.Generator().manual_seed(config.seed)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * len(self.loader)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The optimizer's, by name. A sampled head updates its rows itself."""
        named = [(f"backbone.{name}", p) for name, p in self.backbone.named_parameters()]
        if self.config.sample_rate == 1:
            named.append(("head.weight", self.head.weight))
        return {name: p for name, p in named if p.requires_grad}

    def make_optimizer(self) -> torch.optim.Optimizer:
        config, named = self.config, self.parameters()
        kept = [p for p in named.values() if config.decay_norms or p.ndim > 1]
        groups = [{"params": kept}]
        if not config.decay_norms:
            groups.append({"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0})
        shared = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
        if config.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=config.momentum, **shared)
        return torch.optim.AdamW(groups, **shared)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        config, decay = self.config, self.steps
        if config.decay_over == "full":  # the published run's was as long as if it saw every image of the data set
            decay = config.epochs * math.ceil(self.dataset.available / config.batch_size)
        shape = {"power": config.power, "drops": config.drops, "warmup": config.warmup}
        return schedules.learning_rate(step, decay, config.learning_rate, config.schedule, **shape)

    def part_sizes(self, step: int) -> list[int]:
        """How many images each part of a step has, over all processes."""
        return self.loader.order.part_sizes(step % len(self.loader))

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on this process's share of a batch. Returns the whole batch's loss, which is not waited for."""
        config, rate, sizes = self.config, self.rate(self.step), self.part_sizes(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        mine = [processes.shares(size, processes.count())[processes.rank()] for size in sizes]
        parts = [*zip(images.split(mine), labels.split(mine), sizes)]
        if config.sample_rate < 1:
            self.head.draw(torch.cat([processes.gather(y, size) for _, y, size in parts]), self.step)
        whole = torch.zeros((), device=self.device)
        for number, (x, y, size) in enumerate(parts, 1):
            gradients_add_up = self.model is not self.backbone and number < len(parts)
            with self.model.no_sync() if gradients_add_up else nullcontext():
                with self.autocast:
                    loss = self.head(self.model(self.augment(x, size)), y, size) * (size / sum(sizes))
                self.scaler.scale(loss).backward()
            whole += loss.detach()
        self.scaler.unscale_(self.optimizer)
        if config.clip:  # the backbone's alone, as ArcFace's authors do: the head's would drown them
            nn.utils.clip_grad_norm_(self.backbone.parameters(), config.clip)
        self.scaler.step(self.optimizer)
        if config.sample_rate < 1:
            self.head.step(rate, config.momentum, config.weight_decay, self.scaler.get_scale())
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.backbone)
        self.step += 1
        return whole

    def augment(self, images: Tensor, total: int) -> Tensor:
        """This process's share of `total` images, uint8, mirrored at random and normalised."""
        mirrored = (torch.rand(total, generator=self.flips) < 0.5)[processes.share(total)]
        return normalise(mirror(centre_crop(images), mirrored)).contiguous(memory_format=self.layout)

    def log(self) -> pd.DataFrame:
        """A row for each step that is done."""
        return pd.DataFrame(self.rows, columns=COLUMNS)

    def metrics(self) -> dict:
        """What came out of a run that is done."""
        log, config = self.log(), self.config
        return {
            "backbone": config.backbone,
            "ratio": config.ratio,
            "identities": len(self.dataset.identities),
            "dropped_identities": self.dataset.dropped,
            "images": len(self.dataset),
            "steps": len(log),
            "epochs": config.epochs,
            "first_loss": float(log.loss.iloc[0]),
            "last_epoch_loss": float(log.loss[log.epoch == config.epochs].mean()),
            "images_per_second": float(log.images_per_second.median()),
            "seconds": float(log.seconds.iloc[-1]),
            "precision": self.precision,
            "memory_format": self.memory_format,
            "processes": processes.count(),
            "continued_after_steps": self.continued,
        }

    def weights(self) -> dict[str, Tensor]:
        """What the run is for: the backbone's weights or their moving average."""
        return (self.average.module if self.average is not None else self.backbone).state_dict()

    def all_rows(self, rows: Tensor) -> Tensor:
        """Of rows of this process's identities those of all."""
        return processes.gather(rows.detach(), self.head.num_classes)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, of all processes, on the CPU. Each process must call it."""
        found = {f"backbone.{name}": tensor for name, tensor in self.backbone.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        found |= {f"head.{name}": self.all_rows(rows) for name, rows in self.head.rows().items()}
        for name, parameter in self.parameters().items():
            for key, value in self.optimizer.state[parameter].items():
                of_rows = name == "head.weight" and value.shape == parameter.shape
                found[f"optimizer.{name}.{key}"] = self.all_rows(value) if of_rows else value
        found["random.flips"] = self.flips.get_state()
        found["random.torch"] = processes.gather(torch.get_rng_state()[None], processes.count())
        if torch.device(self.device).type == "cuda":
            found["random.cuda"] = processes.gather(torch.cuda.get_rng_state(self.device)[None], processes.count())
        found["log"] = torch.tensor(self.rows, dtype=torch.float64).reshape(-1, len(COLUMNS))
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def save(self, folder: Path) -> None:
        """A checkpoint into the folder, by the first process."""
        tensors, numbers = self.tensors(), np.random.get_state()
        state = {
            "config": dataclasses.asdict(self.config),
            "data": self.fingerprint,
            "precision": self.precision,
            "memory_format": self.memory_format,
            "step": self.step,
            "continued": self.continued,
            "scaler": self.scaler.state_dict(),
            "python": random.getstate(),
            "numpy": [numbers[0], numbers[1].tolist(), *numbers[2:]],
        }
        if processes.rank() == 0:
            checkpoint.save(folder, self.step, tensors, state)

    def restore(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Go on from a checkpoint, which may be of another number of processes."""

        def of(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        mine = processes.share(self.head.num_classes)
        self.backbone.load_state_dict(of("backbone."))
        if self.average is not None:
            self.average.load_state_dict(of("average."))
        for name, rows in self.head.rows().items():
            rows.data.copy_(tensors[f"head.{name}"][mine])
        for name, parameter in self.parameters().items():
            for key, value in of(f"optimizer.{name}.").items():
                if value.ndim == 0:  # AdamW's count of steps
                    self.optimizer.state[parameter][key] = value.to(parameter.device)
                else:
                    kept = torch.empty_like(parameter)
                    self.optimizer.state[parameter][key] = kept.copy_(value[mine] if name == "head.weight" else value)
        self.flips.set_state(tensors["random.flips"])
        if processes.rank() < len(tensors["random.torch"]):  # a process more than there were keeps what it was seeded
            # Cloned: PyTorch wants memory of its own.
            torch.set_rng_state(tensors["random.torch"][processes.rank()].clone())
        if processes.rank() < len(tensors.get("random.cuda", ())) and torch.device(self.device).type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"][processes.rank()].clone(), self.device)
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(tuple(state["numpy"]))
        self.scaler.load_state_dict(state["scaler"])
        self.rows = [(int(step), int(epoch), *rest) for step, epoch, *rest in tensors["log"].tolist()]
        self.step, self.continued = state["step"], [*state["continued"], state["step"]]


def check_same(state: dict, config: Config, fingerprint: str, folder: Path) -> None:
    """Raise ValueError, naming them, if a checkpoint's parameters or data are others than those asked for now."""
    asked, made = dataclasses.asdict(config), state["config"]
    others = [f"{name} {made.get(name)!r}, now {asked[name]!r}" for name in asked if asked[name] != made.get(name)]
    others = [words for words in others if words.split()[0] not in FREE]
    if state["data"] != fingerprint:
        others.append(f"data set {state['data']}, now {fingerprint}")
    if others:
        raise ValueError(
            f"{folder}: holds an unfinished run of other parameters: {'; '.join(others)}. Set them back to go on"
            " with it, or delete the folder."
        )


def sum_over_processes(_, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DistributedDataParallel takes the mean; the head's loss is of all processes' images, so gradients add up."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda reduced: reduced.value()[0])


def begin_in_memory(faces: data.InMemory, config: Config, device: str) -> Run:
    """A new run on the config's share of faces that lie on the device, where its batches are gathered too."""
    torch.manual_seed(config.seed)
    share = data.Share(faces, config.ratio, config.seed, config.keep_one, least=2)
    backbone, head = create_model(config.backbone), create_head(config, len(share.identities))
    layout = "channels_last" if config.memory_format == "auto" else config.memory_format
    run = Run(config, share, "", backbone, head, device, precision_of(config.precision, device), layout)
    share.labels = share.labels.to(device)
    run.loader = data.Loader(share, config.batch_size, shuffle=True, seed=config.seed)
    return run
