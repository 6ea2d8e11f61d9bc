"""Results appear whole or not at all: folders are written aside and renamed."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_folder(output: str | Path, files: tuple[str, ...] = (), reserve: int = 0) -> Iterator[Path]:
    """A folder to write into, which becomes `output` when the block ends without an error.

    An earlier result at `output` is replaced: a folder that holds nothing but `files`. Any other is refused with
    FileExistsError before the block runs. With `reserve` that many bytes are held in the new folder's file
    `reserved`, so that a disk that fills up meanwhile can't lose the work: delete it just before writing. Raises
    OSError, naming the folder, if the disk has no room; what was there before stays.
    """
    output = Path(output)
    partial, old = (output.with_name(output.name + suffix) for suffix in (".partial", ".old"))
    if old.exists() and not output.exists():  # killed between the two renames below
        old.rename(output)
    if output.exists():
        others = sorted({path.name for path in output.iterdir()} - {*files}) if output.is_dir() else ["it is a file"]
        if others:
            shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
            raise FileExistsError(f"{output}: will not be replaced, it is not an earlier result of this kind ({shown})")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if reserve:
            with (partial / "reserved").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, reserve)
        yield partial
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if full := no_space(output, error, reserve):
            raise full from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    partial.rename(output)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def telling(target: Path) -> Iterator[None]:
    """What the disk refuses in the block, as one sentence that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):  # a sentence already, or what was to be read
            raise
        refused = OSError(f"{target}: can't be written ({error.strerror or error}). Name another place.")
        raise no_space(target, error) or refused from error


def no_space(output: Path, error: Exception, reserve: int = 0) -> OSError | None:
    """What to raise, naming the output, for an error that means a full disk or quota; None for any other error."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if full or os.strerror(errno.ENOSPC) in str(error):  # safetensors has an error of its own, without a number
        room = f" ({reserve / 1e6:.0f} MB are needed)" if reserve else ""
        return OSError(f"{output}: no space left on the disk{room}. Make room and run it again.")
    return None


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
