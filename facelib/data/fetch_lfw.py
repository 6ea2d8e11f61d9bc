"""Fetch LFW's funneled images and its pairs files with scikit-learn, which checks what it downloads.

python -m facelib.data.fetch_lfw DATA    # into DATA/lfw
"""

import contextlib
import sys
import warnings
from pathlib import Path

from sklearn.datasets import fetch_lfw_pairs

HOME = "lfw_home"  # where scikit-learn puts it


def fetch_lfw(data: str | Path) -> Path:
    """Download LFW into `<data>/lfw`, return that folder. Raises FileExistsError if there is one already, and OSError,
    with what to put where, if it can't be fetched.
    """
    target, home = Path(data) / "lfw", Path(data) / HOME
    if target.exists():
        raise FileExistsError(f"{target}: is there already. Delete it first if it should be fetched again.")
    try:
        with warnings.catch_warnings(action="ignore"):  # of each attempt that failed
            fetch_lfw_pairs(subset="test", data_home=str(data))
    except OSError as error:  # URLError and a wrong checksum are OSErrors too
        with contextlib.suppress(OSError):
            home.rmdir()  # if it is empty
        raise OSError(
            f"{target}: LFW could not be fetched ({error}). Put its images there as lfw_funneled/<Name>/<Name>_0001.jpg"
            " and pairs.txt, pairsDevTrain.txt and pairsDevTest.txt beside that folder."
        ) from error
    home.rename(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(f"{fetch_lfw(sys.argv[1])}: LFW, funneled, by scikit-learn")
    except OSError as error:
        sys.exit(f"\n{error}")
