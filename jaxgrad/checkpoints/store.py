"""Save and restore, each the work of the first process, shared with all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxgrad.checkpoints import files
from jaxgrad.checkpoints.agreement import as_json, count, other_leaves, other_run
from jaxgrad.checkpoints.folder import WRITING, as_path, checked, clean, foreign, name_of, remove, some, steps
from jaxgrad.errors import InputError
from jaxgrad.placement import array_from_first, checked_leaves, described, from_first, host_type, on_host, placed

State = TypeVar("State")


def check_folder(folder: str | Path, *, resume: bool = True, function: str = "check_folder") -> None:
    """Refuse a folder that checkpoints cannot be written to, before any work; it is made if it is not there.

    Args:
      folder: a folder of its own for the checkpoints of one run; it may be empty or hold them already.
      resume: whether the run goes on from what is there; if not, a folder with checkpoints is refused.
      function: the public function that was called, the start of the message.

    Raises:
      InputError: if it is not a folder, cannot be written to, or holds something else.
      MissingExtraError: if orbax-checkpoint is not installed.
    """
    files.orbax(function)

    def check() -> bytes:
        present = checked(as_path(folder, function), function)
        if present and not resume:
            raise InputError(
                f"{function}: {folder} holds checkpoints already, the newest of step {present[-1]}. "
                "Pass resume=True to go on from it, or another folder."
            )
        return b""

    from_first(check)


def newest(folder: str | Path, *, function: str = "newest") -> int | None:
    """The step of the newest complete checkpoint in a folder; None if it holds none or is not there.

    What a killed save left behind does not count. Whether the files are good, ``restore`` checks.

    Raises:
      InputError: if ``folder`` is not a folder or cannot be read.
    """
    found = from_first(lambda: json.dumps(steps(as_path(folder, function), function)[-1:]).encode())
    return next(iter(json.loads(found)), None)


def save(
    folder: str | Path, state: Any, *, step: int, run: dict[str, Any], keep: int = 3, function: str = "save"
) -> None:
    """Save a state as the checkpoint of a step, all of it or nothing; on return it is on disk.

    Args:
      folder: as for ``check_folder``.
      state: any pytree of arrays and numbers of any dtype, on any devices, sharded or not; typed PRNG keys too. Of an
        array that each process holds for itself, that of the first process is saved.
      step: 0 or more, and after the newest step in the folder. That one may be saved again if nothing differs.
      run: what tells this run from others, as JSON holds it: shapes, batch size, seed, a hash of the data.
      keep: how many checkpoints to keep; older ones are removed once this one is complete.
      function: the public function that was called, the start of the message.

    Raises:
      InputError: if the folder is refused by ``check_folder``, holds a later checkpoint or those of another run, or
        cannot be written to.
      InputTypeError: if a leaf, ``run``, ``step`` or ``keep`` is of the wrong kind.
      MissingExtraError: if orbax-checkpoint is not installed.
    """
    step, keep = count(function, "step", step, 0), count(function, "keep", keep, 1)
    run = as_json(function, run)
    files.orbax(function)
    leaves = checked_leaves(function, "state", state)
    arrays = [on_host(leaf) for leaf in leaves.values()]

    def write() -> bytes:
        about = {"step": step, "run": run, "leaves": _descriptions(leaves, arrays)}
        _write(as_path(folder, function), arrays, about, keep, function)
        return b""

    from_first(write)


def restore(
    folder: str | Path, like: State, *, run: dict[str, Any], step: int | None = None, function: str = "restore"
) -> tuple[State, int]:
    """Restore a state bit for bit: that of the newest complete checkpoint, or that of ``step``.

    Args:
      folder: the folder that was saved to.
      like: a state with the tree, shapes and dtypes of the saved one, such as that of a run about to begin. Each leaf
        comes back as the kind that ``like`` has there, on its devices: a sharded ``jax.Array``, a NumPy array, a Python
        number. A ``jax.ShapeDtypeStruct`` stands for a ``jax.Array``.
      run: as for ``save``.
      step: which checkpoint; by default the newest.
      function: the public function that was called, the start of the message.

    Returns:
      The state, and its step.

    Raises:
      InputError: if there is no such checkpoint, it is damaged (the newest good one is named), it belongs to another
        run, or ``like`` differs from it; all differences are listed.
      InputTypeError: if a leaf, ``run`` or ``step`` is of the wrong kind.
      MissingExtraError: if orbax-checkpoint is not installed.
    """
    step = None if step is None else count(function, "step", step, 0)
    run = as_json(function, run)
    files.orbax(function)
    leaves = checked_leaves(function, "like", like, abstract=True)
    arrays: dict[str, np.ndarray] = {}  # filled in the first process only

    def read() -> bytes:
        found, values = _read(as_path(folder, function), step, run, leaves, function)
        arrays.update(values)
        return str(found).encode()

    found = int(from_first(read))
    values = [placed(array_from_first(arrays.get(path), leaf), leaf) for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), values), found


# In the first process.


def _write(folder: Path, arrays: list[np.ndarray], about: dict[str, Any], keep: int, function: str) -> None:
    step, present = about["step"], checked(folder, function)
    path = folder / name_of(step)
    if present and present[-1] > step:
        raise InputError(
            f"{function}: {folder} holds a checkpoint of step {present[-1]}, which comes after step {step}. "
            f"Remove {folder / name_of(present[-1])}, or pass another folder."
        )
    if step in present:
        if not _is_that_of(path, about):
            raise InputError(
                f"{function}: {folder} holds a checkpoint of step {step} that is not this one. "
                f"Nothing was overwritten: remove {path}, or pass another folder."
            )
        return
    _refuse_other_run(folder, present, about["run"], function)
    clean(folder)
    aside = folder / (path.name + WRITING)
    try:
        files.write(aside, arrays, about)
        aside.rename(path)
        files.sync(folder)
    except Exception as error:  # orbax raises what its threads met: ValueError for a full disk, among others
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or files.first_line(error)
        raise InputError(
            f"{function}: the checkpoint of step {step} cannot be written to {folder} ({reason}). "
            "Those that are there are as they were: make room, and go on from the newest."
        ) from error
    for old in [*present, step][:-keep]:
        remove(folder / name_of(old))


def _refuse_other_run(folder: Path, present: list[int], run: dict[str, Any], function: str) -> None:
    """Refuse to write beside another run's checkpoints, which would be removed in time."""
    for step in reversed(present):
        try:
            about = files.read_about(folder / name_of(step))
        except files.UnusableError:
            continue
        if said := other_run(run, about["run"]):
            raise InputError(
                f"{function}: the checkpoint {folder / name_of(step)} {said}. Nothing was written: pass another folder."
            )
        return


