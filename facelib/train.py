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

    python -m facelib.train --params run.yaml
    torchrun --nproc-per-node=N -m facelib.train --params run.yaml    # on one host or many that share the folders
    python -m facelib.train --check PARAMETERS.json ...               # whether these runs can be made
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from facelib import accumulation_trial, checkpoint, data, freed_memory, memory_format, processes, provenance
from facelib.embedder import choose_device, create_model
from facelib.landmarks import OWN, find_landmarks
from facelib.output import save_tensors, unfinished_folder, write_json
from facelib.precision import precision_of
from facelib.preemption import PREEMPTED, Preempted, on_sigterm, preempt
from facelib.run_state import COLUMNS, Run, check_same, create_head
from facelib.training_config import Config
from facelib.validation import measures_of

FILES = ("weights.safetensors", "head.safetensors", "parameters.json", "metrics.json", "log.csv", "environment.json")
FILES += ("validation.csv", "tensorboard", "checkpoints", "not-finite.txt")
# Maps the backbone, which is left as it is, and its name to the measures that an epoch ends with.
AfterEpoch = Callable[[nn.Module, str], dict[str, float]]
WINDOW = 20  # steps whose losses a GPU keeps before they are looked at: each look waits for it


def select_images(config: Config, landmarks: pd.DataFrame | None = None) -> data.IdentityFolder | data.Share:
    """The run's share of the images. Raises ValueError, naming the parameter, for a ratio that leaves nothing."""
    return data.open_faces(config.data, config.ratio, config.seed, config.keep_one, landmarks)


def train(config: Config, after_epoch: AfterEpoch | None = None) -> dict:
    """Train by the config, write the run's folder, return its metrics. An earlier run in the folder is replaced, an
    unfinished one of the same config continued. `after_epoch` measures the backbone where the config has `validate`.

    Raises ValueError or OSError, naming what is wrong, before the first step where it can; FloatingPointError for a
    loss that is no number; Preempted after a SIGTERM.
    """
    config.check()
    if config.validate and after_epoch is None:
        raise ValueError("validate is set: hand facelib.validation.measures_of(config) to train() too")
    if config.processes > 1 and not processes.launched():
        return train_in_processes(config)
    try:
        with on_sigterm(preempt(f"{config.output}: ended by SIGTERM. The same command goes on.")):
            return train_here(config, processes.join(choose_device(config.device)), after_epoch)
    except RuntimeError as error:
        if out_of_memory(error):
            raise MemoryError(
                f"{config.output}: out of memory ({str(error).splitlines()[0]}). Backbone, head and optimizer must fit:"
                " set a smaller backbone or embedding_size, or share the identities among several processes."
            ) from None
        if processes.count() == 1 or not processes.lost_another(error):
            raise
        raise RuntimeError(
            f"{config.output}: another process died, or was silent for long. The same command goes on from the last"
            " checkpoint."
        ) from None
    finally:
        processes.leave()


def train_in_processes(config: Config) -> dict:
    """The same by PyTorch's launcher. Raises RuntimeError with the message of the process that failed first."""
    with tempfile.TemporaryDirectory() as folder:
        params, error = Path(folder) / "run.json", Path(folder) / "error.txt"
        write_json(params, dataclasses.asdict(config))
        code = processes.launch(config.processes, ["--params", str(params)], {ERROR: str(error)})
        if error.exists():
            kind, _, message = error.read_text().partition(": ")
            raise (Preempted if kind == Preempted.__name__ else RuntimeError)(message)
        if code == PREEMPTED:
            raise Preempted(f"{config.output}: ended by SIGTERM. The same command goes on.")
        if code:
            raise RuntimeError(
                f"{config.output}: a process died (exit code {code}), maybe for want of memory. The same command goes"
                " on from the last checkpoint."
            )
    return json.loads((Path(config.output) / "metrics.json").read_text())


