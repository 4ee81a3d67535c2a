"""Every way of storing a picture ends in the pixels that a person would see."""

import io

import numpy as np
import pytest
from crafted import RATIONAL, SHORT, chunk, encoded, numbers, png, tiff
from PIL import Image, ImageCms, ImageFilter

from export.dataset import load_input
from gateway.errors import UnreadablePhotograph
from gateway.imaging import open_photograph, read_photograph
from gateway.pixels import to_tensor, upright_rgb

LIMIT = 30_000_000
WIDTH, HEIGHT = 80, 60


def wide(dtype: type = np.uint16) -> np.ndarray:
    """RGB in the full range of 16 bits: red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 65535, WIDTH), np.linspace(0, 65535, HEIGHT))
    return np.stack([x, y, 0 * x + 23_000], -1).astype(dtype)


DEEP = wide()
SEEN = (DEEP >> 8).astype(np.uint8)
GREY = np.repeat(SEEN[..., :1], 3, -1)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(read_photograph(data, LIMIT).picture)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planar", [False, True])
def test_16_bit_rgb_tiff_keeps_its_upper_bytes(order, deflate, planar):
    """Both byte orders, packed or not, in one plane or three: exactly the high byte."""
    data = tiff(DEEP, order=order, deflate=deflate, planar=planar)
    assert np.array_equal(pixels(data), SEEN)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_rgba_tiff_is_laid_on_white(order):
    """Unassociated alpha counts with its own 16 bits."""
    alpha = DEEP[..., :1]
    data = tiff(np.concatenate([DEEP, alpha], -1), order=order, extra=[(338, SHORT, 1, two(order))])
    assert np.abs(pixels(data) - on_white(SEEN, SEEN[..., 0])).max() <= 2


def two(order: str) -> bytes:
    return numbers(order, SHORT, 2)[2]


@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit_rgb_png_keeps_its_upper_bytes(interlaced):
    """Row by row or in Adam7's seven passes: exactly the high byte."""
    assert np.array_equal(pixels(png(DEEP, 2, interlaced=interlaced)), SEEN)


@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit_grey_png_keeps_its_range(interlaced):
    """No clipping at 255, in either order of rows."""
    assert np.array_equal(pixels(png(DEEP[..., 0], 0, interlaced=interlaced)), GREY)


@pytest.mark.parametrize("colour", [4, 6])
def test_16_bit_alpha_png_is_laid_on_white(colour):
    """Grey and RGB with 16 bits of alpha."""
    alpha = DEEP[..., 1:2]
    own = DEEP[..., :1] if colour == 4 else DEEP
    seen = GREY if colour == 4 else SEEN
    found = pixels(png(np.concatenate([own, alpha], -1), colour))
    assert np.abs(found - on_white(seen, SEEN[..., 1])).max() <= 2


def test_a_16_bit_grey_pngs_transparent_level_is_white():
    """The one level that the file calls transparent shows the empty slide."""
    level = int(DEEP[0, 10, 0])
    found = pixels(png(DEEP[..., 0], 0, before=chunk(b"tRNS", level.to_bytes(2, "big"))))
    expected = np.where(DEEP[..., :1] == level, 255, GREY)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_tiff_keeps_its_range(order):
    """BlackIsZero in both byte orders."""
    assert np.array_equal(pixels(tiff(DEEP[..., 0], photometric=1, order=order)), GREY)


def test_a_16_bit_tiff_whose_zero_is_white_is_turned_round():
    """WhiteIsZero: Pillow alone gives the negative."""
    assert np.array_equal(pixels(tiff(65535 - DEEP[..., 0], photometric=0)), GREY)


def test_a_16_bit_tiff_of_unread_layout_is_refused_by_name():
    """Big-endian WhiteIsZero cannot be read here: said so, with what to save instead."""
    with pytest.raises(UnreadablePhotograph, match=r"TIFF.*Save it as 8 bit RGB"):
        pixels(tiff(DEEP[..., 0], photometric=0, order=">"))


