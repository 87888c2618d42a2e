"""A line through the columns of a table: the loss that ``fit`` is given, and the way back to the columns' units."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError
from jaxgrad.model import LinearParams

_BLOCK = 2**18


@dataclass(frozen=True)
class Scaling:
    """Columns to mean 0 and standard deviation 1, so that one learning rate suits all units.

    Attributes:
      x_mean: float64 ``[k]``.
      x_scale: float64 ``[k]``, positive.
      y_mean: float64 ``[m]``.
      y_scale: float64 ``[m]``, positive.
    """

    x_mean: np.ndarray
    x_scale: np.ndarray
    y_mean: np.ndarray
    y_scale: np.ndarray

    @classmethod
    def none(cls, x: np.ndarray, y: np.ndarray) -> Scaling:
        """The columns as they are."""
        k, m = _columns(x), _columns(y)
        return cls(np.zeros(k), np.ones(k), np.zeros(m), np.ones(m))

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, names: tuple[str, ...]) -> Scaling:
        """That of the data, read block by block.

        Args:
          x: ``[rows]`` or ``[rows, k]``.
          y: ``[rows]`` or ``[rows, m]``.
          names: of all columns, for the error.

        Raises:
          InputError: if a column of ``x`` has the same value in all rows.
        """
        (x_mean, x_scale), (y_mean, y_scale) = _moments(x), _moments(y)
        if not (np.isfinite(x_scale).all() and np.isfinite(y_scale).all()):
            raise InputError("a column's numbers are too large: their squares overflow float64. Use a larger unit.")
        constant = [name for name, scale in zip(names, x_scale, strict=False) if not scale > 0]
        if constant:
            raise InputError(
                f"column {', '.join(map(repr, constant))} has the same value in all rows, as float64 holds them: "
                "nothing can be learned from it. Leave it out of --x."
            )
        return cls(x_mean, x_scale, y_mean, np.where(y_scale > 0, y_scale, 1.0))

    def apply(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scaled columns in float32, ``[rows, k]`` and ``[rows, m]``, on disk where they were.

        They are centred before they are rounded: what is far from zero, such as a time in seconds, keeps its digits.

        Raises:
          InputError: if a number is too large for float32.
        """
        return _scaled(x, self.x_mean, self.x_scale), _scaled(y, self.y_mean, self.y_scale)

    def guess(self) -> LinearParams:
        """Where descent begins: a line through the means, level."""
        k, m = self.x_mean.size, self.y_mean.size
        return LinearParams(np.zeros((k, m), np.float32), np.zeros(m, np.float32))

    def line(self, params: LinearParams) -> tuple[np.ndarray, np.ndarray]:
        """``w [k, m]``, ``b [m]`` in float64 for the columns as they are."""
        w = np.asarray(params.w, np.float64) * self.y_scale / self.x_scale[:, None]
        b = np.asarray(params.b, np.float64) * self.y_scale + self.y_mean - self.x_mean @ w
        return w, b

    def in_units(self, loss: Any) -> Any:
        """A loss of scaled columns in the unit of ``y``, squared: exact for one column of ``y``."""
        return loss * np.mean(self.y_scale**2)


def squared_error(params: LinearParams, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean squared error of ``x w + b``: ``w [k, m]``, ``b [m]``, ``x [rows, k]``, ``y [rows, m]``."""
    return jnp.mean((x @ jnp.asarray(params.w) + jnp.asarray(params.b)[None] - y) ** 2)


def _scaled(array: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    shape = len(array), mean.size
    if isinstance(array, np.memmap):
        with tempfile.TemporaryFile() as file:  # without a name: its room is free again once the array is gone
            made = np.memmap(file, np.float32, "w+", shape=shape)
    else:
        made = np.empty(shape, np.float32)
    for start in range(0, len(array), _BLOCK):
        part = (array[start : start + _BLOCK].reshape(-1, mean.size).astype(np.float64) - mean) / scale
        if np.abs(part).max() > np.finfo(np.float32).max:
            raise InputError(
                f"a number as large as {np.abs(part).max():g} is too large for float32. Scale the columns."
            )
        made[start : start + _BLOCK] = part
    return made


def _columns(array: np.ndarray) -> int:
    return 1 if array.ndim == 1 else array.shape[1]


def _moments(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, in float64 and in one pass of memory at a time."""
    total = np.zeros(_columns(array))
    for start in range(0, len(array), _BLOCK):
        total += array[start : start + _BLOCK].reshape(-1, total.size).sum(axis=0, dtype=np.float64)
    mean = total / len(array)
    squares = np.zeros_like(total)
    for start in range(0, len(array), _BLOCK):
        part = array[start : start + _BLOCK].reshape(-1, total.size)
        with np.errstate(over="ignore"):
            squares += ((part - mean) ** 2).sum(axis=0)
    scale = np.sqrt(squares / len(array))
    return mean, np.where(scale > 1e-15 * np.abs(mean), scale, 0.0)


def held_out(x: np.ndarray, y: np.ndarray, share: float, seed: int) -> tuple[Any, Any]:
    """Part the rows: ``(x, y)`` to train on, and ``(x, y)`` for validation.

    Rows in memory are drawn by chance; of a memory map, which is not to be copied, the last ones are taken.

    Raises:
      InputError: if one of the two has no rows.
    """
    count = round(len(x) * share)
    if not 0 < count < len(x):
        raise InputError(f"--validate {share:g} of {len(x)} rows leaves none for one of the two. Pass 0.2, say.")
    if isinstance(x, np.memmap):
        return (x[:-count], y[:-count]), (x[-count:], y[-count:])
    order = np.random.default_rng(seed).permutation(len(x))
    kept, out = np.sort(order[count:]), np.sort(order[:count])
    return (x[kept], y[kept]), (x[out], y[out])
