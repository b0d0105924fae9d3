"""Decoding: the one rule by which images become pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdl.core.errors import InputError
from fdl.data.images import open_picture
from tests.data.published import encoded, pixels
from tests.data.reading import decode

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_rgb_pixels_are_kept_exactly(kind, options):
    image = decode(encoded(pixels(1), kind, **options), 16, "x")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, pixels(1))


def test_grey_is_replicated():
    np.testing.assert_array_equal(decode(encoded(RAMP), 16, "x"), np.repeat(RAMP[..., None], 3, axis=2))


def test_a_bilevel_image_becomes_black_and_white():
    bits = RAMP > 100
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits)), 16, "x")[..., 1], bits * np.uint8(255))


def test_16_bit_grey_is_divided_by_257_and_rounded():
    deep = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    expected = np.rint(deep / 257).astype(np.uint8)
    assert (expected != deep // 257).any()  # rounding and truncation differ here
    np.testing.assert_array_equal(decode(encoded(deep), 16, "x")[..., 0], expected)


def test_16_bits_of_colour_keep_what_a_12_bit_camera_fills():
    values = np.random.default_rng(0).integers(0, 4096, (16, 16, 4), dtype=np.uint16)
    values[..., 3] = 65_535
    for channels, suffix in ((3, ".png"), (4, ".png"), (3, ".tif"), (3, ".ppm")):
        content = cv2.imencode(suffix, values[..., :channels])[1].tobytes()
        picture = open_picture(content, "x", white=4095)
        assert picture.peak == values[..., :3].max()
        np.testing.assert_array_equal(np.asarray(picture.rgb), np.rint(values[..., 2::-1] / 4095 * 255))
    assert decode(content, 16, "x").max() < 17  # as 16 bits it is nearly black


def test_what_ppm_calls_white_is_white():
    for letter, values in ((b"P6", RAMP[..., None].repeat(3, axis=2)), (b"P5", RAMP)):
        content = letter + b"\n16 16\n1023\n" + (values.astype(np.uint16) * 4).astype(">u2").tobytes()
        image = decode(content, 16, "x")
        np.testing.assert_array_equal(image[..., 0], np.rint(RAMP * 4.0 / 1023 * 255))
        assert open_picture(content, "x").peak is None


def test_the_first_of_several_pages_counts_and_is_said():
    frames = [Image.fromarray(pixels(seed)) for seed in range(2)]
    for kind in ("TIFF", "PNG"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        picture = open_picture(content, "x")
        assert picture.pages
        np.testing.assert_array_equal(np.asarray(picture.rgb), pixels(0))
    assert not open_picture(encoded(frames[0], "TIFF"), "x").pages
    # The second picture of a telephone's file is a preview.
    assert not open_picture(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), "x").pages


def test_a_palette_gives_its_colours():
    image = Image.fromarray(RAMP).convert("P")
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decode(encoded(image), 16, "x"), palette[np.asarray(image)])


def test_transparency_is_composited_on_black():
    rgba = np.dstack([pixels(2), RAMP])
    expected = np.rint(pixels(2) * (RAMP[..., None] / 255.0))
    for image in (encoded(rgba), encoded(rgba, "WEBP", lossless=True, exact=True)):
        np.testing.assert_allclose(decode(image, 16, "x").astype(float), expected, atol=1)
    grey = Image.merge("LA", [Image.fromarray(np.ascontiguousarray(RAMP.T)), Image.fromarray(RAMP)])
    np.testing.assert_allclose(decode(encoded(grey), 16, "x")[..., 2].astype(float), RAMP.T * (RAMP / 255.0), atol=1)


def test_a_transparent_colour_of_a_palette_becomes_black():
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((0, 0), 0)
    result = decode(encoded(image, transparency=1), 16, "x")
    assert result[0, 0].tolist() == [9, 9, 9]
    assert not result[1:].any()


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° clockwise when shown
    turned = decode(encoded(pixels(3), exif=exif), 16, "x")
    np.testing.assert_array_equal(turned, np.rot90(pixels(3), k=-1))


@pytest.mark.parametrize("shape", [(32, 32), (30, 20), (7, 40), (1, 1)])
def test_other_sizes_are_resized_by_nearest_neighbour(shape):
    image = np.random.default_rng(4).integers(0, 256, (*shape, 3), dtype=np.uint8)
    # PIL's rule: the pixel below the centre of the target pixel.
    rows, columns = (((np.arange(16) + 0.5) * side / 16).astype(int) for side in shape)
    np.testing.assert_array_equal(decode(encoded(image), 16, "x"), image[rows][:, columns])


def test_pixels_are_taken_as_bytes_of_an_image_are():
    for values in (pixels(1, 20), RAMP):
        np.testing.assert_array_equal(decode(values, 16, "x"), decode(encoded(values), 16, "x"))


def test_antialias_averages_where_nearest_neighbour_picks():
    checks = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    nearest, smooth = (decode(checks, 16, "x", antialias=antialias) for antialias in (False, True))
    assert set(np.unique(nearest)) <= {0, 255}
    assert np.ptp(smooth) <= 2
    assert abs(smooth.mean() - 127.5) < 2
    np.testing.assert_array_equal(decode(pixels(3), 16, "x", antialias=True), pixels(3))


def test_other_colour_modes_are_refused():
    with pytest.raises(InputError) as error:
        decode(encoded(Image.new("CMYK", (16, 16)), "JPEG"), 16, "a.parquet row 7")
    assert "a.parquet row 7: colour mode CMYK" in one_line(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        encoded(pixels(5, 64))[:2000],
        encoded(pixels(5, 64), "JPEG")[:900],
        encoded(pixels(5), "TGA"),
    ],
    ids=["empty", "text", "half a PNG", "half a JPEG", "TGA"],
)
def test_unreadable_images_are_named(content):
    with pytest.raises(InputError) as error:
        decode(content, 16, "b.png")
    assert one_line(error).startswith("b.png: not a readable image")
    assert "object at 0x" not in one_line(error)
    assert "BytesIO" not in one_line(error)


def test_an_image_of_absurd_size_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # a photograph of 256 pixels: more, but not twice as many
    np.testing.assert_array_equal(decode(encoded(pixels(5)), 16, "b.png"), pixels(5))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"b\.png: more than 200 pixels, too many to read; shrink the image"):
        decode(encoded(pixels(5)), 16, "b.png")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["PNG", "JPEG", "BMP", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=8),
    st.integers(0, 800),
)
def test_damaged_bytes_give_an_image_or_one_line(kind, changes, length):
    content = bytearray(encoded(pixels(6), kind)[:length])
    for position, value in changes:
        if position < len(content):
            content[position] = value
    try:
        shape, message = decode(bytes(content), 16, "c").shape, ""
    except InputError as error:
        shape, message = (16, 16, 3), str(error)
    assert shape == (16, 16, 3)
    assert "\n" not in message
