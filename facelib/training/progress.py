"""What is seen of a run while it goes on, and its numbers at the end. A `run` is facelib.training.trainer.Run."""

import math
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from facelib import devices
from facelib.data.landmarks import OWN
from facelib.files import written_aside
from facelib.training import machine

COLUMNS = ("step", "epoch", "learning_rate", "loss", "images_per_second", "seconds")
# Maps the backbone, which is left as it is, and its name to the measures that an epoch ends with.
AfterEpoch = Callable[[nn.Module, str], dict[str, float]]


class Log:
    """The bar, TensorBoard's curves and the run's rows, by the first process.

    `pending` are the losses of the last steps, scalars on the device, which are waited for only by look().
    """

    def __init__(self, run, folder: Path):
        self.run, self.folder = run, folder
        self.pending: list[Tensor] = []
        name, first = f"{run.config.backbone} r={run.config.ratio:g}", devices.rank() == 0
        self.bar = tqdm(total=run.steps, initial=run.done, desc=name, unit="step", mininterval=5, disable=not first)
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=run.done + 1) if first else None
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
        numbers = range(run.done - len(self.pending), run.done)
        losses = torch.stack(self.pending).tolist() if self.pending else []
        seconds = now - self.began
        speed = sum(sum(run.part_sizes(number)) for number in numbers) / seconds
        for number, loss in zip(numbers, losses):
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

    def measure(self, after_epoch: AfterEpoch, epoch: int) -> None:
        """Write down the measures after an epoch, by the first process while the others wait.

        A checkpoint has been made, so that a SIGTERM need not wait for them.
        """
        if self.writer is not None:
            run = self.run
            with machine.on_sigterm(f"{run.config.output}: ended by SIGTERM after step {run.done}."):
                measures = after_epoch(run.kept(), run.config.backbone)
            append_row(self.folder / "validation.csv", {"epoch": epoch} | measures)
            for name, value in measures.items():
                self.writer.add_scalar(f"validation/{name}", value, run.done)
        devices.agree(0)
        self.began = time.perf_counter()


def append_row(file: Path, row: dict) -> None:
    """Add a row to a table, in the place of one of the same epoch, which a killed run may have left."""
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*row])
    table = pd.concat([table[table.epoch != row["epoch"]], pd.DataFrame([row])]).sort_values("epoch")
    with written_aside(file) as partial:
        table.to_csv(partial, index=False)


def not_finite(run, number: int, loss: float, folder: Path) -> FloatingPointError:
    """What to raise for the loss of a step, from 0. All its images' names go into a file beside the checkpoints."""
    epoch, batch = divmod(number, len(run.loader))
    indices = next(islice(run.loader.order.batches(epoch), batch, None))
    names = [run.dataset.images[i] for i in indices]
    where = ""
    if devices.rank() == 0 and (folder / "checkpoints").exists():
        (folder / "not-finite.txt").write_text("\n".join(names) + "\n")
        where = f" ({folder / 'not-finite.txt'} has all)"
    shown = ", ".join(names[:8]) + (f", ...{where}" if len(names) > 8 else "")
    return FloatingPointError(
        f"the loss became {loss} at step {number + 1} of {run.steps}, learning rate {run.rate(number):.3g}. Lower"
        f" learning_rate or set warmup. The batch's images: {shown}"
    )


def table(run) -> pd.DataFrame:
    """The log: a row for each step that is done."""
    return pd.DataFrame(run.rows, columns=COLUMNS)


def metrics(run, landmarks: pd.DataFrame | None = None) -> dict:
    """What came out of a run that is done. `faces_not_found` counts its images without a face, if they were sought."""
    log, config = table(run), run.config
    sought = landmarks is not None and not (Path(config.data) / OWN).exists()
    return {
        "backbone": config.backbone,
        "ratio": config.ratio,
        "identities": len(run.dataset.identities),
        "dropped_identities": run.dataset.dropped,
        "images": len(run.dataset),
        "steps": len(log),
        "epochs": config.epochs,
        "first_loss": float(log.loss.iloc[0]),
        "last_epoch_loss": float(log.loss[log.epoch == config.epochs].mean()),
        "images_per_second": float(log.images_per_second.median()),
        "seconds": float(log.seconds.iloc[-1]),
        "precision": run.precision,
        "memory_format": config.memory_format,
        "processes": devices.count(),
        "continued_after_steps": run.continued,
        "faces_not_found": int((landmarks.score[run.dataset.images] == 0).sum()) if sought else None,
    }
