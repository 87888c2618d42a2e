"""Which leaf is which, where the entries cannot tell: by the gradients.

Leaves of zeros or ones, leaves that begin equal, leaves that hold sums with zeros or pieces of several such leaves. A
whole leaf is tried first, under the layouts that its shape allows; what is left over, entry by entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jaxgrad.parity.entries import EntryMap
from jaxgrad.parity.gradients import Side
from jaxgrad.parity.labels import Entries, label
from jaxgrad.parity.leaves import Group, LeafMatch, farthest_in_order, few_numbers, likeness, same_under_layout

MOST_ANCHORED = 64
"""A leaf of zeros is looked for in leaves up to so many times its size: more layers are seldom stacked."""


@dataclass
class Identified:
    """What the gradients show of which leaf is which.

    Attributes:
      match: the parameters; each of its groups is one leaf on each side, or has its entries mapped.
      wrong: leaves that must be each other's and have other gradients.
      tied: leaves with equal entries, fewer of them on one side: its gradient is the sum of the others'.
      notes: what was assumed.
      unproven: whether entries were assigned by their gradients, which may agree on this batch alone.
      certain: whether no other assignment is possible.
    """

    match: LeafMatch
    wrong: list[tuple[str, str]] = field(default_factory=list)
    tied: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unproven: bool = False
    certain: bool = True


def identify(match: LeafMatch, torch: Side, jax: Side, shuffled: bool) -> Identified:
    """Settle what the entries left open.

    Args:
      match: of the parameters, by their entries.
      torch: the torch side of a step whose losses agree.
      jax: the JAX side.
      shuffled: whether equal entries may stand in any order, since other parameters have theirs in another order.
    """
    found = Identified(replace(match, groups=[], only_torch=[], only_jax=[], frozen=dict(match.frozen)))
    names, paths = list(match.only_torch), list(match.only_jax)
    for group in match.groups:
        if group.how == "joined" or (group.how == "same" and len(group.torch) == len(group.jax) == 1):
            found.match.groups.append(group)
            continue
        left = _one_to_one(group, torch, jax, shuffled, found)
        _keep(left[1], found.match)
        if group.how == "constant":
            names += left[0]
            paths += left[1]
        else:
            _copies(group, *left, torch, jax, found)
    _pool(names, paths, torch, jax, shuffled, found)
    left = (torch, found.match.only_torch), (jax, found.match.only_jax)
    found.unproven |= any(
        side.reads(each) and not side.moves(each) and few_numbers(side.values[each])
        for side, some in left
        for each in some
    )
    return found


# --- whole leaves -----------------------------------------------------------------------------------------------------


def _one_to_one(group: Group, torch: Side, jax: Side, shuffled: bool, found: Identified) -> tuple[list[str], list[str]]:
    """Each torch leaf takes a JAX leaf that has its gradient, one with a like name first; what is left over."""
    left, over = list(group.jax), []
    for name in sorted(group.torch, key=torch.vanishes):  # those that have a gradient choose first
        size = torch.values[name].size
        fitting = [path for path in left if jax.values[path].size == size]
        for path in sorted(
            fitting, key=lambda path: (torch.vanishes(name) != jax.vanishes(path), -likeness(name, path))
        ):
            if agree(torch, name, jax, path, shuffled)[0]:
                left.remove(path)
                found.match.groups.append(_pair(name, path, torch, jax))
                break
        else:
            over.append(name)
    if len(group.torch) > 1:
        more = ", ..." if len(group.torch) > 3 else ""
        found.notes.append(
            f"{', '.join(group.torch[:3])}{more} start from equal entries: which is which was told by their gradients"
        )
    return [name for name in group.torch if name in over], left


def _keep(paths: list[str], match: LeafMatch) -> None:
    """Take leaves out that hold what torch keeps: they were not the trained ones that begin equal."""
    for name, candidates in match.kept.items():
        alike = [path for path in paths if path in candidates]
        if alike:
            path = max(alike, key=lambda each: likeness(name, each))
            match.frozen[path] = name
            paths.remove(path)


def _pair(name: str, path: str, torch: Side, jax: Side) -> Group:
    """Two leaves with one gradient; where the values do not show the layout, the gradients do."""
    known = torch.laid_out(name, jax, path)
    slopes = torch.slopes(name), jax.slopes(path)
    apart = [farthest_in_order(slopes[0], axes, slopes[1]) for axes in known]
    if known and min(apart) <= max(torch.distance(name), jax.distance(path)):
        axes = known[int(np.argmin(apart))]
        if axes == known[0]:
            return Group((name,), (path,))
        places = np.arange(slopes[0].size).reshape(slopes[0].shape)
        theirs = places.transpose(axes) if axes is not None else places
        return Group((name,), (path,), "same", EntryMap((name,), (path,), places.ravel(), theirs.ravel()))
    labels = np.empty((2, slopes[0].size), np.int64)
    for side, (each, values) in enumerate(zip(slopes, (torch.values[name], jax.values[path]), strict=True)):
        labels[side, np.lexsort((each.ravel(), values.ravel()))] = np.arange(each.size)
    return Group((name,), (path,), "same", EntryMap((name,), (path,), labels[0], labels[1]))


def agree(torch: Side, name: str, jax: Side, path: str, shuffled: bool) -> tuple[bool, float, float]:
    """Whether two gradients agree, how far apart they are relative to the larger, and how far as they were computed."""
    distance = max(torch.distance(name), jax.distance(path))
    ours, theirs = torch.slopes(name), jax.slopes(path)
    values = torch.values[name], jax.values[path]
    known = torch.laid_out(name, jax, path)
    same, apart = same_under_layout(values[0], ours, values[1], theirs, distance, shuffled=shuffled, known=known)
    own_apart = 0.0
    if same and name in torch.own_gradients and path in jax.own_gradients:
        own = torch.own_gradients[name], jax.own_gradients[path]
        bits, own_apart = same_under_layout(values[0], own[0], values[1], own[1], 0.0, shuffled=shuffled, known=known)
        own_apart = 0.0 if bits else own_apart
    largest = max(float(np.abs(ours).max(initial=0.0)), float(np.abs(theirs).max(initial=0.0)), 1e-300)
    return same, 0.0 if same else apart / largest, own_apart / largest


def _copies(group: Group, names: list[str], paths: list[str], torch: Side, jax: Side, found: Identified) -> None:
    """Leaves with equal entries of which the other side has fewer: unread, tied there, or trained otherwise."""
    moving = [name for name in names if torch.moves(name)], [path for path in paths if jax.moves(path)]
    for side, who, left, others in (("torch", torch, names, group.jax), ("JAX", jax, paths, group.torch)):
        for each in left:
            if each not in moving[side == "JAX"]:
                does = "is read by the loss and has no gradient" if who.reads(each) else "is not read by the loss"
                found.notes.append(f"{side}'s {each} has the entries of {others[0]} and {does}: a copy")
    if moving[0] and moving[1]:
        _tied_or_wrong(*moving, torch, jax, found)
    else:
        found.match.only_torch += moving[0]
        found.match.only_jax += moving[1]


def _tied_or_wrong(names: list[str], paths: list[str], torch: Side, jax: Side, found: Identified) -> None:
    """Leaves with equal entries and no gradient in common: tied, if their gradients add up to the same; else wrong."""
    unlike = len(names) != len(paths) or any(torch.values[n].size != jax.values[p].size for n in names for p in paths)
    if unlike and _add_up(names, paths, torch, jax):
        found.tied.append((tuple(names), tuple(paths)))
        return
    left = list(paths)
    for name in names:
        fitting = [path for path in left if jax.values[path].size == torch.values[name].size]
        if fitting:
            path = max(fitting, key=lambda each: likeness(name, each))
            left.remove(path)
            found.wrong.append((name, path))
        else:
            found.match.only_torch.append(name)
    found.match.only_jax += left


def _add_up(names: Sequence[str], paths: Sequence[str], torch: Side, jax: Side) -> bool:
    """Whether the gradients of leaves with the same entries have the same sum, entry by entry, on both sides."""
    if not few_numbers(torch.values[names[0]]):  # each entry is known by its value
        ours, theirs = _entries(names, torch), _entries(paths, jax)
        numbers, at = np.unique(np.concatenate([ours.values, theirs.values]), return_inverse=True)
        signed = np.concatenate([ours.slopes, -theirs.slopes])
        leeway = np.bincount(at, np.concatenate([ours.distances, theirs.distances]), numbers.size)
        return bool((np.abs(np.bincount(at, signed, numbers.size)) <= leeway).all())
    size = torch.values[names[0]].size
    if any(side.values[each].size != size for side, some in ((torch, names), (jax, paths)) for each in some):
        return False
    first = torch.values[names[0]]
    ours = sum(torch.slopes(name) if torch.values[name].shape == first.shape else np.inf for name in names)
    distance = sum(torch.distance(name) for name in names) + sum(jax.distance(path) for path in paths)
    totals = [np.zeros_like(first)]  # each JAX leaf may lie in several ways
    for path in paths:
        each = jax.slopes(path)
        back = [
            each.transpose(np.argsort(axes)) if axes is not None else each.reshape(first.shape)
            for axes in torch.laid_out(names[0], jax, path)
        ]
        totals = [total + one for total in totals for one in back][:16]
    return any(bool((np.abs(ours - total) <= distance).all()) for total in totals)


# --- entry by entry ---------------------------------------------------------------------------------------------------


def _pool(names: list[str], paths: list[str], torch: Side, jax: Side, shuffled: bool, found: Identified) -> None:
    """Leaves that have no counterpart as wholes, with those that a zero among them may have been added to."""
    if not names and not paths:
        return
    solved = _solve(names, paths, torch, jax)
    anchors = _anchors(solved.lacking_torch, torch, jax, found.match.groups, 0)
    anchors += _anchors(solved.lacking_jax, jax, torch, found.match.groups, 1)
    if anchors:
        kept = [group for group in found.match.groups if not any(group is each for each in anchors)]
        more = [name for group in anchors for name in group.torch], [path for group in anchors for path in group.jax]
        again = _solve([*names, *more[0]], [*paths, *more[1]], torch, jax)
        if not set(again.lacking_torch) & set(more[0]) and not set(again.lacking_jax) & set(more[1]):
            solved, found.match.groups = again, kept
    for entries in solved.maps:
        scrambled = None if shuffled else _scrambled(entries, torch, jax)
        if scrambled is not None:
            found.wrong.append((entries.torch[0], scrambled))
            continue
        found.match.groups.append(Group(entries.torch, entries.jax, "joined", entries))
        found.unproven = True
    found.certain &= solved.certain
    _lacking(solved, torch, jax, found)


@dataclass
class _Solved:
    """What entry by entry was found: maps, and the leaves of either side with entries that have no counterpart."""

    maps: list[EntryMap]
    lacking_torch: list[str]
    lacking_jax: list[str]
    certain: bool


def _solve(names: Sequence[str], paths: Sequence[str], torch: Side, jax: Side) -> _Solved:
    ours, theirs = _entries(names, torch), _entries(paths, jax)
    labels = label(ours, theirs)
    cuts = (
        [
            dict(zip(some, np.split(row, np.cumsum([side.values[each].size for each in some])[:-1]), strict=True))
            for some, side, row in ((names, torch, labels.ours), (paths, jax, labels.theirs))
            if some
        ]
        if names and paths
        else [dict.fromkeys(names, np.asarray([-1])), dict.fromkeys(paths, np.asarray([-1]))]
    )
    lacking = [[each for each, row in cut.items() if (row < 0).any()] for cut in cuts]
    whole = [{each: row for each, row in cut.items() if (row >= 0).all()} for cut in cuts]
    maps = []
    for some, others in _connected(*whole):
        if some and others:
            rows = (
                np.concatenate([whole[0][each] for each in some]),
                np.concatenate([whole[1][each] for each in others]),
            )
            _, dense = np.unique(np.concatenate(rows), return_inverse=True)
            maps.append(EntryMap(some, others, dense[: rows[0].size], dense[rows[0].size :]))
        else:
            lacking[0] += some
            lacking[1] += others
    return _Solved(maps, lacking[0], lacking[1], labels.certain)


def _entries(names: Sequence[str], side: Side) -> Entries:
    if not names:
        return Entries(*(np.zeros(0) for _ in range(3)))
    return Entries(
        np.concatenate([side.values[name].ravel() for name in names]),
        np.concatenate([side.slopes(name).ravel() for name in names]),
        np.concatenate([np.full(side.values[name].size, side.distance(name)) for name in names]),
    )


def _connected(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The leaves in groups that share labels."""
    top = 1 + max((int(row.max(initial=-1)) for row in (*ours.values(), *theirs.values())), default=-1)
    group_of = np.full(top, -1)
    groups: list[tuple[list[str], list[str]] | None] = []
    for side, leaves in enumerate((ours, theirs)):
        for name, row in leaves.items():
            touched = sorted({int(each) for each in np.unique(group_of[row]) if each >= 0})
            merged: tuple[list[str], list[str]] = ([], [])
            for number in touched:
                before = groups[number]
                assert before is not None
                for mine, given in zip(merged, before, strict=True):
                    mine += given
                groups[number] = None
                group_of[group_of == number] = len(groups)
            merged[side].append(name)
            group_of[row] = len(groups)
            groups.append(merged)
    return [(tuple(each[0]), tuple(each[1])) for each in groups if each is not None]


