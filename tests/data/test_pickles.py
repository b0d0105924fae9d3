"""Pickles: all that datasets need is read, and nothing else is ever constructed."""

import collections
import os
import pickle
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdl.core.errors import InputError
from fdl.data import pickles
from tests.data.published_formats import python2_pickle

ARRAYS = {
    "bytes": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "Fortran's order": np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4)),
    "a view": np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::3],
    "big-endian": np.arange(5, dtype=">i8"),
    "floats": np.linspace(0, 1, 7),
    "truth values": np.array([True, False]),
    "empty": np.empty((0, 3), np.uint8),
    "large": np.arange(300_000, dtype=np.uint8),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_every_protocol_are_read(tmp_path, protocol, array):
    content = {"data": array, "parts": {"n01": array}, "labels": [0, 1, 70_000, -1, 2**70], "scalar": np.int64(7)}
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
    read = pickles.load(tmp_path / "batch")
    for found in (read["data"], read["parts"]["n01"]):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    assert read["labels"] == content["labels"]
    assert read["scalar"] == 7


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_every_protocol_are_read(tmp_path, protocol):
    content = {"text": "ä" * 300, "bytes": b"\xff\x00", "nothing": b"", "none": None, "t": (1, 2.5, True), "d": {}}
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
    assert pickles.load(tmp_path / "batch") == content


def test_pickles_of_python_2_and_numpy_1_are_read(tmp_path):
    array = np.arange(60, dtype=np.uint8).reshape(5, 12)
    (tmp_path / "batch").write_bytes(python2_pickle({"data": array, "names": ["cat"], "class_dict": {"n1": [0, 1]}}))
    read = pickles.load(tmp_path / "batch")
    np.testing.assert_array_equal(read["data"], array)
    assert read["names"] == [b"cat"]  # text of Python 2 has no encoding
    assert read["class_dict"] == {"n1": [0, 1]}


