"""From bytes to an upright RGB picture: every format, every refusal."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from gateway import errors
from gateway.imaging import LARGEST_SIDE, open_photograph, read_photograph, reduction
from gateway.pixels import to_tensor

LIMIT = 1_000_000


def encoded(picture: Image.Image, picture_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, picture_format, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB", size: tuple[int, int] = (80, 60)) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 0 * x + 90], -1).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_formats_are_told_by_their_content(picture_format):
    """Each accepted format gives the same picture, near enough for its compression."""
    photograph = read_photograph(encoded(gradient(), picture_format), LIMIT)
    assert photograph.format == picture_format
    assert (photograph.width, photograph.height) == (80, 60)
    assert photograph.tensor.shape == (224, 224, 3)
    assert photograph.tensor.dtype == np.uint8
    difference = np.asarray(photograph.picture).astype(int) - np.asarray(gradient())
    assert np.abs(difference).mean() < 4


def test_transparency_is_laid_on_white():
    """What is transparent shows an empty slide, not whatever colour lies hidden there."""
    picture = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    pixels = np.asarray(read_photograph(encoded(picture, "PNG"), LIMIT).picture)
    assert (pixels == 255).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA"])
def test_other_colour_modes_become_rgb(mode):
    """Greyscale, bilevel, palette, CMYK and grey with alpha are all read."""
    picture = Image.new("RGB", (64, 64), "white").convert(mode)
    photograph = read_photograph(encoded(picture, "TIFF"), LIMIT)
    assert photograph.picture.mode == "RGB"
    assert (np.asarray(photograph.picture) >= 250).all()


def test_the_whole_picture_is_stretched():
    """Nothing is cropped: the corners of a wide picture are the corners of the tensor."""
    tensor = to_tensor(gradient(size=(640, 100)))
    assert tensor[0, 0, 0] < 5
    assert tensor[0, -1, 0] > 250
    assert tensor[-1, 0, 1] > 250


def test_no_bytes_are_no_photograph():
    """An empty body is refused as missing."""
    with pytest.raises(errors.MissingPhotograph):
        read_photograph(b"", LIMIT)


@pytest.mark.parametrize("data", [b"hello", b"%PDF-1.7\n", b"GIF89a" + bytes(40), bytes(1000)])
def test_what_is_no_accepted_picture_is_refused_with_the_accepted_formats(data):
    """Text, documents, GIF and noise are refused, and the message lists what is read."""
    with pytest.raises(errors.UnsupportedMedia, match="JPEG, PNG, WEBP, TIFF, BMP"):
        read_photograph(data, LIMIT)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_truncated_picture_is_refused(picture_format):
    """Half a file is never read as a picture with a grey half."""
    data = encoded(gradient(size=(300, 300)), picture_format)
    with pytest.raises((errors.UnreadablePhotograph, errors.UnsupportedMedia)):
        read_photograph(data[: len(data) // 2], LIMIT)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_too_many_pixels_are_refused_from_the_header():
    """A bomb of pixels is refused by its header: its data, which is not there, is never read."""
    data = encoded(Image.new("1", (20_000, 20_000)), "PNG")[:200]
    with pytest.raises(errors.PhotographTooLarge, match="20000 x 20000"):
        read_photograph(data, LIMIT)


def test_the_pixel_limit_is_inclusive():
    """Exactly the limit is accepted, one row more is not."""
    assert read_photograph(encoded(gradient(size=(100, 80)), "PNG"), 8000).width == 100
    with pytest.raises(errors.PhotographTooLarge):
        read_photograph(encoded(gradient(size=(100, 81)), "PNG"), 8000)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (31, 64)])
def test_a_picture_too_small_for_a_cell_is_refused(size):
    """The model would answer for one pixel too; nobody could read that cell."""
    with pytest.raises(errors.UnreadablePhotograph, match="32"):
        read_photograph(encoded(Image.new("RGB", size), "PNG"), LIMIT)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_32_bit_pixels_are_refused(mode):
    """Nobody can say which value is white."""
    with pytest.raises(errors.UnreadablePhotograph, match="32 bit"):
        read_photograph(encoded(Image.new(mode, (64, 64)), "TIFF"), LIMIT)


def test_a_large_photograph_is_shown_smaller_and_read_whole():
    """The overlay's picture fits a screen; size and tensor are the photograph's own."""
    large = gradient(size=(2400, 1200))
    photograph = read_photograph(encoded(large, "PNG"), 3_000_000)
    assert (photograph.width, photograph.height) == (2400, 1200)
    assert photograph.picture.size == (1024, 512)
    assert np.abs(photograph.tensor.astype(int) - to_tensor(large)).max() <= 2


def test_a_jpeg_with_a_second_picture_is_a_jpeg():
    """Phones add a preview, which makes it an MPO to Pillow and to nobody else."""
    extra = {"save_all": True, "append_images": [gradient()]}
    photograph = read_photograph(encoded(gradient(), "MPO", **extra), LIMIT)
    assert photograph.format == "JPEG"
    assert photograph.first_of_several


@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data):
    """Whatever a file's bytes are changed to, it is read or refused as the client's fault."""
    picture_format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP"]))
    damaged = bytearray(encoded(gradient(), picture_format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(errors.RequestError):
        read_photograph(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), LIMIT)


@given(st.integers(32, 40_000), st.integers(32, 40_000))
def test_what_is_decoded_smaller_still_holds_all_that_is_used(width, height):
    """The overlay's pixels along the longer side, and twice the model's along the shorter."""
    factor = reduction(width, height)
    assert factor in (1, 2, 4, 8)
    assert factor == reduction(height, width)
    if factor > 1:
        assert max(width, height) / factor >= LARGEST_SIDE
        assert min(width, height) / factor >= 2 * 224


@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]),
    st.sampled_from(["PNG", "TIFF", "BMP", "WEBP", "JPEG"]),
    st.integers(32, 90),
    st.integers(32, 90),
    st.integers(1, 8),
)
def test_whatever_can_be_saved_is_read_as_rgb(mode, picture_format, width, height, orientation):
    """Any mode in any format that holds it, turned any way: RGB, of the upright size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = gradient(size=(width, height))
    picture = (
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else picture.convert(mode)
    )
    try:
        data = encoded(picture, picture_format, exif=exif)
    except OSError:  # this format has no such mode
        return
    photograph = read_photograph(data, LIMIT)
    assert photograph.picture.mode == "RGB"
    assert photograph.picture.size == (photograph.width, photograph.height)
    turned = orientation >= 5 and picture_format != "BMP"  # which has no EXIF
    assert (photograph.width, photograph.height) == ((height, width) if turned else (width, height))
    assert photograph.tensor.shape == (224, 224, 3)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_and_nothing_worse(data):
    """No exception but those that are the client's to mend."""
    for magic in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0+", b"BM"):
        with pytest.raises(errors.RequestError):
            read_photograph(magic + data, LIMIT)


@pytest.mark.parametrize(
    ("picture_format", "options", "least", "most"),
    [
        ("JPEG", {}, 0.2, 1.1),  # decoded at a half
        ("JPEG", {"progressive": True, "subsampling": 0}, 6.5, 8),  # all coefficients at once
        ("JPEG", {"progressive": True, "subsampling": 2}, 3.5, 5),
        ("PNG", {"compress_level": 1}, 4, 5.1),
        ("WEBP", {"method": 0}, 16, 17.1),  # two canvases and a copy
        ("TIFF", {"compression": "tiff_lzw"}, 4, 5.2),
        ("TIFF", {"compression": "tiff_lzw", "strip_size": 2**30}, 7, 8.1),  # one strip
    ],
)
def test_a_picture_is_weighed_by_what_its_decoder_takes(picture_format, options, least, most):
    """In bytes a pixel, as measured of each decoder; known from the header alone."""
    data = encoded(gradient(size=(2400, 1600)), picture_format, **options)
    weight = open_photograph(data, 10_000_000).weight / (2400 * 1600)
    assert least <= weight <= most