def _anchors(lacking: Sequence[str], side: Side, other: Side, groups: Sequence[Group], number: int) -> list[Group]:
    """The groups that a leaf of zeros may be an addend in: some leaf there has all of its gradients among its own."""
    wanted = {name: side.slopes(name).ravel() for name in lacking if not side.values[name].any() and side.moves(name)}
    found = []
    for group in groups if wanted else ():
        for path in (group.jax, group.torch)[number]:
            size = other.values[path].size
            rows = [row for row in wanted.values() if size <= MOST_ANCHORED * row.size]
            if not rows:
                continue
            ordered, distance = np.sort(other.slopes(path), axis=None), other.distance(path)
            if any(_among(row, ordered, distance) for row in rows):
                found.append(group)
                break
    return found


def _among(row: np.ndarray, ordered: np.ndarray, distance: float) -> bool:
    """Whether some of the larger half of some numbers stand in a sorted row."""
    large = row[np.abs(row) >= np.median(np.abs(row))]
    place = np.searchsorted(ordered, large)
    near = [np.abs(ordered[np.clip(place + step, 0, ordered.size - 1)] - large) <= distance for step in (-1, 0)]
    return bool((near[0] | near[1]).any())


def _scrambled(entries: EntryMap, torch: Side, jax: Side) -> str | None:
    """A row of equal entries that stand in an order which no cutting and joining of torch's rows makes, if any."""
    if any(side.values[each].ndim != 1 for side, some in ((torch, entries.torch), (jax, entries.jax)) for each in some):
        return None
    at = np.full(entries.labels, -1)
    at[entries.ours[::-1]] = np.arange(entries.ours.size)[::-1]
    start = 0
    for path in entries.jax:
        row = at[entries.theirs[start : start + jax.values[path].size]]
        start += row.size
        loud = np.abs(jax.slopes(path).ravel()) > jax.distance(path)
        steps = np.where(loud[1:] & loud[:-1] & (row[1:] >= 0) & (row[:-1] >= 0), np.diff(row), 1)
        backwards = (steps[1:] == -1) & (steps[:-1] == -1)
        jumps = (steps[2:] != 1) & (steps[1:-1] != 1) & (steps[:-2] != 1)
        even = (steps[2:] == steps[1:-1]) & (steps[1:-1] == steps[:-2]) & (steps[2:] > 0)  # every so many entries
        if few_numbers(jax.values[path]) and (backwards.any() or (jumps & ~even).any()):
            return path
    return None