def test_12_bit_tiff_is_scaled_by_its_own_range():
    """Two samples in three bytes, 4095 for white."""
    twelve = DEEP[..., 0] >> 4
    pairs = twelve.reshape(HEIGHT, -1, 2).astype(np.uint32)
    joined = (pairs[..., 0] << 12) | pairs[..., 1]
    packed = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], -1).astype(np.uint8)
    data = tiff(DEEP[..., 0], bits=12, photometric=1, packed=packed.tobytes())
    assert np.array_equal(pixels(data), GREY)


def test_signed_pixels_are_refused():
    """16 signed bits have no agreed white either."""
    signed = [(339, *numbers("<", SHORT, 2))]
    with pytest.raises(UnreadablePhotograph, match="signed"):
        pixels(tiff(DEEP[..., 0], photometric=1, extra=signed))


def test_a_float_tiff_is_refused_with_what_to_save():
    """Nobody can say which value is white."""
    picture = Image.fromarray(np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64))
    with pytest.raises(UnreadablePhotograph, match="save 8 or 16 bits"):
        pixels(encoded(picture, "TIFF"))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg"])
def test_ycbcr_tiff_becomes_rgb(compression):
    """Its luminance and two colour differences, however packed."""
    data = encoded(Image.fromarray(SEEN).convert("YCbCr"), "TIFF", compression=compression)
    assert np.abs(pixels(data).astype(int) - SEEN).mean() < 1.5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_in_tiff(mode):
    """TIFF's own JPEG compression, as slide scanners write it."""
    picture = Image.fromarray(SEEN).convert(mode)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    found = pixels(encoded(picture, "TIFF", compression="jpeg", quality=95))
    assert np.abs(found - expected).mean() < 2


def test_cmyk_tiff_16_bit():
    """Ink in 16 bits: no ink is white."""
    ink = np.concatenate([65535 - DEEP, np.zeros_like(DEEP[..., :1])], -1)
    found = pixels(tiff(ink, photometric=5))
    assert np.abs(found.astype(int) - SEEN).max() <= 1


@pytest.mark.parametrize("progressive", [False, True])
def test_cmyk_jpeg_is_not_read_as_its_negative(progressive):
    """Adobe stores ink inverted; a JPEG of four components is read as Adobe's."""
    picture = Image.fromarray(SEEN).convert("CMYK")
    data = encoded(picture, "JPEG", quality=95, progressive=progressive)
    assert b"Adobe" in data
    assert np.abs(pixels(data).astype(int) - SEEN).mean() < 2


def test_adobes_ycck_jpeg():
    """The same components called YCCK: libjpeg turns the colour differences back into ink."""
    inks = np.asarray(Image.fromarray(SEEN).convert("CMYK"))
    ycc = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    stored = Image.fromarray(np.dstack([255 - ycc, inks[..., 3]]), "CMYK")  # Pillow inverts
    data = encoded(stored, "JPEG", quality=100, subsampling=0)
    position = data.index(b"Adobe") + 11  # the transform flag: 0 for CMYK, 2 for YCCK
    assert data[position] == 0
    data = data[:position] + b"\2" + data[position + 1 :]
    assert np.abs(pixels(data).astype(int) - SEEN).mean() < 4


def test_a_palettes_transparent_entries_are_white():
    """Each entry has its own alpha; what lies hidden under it is not shown."""
    indices = np.arange(64 * 64).reshape(64, 64) % 3
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    found = pixels(encoded(picture, "PNG", transparency=bytes([0, 255, 128])))
    expected = np.array([[255, 255, 255], [0, 200, 0], [127, 127, 227]])[indices]
    assert np.abs(found - expected).max() <= 1


