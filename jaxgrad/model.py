"""The lesson's model: a line, as a pure function of its parameters."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError
from jaxgrad.pytrees import short


class LinearParams(NamedTuple):
    """The parameters of the line ``Q = w x + b``; a pytree, so ``jax.grad`` returns one of these too.

    A NamedTuple is also a tuple: ``params + updates`` *concatenates* to four entries. Combine two
    of them with ``jax.tree.map(jnp.add, params, updates)``.

    Attributes:
      w: slope; floating, shape ``()``, ``(1,)`` or that of ``x``.
      b: intercept; the same.
    """

    w: jax.Array | np.ndarray | float
    b: jax.Array | np.ndarray | float


def fit_to(name: str, parameter: jax.Array, x: jax.Array | np.ndarray) -> jax.Array:
    """A parameter as it meets ``x``: one entry for all of ``x``, or a shape that ``x`` covers."""
    if parameter.ndim == 0 or parameter.shape == x.shape:
        return parameter
    covered = parameter.size == 1 or (
        parameter.ndim <= x.ndim
        and all(n in (1, m) for n, m in zip(parameter.shape[::-1], x.shape[::-1], strict=False))
    )
    if not covered:
        raise InputError(
            f"linear: params.{name} is {short(parameter)} and x is {short(x)}, expected one entry in {name} or "
            f"the shape of x (the result has the shape of x, never a larger one). Reshape one of them."
        )
    kept = parameter.shape[max(0, parameter.ndim - x.ndim) :]  # what is dropped in front has size 1
    return parameter.reshape((1,) * (x.ndim - len(kept)) + kept)


def linear(params: LinearParams, x: jax.Array | np.ndarray) -> jax.Array:
    """Predict: ``Q = w x + b``, entry by entry.

    Args:
      params: ``w`` and ``b``, each with one entry or of the shape of ``x``; floating.
      x: any shape ``[...]``; floating.

    Returns:
      ``[...]``, the shape of ``x``; the dtype that ``w``, ``x`` and ``b`` promote to.

    Raises:
      InputError: if a parameter would make the result larger than ``x``.

    Source: the lesson's predict cell, ``Q = w * x + b``.

    >>> linear(LinearParams(w=2.0, b=6.0), jnp.array([1.0, 2.0, 3.0])).tolist()
    [8.0, 10.0, 12.0]
    """
    x = jnp.asarray(x)
    w, b = (fit_to(name, jnp.asarray(value), x) for name, value in zip("wb", params, strict=True))
    return w * x + b  # -> Q, Q again
