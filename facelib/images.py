"""Reading image files: any mode and depth that people have, one error that names the file."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LFW_FOLDERS = ("lfw-deepfunneled", "lfw_funneled", "lfw-funneled", "lfw", "lfw-synthetic")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


class ImageError(ValueError):
    """A file that is not a whole image. The message names it."""


def read_image(path: str | Path) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Grey images get three equal channels, CMYK is converted, transparency is dropped, 16 bits are scaled to 8.
    Raises ImageError, naming the file, if it is missing, empty, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion to RGB would clip at 255
                grey = np.clip(np.asarray(image, dtype=np.float32) / 257, 0, 255).round().astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: not a readable image ({error}). Replace or delete the file.") from error


def list_images(folder: str | Path) -> list[str]:
    """Paths of all images one level down, `<identity>/<file>`, relative to the folder, sorted.

    Raises FileNotFoundError if the folder is missing, ValueError if it holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        hint = f" {folder.parent} holds: {', '.join(beside[:10]) or 'no folder'}." if folder.parent.is_dir() else ""
        raise FileNotFoundError(f"{folder}: no such data folder.{hint}")
    images = [
        f"{identity.name}/{file.name}"
        for identity in sorted(folder.iterdir())
        if identity.is_dir()
        for file in sorted(identity.iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not images:
        raise ValueError(f"{folder}: no images. Expected one folder an identity: <identity>/<image>.jpg")
    return images


def lfw_images(folder: str | Path) -> Path:
    """The images of an LFW folder, which also holds pairs.txt: its first subfolder with one of LFW_FOLDERS' names."""
    folder = Path(folder)
    for name in LFW_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    raise FileNotFoundError(f"{folder}: no folder of LFW images there. Expected one of: {', '.join(LFW_FOLDERS)}")
