"""Right? Each check returns how large an error is, |found - truth| / |truth| where nothing else is said, and may be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import simplejpeg
import torch
import torch.nn.functional as F
import torchvision
import yaml
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.faces import OnDevice
from benchmarks.gpu.grid import begin
from facelib import ROOT, verification
from facelib.bench_head import straightforward
from facelib.crops import mirror
from facelib.data import Loader, RecordIO, Share
from facelib.embedder import normalise
from facelib.losses import ArcFace, Softmax
from facelib.pretrained import load_embedder
from facelib.protocol import Protocol
from facelib.training_config import Config

PRECISIONS = {"float32": 0.01, "fp16": 0.1, "bf16": 0.5}  # how far a step's changes may be off


def relative(found: list[Tensor], truth: list[Tensor]) -> float:
    found, truth = (torch.cat([t.detach().cpu().double().flatten() for t in side]) for side in (found, truth))
    return float((found - truth).norm() / truth.norm())


def loss_and_gradients(loss: str, bench: Bench) -> tuple[float, float]:
    """To float64, the loss written another way."""
    torch.manual_seed(0)
    options = {"sample_rate": 0.2} if loss == "Partial FC" else {}
    head = (Softmax if loss == "softmax" else ArcFace)(512, 1000, **options).to(bench.device)
    x, labels = torch.randn(64, 512), torch.randint(0, 1000, (64,))
    rows, columns, seen = slice(None), labels, head.weight
    if options:
        head.draw(labels.to(bench.device), step=3)
        rows, seen = head.drawn.cpu(), head.seen
        columns = torch.searchsorted(rows, labels)
    here = x.to(bench.device).requires_grad_()
    found = head(here, labels.to(bench.device))
    leaves = [x.double().requires_grad_(), head.weight.detach().cpu()[rows].double().requires_grad_()]
    plain = (lambda x, w, y: F.cross_entropy(x @ w.T, y)) if loss == "softmax" else straightforward
    truth = plain(*leaves, columns)
    gradients = torch.autograd.grad(found, [here, seen]), torch.autograd.grad(truth, leaves)
    return relative([found, *gradients[0]], [truth, *gradients[1]]), 1e-4


def change(bench: Bench, backbone: str, device: str, precision: str) -> list[Tensor]:
    """By what a step of 16 images changes each weight, tensor by tensor."""
    run = begin(bench.faces, Config("", "", backbone=backbone, batch_size=16, precision=precision), device)
    # At its usual first scale fp16 overflows, and the step is left out.
    run.scaler = torch.amp.GradScaler(device, init_scale=256.0, enabled=precision == "fp16")
    weights = [*run.backbone.parameters(), *run.head.parameters()]
    before = [weight.detach().clone() for weight in weights]
    images, labels = run.loader.gather([*range(16)])
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        run.train_step(images.to(device), labels.to(device))
    return [new.detach() - old for new, old in zip(weights, before)]


def step(backbone: str, precision: str, bench: Bench) -> tuple[float, float]:
    """In float32 to the CPU's step, in a lower precision to float32 on the device."""
    truth = change(bench, backbone, "cpu" if precision == "float32" else bench.device, "float32")
    return relative(change(bench, backbone, bench.device, precision), truth), PRECISIONS[precision]


def batch(bench: Bench) -> tuple[float, float]:
    """A batch of facelib's loader, mirrored and scaled on the device, to the same on the CPU."""
    loader = Loader(RecordIO(bench.records), 64, bench.device, shuffle=True, workers=2)
    images, labels = next(iter(loader))
    truth, numbers = OnDevice(Loader(Share(bench.faces), 64, shuffle=True)).gather(next(loader.order.batches(0)))
    if labels.tolist() != numbers.tolist():
        raise ValueError("the labels are others")
    which = torch.arange(len(images)) % 3 == 0
    return relative([normalise(mirror(images, which))], [normalise(mirror(truth.cpu(), which))]), 1e-6


