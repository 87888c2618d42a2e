"""The operations at which two recorded updates part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxgrad.parity.align import Alignment, judged
from jaxgrad.parity.divergence import Parting, part
from jaxgrad.parity.fingerprints import agree
from jaxgrad.parity.tape import Tape, Value

ALIKE = 2.0**-40
"""Entries of one value are no farther apart than this of the largest, on the two sides."""


def part_updates(
    torch: Tape, first_op: int, jax: Tape, given: Mapping[int, Sequence[int]], wrong: tuple[int, int]
) -> Parting | None:
    """Where the flows to one new parameter part.

    Args:
      torch: the tape of the step, the update at its end.
      first_op: the first operation of the update on it.
      jax: the tape of the update.
      given: for torch's parameters and gradients, JAX's.
      wrong: the new parameter, torch's value and JAX's.

    Returns:
      The place; None if it cannot be told.
    """
    alignment = Alignment(
        {i: tuple(partners) for i, partners in given.items()}, {j for partners in given.values() for j in partners}
    )
    by_size: dict[int, list[Value]] = {}
    for value in jax.values:
        if value.summary.fingerprint is not None and value.live:
            by_size.setdefault(value.size, []).append(value)
    for op in torch.ops[first_op:]:
        for i in op.outputs:
            value = torch.values[i]
            if not judged(value) or i == wrong[0]:
                continue
            partners = tuple(other.index for other in by_size.get(value.size, ()) if _same(value, other))
            if partners:
                alignment.partners[i] = partners
                alignment.found.update(partners)
    alignment.partners[wrong[0]] = ()
    alignment.found.discard(wrong[1])
    # An update has one root, as a loss is one.
    partings = part(replace(torch, loss=wrong[0]), replace(jax, loss=wrong[1]), alignment, [wrong])
    return partings[0] if partings else None


def _same(a: Value, b: Value) -> bool:
    ours, theirs = a.summary.fingerprint, b.summary.fingerprint
    return ours is not None and theirs is not None and agree(ours, theirs, ALIKE * max(ours.largest, theirs.largest))
