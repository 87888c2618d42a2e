"""One checkpoint on disk: arrays written by orbax, and a description that vouches for every file.

- ``arrays/``: one Zarr array for each array, by its number;
- ``checkpoint.json``: what the caller says about them, the SHA-256 of every file and of every array, and as its last
  line the SHA-256 of all that.

The files are checked before orbax reads them, so damage is never parsed; the arrays after, so that what is read is what
was given. Nothing in a checkpoint is code, or names any.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxgrad.errors import require
from jaxgrad.placement import as_bytes

FORMAT = "jaxgrad checkpoint 1"
ABOUT = "checkpoint.json"
_ARRAYS = "arrays"
# The dtypes that Zarr and NumPy name alike; others, such as int4, are written as bytes.
_ZARR_DTYPES = set(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
    "float16 bfloat16 float32 float64 complex64 complex128".split()
)


class UnusableError(Exception):
    """Why a checkpoint cannot be used: the end of a sentence that begins with it."""


def orbax(function: str) -> ModuleType:
    """orbax.checkpoint, imported on use: it takes half as long as jax.

    Raises:
      MissingExtraError: if it is not installed; the message begins with ``function``.
    """
    require("orbax", function)
    import orbax.checkpoint

    return orbax.checkpoint


def sha256(value: np.ndarray) -> str:
    """The SHA-256 of an array's bytes, row by row."""
    return hashlib.sha256(as_bytes(value).data).hexdigest()


def write(path: Path, arrays: list[np.ndarray], about: dict[str, Any]) -> None:
    """Write a checkpoint, all of it on disk on return; only then should it get the name under which it is found.

    Args:
      path: a folder that is not there yet.
      arrays: in an order of the caller's.
      about: whatever else is to be known, as JSON holds it; ``files`` is added.

    Raises:
      Exception: of whatever kind orbax raises when the disk is full, for instance.
    """
    path.mkdir()
    # Zarr holds no array without entries, nor is there anything to hold.
    stored = {str(i): _as_zarr(array) for i, array in enumerate(arrays) if array.size}
    if stored:
        ocp = orbax("checkpoints")
        with _quiet():
            _handler().save(path / _ARRAYS, args=ocp.args.PyTreeSave(stored))
    body = json.dumps({"format": FORMAT, **about, "files": _file_hashes(path)}, indent=1).encode() + b"\n"
    (path / ABOUT).write_bytes(body + hashlib.sha256(body).hexdigest().encode() + b"\n")
    for place in (*path.rglob("*"), path):
        sync(place)


def read_about(path: Path) -> dict[str, Any]:
    """The description of a checkpoint, itself checked.

    Raises:
      UnusableError: if it is damaged, or in a format of another version.
    """
    try:
        content = (path / ABOUT).read_bytes()
    except OSError as error:
        raise UnusableError(f"is damaged ({ABOUT}: {error.strerror})") from None
    body, end = content[:-65], content[-65:]
    if end != hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise UnusableError(f"is damaged ({ABOUT} is not what was written)")
    about = json.loads(body)
    if about["format"] != FORMAT:
        raise UnusableError(f"is in the format {about['format']!r}, not {FORMAT!r}, of another version of jaxgrad")
    return about


def check_files(path: Path, about: dict[str, Any]) -> None:
    """Check each file of a checkpoint.

    Raises:
      UnusableError: if one is missing, cannot be read, or is not what was written.
    """
    try:
        hashes = _file_hashes(path)
    except OSError as error:
        raise UnusableError(f"is damaged ({error.filename}: {error.strerror})") from None
    for name, expected in about["files"].items():
        if name not in hashes:
            raise UnusableError(f"is damaged ({name} is missing)")
        if hashes[name] != expected:
            raise UnusableError(f"is damaged ({name} is not what was written)")


def read_arrays(path: Path, kinds: list[tuple[tuple[int, ...], np.dtype[Any]]], hashes: list[str]) -> list[np.ndarray]:
    """Read the arrays of a checkpoint whose files were checked.

    Args:
      path: the checkpoint.
      kinds: shape and dtype of each array.
      hashes: the SHA-256 of each array.

    Raises:
      UnusableError: if orbax cannot read them, or reads something else.
    """
    ocp = orbax("checkpoints")
    names = [str(i) for i, (shape, _) in enumerate(kinds) if np.prod(shape)]
    stored: dict[str, np.ndarray] = {}
    if names:
        args = ocp.args.PyTreeRestore(
            dict.fromkeys(names, 0), restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        )
        try:
            with _quiet():
                stored = _handler().restore(path / _ARRAYS, args=args)
        except Exception as error:
            raise UnusableError(
                f"cannot be read by orbax-checkpoint {ocp.__version__} ({first_line(error)})"
            ) from error
    arrays = []
    for i, (shape, dtype) in enumerate(kinds):
        content = as_bytes(stored[str(i)]) if str(i) in stored else np.zeros(0, np.uint8)
        if sha256(content) != hashes[i]:
            raise UnusableError(f"is damaged (array {i} is not what was written)")
        arrays.append(content.view(dtype).reshape(shape))
    return arrays


def sync(path: Path) -> None:
    """Have a file or a folder on disk, not only in the system's memory."""
    if path.is_dir() and os.name == "nt":  # which opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _as_zarr(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.name in _ZARR_DTYPES else as_bytes(array)


def _handler() -> Any:
    """Writes arrays as they are, one folder each: for few arrays six times faster than orbax's one database."""
    ocp = orbax("checkpoints")
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxgrad")
    return ocp.PyTreeCheckpointHandler(use_ocdbt=False, multiprocessing_options=alone)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's log, which repeats with a traceback what is raised."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _file_hashes(path: Path) -> dict[str, str]:
    hashes = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file != path / ABOUT:
            with file.open("rb") as opened:
                hashes[file.relative_to(path).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
    return hashes
