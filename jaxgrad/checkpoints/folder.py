"""The folder of a run's checkpoints: their names, what may be there beside them, and what is removed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from jaxgrad.checkpoints.files import ABOUT
from jaxgrad.errors import InputError, InputTypeError

WRITING, REMOVING = ".writing", ".removing"  # ends of the names that a killed process may leave behind


def as_path(folder: str | Path, function: str) -> Path:
    """The folder as a path of this machine's file system."""
    if not isinstance(folder, (str, os.PathLike)):
        raise InputTypeError(f"{function}: folder is a {type(folder).__name__}, expected a path. Pass a str.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)):
        raise InputError(
            f"{function}: {folder} is an address, expected a folder of the file system. Mount the storage there."
        )
    return Path(folder)


def name_of(step: int) -> str:
    """The name of a finished checkpoint; names sort as steps do.

    >>> name_of(40)
    'step-00000040'
    """
    return f"step-{step:08d}"


def is_checkpoint(name: str) -> bool:
    """Whether this is the name of a finished checkpoint."""
    return bool(re.fullmatch(r"step-[0-9]{8,}", name)) and name_of(int(name[5:])) == name


def is_left_behind(name: str) -> bool:
    """Whether this is the name of one that was being written or removed when its process was killed."""
    return any(name.endswith(end) and is_checkpoint(name.removesuffix(end)) for end in (WRITING, REMOVING))


def entries(folder: Path, function: str) -> list[str]:
    """All names in a folder; none if it is not there."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise InputError(f"{function}: {folder} is not a folder. Pass a folder for the checkpoints.") from None
    except OSError as error:
        raise InputError(
            f"{function}: {folder} cannot be read ({error.strerror}). Pass a folder that you may read and write."
        ) from error


def steps(folder: Path, function: str) -> list[int]:
    """The steps of the finished checkpoints, in order."""
    return sorted(int(name[5:]) for name in entries(folder, function) if is_checkpoint(name))


def foreign(folder: Path, function: str) -> list[str]:
    """The names in a folder that have nothing to do with checkpoints; hidden files are nobody's business."""
    return [
        name
        for name in entries(folder, function)
        if not (is_checkpoint(name) or is_left_behind(name) or name.startswith("."))
    ]


def checked(folder: Path, function: str) -> list[int]:
    """The steps in a folder that can be written to and holds nothing else."""
    if others := foreign(folder, function):
        raise InputError(
            f"{function}: {folder} holds {some(others)}, expected nothing but checkpoints of jaxgrad. "
            f"Pass a folder of their own, such as {folder / 'checkpoints'}."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix="."):
            pass
    except OSError as error:
        raise InputError(
            f"{function}: {folder} cannot be written to ({error.strerror}). Pass a folder that you may write to."
        ) from error
    return steps(folder, function)


def some(names: list[str]) -> str:
    """The first names of a list, which may be long."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def clean(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for name in filter(is_left_behind, os.listdir(folder)):
        shutil.rmtree(folder / name, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a checkpoint so that at no moment half of it is there; what cannot be removed is tried again next time."""
    aside = path.with_name(path.name + REMOVING)
    if (path / ABOUT).exists():  # else it may be someone else's
        try:
            path.rename(aside)
        except OSError:
            return
        shutil.rmtree(aside, ignore_errors=True)
