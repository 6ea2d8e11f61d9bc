"""What a run that is killed goes on from: one safetensors file a checkpoint, whole or absent. No code runs when one is
read.

    <folder>/step-00001234.safetensors

Its tensors are weights, the optimizer's and the random states; its metadata has `state`, JSON, with all that are no
tensors, and `checksum`, xxh3_64 of both, so that a change of any bit of them is found. A file is written aside, synced
and renamed; the last two are kept. A `run` is facelib.training.trainer.Run.
"""

import dataclasses
import json
import threading
import time
from pathlib import Path

import safetensors
import torch
from torch import Tensor
from xxhash import xxh3_64

from facelib import devices
from facelib.files import save_tensors, written_aside
from facelib.training import machine, progress

KEPT = 2
FREE = ("output", "cache", "device", "workers", "checkpoint_minutes")  # what may change when a run goes on
CLOCK, SIGTERM = 1, 2  # what a checkpoint is wished by


class Keeper:
    """Makes a run's checkpoints, each `checkpoint_minutes` and before a SIGTERM ends it. Each process must call it."""

    def __init__(self, run, folder: Path, stop: threading.Event):
        self.run, self.folder, self.stop = run, folder, stop
        self.time, self.step = time.perf_counter(), run.done  # of the last checkpoint

    def wish(self) -> int:
        """Whether a checkpoint is due: 0, CLOCK or SIGTERM, the same in each process."""
        due = time.perf_counter() - self.time >= 60 * self.run.config.checkpoint_minutes
        return devices.agree(SIGTERM if self.stop.is_set() else CLOCK * (due and devices.rank() == 0))

    def save(self, wish: int = CLOCK) -> None:
        """Save the run, unless that was done after this step. Raises Preempted if a SIGTERM wished it."""
        run = self.run
        if self.step != run.done:
            save_run(run, self.folder)
        self.time, self.step = time.perf_counter(), run.done
        if wish == SIGTERM:
            ended = f"{run.config.output}: ended by SIGTERM after step {run.done} of {run.steps}."
            raise machine.Preempted(f"{ended} {machine.GOES_ON}")


def save_run(run, folder: Path) -> None:
    """Write a checkpoint of the run, by the first process. Each process must call it."""
    tensors = tensors_of(run)
    state = {
        "config": dataclasses.asdict(run.config),
        "data": run.fingerprint,
        "precision": run.precision,
        "step": run.done,
        "continued": run.continued,
        "scaler": run.scaler.state_dict(),
    }
    if devices.rank() == 0:
        save(folder, run.done, tensors, state)


def tensors_of(run) -> dict[str, Tensor]:
    """What a checkpoint holds, of all processes, on the CPU. Each process must call it."""
    identities = run.head.num_classes
    tensors = {f"backbone.{name}": tensor for name, tensor in run.backbone.state_dict().items()}
    if run.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in run.average.state_dict().items()}
    tensors |= {f"head.{name}": tensor for name, tensor in run.head.gathered_state().items()}
    for name, parameter in run.parameters().items():
        for key, value in run.optimizer.state[parameter].items():
            of_rows = name == "head.weight" and value.shape == parameter.shape
            tensors[f"optimizer.{name}.{key}"] = devices.gather(value, identities) if of_rows else value
    tensors["random.flips"] = run.flips.get_state()
    tensors["random.torch"] = devices.gather(torch.get_rng_state()[None], devices.count())
    if torch.device(run.device).type == "cuda":
        tensors["random.cuda"] = devices.gather(torch.cuda.get_rng_state(run.device)[None], devices.count())
    tensors["log"] = torch.tensor(run.rows, dtype=torch.float64).reshape(-1, len(progress.COLUMNS))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def resume(run, folder: Path) -> None:
    """Take the run to where the last checkpoint in the folder has it, if there is one, of any number of processes.

    Raises ValueError if it is of other parameters or data.
    """
    last = load_last(folder)
    if last is None:
        return
    check_same(last[1], run.config, run.fingerprint, folder.parent)
    restore(run, *last)
    if devices.rank() == 0:
        print(f"{run.config.output}: going on after step {run.done} of {run.steps}")


def restore(run, tensors: dict[str, Tensor], state: dict) -> None:
    """The inverse of save_run."""

    def beginning(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    share, rank = devices.share(run.head.num_classes), devices.rank()
    run.compute_in(state["precision"])
    run.backbone.load_state_dict(beginning("backbone."))
    if run.average is not None:
        run.average.load_state_dict(beginning("average."))
    run.head.load_gathered_state(beginning("head."))
    for name, parameter in run.parameters().items():
        for key, value in beginning(f"optimizer.{name}.").items():
            if value.ndim == 0:  # AdamW's count of steps
                run.optimizer.state[parameter][key] = value.to(parameter.device)
            else:  # in the memory format of the parameter, as the fused optimizers want it
                own = value[share] if name == "head.weight" else value
                run.optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(own)
    run.flips.set_state(tensors["random.flips"])
    if rank < len(tensors["random.torch"]):  # a process more than there were keeps what it was seeded
        torch.set_rng_state(tensors["random.torch"][rank].clone())  # PyTorch wants memory of its own
    if rank < len(tensors.get("random.cuda", ())) and torch.device(run.device).type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"][rank].clone(), run.device)
    run.scaler.load_state_dict(state["scaler"])
    run.rows = [(int(step), int(epoch), *others) for step, epoch, *others in tensors["log"].tolist()]
    run.done, run.continued = state["step"], [*state["continued"], state["step"]]


def check_same(state: dict, config, fingerprint: str, folder: Path) -> None:
    """Raise ValueError, naming them, if a checkpoint's parameters or data are others than those asked for now."""
    now, before = dataclasses.asdict(config), state["config"]
    others = [
        f"{name} {before.get(name)!r}, now {now[name]!r}"
        for name in now
        if name not in FREE and now[name] != before.get(name)
    ]
    if state["data"] != fingerprint:
        others.append(f"data set {state['data']}, now {fingerprint}")
    if others:
        raise ValueError(
            f"{folder}: holds an unfinished run of other parameters: {'; '.join(others)}. Set them back to go on"
            " with it, or delete the folder."
        )


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict) -> None:
    """Write the checkpoint after `step` steps. Tensors are on the CPU. Raises OSError, naming the file, if the disk
    refuses; the earlier ones stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(state)
    with written_aside(folder / f"step-{step:08d}.safetensors") as partial:
        save_tensors(tensors, partial, {"state": text, "checksum": checksum(tensors, text)})
    for old in saved(folder)[:-KEPT]:
        old.unlink()


def load_last(folder: Path) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and state of the last whole checkpoint, or None if there is none. Damaged ones are told, and deleted once
    a whole one is found before them.
    """
    damaged = []
    for file in reversed(saved(folder)):
        try:
            with safetensors.safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            if metadata.get("checksum") != checksum(tensors, metadata["state"]):
                raise ValueError("its checksum differs")
            state = json.loads(metadata["state"])
        except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
            print(f"{file}: a damaged checkpoint ({error}), it is passed over")
            damaged.append(file)
            continue
        for bad in damaged:
            bad.unlink()
        return tensors, state
    if damaged:
        print(f"{folder}: no checkpoint is whole, the run begins anew")
    return None


def saved(folder: Path) -> list[Path]:
    """The checkpoints in the folder, the last one last."""
    return sorted(folder.glob("step-*.safetensors"))


def checksum(tensors: dict[str, Tensor], text: str) -> str:
    digest = xxh3_64(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
