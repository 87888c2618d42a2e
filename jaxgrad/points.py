"""The user's own points, from a file."""

from __future__ import annotations

import csv
import io
import math
from itertools import islice
from pathlib import Path

import numpy as np

from jaxgrad.errors import InputError

_DELIMITERS = ",;\t"


def read_points(path: str | Path) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Read a CSV file with a header and two columns: the inputs, then the truth.

    Args:
      path: a text file in UTF-8, separated by commas, semicolons or tabs; empty lines are passed over.

    Returns:
      ``x [n]``, ``y [n]``, float64, at least two rows; and the names of the two columns.

    Raises:
      InputError: no such file, not text, no header, not two columns, a field that is not a finite number
        (file, line and value are named), or fewer than two rows.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Pass a CSV file with two columns.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start}). Pass a CSV file.") from error
    delimiter, rows = _rows(path, text)
    if not rows:
        raise InputError(f"{path}: is empty, expected a header and two columns of numbers.")

    (_, header), *rest = rows
    if len(header) != 2:
        raise InputError(
            f"{path}, line {rows[0][0]}: {len(header)} column{'s' * (len(header) != 1)}, expected two: x, then y. "
            "Keep the two you want to fit."
        )
    if all(_number(field) is not None for field in header):
        raise InputError(
            f"{path}, line {rows[0][0]}: {delimiter.join(header)!r} is numbers, expected a header. "
            f"Add a first line such as 'x{delimiter}y'."
        )
    points = [[_field(path, line, row, column, header) for column in range(2)] for line, row in rest]
    if len(points) < 2:
        raise InputError(
            f"{path}: {len(points)} row{'s' * (len(points) != 1)} of data, expected at least two to fit a line."
        )
    x, y = np.asarray(points, np.float64).T
    return x, y, (header[0].strip(), header[1].strip())


def _rows(path: Path, text: str) -> tuple[str, list[tuple[int, list[str]]]]:
    """The delimiter, and each row that is not blank with the number of its line."""
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return delimiter, [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error}). Mend that line.") from error


def _delimiter(text: str) -> str:
    """What cuts the header and the first row in two; where nothing does, what cuts the header most often."""
    written = (line for line in io.StringIO(text, newline="") if line.strip(f" \r\n{_DELIMITERS}"))
    lines = list(islice(written, 2))

    def fit(delimiter: str) -> tuple[int, list[int]]:
        fields = [_fields(line, delimiter) for line in lines]
        return fields.count(2), fields[:1]

    return max(_DELIMITERS, key=fit)


def _fields(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter, strict=True), ()))
    except csv.Error:  # quotes that only another delimiter explains
        return 0


def _number(field: str) -> float | None:
    try:
        return None if "_" in field else float(field)  # Python reads 1_5 as fifteen
    except ValueError:
        return None


def _field(path: Path, line: int, row: list[str], column: int, header: list[str]) -> float:
    if len(row) != 2:
        raise InputError(
            f"{path}, line {line}: {len(row)} field{'s' * (len(row) != 1)} {row!r}, expected 2 as in the header. "
            "Mend that line."
        )
    value = _number(row[column])
    if value is None or not math.isfinite(value):
        raise InputError(
            f"{path}, line {line}, column {header[column].strip()!r}: {row[column]!r}, expected a finite number. "
            "Mend or remove that line."
        )
    return value
