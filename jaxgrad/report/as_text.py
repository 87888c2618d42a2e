"""A report as a person reads it: the verdict first, then the first divergence with both places and their lines."""

from __future__ import annotations

import linecache

from jaxgrad.report.sentences import coverage_said, difference_said, effect_said, size_said
from jaxgrad.report.values import Divergence, Report, Site

MOST = 8
"""So many further divergences and operations in between are listed; the rest is counted."""


def as_text(report: Report) -> str:
    """The text of a report."""
    lines = [f"{report.verdict.name}  {report.verdict.value}", f"  {report.reason}"]
    if report.first is not None:
        lines += ["", *_divergence(report.first, report.reason)]
    if report.effect is not None:
        lines.append(f"  effect: {effect_said(report.effect)}")
    steps = f"{report.steps} step{'s' * (report.steps != 1)}"
    lines += ["", f"{report.torch} beside {report.jax}, {steps}"]
    for number, (ours, theirs) in enumerate(report.losses, start=1):
        if number <= 3 or number == len(report.losses):
            lines.append(f"loss {number}: torch {ours:.9g}, JAX {theirs:.9g}")
    lines += [said] if (said := coverage_said(report)) else []
    lines += [f"note: {note}" for note in report.notes]
    lines += _listed("computed otherwise in between, to the same effect", list(report.internal))
    lines += _listed("also different", [difference_said(each) for each in report.divergences[1:]])
    return "\n".join(lines)


def _divergence(found: Divergence, reason: str) -> list[str]:
    lines = [f"first divergence: step {found.step}, {found.stage}"]
    if found.message and found.message not in reason:
        lines.append(f"  {found.message}")
    lines += _place("torch", found.torch, found.torch_value)
    lines += _place("JAX", found.jax, found.jax_value) if found.jax else ["  JAX    nothing stands there"]
    if found.agreed:
        lines.append("  the same on both sides until there:")
        lines += [f"    {each}" for each in found.agreed]
    lines.append(f"  apart {size_said(found)}")
    if found.cause:
        lines += [f"  cause: {found.cause.code}: {found.cause.explanation}", f"  proof: {found.cause.evidence}"]
    return lines


def _place(side: str, site: Site, value: str) -> list[str]:
    lines = [f"  {side:<6} {site}"]
    code = linecache.getline(site.file, site.line).strip() if site.file else ""
    lines += [f"           {code}"] if code else []
    return [*lines, f"         has {value}"] if value else lines


def _listed(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    more = [f"  ... and {len(entries) - MOST} more"] if len(entries) > MOST else []
    return [f"{title}:", *(f"  {entry}" for entry in entries[:MOST]), *more]
