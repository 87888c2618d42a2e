"""Torch's numbers where JAX holds them: what torch's leaves hold, laid out as JAX's leaves are.

A step is judged from one state, so that what an earlier one left (rounding, a gradient that is noise around zero) has
no part in it: JAX is given torch's parameters and torch's gradients, each entry in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxgrad.parity.entries import EntryMap
from jaxgrad.parity.fingerprints import farthest
from jaxgrad.parity.gradients import Side
from jaxgrad.parity.leaves import Group, LeafMatch, fitting_layouts, likeness

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where the entries of a JAX leaf stand in torch.

    Attributes:
      path: of the JAX leaf.
      shape: of the JAX leaf.
      names: the torch leaves that hold them.
      axes: their order in the one torch leaf, where axes alone are moved.
      first: else for each entry its place in the torch leaves, laid end to end, ``[n]``; None for a plain reshape.
      second: where the leaf is the sum of two, the place of the second addend, ``[n]``.
      joined: of leaves that are cut otherwise, which entry is which.
      like: the JAX leaves that ``joined`` speaks of.
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    first: np.ndarray | None = None
    second: np.ndarray | None = None
    joined: EntryMap | None = None
    like: Arrays | None = None

    def entries(self, torch: Arrays) -> np.ndarray:
        """What the leaf would hold: of parameters, and of how far they were moved."""
        if self.joined is not None and self.like is not None:
            return self.joined.carried(torch, self.like)[self.path]
        found = self.slopes(torch)
        return found if self.second is None else found + _flat(torch, self.names)[self.second].reshape(self.shape)

    def slopes(self, torch: Arrays) -> np.ndarray:
        """What the leaf's gradient would be: that of a sum is the gradient of each addend."""
        if self.joined is not None and self.like is not None:
            return self.joined.carried(torch, self.like, gradients=True)[self.path]
        if self.first is not None:
            return _flat(torch, self.names)[self.first].reshape(self.shape)
        array = torch[self.names[0]]
        return array.transpose(self.axes) if self.axes is not None else array.reshape(self.shape)


def _flat(arrays: Arrays, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in names])


def find_places(
    match: LeafMatch, torch: Side, jax: Side, kept: Mapping[str, tuple[str, np.ndarray]]
) -> dict[str, Place]:
    """The places of JAX's leaves, as far as values and gradients tell.

    Args:
      match: of the parameters.
      torch: the torch side; the values of two leaves that are equal tell nothing, and their gradients do.
      jax: the JAX side.
      kept: JAX's leaves that hold what torch keeps beside its parameters, by path: the name there, and what it holds.

    Returns:
      By path. Of several copies of one leaf, whose gradients only add up to torch's, none has a place.
    """
    found: list[Place] = []
    for group in match.groups:
        if group.entries is not None:
            like = {path: jax.values[path] for path in group.jax}
            for path in group.jax:
                found.append(Place(path, like[path].shape, group.torch, joined=group.entries, like=like))
        elif group.how != "tied":
            found += _one_to_one(group, torch, jax)
    for path, (name, array) in kept.items():
        theirs = jax.values[path]
        fitting = fitting_layouts(array, theirs)
        first = None if fitting else _ranked((array,), (theirs,))
        found.append(Place(path, theirs.shape, (name,), fitting[0] if fitting else None, first))
    return {place.path: place for place in found}


def _ranked(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
    """For each of their entries the place of ours; both are sorted by the first array, ties by the next."""
    first = np.empty(theirs[0].size, np.int64)
    order, their_order = (np.lexsort([each.ravel() for each in reversed(arrays)]) for arrays in (ours, theirs))
    first[their_order] = order
    return first


def _one_to_one(group: Group, torch: Side, jax: Side) -> list[Place]:
    """Each torch leaf takes the JAX leaf with its gradient, the one with a like name first."""
    found: dict[str, Place] = {}
    unsettled = []
    for name in group.torch:
        fitting = [p for p in group.jax if p not in found and jax.values[p].size == torch.values[name].size]
        held = {path: _held(name, path, torch, jax) for path in fitting}
        same = [path for path, (_, agrees) in held.items() if agrees]
        if same:
            path = max(same, key=lambda path: likeness(name, path))
            found[path] = held[path][0]
        else:
            unsettled.append(name)
    left = [path for path in group.jax if path not in found]
    if unsettled and left:
        return [*found.values(), *_pieces(unsettled, left, torch, jax)]
    for name in unsettled:  # a leaf of zeros may hold the sum of two, both of which have its gradient
        for path, place in found.items():
            size = torch.values[name].size
            if len(place.names) == 1 and jax.values[path].size == size and _held(name, path, torch, jax)[1]:
                first, second = (
                    each.slopes({each.names[0]: np.arange(size).reshape(torch.values[each.names[0]].shape)}).ravel()
                    for each in (place, _held(name, path, torch, jax)[0])
                )
                found[path] = Place(path, place.shape, (*place.names, name), None, first, second + size)
                break
    return list(found.values())


def _held(name: str, path: str, torch: Side, jax: Side) -> tuple[Place, bool]:
    """The place of one leaf in another that has its entries, and whether the gradients agree there."""
    distance = max(torch.distance(name), jax.distance(path))
    shape, slopes = jax.values[path].shape, {name: torch.slopes(name)}
    for axes in torch.laid_out(name, jax, path):
        place = Place(path, shape, (name,), axes)
        if farthest(place.slopes(slopes), jax.slopes(path)) <= distance:
            return place, True
    ours, theirs = ((side.values[each], side.slopes(each)) for side, each in ((torch, name), (jax, path)))
    place = Place(path, shape, (name,), None, _ranked(ours, theirs))
    return place, farthest(place.slopes(slopes), jax.slopes(path)) <= distance


def _pieces(names: list[str], paths: list[str], torch: Side, jax: Side) -> Iterator[Place]:
    """Leaves of one number that are cut otherwise: each lies in one of the other side's, in its own order."""
    inside = len(names) > len(paths)
    distance = max(*(torch.distance(name) for name in names), *(jax.distance(path) for path in paths))
    wholes = {p: jax.slopes(p).ravel() for p in paths} if inside else {n: torch.slopes(n).ravel() for n in names}
    pieces = {n: torch.slopes(n).ravel() for n in names} if inside else {p: jax.slopes(p).ravel() for p in paths}
    free = {whole: np.ones(slopes.size, bool) for whole, slopes in wholes.items()}
    spots: dict[str, tuple[str, int]] = {}
    for piece, slopes in pieces.items():
        for whole, start in ((w, s) for w in wholes for s in range(0, wholes[w].size - slopes.size + 1, slopes.size)):
            here = slice(start, start + slopes.size)
            if free[whole][here].all() and farthest(wholes[whole][here], slopes) <= distance:
                spots[piece] = whole, start
                free[whole][here] = False
                break
    if not inside:
        for path, (name, start) in spots.items():
            shape = jax.values[path].shape
            yield Place(path, shape, (name,), None, start + np.arange(jax.values[path].size))
        return
    for path in paths:
        parts = sorted((start, name) for name, (whole, start) in spots.items() if whole == path)
        if not free[path].any():
            yield Place(path, jax.values[path].shape, tuple(n for _, n in parts), None, np.arange(free[path].size))
