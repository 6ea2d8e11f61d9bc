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
