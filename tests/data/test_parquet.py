"""Parquet files in the Hugging Face layout."""

import pytest

from fdl.core.errors import InputError
from fdl.data.formats import open_images
from tests.data.published import encoded, noise_rows, pixels, write_parquet
from tests.data.reading import refusal


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00002"], "found train-00000-of-00002.parquet, expected train-00000-of-00001.parquet"),
        (["train-00000-of-00002", "train-00002-of-00003"], "expected train-00001-of-00002.parquet"),
        (
            ["train", "train-00000-of-00001"],
            "found train-00000-of-00001.parquet, expected train-00000-of-00002.parquet",
        ),
    ],
)
def test_shards_of_another_version_or_missing_ones_are_named(tmp_path, names, message):
    for name in names:
        write_parquet(tmp_path / f"{name}.parquet", noise_rows(2, 2), ["a", "b"])
    assert message in refusal(tmp_path)
