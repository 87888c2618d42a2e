"""What rounding may do to a value, and how it is measured: the thresholds of the engine, each with its derivation.

Two evaluations of the same mathematics in float64 agree to a few units in the last place, unless something cancels or
amplifies on the way. How much it does is never guessed from the sizes of the operands: where two values are not as
close as usual, both programs run once more with *disturbed* shadows beside the exact ones, in which every rounded
result is moved by a few units (D. S. Parker's Monte Carlo arithmetic). The distance between the shadows is what
rounding does to that very value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxgrad.parity.fingerprints import EXTREME, bits_of, coins
from jaxgrad.parity.tape import Value

ALIKE = 2.0**-40
"""Two float64 evaluations of the same mathematics are closer than this, relative to the largest entry: 4,096 units.

Measured on forward and backward passes of correct GPT-2, BERT and ResNet twins: 1e-14, some 50 units; the naive sum
of a million terms is off by some 500. A gelu by tanh for an exact one stands at 1e9 units and more, a factor of
1 + 1e-9 at 4.5e6.
"""

VANISHED = 2.0**-44
"""A gradient so much smaller than what was added up for it is zero in the mathematics; what is left is rounding.

The rounding of a sum is some 2**-53 of its terms for each level of a pairwise sum, and 2**-48 where the terms
themselves carry 32 units; 2**-44 leaves a factor of 16.
"""

DISTURBED = 2.0**-50
"""By so much, up or down, a rounded result is moved in a disturbed shadow: eight times what its rounding may do."""

LEEWAY = 16.0
"""So many times the measured distance of the disturbed shadows two values may be apart.

The disturbance is eight times a rounding, so that this is some hundred times what rounding did; a value of one entry
would have to be moved by less than a hundredth of what is usual, in both disturbed shadows at once, to be taken for
more exact than it is (1 in 10,000).
"""

MOST_NOISE = 1e-5
"""A value that disturbed shadows move by more than this, relative, is not known: it agrees with anything near it.

Half a float32 unit is 6e-8 of one constant; the room above it is for many of them and for growth on the way.
"""

_EPS64 = 2.0**-52


class Operand(NamedTuple):
    """An input of an operation: its number of entries, and the mean and the root mean square of their sizes."""

    size: int
    mean: float
    root_mean_square: float

    @classmethod
    def of(cls, value: Value) -> Operand | None:
        """The operand that a value is; None if it is not floating, or a mask's stand-in for infinity."""
        found = value.summary.fingerprint
        if found is None or (not value.live and found.largest >= EXTREME):
            return None
        return cls(found.size, float(found.moments[1]) * found.largest, found.root_mean_square)


def operand_scale(kind: str, operands: Sequence[Operand], largest: float, size: int) -> float:
    """The mean size of what an operation adds up in one entry of its result: far above it where most of it cancelled.

    Args:
      kind: ``"add"``, ``"sum"``, ``"dot"``, ``"mean"`` (of the first operand), or another, which adds nothing up.
      operands: the floating inputs.
      largest: the largest entry of the result in size.
      size: its number of entries.

    Returns:
      At least ``largest``.
    """
    scale = largest
    if not operands:
        return largest
    if kind == "add":
        scale = max(operand.mean for operand in operands)
    elif kind == "mean":
        scale = operands[0].mean
    elif kind == "sum":
        scale = operands[0].mean * operands[0].size / max(size, 1)
    elif kind == "dot":  # the last two operands are multiplied, and so many products are added
        a, b = operands[-2:] if len(operands) > 1 else (operands[0], operands[0])
        scale = math.sqrt(a.size * b.size / max(size, 1)) * a.root_mean_square * b.root_mean_square
    return max(largest, scale) if math.isfinite(scale) else largest


def shadow_distance(largest: float, noise: float = 0.0) -> float:
    """How far apart the float64 shadows of one quantity may be on two sides.

    Args:
      largest: the largest entry in size, of either side.
      noise: how far disturbed shadows were from the exact one; 0 where that was not measured.
    """
    return max(ALIKE * largest, LEEWAY * noise)


@dataclass(frozen=True)
class Disturbance:
    """Which disturbed shadows run beside the exact one.

    Attributes:
      seeds: one for each; none where nothing is measured.
      constants: whether constants that float32 holds rounded, and that could not be recovered, are moved as well.
    """

    seeds: tuple[int, ...] = ()
    constants: bool = False


ROUNDINGS = Disturbance((1, 2))
"""Only results are moved: what float64 itself cannot tell."""

CONSTANTS = Disturbance((1, 2), constants=True)
"""Constants too: what the constants' rounding to float32 explains."""


def disturbed(array: np.ndarray, seed: int) -> np.ndarray:
    """An array in which every rounded entry is moved by ``DISTURBED`` of itself, up or down.

    An entry whose last 20 bits are zero was not rounded (a rounded one is so once in a million): it stays, so that
    exact zeros, whole numbers and ties at them remain. Equal entries are moved alike, so ties remain ties.

    Args:
      array: float64 or complex128, any shape.
      seed: of the directions; they depend on it and on the entry's bits alone.

    Returns:
      The moved array; ``array`` itself is untouched.
    """
    if np.iscomplexobj(array):
        made = np.empty(array.shape, np.complex128)
        made.real, made.imag = disturbed(np.real(array), seed), disturbed(np.imag(array), seed)
        return made
    bits = bits_of(array)
    direction = np.where(coins(array, seed), DISTURBED, -DISTURBED)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array * (1.0 + np.where((bits & np.uint64(0xFFFFF)) == 0, 0.0, direction)))


def disturbed_matrix(array: np.ndarray, seed: int) -> np.ndarray:
    """Matrices in which every entry is moved by ``DISTURBED`` of the largest one, up or down.

    A decomposition is exact for a matrix so far away (backward stability), whatever it makes of its entries: the
    smallest singular value of a matrix of lower rank is that of the rounding.

    Args:
      array: float64 or complex128, ``[..., rows, columns]``; of fewer axes it is left as it is.
      seed: of the directions.

    Returns:
      The moved array; ``array`` itself is untouched.
    """
    if array.ndim < 2 or not array.size or not np.issubdtype(array.dtype, np.inexact):
        return array
    largest = np.abs(array).max(axis=(-2, -1), keepdims=True)
    signs = np.where(coins(np.ascontiguousarray(np.real(array)), seed), DISTURBED, -DISTURBED)
    return np.asarray(array + signs * largest, array.dtype)


_FORMATS = {
    "float64": (2.0**-52, 2.0**-1022),
    "float32": (2.0**-23, 2.0**-126),
    "float16": (2.0**-10, 2.0**-14),
    "bfloat16": (2.0**-7, 2.0**-126),
}


def unit(dtype: str, scale: float) -> float:
    """One rounding unit of a dtype at a scale; at least its smallest normal number, below which XLA has zero."""
    eps, tiny = _FORMATS.get(dtype, _FORMATS["float32"])
    return max(eps * scale, tiny)
