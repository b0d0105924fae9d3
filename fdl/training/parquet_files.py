"""Writes the small tables of a record as parquet."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def write_table(path: Path, columns: Mapping[str, Sequence[float] | Sequence[str]]) -> None:
    """Write columns of numbers or of text.

    The columns are given to pyarrow as buffers. For lists it would import pandas to see whether they are pandas
    objects, which takes a second in every bundle's process.
    """
    import pyarrow as pa
    from pyarrow import parquet

    arrays = []
    for values in columns.values():
        if isinstance(values[0], str):
            words = [str(value).encode() for value in values]
            offsets = np.cumsum([0, *map(len, words)], dtype=np.int32)
            text = pa.py_buffer(b"".join(words))
            arrays.append(pa.StringArray.from_buffers(len(words), pa.py_buffer(offsets.tobytes()), text))
        else:
            numbers = np.asarray(values)
            kind = pa.from_numpy_dtype(numbers.dtype)
            arrays.append(pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers.tobytes())]))
    parquet.write_table(pa.Table.from_arrays(arrays, names=list(columns)), path)
