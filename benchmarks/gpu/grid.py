"""What comes out? The kit's runs, by facelib's own training loop, each verified at once in both lights."""

import dataclasses
import fnmatch
import hashlib
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from benchmarks.gpu.kit import Kit
from facelib.data import InMemory, Loader, Share, fingerprint_of
from facelib.models.backbones import create_model
from facelib.models.embedder import TorchEmbedder
from facelib.records import DIGITS, Result
from facelib.training import progress
from facelib.training.config import Config
from facelib.training.machine import Preempted
from facelib.training.trainer import Run, fit, head_of
from facelib.verification.protocol import Protocol
from facelib.verification.verify import judge

VERIFYING = 15  # seconds of a run's two verifications
RATIOS = [1.0, 0.25, 0.5, 0.1]  # in the order in which the answer needs them; others come after


def attempt(call: Callable[[], dict], seconds: float, until: float) -> dict:
    """What the call returns, or why it does not."""
    try:
        if until - time.monotonic() < seconds:
            raise TimeoutError("no time was left")
        return call()
    except TimeoutError as error:
        return {"left out": str(error)}
    except Exception as error:  # whatever a GPU makes it raise: the rest goes on
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


def runs(kit: Kit, out: Path, heavy: dict, light: dict, only: str) -> dict[str, Config]:
    """Those that OUT lacks, in the order in which they are needed.

    `heavy` and `light` are parameters that stand in the place of the plan's, `only` is a pattern of names.
    Raises ValueError or TypeError, naming the parameter, for a recipe that can't be trained by.
    """
    plan, found = kit.about["plan"], {}
    kept = zipfile.ZipFile(out / "runs.zip").namelist() if (out / "runs.zip").exists() else []
    for name, run in ((n.removeprefix("train/"), run) for n, run in plan["runs"].items() if n.startswith("train/")):
        grids = f"verify/{name}-low" in plan["runs"]  # a ladder's are tested in normal light alone
        if grids and f"train/{name}/metrics.json" not in kept and fnmatch.fnmatch(name, only):
            is_heavy = run["parameters"]["backbone"] == plan["heavy"]
            found[name] = Config(**run["parameters"] | (heavy if is_heavy else light))
            found[name].check()
    order = lambda run: (run.seed, *(run.ratio != ratio for ratio in RATIOS), run.backbone != plan["heavy"])
    return dict(sorted(found.items(), key=lambda item: order(item[1])))


def train(kit: Kit, until: float, out: Path, runs: dict[str, Config]) -> Iterator[tuple[str, dict]]:
    for name, config in runs.items():
        yield name, attempt(partial(train_and_verify, kit, until, out, name, config), VERIFYING, until)


def begin_in_memory(faces: InMemory, config: Config, device: str) -> Run:
    """A new run on the config's share of faces that lie on the device, where its batches are gathered too."""
    torch.manual_seed(config.seed)
    share = Share(faces, config.ratio, config.seed, config.keep_one, least=2)
    backbone = create_model(config.backbone, config.embedding_size)
    run = Run(config, share, backbone, head_of(config, len(share.identities)), device)
    share.labels = share.labels.to(device)
    run.loader = Loader(share, config.batch_size, shuffle=True, seed=config.seed)
    return run


def train_and_verify(kit: Kit, until: float, out: Path, name: str, config: Config) -> dict:
    """Keep the files of a run and of its verifications, by their paths in build/<profile>; return the measures.

    Raises TimeoutError, telling the step, if the run is not through in time.
    """
    run, stop, began = begin_in_memory(kit.faces, config, kit.device), threading.Event(), time.monotonic()
    timer = threading.Timer(max(0, until - began - VERIFYING), stop.set)
    timer.start()
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as kept:
        try:
            fit(run, Path(scratch), None, stop)
        except Preempted:
            raise TimeoutError(f"time was up after step {run.done} of {run.steps}") from None
        finally:
            timer.cancel()
        made = kit.environment | {"data": fingerprint_of(kit.records)}
        trained = Result(Path(kept) / "train" / name, dataclasses.asdict(config), made, progress.metrics(run))
        trained.folder.mkdir(parents=True)
        progress.table(run).to_csv(trained.folder / "log.csv", index=False)
        trained.write()
        network = run.kept().eval()
        weights = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
        made = {"data": kit.about["lfw"], "model": hashlib.sha256(safetensors.torch.save(weights)).hexdigest()[:DIGITS]}
        found = {"images/s": trained.metrics["images_per_second"]}
        embedder = TorchEmbedder(name, network, kit.device)
        for light in ("normal", "low"):
            given = kit.about["plan"]["runs"][f"verify/{name}-{light}"]["parameters"]
            protocol = Protocol(**{key: given[key] for key in given if key in Protocol.__dataclass_fields__})
            asked = {"model": given["model"], "lfw": given["lfw"], "images": kit.about["images"], "seed": 0}
            verified = Result(Path(kept) / f"verify/{name}-{light}", asked, kit.environment | made)
            verified.folder.mkdir(parents=True)
            judge(embedder, kit.lfw, protocol, verified)
            verified.write()
            measured = {key: verified.metrics[key] for key in ("accuracy", "auc") if key in verified.metrics}
            found |= {f"{key}, {light} light": value for key, value in measured.items()}
        keep(out / "runs.zip", Path(kept))
    return found | {"seconds": time.monotonic() - began}


def keep(archive: Path, run: Path) -> None:
    """Add a run's files, all or none. Of the 24 of a profile it stays below 16 MiB."""
    partial = archive.with_suffix(".partial")
    partial.write_bytes(archive.read_bytes() if archive.exists() else b"")
    with zipfile.ZipFile(partial, "a", zipfile.ZIP_DEFLATED) as target:
        for file in filter(Path.is_file, run.rglob("*")):
            target.write(file, file.relative_to(run))
    partial.replace(archive)
