"""Tables: the same numbers from every format and reader, few or many, and every fault named by its place."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxgrad import InputError, InputTypeError, MissingExtraError, tables
from jaxgrad.data import batches
from jaxgrad.tables import delimited, read_table, storage

needs_pyarrow = pytest.mark.skipif(
    not delimited.importlib.util.find_spec("pyarrow"), reason="needs pyarrow, which reads Parquet and large text"
)
READERS = ["python", pytest.param("arrow", marks=needs_pyarrow)]


@pytest.fixture(params=READERS)
def reader(request, monkeypatch):
    """Each of the readers of text, on files of any size."""
    if request.param == "python":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(delimited, "_SMALL", -1)
    return request.param


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow", reason="needs pyarrow, which reads Parquet and large text")


def written(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, columns, **options) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, path, **options)
    return path


def refusal(*args, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_table(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


PLAIN = "size,rooms,price\n1,2,5\n2,3,9\n3,5,13\n"
SAME = {
    "plain": PLAIN,
    "no last line end": PLAIN.rstrip("\n"),
    "byte order mark": "\ufeff" + PLAIN,
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "Windows": PLAIN.replace("\n", "\r\n"),
    "old Mac": PLAIN.replace("\n", "\r"),
    "quoted": 'size,"rooms",price\n"1","2","5"\n"2",3,9\n3,5,"13"\n',
    "spaces": " size , rooms , price \n 1 , 2, 5\n2 ,3,9 \n3,5,13\n",
    "blank lines": "\n\nsize,rooms,price\n\n1,2,5\n   \n2,3,9\n3,5,13\n\n\n",
    "other ways to write numbers": "size,rooms,price\n1.0,0.2e1,+5\n2e0,003,.9e1\n0003,5,13.\n",
    "columns between": 'note,price,rooms,,size\n"a, b",5,2,,1\n"c\nd",9,3,,2\n5" pipe,13,5,,3\n',
    "a header in lines": '"no\nte",size,rooms,price\nx,1,2,5\n,2,3,9\ny,3,5,13\n',
    "same names elsewhere": "n,n,size,rooms,price\n,,1,2,5\nx,y,2,3,9\n,,3,5,13\n",
    "quotes in quotes": 'note,size,rooms,price\n"say ""so""",1,2,5\n"""",2,3,9\n"a""b",3,5,13\n',
    "not UTF-8 elsewhere": PLAIN.replace("size", "note,size")
    .replace("\n1", "\né,1")
    .replace("\n2", "\n,2")
    .replace("\n3", "\n,3")
    .encode("latin-1"),
}


@pytest.mark.parametrize("name", SAME)
def test_one_table_in_many_ways_of_writing(name, tmp_path, reader):
    table = read_table(written(tmp_path, SAME[name]), "size", "price")
    assert (table.x.tolist(), table.y.tolist()) == ([1, 2, 3], [5, 9, 13])
    assert table.x.dtype == table.y.dtype == np.float32
    assert (table.x_names, table.y_names, table.dropped, table.rows) == (("size",), ("price",), 0, 3)
    assert read_table(tmp_path / "data.csv", ["rooms", "size"], ["price"]).x.tolist() == [[2, 1], [3, 2], [5, 3]]


@pytest.mark.parametrize("name", ["data.tsv", "DATA.TSV", "data.tsv.gz", "data.csv.gz", "data.csv"])
def test_endings_and_compression(name, tmp_path, reader):
    content = PLAIN.replace(",", "\t").encode()
    path = written(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name)
    assert read_table(str(path), "size", "price").y.tolist() == [5, 9, 13]


def test_a_tab_file_may_have_commas_in_its_names(tmp_path, reader):
    path = written(tmp_path, "a,b\tc\n1\t2\n", "data.tsv")
    table = read_table(path, "a,b", "c")
    assert (table.x.shape, table.x_names) == ((1,), ("a,b",))


def test_one_name_is_a_vector_and_several_a_matrix(tmp_path):
    path = written(tmp_path, PLAIN)
    shapes = {
        "size": (3,),
        " size ": (3,),
        "size,rooms": (3, 2),
        "size, rooms ,": (3, 2),
        ("size",): (3, 1),
        ("rooms", "size"): (3, 2),
    }
    for x, shape in shapes.items():
        table = read_table(path, x, "price")
        assert (table.x.shape, table.y.shape) == (shape, (3,))
    table = read_table(path, "size", ["price", "rooms"], dtype=np.float64)
    assert table.y.tolist() == [[5, 2], [9, 3], [13, 5]]
    assert table.x.dtype == table.y.dtype == np.float64
    assert (table.data[0] is table.x) is (table.data[1] is table.y) is True
    assert repr(table) == "Table(3 rows in memory: x is size; y is price, rooms; float64)"


# Each message begins with the path; both readers have the same.

WRONG = {
    "empty": ("", ": is empty, expected a header and rows of numbers."),
    "only blank lines": ("\n \n\n", ": is empty, expected a header and rows of numbers."),
    "no rows": ("x,y\n", ": has no rows. Pass a table with at least one."),
    "no rows, but lines": ("x,y\n\n\n", ": has no rows. Pass a table with at least one."),
    "no header": ("1,5\n2,9\n", ", line 1: '1,5' is numbers, expected a header. Add a first line such as 'x,y'."),
    "missing": ("x,z\n1,2\n", ": y='y', but column 'y' is not there. The table has 'x', 'z'."),
    "both missing": ("a,b\n1,2\n", ": x='x', but column 'x' is not there. The table has 'a', 'b'."),
    "other case": ("X,y\n1,2\n", ": x='x', but column 'x' is not there. Did you mean 'X'? The table has 'X', 'y'."),
    "twice": ("x,y,x\n1,2,3\n", ": 2 columns are named 'x', expected one. Rename all but one."),
    "text": (
        "x,y\n1,5\n2,nine\n",
        ", line 3, column 'y': 'nine', expected a number. Mend or remove that row.",
    ),
    "underscore": ("x,y\n1,5\n2,1_5\n", ", line 3, column 'y': '1_5', expected a number."),
    "hexadecimal": ("x,y\n1,5\n0x9,2\n", ", line 3, column 'x': '0x9', expected a number."),
    "decimal comma": ("x;y\n1;5\n2;9,5\n", ", line 3, column 'y': '9,5', expected a number."),
    "unit": ("x,y\n1,5 m\n2,9 m\n", ", line 2, column 'y': '5 m', expected a number."),
    "text in two columns": ("x,y\n1,a\nb,2\n", ", line 2, column 'y': 'a', expected a number."),
    "text twice in a row": ("x,y\n1,2\nb,a\n", ", line 3, column 'x': 'b', expected a number."),
    "text comes before what is missing": ("x,y\n,1\n1,\n1,z\n", ", line 4, column 'y': 'z', expected a number."),
    "too large before text": ("x,y\n1,1e39\nb,2\n", ", line 2, column 'y': '1e39' is too large for float32."),
    "text before too large": ("x,y\nb,1\n1,1e39\n", ", line 2, column 'x': 'b', expected a number."),
    "text before a row too long": ("x,y\n1,2\nb,2\n1\n", ", line 3, column 'x': 'b', expected a number."),
    "not UTF-8": ("x,y\n1,5\n2,é\n".encode("latin-1"), r", line 3, column 'y': '\udce9', expected a number."),
    "nothing": (
        "x,y\n1,5\n,9\n",
        ", line 3, column 'x': '', expected a finite number; 1 row of 2 cannot be used. "
        "Mend the table, or leave such rows out with drop=True (--drop).",
    ),
    "nan": ("x,y\nnan,1\n1,2\n1,NaN\n", ", line 2, column 'x': 'nan', expected a finite number; 2 rows of 3 cannot"),
    "n/a": ("x,y\n1, N/A \nNone,null\n", ", line 2, column 'y': ' N/A ', expected a finite number; 2 rows of 2 cannot"),
    "infinity": ("x,y\n1,5\n2,-inf\n", ", line 3, column 'y': '-inf', expected a finite number; 1 row of 2 cannot"),
    "too large for anything": ("x,y\n1,1e400\n", ", line 2, column 'y': '1e400', expected a finite number; 1 row"),
    "empty fields": ("x,y\n1,5\n,\n2,9\n", ", line 3, column 'x': '', expected a finite number; 1 row of 3 cannot"),
    "a field more": ("x,y\n1,5\n2,9,8\n", ", line 3: 3 fields, expected 2 as in the header. Mend that line."),
    "a field less": ("x,y\n1,5\n2\n", ", line 3: 1 field, expected 2 as in the header. Mend that line."),
    "blank lines are counted": ("x,y\n\n1,5\n\n\n2,nine\n", ", line 6, column 'y': 'nine', expected a number."),
    "Windows lines are counted": ("x,y\r\n1,5\r\n\r\n2,nine\r\n", ", line 4, column 'y': 'nine', expected a number."),
    "lines in fields are counted": ('n,x,y\n"a\nb",1,5\n,2,nine\n', ", line 4, column 'y': 'nine', expected a number."),
    "open quote": ('x,y\n1,5\n2,"9\n', ", after line 2: not CSV (unexpected end of data). Mend that line."),
    "open quote elsewhere": ('x,y,n\n1,5,"a\n2,9,b\n', ", after line 1: not CSV (unexpected end of data)."),
    "text after a quote": ('x,y\n1,5\n2,"9"9\n', ", after line 2: not CSV (',' expected after '\"'). Mend that line."),
    "not UTF-8 in the header": ("x,größe\n1,5\n".encode("latin-1"), ", line 1: not a text file in UTF-8."),
    "UTF-16": ("x,y\n1,2\n".encode("utf-16"), ", line 1: not a text file in UTF-8. Pass a CSV file."),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_with_line_column_and_value(name, tmp_path, reader):
    content, said = WRONG[name]
    path = written(tmp_path, content)
    assert refusal(path, "x", "y").startswith(f"{path}{said}")


@pytest.mark.parametrize("rows", [8191, 8192, 8193, 70_000])
@pytest.mark.parametrize("fault", ["text", "", "1e39", "short"])
def test_the_place_is_right_in_a_long_file(rows, fault, tmp_path, reader):
    lines = ["x,y", *(f"{n},{n}" for n in range(rows)), f"1,{fault}" if fault != "short" else "1", "2,2"]
    message = refusal(written(tmp_path, "\n".join(lines)), "x", "y")
    assert f"line {rows + 2}" in message
    if fault == "":
        assert f"1 row of {rows + 2} cannot be used" in message


@needs_pyarrow
@pytest.mark.parametrize(
    "odd", ["   ", '5" pipe,+1,1', '"a ""b""",1,1', '"' + 9000 * "long" + '",1,1', '"in\nlines",1,1']
)
def test_what_pyarrow_cannot_read_python_reads_on(odd, tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_SMALL", -1)
    monkeypatch.setattr(delimited, "_ARROW_BYTES", 1 << 12)
    rows = [f"note,{n},{n}" for n in range(20_000)]
    table = read_table(written(tmp_path, "\n".join(["n,x,y", *rows, odd, *rows])), "x", "y")
    expected = [*range(20_000), *([] if odd.isspace() else [1]), *range(20_000)]
    assert table.x.tolist() == table.y.tolist() == expected


def test_a_long_file_is_read_as_numpy_reads_it(tmp_path, reader):
    random = np.random.default_rng(7)
    values = random.standard_normal((50_000, 3)) * 10.0 ** random.integers(-30, 30, (50_000, 3))
    path = written(tmp_path, "a,b,c\n" + "".join(f"{a!r},{b!r},{c!r}\n" for a, b, c in values.tolist()))
    table = read_table(path, "a,c", "b", dtype="float64")
    assert np.array_equal(table.x, values[:, [0, 2]])
    assert np.array_equal(table.y, values[:, 1])
    assert np.array_equal(read_table(path, "a,c", "b").x, values[:, [0, 2]].astype(np.float32))


numbers = st.one_of(
    st.floats(-(2.0**127), 2.0**127).map(repr),
    st.integers(-(10**30), 10**30).map(str),
    st.sampled_from(["", " NA ", "nan"]),
)


notes = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4)


