"""What every loss has: a weight for each identity, shared among processes."""

import torch
from torch import Tensor, nn

from facelib.devices import share


class Head(nn.Module):
    """What both losses have: a row W_j for each identity, of several processes (torch.distributed) each its share.

    `weight` is (identities of this process, embedding_size), those numbered from `first` on. One seed of PyTorch's
    gives the same rows whatever the number of processes.
    """

    def __init__(self, embedding_size: int, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        mine = share(num_classes)
        self.first = mine.start
        rows = torch.empty(num_classes, embedding_size)
        nn.init.normal_(rows, std=0.01)
        self.weight = nn.Parameter(rows[mine].clone())

    def rows(self) -> dict[str, Tensor]:
        """All that there is one row for each of this process's identities of, by name."""
        return {"weight": self.weight}


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
