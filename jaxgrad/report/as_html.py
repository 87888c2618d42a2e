"""A report as one HTML page; every name that comes from a program is escaped."""

from __future__ import annotations

import html
import linecache
from pathlib import Path

from jaxgrad.files import write_text
from jaxgrad.report.sentences import coverage_said, difference_said, effect_said, size_said
from jaxgrad.report.values import Divergence, Report, Site, Verdict

_COLOURS = {
    Verdict.IDENTICAL: "#00734f",
    Verdict.ROUNDING: "#00734f",
    Verdict.DIFFERENT: "#b3261e",
    Verdict.INCONCLUSIVE: "#8a5a00",
}
_STYLE = """
.jaxgrad { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; overflow-wrap: anywhere; }
.jaxgrad h1 { font-size: 1.7rem; margin: 0; } .jaxgrad h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
.jaxgrad table { border-collapse: collapse; width: 100%; }
.jaxgrad code, .jaxgrad pre { font: 14px/1.4 ui-monospace, monospace; }
.jaxgrad td, .jaxgrad th {
  text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e4e4e4;
}
.jaxgrad th { min-width: 5.5rem; font-weight: 600; }
.jaxgrad pre { background: #f6f6f6; padding: .5rem .8rem; margin: .3rem 0; white-space: pre-wrap; }
"""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>jaxgrad: {title}</title>
<style>body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}</style>
{body}
</html>
"""


def as_html(report: Report) -> str:
    """The page."""
    return _PAGE.format(title=report.verdict.name, body=as_fragment(report))


def as_fragment(report: Report) -> str:
    """The report as a piece of a page, as notebooks show it."""
    name = f'<h1 style="color: {_COLOURS[report.verdict]}">{report.verdict.name}</h1>'
    parts = [f"<style>{_STYLE}</style>", '<div class="jaxgrad">', name]
    parts.append(f"<p>{_e(_sentence(report.verdict.value))} {_e(_sentence(report.reason))}</p>")
    if report.first is not None:
        parts += _divergence(report.first, report)
    rows = [("programs", f"{report.torch} beside {report.jax}, {report.steps} step{'s' * (report.steps != 1)}")]
    rows += [
        (f"loss {n}", f"torch {a:.9g}, JAX {b:.9g}")
        for n, (a, b) in enumerate(report.losses, 1)
        if n <= 3 or n == len(report.losses)
    ]
    rows += [("in between", said)] if (said := coverage_said(report)) else []
    rows += [("note", note) for note in report.notes]
    parts += ["<h2>Compared</h2>", *_table(rows)]
    others = [difference_said(each) for each in report.divergences[1:]]
    titles = ("Also different", others), ("Computed otherwise in between, to the same effect", list(report.internal))
    for title, entries in titles:
        if entries:
            parts += [f"<h2>{title}</h2><ul>", *(f"<li>{_e(entry)}" for entry in entries), "</ul>"]
    return "\n".join([*parts, "</div>"])


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["<table>", *(f"<tr><th>{_e(name)}<td>{_e(said)}" for name, said in rows), "</table>"]


def _divergence(found: Divergence, report: Report) -> list[str]:
    parts = [f"<h2>First divergence: step {found.step}, {_e(found.stage)}</h2>"]
    if found.message and found.message not in report.reason:
        parts.append(f"<p>{_e(found.message)}</p>")
    parts += ["<table>", f"<tr><th>torch<td>{_place(found.torch, found.torch_value)}"]
    parts += [f"<tr><th>JAX<td>{_place(found.jax, found.jax_value) if found.jax else 'nothing stands there'}"]
    if found.agreed:
        parts.append(f"<tr><th>the same until there<td>{'<br>'.join(_e(each) for each in found.agreed)}")
    parts.append(f"<tr><th>apart<td>{_e(size_said(found))}")
    if report.effect is not None:
        parts.append(f"<tr><th>effect<td>{_e(effect_said(report.effect))}")
    parts.append("</table>")
    if found.cause:
        parts.append(f"<p><b>{_e(found.cause.code)}</b>: {_e(found.cause.explanation)}. {_e(found.cause.evidence)}</p>")
    return parts


def _place(site: Site, value: str) -> str:
    code = linecache.getline(site.file, site.line).strip() if site.file else ""
    has = f"has {_e(value)}" if value else ""
    return f"<code>{_e(str(site))}</code>" + (f"<pre>{_e(code)}</pre>" if code else "") + has


def _e(text: str) -> str:
    return html.escape(str(text))


def write_html(report: Report, path: Path) -> None:
    """Write the page; the file is replaced only once the new one is whole."""
    write_text(path, as_html(report))


def _sentence(text: str) -> str:
    """With a capital at the beginning and a full stop; a name in lower case stays as it is written."""
    begins = text[:1] if text.startswith("torch") else text[:1].upper()
    return f"{begins}{text[1:]}{'' if text.endswith('.') else '.'}"
