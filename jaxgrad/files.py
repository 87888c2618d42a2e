"""Files that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jaxgrad.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a text file; what stood there is replaced only once the new one is whole and on disk.

    Raises:
      InputError: if the folder does not exist or cannot be written to.
    """
    path = Path(path)
    try:
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Pass a path in a folder that exists."
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