def _lacking(solved: _Solved, torch: Side, jax: Side, found: Identified) -> None:
    """Leaves with entries that the other side does not have: of one kind on both sides, their gradients differ."""
    names = [name for name in solved.lacking_torch if few_numbers(torch.values[name]) and torch.moves(name)]
    paths = [path for path in solved.lacking_jax if few_numbers(jax.values[path]) and jax.moves(path)]
    sums = [sum(side.values[each].size for each in some) for side, some in ((torch, names), (jax, paths))]
    by_values: dict[bytes, tuple[list[str], list[str]]] = {}
    for number, (some, side) in enumerate(((names, torch), (paths, jax))):
        for each in some:
            by_values.setdefault(np.sort(side.values[each], axis=None).tobytes(), ([], []))[number].append(each)
    settled: set[str] = set()
    for ours, theirs in by_values.values():
        if ours and theirs:
            _tied_or_wrong(ours, theirs, torch, jax, found)
            settled |= {*ours, *theirs}
    if names and paths and not settled and sums[0] == sums[1]:  # cut otherwise on the two sides
        found.wrong.append((names[0], paths[0]))
        settled |= {*names, *paths}
    found.match.only_torch += [name for name in solved.lacking_torch if name not in settled]
    found.match.only_jax += [path for path in solved.lacking_jax if path not in settled]
