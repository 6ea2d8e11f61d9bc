"""Low light on uint8 RGB crops (N, 3, H, W): the published transform, a physical one, and what may repair it.

All are pure functions, uint8 -> uint8 of the same shape, and treat the three channels alike.

`published` takes the root of each channel's value, which halves the logarithm of the ratio of any two values: it
flattens the contrast and pales the colours, and leaves 31 levels. `darken` divides each channel's linear light by one
number: contrast and colours stay, but for the noise, which is drawn for each channel apart, and the rounding to 8 bit.

The repairs are blind: they know neither the light nor the camera, and look at one image at a time.
"""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

LOW_LIGHT_FACTOR = 2
# A small sensor's at base gain: Sony IMX477, 1.55 um pixels, 1/2.3 inch, as J. Hogan measured it (Pi HQ Cam Sensor
# Performance, strollswithmydog.com): it clips at 8180 electrons and reads with a noise of 3.
FULL_WELL = 8180  # electrons at white
READ_NOISE = 3.0  # electrons, standard deviation
WHITE_SHARE = 0.99  # of an image's values that `gain` leaves at or below white
CLIP_LIMIT, GRID = 2.0, (8, 8)  # of clahe: the limit of OpenCV's own examples, and its default grid


def published(images: Tensor) -> Tensor:
    """The published low-light transform, x -> 2 sqrt(x), on uint8 in [0, 255] and cast back: at most 31.

    It takes 6.2 stops of light from white, 4.7 from mid-grey and 2.1 from a shadow of 32, and adds no noise.
    """
    return (LOW_LIGHT_FACTOR * images.float().sqrt()).to(torch.uint8)


def to_linear(encoded: Tensor) -> Tensor:
    """sRGB values in [0, 1] -> linear light in [0, 1] (IEC 61966-2-1)."""
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def from_linear(light: Tensor) -> Tensor:
    """Linear light in [0, 1] -> sRGB values in [0, 1] (IEC 61966-2-1)."""
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def read_out(electrons: Tensor, generator: torch.Generator) -> Tensor:
    """The electrons that light is expected to set free, float >= 0 -> those that a sensor reads, of any sign.

    Shot noise is Poisson's, read noise Gaussian: the variance is electrons + READ_NOISE ** 2.
    """
    counted = torch.poisson(electrons, generator=generator)
    return counted + READ_NOISE * torch.randn(electrons.shape, generator=generator)


def darken(images: Tensor, stops: float, generator: torch.Generator) -> Tensor:
    """What a small sensor would have recorded of (N, 3, H, W) uint8 sRGB with 2 ** stops times less light.

    The exposure stays, so the image gets dark. Linear light over 2 ** stops, as electrons of FULL_WELL, is read out
    with noise, clipped to [0, FULL_WELL], encoded as sRGB and rounded to 8 bit. At stops = 0 the light is the image's
    own but the sensor's noise is there, on top of what noise the image came with. Not modelled: the colour filter,
    white balance, and the averaging of sensor pixels when a photograph is made smaller.
    `images` and `generator` live on the CPU. Raises ValueError if stops is negative.
    """
    if not stops >= 0:
        raise ValueError(f"stops must be 0 or more, found {stops}")
    light = to_linear(images.float() / 255) / 2.0**stops
    light = (read_out(FULL_WELL * light, generator) / FULL_WELL).clamp_(0, 1)
    return to_bytes(from_linear(light))


def to_bytes(values: Tensor) -> Tensor:
    """[0, 1], clipped to it -> uint8, rounded to the nearest level."""
    return (255 * values).round_().clamp_(0, 255).to(torch.uint8)


def gain(images: Tensor) -> Tensor:
    """Each image's 8-bit values scaled so that WHITE_SHARE of them, of all channels, end at or below 255; then clipped.

    One factor for the three channels. An image is scaled by 255 at most, so that a black one stays black.
    """
    values = images.flatten(1)
    white = values.kthvalue(math.ceil(WHITE_SHARE * values.shape[1]), dim=1).values.clamp(min=1)
    return to_bytes(images / white[:, None, None, None])


def gamma(images: Tensor) -> Tensor:
    """Each image by the power curve x -> x ** p, in [0, 1], that takes its mean of all channels to 0.5.

    It is the mean value that becomes mid-grey, p = ln 0.5 / ln mean; the new image's mean is only near. Means are
    taken to be half a level or more from black and from white, whose logarithms are no use.
    """
    values = images.float() / 255
    mean = values.mean((1, 2, 3), keepdim=True).clamp(0.5 / 255, 1 - 0.5 / 255)
    return to_bytes(values ** (math.log(0.5) / mean.log()))


def equalise(images: Tensor) -> Tensor:
    """Each image's luminance, Y of YCrCb, with its histogram spread evenly over 0..255 (OpenCV's equalizeHist).

    Cr and Cb stay: the colours remain as faint as they were in the dark.
    """
    return on_luminance(images, cv2.equalizeHist)


def clahe(images: Tensor) -> Tensor:
    """Each image's luminance by CLAHE (Zuiderveld 1994; OpenCV's): histograms of GRID tiles, cut at CLIP_LIMIT times
    their mean. Cr and Cb stay, as in `equalise`.
    """
    return on_luminance(images, cv2.createCLAHE(CLIP_LIMIT, GRID).apply)


def on_luminance(images: Tensor, change) -> Tensor:
    """(N, 3, H, W) uint8 with `change`, (H, W) uint8 -> (H, W) uint8, done to each image's Y of YCrCb."""
    changed = []
    for image in images.permute(0, 2, 3, 1).numpy():
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2YCrCb)
        image[:, :, 0] = change(np.ascontiguousarray(image[:, :, 0]))
        changed.append(cv2.cvtColor(image, cv2.COLOR_YCrCb2RGB))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).contiguous()


REPAIRS = {"none": None, "gain": gain, "gamma": gamma, "equalise": equalise, "clahe": clahe}
