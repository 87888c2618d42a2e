"""The third program: what XLA makes of a step under ``jax.jit``, held against the same step run operation by operation.

A port may be right, and the compiled program wrong. Compiled code may round otherwise, fuse, and add up in another
order; whether that explains a difference is found by running the program with its rounding drawn at random
(``random_rounding``), so only where a result is further off than a few times what the other runs are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.flat_jaxpr import FlatJaxpr, as_function, count_equations, flatten, results
from jaxgrad.parity.random_rounding import distance, spread
from jaxgrad.parity.smallest_part import smallest_part
from jaxgrad.report.values import Cause, Divergence, Site

MOST_EQUATIONS = 1000
"""So many equations are compiled without being asked: some four seconds. Measured on the jaxprs of 55 ports, of 17 to
291 equations, forward and backward: 1.7 to 14.5 ms an equation on one CPU, the median 4 ms."""

RUNS = 3
"""How often a compiled program is run: one that reads what it should not gives other numbers each time."""

QUICK = 4.0
"""A result no further off than so many times what the other runs are off, or a unit of its dtype, needs no closer look.

Over 79 correct ports, whose programs have 492 results, all but two are at most 0.57 of this; the two, of a chaotic map,
are at 3.5, and at 0.001 of what the closer look allows.
"""

Compile = Callable[[Callable[..., Any], Sequence[Any], dict[str, Any] | None], Callable[..., Any]]
"""Compiles a function for given arguments, with compiler options."""

WAYS_OUT: tuple[dict[str, Any], ...] = (
    {"xla_cpu_experimental_ynn_fusion_type": ""},
    {"xla_cpu_enable_fast_math": False},
    {"xla_allow_excess_precision": False},
    {"xla_gpu_enable_triton_gemm": False},
    {"xla_disable_hlo_passes": "fusion"},
    {"xla_disable_hlo_passes": "algsimp"},
    {"xla_backend_optimization_level": 0},
)
"""Options that leave out what may be at fault, the narrowest first; one that a jaxlib does not know is passed over."""


@dataclass(frozen=True)
class Target:
    """A program to compile, and what its results are when it is run operation by operation.

    Attributes:
      what: ``"loss and gradients"``, ``"loss"`` or ``"update"``.
      closed: its jaxpr.
      given: its inputs.
      names: of its results, as a person knows them: ``"the loss"``, ``"the gradient of ['w']"``.
      own: its results, each operation run by itself, in the program's own precision.
      shadows: its results in float64.
    """

    what: str
    closed: jex.ClosedJaxpr
    given: Sequence[Any]
    names: Sequence[str]
    own: Sequence[np.ndarray]
    shadows: Sequence[np.ndarray]


def compile_xla(
    function: Callable[..., Any], given: Sequence[Any], options: dict[str, Any] | None
) -> Callable[..., Any]:
    """``jax.jit`` of a function, compiled for given arguments."""
    return jax.jit(function).lower(*given).compile(compiler_options=options)


class CompiledPrograms:
    """Judges compiled programs, step by step; what was compiled is kept for later steps.

    Args:
      wanted: True to compile whatever is there, None to compile what is cheap.
      compiler: what compiles.
    """

    def __init__(self, wanted: bool | None, compiler: Compile = compile_xla):
        self._wanted, self._compile = wanted, compiler
        self._kept: dict[str, tuple[str, Sequence[Any], Callable[..., Any]]] = {}

    def judge(self, step: int, target: Target, torch: Site, notes: list[str]) -> list[Divergence]:
        """Hold a compiled program against the others.

        Args:
          step: counted from 1.
          target: the program.
          torch: the place in torch's program that its first result belongs to.
          notes: what is to be said beside; appended to.

        Returns:
          At most one divergence, of stage ``"compiled"``.
        """
        if target.closed.effects:
            notes.append(f"jax.jit of the {target.what} was not judged: it calls back into Python")
            return []
        size = count_equations(target.closed)
        if self._wanted is None and size > MOST_EQUATIONS:
            notes.append(
                f"jax.jit of the {target.what} was not judged: to compile its {size} operations takes long. "
                "Pass compiled=True to have it judged."
            )
            return []
        if not any(np.size(each) for each in target.own):
            return []
        runs = _runs(self._compiled(target), target.given)
        varies = any(_bits(each) != _bits(runs[0]) for each in runs)
        wrong = _worst(target, runs)
        if wrong is None:
            if varies:
                notes.append(
                    f"jax.jit of the {target.what} gives other bits each time it is run, within rounding: "
                    "some operation in it is not deterministic"
                )
            return []
        return [self._told(step, target, wrong, varies, torch)]

    def _compiled(self, target: Target) -> Callable[..., Any]:
        text, constants = str(target.closed.jaxpr), target.closed.consts
        kept = self._kept.get(target.what)
        if kept is None or kept[0] != text or not _equal(kept[1], constants):
            made = self._compile(jex.jaxpr_as_fun(target.closed), target.given, None)
            kept = self._kept[target.what] = text, constants, made
        return kept[2]

    def _told(
        self, step: int, target: Target, wrong: tuple[int, float, float], varies: bool, torch: Site
    ) -> Divergence:
        number, apart, more = wrong
        flat = flatten(target.closed)
        message = (
            "the port is right, what XLA made of it is not: run operation by operation it agrees with torch, and "
            f"under jax.jit {target.names[number]} is off by {apart:.3g} of its size, {_times(more)} what rounding "
            "explains"
        )
        if varies:
            message += "; it is not deterministic: the same compiled program gives other numbers each time it is run"
        way_out = self._way_out(target)
        if way_out is not None:
            message += f". {way_out} removes it"
        found = smallest_part(flat, target.given, self._shows)
        site, cause = (flat.steps[-1].site if flat.steps else Site("jit", "", "", 0)), None
        if found is not None:
            part = found[0]
            site = part.steps[-1].site
            cause = Cause("miscompiled", _described(part, len(flat.steps)), self._evidence(*found))
        return Divergence(step, "compiled", torch, site, apart, cause, message)

    def _shows(self, part: FlatJaxpr, given: Sequence[Any]) -> bool:
        """Whether a part of a program, compiled by itself, is further off than rounding explains."""
        return self._part_wrong(part, given) is not None

    def _part_wrong(self, part: FlatJaxpr, given: Sequence[Any]) -> tuple[int, float, float] | None:
        own = results(part, given)
        runs = _runs(self._compile(as_function(part), given, None), given)
        return _judged(runs, own, own, lambda: spread(part, given, own, samples=4))

    def _evidence(self, part: FlatJaxpr, given: Sequence[Any]) -> str:
        wrong = self._part_wrong(part, given)
        if wrong is None:
            return "in some runs only"
        return f"compiled by themselves, on the inputs that they have in the step, they are off by {wrong[1]:.3g}"

    def _way_out(self, target: Target) -> str | None:
        """What removes the fault, tried out, as one would write it."""
        function = jex.jaxpr_as_fun(target.closed)
        for options in WAYS_OUT:
            if self._right(target, function, options):
                return f"jax.jit(..., compiler_options={options})"
        if self._right(target, as_function(_in_highest_precision(flatten(target.closed))), None):
            return 'jax.default_matmul_precision("highest")'
        return None

    def _right(self, target: Target, function: Callable[..., Any], options: dict[str, Any] | None) -> bool:
        try:
            runs = _runs(self._compile(function, target.given, options), target.given)
        except Exception:  # an option of another jaxlib, or of another device
            return False
        return _worst(target, runs) is None


# --- how far off ------------------------------------------------------------------------------------------------------


def _runs(compiled: Callable[..., Any], given: Sequence[Any]) -> list[list[Any]]:
    return [list(compiled(*given)) for _ in range(RUNS)]


def _bits(made: Sequence[Any]) -> list[bytes]:
    return [np.asarray(each).tobytes() for each in made if not jnp.issubdtype(each.dtype, jax.dtypes.extended)]


def _worst(target: Target, runs: Sequence[Sequence[Any]]) -> tuple[int, float, float] | None:
    own = [jnp.asarray(each, var.dtype) for each, var in zip(target.own, target.closed.out_avals, strict=True)]
    return _judged(runs, own, target.shadows, lambda: spread(flatten(target.closed), target.given, own))


def _judged(
    runs: Sequence[Sequence[Any]],
    own: Sequence[Any],
    shadows: Sequence[Any],
    spreads: Callable[[], list[np.ndarray]],
) -> tuple[int, float, float] | None:
    """The result that is further off than rounding explains, relative to its largest entry, and how many times."""
    room = [_room(each, shadow) for each, shadow in zip(own, shadows, strict=True)]
    errors = [
        np.maximum.reduce([_off(run[i], each, shadow) for run in runs])
        for i, (each, shadow) in enumerate(zip(own, shadows, strict=True))
    ]
    if all((error <= limit).all() for error, limit in zip(errors, room, strict=True)):
        return None
    worst: tuple[int, float, float] | None = None
    for i, (error, limit, reach) in enumerate(zip(errors, room, spreads(), strict=True)):
        # The spread is that of 16 units; as much again is room for samples being few.
        with np.errstate(all="ignore"):
            times = np.where(error <= limit, 0.0, error / np.maximum(limit, 2 * reach))
        most = float(np.nan_to_num(times, nan=0.0, posinf=np.inf).max(initial=0.0))
        if most > 1 and (worst is None or most > worst[2]):
            largest = float(np.abs(np.asarray(own[i]).astype(complex)).max(initial=0.0))
            worst = i, float(error.max()) / max(largest, 1e-300), most
    return worst


def _off(made: Any, own: Any, shadow: Any) -> np.ndarray:
    """How far a result is off: from what the program gives operation by operation, or from float64, the nearer one."""
    return np.minimum(distance(made, own), distance(made, shadow))


def _room(own: Any, shadow: Any) -> float:
    """How far off a result may be without a closer look."""
    if not jnp.issubdtype(own.dtype, jnp.inexact) or not own.size:
        return 0.0
    finite = distance(own, shadow)
    error = float(np.max(finite, where=np.isfinite(finite), initial=0.0))
    sizes = np.abs(np.asarray(own).astype(complex))
    largest = float(np.max(sizes, where=np.isfinite(sizes), initial=0.0))
    eps, tiny = float(jnp.finfo(own.dtype).eps), float(jnp.finfo(own.dtype).tiny)
    return QUICK * max(error, eps * largest, tiny)


def _equal(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(
        a is b or (np.shape(a) == np.shape(b) and _bits([a]) == _bits([b]) != [])
        for a, b in zip(before, now, strict=True)
    )


# --- words ------------------------------------------------------------------------------------------------------------


def _times(more: float) -> str:
    return f"{more:.3g} times" if np.isfinite(more) else "beyond all"


def _described(part: FlatJaxpr, of: int) -> str:
    names = [step.eqn.primitive.name for step in part.steps]
    sites = [f"{step.site.file}:{step.site.line}" for step in part.steps if step.site.file]
    listed = ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:8])} and {len(names) - 8} more"
    where = f" ({', '.join(dict.fromkeys(sites))})" if sites and len(names) <= 8 else ""
    few = "operation shows" if len(names) == 1 else "operations show"
    return f"{len(names)} of the {of} {few} it: {listed}{where}"


def _in_highest_precision(flat: FlatJaxpr) -> FlatJaxpr:
    """The same jaxpr with its products in the highest precision that the device has."""
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    steps = [
        replace(step, eqn=step.eqn.replace(params=step.eqn.params | {"precision": highest}))
        if step.eqn.primitive.name in ("dot_general", "conv_general_dilated")
        else step
        for step in flat.steps
    ]
    return FlatJaxpr(steps, flat.inputs, flat.outputs, flat.constants)
