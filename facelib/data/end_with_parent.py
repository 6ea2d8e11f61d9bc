"""A process that works for another and ends with it, however that one ends."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent(*_) -> None:
    """From now on this process of multiprocessing ends when its parent has. It would wait for work for ever.

    A DataLoader's worker_init_fn: PyTorch's own watch misses a parent that was killed before the worker ran.
    """
    threading.Thread(target=wait_for_parent, daemon=True).start()


def wait_for_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
