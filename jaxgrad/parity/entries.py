"""Which entry of a parameter is which entry elsewhere, where leaves are cut or joined otherwise.

One kernel for query, key and value; layers stacked for a scan; a cell whose two biases are one, or whose gates are
leaves of their own: entry by entry each holds a number that the other side holds too, or the sum of two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Leaves = Mapping[str, np.ndarray]

SHARED = 1 / 64
"""Leaves that share so much of the smaller one have to do with each other: stacks of up to so many layers do."""

CHANCE = 0.3 * 2.0**-23
"""By chance an entry is among n others with n times this, in float32, for normal and uniform weights (the density of
numbers at x times the ulp of x, at most 0.25 * 2**-23, with some room). Leaves that meet by chance share a group only:
their entries are found there as well."""

SAMPLE = 256
"""So many entries of a leaf are looked up to see whether it has to do with another."""


@dataclass(frozen=True)
class EntryMap:
    """Which entries of some torch leaves, laid end to end, and of some JAX leaves belong together.

    Entries with one label hold one quantity: one entry on each side; or one entry on the one side that is the sum of
    several on the other.

    Attributes:
      torch: the names of the leaves, in this order.
      jax: the paths, in this order.
      ours: the label of each torch entry, ``[n]``; labels count from 0.
      theirs: the label of each JAX entry, ``[m]``.
    """

    torch: tuple[str, ...]
    jax: tuple[str, ...]
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def labels(self) -> int:
        """How many quantities there are."""
        return 1 + int(max(self.ours.max(initial=-1), self.theirs.max(initial=-1)))

    @property
    def added(self) -> bool:
        """Whether some entry is a sum."""
        return not self.ours.size == self.theirs.size == self.labels

    def sums(self, torch: Leaves, jax: Leaves) -> dict[str, np.ndarray]:
        """The JAX leaves in float64, where they hold sums: in float32 those are already rounded."""
        return self.carried(torch, jax) if self.added else {}

    def carried(self, torch: Leaves, jax: Leaves, *, gradients: bool = False) -> dict[str, np.ndarray]:
        """Torch's arrays as JAX's leaves hold them.

        Args:
          torch: values or gradients, float64, by name.
          jax: JAX's leaves: their shapes; and of parts whose sum torch holds, how they are apart, which stays.
          gradients: that of a sum is the gradient of each addend, while values are added up.

        Returns:
          By path, float64.
        """
        ours = _flat(torch, self.torch)
        if not self.added:
            found = np.empty(ours.size)
            found[self.ours] = ours
            whole = found[self.theirs]
        else:
            total = np.bincount(self.ours, ours, self.labels)
            if gradients:
                whole = (total / np.maximum(np.bincount(self.ours, minlength=self.labels), 1))[self.theirs]
            else:
                given = _flat(jax, self.jax)
                parts = np.bincount(self.theirs, minlength=self.labels)
                lacking = total - np.bincount(self.theirs, given, self.labels)
                whole = np.where(
                    parts[self.theirs] == 1, total[self.theirs], given + (lacking / np.maximum(parts, 1))[self.theirs]
                )
                held = np.bincount(self.ours, minlength=self.labels) > 0
                whole = np.where(held[self.theirs], whole, given)  # what torch does not have stays as it is
        return _cut(whole, jax, self.jax)

    def apart(self, torch: Leaves, torch_slopes: Leaves, jax: Leaves, jax_slopes: Leaves) -> float:
        """The largest distance between the gradients of entries that belong together.

        Args:
          torch: the parameters.
          torch_slopes: their gradients.
          jax: the parameters of the other side.
          jax_slopes: their gradients; that of a sum is the gradient of each addend; that of an entry which the other
            side does not have is zero.
        """
        ours, theirs = _flat(torch_slopes, self.torch), _flat(jax_slopes, self.jax)
        if not self.added:  # entries that are equal may stand in any order
            one = ours[np.lexsort((ours, _flat(torch, self.torch)))]
            other = theirs[np.lexsort((theirs, _flat(jax, self.jax)))]
            return float(np.abs(one - other).max(initial=0.0))
        low, high = np.full(self.labels, np.inf), np.full(self.labels, -np.inf)
        for labels, slopes in ((self.ours, ours), (self.theirs, theirs)):
            np.minimum.at(low, labels, slopes)
            np.maximum.at(high, labels, slopes)
        shared = np.isin(np.arange(self.labels), self.ours) & np.isin(np.arange(self.labels), self.theirs)
        low, high = np.where(shared, low, np.minimum(low, 0.0)), np.where(shared, high, np.maximum(high, 0.0))
        return float(np.max(high - low, initial=0.0))

    def moved_apart(self, torch: Leaves, torch_moves: Leaves, jax: Leaves, jax_moves: Leaves) -> float:
        """As ``apart``, for how far entries were moved: a sum moves by what its addends move together."""
        if not self.added:
            return self.apart(torch, torch_moves, jax, jax_moves)
        ours = np.bincount(self.ours, _flat(torch_moves, self.torch), self.labels)
        theirs = np.bincount(self.theirs, _flat(jax_moves, self.jax), self.labels)
        return float(np.abs(ours - theirs).max(initial=0.0))


class _Row(NamedTuple):
    """A leaf's entries in order of size, and a sample of those that tell something: zeros and ones do not."""

    ordered: np.ndarray
    sample: np.ndarray

    @classmethod
    def of(cls, leaf: np.ndarray) -> _Row:
        """The row of a leaf's entries."""
        telling = leaf[(leaf != 0) & (leaf != 1)]
        few = telling.size <= SAMPLE
        chosen = slice(None) if few else np.random.default_rng(0).choice(telling.size, SAMPLE, replace=False)
        return cls(np.sort(leaf, axis=None), telling[chosen])

    def shares(self, other: _Row) -> bool:
        """Whether the smaller of two leaves has so many entries in common with the larger that it is not by chance."""
        small, big = (self, other) if self.ordered.size <= other.ordered.size else (other, self)
        found = int((_look_up(big.ordered, small.sample) >= 0).sum())
        return found > 0 and found >= small.sample.size * (SHARED + CHANCE * big.ordered.size)


