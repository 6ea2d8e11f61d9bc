"""What comes out? The kit's runs, by facelib's own training loop, each verified at once in both lights."""

import dataclasses
import fnmatch
import hashlib
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.faces import OnDevice, TrainingFaces
from facelib import verification
from facelib.data import Share, fingerprint_of
from facelib.embedder import TorchEmbedder, create_model
from facelib.output import write_json
from facelib.parameters import convert
from facelib.precision import precision_of
from facelib.preemption import Preempted
from facelib.protocol import Protocol
from facelib.run_state import Run, create_head
from facelib.train import fit
from facelib.training_config import Config

VERIFYING = 15  # seconds of a run's two verifications
RATIOS = [1.0, 0.25, 0.5, 0.1]  # in the order in which the answer needs them


def order(run: dict, heavy: str) -> tuple:
    """Sorts runs: further seeds last, ratios as RATIOS, the heavy backbone first."""
    asked = run["parameters"]
    place = RATIOS.index(asked["ratio"]) if asked["ratio"] in RATIOS else len(RATIOS)
    return asked.get("seed", 0), place, asked["backbone"] != heavy


def begin(faces: TrainingFaces, config: Config, device: str) -> Run:
    """facelib's run, its batches gathered on the device."""
    torch.manual_seed(config.seed)
    share, backbone = Share(faces, config.ratio, config.seed, config.keep_one, least=2), create_model(config.backbone)
    head, precision = create_head(config, len(share.identities)), precision_of(config.precision, device)
    layout = "channels_last" if config.memory_format == "auto" else config.memory_format
    run = Run(config, share, "", backbone, head, device, precision, layout)
    run.loader = OnDevice(run.loader)
    return run


def recipe(words: str) -> dict:
    """`learning_rate=0.2 epochs=6` as Config's fields. Raises ValueError, naming the one that is none."""
    given = {}
    for word in words.split():
        name, _, value = word.partition("=")
        try:
            given[name] = convert(value, Config.__annotations__[name])
        except (KeyError, ValueError):
            raise ValueError(f"{word!r} is no parameter=value of facelib.training_config.Config") from None
    return given


def runs(bench: Bench, heavy: dict = {}, light: dict = {}, only: str = "*") -> dict[str, tuple[float, Callable]]:
    """The runs that OUT lacks in the order of `order`, by name: the seconds that each may need and what to call.

    `heavy` and `light` are parameters that stand in the place of the plan's, `only` is a pattern of names.
    Raises ValueError, naming the parameter, for a recipe that can't be trained by.
    """
    plan, speeds, found = bench.about["plan"], bench.measured.get("fast", {}), {}
    there = {file for archive in bench.archives for file in archive}
    planned = {name: run for name, run in plan["runs"].items() if run["notebook"] == "train"}
    planned = {n.removeprefix("train/"): run for n, run in planned.items() if f"{n}/metrics.json" not in there}
    planned = {name: run for name, run in planned.items() if fnmatch.fnmatch(name, only)}
    for name in sorted(planned, key=lambda name: order(planned[name], plan["heavy"])):
        given = planned[name]["parameters"]
        given = given | (heavy if given["backbone"] == plan["heavy"] else light)
        images = len(Share(bench.faces, given["ratio"], given.get("seed", 0))) * given["epochs"]
        formats, seconds = soonest(speeds, given["backbone"], given["batch_size"], images)
        config = Config(**formats | given)
        config.check()
        found[name] = seconds + VERIFYING, partial(train_and_verify, name, config)
    return found


def train_and_verify(name: str, config: Config, bench: Bench) -> dict:
    """Keep the files of a run and of its verifications, by their paths in build/<profile>; return the measures.

    Raises TimeoutError, telling the step, if the run is not through at bench.until.
    """
    about, environment = bench.about, bench.environment | {"data": fingerprint_of(bench.records)}
    run, stop, began = begin(bench.faces, config, bench.device), threading.Event(), time.monotonic()
    timer = threading.Timer(max(0, bench.left() - VERIFYING), stop.set)
    timer.start()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        try:
            fit(run, root, None, stop)
        except Preempted:
            raise TimeoutError(f"time was up after step {run.step} of {run.steps}") from None
        finally:
            timer.cancel()
        network = (run.backbone if run.average is None else run.average.module).eval()
        weights = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
        trained = root / f"train/{name}"
        trained.mkdir(parents=True)
        run.log().to_csv(trained / "log.csv", index=False)
        write_json(trained / "parameters.json", dataclasses.asdict(config))
        write_json(trained / "environment.json", environment)
        write_json(trained / "metrics.json", run.metrics() | {"faces_not_found": None})
        environment |= {"data": about["lfw"], "model": hashlib.sha256(safetensors.torch.save(weights)).hexdigest()[:12]}
        found = {}
        for light in ("normal", "low"):
            asked = about["plan"]["runs"][f"verify/{name}-{light}"]["parameters"]
            protocol = Protocol(**{key: asked[key] for key in asked if key in Protocol.__dataclass_fields__})
            scores = verification.score_pairs(TorchEmbedder(name, network, bench.device), bench.lfw, protocol)
            measures = verification.protocol_measures(scores, bench.lfw.pairs, protocol) | {"images": len(bench.lfw)}
            asked = {"model": asked["model"], "lfw": asked["lfw"], "images": about["images"], "seed": 0}
            verified = root / f"verify/{name}-{light}"
            verified.mkdir(parents=True)
            asked |= dataclasses.asdict(protocol)
            verification.write(verified, scores, bench.lfw.pairs, asked, measures, environment)
            found |= {f"{key}, {light} light": measures[key] for key in ("accuracy", "auc") if key in measures}
        kept = [file for place in ("train", "verify") for file in (root / place).rglob("*") if file.is_file()]
        bench.keep({str(file.relative_to(root)): file.read_bytes() for file in kept})
        return found | {"images_per_second": run.metrics()["images_per_second"], "seconds": time.monotonic() - began}


def soonest(measured: dict[str, dict], backbone: str, batch: int, images: int) -> tuple[dict, float]:
    """The formats in which a run of so many images is done first, and its seconds; {} and 0 if none was measured.

    Compiled, an epoch's last batch is of another size and is compiled too.
    """
    known = [one for one in measured.values() if one.get("of", {}).get("backbone") == backbone]
    known = [one for one in known if one["of"]["batch_size"] == batch] or known
    seconds = [images / one["images_per_second"] + 2 * one.get("seconds_to_compile", 0) for one in known]
    if not known:
        return {}, 0.0
    formats = known[seconds.index(min(seconds))]["of"]
    return {key: formats[key] for key in ("precision", "memory_format", "compile")}, min(seconds)
