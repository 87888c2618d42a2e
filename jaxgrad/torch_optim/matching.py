"""Which torch parameter a leaf of a pytree is: by its name, or by its entries and their layout."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgrad.errors import InputError
from jaxgrad.pytrees import leaves_by_path


class Match(NamedTuple):
    """A leaf's counterpart: its number among torch's parameters, and the axes that lead from torch's layout to JAX's.

    ``rivals`` are the other parameters that have the same entries, of which any might be meant.
    """

    number: int
    axes: tuple[int, ...]
    rivals: tuple[int, ...]


def match(
    params: Any, tensors: Sequence[np.ndarray], names: Sequence[str | None], counterparts: Any
) -> dict[str, Match]:
    """The counterparts of all leaves, by their paths.

    Args:
      params: a pytree of arrays.
      tensors: torch's parameters.
      names: theirs, as far as the optimizer knows them.
      counterparts: a pytree like ``params`` of numbers of tensors; None: they are found.

    Raises:
      InputError: for a leaf that no tensor is equal to.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_by_path(params).items()}
    if counterparts is not None:
        given = [int(each) for each in jax.tree.leaves(counterparts)]
        if len(given) != len(leaves):
            raise InputError(
                f"torch_optim: counterparts has {len(given)} leaves, params has {len(leaves)}. Make one like the other."
            )
        return {
            path: Match(index, _axes(path, leaf, tensors[index]), ())
            for (path, leaf), index in zip(leaves.items(), given, strict=True)
        }
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    dotted = {jax.tree_util.keystr(path): jax.tree_util.keystr(path, simple=True, separator=".") for path in paths}
    if None not in names and set(dotted.values()) == set(names):
        numbers = {name: number for number, name in enumerate(names)}
        return {
            path: Match(numbers[dotted[path]], _axes(path, leaf, tensors[numbers[dotted[path]]]), ())
            for path, leaf in leaves.items()
        }
    return _by_entries(leaves, tensors)


def _by_entries(leaves: dict[str, np.ndarray], tensors: Sequence[np.ndarray]) -> dict[str, Match]:
    bags: dict[bytes, list[int]] = {}
    for number, tensor in enumerate(tensors):
        bags.setdefault(_bag(tensor), []).append(number)
    taken: set[int] = set()
    found = {}
    for path, leaf in leaves.items():
        same = bags.get(_bag(leaf), [])
        fitting = [i for i in same if _axes_or_none(leaf, tensors[i]) is not None]
        free = [i for i in fitting if i not in taken] or fitting
        if not free:
            raise InputError(
                f"torch_optim: params{path} {list(leaf.shape)} has the entries of no parameter that the optimizer "
                "holds. Give both the same weights, or name the pairs: counterparts=."
            )
        taken.add(free[0])
        rivals = tuple(i for i in fitting if i != free[0])
        found[path] = Match(free[0], _axes(path, leaf, tensors[free[0]]), rivals)
    return found


def _bag(array: np.ndarray) -> bytes:
    return np.sort(np.asarray(array, np.float64), axis=None).tobytes()


def _axes_or_none(leaf: np.ndarray, tensor: np.ndarray) -> tuple[int, ...] | None:
    if leaf.ndim != tensor.ndim:
        return None
    for axes in itertools.permutations(range(tensor.ndim)):
        if tuple(tensor.shape[a] for a in axes) == leaf.shape and np.array_equal(tensor.transpose(axes), leaf):
            return axes
    return None


def _axes(path: str, leaf: np.ndarray, tensor: np.ndarray) -> tuple[int, ...]:
    axes = _axes_or_none(leaf, tensor)
    if axes is None and tuple(sorted(leaf.shape)) == tuple(sorted(tensor.shape)) and leaf.shape == tensor.shape:
        return tuple(range(leaf.ndim))  # trained on since: the shape has to do
    if axes is None:
        raise InputError(
            f"torch_optim: params{path} {list(leaf.shape)} is not torch's parameter {list(tensor.shape)} with its axes "
            "in another order. Give both the same weights."
        )
    return axes
