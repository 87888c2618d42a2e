"""Torch value to JAX value: matched by their entries in float64, told apart from coincidence by the data flow."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from jaxgrad.parity.fingerprints import agree
from jaxgrad.parity.rounding import ALIKE, LEEWAY, MOST_NOISE, shadow_distance
from jaxgrad.parity.tape import Tape, Value


@dataclass
class Alignment:
    """Which values are the same on both sides.

    Attributes:
      partners: for each torch value that was found, the JAX values that it may be, in order.
      found: the JAX values that some torch value may be.
    """

    partners: dict[int, tuple[int, ...]] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)


def judged(value: Value) -> bool:
    """Whether a value takes part: floating, and computed from what the step was given."""
    return value.live and value.summary.fingerprint is not None and value.size > 0


def stands_by(value: Value) -> bool:
    """Whether a value is no result of parameters or data, and still says something: a table, a time embedding."""
    found = value.summary.fingerprint
    return not value.live and found is not None and value.size > 2 and not found.constant


def reach_of(value: Value) -> float:
    """How far from a value another one may be that is the same; noise beyond use is not taken for leeway."""
    found = value.summary.fingerprint
    assert found is not None
    return shadow_distance(found.largest, min(value.summary.noise, MOST_NOISE / LEEWAY * found.largest))


def same_value(a: Value, b: Value) -> bool:
    """Whether two values have the same entries in some order, as far as float64 can tell."""
    first, second = a.summary.fingerprint, b.summary.fingerprint
    return first is not None and second is not None and agree(first, second, max(reach_of(a), reach_of(b)))


class _Index:
    """JAX's values by size and by the size of a typical entry; those that may be far from it apart from the others."""

    def __init__(self, tape: Tape, takes: Callable[[Value], bool] = judged):
        self._rows: dict[tuple[int, bool], list[tuple[float, int]]] = {}
        self._widest: dict[int, float] = {}
        for value in tape.values:
            if takes(value):
                found = value.summary.fingerprint
                assert found is not None
                reach = reach_of(value)
                noisy = reach > 2 * ALIKE * found.largest
                self._rows.setdefault((value.size, noisy), []).append((found.root_mean_square, value.index))
                if noisy:
                    self._widest[value.size] = max(self._widest.get(value.size, 0.0), reach)
        for rows in self._rows.values():
            rows.sort()
        self._sizes = {size for size, _ in self._rows}
        self._tape = tape

    def like(self, value: Value) -> Iterable[Value]:
        """The values that may have the same entries, those of the same size first, in the order they were made."""
        sizes = [size for size in self._sizes if not max(size, value.size) % min(size, value.size)]
        for size in sorted(sizes, key=lambda size: (size != value.size, size)):
            near = [*self._near(size, False, value), *self._near(size, True, value)]
            yield from (self._tape.values[index] for _, index in sorted(near, key=lambda row: row[1]))

    def _near(self, size: int, noisy: bool, value: Value) -> list[tuple[float, int]]:
        """Entries that move by at most a distance move their root mean square by no more than that."""
        rows = self._rows.get((size, noisy), [])
        found = value.summary.fingerprint
        assert found is not None
        reach = max(reach_of(value), 2 * ALIKE * found.largest, self._widest.get(size, 0.0) if noisy else 0.0)
        reach += 1e-12 * found.root_mean_square
        key = found.root_mean_square
        return rows[bisect_left(rows, (key - reach, -1)) : bisect_right(rows, (key + reach, 1 << 60))]


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
    index = _Index(jax)
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
        for i in op.outputs:
            value = torch.values[i]
            roots[i] = origins
            if not judged(value):
                continue
            # What leads to the loss must lead to it there too: JAX computes slopes beside the forward values.
            forward = op.stage != "gradient" and to_torch_loss >> i & 1
            candidates = []
            for candidate in index.like(value):
                j = candidate.index
                if (forward and not to_loss >> j & 1) or not same_value(value, candidate):
                    continue
                line = above[j] | (1 << j)
                meets = [bool(line & masks[source]) for source in origins]
                unchanged = [source for source in origins if masks[source] >> j & 1]
                if unchanged and not any(source in op.inputs for source in unchanged):
                    continue  # back to where it started by a detour that was not found: no evidence for the detour
                need = all if unchanged or says_little(value) else any
                if meets and need(meets):
                    candidates.append(j)
            if candidates:
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
    index = _Index(jax, stands_by)
    for value in torch.values:
        if stands_by(value) and value.index not in made.partners:
            same = tuple(each.index for each in index.like(value) if same_value(value, each))
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
