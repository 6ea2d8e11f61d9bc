"""Train one backbone on one identity folder. One run leaves one folder:

    weights.safetensors   the backbone after the last step
    head.safetensors      the loss's identity weights
    parameters.json       what was asked for (Config)
    metrics.json          what came out: counts, loss, speed
    log.csv               step, epoch, learning rate, loss, images/s
    environment.json      commit, package versions, machine, data fingerprint

The folder appears whole, at the end, or not at all.

    python -m facelib.train PARAMETERS.json ...    # whether these runs can be made, before anything is computed
"""

import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from torch import nn
from tqdm import tqdm

from facelib import data, losses, provenance
from facelib.embedder import SIZE, choose_device, create_model
from facelib.landmarks import OWN, find_landmarks
from facelib.output import whole_folder, write_json

FILES = ("weights.safetensors", "head.safetensors", "parameters.json", "metrics.json", "log.csv", "environment.json")


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
    ratio: float = 1.0  # share of each identity's images
    keep_one: bool = False  # keep identities that the ratio leaves without an image
    aligned: bool = True  # False: the centre of the image as it is
    epochs: int = 12
    batch_size: int = 128
    optimizer: str = "sgd"  # or adamw
    learning_rate: float = 0.1
    momentum: float = 0.9  # of SGD
    weight_decay: float = 5e-4
    clip: float = 5.0  # largest norm of the backbone's gradient; 0: unclipped
    power: float = 2.0  # of the polynomial decay
    decay_over: str = "run"  # its length: the steps of this run, or of ratio 1 as the published run had it: full
    warmup: float = 0.0  # share of the steps over which the learning rate rises from 0
    precision: str = "auto"  # bf16, float32, or auto: bf16 where the hardware is faster in it
    channels_last: bool = False
    device: str = "auto"
    workers: int = 0
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError, naming the parameter, if one is out of range."""
        choices = {
            "loss": ("arcface", "softmax"),
            "optimizer": ("sgd", "adamw"),
            "decay_over": ("run", "full"),
            "precision": ("auto", "bf16", "float32"),
            "device": ("auto", "cpu", "cuda"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}")
        for name in ("embedding_size", "scale", "epochs", "batch_size", "learning_rate", "power"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, found {getattr(self, name)}")
        if self.ratio > 1 or not self.ratio > 0:
            raise ValueError(f"ratio must be in (0, 1], found {self.ratio}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 for batch normalisation, found {self.batch_size}")
        if not 0 <= self.margin <= math.pi / 2:
            raise ValueError(f"margin must be in [0, pi/2] radians, found {self.margin}")
        for name in ("weight_decay", "clip", "workers", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be below 0, found {getattr(self, name)}")
        for name in ("momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), found {getattr(self, name)}")


def learning_rate(step: int, steps: int, config: Config) -> float:
    """The rate of step 0 <= step < steps: linear warm-up, then polynomial decay that would reach 0 at `steps`."""
    warmup = int(config.warmup * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * (1 - (step - warmup) / (steps - warmup)) ** config.power


def use_bf16(precision: str, device: str) -> bool:
    """Whether to autocast to bf16.

    A CPU without bf16 arithmetic emulates it, several times slower than float32. AVX-512's bf16 dot products alone
    don't help either: on an Intel Xeon without AMX both backbones train at 0.5 to 0.7 times the images/s of float32.
    """
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu.get_capabilities().get("amx_bf16", False)


def select_images(config: Config, landmarks: pd.DataFrame | None = None) -> data.IdentityFolder | data.Share:
    """The images that a run trains on; before faces are detected, to tell early of a ratio that leaves nothing."""
    return data.open_faces(config.data, config.ratio, config.seed, config.keep_one, landmarks)


def train(config: Config) -> dict:
    """Train by the config, write the run's folder, return its metrics. An earlier run in the folder is replaced.

    Raises ValueError or OSError, naming what is wrong, before the first step where it can.
    """
    config.check()
    device = choose_device(config.device)
    environment = provenance.environment(device)  # now: the repository may have moved on by the end
    torch.manual_seed(config.seed)
    backbone = create_model(config.backbone, config.embedding_size)
    select_images(config)
    to_align = config.aligned and not data.is_aligned(config.data)
    landmarks = find_landmarks(config.data, config.cache, device) if to_align else None
    detected = to_align and not (Path(config.data) / OWN).exists()
    dataset = select_images(config, landmarks)
    head_class = losses.ArcFace if config.loss == "arcface" else losses.Softmax
    arguments = {"scale": config.scale, "margin": config.margin} if config.loss == "arcface" else {}
    head = head_class(config.embedding_size, len(dataset.identities), **arguments)

    size = sum(p.numel() * p.element_size() for module in (backbone, head) for p in module.state_dict().values())
    with whole_folder(config.output, FILES, reserve=size + 2**20) as folder:
        log = fit(backbone, head, dataset, config, device)
        for name, weights in backbone.state_dict().items():
            if not weights.isfinite().all():
                raise FloatingPointError(
                    f"{name} is not finite after the last step. Lower learning_rate or set warmup."
                )
        losses_of_last_epoch = log.loss[log.epoch == config.epochs]
        metrics = {
            "backbone": config.backbone,
            "ratio": config.ratio,
            "identities": len(dataset.identities),
            "dropped_identities": dataset.dropped,
            "images": len(dataset),
            "steps": len(log),
            "epochs": config.epochs,
            "first_loss": float(log.loss.iloc[0]),
            "last_epoch_loss": float(losses_of_last_epoch.mean()),
            "images_per_second": float(log.images_per_second.median()),
            "seconds": float(log.seconds.iloc[-1]),
            "bf16": use_bf16(config.precision, device),
            "faces_not_found": int((landmarks.score[dataset.images] == 0).sum()) if detected else None,
        }
        parameters = dataclasses.asdict(config)
        environment["data"] = data.fingerprint_of(config.data, getattr(dataset, "images", None))
        (folder / "reserved").unlink()
        safetensors.torch.save_file(cpu_state(backbone), folder / "weights.safetensors")
        safetensors.torch.save_file(cpu_state(head), folder / "head.safetensors")
        log.to_csv(folder / "log.csv", index=False)
        write_json(folder / "parameters.json", parameters)
        write_json(folder / "environment.json", environment)
        write_json(folder / "metrics.json", metrics)
    return metrics


def fit(
    backbone: nn.Module, head: nn.Module, dataset: data.IdentityFolder | data.Share, config: Config, device: str
) -> pd.DataFrame:
    """The training loop. Backbone and head are trained in place; returns the log, a row a step."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    backbone.to(device, memory_format=layout).train()
    head.to(device).train()
    loader = data.Loader(
        dataset, config.batch_size, device, shuffle=True, seed=config.seed, workers=config.workers, crop=SIZE
    )
    weights = [p for p in [*backbone.parameters(), *head.parameters()] if p.requires_grad]
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            weights, config.learning_rate, config.momentum, weight_decay=config.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(weights, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    autocast = torch.autocast(device, torch.bfloat16, enabled=use_bf16(config.precision, device))
    flips = torch.Generator().manual_seed(config.seed)
    steps = config.epochs * len(loader)
    # The published run's decay was as long as if it saw every image, so that at a small ratio its rate hardly falls.
    decay = steps if config.decay_over == "run" else config.epochs * math.ceil(dataset.available / config.batch_size)
    rows = []
    began = last = time.perf_counter()
    with tqdm(total=steps, desc=f"{config.backbone} r={config.ratio:g}", unit="step", mininterval=5) as bar:
        for epoch in range(1, config.epochs + 1):
            for images, labels in loader:
                rate = learning_rate(len(rows), decay, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                images = data.augment(images, flips).contiguous(memory_format=layout)
                with autocast:
                    loss = head(backbone(images), labels)
                optimizer.zero_grad()
                loss.backward()
                if config.clip:  # the backbone's alone, as ArcFace's authors do: the head's would drown them
                    nn.utils.clip_grad_norm_(backbone.parameters(), config.clip)
                optimizer.step()
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss became {value} at step {len(rows) + 1} of {steps}, learning rate {rate:.3g}."
                        " Lower learning_rate or set warmup."
                    )
                now = time.perf_counter()
                rows.append((len(rows) + 1, epoch, rate, value, len(images) / (now - last), now - began))
                last = now
                bar.set_postfix_str(f"loss {value:.2f}, {rows[-1][4]:.0f} images/s", refresh=False)
                bar.update()
    return pd.DataFrame(rows, columns=["step", "epoch", "learning_rate", "loss", "images_per_second", "seconds"])


def cpu_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        for file in sys.argv[1:]:
            config = Config(**json.loads(Path(file).read_text()))
            config.check()
            chosen = select_images(config)
            print(f"{file}: {len(chosen)} images of {len(chosen.identities)} identities")
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"\n{file}: {error}")
