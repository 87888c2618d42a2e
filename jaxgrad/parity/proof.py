"""Whether entries belong together that only the gradients of one batch told: other numbers are set on both sides.

Zeros that are added up, pieces of ones and zeros, leaves behind a factor of zero: what was assumed of them is taken for
true if both programs, given other numbers that fit it, have one loss and one gradient again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxgrad.parity.gradients import Side
from jaxgrad.parity.leaf_gradients import GradientMatch, compare_gradients
from jaxgrad.parity.leaves import Group, LeafMatch, few_numbers

Values = dict[str, np.ndarray]
At = Callable[[Values, LeafMatch], tuple[Side, Side, bool] | None]
"""Both sides with other numbers, torch's by name, carried to JAX by a match, and whether the losses agree; None where
a loss is not finite there."""

SAME = ", the same on both sides"
NUDGE, START = 0.25, 0.1
"""Numbers are moved by up to a quarter, so that they keep sign and size; zeros to within a tenth of zero."""


@dataclass(frozen=True)
class Proof:
    """What trying other numbers showed.

    Attributes:
      match: the one that holds; where none does, the one that was assumed.
      says: what does not hold; empty if all does.
      lone: a leaf of either side that has a gradient and no counterpart, torch's name first.
      certain: whether the leaves that were given other numbers can be no other pairs.
    """

    match: LeafMatch
    says: str = ""
    lone: tuple[str | None, str | None] = (None, None)
    certain: bool = False


def prove(match: LeafMatch, settled: LeafMatch, torch: Side, jax: Side, at: At) -> Proof:
    """Try what was assumed with other numbers; if it does not hold, look again where fewer gradients are zero.

    Args:
      match: of the parameters, by their entries alone.
      settled: the same with what the gradients told.
      torch: the torch side of the step.
      jax: the JAX side.
      at: runs both programs with other numbers.
    """
    random = np.random.default_rng(0)
    tried = _tried(settled, torch, at, random)
    if not tried.says:
        return tried
    certain = [group for group in settled.groups if _is_certain(group.torch, group.how, torch)]
    some = {name: torch.values[name] for group in certain for name in group.torch}
    sides = at(_moved(some, random), replace(settled, groups=certain))
    if sides is None:
        return replace(tried, match=settled)
    left, right, agree = sides
    if not agree:
        return Proof(settled, f"the losses differ once {_listed(certain)} hold other numbers{SAME}", certain=True)
    again = compare_gradients(match, left, right)
    if _apart(again, left, right):
        return replace(_failed(again, left, right), match=settled, certain=True)
    retried = _tried(again.match, torch, at, random)
    return replace(retried, match=settled, certain=again.certain) if retried.says else retried


def _listed(groups: Sequence[Group]) -> str:
    few = [f"torch's {', '.join(each.torch[:3])} and JAX's {', '.join(each.jax[:3])}" for each in groups[:2]]
    return "; ".join(few) or "leaves of zeros or ones"


def _tried(match: LeafMatch, torch: Side, at: At, random: np.random.Generator) -> Proof:
    """All parameters of a match get other numbers."""
    values = {name: torch.values[name] for group in match.groups for name in group.torch}
    sides = at(_moved(values, random), match)
    if sides is None:
        return Proof(match)
    left, right, agree = sides
    if not agree:
        told = [group for group in match.groups if group.how == "joined"]
        return Proof(match, f"the losses differ once {_listed(told)} hold other numbers{SAME}")
    found = compare_gradients(match, left, right)
    return _failed(found, left, right) if _apart(found, left, right) else Proof(match)


def _alone(found: GradientMatch, left: Side, right: Side) -> tuple[list[str], list[str]]:
    return [n for n in found.match.only_torch if left.moves(n)], [p for p in found.match.only_jax if right.moves(p)]


def _apart(found: GradientMatch, left: Side, right: Side) -> bool:
    return bool(found.wrong or found.tied or any(_alone(found, left, right)))


def _failed(found: GradientMatch, left: Side, right: Side) -> Proof:
    names, paths = _alone(found, left, right)
    if names or paths:
        lone = f"torch's {names[0]}" if names else f"JAX's {paths[0]}"
        says = f"{lone} has a gradient and no counterpart, once the other parameters hold other numbers"
        return Proof(found.match, says, (names[0] if names else None, paths[0] if paths else None))
    pair = found.wrong[0][:2] if found.wrong else (found.tied[0][0][0], found.tied[0][1][0])
    says = f"the gradients of torch's {pair[0]} and JAX's {pair[1]} differ once parameters hold other numbers"
    return Proof(found.match, f"{says}{SAME}")


def _is_certain(names: tuple[str, ...], how: str, torch: Side) -> bool:
    """Whether the entries of leaves, or a gradient of whole leaves, showed which is which."""
    telling = not any(few_numbers(torch.values[name]) for name in names)
    return telling or (how == "same" and all(map(torch.moves, names)))


def _moved(values: Values, random: np.random.Generator) -> Values:
    """Other numbers, all different."""
    found = {}
    for name, each in values.items():
        by = random.uniform(0.2, 1.0, each.shape) * random.choice((-1.0, 1.0), each.shape)
        found[name] = np.where(each == 0, START * by, each * (1 + NUDGE * by))
    return found
