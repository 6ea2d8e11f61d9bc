"""Which format a data set is held in, told by its path. Uses nothing but the standard library, as facelib.profiles."""

from pathlib import Path

RECORDS = "train.rec"
VERIFICATION_SET = ".bin"


def is_aligned(source: str | Path) -> bool:
    """Whether the source holds aligned crops by its format, so that no face is to be detected: a pack, a verification
    set or RecordIO.
    """
    return Path(source).is_file() or (Path(source) / RECORDS).exists()