def test_grey_with_alpha_is_laid_on_white():
    """LA: half transparent black is half grey."""
    la = Image.merge("LA", [Image.fromarray(SEEN[..., 0]), Image.fromarray(SEEN[..., 1])])
    found = pixels(encoded(la, "PNG"))
    assert np.abs(found - on_white(GREY, SEEN[..., 1])).max() <= 1


def test_bilevel_and_few_bits():
    """1, 2 and 4 bits of grey reach from black to white."""
    levels = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert set(np.unique(pixels(encoded(Image.fromarray(levels).convert("1"), "PNG")))) == {0, 255}
    for bits in (2, 4):
        palette = Image.fromarray((levels // 255).astype(np.uint8))
        palette.putpalette([0, 0, 0, 255, 255, 255])
        found = pixels(encoded(palette, "PNG", bits=bits))
        assert np.array_equal(found[..., 0], levels)


def test_progressive_jpeg_is_the_same_picture():
    """Drawn in several passes, the last of which counts."""
    picture = Image.fromarray(SEEN).filter(ImageFilter.GaussianBlur(2))
    plain, progressive = (
        pixels(encoded(picture, "JPEG", quality=90, progressive=p)) for p in (False, True)
    )
    assert np.abs(plain.astype(int) - progressive).max() <= 2


@pytest.mark.parametrize("picture_format", ["PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame_and_says_so(picture_format):
    """Not the last, not a mixture; and the answer says that there are more."""
    first, second = Image.fromarray(SEEN), Image.fromarray(255 - SEEN)
    options = {"lossless": True} if picture_format == "WEBP" else {}
    data = encoded(first, picture_format, save_all=True, append_images=[second], **options)
    photograph = read_photograph(data, LIMIT)
    assert photograph.first_of_several
    assert np.array_equal(np.asarray(photograph.picture), SEEN)
    assert not read_photograph(encoded(first, picture_format), LIMIT).first_of_several


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_in_every_format(picture_format, orientation):
    """All eight, each in every format that can say so; the size is the upright one's."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    blurred = Image.fromarray(SEEN)
    turn = TURNS[orientation]
    stored = blurred.transpose(turn) if turn is not None else blurred
    photograph = read_photograph(encoded(stored, picture_format, exif=exif, quality=95), LIMIT)
    assert (photograph.width, photograph.height) == (WIDTH, HEIGHT)
    assert np.abs(np.asarray(photograph.picture).astype(int) - SEEN).mean() < 3


def test_an_orientation_behind_the_pixels_counts():
    """PNG allows EXIF after the image data."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png(SEEN, 2, 8, after=chunk(b"eXIf", exif.tobytes()[6:]))
    photograph = read_photograph(data, LIMIT)
    assert (photograph.width, photograph.height) == (HEIGHT, WIDTH)


# ---- colour profiles


def profile(gamma: float = 1.0) -> bytes:
    """An RGB profile with sRGB's primaries and another tone curve."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    return bytes(made) if gamma == 1 else _with_curve(bytes(made), gamma)


def _with_curve(data: bytes, gamma: float) -> bytes:
    """Replace every tone curve (tags rTRC, gTRC, bTRC) by a plain gamma; ICC.1:2010, 10.5."""
    changed = bytearray(data)
    for index in range(int.from_bytes(data[128:132], "big")):
        name, offset, size = (data[132 + 12 * index + i :][:4] for i in (0, 4, 8))
        if name[1:] == b"TRC":
            start, length = int.from_bytes(offset, "big"), int.from_bytes(size, "big")
            curve = (
                b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
            )
            changed[start : start + length] = curve.ljust(length, b"\0")[:length]
    return bytes(changed)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_rgb_profile_is_brought_to_srgb(picture_format):
    """Linear light is shown as the eye would see it; without the profile it would be far darker."""
    linear = ((SEEN / 255) ** 2.2 * 255).round().astype(np.uint8)
    data = encoded(Image.fromarray(linear), picture_format, icc_profile=profile(1.001), quality=100)
    bright = SEEN > 60  # 8 bits of linear light hold little of the shadows
    assert np.abs(pixels(data).astype(int) - SEEN)[bright].mean() < 4
    assert np.abs(linear.astype(int) - SEEN)[bright].mean() > 30


def test_an_srgb_profile_changes_nothing():
    """What nearly every camera embeds costs no accuracy."""
    data = encoded(Image.fromarray(SEEN), "PNG", icc_profile=profile())
    assert np.abs(pixels(data).astype(int) - SEEN).max() <= 1


@pytest.mark.parametrize("damaged", [b"x", bytes(200), profile()[:300], profile()[:16] + b"CMYK"])
def test_a_profile_that_cannot_be_used_is_passed_over(damaged):
    """The pixels are still there to be read."""
    data = encoded(Image.fromarray(SEEN), "PNG", icc_profile=damaged)
    assert np.array_equal(pixels(data), SEEN)


# ---- training and serving


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png(DEEP, 2), id="16 bit PNG"),
        pytest.param(tiff(65535 - DEEP[..., 0], photometric=0), id="white is zero"),
        pytest.param(tiff(DEEP, planar=True), id="planes"),
        pytest.param(encoded(Image.fromarray(SEEN).convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(
            encoded(Image.fromarray(SEEN), "PNG", icc_profile=profile(1.001)), id="profile"
        ),
    ],
)
def test_training_sees_the_same_pixels(data, tmp_path):
    """The odd kinds too."""
    path = tmp_path / "photograph"
    path.write_bytes(data)
    assert np.array_equal(load_input(path), read_photograph(data, LIMIT).tensor)


# ---- large pictures


@pytest.fixture(scope="module")
def large(smear) -> Image.Image:
    """A drawn photograph of 12 megapixels."""
    return smear.resize((4000, 3000), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG"])
def test_a_large_picture_decoded_smaller_is_the_same_to_the_model(large, picture_format):
    """What the model sees of it differs by at most 2 of 255, and by a quarter of one on average."""
    data = encoded(large, picture_format, compress_level=1, quality=92)
    opened = open_photograph(data, LIMIT)
    assert opened.factor == 2
    with Image.open(io.BytesIO(data)) as whole:
        full = to_tensor(upright_rgb(whole)).astype(int)
    difference = np.abs(read_photograph(data, LIMIT).tensor - full)
    assert difference.max() <= 2
    assert difference.mean() < 0.25


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_turned_picture_keeps_its_size(large, orientation):
    """Width and height are the upright photograph's own, not those it was decoded at."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph = read_photograph(encoded(large, "JPEG", exif=exif), LIMIT)
    expected = (4000, 3000) if orientation == 1 else (3000, 4000)
    assert (photograph.width, photograph.height) == expected
    assert max(photograph.picture.size) == 1024


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK"])
def test_large_pictures_of_other_modes_are_converted_band_by_band(large, mode):
    """No seam between bands: each is what converting the whole would give."""
    if mode == "RGBA":
        picture = large.copy()
        picture.putalpha(Image.linear_gradient("L").resize(large.size))
        white = Image.new("RGBA", large.size, "white")
        expected = Image.alpha_composite(white, picture).convert("RGB")
    else:
        picture = large.convert(mode)
        expected = picture.convert("RGB")
    data = encoded(picture, "TIFF", compression="tiff_deflate")
    difference = read_photograph(data, LIMIT).tensor.astype(int) - to_tensor(expected)
    assert np.abs(difference).max() <= 2


def test_resolutions_in_tags_do_no_harm():
    """A fraction without a denominator, as some cameras write for resolution."""
    broken = [(282, RATIONAL, 1, bytes(8)), (283, RATIONAL, 1, bytes(8)), (305, 2, 4, b"cam\0")]
    assert np.array_equal(pixels(tiff(DEEP, extra=broken)), SEEN)
