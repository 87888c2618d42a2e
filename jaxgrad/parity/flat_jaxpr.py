"""A jaxpr as one list of equations, calls dissolved, of which any part can be run by itself, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.promote_jax import bind
from jaxgrad.parity.sites_jax import site_of
from jaxgrad.report.values import Site

Apply = Callable[[Any, list[Any]], list[Any]]
"""Runs one equation on the values of its inputs; returns those of its outputs."""

_LOOPS = {"scan", "while", "cond"}  # kept as they are here, and gone through one by one where they are run
_WHOLE = {"shard_map", "custom_linear_solve", "custom_root", "pallas_call", "reduce", "reduce_window", "scatter"}


@dataclass(frozen=True)
class Step:
    """One equation: the numbers of the values it reads and makes, and its place in somebody's code."""

    eqn: Any
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    site: Site


@dataclass
class FlatJaxpr:
    """Equations in order, on numbered values.

    Attributes:
      steps: the equations.
      inputs: the numbers of what the jaxpr is given.
      outputs: of what it returns.
      constants: what it holds itself, by number.
      whole: names of primitives that were not dissolved, though they only call.
    """

    steps: list[Step] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    constants: dict[int, Any] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    _count: int = 0

    def number(self) -> int:
        """A number for one more value."""
        self._count += 1
        return self._count - 1


def flatten(closed: Any, around: Site | None = None, whole: frozenset[str] = frozenset()) -> FlatJaxpr:
    """Dissolve the calls of a closed jaxpr: jit, custom derivatives, rematerialization. Loops stay equations.

    Args:
      closed: the jaxpr.
      around: the place that calls it.
      whole: names of primitives that stay equations too.
    """
    flat = FlatJaxpr(whole=whole)
    jaxpr, constants = _opened(closed)
    flat.inputs = tuple(flat.number() for _ in jaxpr.invars)
    flat.outputs = _spread(flat, jaxpr, constants, flat.inputs, around or Site("", "", "", 0))
    return flat


def _spread(
    flat: FlatJaxpr, jaxpr: Any, constants: Sequence[Any], given: Sequence[int], around: Site
) -> tuple[int, ...]:
    env: dict[Any, int] = dict(zip(jaxpr.invars, given, strict=True))
    for var, constant in zip(jaxpr.constvars, constants, strict=True):
        env[var] = flat.number()
        flat.constants[env[var]] = constant

    def read(atom: Any) -> int:
        if not isinstance(atom, jex.Literal):
            return env[atom]
        number = flat.number()
        flat.constants[number] = np.asarray(atom.val, atom.aval.dtype)  # pyright: ignore[reportAttributeAccessIssue]
        return number

    for eqn in jaxpr.eqns:
        reads = tuple(read(atom) for atom in eqn.invars)
        site = site_of(eqn, around)
        inner = _called(eqn) if eqn.primitive.name not in flat.whole else None
        if inner is not None:
            makes = _spread(flat, *_opened(inner), reads, site)
        else:
            makes = tuple(flat.number() for _ in eqn.outvars)
            flat.steps.append(Step(eqn, reads, makes, site))
        env.update(zip(eqn.outvars, makes, strict=True))
    return tuple(read(atom) for atom in jaxpr.outvars)


def _called(eqn: Any) -> Any:
    """The jaxpr that an equation only calls; None where it does more."""
    if eqn.primitive.name in _LOOPS | _WHOLE:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if hasattr(inner, "eqns") and len(_opened(inner)[0].invars) == len(eqn.invars):
            return inner
    return None


def _opened(closed: Any) -> tuple[Any, Sequence[Any]]:
    return (closed.jaxpr, closed.consts) if isinstance(closed, jex.ClosedJaxpr) else (closed, ())


def count_equations(jaxpr: Any) -> int:
    """How many equations there are, also inside; what a loop repeats is counted once."""
    jaxpr = _opened(jaxpr)[0]
    total = 0
    for eqn in jaxpr.eqns:
        inner = [each for value in eqn.params.values() for each in _jaxprs(value)]
        total += sum(map(count_equations, inner)) if inner else 1
    return total


