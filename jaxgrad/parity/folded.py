"""Leaves that are functions of torch's parameters: a batch norm folded into a kernel, a merged adapter."""

from __future__ import annotations

import numpy as np

from jaxgrad.parity.gradients import Side
from jaxgrad.parity.leaves import LeafMatch, few_numbers
from jaxgrad.parity.rounding import shadow_distance

ROUNDINGS = 8
"""So many times a number is rounded on the way into such a leaf: a batch norm adds eps, takes a root, divides,
multiplies, and subtracts and adds for the bias: six; each rounds by at most half a unit of 2**-23."""


def folded(match: LeafMatch, torch: Side, jax: Side) -> str | None:
    """Why nothing can be told, where JAX's leaves are none of torch's and the losses agree all the same.

    How far a loss moves when leaves are rounded is what their gradients say: the sum of ``|gradient| * |rounding|``.

    Args:
      match: of the parameters; what is left over may be functions of what is left over in torch.
      torch: the torch side.
      jax: the JAX side.

    Returns:
      A sentence; None where leaves share entries or hold zeros and ones alone, or the losses are farther apart than
      rounding explains.
    """
    names = [name for name in match.only_torch if torch.moves(name)]
    paths = [path for path in match.only_jax if jax.moves(path)]
    telling = [
        [each for each in some if not few_numbers(side.values[each])] for side, some in ((torch, names), (jax, paths))
    ]
    if not all(telling) or match.broken:  # leaves of zeros are functions of nothing
        return None
    ours, theirs = (side.tape.values[side.tape.loss].summary for side in (torch, jax))
    if ours.fingerprint is None or theirs.fingerprint is None:
        return None
    apart = abs(ours.fingerprint.high - theirs.fingerprint.high)
    rounded = sum(
        float(np.abs(jax.slopes(path)).sum()) * float(np.abs(jax.values[path]).max(initial=0.0)) for path in paths
    )
    if not apart <= ROUNDINGS * 2.0**-24 * rounded + shadow_distance(max(ours.scale, theirs.scale)):
        return None
    listed = [
        ", ".join(f"{each} {list(side.values[each].shape)}" for each in some[:4])
        for side, some in ((torch, names), (jax, paths))
    ]
    return (
        f"the losses agree to {apart:.1g}, as far as JAX's leaves are rounded, but JAX's {listed[1]} are not torch's "
        f"{listed[0]}: they may be computed from them, as where a batch norm is folded into a kernel. Then gradients "
        "and updates are those of other parameters, and cannot be compared. Give both programs the same parameters"
    )
