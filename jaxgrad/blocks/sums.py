"""Sums that lose nothing on the way: a float that is rounded, and beside it what the rounding took."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

FOLD = 8  # terms that one reduction adds up, one after the other; XLA unrolls so many


class Sum(NamedTuple):
    """Unfinished sums; the value is ``high + low``, added up over the first axis.

    Attributes:
      high: arrays ``[lanes, ...]``, at least float32.
      low: the same shapes: the rounding errors of ``high``.
    """

    high: list[jax.Array]
    low: list[jax.Array]


def exactly(terms: list[jax.Array]) -> Sum:
    """Terms ``[lanes, ...]`` as sums, without an error so far."""
    return Sum(terms, [jnp.zeros_like(term) for term in terms])


def add(sums: Sum, terms: list[jax.Array]) -> Sum:
    """Add one term to each lane."""
    added = [two_sum(a, b) for a, b in zip(sums.high, terms, strict=True)]
    return Sum([s for s, _ in added], [low + error for low, (_, error) in zip(sums.low, added, strict=True)])


def joined(parts: list[Sum]) -> Sum:
    """The lanes of several sums, side by side."""
    lanes = [jnp.concatenate(leaves) for leaves in zip(*(part.high + part.low for part in parts), strict=True)]
    return Sum(lanes[: len(lanes) // 2], lanes[len(lanes) // 2 :])


def total(sums: Sum) -> Sum:
    """All lanes added into one: leaves ``[1, ...]``."""
    pairs = [_total(high, low) for high, low in zip(sums.high, sums.low, strict=True)]
    return Sum([high for high, _ in pairs], [low for _, low in pairs])


def value(sums: Sum) -> list[jax.Array]:
    """The rounded value of each sum that ``total`` has made: leaves without the first axis."""
    # The error of a sum that overflowed is NaN, the sum itself is infinite: as it would be without compensation.
    return [jnp.where(jnp.isfinite(high), high + low, high)[0] for high, low in zip(sums.high, sums.low, strict=True)]


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``a + b`` as it is rounded, and exactly what the rounding took (D. Knuth, TAOCP 2, 4.2.2, theorem B)."""
    s = a + b
    of_b = s - a
    return s, (a - (s - of_b)) + (b - of_b)


def folded(terms: jax.Array) -> jax.Array:
    """A plain sum over the first axis, eight at a time: its error grows with the logarithm of the length; [1, ...]."""
    while (n := terms.shape[0]) > 1:
        zeros = jnp.zeros((-n % FOLD, *terms.shape[1:]), terms.dtype)
        terms = jnp.concatenate([terms, zeros]) if len(zeros) else terms
        terms = terms.reshape(-1, FOLD, *terms.shape[1:]).sum(1)
    return terms


def _total(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    def both(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
        s, error = two_sum(a[0], b[0])
        return s, a[1] + b[1] + error

    zero = jnp.zeros((), high.dtype)
    high, low = lax.reduce((high, low), (zero, zero), both, (0,))
    return high[None], low[None]
