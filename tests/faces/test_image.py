"""Image files of every kind that people have, and one error for those that are broken."""

import io

import numpy as np
import pytest
from PIL import Image

from facelib.data.layout import lfw_images, list_images
from facelib.faces.image import ImageError, read_image

RED, BLUE = (200, 30, 10), (10, 60, 220)


def two_colours() -> Image.Image:
    """24 wide, 16 high: red on the left half, blue on the right."""
    image = Image.new("RGB", (24, 16), RED)
    image.paste(BLUE, (12, 0, 24, 16))
    return image


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def test_rgb_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8 and np.array_equal(read, pixels)
    assert np.array_equal(read_image(str(tmp_path / "a.png")), pixels)


def test_the_array_can_be_written_to(tmp_path):
    two_colours().save(tmp_path / "a.png")
    read_image(tmp_path / "a.png")[0, 0] = 7


def test_grey_gets_three_equal_channels(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, axis=2))


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[:, :, 1], 255 * np.eye(4))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_to_8_bits_not_clipped(tmp_path, suffix):
    """65535 = 255 * 257, so v in 8 bits is v * 257 in 16 (PNG specification, section 13.12)."""
    deep = np.array([[0, 257, 128 * 257, 254 * 257, 65535, 1000, 128, 129]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        assert stored.mode.startswith("I;16")
    expected = [[0, 1, 128, 254, 255, 4, 0, 1]]
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.dtype == np.uint8 and read.shape == (1, 8, 3)
    assert all(np.array_equal(read[:, :, channel], expected) for channel in range(3))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_and_the_colour_below_it_kept(tmp_path, mode):
    image = two_colours().convert(mode)
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    expected = two_colours().convert("L").convert("RGB") if mode == "LA" else two_colours()
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(expected))


def test_palette_images_show_their_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([1, 0])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[list(BLUE), list(RED)]]


def test_cmyk_is_converted_to_rgb(tmp_path):
    """Each of red, green and blue is what cyan, magenta or yellow and black leave: 255 (1 - c) (1 - k)."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:] = (0, 255, 255, 51)  # full magenta and yellow with a fifth of black: a dimmed red
    (tmp_path / "a.jpg").write_bytes(jpeg(Image.fromarray(inks, mode="CMYK")))
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.mode == "CMYK"
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - [204, 0, 0]).max() <= 6


# The EXIF specification, tag 0x0112: where row 0 and column 0 of the stored pixels belong in the upright image.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), UPRIGHT[orientation](pixels))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_a_jpegs_pixels_are_those_that_pillow_decodes(tmp_path, mode, options, orientation):
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).resize((140, 90)).convert(mode).save(tmp_path / "a.jpg", exif=exif, **options)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert np.array_equal(read_image(tmp_path / "a.jpg"), UPRIGHT[orientation](np.array(stored.convert("RGB"))))


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp", "ppm", "tiff"])
def test_other_formats_are_read(tmp_path, suffix):
    two_colours().save(tmp_path / f"a.{suffix}")
    read = read_image(tmp_path / f"a.{suffix}").astype(int)
    assert read.shape == (16, 24, 3)
    assert np.abs(read[8, 4] - RED).max() < 12 and np.abs(read[8, 20] - BLUE).max() < 12


NOT_IMAGES = {
    "empty": b"",
    "text": b"this is no photograph\n" * 50,
    "truncated JPEG": jpeg(two_colours().resize((120, 80)))[:-300],
    "JPEG cut within its header": jpeg(two_colours())[:10],
    "web page": b"<!doctype html><title>404</title>",
}


@pytest.mark.parametrize("content", NOT_IMAGES)
def test_a_file_that_is_no_whole_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "the one.jpg").write_bytes(NOT_IMAGES[content])
    with pytest.raises(ImageError, match="the one.jpg") as refused:
        read_image(tmp_path / "the one.jpg")
    assert str(tmp_path / "the one.jpg") in str(refused.value)


def test_every_truncation_of_a_jpeg_is_refused(tmp_path):
    whole = jpeg(two_colours())
    for length in range(len(whole) - 2):
        (tmp_path / "a.jpg").write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_image(tmp_path / "a.jpg")


def test_every_truncation_of_a_png_before_its_last_chunk_is_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for length in range(0, whole.rindex(b"IEND") - 16, 7):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(ImageError, match="cut.png"):
            read_image(tmp_path / "cut.png")


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(ImageError, match="nowhere.jpg"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match=tmp_path.name):
        read_image(tmp_path)


# --- the images of a folder


def touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def test_images_are_listed_one_level_down_sorted_and_by_suffix(tmp_path):
    touch(tmp_path, "b/2.JPG", "b/10.png", "a/1.jpeg")
    touch(tmp_path, "a/notes.txt", "a/deep/3.jpg", "top.jpg", "landmarks.csv", "c/x.csv")
    assert list_images(tmp_path) == ["a/1.jpeg", "b/10.png", "b/2.JPG"]


def test_what_programs_leave_among_images_is_passed_over(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", ".ipynb_checkpoints/1.jpg", "__MACOSX/1.jpg", "a/album.jpg/2.jpg")
    assert list_images(tmp_path) == ["a/1.jpg"]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_an_image_of_32_bit_numbers_is_refused_because_its_range_is_unknown(tmp_path, kind):
    Image.fromarray(np.full((4, 4), 200, kind)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="a.tiff.*32-bit.*unknown range"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("place", ["lfw-deepfunneled", "lfw_funneled", "lfw", "lfw-deepfunneled/lfw-deepfunneled", "."])
def test_lfw_images_are_found_where_its_archives_put_them(tmp_path, place):
    touch(tmp_path, "pairs.txt", f"{place}/Ann/Ann_0001.jpg")
    assert lfw_images(tmp_path) == tmp_path / place


def test_an_lfw_folder_without_images_is_refused_by_name(tmp_path):
    touch(tmp_path, "pairs.txt", "lfw-deepfunneled/readme.txt", "images/a.jpg.zip")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name}: no LFW images.*lfw-deepfunneled"):
        lfw_images(tmp_path)


def test_a_missing_folder_is_refused_with_what_lies_beside_it(tmp_path):
    (tmp_path / "CASIA-WebFace").mkdir()
    with pytest.raises(FileNotFoundError, match="casia.*CASIA-WebFace"):
        list_images(tmp_path / "casia")
    with pytest.raises(FileNotFoundError, match="casia"):
        list_images(tmp_path / "missing" / "casia")


def test_a_folder_without_images_is_refused_by_name(tmp_path):
    touch(tmp_path, "top.jpg", "a/notes.txt")
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*<identity>/<image>.jpg"):
        list_images(tmp_path)
