"""A report as one HTML page; every name that comes from a program is escaped."""

from __future__ import annotations

import html
import linecache
from pathlib import Path

from jaxgrad.files import write_text
from jaxgrad.report.values import Divergence, Report, Site, Verdict

_COLOURS = {
    Verdict.IDENTICAL: "#00734f",
    Verdict.ROUNDING: "#00734f",
    Verdict.DIFFERENT: "#b3261e",
    Verdict.INCONCLUSIVE: "#8a5a00",
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ color: {colour}; margin-bottom: 0; }} h2 {{ font-size: 1.1rem; margin: 1.6rem 0 .4rem; }}
table {{ border-collapse: collapse; width: 100%; }} code, pre {{ font: 14px/1.4 ui-monospace, monospace; }}
td, th {{ text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e4e4e4; }}
pre {{ background: #f6f6f6; padding: .5rem .8rem; overflow-x: auto; margin: .3rem 0; }} small {{ color: #666; }}
</style>
{body}
</html>
"""


def as_html(report: Report) -> str:
    """The page."""
    parts = [f"<h1>{report.verdict.name}</h1>", f"<p>{_e(report.verdict.value)}. {_e(report.reason)}</p>"]
    if report.first is not None:
        parts += _divergence(report.first)
    rows = [("programs", f"{report.torch} beside {report.jax}, {report.steps} step(s)")]
    rows += [(f"loss {n}", f"torch {a:.9g}, JAX {b:.9g}") for n, (a, b) in enumerate(report.losses, 1)]
    if report.rounding:
        rows.append(("rounding", f"at most {report.rounding.units:.3g} rounding units, {report.rounding.where}"))
    rows += [(f"{stage} coverage", f"{share:.1%} of torch's values") for stage, share in report.coverage.items()]
    rows += [("note", note) for note in report.notes]
    parts.append("<h2>Measured</h2><table>")
    parts += [f"<tr><th>{_e(name)}<td>{_e(said)}" for name, said in rows]
    parts.append("</table>")
    others = [f"step {d.step}, {d.stage}: {d.message or d.torch}" for d in report.divergences[1:]]
    for title, entries in (("Also different", others), ("Internal differences", list(report.internal))):
        if entries:
            parts += [f"<h2>{title}</h2><ul>", *(f"<li>{_e(entry)}" for entry in entries), "</ul>"]
    title = f"jaxgrad: {report.verdict.name}"
    return _PAGE.format(title=title, colour=_COLOURS[report.verdict], body="\n".join(parts))


def _divergence(found: Divergence) -> list[str]:
    parts = [f"<h2>First divergence: step {found.step}, {_e(found.stage)}</h2>", f"<p>{_e(found.message)}</p><table>"]
    parts += [f"<tr><th>torch<td>{_place(found.torch)}"]
    parts += [f"<tr><th>JAX<td>{_place(found.jax) if found.jax else 'nothing stands there'}"]
    if found.agreed:
        parts.append(f"<tr><th>last agreed<td>{'<br>'.join(_e(each) for each in found.agreed)}")
    parts.append(f"<tr><th>apart<td>{found.error:.3g} of the larger, in float64</table>")
    if found.cause:
        parts.append(f"<p><b>{_e(found.cause.code)}</b>: {_e(found.cause.explanation)}. {_e(found.cause.evidence)}</p>")
    return parts


def _place(site: Site) -> str:
    code = linecache.getline(site.file, site.line).strip() if site.file else ""
    return f"<code>{_e(str(site))}</code>" + (f"<pre>{_e(code)}</pre>" if code else "")


def _e(text: str) -> str:
    return html.escape(str(text))


def write_html(report: Report, path: Path) -> None:
    """Write the page; the file is replaced only once the new one is whole."""
    write_text(path, as_html(report))
