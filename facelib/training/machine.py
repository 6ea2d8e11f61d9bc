"""What a run must know of the machine that it is on: number formats, processes, memory, signals and disk.

These are the guards around the loop of trainer.py. Nothing here decides what is learned.
"""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from facelib import devices
from facelib.devices import choose_device
from facelib.files import unfinished_folder

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# What PyTorch, oneDNN and C++ say of that on a CPU.
OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive", "bad_alloc")
GOES_ON = "The same command goes on."
# What a run's folder may hold.
FILES = ("weights.safetensors", "head.safetensors", "parameters.json", "metrics.json", "log.csv", "environment.json")
FILES += ("validation.csv", "tensorboard", "checkpoints", "not-finite.txt")


def precision_of(precision: str, device: str) -> str:
    """One of DTYPES, for auto bf16 where the device, cpu or cuda, is faster in it.

    A CPU without bf16 arithmetic emulates it, several times slower than float32. AVX-512's bf16 dot products alone
    don't help either: on an Intel Xeon without AMX both backbones train at 0.5 to 0.7 times the images/s of float32.
    """
    if precision != "auto":
        return precision
    if device != "cpu":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu.get_capabilities().get("amx_bf16", False)
    return "bf16" if fast else "float32"


def prepare(deterministic: bool, device: str) -> None:
    """Set what PyTorch and the C library have to be told once, before the first step."""
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device == "cpu":
        keep_freed_memory()


TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
    """From now on this process keeps the memory that a step frees for the next one, if its C library is glibc.

    glibc gives large blocks back to the system when they are freed, and the next step takes each page anew: on an Intel
    Xeon of two cores that costs EfficientNet-B3 a third and ResNet-50 an eighth of their images/s.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(MMAP_THRESHOLD, 2**31 - 1)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(TOP_PAD, 64 * 2**20)


class Preempted(BaseException):
    """A SIGTERM, as a cluster sends it before it takes a machine away, ended the run.

    As KeyboardInterrupt it is no Exception, so that nobody takes it for a failure that can be mended.
    """


@contextlib.contextmanager
def on_sigterm(message: str, stop: threading.Event | None = None) -> Iterator[None]:
    """In the block a SIGTERM sets `stop` or, without one, raises Preempted at once with the message.

    Signals reach the main thread alone.
    """

    def hear(*_) -> None:
        if stop is None:
            raise Preempted(f"{message} {GOES_ON}")
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def joined(output: str, device: str) -> Iterator[str]:
    """The device of this process: of those that torchrun has started, which are one run in the block.

    A SIGTERM ends the block at once with Preempted. Raises MemoryError or RuntimeError, naming the output, where the
    machine's memory or another process failed.
    """
    try:
        with on_sigterm(f"{output}: ended by SIGTERM."):
            yield devices.join(choose_device(device))
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise MemoryError(
                f"{output}: out of memory ({str(error).splitlines()[0]}). Set accumulate to 2 or more, so that a step's"
                " images are computed in parts, or take a smaller backbone or embedding_size."
            ) from error
        if devices.count() > 1 and devices.lost_another(error):
            raise RuntimeError(f"{output}: another process died, or was silent for long. {GOES_ON}") from error
        raise
    finally:
        devices.leave()


def check_shares(batch_size: int, images: int) -> None:
    """Raise ValueError where some of the processes would have no image of a batch."""
    if devices.count() > min(batch_size, images):
        raise ValueError(f"batch_size {batch_size} and {images} images leave some of {devices.count()} processes none")


@contextlib.contextmanager
def run_folder(output: str, *modules: torch.nn.Module) -> Iterator[Path]:
    """The unfinished run's folder, with room for the modules' weights. The first process makes and finishes it."""
    if devices.rank() > 0:
        devices.agree(0)  # it is there now
        yield Path(output).with_name(Path(output).name + ".unfinished")
        return
    room = sum(p.numel() * p.element_size() for module in modules for p in module.state_dict().values()) + 2**20
    with unfinished_folder(output, FILES, "checkpoints", room) as folder:
        devices.agree(0)
        yield folder
