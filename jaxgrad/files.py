"""Files that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxgrad.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a text file; what stood there is replaced only once the new one is whole and on disk.

    Raises:
      InputError: if the folder does not exist or cannot be written to.
    """
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes its name, and the place of what stood there, at the end.

    Raises:
      InputError: if the folder does not exist or cannot be written to.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Pass a path in a folder that exists."
        ) from error
    try:
        yield Path(name)
        os.fsync(handle)  # of the file, through whichever handle it was written
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(handle)
