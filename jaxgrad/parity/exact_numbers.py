"""What the rounded constants of a jaxpr stand for, from all that is known: its twin in float64, and what torch used.

A rate of 0.0123 is a float32 in the jaxpr of an update. Three places tell which number was meant: the same update
traced in float64, torch's own numbers, of which one may round to it, and its decimals. What none of them tells stays
as it is, and how much its rounding explains can be measured: ``moved``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.constants import recover

SAME = 1e-12
"""Two float64 numbers this near, relatively, are one number computed in two ways: ``0.1`` and ``1 - 0.9``."""

HALF_A_UNIT = 0.49
"""So many units may a constant be moved: it still rounds to what stands in the program."""


class ExactNumbers:
    """The float64 numbers that a program's narrower constants stand for.

    Args:
      numbers: float64 numbers that either side is known to have used.
      doubtful: whether every constant is in doubt that is no round number, since what it should equal was rounded.
    """

    def __init__(self, numbers: Iterable[float], doubtful: bool = False):
        self._doubtful = doubtful
        given = np.asarray([*set(numbers)], np.float64)
        given = given[np.isfinite(given) & (given != 0) & ~_was_rounded(given)]  # a rounded one tells nothing
        self._pool = np.unique(np.concatenate([given, -given]))
        self._rounded: dict[str, np.ndarray] = {}
        self.uncertain: list[bytes] = []  # in the order they were met, as their bytes
        self.moved: bytes | None = None  # the one that is moved now

    def of(self, array: np.ndarray, twin: Any = None) -> np.ndarray:
        """The numbers that an array of a floating dtype narrower than float64 stands for, in float64.

        Args:
          array: any shape.
          twin: the same constant of the program traced in float64, if there is one.
        """
        if _floating64(twin) and np.shape(twin) == array.shape:
            exact = np.asarray(twin)
            if np.array_equal(exact.astype(array.dtype), array, equal_nan=True) and not _was_rounded(exact).any():
                return self._doubted(array, exact) if self._doubtful else exact
        wide = array.astype(np.float64)
        open_entries = _was_rounded(wide, 16 if array.dtype == np.float32 else 4)
        if not open_entries.any():
            return wide
        found, known = self._among_the_numbers(array)
        wide = np.where(open_entries & known, found, wide)
        open_entries &= ~known
        if not open_entries.any():
            return wide
        recovered, certain = recover(array)
        if certain and array.dtype == np.float32:
            return self._doubted(array, recovered) if self._doubtful else recovered
        return self._doubted(array, wide)

    def _doubted(self, array: np.ndarray, wide: np.ndarray) -> np.ndarray:
        """A constant of which nothing tells what it stands for: noted, and moved if it is the one to move."""
        key = array.tobytes()
        if key not in self.uncertain:
            self.uncertain.append(key)
        if key != self.moved:
            return wide
        mantissa = np.frexp(array.astype(np.float64))[0] * 2.0**16
        return np.where(mantissa == np.round(mantissa), wide, array + HALF_A_UNIT * _unit(array))

    def _among_the_numbers(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each entry the one known number that rounds to it, and whether there is one."""
        pool = self._pool
        if not pool.size:
            return np.zeros(array.shape), np.zeros(array.shape, bool)
        name = str(array.dtype)
        if name not in self._rounded:
            with np.errstate(over="ignore"):
                self._rounded[name] = pool.astype(array.dtype).astype(np.float64)
        rounded, wide = self._rounded[name], array.astype(np.float64)
        low = np.searchsorted(rounded, wide, "left")
        high = np.searchsorted(rounded, wide, "right")
        one, other = pool[np.minimum(low, pool.size - 1)], pool[np.maximum(high - 1, 0)]
        return one, (low < high) & (np.abs(one - other) <= SAME * np.abs(one))


