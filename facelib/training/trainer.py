"""Train one backbone on one data set. One run leaves one folder:

    weights.safetensors   the backbone after the last step (with `ema`, the moving average of its weights)
    head.safetensors      the loss's identity weights
    parameters.json       what was asked for (Config)
    metrics.json          what came out: counts, loss, speed
    log.csv               step, epoch, learning rate, loss, images/s
    validation.csv        if asked for: the measures after each epoch
    environment.json      commit, package versions, machine, data fingerprint
    tensorboard/          the same curves for TensorBoard

Until the last step it is called <output>.unfinished and holds checkpoints. The same command goes on from the last one.
Of several processes each has the same backbone, its share of every batch and its share of the head's rows. Batches,
mirrored images and gradients are those of one process; so are batch norm's statistics on GPUs, but not on CPUs.

From top to bottom: train() is a run, fit() its loop, Run what it is made of, and Run.step() a step: forward, backward,
update. Beside it lie config, schedule, checkpoint, progress (the log) and machine (signals, memory, disk).
"""

import dataclasses
import math
import shutil
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from facelib import data, devices, losses, records
from facelib.data.augmentation import mirror, normalise
from facelib.data.landmarks import find_landmarks
from facelib.faces.align import SIZE, centre_crop
from facelib.files import save_tensors, write_json
from facelib.models.backbones import create_model
from facelib.training import checkpoint, machine, progress
from facelib.training.config import Config
from facelib.training.schedule import learning_rate

WINDOW = 20  # steps whose losses a GPU keeps before they are looked at: each look waits for it


def train(config: Config, after_epoch: progress.AfterEpoch | None = None) -> dict:
    """Train by the config, write the run's folder, return its metrics. An earlier run in the folder is replaced, an
    unfinished one of the same config continued. `after_epoch` measures the backbone where the config has `validate`.

    Raises ValueError or OSError, naming what is wrong, before the first step where it can; FloatingPointError for a
    loss that is no number; MemoryError; Preempted after a SIGTERM.

    >>> run = facelib.Config("data/faces", "run", backbone="iresnet18_025", epochs=1, batch_size=10)
    >>> facelib.train(run)["steps"]  # of 20 images
    2
    """
    config.check()
    if config.validate and after_epoch is None:
        raise ValueError("validate is set: hand facelib.verification.validation.measures_of to train() too")
    with machine.joined(config.output, config.device) as device:
        kind = torch.device(device).type  # cpu or cuda
        environment = records.environment(kind)  # now: the repository may have moved on by the end
        machine.prepare(config.deterministic, kind)

        # The backbone is made before any face is looked for, which takes long, so that a wrong name is told at once.
        torch.manual_seed(config.seed)
        backbone = create_model(config.backbone, config.embedding_size)
        choose = partial(data.open_faces, config.data, config.ratio, config.seed, config.keep_one)
        dataset, landmarks = choose(), None  # a share that leaves nothing is told at once too
        if config.aligned and not data.is_aligned(config.data):
            landmarks = find_landmarks(config.data, config.cache, device)
            dataset = choose(landmarks)
        head = head_of(config, len(dataset.identities))
        environment["data"] = data.fingerprint_of(config.data, dataset.images)
        run = Run(config, dataset, backbone, head, device, environment["data"])

        # From here on a SIGTERM is looked at after each step. After the last one it is no reason to lose the run.
        stop = threading.Event()
        with machine.on_sigterm(config.output, stop), machine.run_folder(config.output, backbone, head) as folder:
            checkpoint.resume(run, folder / "checkpoints")
            fit(run, folder, after_epoch, stop)
            metrics = progress.metrics(run, landmarks)
            write(run, folder, environment, metrics)
        if devices.rank() == 0:  # only now: so no kill could lose them
            shutil.rmtree(Path(config.output) / "checkpoints", ignore_errors=True)
    return metrics


