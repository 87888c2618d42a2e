"""Values that one side computes whole and the other in pieces: a batch that is split into parts in the loss.

The sums of powers in a fingerprint add up, so the pieces are found without the arrays: values that one line of the
program made again and again, and whose fingerprints together are that of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxgrad.parity.align import Alignment, judged, says_little
from jaxgrad.parity.fingerprints import FEW, Fingerprint, agree
from jaxgrad.parity.tape import Tape, Value
from jaxgrad.parity.value_index import reach_of

_POWERS = np.asarray([1.0, 1.0, 2.0, 3.0, 4.0])  # of the moments of a fingerprint


def join_pieces(torch: Tape, jax: Tape, alignment: Alignment) -> dict[int, int]:
    """Note the partners of forward values that the other side has in pieces.

    Args:
      torch: the tape of the torch step.
      jax: the tape of the JAX step.
      alignment: of the two; what was not found in it is looked for, the losses excepted.

    Returns:
      For each torch value that was found now, in how many pieces it, or what it is a piece of, is computed.
    """
    made: dict[int, int] = {}
    ours = {i for i in _forward(torch) if not alignment.partners.get(i)}
    theirs = {j for j in _forward(jax) if j not in alignment.found}
    for i, pieces in _whole_in_pieces(torch, ours | _given(torch), jax, theirs):
        alignment.partners[i] = (*alignment.partners.get(i, ()), *pieces)
        alignment.found.update(pieces)
        made[i] = len(pieces)
    for j, pieces in _whole_in_pieces(jax, theirs | _given(jax), torch, ours):
        for i in pieces:
            alignment.partners[i] = (j,)
            made[i] = len(pieces)
        alignment.found.add(j)
    return made


def _forward(tape: Tape) -> list[int]:
    return [
        i
        for op in tape.ops
        if op.stage != "gradient"
        for i in op.outputs
        if i != tape.loss and judged(tape.values[i]) and not says_little(tape.values[i])
    ]


def _given(tape: Tape) -> set[int]:
    """What the step was given, of which the pieces may be slices."""
    return {i for i in tape.leaves.values() if judged(tape.values[i]) and not says_little(tape.values[i])}


def _whole_in_pieces(
    one: Tape, wholes: set[int], other: Tape, parts: set[int]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    by_size: dict[int, list[Value]] = {}
    for i in sorted(wholes):
        by_size.setdefault(one.values[i].size, []).append(one.values[i])
    for pieces in _repeated(other, parts):
        values = [other.values[j] for j in pieces]
        fitting = by_size.get(sum(value.size for value in values), [])
        joined = _joined(values) if fitting else None
        for whole in fitting:
            found = whole.summary.fingerprint
            if joined is not None and found is not None and agree(found, joined, max(map(reach_of, (whole, *values)))):
                by_size[whole.size].remove(whole)
                yield whole.index, pieces
                break


def _repeated(tape: Tape, parts: set[int]) -> Iterator[tuple[int, ...]]:
    """Values that one line made again and again; with several layers on it, those of each layer."""
    lines: dict[tuple[object, ...], list[int]] = {}
    for op in tape.ops:
        for place, i in enumerate(op.outputs):
            if i in parts:
                lines.setdefault((op.name, op.site.file, op.site.line, op.site.library, place), []).append(i)
    for made in lines.values():
        for count in range(2, len(made) + 1):
            if len(made) % count == 0:
                layers = len(made) // count
                yield from (tuple(made[layer::layers]) for layer in range(layers))


def _joined(values: Sequence[Value]) -> Fingerprint | None:
    """The fingerprint of all their entries together; None where some stand for infinity, or are none."""
    found = [value.summary.fingerprint for value in values]
    parts = [each for each in found if each is not None and not any(each.unusual) and not each.extreme[0]]
    if len(parts) != len(values):
        return None
    size, largest = sum(each.size for each in parts), max(each.largest for each in parts)
    if not largest:
        return None
    moments = sum(each.size * each.moments * (each.largest / largest) ** _POWERS for each in parts) / size
    low, high = min(each.low for each in parts), max(each.high for each in parts)
    kept = all(each.entries.size == each.size for each in parts) and size <= FEW
    entries = np.sort(np.concatenate([each.entries for each in parts])) if kept else np.zeros(0)
    return Fingerprint(size, (0, 0, 0), (0, 0.0, 0.0), low, high, np.asarray(moments), entries)
