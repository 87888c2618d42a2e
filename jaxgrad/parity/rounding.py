"""What rounding may do to a value: its unit is eps times the scale of the operands, never of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxgrad.parity.fingerprints import EXTREME
from jaxgrad.parity.tape import Value

SHADOW_UNITS = 2.0**12
"""How many float64 rounding units two evaluations of the same mathematics may be apart: 2**-40 of the scale.

Measured on forward and backward passes of correct GPT-2, BERT and ResNet twins: 1e-14 of the scale, some 50 units. A
gelu by tanh for an exact one stands at 1e9 units and more. The factor of 80 above what was measured is room for deeper
models.
"""

MOST_NOISE = 1e-5
"""So much of its scale may rounded constants move a value; beyond it the program amplifies rounding beyond use.

Half a float32 unit is 6e-8 of one constant; the room above it is for many of them and for growth on the way.
"""

CANCELLED = 2.0**-10
"""A value this much smaller than what it was added up from still carries the rounding of that: its scale stays."""

_EPS64 = 2.0**-52


class Operand(NamedTuple):
    """An input of an operation: its number of entries, its largest entry in size, its own scale."""

    size: int
    largest: float
    scale: float

    @classmethod
    def of(cls, value: Value) -> Operand | None:
        """The operand that a value is; None if it is not floating, or a mask's stand-in for infinity."""
        found = value.summary.fingerprint
        if found is None or (not value.live and found.largest >= EXTREME):
            return None
        return cls(found.size, found.largest, value.summary.scale)

    @property
    def cancelled(self) -> float:
        """The scale, where most of what was added up cancelled (all of it, for a zero); else the largest entry."""
        return self.scale if self.largest <= CANCELLED * self.scale else self.largest


def operand_scale(kind: str, operands: Sequence[Operand], largest: float, size: int) -> float:
    """The scale of the numbers that an operation adds up in one entry of its result; overestimated rather than under.

    Args:
      kind: ``"add"``, ``"multiply"``, ``"sum"``, ``"dot"``, ``"move"`` (entries are moved or chosen), ``"first"``
        (a mean, or what else has the scale of its first operand) or ``"other"``.
      operands: the floating inputs.
      largest: the largest entry of the result in size.
      size: its number of entries.

    Returns:
      At least ``largest``.
    """
    if not operands or kind == "other":
        return largest
    if kind == "multiply":
        scale = math.prod(operand.cancelled for operand in operands[:2])
    elif kind in ("add", "move"):
        scale = max(operand.cancelled for operand in operands)
    elif kind == "first":
        scale = operands[0].cancelled
    elif kind == "sum":
        scale = operands[0].cancelled * max(1.0, operands[0].size / max(size, 1))
    else:  # "dot": the last two operands are multiplied, and so many products are added
        a, b = operands[-2:] if len(operands) > 1 else (operands[0], operands[0])
        terms = math.sqrt(a.size * b.size / max(size, 1))
        scale = max(1.0, terms) * a.cancelled * b.cancelled
        scale = max(scale, *(operand.cancelled for operand in operands[:-2]), 0.0)
    return max(largest, scale) if math.isfinite(scale) else largest


def shadow_distance(scale: float, noise: float = 0.0) -> float:
    """How far apart the float64 shadows of one quantity may be on two sides."""
    return SHADOW_UNITS * _EPS64 * scale + min(8 * noise, MOST_NOISE * scale)


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
