"""Broken CIFAR files, each refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.published_formats import (
    CIFAR10,
    cifar_rows,
    python2_pickle,
    write_cifar10,
    write_cifar10_binary,
    write_cifar100,
    write_cifar100_binary,
)  # fmt: skip
from tests.data.reading import read_all, refusal

LABELS, DATA = cifar_rows(10, 0, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": LABELS, "data": DATA.astype(np.float32)}, "'data' is float32 (10, 3072), not uint8 (N, 3072)"),
        ({"labels": LABELS, "data": DATA[:, :1024]}, "'data' is uint8 (10, 1024)"),
        ({"labels": LABELS, "data": DATA.reshape(10, 3, 32, 32)}, "'data' is uint8 (10, 3, 32, 32)"),
        ({"labels": LABELS, "data": DATA.tolist()[:1]}, "'data' is list"),
        ({"labels": LABELS}, "'data' is NoneType"),
        ({"labels": LABELS[:9], "data": DATA}, "'labels' is not a list of 10 labels"),
        ({"data": DATA}, "'labels' is not a list of 10 labels"),
        ({"labels": np.arange(10), "data": DATA}, "'labels' is not a list of 10 labels"),
        ({"labels": [*LABELS[:9], 10], "data": DATA}, "row 9: label 10 is not one of 0 to 9"),
        ({"labels": [-1, *LABELS[1:]], "data": DATA}, "row 0: label -1 is not one of 0 to 9"),
        ({"labels": ["cat", *LABELS[1:]], "data": DATA}, "row 0: label of type bytes is not one of 0 to 9"),
    ],
)
def test_wrong_batches_are_named(tmp_path, content, message):
    (write_cifar10(tmp_path) / "data_batch_3").write_bytes(python2_pickle(content))
    assert f"data_batch_3{' ' if 'row' in message else ': '}{message}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "'label_names' is not a list of class names"),
        ({"label_names": []}, "'label_names' is not a list of class names"),
        ({"label_names": [1, 2]}, "'label_names' is not a list of class names"),
        ({"label_names": [*CIFAR10[:9], "cat"]}, "'label_names' names a class twice"),
        ({"label_names": list(CIFAR10[:9])}, "data_batch_1 row 9: label 9 is not one of 0 to 8"),
        ({"label_names": [*CIFAR10, "sheep"]}, "class 'sheep' holds no images"),
    ],
)
def test_wrong_class_names_are_named(tmp_path, meta: dict[str, Any], message):
    (write_cifar10(tmp_path) / "batches.meta").write_bytes(python2_pickle(meta))
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("write", "missing"),
    [
        *((write_cifar10, name) for name in ("batches.meta", "data_batch_4", "test_batch")),
        (write_cifar100, "test"),
        *((write_cifar10_binary, name) for name in ("batches.meta.txt", "data_batch_5.bin", "test_batch.bin")),
        *((write_cifar100_binary, name) for name in ("fine_label_names.txt", "test.bin")),
    ],
)
def test_a_missing_file_is_named(tmp_path, write, missing):
    (write(tmp_path) / missing).unlink()
    assert f"{missing}: no such file" in refusal(tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (write_cifar10, "test_batch", "not a readable pickle"),
        (write_cifar100, "train", "not a readable pickle"),
        (write_cifar10_binary, "data_batch_2.bin", "29,730 bytes, not a number of images of 3,073 bytes each"),
        (write_cifar100_binary, "train.bin", "613,800 bytes, not a number of images of 3,074 bytes each"),
    ],
)
def test_a_file_cut_short_is_named(tmp_path, write, name, message):
    cut(write(tmp_path) / name)
    assert f"{name}: {message}" in refusal(tmp_path)


def test_wrong_bytes_in_binary_files_are_named(tmp_path):
    path = write_cifar100_binary(tmp_path) / "train.bin"
    content = bytearray(path.read_bytes())
    content[1] = 100  # the fine label of the first image
    path.write_bytes(content)
    assert "train.bin row 0: label 100 is not one of 0 to 99" in refusal(tmp_path)
    content[:2] = b"\xff\x00"  # the coarse label is not read
    path.write_bytes(content)
    assert len(read_all(tmp_path)[1]) == 300
    (path.parent / "fine_label_names.txt").write_bytes(b"\xff\xfe")
    assert "fine_label_names.txt: not a list of class names" in refusal(tmp_path)
    path.write_bytes(b"")
    (path.parent / "fine_label_names.txt").write_text("a\nb\n")
    assert "train.bin: 0 bytes" in refusal(tmp_path)
