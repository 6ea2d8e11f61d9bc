"""Reading image files: any mode and depth that people have, one error that names the file."""

import contextlib
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

LFW_FOLDERS = ("lfw-deepfunneled", "lfw_funneled", "lfw-funneled", "lfw", "lfw-synthetic")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif", ".jp2"}
JPEG, EXIF = b"\xff\xd8\xff", b"Exif\0\0"

# Above half of the size that Pillow takes it warns; above all of it there is an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(ValueError):
    """A file that is not a whole image. The message names it."""


def read_image(path: str | Path) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Grey images get three equal channels, CMYK is converted, transparency is dropped, 16 bits are scaled to 8.
    Raises ImageError, naming the file, if it is missing, empty, truncated, not an image or one of 32-bit numbers.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to read a pipe would wait for ever
            raise OSError("it is no regular file")
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: not a readable image ({error}). Replace or delete the file.") from error
    return decode_image(content, path)


def decode_image(content: bytes, name: str | Path, mend: str = "Replace or delete the file.") -> np.ndarray:
    """read_image of what a file holds. Its ImageError calls the image by this name; `mend` says what to do then."""
    if content.startswith(JPEG) and EXIF not in content:  # the usual JPEG, upright: the same pixels in half of the time
        with contextlib.suppress(ValueError):  # a damaged one, or one of four colours: Pillow tells, or converts
            height, width, *_ = simplejpeg.decode_jpeg_header(content)
            if height * width <= Image.MAX_IMAGE_PIXELS:
                return simplejpeg.decode_jpeg(content, "RGB", strict=True)
    file = io.BytesIO(content)
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                raise ValueError("its pixels are 32-bit numbers of unknown range")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion to RGB would clip at 255
                grey = np.clip(np.asarray(image, dtype=np.float32) / 257, 0, 255).round().astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).replace(f" {file!r}", "")  # its name for Pillow, an address in memory
        raise ImageError(f"{name}: not a readable image ({reason}). {mend}") from error


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
