"""What rounding may do to the results of a program, found by trying: Monte Carlo arithmetic.

Each equation is run with its operands and its result moved at random by some rounding units, sums in another order as
well. So cancellation, ill-conditioned steps, and decisions that rounding tips (a relu at zero, the larger of two near
numbers) show as they are, entry by entry, and nothing has to be known of any operation but whether it rounds at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.flat_jaxpr import FlatJaxpr, results
from jaxgrad.parity.promote_jax import bind

UNITS = 16.0
"""So many rounding units is each number moved by: one that a compiler rounds otherwise is off by one or two (a fused
multiply-add, a product with the reciprocal for a quotient), an elementary function by up to four; the rest is room, so
that a decision which tips at several units does so in some sample."""

SAMPLES = 16
"""How many times; in so many, a sign that is drawn anew each time is the same all along once in 2**15."""

_EXACT = set(
    """
    broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice gather pad split
    concatenate rev select_n max min reduce_max reduce_min argmax argmin sort top_k neg abs sign floor ceil round eq ne
    lt le gt ge is_finite convert_element_type copy copy_p stop_gradient iota clamp and or not xor cummax cummin
    reduce_precision optimization_barrier real imag complex conj reduce_window_max scatter pmax pmin reduce_and
    reduce_or bitcast_convert_type random_bits random_seed random_wrap random_unwrap threefry2x32 population_count
    """.split()
)
_SUMS = {"dot_general", "conv_general_dilated", "cumsum", "reduce_window_sum", "scatter-add", "scatter_add"}


class RandomRounding:
    """Runs equations with their rounding drawn at random; an ``Apply`` for ``flat_jaxpr.run``.

    Args:
      seed: of what is drawn.
      units: by how many units of its dtype a number is moved at most.
    """

    def __init__(self, seed: int, units: float = UNITS):
        self._random, self._units = np.random.default_rng(seed), units

    def __call__(self, eqn: Any, values: list[Any]) -> list[Any]:
        """Run an equation."""
        name = eqn.primitive.name
        if name in _EXACT or not any(_inexact(var.aval) for var in eqn.outvars):
            return bind(eqn, values)
        moved = [
            self._moved(each, 1.0) if _inexact(var.aval) else each for each, var in zip(values, eqn.invars, strict=True)
        ]
        made = [self._summed(eqn, moved)] if name == "reduce_sum" else bind(eqn, moved)
        terms = _terms(eqn) if name in _SUMS else 1.0
        return [
            self._moved(each, math.sqrt(terms)) if _inexact(var.aval) else each
            for each, var in zip(made, eqn.outvars, strict=True)
        ]

    def _moved(self, value: Any, factor: float) -> Any:
        """The value times 1 plus or minus some units, entry by entry; a zero stays one."""
        array = np.asarray(value)
        reach = self._units * factor * float(jnp.finfo(array.dtype).eps)
        draws = 1 + min(reach, 0.5) * self._random.uniform(-1, 1, array.shape)
        wide = array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
        with np.errstate(all="ignore"):
            return jnp.asarray((wide * draws).astype(array.dtype), array.dtype)

    def _summed(self, eqn: Any, values: list[Any]) -> Any:
        """A sum one term after the other, in an order drawn at random: what a plain loop would make of it."""
        array = np.asarray(values[0])
        axes = tuple(int(axis) for axis in eqn.params["axes"])
        kept = [axis for axis in range(array.ndim) if axis not in axes]
        rows = array.transpose(*axes, *kept).reshape(-1, *(array.shape[axis] for axis in kept))
        if array.dtype.itemsize == 2 or not len(rows):  # of two bytes the sums are kept in more
            return bind(eqn, values)[0]
        order = self._random.permutation(len(rows))
        with np.errstate(all="ignore"):
            return jnp.asarray(np.cumsum(rows[order], axis=0, dtype=array.dtype)[-1])


def _inexact(aval: Any) -> bool:
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


def _terms(eqn: Any) -> float:
    """How many products or terms an entry of the result adds up, about: partial sums round that many times."""
    sizes = [float(np.prod(var.aval.shape)) for var in eqn.invars[:2]]
    made = max(float(np.prod(eqn.outvars[0].aval.shape)), 1.0)
    if eqn.primitive.name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0][0]
        return max(1.0, float(np.prod([eqn.invars[0].aval.shape[axis] for axis in contracted])))
    if eqn.primitive.name == "cumsum":
        return float(max(1, eqn.invars[0].aval.shape[eqn.params["axis"]]))
    if eqn.primitive.name == "conv_general_dilated":  # as many as the kernel has entries, or the image, in a gradient
        return max(1.0, max(sizes) / made, min(sizes))
    return max(1.0, max(sizes) / made)


def spread(flat: FlatJaxpr, given: Sequence[Any], own: Sequence[Any], samples: int = SAMPLES) -> list[np.ndarray]:
    """How far each entry of each result moves, at most, when the program rounds otherwise.

    Args:
      flat: the program.
      given: its inputs, which are exact.
      own: its results, each equation run by itself; not floating ones are given a spread of zeros.
      samples: how many times it is run.

    Returns:
      One array of float64 a result; infinite where a sample is not finite.
    """
    found = [np.zeros(np.shape(each)) for each in own]
    for seed in range(samples):
        for most, made, was in zip(found, results(flat, given, RandomRounding(seed)), own, strict=True):
            np.maximum(most, distance(made, was), out=most)
    return found


def distance(a: Any, b: Any) -> np.ndarray:
    """How far apart two arrays are, entry by entry, in float64; infinite where only one is finite, 0 for equal ones."""
    if jnp.issubdtype(a.dtype, jnp.inexact):
        first, second = _wide(a), _wide(b)
        with np.errstate(all="ignore"):
            apart = np.abs(first - second)
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        return np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))
    if jnp.issubdtype(a.dtype, jnp.integer) or jnp.issubdtype(a.dtype, jnp.bool_):
        return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return np.zeros(np.shape(a))


def _wide(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
