"""Is a JAX lesson the torch lesson? Held value by value, judged in float64, the first difference explained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxgrad.exact import SumOrder
from jaxgrad.parity.lesson_reasons import explain
from jaxgrad.parity.lesson_rounding import Expected, expected
from jaxgrad.report.values import Cause, Verdict
from jaxgrad.trace import AFTERWARDS, GIVEN, PER_STEP, Trace


@dataclass(frozen=True)
class Difference:
    """A value whose bits differ between JAX and torch.

    Attributes:
      step: counted from 1; one more than the steps stands for "again".
      name: which value, a name of the trace.
      jax, torch: both values.
      entries: how many entries differ in bits.
      units: the largest difference in rounding units (eps times the scale of the operands).
      carried: whether the parameters differed already when the step began.
      cause: why, for the first difference; None where it was not asked for or could not be proven.
    """

    step: int
    name: str
    jax: np.ndarray
    torch: np.ndarray
    entries: int
    units: float
    carried: bool
    cause: Cause | None = None


@dataclass(frozen=True)
class LessonComparison:
    """What ``compare_lessons`` found.

    Attributes:
      verdict: IDENTICAL, ROUNDING, DIFFERENT or INCONCLUSIVE.
      reason: a sentence, what the verdict rests on.
      first: the first value whose bits differ, with its cause; None if none does.
      differences: all values whose bits differ, in the order they were computed.
      steps: how many steps were held against each other, the forward pass "again" included.
      largest_units: the largest error that either side made in a step of its own, in rounding units.
    """

    verdict: Verdict
    reason: str
    first: Difference | None
    differences: tuple[Difference, ...]
    steps: int
    largest_units: float

    @property
    def steps_that_differ(self) -> tuple[int, ...]:
        """The steps, counted from 1, in which some bits differ."""
        return tuple(sorted({difference.step for difference in self.differences}))


def compare_lessons(jax_trace: Trace, torch_trace: Trace, *, sum_order: SumOrder | None = None) -> LessonComparison:
    """Hold a JAX trace of the lesson against torch's.

    No tolerance is chosen: each side's values are computed again in float64 from that side's own parameters, and
    may be off by what the roundings on the way can explain. An error that is *made* in a step is told apart from
    one that is *carried* over from the step before.

    Args:
      jax_trace: from ``run_lesson``.
      torch_trace: from ``frameworks.torch_autograd``, ``torch_sgd`` or ``torch_recorded``.
      sum_order: torch's order of the sum, for proving a cause; that of an x86-64 build by default.

    Returns:
      A ``LessonComparison``.

    >>> from jaxgrad import run_lesson
    >>> from jaxgrad.frameworks import torch_recorded
    >>> trace = run_lesson()
    >>> compare_lessons(trace, torch_recorded.run_like(trace)).verdict.name
    'IDENTICAL'
    """
    if wrong := _other_start(jax_trace, torch_trace):
        return LessonComparison(Verdict.DIFFERENT, wrong, None, (), 0, float("inf"))

    differences: list[Difference] = []
    steps, compared, largest, wrong, unknown = 0, 0, 0.0, "", ""
    for step in range(jax_trace.steps + 1):
        sides = {"JAX": jax_trace, "torch": torch_trace}
        should = {side: expected(trace, step) for side, trace in sides.items()}
        carried = not all(map(_same_bits, jax_trace.before(step), torch_trace.before(step)))
        for name in PER_STEP if step < jax_trace.steps else AFTERWARDS:
            ours, theirs = (value_at(trace, step, name) for trace in sides.values())
            if not (np.isfinite(ours).all() or np.isfinite(theirs).all()):
                unknown = f"on both sides {name} is not finite at step {step + 1}; what comes after it cannot be judged"
                break
            compared += 1
            if not _same_bits(ours, theirs):
                units = should["torch"][name].units(ours.astype(np.float64) - theirs.astype(np.float64))
                entries = int(np.sum(_bits(ours) != _bits(theirs)))
                differences.append(Difference(step + 1, name, ours, theirs, entries, units, carried))
            for side, trace in sides.items():
                made = _made(value_at(trace, step, name), should[side][name])
                largest = max(largest, made)
                if made > should[side][name].allowed and not wrong:
                    wrong = (
                        f"{side}'s {name} at step {step + 1} is {made:.3g} rounding units from what its own parameters "
                        f"give in float64; rounding explains {should[side][name].allowed:.3g}"
                    )
        if unknown:
            break
        steps += 1
    first = differences[0] if differences else None
    if first is not None:
        cause = explain(jax_trace, torch_trace, first.step - 1, first.name, sum_order or SumOrder())
        first = Difference(**{**vars(first), "cause": cause})
        differences[0] = first
    verdict, reason = _judge(wrong, unknown, largest, compared, differences)
    return LessonComparison(verdict, reason, first, tuple(differences), steps, largest)


def _judge(
    wrong: str, unknown: str, largest: float, compared: int, differences: list[Difference]
) -> tuple[Verdict, str]:
    if wrong:
        return Verdict.DIFFERENT, wrong
    if unknown:
        return Verdict.INCONCLUSIVE, unknown
    if not differences:
        return Verdict.IDENTICAL, f"all {compared} values have the same bits"
    return Verdict.ROUNDING, (
        f"{len(differences)} of {compared} values differ in bits; no step of either side is more than "
        f"{largest:.3g} rounding units from float64"
    )


def value_at(trace: Trace, step: int, name: str) -> np.ndarray:
    """A value by name and step (counted from 0); those of ``AFTERWARDS`` have one step only."""
    return trace[name] if name in AFTERWARDS else trace[name][step]


def _made(value: np.ndarray, should: Expected) -> float:
    return should.units(value.astype(np.float64) - should.value)


def _bits(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}") if value.size else value


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _other_start(jax_trace: Trace, torch_trace: Trace) -> str:
    """What the two lessons did not have in common before their first step."""
    if jax_trace.dtype != torch_trace.dtype:
        return f"JAX computed in {jax_trace.dtype}, torch in {torch_trace.dtype}"
    for name in GIVEN:
        ours, theirs = jax_trace[name], torch_trace[name]
        if ours.size != theirs.size or not _same_bits(np.ravel(ours), np.ravel(theirs)):
            return f"the two lessons start from different {name}"
    if jax_trace.learning_rate != torch_trace.learning_rate:
        return f"JAX's learning rate is {jax_trace.learning_rate!r}, torch's {torch_trace.learning_rate!r}"
    if jax_trace.steps != torch_trace.steps:
        return f"JAX made {jax_trace.steps} steps, torch {torch_trace.steps}"
    return ""