def _jaxprs(value: Any) -> Iterator[Any]:
    for each in value if isinstance(value, (tuple, list)) else (value,):
        if hasattr(each, "eqns"):
            yield each


# --- running ----------------------------------------------------------------------------------------------------------


def run(flat: FlatJaxpr, given: Sequence[Any], apply: Apply = bind) -> dict[int, Any]:
    """All values of a jaxpr, by number, each equation run by itself, loops iteration by iteration."""
    env: dict[int, Any] = dict(flat.constants)
    env.update(zip(flat.inputs, given, strict=True))
    for step in flat.steps:
        env.update(zip(step.makes, _one(step.eqn, [env[i] for i in step.reads], apply), strict=True))
    return env


def results(flat: FlatJaxpr, given: Sequence[Any], apply: Apply = bind) -> list[Any]:
    """What a jaxpr returns, run as by ``run``."""
    env = run(flat, given, apply)
    return [env[i] for i in flat.outputs]


def _one(eqn: Any, values: list[Any], apply: Apply) -> list[Any]:
    name, p = eqn.primitive.name, eqn.params
    if name == "cond":
        branch = int(np.clip(int(values[0]), 0, len(p["branches"]) - 1))
        return results(flatten(p["branches"][branch]), values[1:], apply)
    if name == "while":
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        test, body = flatten(p["cond_jaxpr"]), flatten(p["body_jaxpr"])
        carry = values[m:]
        while bool(results(test, [*values[:n], *carry], apply)[0]):
            carry = results(body, [*values[n:m], *carry], apply)
        return carry
    if name == "scan":
        constants, carry, rows = scan_inputs(p, values)
        body = flatten(p["jaxpr"])
        stacked: list[list[Any]] = []
        for t in range(p["length"] - 1, -1, -1) if p["reverse"] else range(p["length"]):
            made = results(body, [*constants, *carry, *(row[t] for row in rows)], apply)
            carry = made[: len(carry)]
            stacked.append(made[len(carry) :])
        if p["reverse"]:
            stacked.reverse()
        if not stacked:
            return [*carry, *(jnp.zeros(var.aval.shape, var.aval.dtype) for var in eqn.outvars[len(carry) :])]
        return [*carry, *(jnp.stack([jnp.asarray(each) for each in column]) for column in zip(*stacked, strict=True))]
    return apply(eqn, values)


def scan_inputs(params: Any, inputs: Sequence[Any]) -> list[list[Any]]:
    """A scan's constants, its first carry, and what it scans over."""
    if "ft_in" in params:  # jax 0.12
        return [list(each) for each in params["ft_in"].update(inputs).unpack()]
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    return [list(inputs[:first]), list(inputs[first:second]), list(inputs[second:])]


# --- a part by itself -------------------------------------------------------------------------------------------------


def part_of(flat: FlatJaxpr, chosen: Sequence[int]) -> FlatJaxpr:
    """The equations of the given places; its inputs are what they read and do not make.

    What they make, and nobody in the part reads or the whole returns, are its outputs.
    """
    steps = [flat.steps[i] for i in chosen]
    made = {i for step in steps for i in step.makes}
    read = dict.fromkeys(i for step in steps for i in step.reads)
    wanted = {i for step in flat.steps for i in step.reads} | set(flat.outputs)
    outputs = tuple(i for i in sorted(made) if i in wanted and (i not in read or i in flat.outputs))
    constants = {i: flat.constants[i] for i in read if i in flat.constants}
    inputs = tuple(i for i in read if i not in made and i not in constants)
    return FlatJaxpr(steps, inputs, outputs, constants)


def as_function(flat: FlatJaxpr) -> Callable[..., list[Any]]:
    """A jaxpr as a function that can be traced: loops are loops."""

    def function(*given: Any) -> list[Any]:
        env = dict(flat.constants)
        env.update(zip(flat.inputs, given, strict=True))
        for step in flat.steps:
            env.update(zip(step.makes, bind(step.eqn, [env[i] for i in step.reads]), strict=True))
        return [env[i] for i in flat.outputs]

    return function