def _descriptions(leaves: dict[str, Any], arrays: list[np.ndarray]) -> list[dict[str, Any]]:
    descriptions = []
    for (path, leaf), array in zip(leaves.items(), arrays, strict=True):
        dtype, shape = described(leaf)
        descriptions.append({"path": path, "dtype": dtype, "shape": list(shape), "sha256": files.sha256(array)})
    return descriptions


def _is_that_of(path: Path, about: dict[str, Any]) -> bool:
    try:
        saved = files.read_about(path)
        files.check_files(path, saved)
    except files.UnusableError:
        return False
    return all(saved[entry] == about[entry] for entry in about)


def _read(
    folder: Path, step: int | None, run: dict[str, Any], leaves: dict[str, Any], function: str
) -> tuple[int, dict[str, np.ndarray]]:
    present = steps(folder, function)
    if not present:
        instead = some(foreign(folder, function)) or "nothing"
        raise InputError(
            f"{function}: {folder} holds {instead}, expected checkpoints of jaxgrad. Pass the folder that was saved to."
        )
    if step is not None and step not in present:
        held = ", ".join(map(str, present))
        raise InputError(f"{function}: {folder} holds no checkpoint of step {step}, only of {held}. Pass one of them.")
    step = present[-1] if step is None else step
    path = folder / name_of(step)

    def of_this_run(about: dict[str, Any]) -> bool:
        return not other_run(run, about["run"])

    def fits(about: dict[str, Any]) -> bool:
        return of_this_run(about) and not other_leaves(leaves, about["leaves"])

    try:
        about = _about(path, step)
        if said := other_run(run, about["run"]):
            advice = "go on with the settings that were saved, or pass another folder"
            raise InputError(_refused(function, path, said, _way_out(folder, present, step, of_this_run, advice)))
        if said := other_leaves(leaves, about["leaves"]):
            advice = "pass a state with the tree, shapes and dtypes that were saved"
            raise InputError(_refused(function, path, said, _way_out(folder, present, step, fits, advice)))
        files.check_files(path, about)
        order = [leaf["path"] for leaf in about["leaves"]]
        kinds = [host_type(leaves[leaf_path]) for leaf_path in order]
        arrays = files.read_arrays(path, kinds, [leaf["sha256"] for leaf in about["leaves"]])
    except files.UnusableError as error:
        # Of other steps some shapes may be others, such as that of the losses so far: the run alone is asked for.
        advice = f"remove {folder}, and begin again"
        way_out = _way_out(folder, present, step, of_this_run, advice)
        raise InputError(_refused(function, path, str(error), way_out)) from error
    return step, dict(zip(order, arrays, strict=True))


def _refused(function: str, path: Path, said: str, way_out: str) -> str:
    return f"{function}: the checkpoint {path} {said}. {way_out}"


def _about(path: Path, step: int) -> dict[str, Any]:
    about = files.read_about(path)
    if about["step"] != step:
        raise files.UnusableError(f"is damaged (it was saved as that of step {about['step']})")
    return about


def _way_out(
    folder: Path, present: list[int], step: int, usable: Callable[[dict[str, Any]], bool], otherwise: str
) -> str:
    """Names the newest checkpoint that is whole and usable, and says how to go on from it; or else what to do."""
    for other in reversed(present):
        try:
            about = _about(folder / name_of(other), other)
            files.check_files(folder / name_of(other), about)
        except files.UnusableError:
            continue
        if other != step and usable(about):
            break
    else:
        return f"No other one there can be used: {otherwise}."
    newer = [str(folder / name_of(later)) for later in present if later > other]
    go_on = f"to go on from it, remove {' and '.join(newer)}" if newer else f"restore it with step={other}"
    return f"The newest good one is that of step {other}: {go_on}."
