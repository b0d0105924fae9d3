"""Reading: published layouts, and the one rule by which images become pixels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdl.data.formats import decode, open_images
from fdl.errors import InputError
from tests.data.published import encoded, noise_rows, pixels, write_parquet

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
        encoded(pixels(5), "GIF"),
    ],
    ids=["empty", "text", "half a PNG", "half a JPEG", "GIF"],
)
def test_unreadable_images_are_named(content):
    with pytest.raises(InputError) as error:
        decode(content, 16, "b.png")
    assert one_line(error).startswith("b.png: not a readable image")


def test_an_image_of_absurd_size_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # one image of 256 pixels: more, but not twice as many
    with pytest.raises(InputError, match="not a readable image"):
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


def test_parquet_rows_come_in_their_order_from_all_files(tmp_path):
    rows = noise_rows(2, 5)
    write_parquet(tmp_path / "train-00000-of-00002.parquet", rows[:4], ["b", "a"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", rows[4:8], ["b", "a"])
    write_parquet(tmp_path / "test.parquet", [(content, None, label) for content, _, label in rows[8:]], ["b", "a"])
    files = open_images(tmp_path)
    assert files.classes == ["b", "a"]
    assert [record.pool for record in files.records] == ["train"] * 8 + ["test"] * 2
    assert [record.label for record in files.records] == [0, 1] * 5
    assert [record.identity for record in files.records][-3:] == ["1_4.png", "test.parquet#0", "test.parquet#1"]
    assert list(files.contents()) == [row[0] for row in rows]


def test_the_columns_of_the_cifar_mirrors_are_known(tmp_path):
    write_parquet(tmp_path / "train.parquet", noise_rows(2, 2), ["a", "b"], image="img", label="fine_label")
    files = open_images(tmp_path)
    assert files.classes == ["a", "b"]
    assert len(list(files.contents())) == 4


def test_a_row_without_an_image_is_named(tmp_path):
    rows = noise_rows(2, 200)
    rows[301] = (None, "lost.png", 1)
    write_parquet(tmp_path / "train.parquet", rows, ["a", "b"])
    with pytest.raises(InputError, match=r"train.parquet row 301: holds no image"):
        list(open_images(tmp_path).contents())


@pytest.mark.parametrize("label", [2, -1, None])
def test_a_wrong_label_is_named(tmp_path, label):
    write_parquet(tmp_path / "train.parquet", [*noise_rows(2, 2), (encoded(pixels(0)), "x.png", label)], ["a", "b"])
    with pytest.raises(InputError, match=f"train.parquet row 4: label {label} is not one of 0 to 1"):
        open_images(tmp_path)


def test_wrong_parquet_files_are_refused_in_one_line(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "train.parquet"
    picture = pa.array([{"bytes": b"", "path": ""}])
    for table, expected in [
        (pa.table({"image": picture}), "no column 'label'"),
        (pa.table({"pixels": picture, "label": [0]}), "no column 'image'"),
        (pa.table({"image": [b""], "label": [0]}), "column 'image' is binary"),
        (pa.table({"image": picture, "label": ["a"]}), "column 'label' is string"),
        (pa.table({"image": picture, "label": [0]}), "no class names"),
        (pa.table({"image": picture, "label": [0]}).replace_schema_metadata({"huggingface": "{"}), "no class names"),
    ]:
        parquet.write_table(table, path)
        with pytest.raises(InputError) as error:
            open_images(tmp_path)
        assert expected in one_line(error)
        assert str(path) in one_line(error)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match="not a readable parquet file"):
        open_images(tmp_path)


def test_a_parquet_file_with_damaged_pages_is_refused(tmp_path):
    path = tmp_path / "train.parquet"
    write_parquet(path, noise_rows(2, 50), ["a", "b"])
    content = bytearray(path.read_bytes())
    content[4:40] = bytes(36)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable parquet file"):
        list(open_images(tmp_path).contents())


def test_shards_must_agree_on_their_classes(tmp_path):
    write_parquet(tmp_path / "train.parquet", noise_rows(2, 2), ["a", "b"])
    write_parquet(tmp_path / "test.parquet", noise_rows(2, 2), ["b", "a"])
    with pytest.raises(InputError, match=r"test.parquet: its class names differ from those of train.parquet"):
        open_images(tmp_path)


def write_folder(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels(seed), path.suffix.lstrip(".").upper().replace("JPG", "JPEG")))


def test_class_folders_are_read_in_natural_order(tmp_path):
    write_folder(tmp_path, ["P/P (10).png", "P/P (9).png", "P/P (1).bmp", "N/b.jpg", "N/a.webp", "N/c.jpeg"])
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "N" / "Thumbs.db").touch()
    files = open_images(tmp_path)
    assert files.classes == ["N", "P"]
    assert [record.identity for record in files.records] == [
        *("N/a.webp", "N/b.jpg", "N/c.jpeg"),
        *("P/P (1).bmp", "P/P (9).png", "P/P (10).png"),
    ]
    assert {record.pool for record in files.records} == {"all"}
    third = list(files.contents())[5]
    assert third == (tmp_path / "P/P (10).png").read_bytes()


def test_pool_folders_keep_their_pools(tmp_path):
    write_folder(tmp_path, ["test/a/1.png", "test/b/1.png", "train/a/1.png", "train/a/2.png", "train/b/1.png"])
    files = open_images(tmp_path)
    assert [(record.pool, record.label) for record in files.records] == [
        *(("train", 0), ("train", 0), ("train", 1)),
        *(("test", 0), ("test", 1)),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/1.png", "b.png"], "expected parquet files, or only the folders"),
        (["train/a/1.png", "val/a/1.png"], "found val"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "test/b: expected a folder with the images"),
        (["a/1.png", "b/deep/1.png"], "b/deep: not one of .png"),
    ],
)
def test_other_folder_layouts_are_refused(tmp_path, names, expected):
    write_folder(tmp_path, names)
    with pytest.raises(InputError) as error:
        open_images(tmp_path)
    assert expected in one_line(error)


def test_empty_folders_and_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected parquet files"):
        open_images(tmp_path)
    write_folder(tmp_path, ["a/1.png"])
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="b: the class holds no images"):
        open_images(tmp_path)
    write_parquet(tmp_path / "train.parquet", noise_rows(2, 1), ["a", "b", "c"])
    with pytest.raises(InputError, match="class 'c' holds no images"):
        open_images(tmp_path)
