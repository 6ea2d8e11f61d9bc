"""What a run that is killed goes on from: one safetensors file a checkpoint, whole or absent. No code runs when one is
read.

    <folder>/step-00001234.safetensors

Its tensors are weights, the optimizer's and the random states; its metadata has `state`, JSON, with all that are no
tensors, and `checksum`, xxh3_64 of both, so that a change of any bit of them is found. A file is written aside, synced
and renamed; the last two are kept.
"""

import json
import os
import shutil
from pathlib import Path

import safetensors
import torch
from torch import Tensor
from xxhash import xxh3_64

from facelib.output import save_tensors, telling

KEPT = 2


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict) -> None:
    """Write the checkpoint after `step` steps. Tensors are on the CPU. Raises OSError, naming the file, if the disk
    refuses; the earlier ones stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{step:08d}.safetensors"
    text = json.dumps(state)
    partial = file.with_suffix(".partial")
    with telling(file):
        metadata = {"state": text, "checksum": checksum(tensors, text)}
        try:
            save_tensors(tensors, partial, metadata)
        except safetensors.SafetensorError as error:  # it has no OSErrors
            raise OSError(f"{file}: can't be written ({error}). Make room and run it again.") from error
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, file)
        sync(folder)
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


def delete(folder: Path) -> None:
    """All checkpoints, once the run is finished."""
    shutil.rmtree(folder, ignore_errors=True)


def checksum(tensors: dict[str, Tensor], text: str) -> str:
    digest = xxh3_64(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def sync(folder: Path) -> None:
    """Have the names in the folder on the disk, not only in memory."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