@needs_pyarrow
@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(numbers, numbers, notes), min_size=1),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_both_readers_read_the_same(rows, delimiter, end, tmp_path_factory):
    lines = ["x,y,note".replace(",", delimiter)]
    for x, y, note in rows:
        quoted = '"' + note.replace('"', '""') + '"'
        lines.append(delimiter.join((x, f'"{y}"', quoted)))
    path = written(tmp_path_factory.mktemp("data"), end.join(lines) + end)
    found = []
    for small in (1 << 20, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delimited, "_SMALL", small)
            try:
                table = read_table(path, "x", "y", drop=True)
                found.append((table.x.tobytes(), table.y.tobytes(), table.dropped))
            except InputError as error:
                found.append(str(error))
    assert found[0] == found[1]


def test_dropping_leaves_out_rows_that_are_not_finite_and_says_how_many(tmp_path, reader):
    content = "x,y\n1,2\n,3\n4,nan\n5,inf\n6,NA\n7,8\n,\n"
    table = read_table(written(tmp_path, content), "x", "y", drop=True)
    assert (table.x.tolist(), table.y.tolist(), table.dropped) == ([1, 7], [2, 8], 5)
    assert repr(table) == "Table(2 rows in memory: x is x; y is y; float32, 5 dropped)"


def test_dropping_drops_neither_text_nor_all_rows(tmp_path, reader):
    assert "line 3, column 'y': 'z', expected a number" in refusal(
        written(tmp_path, "x,y\n,2\n1,z\n3,4\n"), "x", "y", drop=True
    )
    assert refusal(written(tmp_path, "x,y\n,2\n1,\n"), "x", "y", drop=True).endswith(
        "none of its 2 rows is left, each has a value that is no finite number. Mend it."
    )
    assert "'1e39' is too large for float32" in refusal(written(tmp_path, "x,y\n1e39,2\n1,1\n"), "x", "y", drop=True)


