"""Batches of rows in a new order each epoch, which never run out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import leaves_by_path, short
from jaxgrad.shuffle import MOST_ROWS, rows_of_step, seed_of

_AHEAD = 64
"""So many steps' row numbers are made in one compiled call, when batches are drawn one after the other."""


class Batches:
    """An endless iterator of shuffled batches, each a pure function of the key and the step; made by ``batches``.

    Attributes:
      data: the pytree of arrays that the rows are taken from.
      rows: how many it has.
      batch_size: rows of a batch.
      seed: of the shuffling, ``u32[2]``.
      step: of the batch that comes next.
    """

    def __init__(self, data: Any, batch_size: int, seed: np.ndarray, step: int):
        self.data, self.batch_size, self.seed, self.step = data, batch_size, seed, step
        self.rows: int = check_rows("batches", data)
        self._numbers: tuple[int, np.ndarray] = (-_AHEAD, np.zeros((0, 0), np.int32))

    def rows_of(self, step: Any) -> jax.Array:
        """The row numbers of a step's batch, ``i32[batch_size]``; ``step`` may be traced."""
        return rows_of_step(self.seed, step, self.rows, self.batch_size)

    def at(self, step: Any) -> Any:
        """The batch of a step: the pytree of ``data`` with ``batch_size`` rows. Under ``jit``, ``data`` is a constant.

        What is NumPy's stays NumPy's (and on disk, where it is a memory map, but for these rows) unless ``step`` is
        traced.
        """
        if not isinstance(step, jax.core.Tracer) and not 0 <= step < 2**32:
            raise InputError(f"batches: at({step}), expected the number of a step, from 0 to {2**32 - 1}.")
        if isinstance(step, jax.core.Tracer):
            return take_rows(self.data, self.rows_of(step))
        return _take(self.data, self._rows_ahead(int(step)))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = self.at(self.step)
        self.step += 1
        return batch

    def _rows_ahead(self, step: int) -> np.ndarray:
        first, numbers = self._numbers
        if not first <= step < first + len(numbers):
            first = step
            numbers = np.asarray(self._many(np.uint32(step)))
            self._numbers = first, numbers
        return numbers[step - first]

    @cached_property
    def _many(self) -> Any:
        return jax.jit(lambda first: jax.vmap(self.rows_of)(first + jnp.arange(_AHEAD, dtype=jnp.uint32)))


def batches(
    data: Any, batch_size: int, key: jax.Array | int = 0, *, start: int = 0, function: str = "batches"
) -> Batches:
    """The shuffling generator: batches of rows, every epoch in a new order, without end.

    A last short batch is filled from the next epoch, so all have the same shape. Any step's batch can be made again
    (``batches(...).at(step)``), so a run that was stopped sees the data that it would have seen.

    Args:
      data: a pytree of arrays that share their first axis; usually a tuple ``(x, y)``. Arrays of JAX's stay where they
        are; NumPy's, memory maps too, are read on the host.
      batch_size: rows of a batch, from 1 to the number of rows.
      key: a ``jax.random`` key, or a whole number for ``jax.random.key(number)``.
      start: the step of the first batch drawn.
      function: the public function that was called, the start of the message of an error.

    Returns:
      An iterator with ``at(step)`` and ``rows_of(step)``, which are pure functions and work under ``jit``.

    Raises:
      InputError: for no rows, leaves of different lengths, a batch larger than the data, a negative start.
      InputTypeError: for leaves that are no arrays, a size or key of the wrong kind.

    >>> drawn = batches((np.arange(5), np.arange(5) * 10), 3, 7)
    >>> x, y = next(drawn)
    >>> x.shape, (y == 10 * x).all().item()
    ((3,), True)
    """
    rows = check_rows(function, data)
    check_batch_size(function, batch_size, rows)
    if not isinstance(start, (int, np.integer)) or not 0 <= start < 2**32:
        raise InputError(f"{function}: start={start!r}, expected the number of a step, from 0 to {2**32 - 1}.")
    check_key(function, key)
    return Batches(data, int(batch_size), seed_of(key), int(start))


def check_key(function: str, key: Any) -> None:
    """Refuse what is neither a ``jax.random`` key, new style or old, nor a whole number."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return
    try:
        jax.random.key_data(key)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"{function}: key is {short(key)}, expected a random key. Pass jax.random.key(0), or a whole number."
        ) from error


def check_batch_size(function: str, batch_size: Any, rows: int) -> None:
    """Refuse a size that is no whole number from 1 to the number of rows."""
    if not isinstance(batch_size, (int, np.integer)) or isinstance(batch_size, bool):
        raise InputTypeError(f"{function}: batch_size is {batch_size!r}, expected a whole number. Pass 32, say.")
    if not 1 <= batch_size <= rows:
        raise InputError(
            f"{function}: batch_size={batch_size}, expected 1 to {rows}, the rows of the data. "
            "Pass a smaller one, or more data."
        )


def take_rows(data: Any, rows: Any) -> Any:
    """The same pytree with these rows, in their order; JAX's arithmetic, so ``rows`` may be traced."""
    return jax.tree.map(partial(jnp.take, indices=rows, axis=0, mode="clip"), data)


def _take(data: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows] if isinstance(leaf, np.ndarray) else jnp.take(leaf, rows, 0), data)


def check_rows(function: str, data: Any, name: str = "data") -> int:
    """How many rows a pytree of numeric arrays has; refused where its leaves do not share them."""
    leaves = leaves_by_path(data)
    if not leaves:
        raise InputError(f"{function}: {name} has no arrays. Pass a tuple such as (x, y).")
    for path, leaf in leaves.items():
        if not isinstance(leaf, (jax.Array, np.ndarray)) or isinstance(leaf, np.generic):
            raise InputTypeError(f"{function}: {name}{path} is {short(leaf)}, expected an array. Pass np.asarray(it).")
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OUSMm":
            raise InputTypeError(f"{function}: {name}{path} is {leaf.dtype}, expected numbers. Convert it.")
        if leaf.ndim == 0:
            raise InputError(f"{function}: {name}{path} is one number, {short(leaf)}, expected an axis of rows.")
    lengths = {path: leaf.shape[0] for path, leaf in leaves.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name}{path} has {length}" for path, length in lengths.items())
        raise InputError(f"{function}: the arrays differ in rows: {said}. Pass as many rows in each.")
    rows = next(iter(lengths.values()))
    if not 1 <= rows <= MOST_ROWS:
        raise InputError(f"{function}: {name} has {rows} rows, expected from 1 to {MOST_ROWS}.")
    return rows
