"""Biases of zeros that are read beside another kernel than the one they stand with: nothing shows before training.

No names are needed to tell that two programs are one; but a bias that has the prefix of one layer and acts in another,
or has its entries in another order than its kernel has columns, holds the wrong numbers once trained ones are loaded.
"""

from __future__ import annotations

import re

import numpy as np

from jaxgrad.parity.gradients import Side
from jaxgrad.parity.leaves import Group, LeafMatch, few_numbers, in_order


def crossed(match: LeafMatch, torch: Side, jax: Side) -> list[tuple[str, str, str]]:
    """Biases that the gradients place elsewhere than beside the kernels with which they share a prefix.

    Args:
      match: of the parameters, with what the gradients told.
      torch: the torch side.
      jax: the JAX side.

    Returns:
      For each its torch name, its JAX path, and a sentence.
    """
    alone = [group for group in match.groups if len(group.torch) == len(group.jax) == 1]
    kernels = [group for group in alone if not few_numbers(torch.values[group.torch[0]])]
    told = [group for group in alone if few_numbers(torch.values[group.torch[0]]) and torch.moves(group.torch[0])]
    found = _swapped(kernels, told)
    for group in told:
        if torch.values[group.torch[0]].ndim == 1 and _unlike_its_kernel(group, kernels, torch, jax):
            name, path = group.torch[0], group.jax[0]
            says = (
                f"beside its kernel, JAX's {path} has its entries in another order than torch's {name}. All are "
                "equal, so that nothing shows yet; trained ones would be read in the wrong order"
            )
            found.append((name, path, says))
    return found


def _swapped(kernels: list[Group], told: list[Group]) -> list[tuple[str, str, str]]:
    """Biases of two layers, each acting in the other."""
    beside: dict[str, set[str]] = {}
    for group in kernels:
        beside.setdefault(_prefix(group.jax[0]), set()).add(_prefix(group.torch[0]))
    homes = {prefix: next(iter(layers)) for prefix, layers in beside.items() if prefix and len(layers) == 1}
    away = {
        (homes[_prefix(group.jax[0])], _prefix(group.torch[0])): group
        for group in told
        if homes.get(_prefix(group.jax[0]), _prefix(group.torch[0])) != _prefix(group.torch[0])
    }
    found = []
    for (home, there), group in away.items():
        if (there, home) in away:
            name, path = group.torch[0], group.jax[0]
            says = (
                f"JAX's {path} stands with the kernel of torch's {home}, and is added where torch adds {name}. Both "
                "layers' are equal numbers, so that nothing shows yet; trained ones would be read in the wrong layers"
            )
            found.append((name, path, says))
    return found


def _prefix(path: str) -> str:
    """What a leaf's name begins with: its layer."""
    words = re.findall(r"\w+", path)
    words = words[:-1] if words[-1:] == ["value"] else words
    return ".".join(words[:-1])


def _unlike_its_kernel(group: Group, kernels: list[Group], torch: Side, jax: Side) -> bool:
    """Whether a bias has another order than the columns of every kernel that stands with it on both sides."""
    name, path = group.torch[0], group.jax[0]
    size = torch.values[name].size
    slopes = torch.slopes(name)
    if np.unique(slopes).size != size or (np.abs(slopes) <= torch.distance(name)).any():
        return False  # the gradients do not tell the order
    order = np.arange(size)
    if group.entries is not None:
        at = np.empty(size, np.int64)
        at[group.entries.ours] = np.arange(size)
        order = at[group.entries.theirs]
    rows = []
    for kernel in kernels:
        same_layer = _prefix(kernel.torch[0]) == _prefix(name) and _prefix(kernel.jax[0]) == _prefix(path)
        if same_layer and torch.values[kernel.torch[0]].shape[:1] == (size,):
            rows.append(_rows(kernel, torch, jax, size))
    known = [each for each in rows if each is not None]
    return bool(known) and all(not np.array_equal(each, order) for each in known)


def _rows(kernel: Group, torch: Side, jax: Side, size: int) -> np.ndarray | None:
    """Which row of torch's kernel each column of JAX's is, if they are whole."""
    ours, theirs = torch.values[kernel.torch[0]], jax.values[kernel.jax[0]]
    numbers = np.broadcast_to(np.arange(size).reshape(-1, *[1] * (ours.ndim - 1)), ours.shape)
    held = in_order(ours, numbers, theirs)
    for axis in range(held.ndim):
        across = np.moveaxis(held, axis, 0).reshape(held.shape[axis], -1)
        if held.shape[axis] == size and (across == across[:, :1]).all():
            return across[:, 0]
    return None
