"""Which parameter of the one program is which of the other: by their entries, without a mapping.

Leaves are the same if they have the same entries in any order (a transposed kernel, HWIO for OIHW). Leaves whose
entries are all one number (biases of zeros) say nothing by themselves and are told apart by their gradients. What is
left is matched entry by entry (``entries``): one leaf may hold what several hold elsewhere.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxgrad.errors import InputError
from jaxgrad.parity.beside import together
from jaxgrad.parity.entries import EntryMap, map_entries, related, repeated, strangers, unheld
from jaxgrad.parity.fingerprints import bag, equal, farthest

Leaves = Mapping[str, np.ndarray]
"""Parameters by path, in float64."""

Layouts = list[tuple[int, ...] | None]
"""Permutations of axes; None stands for a plain reshape."""


@dataclass(frozen=True)
class Group:
    """Leaves that hold the same numbers.

    Attributes:
      torch: torch's names.
      jax: JAX's paths.
      how: ``"same"``, as many on both sides, each with all the entries; ``"tied"``, as ``"same"`` with more copies on
        one side; ``"constant"``, all entries of all leaves are one number; ``"joined"``, by entries.
      entries: of ``"joined"`` leaves, which entry is which.
    """

    torch: tuple[str, ...]
    jax: tuple[str, ...]
    how: str = "same"
    entries: EntryMap | None = None

    def pairs(self, torch: Leaves, jax: Leaves) -> list[tuple[str, str]]:
        """Each JAX path with a torch name of the same size; in a group of several, those with like names."""
        left, found = list(self.torch), []
        for path in self.jax:
            fitting = [name for name in left or self.torch if torch[name].size == jax[path].size]
            if fitting:
                name = max(fitting, key=lambda each: likeness(each, path))
                found.append((path, name))
                left = [each for each in left if each != name]
        return found


@dataclass
class LeafMatch:
    """What belongs together, and what is left over on either side.

    Attributes:
      groups: leaves that hold the same numbers.
      only_torch: torch's names that have no counterpart.
      only_jax: JAX's paths that have none.
      broken: of ``only_torch``, those of which JAX holds a part, with the path that holds other numbers for the rest.
      frozen: JAX's paths that hold what torch keeps and does not train, a buffer or a frozen parameter, with its name.
      kept: names that torch keeps, each with the JAX paths that may hold it and may hold a trained parameter as well:
        both begin equal, and the gradients tell which is which.
    """

    groups: list[Group] = field(default_factory=list)
    only_torch: list[str] = field(default_factory=list)
    only_jax: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    kept: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def carried(self, arrays: Leaves, torch: Leaves, jax: Leaves, *, gradients: bool = False) -> dict[str, np.ndarray]:
        """Torch's numbers as JAX's leaves hold them.

        Args:
          arrays: values or gradients, by torch's names, in float64; what has none is left out of the result.
          torch: torch's parameters as they were matched, which show how each is laid out.
          jax: JAX's leaves as they were matched.
          gradients: a leaf that holds the sum of two has the gradient of each of them, while values are added up.

        Returns:
          By JAX's path, in float64, in the shape of the leaf; nothing for leaves without a counterpart.
        """
        found: dict[str, np.ndarray] = {}
        for group in self.groups:
            if not all(name in arrays for name in group.torch):
                continue
            if group.entries is not None:
                found |= group.entries.carried(arrays, jax, gradients=gradients)
                continue
            for path, name in group.pairs(torch, jax):
                found[path] = in_order(torch[name], arrays[name], jax[path])
        return found

    def sums(self, torch: Leaves, jax: Leaves) -> dict[str, np.ndarray]:
        """The JAX leaves that hold sums of torch's entries, in float64: in float32 they are already rounded."""
        found: dict[str, np.ndarray] = {}
        for group in self.groups:
            if group.entries is not None:
                found |= group.entries.sums(torch, jax)
        return found


def is_constant(array: np.ndarray) -> bool:
    """Whether all entries are one number."""
    return array.size > 0 and bool(array.flat[0] == array.flat[-1]) and bool((array == array.flat[0]).all())


