"""Where the numbers of a table are kept: in memory while they are few, else in files that are mapped into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxgrad.errors import InputError

FORMAT = "jaxgrad table 1"

_ABOUT = "table.json"


class Growing:
    """An array that is given block by block, and goes to a file once told to.

    Args:
      width: entries of a row; None for a number a row.
      dtype: of the array.
    """

    def __init__(self, width: int | None, dtype: np.dtype[Any]):
        self._shape = () if width is None else (width,)
        self._dtype = dtype
        self._blocks: list[np.ndarray] = []
        self._file: BinaryIO | None = None
        self._mapped: np.ndarray | None = None
        self._rows = 0

    def append(self, block: np.ndarray) -> None:
        """Add the rows of a block ``[rows, width]``."""
        self._rows += len(block)
        block = np.ascontiguousarray(block).reshape(len(block), *self._shape)
        if self._file is None:
            self._blocks.append(block)
        else:
            self._file.write(block.data)

    def move_to(self, file: BinaryIO) -> None:
        """Keep what there is, and what comes, in a file that is open to be written and read."""
        self._file, blocks, self._blocks = file, self._blocks, []
        self._write_header(0)
        for block in blocks:
            file.write(block.data)

    def array(self) -> np.ndarray:
        """The whole array; where it is in a file, its rows are read when they are asked for."""
        shape = (self._rows, *self._shape)
        if self._file is None:
            return np.concatenate(self._blocks) if self._blocks else np.zeros(shape, self._dtype)
        if self._mapped is None:
            self._file.seek(0)
            start = self._write_header(self._rows)
            self._file.flush()
            self._mapped = np.memmap(self._file, self._dtype, "r", start, shape)
        return self._mapped

    def _write_header(self, rows: int) -> int:
        """NumPy leaves room in the header for any number of rows, so it can be written again in its place."""
        assert self._file is not None
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()


@contextmanager
def nameless(arrays: list[Growing]) -> Iterator[Callable[[], None]]:
    """A function that moves the arrays to files that no name leads to: the system frees them with their last reader."""
    try:
        with ExitStack() as files:

            def spill() -> None:
                for array in arrays:
                    array.move_to(files.enter_context(tempfile.TemporaryFile(prefix="jaxgrad-table-")))

            yield spill
    except OSError as error:
        raise InputError(
            f"read_table: the numbers cannot be kept in {tempfile.gettempdir()} ({error.strerror}). "
            "Pass scratch=, a folder with more room."
        ) from error


class Scratch:
    """A folder of the user's in which tables stay; each has a folder of its own, named after what it was made from."""

    def __init__(self, scratch: str | Path, about: dict[str, Any]):
        self.about = {"format": FORMAT, **about}
        made_from = json.dumps({key: value for key, value in self.about.items() if key != "files"}).encode()
        name = f"{Path(about['path']).stem}-{hashlib.sha256(made_from).hexdigest()[:12]}"
        self.scratch, self.place = Path(scratch), Path(scratch) / name

    def stored(self) -> tuple[list[np.ndarray], dict[str, Any]] | None:
        """The arrays of an earlier run and what was said of them; None unless made from the same files as they are."""
        try:
            about = json.loads((self.place / _ABOUT).read_text("utf-8"))
            if {key: about.get(key) for key in self.about} != self.about:
                return None
            arrays = [np.load(self.place / f"{name}.npy", mmap_mode="r") for name in ("x", "y")]
        except (OSError, ValueError, EOFError):  # none yet, or damaged
            return None
        kinds = [[list(array.shape), array.dtype.name] for array in arrays]
        return (arrays, about) if kinds == about["arrays"] else None

    @contextmanager
    def written(self, arrays: list[Growing], result: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Have the arrays grow in the folder; once they are whole they get the name under which they are found."""
        aside = None
        try:
            self.scratch.mkdir(exist_ok=True)
            aside = Path(tempfile.mkdtemp(dir=self.scratch, prefix=f"{self.place.name}-", suffix=".new"))
            with ExitStack() as opened:
                files = [opened.enter_context((aside / f"{name}.npy").open("w+b")) for name in ("x", "y")]
                for file, array in zip(files, arrays, strict=True):
                    array.move_to(file)
                yield
                kinds = [[list(whole.shape), whole.dtype.name] for whole in (array.array() for array in arrays)]
                for file in files:
                    os.fsync(file.fileno())
            (aside / _ABOUT).write_text(json.dumps({**self.about, **result(), "arrays": kinds}), "utf-8")
            if self.stored() is None:  # else another program has made the same meanwhile
                shutil.rmtree(self.place, ignore_errors=True)
                aside.rename(self.place)
        except OSError as error:
            if self.stored() is None:
                raise InputError(
                    f"{self.scratch}: cannot hold the table ({error.strerror}). Pass another folder as scratch."
                ) from error
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
