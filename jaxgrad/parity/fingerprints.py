"""What is kept of a value: numbers that do not depend on the order of its entries, so that layouts do not matter.

Two values that are the same up to a permutation of entries (transposed, NHWC for NCHW, reshaped, heads split) have
the same fingerprint. It is made in a few passes over the entries, so the cost is linear and the array can be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

FEW = 64
"""Up to so many entries, they are all kept, sorted, and held against each other one by one."""


BLOCK = 8192
"""So many entries are worked on at a time: they stay in cache, and a product of so few is not spread over threads."""

EXTREME, GAP = 1e8, 1e3
"""From here on an entry stands for infinity (the -1e9 or -3.4e38 of a mask), if all others are so much smaller."""


TINY = 1e-60
"""Of arrays whose largest entry is between this and ``EXTREME``, fourth powers neither overflow nor vanish."""


class Fingerprint(NamedTuple):
    """The order-free numbers of an array of float64.

    Attributes:
      size: how many entries.
      unusual: how many of them are NaN, plus and minus infinity.
      extreme: the count, the smallest and the largest of the entries that stand for infinity beside ordinary ones.
      low: the smallest ordinary entry; 0 if there is none.
      high: the largest.
      moments: the mean of ``x``, ``|x|``, ``x**2``, ``x**3`` and ``x**4`` over the ordinary entries, ``[5]`` float64,
        for ``x`` divided by ``largest`` (so that nothing overflows).
      entries: all ordinary entries, sorted, of an array that has few; else empty.
    """

    size: int
    unusual: tuple[int, int, int]
    extreme: tuple[int, float, float]
    low: float
    high: float
    moments: np.ndarray
    entries: np.ndarray

    @property
    def largest(self) -> float:
        """The largest absolute value of an ordinary entry."""
        return max(-self.low, self.high)

    @property
    def root_mean_square(self) -> float:
        """The size of a typical entry; the key by which equal values are looked up."""
        return float(np.sqrt(self.moments[2])) * self.largest

    @property
    def constant(self) -> bool:
        """Whether all entries are the same number."""
        return self.low == self.high and not any(self.unusual) and not self.extreme[0]


def fingerprint(array: np.ndarray) -> Fingerprint:
    """The fingerprint of an array of any real dtype; computed in float64.

    >>> a = np.arange(6.0).reshape(2, 3)
    >>> agree(fingerprint(a), fingerprint(a.T), 0.0), agree(fingerprint(a), fingerprint(a + 1), 0.5)
    (True, False)
    """
    x = np.asarray(array, np.float64).ravel("K")  # in the order of memory: any order will do
    size, unusual, extreme = x.size, (0, 0, 0), (0, 0.0, 0.0)
    low, high, sums = _one_pass(x)
    if TINY < max(-low, high) < EXTREME and low != high:
        moments = sums / size / max(-low, high) ** _POWERS
        return Fingerprint(size, unusual, extreme, low, high, moments, np.sort(x) if size <= FEW else _NONE)
    if not (np.isfinite(low) and np.isfinite(high)):
        unusual = (int(np.isnan(x).sum()), int(np.isposinf(x).sum()), int(np.isneginf(x).sum()))
        x = x[np.isfinite(x)]
        low, high = _span(x)
    if max(-low, high) >= EXTREME:
        sizes = np.abs(x)
        ordinary = sizes < EXTREME
        if ordinary.any() and sizes[ordinary].max() * GAP <= sizes.min(where=~ordinary, initial=np.inf):
            far = x[~ordinary]
            extreme = (far.size, *_span(far))
            x = x[ordinary]
            low, high = _span(x)
    return Fingerprint(
        size, unusual, extreme, low, high, _moments(x, low, high), np.sort(x) if x.size <= FEW else _NONE
    )


_NONE, _ONES = np.zeros(0), np.ones(BLOCK)
_POWERS = np.asarray([1.0, 1.0, 2.0, 3.0, 4.0])


def _span(x: np.ndarray) -> tuple[float, float]:
    return (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)


def _one_pass(x: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The smallest and the largest entry, and the sums that are the moments, not yet scaled; NaN where there is one."""
    low, high, sums = np.inf, -np.inf, np.zeros(5)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.size, BLOCK):
            y = x[start : start + BLOCK]
            square = y * y
            low, high = np.minimum(low, y.min()), np.maximum(high, y.max())
            ones = _ONES[: y.size]
            sums += (
                np.dot(y, ones),
                np.dot(np.abs(y), ones),
                np.dot(y, y),
                np.dot(square, y),
                np.dot(square, square),
            )
    return (float(low), float(high), sums) if x.size else (0.0, 0.0, sums)


def _moments(x: np.ndarray, low: float, high: float) -> np.ndarray:
    largest = max(-low, high)
    if not x.size or largest == 0:
        return np.zeros(5)
    if low == high:
        return np.asarray([np.sign(low), 1, 1, np.sign(low), 1], np.float64)
    _, _, sums = _one_pass(x / largest)
    return sums / x.size


