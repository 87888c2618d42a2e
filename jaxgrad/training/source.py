"""Where the batch of a step comes from: the whole data, shuffled rows of it, or an iterator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.data import take_rows
from jaxgrad.errors import InputError, ProgramError
from jaxgrad.pytrees import leaves_by_path
from jaxgrad.shuffle import rows_of_step
from jaxgrad.updates import check_batch

_PIECE_BYTES = 2**26
"""So much of an iterator's data is on the device at a time, and as much being loaded."""

PIECE_STEPS = 256
"""And so many batches of it at most."""


@dataclass(frozen=True)
class Whole:
    """The same batch each step: what is loaded."""

    ahead = 1

    def __call__(self, arrays: Any, step: Any, place: Any) -> tuple[Any, ...]:
        """What is loaded."""
        return arrays


@dataclass(frozen=True)
class Stacked:
    """One batch after the other of those that are loaded."""

    ahead = 1

    def __call__(self, arrays: Any, step: Any, place: Any) -> tuple[Any, ...]:
        """The batch at that place."""
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, keepdims=False), arrays)


@dataclass(frozen=True)
class Shuffled:
    """Shuffled rows of what is loaded.

    Attributes:
      rows: of the data.
      batch_size: of a batch.
      ahead: so many steps' rows are gathered at once: their reads from memory then overlap, seven times as fast as
        one small batch after the other.
      sharding: of what is gathered, ``[ahead, batch_size, ...]``, where several devices share a batch.
    """

    rows: int
    batch_size: int
    ahead: int = 1
    sharding: jax.sharding.Sharding | None = None

    def gather(self, arrays: Any, step: Any) -> Any:
        """The batches of ``ahead`` steps from ``step`` on, for ``Stacked``."""
        seed, start, data = arrays
        steps = step.astype(np.uint32) + start + jnp.arange(self.ahead, dtype=np.uint32)
        rows = jax.vmap(lambda each: rows_of_step(seed, each, self.rows, self.batch_size))(steps)
        if self.sharding is not None:  # each device then takes its own rows alone
            rows = jax.lax.with_sharding_constraint(rows, self.sharding)
        return take_rows(data, rows)

    def __call__(self, arrays: Any, step: Any, place: Any) -> tuple[Any, ...]:
        """The batch of one step."""
        return Stacked()(self.gather(arrays, step), step, 0)


BatchOf = Whole | Stacked | Shuffled
"""A pure function from what is loaded, the step and its place in the piece to the batch. Equal ones compile once."""


class Source(Protocol):
    """Batches for the compiled loop, in pieces of several steps."""

    @property
    def batch_of(self) -> BatchOf:
        """How the program makes a batch of what is loaded."""
        ...

    @property
    def again(self) -> bool:
        """Whether a step's batch can be made again at any time."""
        ...

    @property
    def most(self) -> int | None:
        """How many steps the next piece can have; None if any number, 0 at the end of the data."""
        ...

    def example(self) -> tuple[Any, ...]:
        """The next batch, as shapes and dtypes."""
        ...

    def load(self, count: int) -> tuple[Any, int]:
        """What the program needs for the next steps, and for how many of ``count`` it is enough."""
        ...


class OnDevice:
    """Data that lies on the device: all of it each step, or shuffled rows of it.

    Args:
      batch_of: how a batch is made of it.
      arrays: what that needs.
      batch: shapes and dtypes of a batch.
    """

    most, again = None, True

    def __init__(self, batch_of: BatchOf, arrays: Any, batch: tuple[Any, ...]):
        self.batch_of, self.arrays, self._batch = batch_of, arrays, batch

    def example(self) -> tuple[Any, ...]:
        """A batch, as shapes and dtypes."""
        return self._batch

    def load(self, count: int) -> tuple[Any, int]:
        """It is there for any number of steps."""
        return self.arrays, count


class Drawn:
    """Batches from an iterator, stacked into pieces that are loaded while the device works on the piece before.

    An iterable that is not its own iterator, such as a list or torch's ``DataLoader``, is begun again at its end.

    Args:
      data: gives tuples of arrays.
      place: puts a piece, ``[steps, rows, ...]`` each leaf, on the devices.
      skip: so many batches have been used by the run that goes on.
    """

    again, batch_of = False, cast(BatchOf, Stacked())

    def __init__(self, data: Iterable[Any], place: Callable[[Any], Any], skip: int = 0):
        self._data, self._place = data, place
        self._iterator = self._drawn()
        for _ in range(skip):
            if next(self._iterator, None) is None:
                raise InputError(
                    f"fit: the data ended before batch {skip}, at which the run goes on. Pass the data from its start."
                )
        self._next = next(self._iterator, None)
        if self._next is None:
            raise InputError("fit: data has no batches. Pass an iterator of tuples such as (x, y).")

    @property
    def most(self) -> int:
        """As many batches as fit into a piece; 0 at the end of the data."""
        if self._next is None:
            return 0
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self._next))
        return max(1, min(PIECE_STEPS, _PIECE_BYTES // max(size, 1)))

    def example(self) -> tuple[Any, ...]:
        """The next batch, as shapes and dtypes."""
        return shapes_of(self._next)

    def load(self, count: int) -> tuple[Any, int]:
        """A piece always has room for ``most`` steps, so that one compiled program serves for shorter ones."""
        like, room = self._next, self.most
        piece = jax.tree.map(lambda leaf: np.zeros((room, *leaf.shape), leaf.dtype), like)
        taken = 0
        while taken < min(count, room) and self._next is not None and _kinds(self._next) == _kinds(like):
            for whole, leaf in zip(jax.tree.leaves(piece), jax.tree.leaves(self._next), strict=True):
                whole[taken] = leaf
            taken += 1
            self._next = next(self._iterator, None)
        return self._place(piece), taken

    def _drawn(self) -> Iterator[Any]:
        number = 0
        while True:
            before, iterator = number, _begun(self._data)
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    break
                except Exception as error:
                    raise ProgramError(f"fit: data raised {type(error).__name__} at batch {number}: {error}") from error
                yield _as_arrays(batch, number)
                number += 1
            if iterator is self._data or number == before:
                return


def _begun(data: Iterable[Any]) -> Iterator[Any]:
    try:
        return iter(data)
    except Exception as error:
        raise ProgramError(f"fit: data raised {type(error).__name__} when it was begun: {error}") from error


def _as_arrays(batch: Any, number: int) -> tuple[Any, ...]:
    if isinstance(batch, list):  # as torch's DataLoader collates
        batch = tuple(batch)
    check_batch(f"fit, batch {number} of data", batch)
    arrays = jax.tree.map(_host, batch)
    for path, leaf in leaves_by_path(arrays).items():
        if leaf.dtype.kind in "OUSMm":
            raise InputError(f"fit: batch {number} of data, leaf {path}: {leaf.dtype}, expected numbers.")
    return arrays


def _host(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return (
        array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False) if array.dtype.kind in "fciub" else array
    )


def _kinds(batch: Any) -> Any:
    return jax.tree.structure(batch), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(batch)]


def shapes_of(tree: Any) -> Any:
    """The same tree of shapes and dtypes alone."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def rows_of(batch: Any) -> int:
    """How many rows a batch has: the length of its first leaf with an axis; 1 if it has none."""
    return next((leaf.shape[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)), 1)


def size_of(batch: Any) -> int:
    """The bytes of a batch, given as shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch))
