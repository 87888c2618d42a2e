from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxgrad import InputError
from jaxgrad.points import read_points


def written(tmp_path, content: str | bytes):
    path = tmp_path / "points.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


PLAIN = "time,height\n1,5\n2,9\n3,13\n"
SAME = {
    "plain": PLAIN,
    "no last line end": PLAIN.rstrip("\n"),
    "byte order mark": "\ufeff" + PLAIN,
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "Windows": PLAIN.replace("\n", "\r\n"),
    "old Mac": PLAIN.replace("\n", "\r"),
    "quoted": 'time,"height"\n"1","5"\n"2",9\n3,"13"\n',
    "spaces": " time , height \n 1 , 5\n2 ,9 \n3,13\n",
    "blank lines": "\n\ntime,height\n\n1,5\n   \n2,9\n3,13\n\n\n",
    "blank lines before semicolons": "\r\n \r\ntime;height\r\n1;5\r\n2;9\r\n3;13\r\n",
    "rows without fields": "time,height\n1,5\n,\n2,9\n,\n3,13\n",
    "other ways to write numbers": "time,height\n1.0,+5\n2e0,.9e1\n0003,13.\n",
}


@pytest.mark.parametrize("name", SAME)
def test_one_table_in_many_ways_of_writing(name, tmp_path):
    x, y, columns = read_points(written(tmp_path, SAME[name]))
    assert (x.tolist(), y.tolist(), columns) == ([1.0, 2.0, 3.0], [5.0, 9.0, 13.0], ("time", "height"))
    assert x.dtype == y.dtype == np.float64


@pytest.mark.parametrize("path_of", [str, lambda path: path, os.fspath])
def test_path_may_be_text(path_of, tmp_path):
    assert read_points(path_of(written(tmp_path, PLAIN)))[2] == ("time", "height")


@pytest.mark.parametrize(
    ("header", "delimiter", "columns"),
    [
        ('"time, s","height, m"', ",", ("time, s", "height, m")),
        ('"time, s";"height, m"', ";", ("time, s", "height, m")),  # more commas than semicolons
        ('"a;b;c",d', ",", ("a;b;c", "d")),
        ("time\theight, m", "\t", ("time", "height, m")),
        ("time, s;height, m", ";", ("time, s", "height, m")),
        ("height, m;time", ";", ("height, m", "time")),
        ('"said ""so""",y', ",", ('said "so"', "y")),
        ("Größe,名前", ",", ("Größe", "名前")),
        ("1,y", ",", ("1", "y")),  # a header, since not all of it is numbers
        ("x,", ",", ("x", "")),
    ],
)
def test_delimiter_is_what_cuts_the_lines_in_two(header, delimiter, columns, tmp_path):
    x, y, found = read_points(written(tmp_path, f"{header}\n1{delimiter}5\n2{delimiter}9\n"))
    assert (found, x.tolist(), y.tolist()) == (columns, [1.0, 2.0], [5.0, 9.0])


def test_a_large_file_is_read_as_numpy_reads_it(tmp_path):
    random = np.random.default_rng(7)
    points = random.standard_normal((10_000, 2)) * 10.0 ** random.integers(-300, 300, (10_000, 2))
    path = written(tmp_path, "x,y\n" + "".join(f"{x!r},{y!r}\n" for x, y in points.tolist()))
    x, y, _ = read_points(path)
    theirs = np.loadtxt(path, delimiter=",", skiprows=1)
    assert np.array_equal(np.column_stack([x, y]), theirs)
    assert np.array_equal(theirs, points)


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=50)
@given(
    points=st.lists(st.tuples(finite, finite), min_size=2, max_size=8),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    quoted=st.booleans(),
)
def test_every_finite_number_comes_back(points, delimiter, end, quoted, tmp_path_factory):
    row = '"{!r}"{}"{!r}"' if quoted else "{!r}{}{!r}"
    lines = [f"x{delimiter}y", *(row.format(x, delimiter, y) for x, y in points)]
    x, y, _ = read_points(written(tmp_path_factory.mktemp("data"), end.join(lines) + end))
    assert np.column_stack([x, y]).tobytes() == np.array(points).tobytes()


# What is refused. Each message begins with the path.

