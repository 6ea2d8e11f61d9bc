"""Several processes that train one model (torch.distributed): who has what, and how they agree.

PyTorch's launcher, torchrun, starts them, on one host or many. Without it everything here is of one process alone.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(minutes=10)  # with a process that is silent; one that died is noticed at once


def join(device: str) -> str:
    """Join the processes that torchrun has started, if it has. Returns this process's device: its own GPU, if there
    are enough.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return device
    if device == "cuda":
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo", timeout=PATIENCE)
    return device


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def lost_another(error: RuntimeError) -> bool:
    """Whether it is what gloo or NCCL raises where another process is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def shares(total: int, processes: int) -> list[int]:
    """How many of `total` things each process has: as equal as can be, the first ones have one more."""
    return [total // processes + (rank < total % processes) for rank in range(processes)]


def slices(total: int) -> list[slice]:
    """Which of `total` things are each process's."""
    counts = shares(total, count())
    return [slice(sum(counts[:rank]), sum(counts[: rank + 1])) for rank in range(len(counts))]


def share(total: int) -> slice:
    """Which of `total` things are this process's."""
    return slices(total)[rank()]


def gather(mine: Tensor, total: int) -> Tensor:
    """All processes' parts (n, ...), each its share of `total`, one after the other: (total, ...), on each process."""
    if count() == 1:
        return mine
    counts = shares(total, count())
    padded = mine.new_zeros(max(counts), *mine.shape[1:])  # all processes must send equally much
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, counts)])


def reduce(tensor: Tensor, how=dist.ReduceOp.SUM) -> None:
    """Sum, or what else is asked for, over all processes, in place."""
    if count() > 1:
        dist.all_reduce(tensor, how)


def agree(wish: int) -> int:
    """The largest of all processes' wishes. Over the CPU: a GPU's queue need not run empty for it."""
    if count() == 1:
        return wish
    wishes = torch.tensor(wish)
    dist.all_reduce(wishes, dist.ReduceOp.MAX)
    return int(wishes)


def sum_gradients(_, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """For DistributedDataParallel, which takes the mean: a loss of all processes' images has gradients that add up."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda reduced: reduced.value()[0])


def choose_device(device: str) -> str:
    """auto, cpu or cuda -> cpu or cuda. Raises ValueError if there is no CUDA GPU, or for another name."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch sees no CUDA GPU here. Set device to cpu or auto.")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, found {device!r}")
    return device
