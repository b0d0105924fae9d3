"""The small tables of a record."""

import math

from pyarrow import parquet

from fdl.training.parquet_files import write_table


def test_a_table_that_is_written_is_read_again(tmp_path):
    columns = {"combiner": ["fusion", "", "Große"], "epoch": [0, 1, 2], "loss": [0.5, math.nan, -math.inf]}
    write_table(tmp_path / "t.parquet", columns)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "double"]
    assert str(table.to_pydict()) == str(columns)