def numbers_of(closed: jex.ClosedJaxpr) -> Iterator[float]:
    """The float64 constants of a jaxpr, also of those inside it; of tables only small ones."""
    for const in closed.consts:
        if _floating64(const) and np.size(const) <= 4096:
            yield from np.asarray(const).ravel().tolist()
    for eqn in closed.jaxpr.eqns:
        yield from (float(atom.val) for atom in eqn.invars if _is_literal(atom) and _floating64(atom.val))
        for inner in _inner(eqn.params):
            yield from numbers_of(inner)


def with_exact_numbers(closed: Any, twin: Any, numbers: ExactNumbers) -> Any:
    """A copy of a jaxpr whose narrow constants are the float64 numbers that they stand for.

    Args:
      closed: a closed jaxpr, or an open one.
      twin: of the same structure, traced in float64; None if there is none.
      numbers: what they stand for.
    """
    jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, jex.ClosedJaxpr) else (closed, ())
    other = getattr(twin, "jaxpr", twin)
    twins = getattr(twin, "consts", ())
    given = [
        numbers.of(np.asarray(const), twins[i] if len(twins) == len(consts) else None) if _narrow(const) else const
        for i, const in enumerate(consts)
    ]

    def literal(atom: Any, like: Any) -> Any:
        if not _is_literal(atom) or not _narrow(np.asarray(atom.val, atom.aval.dtype)):
            return atom
        value = np.asarray(atom.val, atom.aval.dtype)
        return jex.Literal(numbers.of(value, getattr(like, "val", None)), atom.aval)

    eqns = []
    for i, eqn in enumerate(jaxpr.eqns):
        like = other.eqns[i] if other is not None else None
        atoms = [literal(atom, like.invars[j] if like else None) for j, atom in enumerate(eqn.invars)]
        params = {
            key: _rewritten(value, like.params.get(key) if like else None, numbers) for key, value in eqn.params.items()
        }
        eqns.append(eqn.replace(invars=atoms, params=params))
    outs = [literal(atom, other.outvars[j] if other is not None else None) for j, atom in enumerate(jaxpr.outvars)]
    made = jaxpr.replace(eqns=eqns, outvars=outs)
    return jex.ClosedJaxpr(made, given) if isinstance(closed, jex.ClosedJaxpr) else made


def _rewritten(value: Any, like: Any, numbers: ExactNumbers) -> Any:
    if hasattr(value, "eqns"):
        return with_exact_numbers(value, like, numbers)
    if type(value) in (tuple, list) and any(hasattr(each, "eqns") for each in value):
        twins = like if like is not None else [None] * len(value)
        pairs = zip(value, twins, strict=True)
        return type(value)(with_exact_numbers(a, b, numbers) if hasattr(a, "eqns") else a for a, b in pairs)
    return value


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(each, "eqns"):
                yield each if isinstance(each, jex.ClosedJaxpr) else jex.ClosedJaxpr(each, ())


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, jex.Literal)


def _floating64(value: Any) -> bool:
    return getattr(value, "dtype", None) == np.float64 or isinstance(value, float)


def _narrow(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating)) and dtype != np.float64


def _was_rounded(wide: np.ndarray, round_bits: int = 16) -> np.ndarray:
    """Which float64 numbers have the bits of a float32, all of them: few numbers have that were not rounded to it.

    One that needs few bits (``round_bits``, of a dtype that has 24, or 8) is a round number, and stands for itself.
    """
    mantissa = np.frexp(wide)[0]
    finite = np.isfinite(wide) & (np.abs(wide) < 1e30)
    few = mantissa * 2.0**round_bits == np.round(mantissa * 2.0**round_bits)
    return finite & ~few & (mantissa * 2.0**24 == np.round(mantissa * 2.0**24))


def _unit(array: np.ndarray) -> np.ndarray:
    """The distance to the next number of the dtype."""
    bits = int(jnp.finfo(array.dtype).nmant) + 1
    return np.ldexp(1.0, np.frexp(array.astype(np.float64))[1] - bits)
