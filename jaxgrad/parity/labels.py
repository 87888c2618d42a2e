"""Entries that are the same quantity on both sides, told by their gradients: where the entries themselves say nothing.

Of biases that are all zero, of leaves that begin equal, of sums with zeros, the numbers do not show which is which. The
gradients do: a loss that reads two entries only through their sum has the same gradient for each of them and for the
sum, and what is read at two places has two gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ROUNDED = 2.0**-23
"""So far, relative to what was added, a sum may be off that was made in float32: an ulp."""


class Entries(NamedTuple):
    """The entries of one side, laid end to end: ``[n]`` each.

    Attributes:
      values: in float64.
      slopes: their gradients.
      distances: how far each gradient may be from the truth.
    """

    values: np.ndarray
    slopes: np.ndarray
    distances: np.ndarray


class Labels(NamedTuple):
    """Which entries belong together: those with one label.

    Attributes:
      ours: of torch's entries, ``[n]``; -1 for one without a counterpart.
      theirs: of JAX's entries, ``[m]``; likewise.
      certain: whether no other labels are possible: each has a gradient that is not zero, and one entry on one side.
    """

    ours: np.ndarray
    theirs: np.ndarray
    certain: bool


def label(ours: Entries, theirs: Entries) -> Labels:
    """Give entries with the same gradient one label, if their values fit: as many equal ones, or equal sums.

    Args:
      ours: torch's.
      theirs: JAX's.

    Returns:
      The labels, counted from 0.
    """
    n = ours.values.size
    values, slopes, distances = (np.concatenate(both) for both in zip(ours, theirs, strict=True))
    on_jax = np.arange(values.size) >= n
    silent = np.abs(slopes) <= distances
    found = np.full(values.size, -1)
    loud = np.flatnonzero(~silent)
    loud = loud[np.argsort(slopes[loud], kind="stable")]
    apart = np.diff(slopes[loud]) > np.maximum(distances[loud][1:], distances[loud][:-1])
    cluster = np.concatenate([[0], np.cumsum(apart)]) if loud.size else loud
    used, certain = _loud(found, loud, cluster, values, on_jax)
    certain &= _silent(found, np.flatnonzero(silent), values, on_jax, used)
    return Labels(found[:n], found[n:], certain)


def _loud(
    found: np.ndarray, loud: np.ndarray, cluster: np.ndarray, values: np.ndarray, on_jax: np.ndarray
) -> tuple[int, bool]:
    """Label what has a gradient; returns how many labels were used, and whether that was certain."""
    if not loud.size:
        return 0, True
    count = int(cluster[-1]) + 1
    theirs = on_jax[loud]
    counts = [np.bincount(cluster, weights=theirs == side, minlength=count) for side in (False, True)]
    sums = [np.bincount(cluster, weights=values[loud] * (theirs == side), minlength=count) for side in (False, True)]
    size = np.bincount(cluster, weights=np.abs(values[loud]), minlength=count)
    fits = (counts[0] > 0) & (counts[1] > 0) & (np.abs(sums[0] - sums[1]) <= ROUNDED * size)
    alone = fits & (counts[0] == 1) & (counts[1] == 1)
    fits &= ~alone | (sums[0] == sums[1])
    found[loud] = np.where(fits[cluster], cluster, -1)
    # As many on both sides: each with its equal.
    several = (counts[0] == counts[1]) & (counts[0] > 1)
    starts = np.searchsorted(cluster, np.arange(count + 1))
    for number in np.flatnonzero(several):
        members = loud[starts[number] : starts[number + 1]]
        one, other = (members[on_jax[members] == side] for side in (False, True))
        one, other = (each[np.argsort(values[each], kind="stable")] for each in (one, other))
        if np.array_equal(values[one], values[other]):
            found[one] = found[other] = np.concatenate([[number], count + np.arange(one.size - 1)])
            count += one.size - 1
    return count, not (np.minimum(*counts) > 1).any()


def _silent(found: np.ndarray, silent: np.ndarray, values: np.ndarray, on_jax: np.ndarray, used: int) -> bool:
    """Label what has none, by its values, in order; returns whether that was certain."""
    numbers, which = np.unique(values[silent], return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(numbers.size + 1))
    certain = True
    for number, value in enumerate(numbers):
        members = silent[order[starts[number] : starts[number + 1]]]
        one, other = members[~on_jax[members]], members[on_jax[members]]
        both = min(one.size, other.size)
        found[one[:both]] = found[other[:both]] = used + np.arange(both)
        used += both
        certain &= one.size == other.size == 1
        if value == 0:  # a zero that is left over may be an addend
            rest = np.concatenate([one[both:], other[both:]])
            found[rest] = used + np.arange(rest.size)
            used += rest.size
    return certain