def fit(run: "Run", folder: Path, after_epoch: progress.AfterEpoch | None, stop: threading.Event) -> None:
    """The loop: from the run's step to the last one. Raises Preempted, after a checkpoint, once `stop` is set."""
    loader, epochs = run.loader, run.config.epochs
    window = 1 if run.device == "cpu" else WINDOW
    keeper = checkpoint.Keeper(run, folder / "checkpoints", stop)
    with progress.Log(run, folder) as log:
        # A run that was stopped after an epoch and before it was measured is measured now.
        if after_epoch is not None and run.done and run.done % len(loader) == 0:
            log.measure(after_epoch, run.done // len(loader))

        for epoch in range(run.done // len(loader), epochs):
            # The order of the images is drawn by (seed, epoch); a run that goes on leaves out what it has seen.
            loader.order.epoch, loader.order.skip = epoch, run.done % len(loader)
            for images, labels in loader:  # (n, 3, H, W) uint8 and (n,) int64, on the device
                log.pending.append(run.step(images, labels))
                if len(log.pending) == window:
                    log.look()  # raises FloatingPointError for a loss that is no number

                wish = keeper.wish()  # for a checkpoint: the clock's or a SIGTERM's
                if wish and run.done < run.steps:
                    log.look()  # before: a checkpoint of a loss that is no number would be none
                    keeper.save(wish)  # raises Preempted if it was the SIGTERM
            log.look()
            if after_epoch is not None:
                keeper.save()  # so that measuring may be broken off
                log.measure(after_epoch, epoch + 1)


class Run:
    """All that a training run is between two steps. `done` counts its steps, `rows` is their log."""

    def __init__(self, config: Config, dataset, backbone: nn.Module, head: losses.Head, device: str, fingerprint=""):
        """`dataset` has items (uint8 (3, H, W), label), H and W at least 112; `fingerprint` tells which data it is."""
        machine.check_shares(config.batch_size, len(dataset))
        self.config, self.dataset, self.device, self.fingerprint = config, dataset, device, fingerprint
        self.done, self.rows, self.continued = 0, [], []  # the last: the steps after which the run went on
        self.kind, self.layout = torch.device(device).type, machine.LAYOUTS[config.memory_format]
        if devices.count() > 1 and self.kind == "cuda":
            backbone = convert_sync_batchnorm(backbone)
        self.backbone, self.head = backbone.to(device, memory_format=self.layout).train(), head.to(device).train()
        self.average = AveragedModel(backbone, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
        self.model = self.backbone  # as it is called
        if devices.count() > 1:
            self.model = DistributedDataParallel(self.backbone)
            self.model.register_comm_hook(None, devices.sum_gradients)
        if config.compile:
            self.model = torch.compile(self.model, dynamic=False)  # an epoch's last batch is its only other size
        self.loader = data.Loader(
            dataset, config.batch_size, device, shuffle=True, seed=config.seed, workers=config.workers, crop=SIZE,
            shard=devices.rank(), shards=devices.count(), parts=config.accumulate,
        )  # fmt: skip
        rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
        if config.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.parameters().values(), momentum=config.momentum, **rates)
        else:
            self.optimizer = torch.optim.AdamW(self.parameters().values(), **rates)
        self.flips = torch.Generator().manual_seed(config.seed)
        self.compute_in(machine.precision_of(config.precision, self.kind))

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on this process's share of a batch, images (n, 3, H, W) uint8 and labels (n,) int64.

        Returns the whole batch's loss, a scalar, which is not waited for.
        """
        config, rate = self.config, self.rate(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        # `accumulate` parts of the batch are computed one after the other. `sizes` are theirs over all processes, and
        # x (n, 3, H, W) and y (n,) are what this process has of each.
        sizes = self.part_sizes(self.done)
        shares = [devices.shares(size, devices.count())[devices.rank()] for size in sizes]
        parts = [*zip(images.split(shares), labels.split(shares), sizes)]
        if config.sample_rate < 1:  # Partial FC: the identities of the whole batch are among those that are seen
            self.head.draw(torch.cat([devices.gather(y, size) for _, y, size in parts]), self.done)

        batch_loss = torch.zeros((), device=self.device)
        for number, (x, y, size) in enumerate(parts, 1):
            # Gradients add up over the parts; with the last one they are summed over the processes.
            add_up = devices.count() > 1 and number < len(parts)
            with self.model.no_sync() if add_up else nullcontext():
                with self.autocast:
                    x = self.augmented(x, size)  # (n, 3, 112, 112) float32 in [-1, 1]
                    embeddings = self.model(x)  # (n, D)
                    loss = self.head(embeddings, y, size) * (size / sum(sizes))  # the part's share of the batch's mean
                self.scaler.scale(loss).backward()  # the scaler is for fp16 and else does nothing
            batch_loss += loss.detach()

        self.scaler.unscale_(self.optimizer)
        if config.clip:  # the backbone's alone, as ArcFace's authors do: the head's would drown them
            nn.utils.clip_grad_norm_(self.backbone.parameters(), config.clip)
        self.scaler.step(self.optimizer)
        if config.sample_rate < 1:  # a sampled head updates its rows itself
            self.head.step(rate, config.momentum, config.weight_decay, self.scaler.get_scale())
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.backbone)
        self.done += 1
        return batch_loss

    def augmented(self, images: Tensor, total: int) -> Tensor:
        """This process's (n, 3, H, W) uint8 of `total` images -> (n, 3, 112, 112), mirrored at random and scaled."""
        mirrored = (torch.rand(total, generator=self.flips) < 0.5)[devices.share(total)]  # (n,) bool
        return normalise(mirror(centre_crop(images), mirrored)).contiguous(memory_format=self.layout)

    def compute_in(self, precision: str) -> None:
        """Compute in bf16, fp16 or float32 from now on."""
        self.precision, half = precision, precision != "float32"
        self.autocast = torch.autocast(self.kind, machine.DTYPES[precision], enabled=half)
        self.scaler = torch.amp.GradScaler(self.kind, enabled=precision == "fp16")

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * len(self.loader)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        config, steps = self.config, self.steps
        if config.decay_over == "full":  # the published run's was as long as if it saw every image of the data set
            steps = config.epochs * math.ceil(self.dataset.available / config.batch_size)
        return learning_rate(step, steps, config.learning_rate, config.schedule, config.power, config.warmup)

    def part_sizes(self, step: int) -> list[int]:
        """How many images each part of a step has, over all processes."""
        return self.loader.order.part_sizes(step % len(self.loader))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The optimizer's, by name."""
        named = [(f"backbone.{name}", weight) for name, weight in self.backbone.named_parameters()]
        if self.config.sample_rate == 1:
            named.append(("head.weight", self.head.weight))
        return {name: weight for name, weight in named if weight.requires_grad}

    def kept(self) -> nn.Module:
        """What the run is for: the backbone, or the moving average of its weights."""
        return self.backbone if self.average is None else self.average.module


def write(run: Run, folder: Path, environment: dict, metrics: dict) -> None:
    """What a finished run leaves, by the first process. Raises FloatingPointError for weights that are no numbers."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in run.kept().state_dict().items()}
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise FloatingPointError(f"{name} is not finite after the last step. Lower learning_rate or set warmup.")
    rows = devices.gather(run.head.weight.detach(), run.head.num_classes)  # (identities, D)
    if devices.rank() == 0:
        (folder / "reserved").unlink(missing_ok=True)
        save_tensors(weights, folder / "weights.safetensors")
        save_tensors({"weight": rows.cpu()}, folder / "head.safetensors")
        progress.table(run).to_csv(folder / "log.csv", index=False)
        write_json(folder / "parameters.json", dataclasses.asdict(run.config))
        write_json(folder / "environment.json", environment)
        write_json(folder / "metrics.json", metrics)


def head_of(config: Config, identities: int) -> losses.Head:
    """The loss with its rows (identities of this process, D)."""
    numbers = (config.scale, config.margin, config.sample_rate, config.seed)
    return losses.create_head(config.loss, config.embedding_size, identities, *numbers)
