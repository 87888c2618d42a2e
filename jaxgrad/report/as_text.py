"""A report as a person reads it: the verdict first, then the first divergence with both places and their lines."""

from __future__ import annotations

import linecache

from jaxgrad.report.values import Divergence, Report, Site

MOST = 8
"""So many further divergences and internal differences are listed; the rest is counted."""


def as_text(report: Report) -> str:
    """The text of a report."""
    lines = [f"{report.verdict.name}  {report.verdict.value}", f"  {report.reason}"]
    if report.first is not None:
        lines += ["", *_divergence(report.first)]
    steps = f"{report.steps} step{'s' * (report.steps != 1)}"
    lines += ["", f"{report.torch} beside {report.jax}, {steps}"]
    for number, (ours, theirs) in enumerate(report.losses, start=1):
        if number <= 3 or number == len(report.losses):
            lines.append(f"loss {number}: torch {ours:.9g}, JAX {theirs:.9g}")
    if report.rounding is not None:
        lines.append(f"largest float32 difference: {report.rounding.units:.3g} rounding units, {report.rounding.where}")
    found = ", ".join(f"{stage} {share:.1%}" for stage, share in report.coverage.items())
    lines.append(
        f"torch's values found on the JAX side: {found}" if found else "no values were held against each other"
    )
    lines += [f"note: {note}" for note in report.notes]
    lines += _listed("internal differences (the two meet again after them)", list(report.internal))
    lines += _listed("also different", [_short(each) for each in report.divergences[1:]])
    return "\n".join(lines)


def _divergence(found: Divergence) -> list[str]:
    lines = [f"first divergence: step {found.step}, {found.stage}"]
    if found.message:
        lines.append(f"  {found.message}")
    lines += _place("torch", found.torch)
    lines += _place("JAX", found.jax) if found.jax else ["  JAX    nothing stands there"]
    if found.agreed:
        lines.append("  the last values that agreed:")
        lines += [f"    {each}" for each in found.agreed]
    lines.append(f"  apart by {found.error:.3g} of the larger, in float64")
    if found.cause:
        lines += [f"  cause: {found.cause.code}: {found.cause.explanation}", f"  proof: {found.cause.evidence}"]
    return lines


def _place(side: str, site: Site) -> list[str]:
    lines = [f"  {side:<6} {site}"]
    code = linecache.getline(site.file, site.line).strip() if site.file else ""
    return [*lines, f"           {code}"] if code else lines


def _short(found: Divergence) -> str:
    return f"step {found.step}, {found.stage}: {found.message or found.torch}"


def _listed(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    more = [f"  ... and {len(entries) - MOST} more"] if len(entries) > MOST else []
    return [f"{title}:", *(f"  {entry}" for entry in entries[:MOST]), *more]
