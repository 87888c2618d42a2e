"""Torch value to JAX value: matched by their entries in float64, told apart from coincidence by the data flow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from jaxgrad.parity.tape import Tape, Value
from jaxgrad.parity.value_index import ValueIndex, same_value


@dataclass
class Alignment:
    """Which values are the same on both sides.

    Attributes:
      partners: for each torch value that was found, the JAX values that it may be, in order.
      found: the JAX values that some torch value may be.
    """

    partners: dict[int, tuple[int, ...]] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)


MOST_CANDIDATES = 64
"""So many JAX values that one torch value may be are kept, the nearest ones.

In a loop whose gradients fade, those of hundreds of steps are one number within what float64 tells. Any of them stands
for all: what follows from one is as near to what follows from another."""


def judged(value: Value) -> bool:
    """Whether a value takes part: floating, and computed from what the step was given."""
    return value.live and value.summary.fingerprint is not None and value.size > 0


def stands_by(value: Value) -> bool:
    """Whether a value is no result of parameters or data, and still says something: a table, a time embedding.

    A mask of infinities is a decision: the other side may have it as booleans.
    """
    found = value.summary.fingerprint
    if value.live or found is None or found.constant or any(found.unusual) or found.extreme[0]:
        return False
    return value.size > 2


def align(torch: Tape, jax: Tape, leaves: Mapping[int, tuple[int, ...]]) -> Alignment:
    """Find each torch value on the JAX side.

    A candidate has the same entries in some order, and depends on what the torch value was computed from. A value that
    says little (a constant array, a round number), or that went in unchanged, must depend on *all* of it, any other on
    some of it.

    Args:
      torch: the tape of the torch step.
      jax: the tape of the JAX step.
      leaves: for the torch values that the step was given, their partners.

    Returns:
      The alignment. The losses are partners of each other or of nothing.
    """
    index = ValueIndex(jax, judged)
    above = _ancestors(jax)
    to_loss = above[jax.loss] | (1 << jax.loss)
    to_torch_loss = _ancestors(torch)[torch.loss] | (1 << torch.loss)
    made = Alignment(dict(leaves), {j for partners in leaves.values() for j in partners})
    masks = {i: _bits(partners) for i, partners in leaves.items()}  # the partners, as the bits of a number
    roots: dict[int, tuple[int, ...]] = {}  # for each torch value, the matched values that it was computed from

    def sources(value: int) -> tuple[int, ...]:
        if made.partners.get(value):
            return (value,)
        return roots.get(value, ())

    for op in torch.ops:
        read = [i for i in op.inputs if torch.values[i].live]
        origins = tuple(dict.fromkeys(source for i in read for source in sources(i)))
        origin_mask = 0
        for source in origins:
            origin_mask |= masks[source]
        for i in op.outputs:
            value = torch.values[i]
            roots[i] = origins
            if not judged(value):
                continue
            # What leads to the loss must lead to it there too: JAX computes slopes beside the forward values.
            forward = op.stage != "gradient" and to_torch_loss >> i & 1
            little = says_little(value)
            candidates = []
            for j in index.same(value):
                if forward and not to_loss >> j & 1:
                    continue
                unchanged = origin_mask >> j & 1
                if unchanged and not any(masks[source] >> j & 1 for source in origins if source in op.inputs):
                    continue  # back to where it started by a detour that was not found: no evidence for the detour
                line = above[j] | (1 << j)
                some = bool(line & origin_mask)
                if some and not ((unchanged or little) and any(not line & masks[source] for source in origins)):
                    candidates.append(j)
                    if len(candidates) == MOST_CANDIDATES:
                        break
            if candidates:
                candidates.sort(key=lambda j: (jax.values[j].size != value.size, j))
                made.found.update(candidates)
                made.partners[i] = tuple(candidates)
                masks[i] = _bits(candidates)
    _match_tables(torch, jax, made)
    agreed = same_value(torch.values[torch.loss], jax.values[jax.loss])
    made.partners[torch.loss] = (jax.loss,) if agreed else ()
    if agreed:
        made.found.add(jax.loss)
    else:
        made.found.discard(jax.loss)
    return made


def _match_tables(torch: Tape, jax: Tape, made: Alignment) -> None:
    """Find what is made of integers and constants alone. It has no origin that could be held against another."""
    index = ValueIndex(jax, stands_by)
    for value in torch.values:
        if stands_by(value) and value.index not in made.partners:
            same = tuple(sorted(islice(index.same(value), MOST_CANDIDATES)))
            if same:
                made.partners[value.index] = same
                made.found.update(same)


def _bits(values: Iterable[int]) -> int:
    found = 0
    for value in values:
        found |= 1 << value
    return found


def says_little(value: Value) -> bool:
    """Whether so many values look like this one that the entries alone prove nothing: one round number, or noise."""
    found = value.summary.fingerprint
    assert found is not None
    if found.largest <= 1e-9 * value.summary.scale:
        return True
    mantissa = math.frexp(found.high)[0] * 2.0**24
    return found.constant and mantissa == round(mantissa)


def _ancestors(tape: Tape) -> list[int]:
    """For each value the set of values it was computed from, as the bits of a number."""
    above = [0] * len(tape.values)
    for op in tape.ops:
        line = 0
        for i in op.inputs:
            line |= above[i] | (1 << i)
        for i in op.outputs:
            above[i] = line
    return above


def coverage(tape: Tape, alignment: Alignment, stages: tuple[str, ...]) -> float:
    """The share of torch's floating values of some stages that were found on the JAX side."""
    values = [i for op in tape.ops if op.stage in stages for i in op.outputs if judged(tape.values[i])]
    return sum(bool(alignment.partners.get(i)) for i in values) / len(values) if values else 1.0
