"""The smallest part of a program that still shows a fault, by leaving equations out (delta debugging)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxgrad.parity.flat_jaxpr import FlatJaxpr, flatten, part_of, results, run, scan_inputs
from jaxgrad.report.values import Site

SECONDS = 30.0
"""So long is looked for a smaller part; each try compiles one."""

ITERATIONS = 4
"""In so many iterations of a loop its body is tried by itself."""


def smallest_part(
    flat: FlatJaxpr,
    given: Sequence[Any],
    shows: Callable[[FlatJaxpr, Sequence[Any]], bool],
    until: float | None = None,
) -> tuple[FlatJaxpr, list[Any]] | None:
    """Leave out equations as long as the fault shows; what the rest read of them is given instead.

    Args:
      flat: the program.
      given: its inputs.
      shows: whether a program shows the fault on some inputs.
      until: when to stop, by ``time.monotonic``.

    Returns:
      The part with its inputs, those that the equations have when each is run by itself; None where even the whole,
      with its calls dissolved, does not show the fault.
    """
    until = time.monotonic() + SECONDS if until is None else until
    env = run(flat, given)

    def inputs(part: FlatJaxpr) -> list[Any]:
        return [env[i] for i in part.inputs]

    def tried(chosen: Sequence[int]) -> FlatJaxpr | None:
        part = part_of(flat, chosen)
        return part if part.outputs and shows(part, inputs(part)) else None

    kept = list(range(len(flat.steps)))
    found = tried(kept)
    if found is None:
        return None
    size = max(1, len(kept) // 2)
    while True:
        before = len(kept)
        at = 0
        while at < len(kept) and time.monotonic() < until:
            fewer = kept[:at] + kept[at + size :]
            part = tried(fewer) if fewer else None
            if part is not None:
                kept, found = fewer, part
            else:
                at += size
        if time.monotonic() >= until or (size == 1 and len(kept) == before):
            break
        size = max(1, size // 2)
    if len(found.steps) == 1:
        step = found.steps[0]
        for inner, values in _insides(step.eqn, [env[i] for i in step.reads], step.site):
            smaller = smallest_part(inner, values, shows, until) if time.monotonic() < until else None
            if smaller is not None:
                return smaller
    return found, inputs(found)


def _insides(eqn: Any, values: list[Any], site: Site) -> Iterator[tuple[FlatJaxpr, list[Any]]]:
    """What a loop runs, with the inputs of its first iterations; the branch that a condition takes."""
    name, p = eqn.primitive.name, eqn.params
    if name == "cond":
        branch = min(max(int(values[0]), 0), len(p["branches"]) - 1)
        yield flatten(p["branches"][branch], site), values[1:]
    elif name == "scan":
        constants, carry, rows = scan_inputs(p, values)
        body = flatten(p["jaxpr"], site)
        steps = range(p["length"])
        for t in list(reversed(steps) if p["reverse"] else steps)[:ITERATIONS]:
            inputs = [*constants, *carry, *(row[t] for row in rows)]
            yield body, inputs
            carry = results(body, inputs)[: len(carry)]
    elif name == "while":
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        test, body = flatten(p["cond_jaxpr"], site), flatten(p["body_jaxpr"], site)
        carry = values[m:]
        for _ in range(ITERATIONS):
            if not bool(results(test, [*values[:n], *carry])[0]):
                return
            inputs = [*values[n:m], *carry]
            yield body, inputs
            carry = results(body, inputs)
