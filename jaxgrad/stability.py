"""When gradient descent on the lesson's loss converges, and what is said when it does not."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import DivergenceError, InputError, InputTypeError
from jaxgrad.model import LinearParams, fit_to
from jaxgrad.pytrees import short
from jaxgrad.trace import Trace


def largest_stable_rate(x: Any, params: LinearParams) -> float:
    """The learning rate below which descent on the line's mean squared error converges: 2 over the curvature.

    Args:
      x: the inputs ``[...]``, not empty and finite.
      params: the guess; only the shapes matter, and fit ``x`` as ``linear`` asks.

    Returns:
      ``2 / largest eigenvalue`` of the Hessian of ``loss`` in float64; the truth ``y`` does not enter. Zero if the
      squares of ``x`` overflow.

    Raises:
      InputError: if ``x`` is empty or not finite, or a parameter does not fit it.
      InputTypeError: if ``x`` is not numbers.

    >>> round(largest_stable_rate([1.0, 2.0, 3.0], LinearParams(2.0, 6.0)), 6)
    0.180295
    """
    x = _inputs(x)
    w, b = (fit_to(name, jnp.asarray(value), x) for name, value in zip("wb", params, strict=True))
    n, one_w, one_b = x.size, w.size == 1, b.size == 1
    with np.errstate(over="ignore"):
        squares = np.ravel(x) ** 2
        if not np.isfinite(squares.sum()):
            return 0.0
    if not all(one or parameter.shape == x.shape for one, parameter in ((one_w, w), (one_b, b))):
        largest = np.linalg.norm(np.hstack([_slopes(w.shape, x), _slopes(b.shape, np.ones_like(x))]), 2) ** 2
    elif one_w and one_b:
        largest = np.linalg.eigvalsh([[squares.sum(), x.sum()], [x.sum(), n]])[-1]
    elif one_w:
        largest = squares.sum() + 1
    elif not one_b:
        largest = squares.max() + 1
    else:  # diag(x^2) + ones: its largest eigenvalue solves sum(1 / (e - x^2)) = 1 right of all x^2
        low, high = squares.max(), squares.max() + n
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.sum(1 / np.maximum(middle - squares, 1e-300)) > 1 else (low, middle)
        largest = high
    return float(2 / (2 / n * largest))


def _inputs(x: Any) -> np.ndarray:
    """The inputs in float64, refused where they have no curvature to speak of."""
    try:
        points = np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"largest_stable_rate: x is {x!r}, expected numbers or an array ({error}). Pass a list of floats."
        ) from error
    if not points.size or not np.isfinite(points).all():
        given = short(x) if hasattr(x, "dtype") else repr(x)
        raise InputError(
            f"largest_stable_rate: x is {given}, expected at least one point, all finite. Remove or mend what is not."
        )
    return points


def _slopes(shape: tuple[int, ...], factor: np.ndarray) -> np.ndarray:
    """How each prediction depends on each entry of a parameter that rows or columns of ``x`` share: ``[x.size, k]``."""
    size = math.prod(shape)
    entry = np.ravel(np.broadcast_to(np.arange(size).reshape(shape), factor.shape))
    return np.where(entry[:, None] == np.arange(size), np.ravel(factor)[:, None], 0.0)


def diverged(step: int, sign: str, learning_rate: Any, x: Any, guess: LinearParams) -> DivergenceError:
    """The error for a run that got away."""
    stable = largest_stable_rate(x, guess)
    rate = float(learning_rate)
    reason = (
        f"learning rate {rate:g} is too big for this data, the largest stable one is {stable:.6g}. Pass a smaller one."
        if rate >= stable
        else f"learning rate {rate:g} is below the largest stable one, {stable:.6g}, so a value overflowed its dtype. "
        "Scale the data down."
    )
    return DivergenceError(f"the run diverges at step {step}: {sign}; {reason}", step=step, largest_stable_rate=stable)


def check_descends(trace: Trace) -> None:
    """Refuse a run that moves away from the minimum: a rate above the stable one, and a loss above its start.

    Raises:
      DivergenceError: with the first step after which the loss stands above the loss of the guess.
    """
    guess = LinearParams(trace["guess.w"], trace["guess.b"])
    if trace.learning_rate < largest_stable_rate(trace["x"], guess):
        return
    losses = [float(value) for value in (*trace["loss"], trace["loss again"])]
    if losses[-1] <= losses[0]:
        return
    step = next(t for t, value in enumerate(losses) if value > losses[0])
    sign = f"the loss was {losses[0]:.6g} and is {losses[step]:.6g} after it"
    raise diverged(step, sign, trace.learning_rate, trace["x"], guess)