def train_here(config: Config, device: str, after_epoch: AfterEpoch | None = None) -> dict:
    """In this process, one of those of torch.distributed if there are several."""
    kind = torch.device(device).type
    environment = provenance.environment(kind)  # now: the repository may have moved on by the end
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if kind == "cpu":
        freed_memory.keep()
    torch.manual_seed(config.seed)
    backbone = create_model(config.backbone, config.embedding_size)
    select_images(config)
    to_align = config.aligned and not data.is_aligned(config.data)
    landmarks = find_landmarks(config.data, config.cache, device) if to_align else None
    dataset = select_images(config, landmarks)
    if processes.count() > min(config.batch_size, len(dataset)):
        raise ValueError(
            f"batch_size {config.batch_size} and {len(dataset)} images leave some of {processes.count()} processes none"
        )
    environment["data"] = data.fingerprint_of(config.data, dataset.images)
    head = create_head(config, len(dataset.identities))
    precision = precision_of(config.precision, kind)
    check_room(config, backbone, head)
    stop = threading.Event()

    # From here on a SIGTERM is looked at after each step. After the last one it is no reason to lose the run.
    with on_sigterm(lambda *_: stop.set()), run_folder(config.output, bytes_of(backbone, head)) as folder:
        found = checkpoint.load_last(folder / "checkpoints")
        if found is None:
            layout = choose_layout(config, backbone, kind, precision)
        else:
            check_same(found[1], config, environment["data"], folder)
            precision, layout = found[1]["precision"], found[1]["memory_format"]
        run = Run(config, dataset, environment["data"], backbone, head, device, precision, layout)
        if found is not None:
            run.restore(*found)
            if processes.rank() == 0:
                print(f"{config.output}: going on after step {run.step} of {run.steps}")
        fit(run, folder, after_epoch, stop)
        for name, weights in run.weights().items():
            if not weights.isfinite().all():
                raise FloatingPointError(
                    f"{name} is not finite after the last step. Lower learning_rate or set warmup."
                )
        metrics = run.metrics()
        detected = to_align and not (Path(config.data) / OWN).exists()
        metrics["faces_not_found"] = int((landmarks.score[dataset.images] == 0).sum()) if detected else None
        rows = run.all_rows(head.weight)
        if processes.rank() == 0:
            (folder / "reserved").unlink(missing_ok=True)
            save_tensors(cpu_state(run.weights()), folder / "weights.safetensors")
            save_tensors({"weight": rows.cpu()}, folder / "head.safetensors")
            run.log().to_csv(folder / "log.csv", index=False)
            write_json(folder / "parameters.json", dataclasses.asdict(config))
            write_json(folder / "environment.json", environment)
            write_json(folder / "metrics.json", metrics)
    if processes.rank() == 0:
        checkpoint.delete(Path(config.output) / "checkpoints")  # now: a kill before could not lose them
    return metrics


def bytes_of(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.state_dict().values())


def check_room(config: Config, backbone: nn.Module, head: nn.Module) -> None:
    """Raise OSError if the disk has no room for two checkpoints that are kept, one that is written, and the end."""
    if processes.rank() > 0:
        return
    each = 2 + (config.optimizer == "adamw")  # the weights and what the optimizer keeps of each
    needed = (3 * each + 1) * bytes_of(backbone, head) + 3 * bool(config.ema) * bytes_of(backbone)
    folder = next(folder for folder in Path(config.output).absolute().parents if folder.exists())
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(
            f"{config.output}: no space left on the disk for a run's checkpoints ({needed / 1e6:,.0f} MB are needed,"
            f" {free / 1e6:,.0f} MB are free). Make room and run it again."
        )


def choose_layout(config: Config, backbone: nn.Module, device: str, precision: str) -> str:
    """The memory format, of several processes the first one's choice."""
    if config.memory_format != "auto":
        return config.memory_format
    names, chosen = [*memory_format.FORMATS], 0
    if processes.rank() == 0:
        chosen = names.index(memory_format.choose(backbone, config.backbone, device, precision, config.cache))
    return names[processes.agree(chosen)]


@contextlib.contextmanager
def run_folder(output: str, size: int) -> Iterator[Path]:
    """The unfinished run's folder. The first process alone makes, locks and finishes it."""
    if processes.rank() == 0:
        with unfinished_folder(output, FILES, "checkpoints", size + 2**20) as folder:
            processes.agree(0)
            yield folder
    else:
        processes.agree(0)  # it is there now
        yield Path(output).with_name(Path(output).name + ".unfinished")


