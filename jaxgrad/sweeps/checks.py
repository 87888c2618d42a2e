"""What ``sweep`` refuses, in one sentence each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import check_floating, check_same_tree, dtype_of, leaves_by_path, short
from jaxgrad.sweeps.engine import is_transformation


def check_settings(steps: Any, record: Any) -> None:
    """Refuse numbers of steps and records that are none."""
    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    if not (whole and steps >= 1):
        raise InputError(f"sweep: steps is {steps!r}, expected a whole number from 1 on.")
    if record not in ("last", "all"):
        raise InputError(f'sweep: record is {record!r}, expected "last" or "all".')


def checked_rates(learning_rates: Any, optimizer: Any) -> jax.Array | None:
    """The rates as an array [k]; None where a finished optimizer has its own."""
    finished = is_transformation(optimizer)
    if optimizer is not None and not finished and not callable(optimizer):
        raise InputTypeError(
            f"sweep: optimizer is {optimizer!r}, expected a function from a rate to an optax GradientTransformation. "
            "Pass optax.sgd, or lambda rate: optax.sgd(rate, momentum=0.9)."
        )
    if learning_rates is None:
        if finished:
            return None
        raise InputError(
            "sweep: got no learning_rates, expected an array of rates. Pass jnp.geomspace(1e-5, 1e-1, 100)."
        )
    if finished:
        raise InputError(
            "sweep: optimizer has its rate already, so it cannot take learning_rates. "
            "Pass a function from the rate to it: lambda rate: optax.sgd(rate, momentum=0.9)."
        )
    values = np.asarray(learning_rates)
    if values.ndim != 1 or not len(values):
        raise InputError(f"sweep: learning_rates has shape {list(values.shape)}, expected [k] with at least one rate.")
    if not (jnp.issubdtype(values.dtype, jnp.floating) or jnp.issubdtype(values.dtype, jnp.integer)):
        raise InputTypeError(f"sweep: learning_rates is {short(values)}, expected positive numbers such as 0.1.")
    kept = jnp.asarray(values, jnp.promote_types(dtype_of(values), jnp.float32) if values.dtype.kind != "i" else float)
    as_kept = np.asarray(kept, np.float64)  # what is too small or too large for the dtype is refused as well
    for index in np.flatnonzero(~(np.isfinite(as_kept) & (as_kept > 0))):
        raise InputError(
            f"sweep: learning_rates[{index}] is {values[index]!s}, expected positive and finite rates. Leave it out."
        )
    return kept


def checked_starts(starts: Any, params: Any) -> Any:
    """The starts in the dtypes of the parameters, leaves [m, ...]."""
    check_floating("sweep", "starts", starts)
    leaves = leaves_by_path(starts)
    wrong = [f"starts{path} is {short(leaf)}" for path, leaf in leaves.items() if not np.ndim(leaf)]
    if wrong:
        raise InputError(f"sweep: {'; '.join(wrong)}; expected an axis of starts in front. Stack the starts: [m, ...].")
    counts = {np.shape(leaf)[0] for leaf in leaves.values()}
    if len(counts) > 1:
        said = ", ".join(f"starts{path} has {np.shape(leaf)[0]}" for path, leaf in leaves.items())
        raise InputError(f"sweep: the number of starts differs: {said}. Give each leaf the same first axis.")
    if counts == {0}:
        raise InputError("sweep: starts has 0 starts, expected at least 1.")
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[1:], dtype_of(leaf)), starts)
    check_same_tree("sweep", "a start", one, "params", params, "Stack trees like params: leaves [m, ...].")
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), starts, params)
