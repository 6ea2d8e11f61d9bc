"""Low light and its repairs against the sRGB formula, Poisson's variance, OpenCV and images whose answer is known."""

import math

import cv2
import numpy as np
import pytest
import torch

from facelib.faces.light import (
    FULL_WELL,
    READ_NOISE,
    REPAIRS,
    clahe,
    darken,
    equalise,
    from_linear,
    gain,
    gamma,
    published,
    read_out,
    to_linear,
)

REPAIRING = [name for name, repair in REPAIRS.items() if repair is not None]


def linear(value: float) -> float:
    """IEC 61966-2-1 of one 8-bit value, in double precision."""
    encoded = value / 255
    return encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4


def encode(light: float) -> float:
    """Its inverse, not rounded."""
    return 255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


def flat(value: int, count: int = 1) -> torch.Tensor:
    return torch.full((count, 3, 112, 112), value, dtype=torch.uint8)


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Blurred noise of different brightness, coloured."""
    rng = np.random.default_rng(0)
    pictures = []
    for brightness in (1, 0.5, 0.1):
        picture = cv2.GaussianBlur(rng.integers(0, 256, (112, 112, 3)).astype(np.uint8), (0, 0), 3)
        pictures.append((picture * brightness * (1, 1, 0.7)).astype(np.uint8))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


# --- the light


def test_published_is_twice_the_root_rounded_down_for_all_256_values():
    """floor(2 sqrt(x)) = isqrt(4 x), in whole numbers."""
    dimmed = published(torch.arange(256, dtype=torch.uint8))
    assert dimmed.dtype == torch.uint8
    assert dimmed.tolist() == [math.isqrt(4 * x) for x in range(256)]
    assert len(dimmed.unique()) == 31 and dimmed.max() == 31


@pytest.mark.parametrize("value, stops", [(255, 6.2), (128, 4.7), (32, 2.1)], ids=["white", "mid-grey", "shadow"])
def test_published_takes_more_stops_from_the_bright_than_from_the_dark(value, stops):
    assert math.log2(linear(value) / linear(int(published(torch.tensor(value))))) == pytest.approx(stops, abs=0.05)


def test_the_srgb_curve_is_the_standards_and_its_inverse_takes_all_256_values_back():
    values = torch.arange(256)
    light = to_linear(values / 255)
    assert light.tolist() == pytest.approx([linear(x) for x in range(256)], abs=1e-6)
    assert torch.equal((255 * from_linear(light)).round().int(), values.int())
    assert to_linear(torch.tensor(0.5)).item() == pytest.approx(0.21404114, abs=1e-6)  # published value of mid-grey


@pytest.mark.parametrize("value", [255, 200, 128])
@pytest.mark.parametrize("stops", [1, 2, 3.5])
def test_each_stop_halves_the_linear_light_of_a_flat_patch(value, stops):
    dark = darken(flat(value, 2), stops, noise())
    shares = np.bincount(dark.flatten().numpy(), minlength=256) / dark.numel()
    mean = sum(share * linear(level) for level, share in enumerate(shares))
    assert mean == pytest.approx(linear(value) / 2**stops, rel=0.004)  # rounding moves it by less than that
    assert dark.float().mean().item() == pytest.approx(encode(linear(value) / 2**stops), abs=0.4)


def test_the_three_channels_lose_the_same_share_of_light():
    colour = torch.tensor([220, 160, 110], dtype=torch.uint8)
    dark = darken(colour[None, :, None, None].expand(2, 3, 112, 112), 2, noise()).float().mean((0, 2, 3))
    assert dark.tolist() == pytest.approx([encode(linear(x) / 4) for x in colour.tolist()], abs=0.4)


@pytest.mark.parametrize("electrons", [0, 2, 50, FULL_WELL])
def test_read_electrons_have_the_mean_of_the_light_and_the_variance_of_shot_and_read_noise(electrons):
    n = 400_000
    read = read_out(torch.full((n,), float(electrons)), noise()).double()
    variance = electrons + READ_NOISE**2
    assert read.mean().item() == pytest.approx(electrons, abs=4 * math.sqrt(variance / n))
    assert read.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2.1 / n))


def test_the_noise_of_a_darkened_patch_is_that_of_its_electrons():
    """Mid-grey, 2 stops: the standard deviation of linear light follows to first order through the sRGB curve."""
    light = linear(128) / 4
    electrons = FULL_WELL * light
    slope = (encode(light * 1.001) - encode(light * 0.999)) / (0.002 * light)
    expected = slope * math.sqrt(electrons + READ_NOISE**2) / FULL_WELL
    found = darken(flat(128, 2), 2, noise()).float().std().item()
    assert found == pytest.approx(math.sqrt(expected**2 + 1 / 12), rel=0.02)  # 1/12: the variance of rounding


def test_no_stops_keep_the_image_but_for_the_sensors_noise(images):
    lit = darken(images, 0, noise())
    difference = lit.float() - images.float()
    assert difference.mean().abs() < 0.1 and 0.5 < difference.std() < 3
    assert not torch.equal(lit, images)


def test_darkened_images_are_8_bit_of_the_same_shape_and_the_input_stays(images):
    before = images.clone()
    dark = darken(images, 3, noise())
    assert dark.dtype == torch.uint8 and dark.shape == images.shape
    assert torch.equal(images, before)


def test_one_seed_gives_one_noise_and_another_seed_another(images):
    assert torch.equal(darken(images, 2, noise(1)), darken(images, 2, noise(1)))
    assert not torch.equal(darken(images, 2, noise(1)), darken(images, 2, noise(2)))


def test_white_is_clipped_at_the_full_well_and_black_at_zero():
    """Of symmetric noise half lies above the full well, and there white is whole."""
    white = darken(flat(255, 2), 0, noise())
    assert (white == 255).float().mean() > 0.5 and white.min() > 245
    black = darken(flat(0, 2), 0, noise())
    assert (black == 0).float().mean() > 0.5
    assert black.max() <= encode(6 * READ_NOISE / FULL_WELL)


@pytest.mark.parametrize("stops", [-1, -0.1, math.nan])
def test_negative_stops_are_refused(images, stops):
    with pytest.raises(ValueError, match="stops must be 0 or more, found"):
        darken(images, stops, noise())


# --- the repairs


@pytest.mark.parametrize("name", REPAIRING)
def test_a_repair_works_on_each_image_on_its_own_and_leaves_its_input(name, images):
    before = images.clone()
    together = REPAIRS[name](images)
    assert together.dtype == torch.uint8 and together.shape == images.shape
    assert torch.equal(together, torch.cat([REPAIRS[name](image[None]) for image in images]))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", REPAIRING)
@pytest.mark.parametrize("value", [0, 255], ids=["black", "white"])
def test_a_black_and_a_white_image_stay_of_one_value(name, value):
    repaired = REPAIRS[name](flat(value))
    assert len(repaired.unique()) == 1
    if name != "clahe":  # whose clipped histogram of one level is spread over the others
        assert repaired.unique() == value


def test_no_repair_is_one_of_the_repairs():
    assert [*REPAIRS] == ["none", "gain", "gamma", "equalise", "clahe"] and REPAIRS["none"] is None


def test_gain_takes_the_99th_percentile_of_all_channels_to_white():
    """Values 1..100, each as often as any other: 99 becomes 255, 50 becomes 255 * 50 / 99, and 100 is clipped."""
    values = torch.arange(1, 101, dtype=torch.uint8).repeat(3)[torch.randperm(300, generator=noise())]
    repaired = gain(values.reshape(1, 3, 10, 10)).flatten()
    for value, expected in ((99, 255), (100, 255), (50, round(255 * 50 / 99)), (1, round(255 / 99))):
        assert set(repaired[values == value].tolist()) == {expected}


def test_gain_scales_the_channels_by_one_factor():
    image = torch.tensor([50, 20, 10], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)
    assert gain(image)[0, :, 0, 0].tolist() == [255, 102, 51]


def test_gamma_takes_the_mean_to_mid_grey_by_a_power():
    """A third black, two thirds 90: the mean is 60 / 255, and 90 becomes 255 (90 / 255) ** (ln 0.5 / ln (60 / 255))."""
    image = flat(90)
    image[:, 0] = 0
    power = math.log(0.5) / math.log(60 / 255)
    repaired = gamma(image)
    assert set(repaired[:, 1:].flatten().tolist()) == {round(255 * (90 / 255) ** power)}
    assert repaired[:, 0].max() == 0


@pytest.mark.parametrize("value", [3, 40, 128, 220])
def test_gamma_takes_a_flat_image_to_mid_grey(value):
    assert gamma(flat(value)).unique().item() in (127, 128)


def test_equalise_spreads_a_dark_grey_ramp_over_all_levels():
    """Levels 0..31, each as often: level k becomes 255 (k + 1 - 1) / (32 - 1), as the cumulative histogram says."""
    image = torch.arange(32, dtype=torch.uint8).repeat_interleave(32).reshape(1, 1, 32, 32).expand(1, 3, 32, 32)
    repaired = equalise(image)
    expected = [round(255 * k / 31) for k in range(32)]
    for channel in range(3):
        assert repaired[0, channel, :, 0].tolist() == expected


@pytest.mark.parametrize("repair, change", [(equalise, cv2.equalizeHist), (clahe, cv2.createCLAHE(2.0, (8, 8)).apply)])
def test_equalise_and_clahe_change_a_grey_image_as_opencv_does(repair, change, images):
    """A grey image has its values for luminance."""
    grey = images[:, :1].expand(-1, 3, -1, -1)
    for image, repaired in zip(grey, repair(grey)):
        expected = torch.from_numpy(change(np.ascontiguousarray(image[0].numpy())))
        assert all(torch.equal(channel, expected) for channel in repaired)


def test_equalise_changes_luminance_and_keeps_the_colours(images):
    """Y = 0.299 R + 0.587 G + 0.114 B, Cr in proportion to R - Y: R - G stays, where no value was clipped."""
    repaired = equalise(images).float()
    inside = ((repaired > 0) & (repaired < 255)).all(1)
    change = (repaired[:, 0] - repaired[:, 1]) - (images[:, 0].float() - images[:, 1].float())
    assert inside.float().mean() > 0.4 and change[inside].abs().max() <= 4  # rounded on the way there and back


def test_gain_undoes_a_loss_of_light_that_leaves_no_black():
    """Two stops from white and grey, then gain: on the power part of the curve the ratio of values nearly stays."""
    image = flat(255, 1)
    image[..., 56:] = 188  # half the light
    dark = darken(image, 2, noise())
    bright, grey = (gain(dark)[..., half].float().mean().item() for half in (slice(0, 56), slice(56, 112)))
    assert grey / bright == pytest.approx(encode(linear(188) / 4) / encode(linear(255) / 4), rel=0.02)
    assert dark.max() < 160 and bright > 235
