"""Tables for training, CSV or Parquet: checked before anything is trained, on disk where memory would not hold them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import short
from jaxgrad.tables.blocks import Counts, Source, checked
from jaxgrad.tables.columns import check_apart, check_names, find_columns, possible_names
from jaxgrad.tables.storage import Growing, Scratch, nameless

__all__ = ["Table", "read_table"]

_IN_MEMORY = 256 << 20
"""Numbers of more bytes than this are kept on disk."""


@dataclass(frozen=True, eq=False)
class Table:
    """Two columns, or groups of columns, of a file.

    Attributes:
      x: ``[rows]``, or ``[rows, columns]`` where several were asked for.
      y: likewise.
      x_names: the columns of ``x``.
      y_names: the columns of ``y``.
      dropped: how many rows were left out, since a value was missing, NaN or infinite.
    """

    x: np.ndarray
    y: np.ndarray
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    dropped: int

    @property
    def rows(self) -> int:
        """How many rows ``x`` and ``y`` have."""
        return len(self.x)

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """``(x, y)``, as ``batches`` and ``fit`` take them."""
        return self.x, self.y

    def __repr__(self) -> str:
        place = "on disk" if isinstance(self.x, np.memmap) else "in memory"
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        x, y = ", ".join(self.x_names), ", ".join(self.y_names)
        return f"Table({self.rows} rows {place}: x is {x}; y is {y}; {self.x.dtype}{dropped})"


def read_table(
    path: str | Path,
    x: str | Sequence[str],
    y: str | Sequence[str],
    *,
    dtype: Any = "float32",
    drop: bool = False,
    scratch: str | Path | None = None,
) -> Table:
    """Read the columns to train on, as finite numbers. The file may be larger than memory.

    Up to 256 MB of numbers are plain arrays in memory. More are kept in temporary files that are mapped into memory:
    ``batches(table.data, 32, key)`` reads the rows it needs. Those files have no name, and their room is free again
    when the arrays are gone, however the program ends.

    Every number becomes ``dtype``: whole numbers too, above 2**24 rounded in float32, and truth values 0 and 1.

    Args:
      path: ``.csv`` or ``.tsv``, in UTF-8 with a header, perhaps ``.gz``; commas, semicolons or tabs. ``.parquet`` or
        ``.pq``, or a folder with such files, which are read in the order of their names. Parquet needs pyarrow, and so
        does text of more than 64 MB; smaller text is read without it.
      x: the name of a column, or several names: a list, or ``"a,b"`` where no column has that very name.
      y: likewise.
      dtype: float32 or float64.
      drop: leave out rows with a value that is missing (nothing, NA, null, none), NaN or infinite. Text is refused.
      scratch: a folder in which the numbers are kept instead, for this and later runs, which use them as long as the
        files of ``path`` keep size and time. It is made if it is not there; nothing in it is ever deleted but what
        an earlier run made from the same path and columns.

    Returns:
      A ``Table``, at least one row long.

    Raises:
      InputError: for a file that is missing, damaged or of another kind, columns that are not there or not numbers, no
        rows, values that are not finite or too large for ``dtype``; the message names line or row, column and value.
      InputTypeError: for names that are no text.
      MissingExtraError: if pyarrow is needed and not installed.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputTypeError(f"read_table: path is {short(path)}, expected a path. Pass 'data.csv', say.")
    path = Path(path)
    for argument, wanted in (("x", x), ("y", y)):
        check_names(argument, wanted)
    kind = _dtype(dtype)
    source = _source(path, possible_names(x) | possible_names(y))
    (x_at, x_single), (y_at, y_single) = (
        find_columns(path, source.names, argument, wanted) for argument, wanted in (("x", x), ("y", y))
    )
    check_apart(path, source.names, x_at, y_at)
    x_names, y_names = ([source.names[at].strip() for at in group] for group in (x_at, y_at))
    files = _stamps(source)

    def table(arrays: Sequence[np.ndarray], dropped: int) -> Table:
        return Table(arrays[0], arrays[1], tuple(x_names), tuple(y_names), dropped)

    kept = None
    if scratch is not None:
        about = {"path": str(path.resolve()), "x": x_names, "y": y_names, "single": [x_single, y_single]}
        kept = Scratch(scratch, {**about, "dtype": kind.name, "drop": bool(drop), "files": files})
        if stored := kept.stored():
            return table(stored[0], stored[1]["dropped"])

    source.check([*x_at, *y_at])
    counts = Counts()
    blocks = checked(path, source, [*x_at, *y_at], kind, drop, counts)
    arrays = [Growing(None if single else len(at), kind) for at, single in ((x_at, x_single), (y_at, y_single))]

    def add(block: np.ndarray) -> int:
        arrays[0].append(block[:, : len(x_at)])
        arrays[1].append(block[:, len(x_at) :])
        return block.nbytes

    if kept is not None:
        with kept.written(arrays, lambda: {"dropped": counts.left_out}):
            for block in blocks:
                add(block)
            _check_unchanged(source, files)
        return table([array.array() for array in arrays], counts.left_out)
    with nameless(arrays) as spill:
        held, spilled = 0, False
        for block in blocks:
            held += add(block)
            if held > _IN_MEMORY and not spilled:
                spill()
                spilled = True
        _check_unchanged(source, files)
        return table([array.array() for array in arrays], counts.left_out)


def _dtype(dtype: Any) -> np.dtype[Any]:
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = None
    if kind not in (np.float32, np.float64):
        raise InputError(f"read_table: dtype is {dtype!r}, expected float32 or float64. Pass dtype='float32'.")
    return np.dtype(kind)


def _source(path: Path, wanted: set[str]) -> Source:
    """The reader for the kind of file."""
    from jaxgrad.tables.delimited import Delimited
    from jaxgrad.tables.parquet import ENDINGS, Parquet

    try:
        path.stat()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Pass a CSV or Parquet file, or a folder of Parquet files."
        ) from error
    name = path.name.lower()
    if path.is_dir() or name.endswith(ENDINGS):
        return Parquet(path)
    if name.removesuffix(".gz").endswith((".csv", ".tsv")):
        return Delimited(path, wanted)
    raise InputError(
        f"{path}: ends in {path.suffix!r}, expected .csv, .tsv (or either with .gz) or .parquet. "
        "Give the file the ending of what it is."
    )


def _stamps(source: Source) -> list[list[Any]]:
    """Name, size and time of each file, as JSON gives them back."""
    return [[str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in source.files]


def _check_unchanged(source: Source, files: list[list[Any]]) -> None:
    try:
        same = _stamps(source) == files
    except OSError:
        same = False
    if not same:
        raise InputError(f"{source.files[0]}: was changed while it was read. Read it again when it is written.")
