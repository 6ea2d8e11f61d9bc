"""Results appear whole or not at all: folders are written aside and renamed."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
from torch import Tensor

REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
REFUSALS |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT}


@contextlib.contextmanager
def whole_folder(output: str | Path, files: tuple[str, ...] = (), reserve: int = 0) -> Iterator[Path]:
    """A folder to write into, which becomes `output` when the block ends without an error.

    An earlier result at `output` is replaced: a folder that holds nothing but `files`. Any other is refused with
    FileExistsError before the block runs. With `reserve` that many bytes are held in the new folder's file
    `reserved`, so that a disk that fills up meanwhile can't lose the work: delete it just before writing. Raises
    OSError, naming the folder, if the disk has no room; what was there before stays.
    """
    output = Path(output)
    partial = output.with_name(output.name + ".partial")
    check_replaceable(output, files)
    shutil.rmtree(partial, ignore_errors=True)
    with telling(output):
        partial.mkdir(parents=True)
    try:
        hold(partial, reserve)
        yield partial
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if full := no_space(output, error, reserve):
            raise full from error
        raise
    put_in_place(partial, output)


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


def hold(folder: Path, reserve: int) -> None:
    """Take so many bytes of the disk, in the folder's file `reserved`, to be deleted before they are needed."""
    if reserve:
        with (folder / "reserved").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, reserve)


def put_in_place(folder: Path, output: Path) -> None:
    """Rename the folder to `output`, in the place of an earlier result."""
    old = output.with_name(output.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    folder.rename(output)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def unfinished_folder(output: str | Path, files: tuple[str, ...], kept: str, reserve: int = 0) -> Iterator[Path]:
    """As whole_folder, but what a killed or failed block has left in the folder is there the next time.

    The folder is <output>.unfinished, for this process alone: another one that wants it gets BlockingIOError. A block
    that fails before there is a file `kept` in it leaves no folder.
    """
    output = Path(output)
    folder = output.with_name(output.name + ".unfinished")
    check_replaceable(output, files)
    check_replaceable(folder, (*files, "lock", "reserved"))
    with telling(output):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BlockingIOError(
                f"{output}: another run is training into it. Wait until it is done, or name another output."
            ) from None
        for left in [path for path in folder.rglob("*") if path.is_file() and half_written(path)]:
            left.unlink()
        try:
            hold(folder, reserve)
            yield folder
        except BaseException as error:
            (folder / "reserved").unlink(missing_ok=True)
            if not (folder / kept).exists():
                shutil.rmtree(folder)
            if full := no_space(output, error, reserve):
                raise full from error
            raise
        (folder / "lock").unlink()
        put_in_place(folder, output)


@contextlib.contextmanager
def telling(target: Path) -> Iterator[None]:
    """What the disk refuses in the block, as one sentence that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:  # a sentence already, or something else that happened in the block
            raise
        refused = OSError(f"{target}: can't be written ({error.strerror or error}). Name another place.")
        raise no_space(target, error) or refused from error


def no_space(output: Path, error: BaseException, reserve: int = 0) -> OSError | None:
    """What to raise, naming the output, for an error that means a full disk or quota; None for any other error."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if full or os.strerror(errno.ENOSPC) in str(error):  # safetensors has an error of its own, without a number
        room = f" ({reserve / 1e6:.0f} MB are needed)" if reserve else ""
        return OSError(f"{output}: no space left on the disk{room}. Make room and run it again.")
    return None


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