def jpeg(bench: Bench) -> tuple[float, float]:
    """By how many of 255 levels the device's decoder is off the CPU's, on average."""
    records = RecordIO(bench.kit / "lfw")
    files = [records.read_bytes(i) for i in range(16)]
    raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    there = torch.stack(torchvision.io.decode_jpeg(raw, device=bench.device)).cpu().float()
    here = torch.stack([torch.from_numpy(simplejpeg.decode_jpeg(file, "RGB")).permute(2, 0, 1) for file in files])
    return float((there - here).abs().mean()), 1.0


def released(bench: Bench) -> tuple[float, float]:
    """By how much the released model's accuracy is another one than where the kit was made."""
    model, protocol = Path(bench.about["plan"]["released"]).name, Protocol(flip=True)
    scores = verification.score_pairs(load_embedder(bench.kit / "model" / model), bench.lfw, protocol)
    accuracy = verification.protocol_measures(scores, bench.lfw.pairs, protocol)["accuracy"]
    return abs(accuracy - bench.about["released"]["accuracy"]), 0.0005


def run_apart(bench: Bench, name: str, launcher: list[str], kill: bool = False) -> Path:
    """The folder of a small run of the light backbone by facelib's command, which is killed after a checkpoint or not.

    A run that was killed goes on, one that is through is not made again.
    """
    folder, params, said = bench.work / name, bench.work / f"{name}.yaml", bench.work / f"{name}.txt"
    if folder.exists():
        return folder
    asked = {"data": str(bench.records), "output": str(folder), "ratio": 0.25 if len(bench.faces) < 1000 else 0.05}
    asked |= {"backbone": bench.about["plan"]["light"], "learning_rate": 0.01, "epochs": 4, "batch_size": 32}
    asked |= {"deterministic": True, "precision": "float32", "memory_format": "channels_last", "device": bench.device}
    params.write_text(yaml.safe_dump(asked | {"checkpoint_minutes": 0.0}))
    command = [sys.executable, "-m", *launcher, "facelib.train", "--params", str(params)]
    with said.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
    saved = bench.work / f"{name}.unfinished" / "checkpoints"
    while process.poll() is None and bench.left() > 0 and not (kill and [*saved.glob("*.safetensors")]):
        time.sleep(0.02)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
        if not kill:
            raise TimeoutError("no time was left")
    elif process.returncode or kill:
        lines = said.read_text(errors="replace").splitlines()
        raise RuntimeError(next((line for line in reversed(lines) if "Error: " in line), lines[-1]))  # below torchrun's
    process.wait()
    return folder


def killed_and_continued(bench: Bench) -> tuple[float, float]:
    """1 if the weights have other bits than those of a run that was not killed, else 0."""
    run_apart(bench, "killed", [], kill=True)
    folders = [run_apart(bench, name, []) for name in ("killed", "whole")]
    return float(len({(folder / "weights.safetensors").read_bytes() for folder in folders}) - 1), 0.0


def two_processes(bench: Bench) -> tuple[float, float]:
    """Their losses to one's, two on one card if there is no other."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    folders = run_apart(bench, "two", torchrun), run_apart(bench, "whole", [])
    return relative(*([torch.tensor(pd.read_csv(folder / "log.csv").loss.to_numpy())] for folder in folders)), 0.01


def judged(check: Callable, bench: Bench) -> dict:
    error, bound = check(bench)
    return {"error": error, "bound": bound, "right": error <= bound}


def checks(bench: Bench) -> dict[str, tuple[float, Callable]]:
    """Name -> the seconds that it needs, which are not known, and what to call."""
    plan, losses = bench.about["plan"], ("arcface", "softmax", "Partial FC")
    found = {f"{loss}: loss and gradients": partial(loss_and_gradients, loss) for loss in losses}
    for backbone in (plan["heavy"], plan["light"]):
        found |= {f"{backbone}: a step, {precision}": partial(step, backbone, precision) for precision in PRECISIONS}
    found |= {"a batch of the loader": batch, "JPEG on the device": jpeg}
    found |= {"the released model": released} if plan["released"] else {}
    found |= {"killed and continued": killed_and_continued, "two processes": two_processes}
    return {name: (0.0, partial(judged, check)) for name, check in found.items()}
