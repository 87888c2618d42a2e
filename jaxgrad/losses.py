"""The lesson's loss: the mean squared error, and that of the line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.model import LinearParams, linear
from jaxgrad.pytrees import short


def check_pair(y: jax.Array, yhat: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Refuse what ``mse`` would silently get wrong; integer truth is taken in the prediction's dtype."""
    if y.shape != yhat.shape:
        why, repair = "one truth for each prediction", "Check how each was made."
        if _broadcastable(y.shape, yhat.shape):
            grown = short(np.broadcast_to(np.zeros((), yhat.dtype), np.broadcast_shapes(y.shape, yhat.shape)))
            why = f"equal shapes (broadcasting would average over {grown})"
            repair = "Reshape one: yhat.reshape(y.shape)." if y.size == yhat.size else repair
        raise InputError(f"mse: y is {short(y)} and yhat is {short(yhat)}, expected {why}. {repair}")
    if y.size == 0:
        raise InputError(
            f"mse: y and yhat are empty ({short(y)}), expected at least one entry: their mean is undefined."
        )
    if not jnp.issubdtype(yhat.dtype, jnp.floating):
        raise InputTypeError(
            f"mse: yhat is {short(yhat)}, expected a floating dtype, since a gradient needs floats. "
            "Pass yhat.astype(jnp.float32)."
        )
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise InputTypeError(f"mse: y is {short(y)}, expected a real dtype. Pass its real part.")
    return (y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(yhat.dtype)), yhat


def _broadcastable(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(n == m or 1 in (n, m) for n, m in zip(a[::-1], b[::-1], strict=False))


def mse(y: jax.Array | np.ndarray, yhat: jax.Array | np.ndarray) -> jax.Array:
    """Mean squared error: ``mean((y - yhat)**2)`` over all entries; not half of it, not the sum.

    Args:
      y: truth, any shape ``[...]``, not empty; floating, or integer (then taken in yhat's dtype).
      yhat: prediction, the same shape; floating.

    Returns:
      ``[]``, the dtype that ``y`` and ``yhat`` promote to.

    Raises:
      InputError: if the shapes differ, also where they would broadcast (torch only warns there), or are empty.
      InputTypeError: if ``yhat`` is not floating.

    Source: the lesson's mse cell; ``torch.nn.functional.mse_loss(reduction="mean")``.

    >>> round(float(mse(jnp.array([5.0, 9.0, 13.0]), jnp.array([8.0, 10.0, 12.0]))), 4)
    3.6667
    """
    y, yhat = check_pair(jnp.asarray(y), jnp.asarray(yhat))
    return jnp.mean((y - yhat) ** 2)  # -> loss, loss again


def loss(params: LinearParams, x: jax.Array | np.ndarray, y: jax.Array | np.ndarray) -> jax.Array:
    """The lesson's loss as a function of the parameters: ``mse(y, linear(params, x))``.

    This is what ``jax.grad`` transforms: ``jax.grad(loss)(params, x, y)`` is the ``w.grad, b.grad`` of the lesson.

    Args:
      params: slope and intercept; see ``linear``.
      x: inputs ``[...]``, floating.
      y: truth ``[...]``, the shape of ``x``.

    Returns:
      ``[]``, floating.

    Raises:
      InputError, InputTypeError: as ``linear`` and ``mse`` do.

    Source: the lesson's ``loss = mse(y, Q)``.

    >>> grads = jax.grad(loss)(LinearParams(2.0, 6.0), jnp.array([1.0, 2.0, 3.0]), jnp.array([5.0, 9.0, 13.0]))
    >>> round(float(grads.w), 4), round(float(grads.b), 4)
    (1.3333, 2.0)
    """
    return mse(y, linear(params, x))