_SLOPES = _POWERS  # how far each moment may move when every entry, at most 1 in size, moves by d: d times this


def agree(a: Fingerprint, b: Fingerprint, distance: float) -> bool:
    """Whether two fingerprints can be those of the same entries, each moved by at most ``distance``.

    One of the two may hold every entry several times: a value that was broadcast has the same entries.
    """
    times, rest = divmod(max(a.size, b.size), max(min(a.size, b.size), 1))
    if rest or not a.size or not b.size:
        return a.size == b.size
    small, big = (a, b) if a.size <= b.size else (b, a)
    if any(
        times * n != m for n, m in zip((*small.unusual, small.extreme[0]), (*big.unusual, big.extreme[0]), strict=True)
    ):
        return False
    if any(abs(n - m) > 1e-12 * abs(n) for n, m in zip(a.extreme[1:], b.extreme[1:], strict=True)):
        return False
    low, high = np.asarray([b.low]), np.asarray([b.high])
    rows = _Rows(b.size, low, high, b.moments[None], b.entries[None])
    return bool(_ordinary_agree(a, rows, np.asarray([distance]))[0])


class _Rows(NamedTuple):
    """The ordinary entries of several values of one size: the fields of their fingerprints, one row for each."""

    size: int
    low: np.ndarray
    high: np.ndarray
    moments: np.ndarray
    entries: np.ndarray  # [rows, 0] where they are not kept

    def of(self, rows: slice) -> _Rows:
        return _Rows(self.size, *(each[rows] for each in self[1:]))


