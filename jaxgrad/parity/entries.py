"""Which entry of a parameter is which entry elsewhere, where leaves are cut or joined otherwise.

One kernel for query, key and value; layers stacked for a scan; a cell whose two biases are one, or whose gates are
leaves of their own: entry by entry each holds a number that the other side holds too, or the sum of two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Leaves = Mapping[str, np.ndarray]
SAMPLE = 8
"""So many entries of a leaf are looked up to see whether it has to do with another: float32 numbers meet by chance."""


@dataclass(frozen=True)
class EntryMap:
    """For each entry of some JAX leaves, laid end to end, the torch entries, laid end to end likewise.

    Attributes:
      torch: the names of the leaves, in this order.
      jax: the paths, in this order.
      first: ``[n]``, the place of the torch entry; where a sum is held, of its first addend.
      second: ``[n]``, the place of the second addend; -1 where there is none.
    """

    torch: tuple[str, ...]
    jax: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray

    @property
    def added(self) -> bool:
        """Whether some entry is a sum."""
        return bool((self.second >= 0).any())

    def sums(self, torch: Leaves, jax: Leaves) -> dict[str, np.ndarray]:
        """The JAX leaves in float64, where they hold sums."""
        if not self.added:
            return {}
        ours = _flat(torch, self.torch)
        whole = ours[self.first] + np.where(self.second >= 0, ours[self.second], 0.0)
        ends = np.cumsum([jax[path].size for path in self.jax])[:-1]
        return {path: part.reshape(jax[path].shape) for path, part in zip(self.jax, np.split(whole, ends), strict=True)}

    def apart(self, torch: Leaves, torch_slopes: Leaves, jax: Leaves, jax_slopes: Leaves) -> float:
        """The largest distance between the gradients of entries that belong together.

        Args:
          torch: the parameters.
          torch_slopes: their gradients.
          jax: the parameters of the other side.
          jax_slopes: their gradients; that of a sum is the gradient of each addend.
        """
        ours, theirs = _flat(torch_slopes, self.torch), _flat(jax_slopes, self.jax)
        if not self.added:  # entries that are equal may stand in any order
            one = ours[np.lexsort((ours, _flat(torch, self.torch)))]
            other = theirs[np.lexsort((theirs, _flat(jax, self.jax)))]
            return float(np.abs(one - other).max(initial=0.0))
        distance = np.abs(theirs - ours[self.first])
        second = np.where(self.second >= 0, np.abs(theirs - ours[self.second]), 0.0)
        return float(np.maximum(distance, second).max(initial=0.0))

    def moved_apart(self, torch: Leaves, torch_moves: Leaves, jax: Leaves, jax_moves: Leaves) -> float:
        """As ``apart``, for how far entries were moved: a sum moves by what both addends move."""
        if not self.added:
            return self.apart(torch, torch_moves, jax, jax_moves)
        ours, theirs = _flat(torch_moves, self.torch), _flat(jax_moves, self.jax)
        whole = ours[self.first] + np.where(self.second >= 0, ours[self.second], 0.0)
        return float(np.abs(theirs - whole).max(initial=0.0))


def _flat(leaves: Leaves, names: tuple[str, ...]) -> np.ndarray:
    return np.concatenate([leaves[name].ravel() for name in names])


def related(torch: Leaves, jax: Leaves) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Leaves that have to do with each other: torch names and JAX paths, in groups that share no entries."""
    ordered = {name: np.sort(each, axis=None) for name, each in (*torch.items(), *jax.items())}
    links: list[tuple[tuple[str, ...], str]] = []
    for name, path in itertools.product(torch, jax):
        if _holds(ordered[name], jax[path]) or _holds(ordered[path], torch[name]):
            links.append(((name,), path))
    linked = {path for _, path in links}
    for a, b in itertools.combinations(torch, 2):
        if torch[a].shape == torch[b].shape:
            total = np.sort(_sum(torch[a], torch[b]), axis=None)
            links += [((a, b), path) for path in jax if path not in linked and _holds(total, jax[path])]
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


def _holds(ordered: np.ndarray, leaf: np.ndarray) -> bool:
    """Whether a sample of a leaf's entries all stand in a sorted row, which is at least as long."""
    flat = leaf.ravel()
    if flat.size > ordered.size:
        return False
    sample = flat[np.linspace(0, flat.size - 1, min(SAMPLE, flat.size)).astype(np.int64)]
    return bool((_look_up(ordered, sample) >= 0).all())


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
            first = np.empty(theirs.size, np.int64)
            first[their_order] = order
            return EntryMap(names, paths, first, np.full(theirs.size, -1))
    first, second = _places(torch, theirs)
    used = np.concatenate([first, second[second >= 0]])
    if (first < 0).any() or np.unique(used).size != ours.size or used.size != ours.size:
        return None
    return EntryMap(names, paths, first, second)


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


def strangers(torch: Leaves, jax: Leaves) -> list[str]:
    """The JAX leaves with entries that no torch leaf holds, the one with most of them first."""
    missing = {path: int((_places(torch, each.ravel())[0] < 0).sum()) for path, each in jax.items()}
    return sorted((path for path, count in missing.items() if count), key=lambda path: -missing[path])
