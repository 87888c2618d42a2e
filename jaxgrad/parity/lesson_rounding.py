"""What rounding can do to each value of the lesson: the value in float64, and the size of one rounding unit."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxgrad.trace import Trace

Array = np.ndarray | np.floating


@dataclass(frozen=True)
class Expected:
    """A value computed in float64 from the trace's own state, and what rounding may do to it.

    Attributes:
      value: what mathematics says, ``[...]`` float64.
      unit: one rounding unit, ``[...]``: the dtype's eps times the scale of the operands, not of the result:
        where two near numbers are subtracted, the result is small and its rounding error is not.
      allowed: how many units rounding can explain: half a unit for each rounding on the longest way to the value.
    """

    value: Array
    unit: Array
    allowed: float

    def units(self, difference: np.ndarray) -> float:
        """The largest entry of a difference, in rounding units; infinite where it is not a number."""
        ratio = np.abs(difference) / np.maximum(self.unit, np.finfo(np.float64).tiny)
        return float(np.max(np.where(np.isfinite(difference), ratio, np.inf), initial=0.0))


def expected(trace: Trace, step: int) -> dict[str, Expected]:
    """What step ``step`` should compute from the parameters that the trace itself had before it.

    Args:
      trace: any trace of the lesson.
      step: counted from 0; ``trace.steps`` stands for "again", after the last update.

    Returns:
      ``Expected`` by name: Q, loss, and unless the step is "again" the gradients and the updated parameters.
    """
    eps = float(jnp.finfo(trace.dtype).eps)
    tiny = float(jnp.finfo(trace.dtype).tiny)  # below it XLA flushes to zero: an absolute error, not a relative one
    x, y = (np.asarray(trace[name], np.float64) for name in "xy")
    w, b = (_meeting(np.asarray(value, np.float64), x.shape) for value in trace.before(step))
    n = x.size
    Q = w * x + b
    error = y - Q
    q_scale = np.abs(w * x) + np.abs(b)
    scale = np.abs(y) + q_scale  # of the subtraction, whose result may be small
    long_sum = n / 2 + 8  # n - 1 additions, one after the other in the worst order, and the few roundings before

    def unit(size: Array) -> Array:
        return eps * size + tiny

    found = {
        "Q": Expected(Q, unit(q_scale), 1),
        "loss": Expected(
            np.mean(error**2), unit(np.mean(2 * np.abs(error) * scale + error**2 + eps * scale**2)), long_sum
        ),
    }
    if step == trace.steps:
        return {f"{name} again": value for name, value in found.items()}

    rate = float(np.asarray(trace.learning_rate, trace.dtype))
    slopes = {"w": (-2 / n * error * x, 2 / n * np.abs(x) * scale), "b": (-2 / n * error, 2 / n * scale)}
    for name, (terms, sizes) in slopes.items():
        before = np.asarray(trace.before(step)["wb".index(name)], np.float64)
        found[f"{name}.grad"] = Expected(_gathered(terms, before.shape), unit(_gathered(sizes, before.shape)), long_sum)
        # The update is judged from the gradient that was recorded, so that no error is counted twice.
        grad = np.asarray(trace[f"{name}.grad"][step], np.float64)
        found[name] = Expected(before - rate * grad, unit(np.abs(before) + rate * np.abs(grad)), 1)
    return found


def _meeting(parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter against ``x``: one entry meets all, whatever its shape."""
    return parameter.reshape(()) if parameter.size == 1 else np.broadcast_to(parameter, shape)


def _gathered(terms: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter's gradient from each point's: the sum over the points that the parameter met."""
    if np.prod(shape) == 1:
        return terms.sum().reshape(shape)
    if terms.shape == shape:
        return terms
    padded = (1,) * (terms.ndim - len(shape)) + shape
    axes = tuple(axis for axis, size in enumerate(padded) if size == 1 and terms.shape[axis] != 1)
    return terms.sum(axis=axes, keepdims=True).reshape(shape)
