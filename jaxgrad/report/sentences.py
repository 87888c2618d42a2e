"""The sentences that the text and the page share: rounding, effect, and what was held against each other."""

from __future__ import annotations

from jaxgrad.report.values import Divergence, Effect, Report, Rounding, Verdict


def rounding_said(found: Rounding) -> str:
    """How far apart loss and gradients are, and that rounding explains it."""
    loss = f"the losses are {found.loss:.1g} of their size apart" if found.loss else "the losses are equal"
    gradients = ""
    if found.gradient_of:
        gradients = f", the gradients at most {found.gradient:.1g} of their largest entry ({found.gradient_of})"
    return f"in {found.dtype} {loss}{gradients}; in float64 both agree, so that is rounding"


def effect_said(found: Effect) -> str:
    """What a difference does to loss and gradients, and whether the programs' own precision can show it."""
    parts = []
    if found.loss:
        parts.append(f"the losses differ by {found.loss:.2g} of their size")
    if found.gradient_of:
        verb = "" if found.loss else "differ "
        parts.append(f"the gradients {verb}by up to {found.gradient:.2g} of their largest entry ({found.gradient_of})")
    if len(parts) < 2:
        parts.insert(found.gradient_of == "", "the losses agree" if found.gradient_of else "the gradients agree")
    said = f"in float64 {' and '.join(parts)}"
    if found.visible:
        rounds = found.loss_rounding if found.loss > found.loss_rounding else found.gradient_rounding
        return f"{said}; {found.dtype} shows it, its own rounding here is {rounds:.1g}"
    rounds = found.gradient_rounding if found.gradient_of else found.loss_rounding
    return f"{said}; {found.dtype} cannot show a difference this small: its own rounding here is {rounds:.1g}"


def coverage_said(report: Report) -> str:
    """Which of torch's values JAX computes too, and that the others are no fault; nothing beside a difference."""
    if not report.coverage or report.verdict is Verdict.DIFFERENT:
        return ""
    shares = " and ".join(f"{share:.0%} of the {stage} values" for stage, share in report.coverage.items())
    said = f"of what torch computes on its way JAX has {shares} too"
    if min(report.coverage.values()) == 1:
        return said
    return f"{said}; the others belong to another way of computing the same (listed below), which is no fault"


def difference_said(found: Divergence) -> str:
    """One of several differences, in one line."""
    return f"step {found.step}, {found.stage}: {found.message or found.torch}"


def size_said(found: Divergence) -> str:
    """How far apart the two sides are where they part."""
    return f"by {found.error:.3g} of the largest entry, in float64"