def test_columns_that_are_not_asked_for_may_be_anything(tmp_path, reader):
    content = "note,x,when,y\nhello,1,2020-01-01,2\n,3,,4\n"
    table = read_table(written(tmp_path, content), "x", "y")
    assert table.y.tolist() == [2, 4]


def test_float64_holds_what_float32_does_not(tmp_path, reader):
    path = written(tmp_path, "x,y\n1,1e39\n16777217,3.4028235e38\n")
    said = f"{path}, line 2, column 'y': '1e39' is too large for float32. Pass dtype='float64', or rescale it."
    assert refusal(path, "x", "y") == said
    table = read_table(path, "x", "y", dtype=np.float64)
    assert (table.x.tolist(), table.y.tolist()) == ([1, 16777217], [1e39, 3.4028235e38])


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"x": 3}, InputTypeError, "read_table: x is 3, expected the name of a column, or a list of names"),
        ({"y": ["a", None]}, InputTypeError, r"read_table: y is \['a', None\], expected the name"),
        ({"x": []}, InputError, "read_table: x names no column"),
        ({"x": ""}, InputError, "read_table: x names no column"),
        ({"x": ["size", "size"]}, InputError, "column 'size' is asked for twice, for x"),
        ({"x": "size,price"}, InputError, "column 'price' is in x and in y"),
        (
            {"x": "sizes"},
            InputError,
            r"column 'sizes' is not there\. Did you mean 'size'\? The table has 'size', ",
        ),
        ({"x": "a,size,b"}, InputError, "columns 'a', 'b' are not there"),
        ({"dtype": "float16"}, InputError, "dtype is 'float16', expected float32 or float64"),
        ({"dtype": "number"}, InputError, "dtype is 'number', expected float32 or float64"),
        ({"path": 3}, InputTypeError, r"path is i32\[\], expected a path"),
    ],
)
def test_wrong_arguments_are_refused(options, kind, said, tmp_path):
    with pytest.raises(kind, match=said):
        read_table(**{"path": written(tmp_path, PLAIN), "x": "size", "y": "price", **options})