def _ordinary_agree(a: Fingerprint, rows: _Rows, distances: np.ndarray) -> np.ndarray:
    """Whether the ordinary entries of each row can be those of a value, each moved by at most the row's distance."""
    same = (np.abs(rows.low - a.low) <= distances) & (np.abs(rows.high - a.high) <= distances)
    if a.entries.size and rows.entries.size:
        ours = np.repeat(a.entries, max(rows.size // a.size, 1))
        theirs = np.repeat(rows.entries, max(a.size // rows.size, 1), axis=1)
        return same & (np.abs(theirs - ours) <= distances[:, None]).all(1)
    sizes = np.maximum(-rows.low, rows.high)
    largest = np.maximum(sizes, a.largest)
    # Both to one scale; summing n terms itself rounds, by far less than the distance asked for.
    scale = np.where(largest > 0, largest, 1.0)
    ours, theirs = (_rescaled(*each) for each in ((a.moments, a.largest / scale), (rows.moments, sizes / scale)))
    close = (np.abs(ours - theirs) <= (distances / scale + 1e-15)[:, None] * _SLOPES).all(1)
    return same & (close | (largest <= distances))


class Stack:
    """Fingerprints of one size, to be held against another one all at once.

    Args:
      fingerprints: at least one.
    """

    def __init__(self, fingerprints: Sequence[Fingerprint]):
        self._each = fingerprints
        self._plain = np.asarray([_is_plain(each) for each in fingerprints])
        low, high = (np.asarray(each) for each in zip(*((each.low, each.high) for each in fingerprints), strict=True))
        moments = np.stack([each.moments for each in fingerprints])
        whole = fingerprints[0].size <= FEW and self._plain.all()
        entries = np.stack([each.entries for each in fingerprints]) if whole else np.zeros((len(fingerprints), 0))
        self._rows = _Rows(fingerprints[0].size, low, high, moments, entries)

    def agree(self, a: Fingerprint, rows: slice, distances: np.ndarray) -> np.ndarray:
        """``agree`` with each of some rows.

        Args:
          a: a fingerprint, of this or another size.
          rows: which ones.
          distances: how far entries may have moved, one for each row.

        Returns:
          The answers, bool, one for each row.
        """
        size = self._rows.size
        if not (_is_plain(a) and self._plain[rows].all() and a.size and size) or max(a.size, size) % min(a.size, size):
            pairs = zip(self._each[rows], distances, strict=True)
            return np.asarray([agree(a, each, float(distance)) for each, distance in pairs], bool)
        return _ordinary_agree(a, self._rows.of(rows), distances)


def _is_plain(found: Fingerprint) -> bool:
    return not any(found.unusual) and not found.extreme[0]


def _rescaled(moments: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Moments ``[..., 5]`` at another scale, one for each."""
    return moments * np.asarray(ratios)[..., None] ** _POWERS


def separation(a: Fingerprint, b: Fingerprint) -> float:
    """How far two values of one size are apart at least, relative to the larger: 0 for the same entries."""
    largest = max(a.largest, b.largest)
    if a.size != b.size or largest == 0:
        return 0.0 if a.size == b.size else float("inf")
    if a.entries.size and a.entries.size == b.entries.size:
        return float(np.abs(a.entries - b.entries).max()) / largest
    ours, theirs = (_rescaled(each.moments, np.asarray(each.largest / largest)) for each in (a, b))
    moved = np.abs(ours - theirs) / _SLOPES
    return float(max(moved.max(), abs(a.low - b.low) / largest, abs(a.high - b.high) / largest))


def _in_blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two arrays of one shape piece by piece, in the order of memory where that is the same."""
    alike = a.flags.c_contiguous == b.flags.c_contiguous and a.flags.f_contiguous == b.flags.f_contiguous
    if not a.ndim or (alike and (a.flags.c_contiguous or a.flags.f_contiguous)):
        a, b = a.ravel("K"), b.ravel("K")
    rows = max(1, BLOCK * len(a) // max(a.size, 1))
    for start in range(0, len(a), rows):
        yield a[start : start + rows], b[start : start + rows]


def farthest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance between two entries in one place, of arrays of one shape; NaN where there is one."""
    worst = 0.0
    for ours, theirs in _in_blocks(a, b):
        worst = np.maximum(worst, np.abs(ours - theirs).max(initial=0.0))  # which is NaN once one is
    return float(worst)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same shape and entries; as ``np.array_equal``, which looks at all of them first."""
    return a.shape == b.shape and all(bool((ours == theirs).all()) for ours, theirs in _in_blocks(a, b))


def own_error(own: np.ndarray, shadow: np.ndarray) -> tuple[float, bool]:
    """How far a program's own entries are from the shadow's, and whether some are not finite where the shadow's are.

    Args:
      own: in the program's own precision.
      shadow: float64, the same shape.

    Returns:
      The largest distance between finite entries, and whether finite entries were lost.
    """
    if not own.size:
        return 0.0, False
    with np.errstate(invalid="ignore", over="ignore"):
        worst = farthest(own, shadow)
        if np.isfinite(worst):
            return worst, False
        distance = np.abs(own - shadow)
    lost = bool((np.isfinite(shadow) & ~np.isfinite(own)).any())
    return float(np.max(distance, where=np.isfinite(distance), initial=0.0)), lost


def noise_between(exact: np.ndarray, moved: np.ndarray, largest: float) -> float:
    """The largest distance between a shadow and a disturbed one of the same shape, over the ordinary entries.

    Args:
      exact: the shadow.
      moved: the disturbed one.
      largest: the ``largest`` of the shadow's fingerprint; what is above it stands for infinity.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(exact - moved)
    # What stands for infinity in a mask moves by more than all that it is added to.
    return float(np.max(apart, where=np.isfinite(apart) & (np.abs(exact) <= largest), initial=0.0))


def bits_of(array: np.ndarray) -> np.ndarray:
    """The bits of each entry, as float64 has them, in the same shape."""
    return np.array(array, np.float64, order="C", ndmin=1).view(np.uint64).reshape(np.shape(array))


def coins(array: np.ndarray, seed: int) -> np.ndarray:
    """A coin for each entry, the same for equal entries; another one for another seed. Mixed as SplitMix64 does."""
    with np.errstate(over="ignore"):
        mixed = bits_of(array) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(63)).astype(bool)


def bag(array: np.ndarray) -> tuple[int, int, int]:
    """The entries of an array in any order, as a key: equal for the same entries, in linear time.

    The entries' bits are mixed and added up, with constants of the SplitMix64 generator.
    """
    flat = np.asarray(array, np.float64).reshape(-1)
    first = second = 0
    with np.errstate(over="ignore"):
        for start in range(0, flat.size, BLOCK):
            bits = (flat[start : start + BLOCK] + 0.0).view(np.uint64)  # + 0.0 makes -0 the same as 0
            bits += np.uint64(0x9E3779B97F4A7C15)
            bits ^= bits >> np.uint64(30)  # a float32 made wider has its bits on top, where a product leaves them
            bits *= np.uint64(0xBF58476D1CE4E5B9)
            bits ^= bits >> np.uint64(27)
            first += int(bits.sum())
            bits *= bits
            second += int(bits.sum())
    return flat.size, first % 2**64, second % 2**64


class Tables:
    """Arrays that others may be held against: the same entries in any order. Of complex ones, both parts."""

    def __init__(self, arrays: Iterable[np.ndarray] = ()):
        self._by_size: dict[int, list[np.ndarray]] = {}
        for array in arrays:
            whole = np.asarray(array)
            for part in (np.real(whole), np.imag(whole)) if np.iscomplexobj(whole) else (whole,):
                self._by_size.setdefault(part.size, []).append(part)

    def hold(self, array: np.ndarray) -> bool:
        """Whether one of them has these entries."""
        alike = self._by_size.get(array.size)
        return bool(alike) and bag(array) in set(map(bag, alike))
