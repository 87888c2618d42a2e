"""The number that somebody wrote, from the float32 that became of it.

A literal in a JAX computation, and a small tensor made in a torch forward, is already rounded: ``sqrt(0.5)`` or
``1e-12`` stand there 1e-9 to 1e-8 off. Where only one simple number rounds to it, that one was meant.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.fingerprints import bag, coins

MOST = 4096
"""A constant with more entries is a table, not something that somebody wrote: it is left as it is."""


def recover(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """The float64 numbers that a constant stands for.

    Args:
      array: any shape; a constant of float64 was never rounded, and is exact as it is.

    Returns:
      The array in float64 (complex128 for a complex one), and whether every entry is certain: exact as it is (a few
      bits suffice for it), a decimal of at most six digits, or a simple closed form. Of two bytes, which hold two or
      three digits, no entry but one of a few bits is certain.

    >>> recovered, certain = recover(np.float32(0.7978845608))
    >>> float(recovered) == math.sqrt(2 / math.pi), certain
    (True, True)
    """
    array = np.asarray(array)
    if np.iscomplexobj(array):
        real, imaginary = recover(np.real(array)), recover(np.imag(array))
        return real[0] + 1j * imaginary[0], real[1] and imaginary[1]
    wide = np.asarray(array, np.float64)
    if array.dtype == np.float64:
        return wide, True
    if np.unique(wide.ravel()[: 2 * MOST]).size > MOST:  # and no need to look at all of them
        return wide, bool(_has_few_bits(wide, np.float32).all())
    distinct, place = np.unique(wide, return_inverse=True)
    if distinct.size > MOST:
        return wide, bool(_has_few_bits(distinct, np.float32).all())
    if array.dtype != np.float32:
        short = np.asarray([_shortest_decimal(float(entry), array.dtype) for entry in distinct])
        return short[place].reshape(wide.shape), bool(_has_few_bits(distinct, array.dtype).all())
    found = [_recover_one(float(entry)) for entry in distinct]
    if not all(certain for _, certain in found):  # a table: what looks simple in it is so by chance
        return wide, False
    numbers = np.asarray([number for number, _ in found], np.float64)
    return numbers[place].reshape(wide.shape), True


def _shortest_decimal(number: float, dtype: np.dtype) -> float:
    """The number of fewest digits that a dtype of two bytes rounds to this one."""
    if not math.isfinite(number):
        return number
    shortest = (float(f"{number:.{digits}e}") for digits in range(6))
    return next((each for each in shortest if float(np.asarray(each).astype(dtype)) == number), number)


def moved_constant(array: np.ndarray, dtype: Any, seed: int) -> np.ndarray:
    """A constant moved by a quarter of a unit of its dtype, up or down, where it is no round number.

    It is at most half a unit from what was meant, and the leeway is 16 times what the move does: eight such errors.

    Args:
      array: float64 or complex128.
      dtype: in which it was held, a floating or a complex one.
      seed: of the directions, which are the same for equal entries.
    """
    if np.iscomplexobj(array):
        part = np.float32 if np.dtype(dtype) == np.complex64 else np.float64
        return moved_constant(np.real(array), part, seed) + 1j * moved_constant(np.imag(array), part, seed + 1)
    array = np.asarray(array, np.float64)
    if dtype == np.float64:  # was never rounded
        return array
    fixed = _has_few_bits(array, dtype) | (np.abs(array) > 1e30)
    direction = np.where(coins(array, seed), 0.25, -0.25) * float(jnp.finfo(dtype).eps)
    return np.where(fixed, array, array * (1 + direction))


def _has_few_bits(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Which entries are so round that they were never rounded: small integers, halves; infinity, too.

    Of float32's 24 bits 16 are enough by chance once in 256; of two bytes' 8 or 11, 4 are, once in 16 or 128.
    """
    bits = 2.0 ** (16 if jnp.finfo(dtype).bits > 16 else 4)
    mantissa = np.frexp(array)[0] * bits
    return (mantissa == np.round(mantissa)) | ~np.isfinite(array)


class KnownConstants:
    """What the constants of one side stand for: the other side's that round to the same are the same constants.

    A float32 program holds ``sqrt(0.5)`` and ``0.70710678`` as one number: one constant, whichever was written.
    """

    def __init__(self) -> None:
        self._scalars: dict[str, dict[float, set[float]]] = {"float32": {}, "float16": {}, "bfloat16": {}}
        self._tables: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, own: np.ndarray, wide: np.ndarray) -> None:
        """Note a constant: as it is held, and the float64 numbers it stands for, in the same places."""
        if own.size == 1:
            self.add_scalar(float(wide.flat[0]))
        elif own.size:
            self._tables.setdefault(own.size, []).append((own, wide))

    def add_scalar(self, number: float) -> None:
        """Note a number, with each dtype's rounding of it."""
        for name, rounded in self._scalars.items():
            with np.errstate(over="ignore"):
                key = float(np.asarray(abs(number)).astype(jnp.dtype(name)))
            rounded.setdefault(key, set()).add(abs(number))

    def meant(self, own: np.ndarray) -> np.ndarray | None:
        """The float64 numbers that a constant of the other side stands for; None if it is none of these.

        Args:
          own: real, as the other side holds it.
        """
        if own.size == 1:
            number = float(own.flat[0])
            found = self._scalars.get(str(own.dtype), {}).get(abs(number), ())
            return np.full(own.shape, math.copysign(next(iter(found)), number)) if len(found) == 1 else None
        for held, wide in self._tables.get(own.size, ()):
            if held.dtype == own.dtype and bag(held) == bag(own):
                order = np.argsort(held, axis=None)
                place = np.searchsorted(held.ravel()[order].astype(np.float64), own.ravel().astype(np.float64))
                return wide.ravel()[order][place].reshape(own.shape)
        return None


@cache
def _recover_one(number: float) -> tuple[float, bool]:
    if _has_few_bits(np.asarray(number), np.float32):
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
