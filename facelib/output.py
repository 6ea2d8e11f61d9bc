"""Results appear whole or not at all: folders are written aside and renamed."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_folder(output: str | Path, reserve: int = 0) -> Iterator[Path]:
    """A folder to write into, which becomes `output` when the block ends without an error, replacing what was there.

    With `reserve` that many bytes are held in its file `reserved`, so that a disk that fills up meanwhile can't lose
    the work: delete it just before writing. Raises OSError, naming the folder, if the disk has no room; what was
    there before stays.
    """
    output = Path(output)
    partial, old = (output.with_name(output.name + suffix) for suffix in (".partial", ".old"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if reserve:
            with (partial / "reserved").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, reserve)
        yield partial
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            room = f" ({reserve / 1e6:.0f} MB are needed)" if reserve else ""
            raise OSError(f"{output}: no space left on the disk{room}. Make room and run it again.") from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    partial.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
