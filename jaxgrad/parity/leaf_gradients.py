"""Whether the gradients agree, leaf by leaf, each under the permutation that its parameter shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from jaxgrad.parity.gradients import Side
from jaxgrad.parity.identify import Identified, agree, identify
from jaxgrad.parity.leaves import Group, LeafMatch, few_numbers, same_under_layout
from jaxgrad.parity.pairs import conjugated


@dataclass
class GradientMatch:
    """What comparing the gradients found.

    Attributes:
      match: of the parameters, with what the gradients told of it.
      wrong: pairs of a torch name and a JAX path whose gradients differ, with how far.
      conjugate: pairs of complex parameters whose gradients are each other's conjugates, with how far that is.
      tied: torch names and JAX paths that begin equal, fewer on one side, where they are one parameter.
      zero: torch names whose gradient is zero in every entry on both sides.
      notes: what was assumed.
      own: for torch names whose gradients agree and do not vanish, how far apart they are as the programs computed
        them, relative to the largest entry.
      same_bits: whether all gradients are equal bit for bit as the programs computed them.
      unproven: whether it was assumed which entry is which.
      certain: whether it can be no other.
    """

    match: LeafMatch
    wrong: list[tuple[str, str, float]] = field(default_factory=list)
    conjugate: list[tuple[str, str, float]] = field(default_factory=list)
    tied: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    own: dict[str, float] = field(default_factory=dict)
    same_bits: bool = True
    unproven: bool = False
    certain: bool = True


def compare_gradients(match: LeafMatch, torch: Side, jax: Side, losses_agree: bool = True) -> GradientMatch:
    """Compare the gradients of all parameters that have a counterpart.

    Args:
      match: of the parameters, by their entries.
      torch: the torch side.
      jax: the JAX side.
      losses_agree: where they do not, no gradient needs to, and leaves cannot be told apart by theirs.
    """
    shuffled = _some_layout_is_shuffled(match, torch, jax)
    settled = identify(match, torch, jax, shuffled) if losses_agree else Identified(_as_it_is(match, torch, jax))
    found = GradientMatch(
        settled.match, tied=settled.tied, notes=settled.notes, unproven=settled.unproven, certain=settled.certain
    )
    for name, path in settled.wrong:
        cut_otherwise = torch.values[name].size != jax.values[path].size
        apart = 1.0 if cut_otherwise else agree(torch, name, jax, path, shuffled)[1]
        found.wrong.append((name, path, apart))
    for group in settled.match.groups:
        if group.how == "joined":
            _joined(group, torch, jax, found)
        elif len(group.torch) == len(group.jax) == 1:
            same, apart, own = agree(torch, group.torch[0], jax, group.jax[0], shuffled)
            found.same_bits &= same and own == 0
            if same and torch.moves(group.torch[0]):
                found.own[group.torch[0]] = own
            if not same:
                pair = group.torch[0], group.jax[0]
                (found.conjugate if _conjugate(*pair, torch, jax) else found.wrong).append((*pair, apart))
    for group in settled.match.groups:
        if all(map(jax.vanishes, group.jax)):
            found.zero += filter(torch.vanishes, group.torch)
    return found


def _conjugate(name: str, path: str, torch: Side, jax: Side) -> bool:
    """Whether a complex parameter's gradient is the conjugate of the other's."""
    distance = max(torch.distance(name), jax.distance(path))
    ours, theirs = torch.slopes(name), jax.slopes(path)
    if not (torch.is_complex(name) and jax.is_complex(path)):
        return False
    known = torch.laid_out(name, jax, path)
    return same_under_layout(torch.values[name], ours, jax.values[path], conjugated(theirs), distance, known=known)[0]


def _as_it_is(match: LeafMatch, torch: Side, jax: Side) -> LeafMatch:
    """The match by entries alone, where gradients tell nothing.

    Leaves of zeros and ones are missed only where the other side has no such numbers: they may be cut otherwise there.
    """
    numbers = [
        {float(number) for each in side.values.values() if few_numbers(each) for number in np.unique(each)}
        for side in (torch, jax)
    ]

    def missed(side: Side, name: str, others: set[float]) -> bool:
        values = side.values[name]
        return not few_numbers(values) or name in match.broken or not others.issuperset(np.unique(values))

    return replace(
        match,
        only_torch=[name for name in match.only_torch if missed(torch, name, numbers[1])],
        only_jax=[path for path in match.only_jax if missed(jax, path, numbers[0])],
    )


def _some_layout_is_shuffled(match: LeafMatch, torch: Side, jax: Side) -> bool:
    """Whether some parameter has its entries in an order that no order of axes explains: gates, interleaved heads."""
    for group in match.groups:
        alone = group.how == "same" and len(group.torch) == 1
        if alone and not torch.laid_out(group.torch[0], jax, group.jax[0]):
            return True
    return False


def _relative(apart: float, slopes: Iterable[np.ndarray]) -> float:
    return apart / max(*(float(np.abs(each).max(initial=0.0)) for each in slopes), 1e-300)


def _joined(group: Group, torch: Side, jax: Side, found: GradientMatch) -> None:
    """Leaves cut otherwise: entry by entry."""
    assert group.entries is not None
    found.same_bits = False
    held = "the same entries, or sums of them," if group.entries.added else "the same entries"
    found.notes.append(f"{', '.join(group.torch[:4])} and {', '.join(group.jax[:4])} hold {held} in other leaves")
    slopes = ({n: torch.slopes(n) for n in group.torch}, {p: jax.slopes(p) for p in group.jax})
    apart = group.entries.apart(torch.values, slopes[0], jax.values, slopes[1])
    distance = max(*(torch.distance(name) for name in group.torch), *(jax.distance(path) for path in group.jax))
    if not apart <= distance:
        each = [*(torch.slopes(name) for name in group.torch), *(jax.slopes(path) for path in group.jax)]
        found.wrong.append((group.torch[0], group.jax[0], _relative(apart, each)))
