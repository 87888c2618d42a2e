"""Does a checkpoint belong to this run, and does it fit: every difference in one sentence, before arrays are read."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.placement import described
from jaxgrad.pytrees import short


def other_run(run: dict[str, Any], saved: dict[str, Any]) -> str:
    """Every entry in which two descriptions of runs differ, the end of a sentence; empty if none does."""
    given, written = (
        {name: json.dumps(value, sort_keys=True) for name, value in entries.items()} for entries in (run, saved)
    )
    said = [
        f"{name} is {given.get(name, 'not given')}, saved was {written.get(name, 'nothing')}"
        for name in dict.fromkeys([*given, *written])
        if given.get(name) != written.get(name)
    ]
    return f"belongs to another run: {'; '.join(said)}" if said else ""


def other_leaves(leaves: dict[str, Any], saved: list[dict[str, Any]]) -> str:
    """Every leaf that ``like`` or the checkpoint lacks, or has in another shape or dtype; empty if there is none.

    The saved tree is known by the paths of its leaves alone: what classes its nodes were, ``like`` says.
    """
    given = {leaf_path: _short(*described(leaf)) for leaf_path, leaf in leaves.items()}
    written = {leaf["path"]: _short(leaf["dtype"], leaf["shape"]) for leaf in saved}
    said = [
        f"like{leaf_path} is {given.get(leaf_path, 'not there')}, saved was {written.get(leaf_path, 'nothing')}"
        for leaf_path in dict.fromkeys([*given, *written])
        if given.get(leaf_path) != written.get(leaf_path)
    ]
    return f"does not fit: {'; '.join(said)}" if said else ""


def _short(dtype: str, shape: Sequence[int]) -> str:
    if dtype.startswith("key<"):
        return f"{dtype}[{','.join(map(str, shape))}]"
    with jax.enable_x64(True):  # so that float64 is not shown as what JAX would make of it
        return short(jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype)))


def as_json(function: str, run: Any) -> dict[str, Any]:
    """``run`` as it will be read back: tuples are lists."""
    if not isinstance(run, dict):
        raise InputTypeError(f"{function}: run is a {type(run).__name__}, expected a dict. Pass dict(seed=0, ...).")
    wrong = [f"{name!r}" for name in run if not isinstance(name, str)]
    for name, value in run.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            wrong.append(f"{name!r} ({error})")
    if wrong:
        raise InputTypeError(
            f"{function}: run holds {', '.join(wrong)}, expected names and what JSON can hold. "
            "Pass numbers, texts, lists and dicts of them."
        )
    return json.loads(json.dumps(run))


def count(function: str, name: str, value: Any, least: int) -> int:
    """A whole number that is at least so big, as an int."""
    if isinstance(value, (bool, np.bool_)) or not (hasattr(value, "__index__") and np.ndim(value) == 0):
        raise InputTypeError(f"{function}: {name} is {value!r}, expected a whole number. Pass an int.")
    if operator.index(value) < least:
        raise InputError(f"{function}: {name} is {value}, expected {least} or more.")
    return operator.index(value)
