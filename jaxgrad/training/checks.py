"""What is refused before training starts."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import check_same_tree, leaves_by_path, short
from jaxgrad.training.finite import finite

_BLOCK = 2**20


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least so much."""
    if isinstance(value, (bool, np.bool_)) or not (hasattr(value, "__index__") and np.ndim(value) == 0):
        raise InputTypeError(f"fit: {name} is {value!r}, expected a whole number. Pass 1000, say.")
    if operator.index(value) < least:
        raise InputError(f"fit: {name}={value}, expected {least} or more.")
    return operator.index(value)


def check_finite(name: str, tree: Any) -> None:
    """Refuse data with NaN or infinity, naming the first such row and how many there are.

    Arrays that lie on several processes' devices are not looked at, nor are memory maps: that would read all of them.
    """
    for path, leaf in leaves_by_path(tree).items():
        if isinstance(leaf, np.memmap) or not getattr(leaf, "is_fully_addressable", True):
            continue
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        on_cpu = isinstance(leaf, np.ndarray) or next(iter(leaf.devices())).platform == "cpu"
        if not on_cpu and jnp.isfinite(leaf).all():  # looked at where it lies
            continue
        bad = _rows_not_finite(np.asarray(leaf))
        if bad.size:
            row = int(bad[0])
            raise InputError(
                f"fit: {name}{path} has {bad.size} row{'s' * (bad.size > 1)} with NaN or infinity, the first of them "
                f"row {row}: {np.array2string(np.asarray(leaf[row]), threshold=8)}. Remove or mend what is not finite."
            )


def _rows_not_finite(array: np.ndarray) -> np.ndarray:
    if array.ndim == 0:
        array = array[None]
    found = []
    each = max(1, _BLOCK * len(array) // max(array.size, 1))
    for start in range(0, len(array), each):
        part = array[start : start + each]
        good = finite(part)
        if not good.all():
            found.append(start + np.flatnonzero(~good.reshape(len(part), -1).all(axis=1)))
    return np.concatenate(found) if found else np.zeros(0, int)


def check_used(unused: tuple[str, ...]) -> None:
    """Refuse parameters that the loss does not use: they would stay as they are, unnoticed."""
    if unused:
        raise InputError(
            f"fit: the loss does not use {', '.join(f'params{path}' for path in unused)}, which would never change. "
            "Use it, leave it out, or pass allow_unused=True."
        )


def check_opt_state(optimizer: Any, params: Any, opt_state: Any) -> None:
    """Refuse an optimizer state that is not one of this optimizer for these parameters."""
    expected = jax.eval_shape(optimizer.init, params)
    check_same_tree(
        "fit", "opt_state", opt_state, "the state of these parameters", expected, "Pass optimizer.init(params)."
    )


def check_callbacks(callbacks: Any) -> tuple[Any, ...]:
    """The callbacks as a tuple."""
    if not callable(callbacks) and not isinstance(callbacks, Iterable):
        raise InputTypeError(f"fit: callbacks is {callbacks!r}, expected functions of Progress. Pass a list of them.")
    given = (callbacks,) if callable(callbacks) else tuple(callbacks)
    for each in given:
        if not callable(each):
            raise InputTypeError(f"fit: a callback is {short(each)}, expected a function of Progress.")
    return given