def few_numbers(array: np.ndarray) -> bool:
    """Whether the entries are a few numbers over and over, so that they do not show which is which: zeros, ones."""
    if array.size < 2 or is_constant(array):
        return array.size > 0
    return np.unique(array).size <= min(MOST_NUMBERS, array.size // 2)


MOST_NUMBERS = 8
"""So many different numbers a leaf may have that is made of pieces of zeros, ones and the like."""


def match_leaves(torch: Leaves, jax: Leaves) -> LeafMatch:
    """Match parameters by their entries.

    Args:
      torch: by name.
      jax: by path.

    Returns:
      The groups, and what has no counterpart.
    """
    found = LeafMatch()
    by_key: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
    for side, leaves in enumerate((torch, jax)):
        for name, key in zip(leaves, together(_key, leaves.values()), strict=True):
            by_key.setdefault(key, ([], []))[side].append(name)
    for key, (ours, theirs) in by_key.items():
        if ours and theirs:
            how = "constant" if key[0] == "constant" else "same" if len(ours) == len(theirs) else "tied"
            found.groups.append(Group(tuple(ours), tuple(theirs), how))
        else:
            found.only_torch += ours
            found.only_jax += theirs
    _join(found, torch, jax)
    for left, leaves in ((found.only_torch, torch), (found.only_jax, jax)):
        left.sort(key=list(leaves).index)
    return found


def _key(array: np.ndarray) -> tuple[object, ...]:
    return ("constant", float(array.flat[0]) + 0.0) if is_constant(array) else bag(array)


def _join(found: LeafMatch, torch: Leaves, jax: Leaves) -> None:
    """Match what is left over entry by entry, in groups of leaves that share entries."""
    ours = {name: torch[name] for name in found.only_torch if not is_constant(torch[name])}
    theirs = {path: jax[path] for path in found.only_jax if not is_constant(jax[path])}
    for names, paths in related(ours, theirs):
        entries = map_entries({n: ours[n] for n in names}, {p: theirs[p] for p in paths})
        if entries is not None:
            found.groups.append(Group(names, paths, "joined", entries))
            found.only_torch = [name for name in found.only_torch if name not in names]
            found.only_jax = [path for path in found.only_jax if path not in paths]
        elif repeated({n: ours[n] for n in names}, {p: theirs[p] for p in paths}):
            found.groups.append(Group(names, paths, "tied"))
            found.only_torch = [name for name in found.only_torch if name not in names]
            found.only_jax = [path for path in found.only_jax if path not in paths]
        elif strange := strangers({n: ours[n] for n in names}, {p: theirs[p] for p in paths} | _constants(found, jax)):
            found.broken |= dict.fromkeys(names, strange[0])
            found.only_jax = [path for path in found.only_jax if path not in paths or path in strange]
        elif bare := unheld({n: ours[n] for n in names}, {p: theirs[p] for p in paths}):
            found.broken |= dict.fromkeys(bare, paths[0])
            found.only_torch = [name for name in found.only_torch if name not in names or name in bare]
            found.only_jax = [path for path in found.only_jax if path not in paths]


def _constants(found: LeafMatch, jax: Leaves) -> dict[str, np.ndarray]:
    """What is left over of JAX's leaves of one number: a part that starts from zeros or ones instead."""
    return {path: jax[path] for path in found.only_jax if is_constant(jax[path])}


def match_programs(torch: Leaves, jax: Leaves, kept: Leaves) -> tuple[LeafMatch, dict[str, str]]:
    """Match the parameters of two programs.

    Args:
      torch: its parameters.
      jax: its parameters.
      kept: what torch keeps beside its parameters, buffers and frozen ones; JAX may keep these among its parameters.

    Returns:
      The match, and the JAX leaves that are among ``kept``, as far as entries and names tell, each with the name there.
      Those that may be trained parameters as well are still in the match.

    Raises:
      InputError: if parameters are left over on both sides, none of which could be one of the other's.
    """
    frozen: dict[str, str] = {}
    open_yet: dict[str, tuple[str, ...]] = {}
    for name, each in kept.items():
        key = bag(each)

        def same(other: np.ndarray, size: int = each.size, key: tuple[int, int, int] = key) -> bool:
            return other.size == size and bag(other) == key

        alike = [path for path in jax if path not in frozen and same(jax[path])]
        trained, held = sum(map(same, torch.values())), len(alike)
        if is_constant(each):  # a fresh statistic is all zeros or ones, as other leaves are: then its name must say so
            alike = [path for path in alike if likeness(name, path)]
        if alike and held > trained:
            frozen[max(alike, key=lambda path: likeness(name, path))] = name
            if trained:
                open_yet[name] = tuple(path for path in jax if same(jax[path]))
    certain = {path: name for path, name in frozen.items() if name not in open_yet}
    match = match_leaves(torch, {path: each for path, each in jax.items() if path not in certain})
    match.frozen, match.kept = certain, open_yet
    names = [name for name in match.only_torch if not few_numbers(torch[name])]
    paths = match.only_jax
    if names and paths and not match.broken:  # leaves of zeros and ones may be cut otherwise
        sizes = {torch[name].size for name in names} & {jax[path].size for path in paths}
        if not sizes:
            ours_said = ", ".join(f"{name} {list(torch[name].shape)}" for name in names[:4])
            theirs_said = ", ".join(f"params{path} {list(jax[path].shape)}" for path in paths[:4])
            raise InputError(
                f"compare: sizes do not fit: torch has {ours_said}, JAX has {theirs_said}, and no two are of one size. "
                "Give both programs the same weights."
            )
    return match, frozen


def closest(name: str, array: np.ndarray, paths: Sequence[str], leaves: Leaves) -> tuple[str | None, float]:
    """The leaf that was probably meant, and how far it is off.

    Args:
      name: of a leaf without counterpart.
      array: its entries.
      paths: the leaves of the other side that have none either.
      leaves: all of the other side.

    Returns:
      The path (None if there is none of this size) and the largest difference of sorted entries, relative to the
      largest entry.
    """
    best: tuple[float, str | None, float] = (float("inf"), None, float("inf"))
    for path in paths:
        other = leaves[path]
        if other.size != array.size:
            continue
        largest = max(float(np.abs(array).max(initial=0)), float(np.abs(other).max(initial=0)), 1e-300)
        error = float(np.abs(np.sort(array, axis=None) - np.sort(other, axis=None)).max(initial=0)) / largest
        score = error - 2 * likeness(name, path)
        if score < best[0]:
            best = (score, path, error)
    return best[1], best[2]


_SAME_WORD = {"kernel": "weight", "scale": "weight", "gamma": "weight", "w": "weight", "beta": "bias", "b": "bias"}
_SAME_WORD |= {"embedding": "weight"}


def likeness(a: str, b: str) -> float:
    """How many words two paths share: 1 for all, 0 for none."""
    words_a, words_b = (
        {_SAME_WORD.get(word, word) for word in re.findall(r"[a-z]+|\d+", path.lower())} for path in (a, b)
    )
    return len(words_a & words_b) / max(1, len(words_a | words_b))


# --- the same gradient? -----------------------------------------------------------------------------------------------


def same_under_layout(
    ours: np.ndarray,
    our_slopes: np.ndarray,
    theirs: np.ndarray,
    their_slopes: np.ndarray,
    distance: float,
    *,
    shuffled: bool = True,
    known: Layouts | None = None,
) -> tuple[bool, float]:
    """Whether two gradients agree entry by entry, under the permutation that the parameters themselves show.

    Args:
      ours: a parameter ``[...]``.
      our_slopes: its gradient, the same shape.
      theirs: the parameter of the other side, the same entries in any order.
      their_slopes: its gradient.
      distance: how far apart two entries may be.
      shuffled: whether equal entries of the parameter may stand in any order among themselves, even where axes in
        another order would do: a bias of zeros whose kernel has its rows in another order.
      known: the ``fitting_layouts`` of the parameter, if they were found before.

    Returns:
      Whether they agree, and the largest distance between two entries.
    """
    if _has_nan(our_slopes) or _has_nan(their_slopes):
        both = np.isnan(our_slopes).sum() == np.isnan(their_slopes).sum() == our_slopes.size
        return bool(both), float("nan")
    worst = float("inf")
    fitting = fitting_layouts(ours, theirs) if known is None else known
    laid_out = bool(fitting)
    for axes in fitting:
        apart = farthest(_laid_out(our_slopes, axes, theirs.shape), their_slopes)
        if apart <= distance:
            return True, apart
        worst = min(worst, apart)
    if laid_out and not shuffled:
        return False, worst
    one, other = (
        slopes.ravel()[np.lexsort((slopes.ravel(), values.ravel()))]
        for values, slopes in ((ours, our_slopes), (theirs, their_slopes))
    )
    apart = float(np.abs(one - other).max(initial=0.0))
    return apart <= distance, min(worst, apart)


def fitting_layouts(ours: np.ndarray, theirs: np.ndarray) -> Layouts:
    """The layouts in which two arrays are equal, entry by entry."""
    return [axes for axes in layouts(ours.shape, theirs.shape) if equal(_laid_out(ours, axes, theirs.shape), theirs)]


def in_order(values: np.ndarray, arrays: np.ndarray, like: np.ndarray) -> np.ndarray:
    """What belongs to a parameter's entries (its gradient, its new values), in the order in which another holds them.

    Args:
      values: the parameter.
      arrays: what belongs to its entries, the same shape.
      like: the parameter of the other side: the same entries in any order.

    Returns:
      The shape of ``like``.
    """
    for axes in fitting_layouts(values, like):
        return _laid_out(arrays, axes, like.shape)
    order = np.empty(like.size, np.int64)
    order[np.argsort(like, axis=None, kind="stable")] = np.argsort(values, axis=None, kind="stable")
    return arrays.ravel()[order].reshape(like.shape)


def _laid_out(array: np.ndarray, axes: tuple[int, ...] | None, shape: tuple[int, ...]) -> np.ndarray:
    return array.transpose(axes) if axes is not None else array.reshape(shape)


def farthest_in_order(ours: np.ndarray, axes: tuple[int, ...] | None, theirs: np.ndarray) -> float:
    """The largest distance of two entries, where the one array is laid out as the other."""
    return farthest(_laid_out(ours, axes, theirs.shape), theirs)


def _has_nan(array: np.ndarray) -> bool:
    return array.size > 0 and bool(np.isnan(array.max()))


def layouts(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Layouts:
    """The permutations of axes that make the one shape the other; None stands for a plain reshape."""
    found: Layouts = []
    if len(ours) == len(theirs) and len(ours) <= 5:
        found += [axes for axes in itertools.permutations(range(len(ours))) if tuple(ours[a] for a in axes) == theirs]
    if ours != theirs:
        found.append(None)
    return found