def test_no_file_no_known_ending_and_no_gzip(tmp_path):
    assert refusal(tmp_path / "no.csv", "x", "y") == (
        f"{tmp_path / 'no.csv'}: cannot be read (No such file or directory). "
        "Pass a CSV or Parquet file, or a folder of Parquet files."
    )
    assert "ends in '.xlsx', expected .csv, .tsv (or either with .gz) or .parquet" in refusal(
        written(tmp_path, "x,y\n1,2\n", "data.xlsx"), "x", "y"
    )
    assert "is damaged, or not compressed by gzip (Not a gzipped file" in refusal(
        written(tmp_path, PLAIN, "plain.csv.gz"), "size", "price"
    )


def test_a_gzip_file_that_breaks_off_is_refused(tmp_path, reader):
    random = np.random.default_rng(0).standard_normal((20_000, 2))
    whole = gzip.compress(("x,y\n" + "".join(f"{x!r},{y!r}\n" for x, y in random.tolist())).encode())
    path = written(tmp_path, whole[: len(whole) // 2], "half.csv.gz")
    assert "is damaged, or not compressed by gzip (Compressed file ended" in refusal(path, "x", "y")


def test_without_pyarrow_small_text_is_read_and_the_rest_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = written(tmp_path, PLAIN)
    assert read_table(path, "size", "price").rows == 3
    for small in (0, len(PLAIN) - 1):
        monkeypatch.setattr(delimited, "_SMALL", small)
        assert read_table(path, "size", "price").rows == 3
    monkeypatch.setattr(delimited, "_BEARABLE", len(PLAIN) - 1)
    for name in ("data.csv", "data.parquet"):
        with pytest.raises(MissingExtraError, match=r'needs pyarrow.*pip install "jaxgrad\[data\]"'):
            read_table(written(tmp_path, PLAIN, name), "size", "price")


# Parquet.


def test_parquet_of_every_kind_of_number(tmp_path, arrow):
    pa = arrow
    kinds = pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 2)
    columns = [pa.array([3, 0, 1], kind) for kind in kinds]
    columns += [pa.array(["3", " 0", "1.0"], kind) for kind in (pa.string(), pa.large_string())]
    columns += [column.dictionary_encode() for column in columns]
    for column in columns:
        table = read_table(parquet(tmp_path / "a.parquet", {"x": column, "y": [True, False, True]}), "x", "y")
        assert (table.x.tolist(), table.y.tolist(), table.x.dtype) == ([3, 0, 1], [1, 0, 1], np.float32), column.type


def test_parquet_columns_in_the_order_asked_for_with_any_name(tmp_path, arrow):
    path = parquet(tmp_path / "a.pq", {"a.b": [1, 2], "c": [3, 4], " d ": [5, 6], "a": [7, 8]})
    table = read_table(path, ["d", "a.b"], "c")
    assert (table.x.tolist(), table.y.tolist()) == ([[5, 1], [6, 2]], [3, 4])


def test_a_folder_of_parquet_is_one_table(tmp_path, arrow):
    for name, values in {"b.parquet": [3, 4], "a.parquet": [1, 2], "c/d.pq": [5, 6], "a2.parquet": []}.items():
        columns = {"x": arrow.array(values, arrow.int64()), "y": arrow.array(values, arrow.float64())}
        parquet(tmp_path / "data" / name, columns)
    written(tmp_path / "data", "", "_SUCCESS")
    written(tmp_path / "data", "no parquet", "_notes.parquet")
    written(tmp_path / "data", "no parquet", ".hidden.parquet")
    assert read_table(tmp_path / "data", "x", "y").x.tolist() == [1, 2, 3, 4, 5, 6]
    bad = parquet(tmp_path / "data" / "c" / "e.parquet", {"x": [1.0, 2.0], "y": [1.0, float("nan")]})
    assert refusal(tmp_path / "data", "x", "y").startswith(
        f"{bad}, row 2, column 'y': nan, expected a finite number; 1 row of 8 cannot be used."
    )
    parquet(bad, {"x": [1.0, 2.0], "y": [float("inf"), 1.0]})
    assert refusal(tmp_path / "data", "x", "y").startswith(f"{bad}, row 1, column 'y': inf, expected a finite")
    parquet(bad, {"x": [1.0], "z": [1.0]})
    assert refusal(tmp_path / "data", "x", "y").startswith(f"{bad}: has no column 'y', which {tmp_path}")
    (tmp_path / "none").mkdir()
    assert "is a folder without Parquet files" in refusal(tmp_path / "none", "x", "y")


def test_parquet_faults_are_named_by_row(tmp_path, arrow):
    import datetime

    path, rows = tmp_path / "a.parquet", 70_000

    def with_last(column, **options):
        parquet(path, {"x": list(range(rows)), "y": column}, **options)
        return refusal(path, "x", "y")

    place = f"{path}, row {rows}, column 'y': "
    numbers = [1.0] * (rows - 1)
    assert with_last([*numbers, None]).startswith(f"{place}null, expected a finite number; 1 row of {rows} cannot")
    assert with_last([*numbers, float("-inf")]).startswith(f"{place}-inf, expected a finite number; 1 row")
    assert with_last([*numbers, 1e300]).startswith(f"{place}1e+300 is too large for float32.")
    words = ["1"] * (rows - 1)
    assert with_last([*words, "red"], row_group_size=1000).startswith(f"{place}'red', expected a number.")
    day = [datetime.date(2020, 1, 2)] * rows
    assert with_last(day) == (
        f"{path}, column 'y': datetime.date(2020, 1, 2) in row 1 is date32[day], expected numbers. "
        "Name another column, or write it as numbers."
    )
    assert "[1, 2] in row 1 is list<" in with_last([[1, 2]] * rows)
    parquet(path, {"x": [1, None, 3], "y": [1.0, 2.0, float("nan")]})
    table = read_table(path, "x", "y", drop=True)
    assert (table.x.tolist(), table.dropped) == ([1], 2)
    parquet(path, {"x": arrow.array([], arrow.int64()), "y": arrow.array([], arrow.int64())})
    assert refusal(path, "x", "y") == f"{path}: has no rows. Pass a table with at least one."
    parquet(path, {"x": arrow.nulls(2), "y": [1, 2]})
    assert refusal(path, "x", "y", drop=True).startswith(f"{path}: none of its 2 rows is left")
    twice = arrow.Table.from_arrays([arrow.array([1])] * 3, ["x", "y", "x"])
    assert "2 columns are named 'x'" in refusal(parquet(path, twice), "x", "y")
    assert (
        read_table(parquet(path, twice.rename_columns(["n", "y", "n"]).append_column("x", [[4]])), "x", "y").rows == 1
    )


@pytest.mark.parametrize("damage", ["text", "cut", "page", "empty"])
def test_damaged_parquet_is_refused_in_a_sentence(damage, tmp_path, arrow):
    random = np.random.default_rng(1).standard_normal(10_000)
    path = parquet(tmp_path / "a.parquet", {"x": random, "y": random}, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    if damage == "page":
        content[len(content) // 4] ^= 0xFF
    path.write_bytes({"text": b"x,y\n1,2\n", "cut": content[:-50], "page": content, "empty": b""}[damage])
    message = refusal(path, "x", "y")
    assert re.fullmatch(
        f"{re.escape(str(path))}: is damaged, or no Parquet file \\(.+\\)\\. Write it again\\.", message
    )


# Where the numbers are kept.


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(tables, "_IN_MEMORY", 1000)


def long_text(folder: Path, rows: int = 30_000) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
    return written(folder, "a,b,c\n" + "".join(f"{a!r},{b!r},{c!r}\n" for a, b, c in values.tolist())), values


def test_many_numbers_are_kept_on_disk_without_a_name(tmp_path, on_disk, reader, monkeypatch):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path, values = long_text(tmp_path)
    table = read_table(path, "a,b", "c")
    assert isinstance(table.x, np.memmap)
    assert isinstance(table.y, np.memmap)
    assert "30000 rows on disk" in repr(table)
    assert np.array_equal(table.x, values[:, :2])
    assert np.array_equal(table.y, values[:, 2])
    with pytest.raises(ValueError, match="read-only"):
        table.x[0] = 0
    assert os.listdir(tmp_path / "temporary") == []
    data = table.data
    del table
    drawn = batches(data, 32, 4)
    x, y = next(drawn)
    rows = np.asarray(drawn.rows_of(0))
    assert np.array_equal(x, values[rows, :2])
    assert np.array_equal(y, values[rows, 2])
    assert type(x) is np.ndarray


def test_what_fits_and_what_does_not_are_the_same_numbers(tmp_path, monkeypatch):
    path, _ = long_text(tmp_path)
    whole = read_table(path, "a,b", "c", dtype="float64")
    monkeypatch.setattr(tables, "_IN_MEMORY", 500_000)  # it moves to disk in the middle
    mapped = read_table(path, "a,b", "c", dtype="float64")
    assert (isinstance(whole.x, np.memmap), isinstance(mapped.x, np.memmap)) == (False, True)
    assert np.array_equal(whole.x, mapped.x)
    assert np.array_equal(whole.y, mapped.y)


def test_scratch_is_used_again_as_long_as_it_fits_the_source(tmp_path, monkeypatch):
    path, values = long_text(tmp_path)
    scratch = tmp_path / "scratch"
    reads = []
    real = tables.checked
    monkeypatch.setattr(tables, "checked", lambda *args: reads.append(args) or real(*args))

    def read(*names, **options):
        before = len(reads)
        table = read_table(path, *(names or ("a,b", "c")), scratch=scratch, **options)
        return table, len(reads) > before

    table, fresh = read()
    assert fresh
    (folder,) = scratch.iterdir()
    assert sorted(os.listdir(folder)) == ["table.json", "x.npy", "y.npy"]
    assert np.array_equal(np.load(folder / "x.npy"), values[:, :2])
    again, fresh = read()
    assert not fresh
    assert isinstance(again.x, np.memmap)
    assert np.array_equal(again.x, table.x)
    assert np.array_equal(again.y, values[:, 2])
    assert (again.x_names, again.dropped) == (("a", "b"), 0)
    for names, options in ((("b,a", "c"), {}), (("a,b", ["c"]), {}), (("a,b", "c"), {"dtype": "float64"})):
        other, fresh = read(*names, **options)
        assert fresh
        assert (other.x_names, other.x.dtype) == (tuple(names[0].split(",")), options.get("dtype", "float32"))
    assert not read()[1]  # the first is still there
    os.utime(path, ns=(1, 1))
    assert read()[1]
    path.write_text("a,b,c\n1,2,3\n,2,3\n")
    changed, fresh = read(drop=True)
    assert fresh
    assert (changed.x.tolist(), changed.dropped) == ([[1, 2]], 1)
    assert read(drop=True)[0].dropped == 1
    assert not read(drop=True)[1]
    assert not list(scratch.glob("*.new"))
    assert np.array_equal(table.x, values[:, :2])  # what is mapped outlives its file


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "shape"])
def test_damaged_scratch_is_made_anew(damage, tmp_path):
    path, values = long_text(tmp_path, 1000)
    read_table(path, "a", "c", scratch=tmp_path / "scratch")
    (folder,) = (tmp_path / "scratch").iterdir()
    if damage == "cut":
        (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-8])
    elif damage == "gone":
        (folder / "y.npy").unlink()
    elif damage == "json":
        (folder / "table.json").write_text(json.dumps({})[:1])
    else:
        np.save(folder / "x.npy", np.zeros(3, np.float32))
    table = read_table(path, "a", "c", scratch=tmp_path / "scratch")
    assert np.array_equal(table.x, values[:, 0])
    assert np.array_equal(np.load(folder / "x.npy"), values[:, 0])