WRONG = {
    "empty": ("", r": is empty, expected a header and two columns of numbers"),
    "only blank lines": ("\n \n\n", ": is empty, expected a header"),
    "one column": ("x\n1\n2\n", r", line 1: 1 column, expected two: x, then y\. Keep the two"),
    "three columns": ("x,y,z\n1,2,3\n", r", line 1: 3 columns, expected two: x, then y"),
    "blank line, then three columns": ("\nx;y;z\n1;2;3\n", r", line 2: 3 columns, expected two"),
    "spaces between": ("x y\n1 2\n", r", line 1: 1 column, expected two"),
    "no header": ("1,5\n2,9\n", r", line 1: '1,5' is numbers, expected a header\. Add a first line such as 'x,y'"),
    "no header, semicolons": ("1;5\n2;9\n", r", line 1: '1;5' is numbers.*such as 'x;y'"),
    "no rows": ("x,y\n", r": 0 rows of data, expected at least two to fit a line"),
    "one row": ("x,y\n1,5\n", r": 1 row of data, expected at least two to fit a line"),
    "text": (
        "x,y\n1,5\n2,nine\n",
        r", line 3, column 'y': 'nine', expected a finite number\. Mend or remove that line",
    ),
    "nothing": ("x,y\n1,5\n,9\n", r", line 3, column 'x': '', expected a finite number"),
    "nan": ("x,y\n1,5\nnan,9\n", r", line 3, column 'x': 'nan', expected a finite number"),
    "infinity": ("x,y\n1,5\n2,-inf\n", r", line 3, column 'y': '-inf', expected a finite number"),
    "too big": ("x,y\n1,5\n2,1e400\n", r", line 3, column 'y': '1e400', expected a finite number"),
    "underscore": ("x,y\n1,5\n2,1_5\n", r", line 3, column 'y': '1_5', expected a finite number"),
    "hexadecimal": ("x,y\n1,5\n2,0x9\n", r", line 3, column 'y': '0x9', expected a finite number"),
    "decimal comma": ("x;y\n1;5\n2;9,5\n", r", line 3, column 'y': '9,5', expected a finite number"),
    "unit": ("x,y\n1,5 m\n2,9 m\n", r", line 2, column 'y': '5 m', expected a finite number"),
    "a field more": ("x,y\n1,5\n2,9,8\n", r", line 3: 3 fields \['2', '9', '8'\], expected 2 as in the header"),
    "a field less": ("x,y\n1,5\n2\n", r", line 3: 1 field \['2'\], expected 2 as in the header\. Mend that line"),
    "blank lines are counted": ("x,y\n\n1,5\n\n\n2,nine\n", r", line 6, column 'y': 'nine'"),
    "Windows lines are counted": ("x,y\r\n1,5\r\n\r\n2,nine\r\n", r", line 4, column 'y': 'nine'"),
    "open quote": ('x,y\n1,5\n2,"9\n', r", line 3: not CSV \(unexpected end of data\)\. Mend that line"),
    "text after a quote": ('x,y\n1,5\n2,"9"9\n', r", line 3: not CSV \(',' expected after '\"'\)"),
    "a long field": ("x,y\n1,5\n2," + 140_000 * "9" + "\n", r", line 3: not CSV \(field larger than field limit"),
    "not UTF-8": ("x,größe\n1,5\n".encode("latin-1"), r": not a text file in UTF-8 \(byte 4\)\. Pass a CSV file"),
    "not UTF-8, far behind": (PLAIN.encode() * 5000 + b"\xff", r": not a text file in UTF-8 \(byte 125000\)"),
    "UTF-16": (PLAIN.encode("utf-16"), r": not a text file in UTF-8 \(byte 0\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file_is_refused_with_line_and_value(name, tmp_path):
    content, message = WRONG[name]
    path = written(tmp_path, content)
    with pytest.raises(InputError) as refused:
        read_points(path)
    assert str(refused.value).startswith(str(path))
    refused.match(message)


def test_no_file_and_no_readable_file(tmp_path):
    with pytest.raises(InputError, match=r"missing\.csv: cannot be read \(No such file or directory\)\. Pass a CSV"):
        read_points(tmp_path / "missing.csv")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_points(tmp_path)