def _flat(leaves: Leaves, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([leaves[name].ravel() for name in names])


def _cut(whole: np.ndarray, like: Leaves, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What was laid end to end, in leaves again."""
    ends = np.cumsum([like[name].size for name in names])[:-1]
    return {name: part.reshape(like[name].shape) for name, part in zip(names, np.split(whole, ends), strict=True)}


def related(torch: Leaves, jax: Leaves) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Leaves that have to do with each other: torch names and JAX paths, in groups that share no entries."""
    ours, theirs = ({name: _Row.of(each) for name, each in side.items()} for side in (torch, jax))
    links = [((name,), path) for name, path in itertools.product(torch, jax) if ours[name].shares(theirs[path])]
    for a, b in itertools.combinations(torch, 2):
        if torch[a].shape == torch[b].shape:
            total = _Row.of(_sum(torch[a], torch[b]))
            links += [((a, b), path) for path in jax if total.shares(theirs[path])]
    groups: list[tuple[set[str], set[str]]] = []
    for names, path in links:
        touched = [group for group in groups if group[0] & set(names) or path in group[1]]
        merged = (set(names), {path})
        for group in touched:
            merged[0].update(group[0])
            merged[1].update(group[1])
            groups.remove(group)
        groups.append(merged)
    return [
        (tuple(name for name in torch if name in ours), tuple(path for path in jax if path in theirs))
        for ours, theirs in groups
    ]


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum as a port holds it: rounded to float32."""
    return (a.astype(np.float32) + b.astype(np.float32)).astype(np.float64)


def _look_up(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The places of numbers in a sorted row; -1 for those that do not stand there."""
    place = np.minimum(np.searchsorted(ordered, wanted), ordered.size - 1)
    return np.where(ordered[place] == wanted, place, -1)


def map_entries(torch: Leaves, jax: Leaves) -> EntryMap | None:
    """The map between leaves that hold the same entries, each once, or sums of two.

    Args:
      torch: leaves that have to do with ``jax``, non-empty.
      jax: likewise.

    Returns:
      The map; None if an entry of either side is left over.
    """
    names, paths = tuple(torch), tuple(jax)
    ours, theirs = _flat(torch, names), _flat(jax, paths)
    order = np.argsort(ours, kind="stable")
    if ours.size == theirs.size:
        their_order = np.argsort(theirs, kind="stable")
        if np.array_equal(ours[order], theirs[their_order]):
            first, second = np.empty(ours.size, np.int64), np.empty(ours.size, np.int64)
            first[order] = second[their_order] = np.arange(ours.size)
            return EntryMap(names, paths, first, second)
    first, second = _places(torch, theirs)
    summed = np.flatnonzero(second >= 0)
    used = np.concatenate([first, second[summed]])
    if (first < 0).any() or np.unique(used).size != ours.size or used.size != ours.size:
        return None
    labels = np.empty(ours.size, np.int64)
    labels[first] = np.arange(theirs.size)
    labels[second[summed]] = summed
    return EntryMap(names, paths, labels, np.arange(theirs.size))


def _places(torch: Leaves, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the torch leaves, laid end to end, each number stands, or the two that it is the sum of; else -1."""
    names = tuple(torch)
    ours = _flat(torch, names)
    order = np.argsort(ours, kind="stable")
    place = _look_up(ours[order], wanted)
    first, second = np.where(place >= 0, order[place], -1), np.full(wanted.size, -1)
    starts = dict(zip(names, np.cumsum([0, *(torch[name].size for name in names[:-1])]), strict=True))
    for a, b in itertools.combinations(names, 2):
        if torch[a].shape != torch[b].shape:
            continue
        total = _sum(torch[a], torch[b]).ravel()
        by_size = np.argsort(total, kind="stable")
        missing = np.flatnonzero(first < 0)
        held = _look_up(total[by_size], wanted[missing])
        found, at = missing[held >= 0], by_size[held[held >= 0]]
        first[found], second[found] = starts[a] + at, starts[b] + at
    return first, second


def repeated(torch: Leaves, jax: Leaves) -> bool:
    """Whether the leaves of one side hold each entry of the other's several times, and nothing else."""
    ours, theirs = np.sort(_flat(torch, tuple(torch))), np.sort(_flat(jax, tuple(jax)))
    small, big = (ours, theirs) if ours.size <= theirs.size else (theirs, ours)
    times, rest = divmod(big.size, max(small.size, 1))
    return rest == 0 and times > 1 and np.array_equal(np.repeat(small, times), big)


def strangers(torch: Leaves, jax: Leaves) -> list[str]:
    """The JAX leaves with entries that no torch leaf holds, the one with most of them first."""
    missing = {path: int((_places(torch, each.ravel())[0] < 0).sum()) for path, each in jax.items()}
    return sorted((path for path, count in missing.items() if count), key=lambda path: -missing[path])


def unheld(torch: Leaves, jax: Leaves) -> list[str]:
    """The torch leaves with entries that no JAX leaf holds, alone or in a sum."""
    first, second = _places(torch, _flat(jax, tuple(jax)))
    held = np.zeros(sum(each.size for each in torch.values()), bool)
    held[first[first >= 0]] = held[second[second >= 0]] = True
    ends = np.cumsum([each.size for each in torch.values()])
    return [name for name, part in zip(torch, np.split(held, ends[:-1]), strict=True) if not part.all()]
