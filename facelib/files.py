"""Results appear whole or not at all: folders are written aside and renamed."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSALS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
REFUSALS |= {errno.ENAMETOOLONG, errno.ENOENT}


@contextlib.contextmanager
def whole_folder(output: str | Path, files: tuple[str, ...] = ()) -> Iterator[Path]:
    """A folder to write into, which becomes `output` when the block ends without an error.

    An earlier result at `output` is replaced: a folder that holds nothing but `files`. Any other is refused with
    FileExistsError before the block runs. Raises OSError, naming the folder, if the disk has no room; what was there
    before stays.
    """
    output = Path(output)
    partial = output.with_name(output.name + ".partial")
    check_replaceable(output, files)
    shutil.rmtree(partial, ignore_errors=True)
    with telling(output):
        partial.mkdir(parents=True)
    try:
        with telling(output, refusals=set()):  # what the block does elsewhere on the disk is not the output's
            yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    put_in_place(partial, output)


@contextlib.contextmanager
def unfinished_folder(output: str | Path, files: tuple[str, ...], kept: str, reserve: int = 0) -> Iterator[Path]:
    """As whole_folder, but what a killed or failed block has left in the folder is there the next time.

    The folder is <output>.unfinished, for this process alone: another one that wants it gets BlockingIOError. A block
    that fails before there is a file `kept` in it leaves no folder. So many bytes as `reserve` are held in the folder's
    file `reserved`, so that a disk that fills up meanwhile can't lose the work: delete it just before writing.
    """
    output = Path(output)
    folder = output.with_name(output.name + ".unfinished")
    check_replaceable(output, files)
    check_replaceable(folder, (*files, "lock", "reserved"))
    with telling(output):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", f"{output}: another run is training into it. Wait for it, or name another output."):
        for path in [path for path in folder.rglob("*") if path.is_file() and half_written(path)]:
            path.unlink()
        try:
            with telling(output, refusals=set()):
                if reserve:
                    with (folder / "reserved").open("wb") as file:
                        os.posix_fallocate(file.fileno(), 0, reserve)
                yield folder
        except BaseException:
            (folder / "reserved").unlink(missing_ok=True)
            if not (folder / kept).exists():
                shutil.rmtree(folder)
            raise
        (folder / "lock").unlink()
        put_in_place(folder, output)


@contextlib.contextmanager
def locked(file: Path, message: str) -> Iterator[None]:
    """In the block the file is this process's. Raises BlockingIOError with the message if it is another's.

    lockf and not flock, nor filelock, which uses it: such a lock would live on in worker processes of a killed one.
    """
    with file.open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BlockingIOError(message) from None
        yield


def check_replaceable(output: Path, files: tuple[str, ...]) -> None:
    """Raise FileExistsError if something else is at `output` than an earlier result: a folder of but `files`."""
    old = output.with_name(output.name + ".old")
    if old.exists() and not output.exists():  # killed between the two renames of put_in_place
        old.rename(output)
    if output.exists():
        others = ["it is a file"]
        if output.is_dir():
            others = sorted({path.name for path in output.iterdir() if not half_written(path)} - {*files})
        if others:
            shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
            raise FileExistsError(f"{output}: will not be replaced, it is not an earlier result of this kind ({shown})")


def half_written(file: Path) -> bool:
    """Whether it is what a killed process of ours, or safetensors', had not finished."""
    return file.suffix == ".partial" or file.name.startswith(".tmp")


def put_in_place(folder: Path, output: Path) -> None:
    """Rename the folder to `output`, in the place of an earlier result."""
    old = output.with_name(output.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    folder.rename(output)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file`, on the disk for certain, when the block ends without an error.

    Raises OSError, naming the file, if the disk refuses; an earlier file stays.
    """
    partial = file.with_suffix(".partial")
    with telling(file):
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name too
        finally:
            os.close(folder)


@contextlib.contextmanager
def telling(target: Path, refusals: set[int] = REFUSALS) -> Iterator[None]:
    """What the disk refuses in the block, as one sentence that names the target."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)  # None of what is a sentence already
        # safetensors has an error of its own, without a number.
        if number in FULL or os.strerror(errno.ENOSPC) in str(error):
            raise OSError(f"{target}: no space left on the disk. Make room and run it again.") from error
        if number in refusals or isinstance(error, safetensors.SafetensorError):
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"{target}: can't be written ({reason}). Name another place.") from error
        raise


def save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file for whom new files here are for: the library's own are for their owner alone."""
    file.touch()
    mode = file.stat().st_mode
    safetensors.torch.save_file(tensors, file, metadata)
    file.chmod(mode)


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