def fit(run: Run, folder: Path, after_epoch: AfterEpoch | None, stop: threading.Event) -> None:
    """The training loop: from the run's step to the last one, with a checkpoint now and then. If it is to stop, it
    raises Preempted after one.
    """
    config, loader = run.config, run.loader
    window = 1 if run.device == "cpu" else WINDOW
    saved = time.perf_counter()
    with Log(run, folder) as log:
        if after_epoch is not None and run.step and run.step % len(loader) == 0:  # it was stopped before
            log.validate(after_epoch, run.step // len(loader))
        for epoch in range(run.step // len(loader), config.epochs):
            loader.order.epoch, loader.order.skip = epoch, run.step - epoch * len(loader)
            for images, labels in batches(run, folder):
                log.pending.append(step(run, images, labels, folder))
                if len(log.pending) == window:
                    log.look()
                due = time.perf_counter() - saved >= 60 * config.checkpoint_minutes
                wish = processes.agree(2 if stop.is_set() else int(due and processes.rank() == 0))
                if wish and run.step % len(loader):
                    saved = save(run, folder, log, wish)
            log.look()
            if after_epoch is not None or (wish and run.step < run.steps):
                saved = save(run, folder, log, wish)
            if after_epoch is not None:
                log.validate(after_epoch, epoch + 1)


def batches(run: Run, folder: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's. Where an image can't be read, what was done until then is kept."""
    try:
        yield from run.loader
    except (OSError, ValueError) as error:
        if run.step and processes.count() == 1:
            run.save(folder / "checkpoints")
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{error}{kept_words(folder)}") from None


def save(run: Run, folder: Path, log: "Log", wish: int) -> float:
    """A checkpoint. Returns when it was made. Raises Preempted if the wish for it, 2, was a SIGTERM's."""
    log.look()  # before: a checkpoint of a loss that is no number would be none
    run.save(folder / "checkpoints")
    if wish == 2:
        raise Preempted(
            f"{run.config.output}: ended by SIGTERM after step {run.step} of {run.steps}. The same command goes on."
        )
    return time.perf_counter()


def kept_words(folder: Path) -> str:
    """What to know about a run that failed before other parameters or data are tried."""
    if not (folder / "checkpoints").exists():
        return ""
    return f" With other parameters or data, delete {folder} too: its checkpoints are of these."


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it is what PyTorch raises for that on a GPU, or it, oneDNN or C++ on a CPU."""
    words = ("can't allocate memory", "could not create a primitive", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def step(run: Run, images: Tensor, labels: Tensor, folder: Path) -> Tensor:
    """run.train_step. Raises MemoryError with the accumulation that fits, if the batch does not."""
    try:
        return run.train_step(images, labels)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    # Here, where the error no longer holds what the step has computed.
    advice = "not even two at a time do. Take a smaller backbone."
    run.optimizer.zero_grad()
    if torch.device(run.device).type == "cuda":
        torch.cuda.empty_cache()
    parts = accumulation_trial.parts_that_fit(run, len(images)) if processes.count() == 1 else 2 * run.config.accumulate
    if parts:
        advice = f"set accumulate to {parts}, and they are computed in parts of {-(-len(images) // parts)}."
    raise MemoryError(
        f"{run.config.output}: the {len(images)} images of a step do not fit into memory: {advice}{kept_words(folder)}"
    )


class Log:
    """What is seen of a run while it goes on, by its first process: the bar, TensorBoard's curves, the run's rows.

    `pending` are the losses of the last steps, which are waited for only by look().
    """

    def __init__(self, run: Run, folder: Path):
        self.run, self.folder, self.pending = run, folder, []
        name, first = f"{run.config.backbone} r={run.config.ratio:g}", processes.rank() == 0
        self.bar = tqdm(total=run.steps, initial=run.step, desc=name, unit="step", mininterval=5, disable=not first)
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=run.step + 1) if first else None
        self.began = time.perf_counter()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()

    def look(self) -> None:
        """Take up the pending losses. Raises FloatingPointError for one that is no number."""
        run, now = self.run, time.perf_counter()
        numbers = range(run.step - len(self.pending), run.step)
        losses_ = torch.stack(self.pending).tolist() if self.pending else []
        seconds = now - self.began
        speed = sum(sum(run.part_sizes(number)) for number in numbers) / seconds
        for number, loss in zip(numbers, losses_):
            if not math.isfinite(loss):
                raise not_finite(run, number, loss, self.folder)
            before = run.rows[-1][-1] if run.rows else 0.0
            epoch, rate = number // len(run.loader) + 1, run.rate(number)
            run.rows.append((number + 1, epoch, rate, loss, speed, before + seconds / len(numbers)))
            if self.writer is not None:
                for name, value in zip(COLUMNS[2:5], run.rows[-1][2:5]):
                    self.writer.add_scalar(name, value, number + 1)
            self.bar.set_postfix_str(f"loss {loss:.2f}, rate {rate:.2g}, {speed:.0f} images/s", refresh=False)
        self.bar.update(len(self.pending))
        self.began = now
        self.pending.clear()

    def validate(self, after_epoch: AfterEpoch, epoch: int) -> None:
        """The measures after an epoch, by the first process while the others wait. A checkpoint has been made, so that
        a SIGTERM need not wait for them.
        """
        if self.writer is not None:
            run = self.run
            backbone = run.backbone if run.average is None else run.average.module
            ended = f"{run.config.output}: ended by SIGTERM after step {run.step}. The same command goes on."
            with on_sigterm(preempt(ended)):
                measures = after_epoch(backbone, run.config.backbone)
            append_row(self.folder / "validation.csv", {"epoch": epoch} | measures)
            for name, value in measures.items():
                self.writer.add_scalar(f"validation/{name}", value, self.run.step)
        processes.agree(0)
        self.began = time.perf_counter()


def append_row(file: Path, row: dict) -> None:
    """Add a row to a table, in the place of one of the same epoch, which a killed run may have left."""
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*row])
    table = pd.concat([table[table.epoch != row["epoch"]], pd.DataFrame([row])]).sort_values("epoch")
    partial = file.with_suffix(".partial")
    table.to_csv(partial, index=False)
    partial.replace(file)


def not_finite(run: Run, number: int, loss: float, folder: Path) -> FloatingPointError:
    """What to raise for the loss of a step, from 0. All its images' names go into a file beside the checkpoints."""
    epoch, batch = divmod(number, len(run.loader))
    indices = next(islice(run.loader.order.batches(epoch), batch, None))
    names = [run.dataset.images[i] for i in indices]
    where = ""
    if processes.rank() == 0 and (folder / "checkpoints").exists():
        (folder / "not-finite.txt").write_text("\n".join(names) + "\n")
        where = f" ({folder / 'not-finite.txt'} has all)"
    shown = ", ".join(names[:8]) + (f", ...{where}" if len(names) > 8 else "")
    return FloatingPointError(
        f"the loss became {loss} at step {number + 1} of {run.steps}, learning rate {run.rate(number):.3g}. Lower"
        f" learning_rate or set warmup.{kept_words(folder)} The batch's images: {shown}"
    )


def cpu_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


ERROR = "FACELIB_ERROR_FILE"  # where a process that train_in_processes started tells why it failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, metavar="FILE", help="parameters of a run, YAML or JSON: train it")
    parser.add_argument("--check", nargs="+", default=[], metavar="FILE", help="say whether these runs can be made")
    arguments = parser.parse_args()
    if (arguments.params is None) == (not arguments.check):
        parser.error("one of --params and --check is needed")
    file = arguments.params
    try:
        if file is not None:
            config = Config.read(file)
            train(config, measures_of(config))
        for file in arguments.check:
            config = Config.read(file)
            config.check()
            chosen = select_images(config)
            print(f"{file}: {len(chosen)} images of {len(chosen.identities)} identities")
    except KeyboardInterrupt:
        if ERROR not in os.environ:
            print(f"\n{file}: interrupted. The same command goes on.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError, Preempted) as error:
        message = str(error) if arguments.params or str(file) in str(error) else f"{file}: {error}"
        if ERROR in os.environ:  # the process that started this one says it, of several the first one's
            with contextlib.suppress(FileExistsError), open(os.environ[ERROR], "x") as told:
                told.write(f"{type(error).__name__}: {message}")
        else:
            print(f"\n{message}", file=sys.stderr)
        sys.exit(PREEMPTED if isinstance(error, Preempted) else 1)


if __name__ == "__main__":
    main()