def test_a_refused_table_leaves_nothing_in_scratch(tmp_path):
    path = written(tmp_path, "x,y\n1,2\n1,z\n")
    refusal(path, "x", "y", scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_scratch_that_cannot_be_written_is_refused(tmp_path):
    path = written(tmp_path, PLAIN)
    assert refusal(path, "size", "price", scratch=path) == (
        f"{path}: cannot hold the table (File exists). Pass another folder as scratch."
    )
    assert "cannot hold the table (No such file" in refusal(path, "size", "price", scratch=tmp_path / "a" / "b")


def test_many_make_the_same_scratch_at_once(tmp_path):
    path, values = long_text(tmp_path, 5000)
    found, start = [], threading.Barrier(6)

    def read():
        start.wait()
        table = read_table(path, "a", "c", scratch=tmp_path / "scratch")
        found.append(np.array_equal(table.x, values[:, 0]))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6
    assert len(list((tmp_path / "scratch").iterdir())) == 1


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path, PLAIN)
    real = tables.checked

    def changing(*args):
        yield from real(*args)
        path.write_text(PLAIN + "1,2,3\n")

    monkeypatch.setattr(tables, "checked", changing)
    assert refusal(path, "size", "price").endswith("was changed while it was read. Read it again when it is written.")


CHILD = """
import resource, sys
import numpy as np
import pyarrow.compute, pyarrow.csv, pyarrow.parquet
from jaxgrad import InputError, tables
from jaxgrad.data import batches

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

pyarrow.set_cpu_count(2)  # it reads further ahead for more
tables._IN_MEMORY = 1 << 20
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
    try:
        tables.read_table(sys.argv[1], "a,b,c,d", "e")
    except InputError as error:
        print(error)
else:
    before = peak()
    table = tables.read_table(sys.argv[1], "a,b,c,d", "e")
    assert isinstance(table.x, np.memmap)
    grown = peak() - before
    drawn = batches(table.data, 32, 1)
    for _ in range(3):
        x, y = next(drawn)
        np.testing.assert_allclose(x.sum(1), y, rtol=1e-5)
    print(grown, table.rows)
"""


def child(path: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), *options], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_memory_stays_bounded_where_the_file_is_larger(name, tmp_path, arrow):
    rows, path = 3_000_000 if name == "a.parquet" else 1_500_000, tmp_path / name
    columns = dict(zip("abcd", np.random.default_rng(0).random((4, rows)), strict=True))
    columns["e"] = sum(columns.values())
    if name == "a.parquet":
        parquet(path, columns, row_group_size=rows, compression="none", use_dictionary=False)
    else:
        import pyarrow.csv

        pyarrow.csv.write_csv(arrow.table(columns), path)
    size = path.stat().st_size >> 20
    grown, read = map(int, child(path, "grown").split())
    assert read == rows
    assert size > 110
    assert grown < 85  # measured: 58 for Parquet, 66 for text, of any length


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_told_in_a_sentence(tmp_path, arrow):
    columns = dict.fromkeys("abcde", np.ones(1_000_000))
    said = child(parquet(tmp_path / "a.parquet", columns), "full")
    assert re.fullmatch(r"read_table: the numbers cannot be kept in .+ \(File too large\)\. Pass scratch=, .+\n", said)