class Runs:
    """Runs a function when Python's own reader reads it."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def pickled(value: object, protocol: int = 2) -> bytes:
    return pickle.dumps({"data": value}, protocol=protocol)


def in_dict(instructions: bytes) -> bytes:
    """A dictionary whose value is what some instructions build."""
    return b"\x80\x04}\x8c\x04data" + instructions + b"s."


def nested_tuple(depth: int) -> bytes:
    """A tuple of twice the same tuple of twice the same …: quick to build, for ever to hash or print."""
    return b")" + b"2\x86" * depth


MARK = "marked"  # what every attack writes, should it run
DTYPE = b"cnumpy\ndtype\n(\x8c\x02u1\x89\x89tR"
EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
ATTACKS = {
    "os.system": pickled(Runs(os.system, f"touch {MARK}")),
    "os.system, protocol 5": pickled(Runs(os.system, f"touch {MARK}"), 5),
    "eval": pickled(Runs(eval, f"open({MARK!r}, 'w')")),
    "exec by name": in_dict(b"c__builtin__\nexec\n(\x8c\x04passtR"),
    "open": pickled(Runs(open, MARK, "w")),
    "getattr": pickled(Runs(getattr, "", "join")),
    "import": pickled(Runs(__import__, "antigravity")),
    "subprocess by name": in_dict(b"csubprocess\nPopen\n(\x8c\x05touchtR"),
    "stacked global": in_dict(b"\x8c\x05posix\x8c\x06system\x93(\x8c\x04truetR"),
    "dotted global": in_dict(b"\x8c\x05numpy\x8c\x0eos.path.exists\x93(\x8c\x01/tR"),
    "numpy.load": in_dict(b"cnumpy\nload\n(\x8c\x01xtR"),
    "numpy's runstring": in_dict(b"cnumpy.testing._private.utils\nrunstring\n(\x8c\x04pass}tR"),
    "codecs.decode": in_dict(b"c_codecs\ndecode\n(C\x01ztR"),
    "encode into a bomb": in_dict(b"c_codecs\nencode\n(\x8c\x01z\x8c\x04zlibtR"),
    "encode again and again": pickle.PROTO
    + b"\x02}\x8c\x04data](\x8c\xc8"
    + b"x" * 200
    + b"q\x01c_codecs\nencode\nq\x02\x8c\x06latin1q\x03"
    + b"h\x02h\x01h\x03\x86R" * 50
    + b"es.",
    "inst": in_dict(b"(\x8c\x04trueios\nsystem\n"),
    "obj": in_dict(b"(cos\nsystem\n\x8c\x04trueo"),
    "newobj": in_dict(b"cos\nsystem\n\x8c\x04true\x85\x81"),
    "extension": in_dict(b"\x82\x01"),
    "persistent id": in_dict(b"\x8c\x01xQ"),
    "out-of-band buffer": in_dict(b"\x97"),
    "state of a function": in_dict(b"c_codecs\nencode\n}\x8c\x08__code__Nsb"),
    "state of a dictionary": in_dict(b"}}b"),
    "attributes of a class": in_dict(b"cnumpy\nndarray\nN}\x8c\x01x\x8c\x01ys\x86b"),
    "object array": pickled(np.array([print, None], object)),
    "text array": pickled(np.array(["a", "b"])),
    "structured array": pickled(np.zeros(2, [("a", "u1")])),
    "date array": pickled(np.zeros(2, "M8[s]")),
    "dtype of a huge item": in_dict(b"cnumpy\ndtype\n(\x8c\x0bV2000000000\x89\x89tR"),
    "ordered dictionary": pickled(collections.OrderedDict(a=1)),
    "set": pickled({1, 2}, 4),
    "set instruction": in_dict(b"\x8f"),
    "complex": pickled(1j),
    "path": pickled(Path("x")),
    "array of arrays": in_dict(EMPTY_ARRAY + b"(K\x01K\x01\x85" + DTYPE + b"\x89](" + DTYPE + b"etb"),
    "array of fewer bytes": in_dict(EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"\x89C\x01xtb"),
    "array of a negative side": in_dict(EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89C\x01xtb"),
    "array made by a call": in_dict(b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR"),
    "bytes of 2^60": in_dict(b"\x8e" + struct.pack("<Q", 2**60)),
    "bytearray of 2^36": in_dict(b"\x96" + struct.pack("<Q", 2**36)),
    "frame of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 2**60),
    "text of 2^31": in_dict(b"X\xff\xff\xff\x7f"),
    "number of 2^31 digits": in_dict(b"\x8b\xff\xff\xff\x7f"),
    "key that takes for ever": b"\x80\x04}" + nested_tuple(60) + b"K\x01s.",
    "keys that take for ever": b"\x80\x04}(" + nested_tuple(60) + b"K\x01u.",
    "dtype that takes for ever": in_dict(b"cnumpy\ndtype\n(" + nested_tuple(60) + b"tR"),
    "key of no name": pickle.dumps({3: 1}),
    "list": pickle.dumps([1, 2]),
    "protocol 0": pickle.dumps({"data": [1]}, protocol=0),
    "protocol 9": b"\x80\x09}.",
    "half a pickle": python2_pickle({"data": np.zeros(1000, np.uint8)})[:600],
    "no stop": b"\x80\x02}",
    "empty stack": b"\x80\x02.",
    "memo that was never set": in_dict(b"h\x07"),
    "empty file": b"",
    "text": b"<html>Not found</html>",
}


@pytest.mark.parametrize("content", ATTACKS.values(), ids=ATTACKS)
def test_everything_else_is_refused_in_one_line(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        pickles.load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "; d" in message  # "; download it again", or "; delete the file and …"
    assert len(message) < 300 + len(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["data_batch_1"]


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("os.system", "asks for posix.system, which no dataset needs: it may be an attack"),
        ("inst", "holds an instruction that no dataset needs: it may be an attack"),
        ("extension", "holds an instruction that no dataset needs"),
        ("state of a function", "sets the state of a method"),
        ("object array", "holds an array of 'O8', not of numbers"),
        ("key that takes for ever", "has a tuple as the key of a dict"),
        ("encode again and again", "unpacks to more than its own size"),
        ("encode into a bomb", "asks to encode something else than bytes"),
        ("text", "it does not begin like one of protocol 2 or later"),
    ],
)
def test_the_reason_is_said(tmp_path, attack, reason):
    (tmp_path / "batch").write_bytes(ATTACKS[attack])
    with pytest.raises(InputError, match=re.escape(reason)):
        pickles.load(tmp_path / "batch")


@pytest.mark.parametrize("attack", ["text of 2^31", "bytearray of 2^36", "number of 2^31 digits", "frame of 2^60"])
def test_what_a_pickle_announces_takes_no_memory(tmp_path, attack):
    (tmp_path / "batch").write_bytes(ATTACKS[attack])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="it ends early"):
            pickles.load(tmp_path / "batch")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_missing_pickle_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        pickles.load(tmp_path / "batch")


def test_a_memo_of_a_huge_index_takes_no_memory(tmp_path):
    (tmp_path / "batch").write_bytes(in_dict(b"K\x05r\xff\xff\xff\xff"))
    assert pickles.load(tmp_path / "batch") == {"data": 5}


def test_lists_in_lists_in_lists_are_read(tmp_path):
    (tmp_path / "batch").write_bytes(in_dict(b"]" * 100_000 + b"a" * 99_999))
    assert len(pickles.load(tmp_path / "batch")["data"]) == 1


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.integers(1, 400))
def test_damaged_pickles_give_plain_values_or_one_line(tmp_path_factory, changes, length):
    content = bytearray(python2_pickle({"data": np.zeros((2, 9), np.uint8), "labels": [1, 2], "d": {"n1": [3]}}))
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: max(length, len(content) - length)])
    try:
        read, message = pickles.load(path), ""
    except InputError as error:
        read, message = {}, str(error)
    assert "\n" not in message
    kinds = (dict, list, tuple, str, bytes, int, float, type(None), np.ndarray)
    assert all(isinstance(value, kinds) or callable(value) for value in read.values())
