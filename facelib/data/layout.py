"""Which files of a folder are images of a data set, and which format it is held in, told by its path alone.

Uses nothing but the standard library: report plans are made before there is an environment.
"""

import os
from pathlib import Path

LFW_FOLDERS = ("lfw-deepfunneled", "lfw_funneled", "lfw-funneled", "lfw", "lfw-synthetic")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif", ".jp2"}
RECORDS = "train.rec"
PACK_INDEX = "index.json"
VERIFICATION_SET = ".bin"


def list_images(folder: str | Path) -> list[str]:
    """Paths of all images one level down, `<identity>/<file>`, relative to the folder, sorted.

    Hidden folders and files are passed over. Raises FileNotFoundError if the folder is missing, ValueError if it
    holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        hint = f" {folder.parent} holds: {', '.join(beside[:10]) or 'no folder'}." if folder.parent.is_dir() else ""
        raise FileNotFoundError(f"{folder}: no such data folder.{hint}")
    images = [f"{identity}/{image}" for identity in list_identities(folder) for image in images_in(folder / identity)]
    if not images:
        raise ValueError(f"{folder}: no images. Expected one folder an identity: <identity>/<image>.jpg")
    return images


def list_identities(folder: str | Path) -> list[str]:
    """Names of the folders in the folder, sorted, whether or not they hold images."""
    return sorted(entry.name for entry in entries(folder) if is_folder(entry) and not hidden(entry.name))


def images_in(folder: Path) -> list[str]:
    """Names of the images that lie in the folder itself, sorted."""
    return sorted(
        entry.name
        for entry in entries(folder)
        if os.path.splitext(entry.name)[1].lower() in SUFFIXES and not hidden(entry.name) and not is_folder(entry)
    )


def passed_over(folder: Path) -> list[str]:
    """Files that list_images leaves out though people may mean them: of other names, or in no identity's folder."""
    loose = [entry.name for entry in entries(folder) if os.path.splitext(entry.name)[1].lower() in SUFFIXES]
    listed = {identity: {*images_in(folder / identity)} for identity in list_identities(folder)}
    others = [
        f"{identity}/{entry.name}"
        for identity, images in listed.items()
        for entry in entries(folder / identity)
        if entry.name not in images and not hidden(entry.name) and not is_folder(entry)
    ]
    return sorted(loose) + sorted(others)


def entries(folder: Path) -> list[os.DirEntry]:
    try:
        return [*os.scandir(folder)]
    except PermissionError as error:
        raise PermissionError(f"{folder}: can't be read ({error.strerror}). Allow it, or move it away.") from None


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: it is told when it is read
        return False


def hidden(name: str) -> bool:
    """Whether programs, not people, put it there: .ipynb_checkpoints, macOS' ._0001.jpg and __MACOSX."""
    return name.startswith((".", "__MACOSX"))


def lfw_images(folder: str | Path) -> Path:
    """Where the images are in an LFW folder, which also holds pairs.txt.

    They lie in a subfolder with one of LFW_FOLDERS' names, in one of the same name within it, as some archives unpack,
    or in the folder itself. Raises FileNotFoundError if there are none.
    """
    folder = Path(folder)
    for place in [*(folder / name for name in LFW_FOLDERS), *(folder / name / name for name in LFW_FOLDERS), folder]:
        if place.is_dir() and any(images_in(identity) for identity in place.iterdir() if identity.is_dir()):
            return place
    raise FileNotFoundError(
        f"{folder}: no LFW images there. Expected <Name>/<Name>_0001.jpg in it or in one of: {', '.join(LFW_FOLDERS)}"
    )


def images_folder(folder: str | Path) -> Path:
    """Where the images of a data folder are: of an LFW folder, known by its pairs files, as lfw_images tells."""
    folder = Path(folder)
    return lfw_images(folder) if any(folder.glob("pairs*.txt")) else folder


def is_aligned(source: str | Path) -> bool:
    """Whether the source holds aligned crops by its format, so that no face is to be detected: a pack, a verification
    set or RecordIO.
    """
    source = Path(source)
    return source.is_file() or (source / RECORDS).exists() or (source / PACK_INDEX).exists()
