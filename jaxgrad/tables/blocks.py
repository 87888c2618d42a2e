"""Blocks of rows as numbers, and the checks that every format shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxgrad.errors import InputError

_MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none")
"""Fields that say that there is no value, in lower case."""


class Block(NamedTuple):
    """Some rows of the chosen columns."""

    values: np.ndarray  # [rows, columns], float64; NaN where there is no number
    text: list[tuple[int, int]]  # row and column of the first field of each column that is text


class Source(Protocol):
    """A table on disk, whatever its format."""

    files: list[Path]
    names: list[str]  # of its columns, in their order

    def check(self, columns: list[int]) -> None:
        """Refuse columns whose type says that they hold no numbers."""
        ...

    def blocks(self, columns: list[int]) -> Iterator[Block]:
        """All rows of these columns, in order."""
        ...

    def place(self, row: int, column: int) -> tuple[str, str]:
        """Where a row counted from 0 stands, ``"data.csv, line 3"``, and the value as it is written there."""
        ...


class Counts:
    """What ``checked`` saw: ``rows`` in all, and ``left_out`` of them for want of a finite number."""

    rows = 0
    left_out = 0


def checked(
    path: Path, source: Source, columns: list[int], dtype: np.dtype[Any], drop: bool, counts: Counts
) -> Iterator[np.ndarray]:
    """The rows of a table in blocks ``[rows, columns]`` of ``dtype``, finite numbers all.

    Raises:
      InputError: at the first field that is text, or too large for ``dtype``; at the end, where ``drop`` is off, if
        any row had a value that is missing, NaN or infinite; if no row is left.
    """
    first: tuple[int, int] | None = None
    for block in source.blocks(columns):
        with np.errstate(over="ignore"):
            numbers = block.values.astype(dtype)
        too_large = np.isinf(numbers) & np.isfinite(block.values)
        if faults := block.text + _first(too_large):
            row, column = min(faults)
            where, value = source.place(counts.rows + row, columns[column])
            name = source.names[columns[column]].strip()
            if (row, column) in block.text:
                raise InputError(f"{where}, column {name!r}: {value}, expected a number. Mend or remove that row.")
            raise InputError(
                f"{where}, column {name!r}: {value} is too large for {dtype}. Pass dtype='float64', or rescale it."
            )
        whole: np.ndarray = np.logical_and.reduce(np.isfinite(numbers), axis=1)
        if not whole.all():
            if first is None:
                row, column = _first(~np.isfinite(numbers))[0]
                first = counts.rows + row, column
            counts.left_out += int(len(whole) - whole.sum())
            numbers = numbers[whole]
        counts.rows += len(whole)
        if first is None or drop:
            yield numbers

    if not counts.rows:
        raise InputError(f"{path}: has no rows. Pass a table with at least one.")
    if first is not None and not drop:
        where, value = source.place(first[0], columns[first[1]])
        such = "1 row" if counts.left_out == 1 else f"{counts.left_out} rows"
        raise InputError(
            f"{where}, column {source.names[columns[first[1]]].strip()!r}: {value}, expected a finite number; "
            f"{such} of {counts.rows} cannot be used. Mend the table, or leave such rows out with drop=True (--drop)."
        )
    if counts.left_out == counts.rows:
        raise InputError(
            f"{path}: none of its {counts.rows} rows is left, each has a value that is no finite number. Mend it."
        )


def block_of_text(columns: Sequence[Sequence[str]]) -> Block:
    """A block from fields as they are written, one sequence a column."""
    return block_of([numbers_of_text(fields) for fields in columns])


def block_of(columns: Sequence[tuple[np.ndarray, int | None]]) -> Block:
    """A block from the numbers of each column and the row of its first text."""
    text = [(row, column) for column, (_, row) in enumerate(columns) if row is not None]
    return Block(np.stack([values for values, _ in columns], 1), text)


def numbers_of_text(fields: Sequence[str]) -> tuple[np.ndarray, int | None]:
    """The numbers that fields hold, NaN where they hold none; and the row of the first that is text, if any is."""
    try:
        if "_" not in "".join(fields):  # Python reads 1_5 as fifteen
            return np.fromiter(map(float, fields), np.float64, len(fields)), None
    except ValueError:
        pass
    values = [_number(field) for field in fields]
    text = next((row for row, value in enumerate(values) if value is None), None)
    return np.array(values, np.float64), text  # None becomes NaN


def numbers_of_arrow(array: Any) -> tuple[np.ndarray, int | None]:
    """The same of an Arrow array of text or numbers; what Arrow does not read as a number, Python is asked about."""
    import pyarrow as pa
    import pyarrow.compute

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not is_text(array.type):
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.uint8())
        return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), None

    pc: Any = pyarrow.compute  # whose functions are made as it is imported

    def with_nulls() -> Any:
        trimmed = pc.utf8_trim_whitespace(array)
        missing = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(_MISSING, array.type))
        return pc.if_else(missing, pa.scalar(None, array.type), trimmed)

    for written in (lambda: array, with_nulls):
        try:
            return written().cast(pa.float64()).to_numpy(zero_copy_only=False), None
        except pa.ArrowInvalid:
            continue
    return numbers_of_text([field or "" for field in array.to_pylist()])


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of those for text."""
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _number(field: str) -> float | None:
    try:
        if field.strip().lower() in _MISSING:
            return float("nan")
        return None if "_" in field else float(field)
    except ValueError:
        return None


def _first(found: np.ndarray) -> list[tuple[int, int]]:
    """The first true entry, row by row, in a list of one or none."""
    if not found.any():
        return []
    row, column = divmod(int(found.argmax()), found.shape[1])
    return [(row, column)]
