"""From two aligned data flows to the place where they part.

A torch value that was not found may lie in an internal difference, a fused operation or another formula, after which
the flows meet again. It is *lost* if it leads to a wrong root through values none of which was found. The flows part
at an operation that makes a lost value from none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxgrad.parity.align import Alignment, judged, says_little
from jaxgrad.parity.fingerprints import separation
from jaxgrad.parity.tape import Op, Tape
from jaxgrad.report.values import Site


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
      error: how far the nearest JAX value of the same size is from what torch computed, relative to the larger.
    """

    op: Op
    lost: int
    read: tuple[int, ...]
    jax_op: Op | None
    jax_draws: bool
    unshadowed: Op | None
    error: float


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


def _lost(tape: Tape, wrong: Iterable[int], is_found: Callable[[int], bool], backward: bool = False) -> set[int]:
    """The values from which a wrong root is computed through values none of which was found.

    Where only gradients are wrong (``backward``), a forward value from which a found one is computed led to the right
    loss, and is not lost; unless that one says little: a factor of zero hides what it multiplies.
    """

    def missing(i: int) -> bool:
        number = tape.values[i].op
        if number is None or not judged(tape.values[i]) or is_found(i):
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
    lost = _lost(torch, [i for i, _ in wrong], lambda i: bool(alignment.partners.get(i)), backward)
    ours = _lost(jax, [j for _, j in wrong if j is not None], lambda j: j in alignment.found)
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
        jax_op = _counterpart(torch, jax, alignment, op, ours)
        error = _nearest(torch, jax, made[0], ours)
        draws = _draws_below(jax, jax_op, ours)
        partings.append(Parting(op, made[0], read, jax_op, draws, blind[0] if blind else None, error))
    return partings


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


def _nearest(torch: Tape, jax: Tape, value: int, among: set[int]) -> float:
    ours = torch.values[value].summary.fingerprint
    found = [jax.values[j].summary.fingerprint for j in among if jax.values[j].size == torch.values[value].size]
    apart = [separation(ours, each) for each in found if ours is not None and each is not None]
    return min(apart, default=1.0)


def site_in(op: Op | None) -> Site | None:
    """The site of an operation, if there is one."""
    return op.site if op is not None else None
