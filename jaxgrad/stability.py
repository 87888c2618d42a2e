"""When gradient descent on the lesson's loss converges, and what is said when it does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxgrad.errors import DivergenceError
from jaxgrad.model import LinearParams
from jaxgrad.trace import Trace


def largest_stable_rate(x: Any, params: LinearParams) -> float:
    """The learning rate below which descent on the line's mean squared error converges: 2 over the curvature.

    Args:
      x: the inputs ``[...]``.
      params: the guess; only the shapes matter.

    Returns:
      ``2 / largest eigenvalue`` of the Hessian of ``loss`` in float64; the truth ``y`` does not enter.

    >>> round(largest_stable_rate([1.0, 2.0, 3.0], LinearParams(2.0, 6.0)), 6)
    0.180295
    """
    x = np.ravel(np.asarray(x, np.float64))
    n = x.size
    one_w, one_b = (np.size(parameter) == 1 for parameter in params)
    squares = x**2
    if one_w and one_b:
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
