"""Parquet: a file, or a folder of files that are one table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxgrad.errors import InputError, require
from jaxgrad.tables.blocks import Block, block_of, is_text, numbers_of_arrow

ENDINGS = (".parquet", ".pq")

_ROWS = 1 << 16


class Parquet:
    """A table in Parquet, read by pyarrow. See ``blocks.Source``."""

    def __init__(self, path: Path):
        require("pyarrow", f"read_table: {path}")
        self.path = path
        self.files = [path] if path.is_file() else _files(path)
        if not self.files:
            raise InputError(f"{path}: is a folder without Parquet files. Pass one with *.parquet in it, or a file.")
        self._schemas, self._lengths = [], []
        for file in self.files:
            with _opened(file) as opened:
                self._schemas.append(opened.schema_arrow)
                self._lengths.append(opened.metadata.num_rows)
        self.names: list[str] = self._schemas[0].names

    def check(self, columns: list[int]) -> None:
        """Refuse columns that another file of the folder lacks, and those of a type that holds no numbers."""
        first = 0
        for file, schema, length in zip(self.files, self._schemas, self._lengths, strict=True):
            for column in columns:
                name = self.names[column]
                if (count := schema.names.count(name)) != 1:
                    raise InputError(
                        f"{file}: has {count or 'no'} column{'s' * (count > 1)} {name!r}, which {self.files[0]} has. "
                        "Pass files with the same columns."
                    )
                kind = schema.field(name).type
                if not _holds_numbers(kind):
                    value = f"{self.place(first, column)[1]} in row 1 is" if length else "it is"
                    raise InputError(
                        f"{file}, column {name!r}: {value} {kind}, expected numbers. "
                        "Name another column, or write it as numbers."
                    )
            first += length

    def blocks(self, columns: list[int]) -> Iterator[Block]:
        """All rows of these columns, in order."""
        for file in self.files:
            for batch in self._batches(file, columns):
                if batch.num_rows:
                    yield block_of([numbers_of_arrow(array) for array in batch.columns])

    def place(self, row: int, column: int) -> tuple[str, str]:
        """The row in its file, counted from 1, and the value as Python writes it."""
        ends = np.cumsum(self._lengths)
        number = int(np.searchsorted(ends, row, side="right"))
        row -= int(ends[number]) - self._lengths[number]
        place, first = f"{self.files[number]}, row {row + 1}", 0
        for batch in self._batches(self.files[number], [column]):
            if row < first + batch.num_rows:
                value = batch.column(0)[row - first].as_py()
                return place, "null" if value is None else repr(value)
            first += batch.num_rows
        raise AssertionError(f"{place} is not there")

    def _batches(self, file: Path, columns: list[int]) -> Iterator[Any]:
        names = [self.names[column] for column in columns]
        with _opened(file) as opened:
            for batch in opened.iter_batches(_ROWS, columns=names):
                yield batch.select(names)  # in the order asked for, not the file's


def _files(folder: Path) -> list[Path]:
    """The Parquet files in a folder and the folders in it; names that begin with . or _ are notes of the writer's."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in ENDINGS
        and file.is_file()
        and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    )


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Read as it is used, not row groups at a time: those may be as large as the file.
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as opened:
            yield opened
    except (pa.ArrowException, OSError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise InputError(f"{file}: is damaged, or no Parquet file ({said}). Write it again.") from error


def _holds_numbers(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _holds_numbers(kind.value_type)
    kinds = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null
    return is_text(kind) or any(is_kind(kind) for is_kind in kinds)
