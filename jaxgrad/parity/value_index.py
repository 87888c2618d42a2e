"""The values of a tape by their size and the size of a typical entry, so that those with given entries are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from jaxgrad.parity.fingerprints import Fingerprint, Stack, agree
from jaxgrad.parity.rounding import ALIKE, LEEWAY, MOST_NOISE, shadow_distance
from jaxgrad.parity.tape import Tape, Value


def reach_of(value: Value) -> float:
    """How far from a value another one may be that is the same; noise beyond use is not taken for leeway."""
    found = value.summary.fingerprint
    assert found is not None
    return shadow_distance(found.largest, min(value.summary.noise, MOST_NOISE / LEEWAY * found.largest))


def same_value(a: Value, b: Value) -> bool:
    """Whether two values have the same entries in some order, as far as float64 can tell."""
    first, second = a.summary.fingerprint, b.summary.fingerprint
    return first is not None and second is not None and agree(first, second, max(reach_of(a), reach_of(b)))


class _Rows:
    """Values of one size, sorted by the size of a typical entry."""

    def __init__(self, values: list[Value]):
        rows = sorted((_fingerprint(value).root_mean_square, value.index, value) for value in values)
        self._keys = np.asarray([key for key, *_ in rows])
        self._indices = np.asarray([index for _, index, _ in rows])
        self._stack = Stack([_fingerprint(value) for *_, value in rows])
        self._reaches = np.asarray([reach_of(value) for *_, value in rows])
        self.widest = float(self._reaches.max())

    def same(self, value: Value, reach: float) -> list[tuple[float, int]]:
        """The values with the same entries, each with how far off it is.

        Args:
          value: whose entries are looked for.
          reach: how far the size of a typical entry may be off.
        """
        found = _fingerprint(value)
        key = found.root_mean_square
        reach += 1e-12 * key
        start, end = np.searchsorted(self._keys, key - reach), np.searchsorted(self._keys, key + reach, "right")
        if start == end:
            return []
        rows = slice(int(start), int(end))
        agreeing = self._stack.agree(found, rows, np.maximum(self._reaches[rows], reach_of(value)))
        off = np.abs(self._keys[rows] - key)
        return list(zip(off[agreeing].tolist(), self._indices[rows][agreeing].tolist(), strict=True))


class ValueIndex:
    """Finds the values of a tape that have given entries.

    Args:
      tape: the tape.
      takes: which of its values take part; all have a fingerprint.
    """

    def __init__(self, tape: Tape, takes: Callable[[Value], bool]):
        # Those that may be far from where they are looked up are kept apart: for them the others need not be looked at.
        rows: dict[tuple[int, bool], list[Value]] = {}
        for value in tape.values:
            if takes(value):
                noisy = reach_of(value) > 2 * ALIKE * _fingerprint(value).largest
                rows.setdefault((value.size, noisy), []).append(value)
        self._rows = {key: _Rows(values) for key, values in rows.items()}
        self._sizes = {size for size, _ in rows}

    def same(self, value: Value) -> Iterator[int]:
        """The values that have the same entries, those of the same size first, of these the nearest first."""
        largest = _fingerprint(value).largest
        near = max(reach_of(value), 2 * ALIKE * largest)
        sizes = [size for size in self._sizes if not max(size, value.size) % min(size, value.size)]
        for size in sorted(sizes, key=lambda size: (size != value.size, size)):
            found: list[tuple[float, int]] = []
            for noisy in (False, True):
                rows = self._rows.get((size, noisy))
                if rows is not None:  # entries that move by a distance move their root mean square by no more
                    found += rows.same(value, max(near, rows.widest) if noisy else near)
            yield from (index for _, index in sorted(found))


def _fingerprint(value: Value) -> Fingerprint:
    found = value.summary.fingerprint
    assert found is not None
    return found
