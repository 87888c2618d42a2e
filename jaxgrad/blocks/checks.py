"""What ``value_and_grad_in_blocks`` refuses, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import leaves_by_path, short

_NAME = "value_and_grad_in_blocks"


def check_settings(loss_of_rows: Any, reduction: Any, block_rows: Any) -> None:
    """Refuse what ``value_and_grad_in_blocks`` itself is given."""
    if not callable(loss_of_rows):
        raise InputTypeError(
            f"{_NAME}: loss_of_rows is a {type(loss_of_rows).__name__}, expected a function "
            "loss_of_rows(params, *batch) -> [n]."
        )
    if reduction not in ("mean", "sum"):
        raise InputError(f'{_NAME}: reduction is {reduction!r}, expected "mean" or "sum".')
    whole = isinstance(block_rows, (int, np.integer)) and not isinstance(block_rows, bool)
    if block_rows is not None and not (whole and block_rows >= 1):
        raise InputError(
            f"{_NAME}: block_rows is {block_rows!r}, expected a whole number from 1 on. Leave it out for the default."
        )


def checked_rows(batch: tuple[Any, ...]) -> int:
    """How many rows a batch has; refused where its leaves do not agree, or there are none."""
    leaves = leaves_by_path(batch)
    if not leaves:
        raise InputError(f"{_NAME}: the batch has no arrays, expected at least one. Call f(params, x, y).")
    wrong = [f"batch{path} is {short(leaf)}" for path, leaf in leaves.items() if not np.ndim(leaf)]
    if wrong:
        raise InputError(
            f"{_NAME}: {'; '.join(wrong)}; expected rows as the first axis. Put what all rows share into params, "
            "or into loss_of_rows."
        )
    counts = {np.shape(leaf)[0] for leaf in leaves.values()}
    if len(counts) > 1:
        said = ", ".join(f"batch{path} has {np.shape(leaf)[0]}" for path, leaf in leaves.items())
        raise InputError(f"{_NAME}: the rows differ: {said}. Pass arrays whose first axes are equally long.")
    (n,) = counts
    if n == 0:
        raise InputError(f"{_NAME}: the batch has 0 rows, expected at least 1.")
    if n > np.iinfo(np.int32).max:
        raise InputError(
            f"{_NAME}: the batch has {n} rows, expected fewer than 2^31. Split it, and add up what each part gives."
        )
    return n


def check_losses(loss_of_rows: Callable[..., jax.Array], params: Any, batch: Any) -> Any:
    """The shape and dtype of all rows' losses, refused where they are not one floating number per row."""
    n = jax.tree.leaves(batch)[0].shape[0]
    out = jax.eval_shape(loss_of_rows, params, *batch)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise InputTypeError(
            f"{_NAME}: loss_of_rows returned a {type(out).__name__}, expected an array of one number per row. "
            "Return the losses alone."
        )
    if out.shape != (n,):
        raise InputError(
            f"{_NAME}: loss_of_rows returned {short(out)} for {n} rows, expected one number per row, [{n}]. "
            "Leave the mean over rows out, and take the one over what a row holds: jnp.mean(..., axis=1)."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise InputTypeError(f"{_NAME}: loss_of_rows returned {short(out)}, expected floating numbers.")
    return out
