"""Runs a function in several processes that torch.distributed joins, over gloo on this machine."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing


def in_processes(count: int, function, *arguments) -> list:
    """What the function returns in each of `count` processes, by rank: tensors, numbers, text, and lists of them."""
    with tempfile.TemporaryDirectory() as folder:
        # Forked, so that none imports PyTorch anew. A failure of one ends all and is raised here.
        torch.multiprocessing.start_processes(run, (count, folder, function, arguments), count, start_method="fork")
        return [torch.load(os.path.join(folder, str(rank)), weights_only=True) for rank in range(count)]


def run(rank: int, count: int, folder: str, function, arguments) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    torch.save(function(*arguments), os.path.join(folder, str(rank)))
    dist.destroy_process_group()
