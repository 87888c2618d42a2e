"""From two aligned data flows to the place where they part.

A torch value that was not found may lie in an internal difference, a fused operation or another formula, after which
the flows meet again. It is *lost* if it leads to a wrong root through values none of which was found. The flows part
at an operation that makes a lost value from none.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from jaxgrad.parity.align import Alignment, judged, says_little, stands_by
from jaxgrad.parity.fingerprints import separation
from jaxgrad.parity.layout import same_layout
from jaxgrad.parity.tape import Op, Tape
from jaxgrad.parity.value_index import reach_of


@dataclass(frozen=True)
class Parting:
    """Where the flows part.

    Attributes:
      op: the torch operation whose result is lost, though all that it read was found.
      lost: its result.
      read: what it read that was found, values of the torch tape.
      jax_op: the JAX operation that stands there; None if there is none.
      jax_draws: whether the JAX side uses random numbers there.
      unshadowed: an operation on the way to the wrong root, on either side, that could not be run in float64.
      theirs: the JAX value that the lost one is held against; None if JAX makes nothing of its size there.
      unused: what the torch operation reads and that JAX value does not depend on, values of the torch tape.
      error: how far it is from what torch computed, relative to the larger; 1 if there is none.
      reordered: what both operations read with the same entries in other places, values of the torch tape; known where
        the two were watched.
    """

    op: Op
    lost: int
    read: tuple[int, ...]
    jax_op: Op | None
    jax_draws: bool
    unshadowed: Op | None
    theirs: int | None
    unused: tuple[int, ...]
    error: float
    reordered: tuple[int, ...] = ()


def _upstream(tape: Tape, starts: Iterable[int], through: Callable[[int], bool]) -> set[int]:
    """The values from which the starts are computed through values for which ``through`` holds, the starts included."""
    seen: set[int] = set()
    stack = [i for i in starts if through(i)]
    while stack:
        i = stack.pop()
        if i in seen:
            continue
        seen.add(i)
        number = tape.values[i].op
        if number is not None:
            stack += [j for j in tape.ops[number].inputs if j not in seen and through(j)]
    return seen


def _lost(
    tape: Tape,
    wrong: Iterable[int],
    is_found: Callable[[int], bool],
    backward: bool = False,
    tables: Container[int] = (),
) -> set[int]:
    """The values from which a wrong root is computed through values none of which was found.

    Where only gradients are wrong (``backward``), a forward value from which a found one is computed led to the right
    loss, and is not lost; unless that one says little: a factor of zero hides what it multiplies. Of what is made of
    integers and constants alone, only values in ``tables`` can be lost.
    """

    def missing(i: int) -> bool:
        number = tape.values[i].op
        if number is None or is_found(i) or not (judged(tape.values[i]) or i in tables):
            return False
        # What a kernel returns beside its result (a log-sum-exp) is its own affair, if the result was found.
        result = tape.ops[number].outputs[0]
        return i == result or not is_found(result)

    lost = _upstream(tape, wrong, missing)
    if not backward:
        return lost
    rejoining: list[int] = []
    for op in tape.ops:
        shown = [i for i in op.outputs if judged(tape.values[i]) and is_found(i) and not says_little(tape.values[i])]
        if shown and op.stage != "gradient":
            rejoining += op.inputs
    excused = _upstream(tape, rejoining, missing)
    return lost - {i for i in excused if tape.ops[tape.values[i].op or 0].stage != "gradient"}


def part(torch: Tape, jax: Tape, alignment: Alignment, wrong: list[tuple[int, int | None]]) -> list[Parting]:
    """The places where two flows part, the first one first.

    Args:
      torch: the tape of the torch step.
      jax: the tape of the JAX step.
      alignment: of the two.
      wrong: the roots that differ, each with its JAX counterpart, if there is one.

    Returns:
      One ``Parting`` for each operation that makes a lost value from values none of which is lost; empty if the roots
      differ though each was found (a permuted gradient).
    """
    backward = torch.loss not in {i for i, _ in wrong}
    tables, their_tables = _unlike_tables(torch, jax, alignment)
    lost = _lost(torch, [i for i, _ in wrong], lambda i: bool(alignment.partners.get(i)), backward, tables)
    counterparts = [j for _, j in wrong if j is not None]
    ours = _lost(jax, counterparts, lambda j: j in alignment.found)
    with_tables = _lost(jax, counterparts, lambda j: j in alignment.found, tables=their_tables)
    blind = [
        op
        for tape, some in ((torch, lost), (jax, ours))
        for op in tape.ops
        if not op.shadowed and any(i in some for i in op.outputs)
    ]
    partings = []
    for op in torch.ops:
        made = [i for i in op.outputs if i in lost]
        if not made or any(i in lost for i in op.inputs):
            continue
        read = tuple(i for i in op.inputs if alignment.partners.get(i))
        jax_op = _counterpart(torch, jax, alignment, op, with_tables if made[0] in tables else ours)
        theirs, error = _answer(torch, jax, alignment, op, made[0], dict(wrong))
        unused = _unused(jax, alignment, read, theirs)
        draws = _draws_below(jax, jax_op, ours)
        found = _reordered(torch, jax, alignment, op, jax_op)
        unable = blind[0] if blind else None
        partings.append(Parting(op, made[0], read, jax_op, draws, unable, theirs, unused, error, found))
    return partings


def _reordered(torch: Tape, jax: Tape, alignment: Alignment, op: Op, jax_op: Op | None) -> tuple[int, ...]:
    """What two operations read that has the same entries in other places."""
    ours = torch.operands.get(number_of(torch, op), {})
    theirs = jax.operands.get(number_of(jax, jax_op), {}) if jax_op is not None else {}
    found = []
    for i, array in ours.items():
        both = [theirs[j] for j in alignment.partners.get(i, ()) if j in theirs]
        distance = reach_of(torch.values[i]) if torch.values[i].summary.fingerprint is not None else 0.0
        if both and all(same_layout(array, each, distance) is False for each in both):
            found.append(i)
    return tuple(found)


def number_of(tape: Tape, op: Op) -> int:
    """The place of an operation in its tape."""
    return next(number for number, each in enumerate(tape.ops) if each is op)


def _unlike_tables(torch: Tape, jax: Tape, alignment: Alignment) -> tuple[set[int], set[int]]:
    """Tables (made of integers and constants alone) that were not found, of a size that both sides have.

    Only those that are made of something that was found: a table that one side has written out has no way to it.
    """

    def unlike(tape: Tape, is_found: Callable[[int], bool]) -> set[int]:
        below: set[int] = set()
        for op in tape.ops:
            if any(is_found(i) or i in below for i in op.inputs):
                below.update(op.outputs)
        return {value.index for value in tape.values if stands_by(value) and not is_found(value.index)} & below

    ours = unlike(torch, lambda i: bool(alignment.partners.get(i)))
    theirs = unlike(jax, lambda j: j in alignment.found)
    sizes = {torch.values[i].size for i in ours} & {jax.values[j].size for j in theirs}
    return {i for i in ours if torch.values[i].size in sizes}, {j for j in theirs if jax.values[j].size in sizes}


def _counterpart(torch: Tape, jax: Tape, alignment: Alignment, op: Op, lost: set[int]) -> Op | None:
    """The JAX operation that makes a lost value from none, and reads what the torch operation reads."""
    near = _found_sources(torch, alignment, op)
    firsts = [
        each for each in jax.ops if any(j in lost for j in each.outputs) and not any(j in lost for j in each.inputs)
    ]
    stage = [each for each in firsts if (each.stage == "gradient") == (op.stage == "gradient")] or firsts

    def meets(each: Op) -> int:
        return sum(any(j in each.inputs for j in partners) for partners in near)

    if stage and max(map(meets, stage)) > 0:
        return max(stage, key=meets)
    if stage:
        wanted = {j for partners in near for j in partners}
        below = [each for each in stage if _upstream(jax, each.inputs, lambda j: True) & wanted]
        return (below or stage)[0]
    partners = [j for found in near for j in found if jax.values[j].op is not None]
    return jax.ops[jax.values[partners[-1]].op] if partners else None  # pyright: ignore[reportArgumentType, reportCallIssue]


def _draws_below(jax: Tape, op: Op | None, lost: set[int]) -> bool:
    """Whether an operation, or what follows it entry by entry, uses random numbers: a dropout keeps the shape."""
    if op is None:
        return False
    below = {j for j in op.outputs if j in lost}
    sizes = {jax.values[j].size for j in below}
    for each in jax.ops:
        if below & set(each.inputs):
            below |= {j for j in each.outputs if j in lost and jax.values[j].size in sizes}
    return any(jax.values[j].random for j in below)


def _found_sources(torch: Tape, alignment: Alignment, op: Op) -> list[tuple[int, ...]]:
    """The partners of what an operation read; where it read an internal value, of what that came from."""
    sources: list[int] = []
    stack, seen = list(op.inputs), set()
    while stack:
        i = stack.pop()
        if i in seen or not torch.values[i].live:
            continue
        seen.add(i)
        number = torch.values[i].op
        if alignment.partners.get(i):
            sources.append(i)
        elif number is not None:
            stack += torch.ops[number].inputs
    return [alignment.partners[i] for i in sorted(sources)]


def _answer(
    torch: Tape, jax: Tape, alignment: Alignment, op: Op, lost: int, roots: dict[int, int | None]
) -> tuple[int | None, float]:
    """The JAX value to hold a lost one against, and how far apart the two are.

    A root is held against its counterpart. Anything else against the nearest of those values of its size that JAX
    computes from all that the operation read, or else from most of it.
    """
    root = roots.get(lost)
    if root is not None and jax.values[root].size == torch.values[lost].size:
        return root, _apart(torch, jax, lost, root) or 1.0
    near = _found_sources(torch, alignment, op)
    used = {j for partners in near for j in partners}
    reached = _reached(jax, near)
    fitting = {
        value.index: reached[value.index].bit_count()
        for value in jax.values
        if value.op is not None
        and value.size == torch.values[lost].size
        and value.summary.fingerprint is not None
        and value.index not in used
        and (reached[value.index] or not near)
        and (jax.ops[value.op].stage == "gradient") == (op.stage == "gradient")
    }
    most = max(fitting.values(), default=0)
    apart = {j: _apart(torch, jax, lost, j) for j, count in fitting.items() if count == most}
    apart = {j: error for j, error in apart.items() if error > 0}
    if not apart:
        return None, 1.0
    nearest = min(apart, key=lambda j: apart[j])
    return nearest, apart[nearest]


def _unused(jax: Tape, alignment: Alignment, read: tuple[int, ...], theirs: int | None) -> tuple[int, ...]:
    if theirs is None:
        return ()
    above = jax.above(theirs)
    return tuple(i for i in read if above.isdisjoint(alignment.partners[i]))


def _reached(jax: Tape, sources: list[tuple[int, ...]]) -> list[int]:
    """For each JAX value which of the sources it is computed from, as the bits of a number."""
    reached = [0] * len(jax.values)
    for bit, partners in enumerate(sources):
        for j in partners:
            reached[j] |= 1 << bit
    for op in jax.ops:
        line = 0
        for j in op.inputs:
            line |= reached[j]
        for j in op.outputs:
            reached[j] |= line
    return reached


def _apart(torch: Tape, jax: Tape, ours: int, theirs: int) -> float:
    one, other = torch.values[ours].summary.fingerprint, jax.values[theirs].summary.fingerprint
    return separation(one, other) if one is not None and other is not None else 0.0
