"""CSV and TSV files, by pyarrow where they are large, by Python's csv module otherwise."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from jaxgrad.errors import InputError, require
from jaxgrad.tables.blocks import Block, block_of, block_of_text, numbers_of_arrow, numbers_of_text

_SMALL = 1 << 20
"""Up to so many bytes Python has read the file before pyarrow is imported."""

_BEARABLE = 64 << 20
"""Up to so many bytes Python reads the file where pyarrow is not installed."""

_ROWS = 8192

_DAMAGED = gzip.BadGzipFile, EOFError, zlib.error
"""What gzip raises."""
_ARROW_BYTES = 1 << 20
"""Of a block. Arrow reads tens of them ahead, more where there are more cores."""


class Delimited:
    """A text file with a header: commas, semicolons or tabs, perhaps compressed by gzip. See ``blocks.Source``.

    Python's csv module says what the file means: it reads small files, and it goes on from the row before the one
    that pyarrow cannot read, so that both have the same messages.
    """

    def __init__(self, path: Path, wanted: Iterable[str]):
        self.path, self.files = path, [path]
        tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
        headers = [(delimiter, *self._header(delimiter)) for delimiter in ("\t" if tabs else ",;\t")]
        # What is asked for says which delimiter it is; where that does not, what cuts the header most often.
        self.delimiter, self.header_line, self.names = max(
            headers, key=lambda header: (len(set(wanted) & {name.strip() for name in header[2]}), len(header[2]))
        )
        if not self.names:
            raise InputError(f"{path}: is empty, expected a header and rows of numbers.")
        if any(character in name for name in self.names for character in map(chr, range(0xDC80, 0xDD00))):
            raise InputError(f"{path}, line {self.header_line}: not a text file in UTF-8. Pass a CSV file.")
        found = {name.strip() for name in self.names} & set(wanted)
        if not found and all(numbers_of_text([name])[1] is None and name.strip() for name in self.names):
            raise InputError(
                f"{path}, line {self.header_line}: {self.delimiter.join(self.names)!r} is numbers, expected a header. "
                f"Add a first line such as 'x{self.delimiter}y'."
            )

    def check(self, columns: list[int]) -> None:
        """Text files have no types that could be wrong."""

    def blocks(self, columns: list[int]) -> Iterator[Block]:
        """All rows of these columns, in order."""
        size = self.path.stat().st_size
        if size <= _SMALL or (size <= _BEARABLE and importlib.util.find_spec("pyarrow") is None):
            return self._by_python(columns, 0)
        require("pyarrow", f"read_table: {self.path} ({size / 1e6:.0f} MB of text)")
        return self._by_arrow(columns)

    def place(self, row: int, column: int) -> tuple[str, str]:
        """The line of a row, and the field as it is written."""
        line, fields = next(islice(self._rows(), row, None))
        return f"{self.path}, line {line}", repr(fields[column])

    def _header(self, delimiter: str) -> tuple[int, list[str]]:
        try:
            return next(self._written(delimiter), (1, []))
        except csv.Error:  # quotes that only another delimiter explains
            return 1, []

    def _by_python(self, columns: list[int], skipped: int) -> Iterator[Block]:
        rows, chunk = islice(self._rows(), skipped, None), []

        def block() -> Block:
            return block_of_text([[fields[column] for fields in chunk] for column in columns])

        try:
            for _, fields in rows:
                chunk.append(fields)
                if len(chunk) == _ROWS:
                    yield block()
                    chunk = []
        except InputError:
            if chunk:  # an error in what stands before comes first
                yield block()
            raise
        if chunk:
            yield block()

    def _by_arrow(self, columns: list[int]) -> Iterator[Block]:
        import pyarrow as pa
        import pyarrow.csv as arrow_csv

        numbered = [str(column) for column in range(len(self.names))]  # names may be there twice
        chosen = [numbered[column] for column in columns]
        done = 0
        try:
            with (
                self._bytes() as file,
                arrow_csv.open_csv(
                    pa.PythonFile(watched := _Watched(file), "r"),
                    arrow_csv.ReadOptions(block_size=_ARROW_BYTES, skip_rows=self.header_line, column_names=numbered),
                    arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                    arrow_csv.ConvertOptions(include_columns=chosen, column_types=dict.fromkeys(chosen, pa.string())),
                ) as reader,
            ):
                for batch in reader:
                    yield block_of([numbers_of_arrow(column) for column in batch.columns])
                    done += batch.num_rows
        except (pa.ArrowException, *_DAMAGED, OSError):
            yield from self._by_python(columns, done)
        else:
            if watched.odd:
                for _ in self._rows():  # which raises where a quote is wrong indeed
                    pass

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows below the header with the numbers of their lines, each as long as the header."""
        rows = self._written(self.delimiter)
        next(rows)
        line = self.header_line
        try:
            for line, fields in rows:
                if len(fields) != len(self.names):
                    raise InputError(
                        f"{self.path}, line {line}: {len(fields)} field{'s' * (len(fields) != 1)}, "
                        f"expected {len(self.names)} as in the header. Mend that line."
                    )
                yield line, fields
        except csv.Error as error:
            raise InputError(f"{self.path}, after line {line}: not CSV ({error}). Mend that line.") from error

    def _written(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Every row that is not a blank line with the number of its last line."""
        try:
            with self._text() as text:
                reader = csv.reader(text, delimiter=delimiter, strict=True)
                for fields in reader:
                    if len(fields) > 1 or (fields and fields[0].strip()):
                        yield reader.line_num, fields
        except _DAMAGED as error:
            raise InputError(
                f"{self.path}: is damaged, or not compressed by gzip ({error}). Write it again."
            ) from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}). Pass a file that can be.") from error

    def _text(self) -> Any:
        # A column that is not asked for may hold whatever it likes: bytes that are not UTF-8 are kept as they are.
        return io.TextIOWrapper(self._bytes(), encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _bytes(self) -> Any:
        return gzip.open(self.path) if self.path.name.lower().endswith(".gz") else self.path.open("rb")


class _Watched:
    """A file read through once; sees quotes that pyarrow takes as they come: ``"4"4``, and one that is never closed."""

    _INSIDE = re.compile(rb'"(?<=[^\s,;"]")(?=[^\s,;"])')

    def __init__(self, file: Any):
        self._file, self._quotes, self._inside, self._last = file, 0, False, b""
        self.closed = False

    @property
    def odd(self) -> bool:
        """Whether there is a quote that may be none of a pair around a field."""
        return self._inside or self._quotes % 2 == 1

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._quotes += content.count(b'"')
        self._inside = self._inside or self._INSIDE.search(self._last + content) is not None
        self._last = content[-2:]
        return content

    def close(self) -> None:
        self.closed = True
