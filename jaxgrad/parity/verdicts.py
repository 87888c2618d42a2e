"""From the outcomes of the steps to the report: which verdict, and the sentence it rests on."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxgrad.parity.judge import StepOutcome
from jaxgrad.report.sentences import rounding_said
from jaxgrad.report.values import Divergence, Report, Rounding, Verdict

LEAST_COVERAGE = 0.1
"""Below this share of torch's forward values found, agreement of the roots is taken for luck."""


def as_report(steps: Sequence[StepOutcome], losses: Sequence[tuple[float, float]], torch: str) -> Report:
    """The report on the steps that were compared; the last of them may differ."""
    divergences = tuple(each for step in steps for each in step.divergences)
    coverage = {stage: min(step.coverage[stage] for step in steps) for stage in steps[-1].coverage}
    doubts = list(dict.fromkeys(doubt for step in steps for doubt in step.doubts))
    if not doubts and not divergences and coverage["forward"] < LEAST_COVERAGE:
        doubts.append(f"only {coverage['forward']:.0%} of torch's forward values were found on the JAX side")
    roundings = [step.rounding for step in steps if step.rounding is not None]
    rounding = max(roundings, key=lambda each: max(each.loss, each.gradient), default=Rounding(0.0, ""))
    verdict, reason = _verdict(all(step.same_bits for step in steps), rounding, divergences, doubts)
    return Report(
        verdict=verdict,
        reason=reason,
        divergences=divergences,
        coverage=coverage,
        rounding=None if divergences else rounding,
        losses=tuple(losses),
        notes=tuple(dict.fromkeys(note for step in steps for note in step.notes)),
        internal=() if divergences else tuple(dict.fromkeys(each for step in steps for each in step.internal)),
        torch=torch,
        jax=f"jax {jax.__version__}",
        steps=len(steps),
        effect=steps[-1].effect if divergences and _shows_in_the_step(divergences[0]) else None,
    )


def _shows_in_the_step(first: Divergence) -> bool:
    """Whether loss and gradients show a difference; an optimizer's does not."""
    return first.stage not in ("clip", "update", "learning_rate", "state", "compiled")


def _verdict(
    same_bits: bool, rounding: Rounding, divergences: Sequence[Divergence], doubts: Sequence[str]
) -> tuple[Verdict, str]:
    if doubts and not (divergences and divergences[0].stage == "input"):  # other data is other data
        return Verdict.INCONCLUSIVE, "; ".join(doubts)
    if divergences:
        first = divergences[0]
        return Verdict.DIFFERENT, f"they part in step {first.step}, {first.stage}: {first.message}"
    if same_bits:
        return Verdict.IDENTICAL, "loss and gradients have the same bits in every step"
    return Verdict.ROUNDING, rounding_said(rounding)
