"""Reads the pickles that datasets are published in, without running what they say.

A pickle is a program. This reader knows the instructions that build numbers, strings, lists, tuples,
dictionaries and numpy arrays, and no others; of the functions that a pickle may name it knows those
by which numpy 1 and 2 rebuild an array (protocols 2 to 5, Python 2 and 3), and has its own version of
each, so that not even numpy's code is called with what a pickle says. CIFAR's and miniImageNet's
files need no more.
"""

import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fdl.core.errors import InputError
from fdl.data.images import first_line

_INSTRUCTIONS = """
PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINUNICODE SHORT_BINUNICODE BINUNICODE8
EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS
BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
""".split()
_DTYPES = frozenset("u1 i1 u2 i2 u4 i4 u8 i8 f4 f8 b1".split())


def load(path: Path) -> dict[str, Any]:
    """The dictionary that a pickle holds; strings of Python 2 are bytes, but keys are str (also one level deeper).

    Raises:
        InputError: the file is damaged, holds something else than numbers, strings, lists, dictionaries
            and numpy arrays, or is no dictionary.
    """
    try:
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO:
                raise ValueError("it does not begin like one of protocol 2 or later")
            file.seek(0)
            value = _Reader(_Bounded(file, path.stat().st_size)).load()
    except _Refused as error:
        raise InputError(f"{path}: {error}; delete the file and download it from its publisher") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); download it again") from None
    except Exception as error:  # a damaged pickle can fail in any way; nothing it says was run
        raise InputError(f"{path}: not a readable pickle ({first_line(error)}); download it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a dictionary; download it again")
    return {
        _text(key, path): {_text(name, path): _plain(part) for name, part in item.items()}
        if isinstance(item, dict)
        else _plain(item)
        for key, item in value.items()
    }


def _text(key: str | bytes | int, path: Path) -> str:
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    if not isinstance(key, str):
        raise InputError(f"{path}: holds the key {key!r}, not a name; download it again")
    return key


def _plain(item: object) -> object:
    return item.value if isinstance(item, _Array) else item


class _Refused(Exception):
    """The pickle asks for something that no dataset needs."""


class _Bounded:
    """A file that never reads past its end: a pickle may announce any length."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size, self.left = file, size, size

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise EOFError("it ends early")
        self.left -= size
        return self.file.read(size)

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line


class _DtypeOf:
    """Stands for a `numpy.dtype`: a plain number type."""

    def __init__(self, name: object) -> None:
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if not isinstance(name, str) or name not in _DTYPES:
            shown = repr(name[:40]) if isinstance(name, str) else type(name).__name__
            raise _Refused(f"holds an array of {shown}, not of numbers")
        self.value = np.dtype(name)

    def set_state(self, state: object) -> None:
        """`dtype.__setstate__`: (version, byte order, …)."""
        if not isinstance(state, tuple) or len(state) < 2:
            raise ValueError("the state of a dtype is wrong")
        self.value = self.value.newbyteorder(">" if state[1] in (">", b">") else "<")


class _Array:
    """Stands for a `numpy.ndarray` until its shape, type and bytes are known."""

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.empty(0, np.uint8)

    def fill(self, raw: object, dtype: object, shape: object, order: str) -> None:
        if not isinstance(raw, bytes) or not isinstance(dtype, _DtypeOf):
            raise ValueError("an array is not made of bytes and a number type")
        sides = shape if isinstance(shape, tuple) else (shape,)
        if not all(isinstance(side, int) and side >= 0 for side in sides):
            raise ValueError("the shape of an array is wrong")
        self.value = np.frombuffer(raw, dtype.value).reshape(sides, order="F" if order == "F" else "C")

    def set_state(self, state: object) -> None:
        """`ndarray.__setstate__`: (version, shape, dtype, whether in Fortran's order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("the state of an array is wrong")
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")


class _Reader(pickle._Unpickler):
    """Python's own reader in its readable form, with fewer instructions and other functions.

    It is slower than the one in C, which allocates what a pickle announces before it has seen it; the
    arrays are single instructions in both.
    """

    def __init__(self, file: _Bounded) -> None:
        # "bytes": numpy arrays of Python 2 hold their pixels in a str.
        super().__init__(file, encoding="bytes")
        self.bounded = file
        self.encoded = 0  # bytes made by `_encode`

    def find_class(self, module: str, name: str) -> object:
        functions: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): lambda name, *_: _DtypeOf(name),
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy.core.numeric", "_frombuffer"): self._from_buffer,
            ("_codecs", "encode"): self._encode,
            ("__builtin__", "bytes"): lambda: b"",  # how Python 3 writes b"" in protocol 2
        }
        function = functions.get((module.replace("numpy._core", "numpy.core"), name))
        if function is None:
            raise _Refused(f"asks for {module}.{name}, which no dataset needs: it may be an attack")
        return function

    def _from_buffer(self, raw: object, dtype: object, shape: object, order: object) -> _Array:
        array = _Array()
        array.fill(raw, dtype, shape, "F" if order in ("F", b"F") else "C")
        return array

    def _scalar(self, dtype: object, raw: object) -> object:
        array = _Array()
        array.fill(raw, dtype, (), "C")
        return array.value.item()

    def _encode(self, text: object, encoding: object) -> bytes:
        """`_codecs.encode`: how Python 3 writes bytes in protocol 2."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
            raise _Refused("asks to encode something else than bytes: it may be an attack")
        self.encoded += len(text)
        if self.encoded > self.bounded.size:  # one long text encoded again and again would fill the memory
            raise _Refused("unpacks to more than its own size")
        return text.encode("latin-1")


def _build(reader: Any) -> None:
    """Sets the state of the object on top of the stack."""
    state = reader.stack.pop()
    if not isinstance(reader.stack[-1], _Array | _DtypeOf):
        raise _Refused(f"sets the state of a {type(reader.stack[-1]).__name__}")
    reader.stack[-1].set_state(state)


def _set_item(reader: Any) -> None:
    _set(reader, [reader.stack.pop(-2), reader.stack.pop()])


def _set_items(reader: Any) -> None:
    _set(reader, reader.pop_mark())


def _set(reader: Any, items: list[Any]) -> None:
    """Puts keys and values into the dictionary on top of the stack.

    Keys are names or numbers: hashing a tuple of tuples of … may never end.
    """
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes | int) or type(reader.stack[-1]) is not dict:
            raise _Refused(f"has a {type(key).__name__} as the key of a {type(reader.stack[-1]).__name__}")
        reader.stack[-1][key] = value


def _bytearray8(reader: Any) -> None:
    """As bytes, which nobody can tell apart here; `bytearray` would clear memory of any announced size."""
    reader.append(reader.read(int.from_bytes(reader.read(8), "little")))


def _refuse(_: Any) -> None:
    raise _Refused("holds an instruction that no dataset needs: it may be an attack")


_KNOWN = {ord(getattr(pickle, name)) for name in _INSTRUCTIONS}
_Reader.dispatch = {code: _Reader.dispatch[code] if code in _KNOWN else _refuse for code in range(256)}
_Reader.dispatch |= {ord(pickle.SETITEM): _set_item, ord(pickle.SETITEMS): _set_items}
_Reader.dispatch |= {ord(pickle.BUILD): _build, ord(pickle.BYTEARRAY8): _bytearray8}
