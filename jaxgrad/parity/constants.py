"""The number that somebody wrote, from the float32 that became of it.

A literal in a JAX computation, and a small tensor made in a torch forward, is already rounded: ``sqrt(0.5)`` or
``1e-12`` stand there 1e-9 to 1e-8 off. Where only one simple number rounds to it, that one was meant.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

MOST = 4096
"""A constant with more entries is a table, not something that somebody wrote: it is left as it is."""


def recover(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """The float64 numbers that a constant stands for.

    Args:
      array: any shape; float32, or float64 for a constant that was never rounded, which is exact as it is.

    Returns:
      The array in float64, and whether every entry is certain: exact as it is (a few bits suffice for it), a decimal of
      at most six digits, or a simple closed form.

    >>> recovered, certain = recover(np.float32(0.7978845608))
    >>> float(recovered) == math.sqrt(2 / math.pi), certain
    (True, True)
    """
    wide = np.asarray(array, np.float64)
    if np.asarray(array).dtype != np.float32:
        return wide, True
    distinct, place = np.unique(np.asarray(array), return_inverse=True)
    if distinct.size > MOST:
        return wide, _few_bits(distinct)
    found = [_recover_one(float(entry)) for entry in distinct]
    if not all(certain for _, certain in found):  # a table: what looks simple in it is so by chance
        return wide, False
    numbers = np.asarray([number for number, _ in found], np.float64)
    return numbers[place].reshape(wide.shape), True


def moved_constant(array: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
    """A constant moved by half a float32 unit, where it is no round number: what it may have been meant to be.

    Args:
      array: float64.
      random: where the signs come from; None leaves the constant alone.
    """
    if random is None:
        return array
    mantissa = np.frexp(array)[0] * 2.0**16
    round_number = (mantissa == np.round(mantissa)) | (np.abs(array) > 1e30) | ~np.isfinite(array)
    return np.where(round_number, array, array * (1 + 2.0**-24 * random.choice((-1.0, 1.0), np.shape(array))))


def _few_bits(entries: np.ndarray) -> bool:
    """Whether all entries are multiples of a power of two that need at most 16 bits: small integers, halves, ..."""
    mantissa, _ = np.frexp(entries[np.isfinite(entries)].astype(np.float64))
    return bool((mantissa * 2.0**16 == np.round(mantissa * 2.0**16)).all())


@cache
def _recover_one(number: float) -> tuple[float, bool]:
    if not math.isfinite(number) or _few_bits(np.asarray([number])):
        return number, True
    if abs(number) > 1e30:  # a stand-in for infinity, such as the largest float32: what it is exactly does not matter
        return number, True
    shortest = repr(np.float32(number)).removeprefix("np.float32(").removesuffix(")")
    digits = shortest.lstrip("-").split("e")[0].replace(".", "").strip("0")
    if len(digits) <= 6:
        return float(shortest), True
    size = np.float32(abs(number))
    forms = _closed_forms()
    low, high = np.searchsorted(forms, [float(size) * (1 - 2e-7), float(size) * (1 + 2e-7)])
    meant = [float(form) for form in forms[low:high] if np.float32(form) == size]
    if len(meant) == 1:
        return math.copysign(meant[0], number), True
    return number, False


@cache
def _closed_forms() -> np.ndarray:
    """Numbers that programs compute once: small fractions, roots, and what activations are made of, sorted."""
    forms: dict[float, None] = {}  # one spelling of each, to the last few bits
    fractions = {p / q for q in range(1, 257) for p in range(1, 17)}
    fractions |= {1 / q for q in range(1, 4097)}
    roots = {math.sqrt(n) for n in range(1, 4097)} | {1 / math.sqrt(n) for n in range(1, 4097)}
    roots |= {n**-0.25 for n in range(1, 513)} | {math.sqrt(p / q) for p in range(1, 17) for q in range(1, 17)}
    famous = {
        math.pi, math.e, math.log(2), math.log(10), math.log(2 * math.pi), math.log(2 * math.pi) / 2, math.log(10000),
        math.sqrt(2 / math.pi), math.sqrt(2 * math.pi), 1 / math.sqrt(2 * math.pi), 2 / math.sqrt(math.pi),
        math.sqrt(math.pi), math.pi / 2, math.pi / 180, 180 / math.pi, 2 * math.pi, 1 / math.pi, 1 / math.log(2),
        1.6732632423543772848170429916717, 1.0507009873554804934193349852946,
        1.6732632423543772848170429916717 * 1.0507009873554804934193349852946,
        0.044715 * 3, 0.044715 * math.sqrt(2 / math.pi), 0.044715 * 3 * math.sqrt(2 / math.pi),
    }  # fmt: skip
    for form in sorted(fractions | roots | famous):
        if not forms or form - next(reversed(forms)) > 1e-12 * form:
            forms[form] = None
    return np.asarray(list(forms))
