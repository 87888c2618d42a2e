"""How ``jaxgrad lesson`` shows a trace beside torch's: a table for people, plain data for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxgrad.frameworks import torch_recorded
from jaxgrad.parity.lesson import Difference, LessonComparison, value_at
from jaxgrad.report.values import Verdict
from jaxgrad.trace import AFTERWARDS, GIVEN, PER_STEP, Trace, compact, hexes

MOST_STEPS = 6
NO_TORCH = (
    "nothing to compare with: torch is not installed and this run is not the recorded one. "
    'Install it with: pip install "jaxgrad[torch]"'
)
COLOURS = {
    Verdict.IDENTICAL: "bold green",
    Verdict.ROUNDING: "bold green",
    Verdict.DIFFERENT: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}


def as_data(
    trace: Trace, torch_trace: Trace | None, source: str | None, compared: LessonComparison | None
) -> dict[str, Any]:
    """Everything as plain data for JSON: each value in decimal and in exact hexadecimal, for both sides."""
    differing = _by_place(compared)

    def row(step: int, name: str) -> dict[str, Any]:
        ours = value_at(trace, step, name)
        found = {"step": step + 1, "name": name, "jax": _decimals(ours), "jax_hex": hexes(ours)}
        if torch_trace is None:
            return found
        theirs = value_at(torch_trace, step, name)
        difference = differing.get((step + 1, name))
        return found | {
            "torch": _decimals(theirs),
            "torch_hex": hexes(theirs),
            "same_bits": difference is None,
            "rounding_units": _finite(difference.units) if difference else 0.0,
        }

    verdict = compared.verdict if compared else Verdict.INCONCLUSIVE
    return {
        "verdict": verdict.name,
        "reason": compared.reason if compared else NO_TORCH,
        "first_difference": _difference_data(compared.first) if compared and compared.first else None,
        "steps_that_differ": list(compared.steps_that_differ) if compared else None,
        "jax": _side(trace),
        "torch": _side(torch_trace) | {"source": source} if torch_trace else None,
        "steps": trace.steps,
        "learning_rate": trace.learning_rate,
        "dtype": trace.dtype.name,
        "given": {name: {"value": _decimals(trace[name]), "hex": hexes(trace[name])} for name in GIVEN},
        "values": [row(step, name) for step, name in _places(trace)],
    }


def _side(trace: Trace) -> dict[str, Any]:
    return {
        "framework": trace.framework,
        "route": trace.route,
        "update": trace.update,
        "device": trace.device,
        "lines": {name: str(line) for name, line in trace.lines.items()},
    }


def _difference_data(difference: Difference) -> dict[str, Any]:
    return {
        "step": difference.step,
        "name": difference.name,
        "entries": difference.entries,
        "rounding_units": _finite(difference.units),
        "cause": vars(difference.cause) if difference.cause else None,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _decimals(value: np.ndarray) -> Any:
    """Numbers for JSON, which has none for infinity: null there, and the hexadecimal form says which."""
    numbers = value.astype(np.float64)
    return np.where(np.isfinite(numbers), numbers, None).tolist()  # pyright: ignore[reportCallIssue, reportArgumentType]


def _by_place(compared: LessonComparison | None) -> dict[tuple[int, str], Difference]:
    return {(found.step, found.name): found for found in compared.differences} if compared else {}


def _places(trace: Trace) -> Iterator[tuple[int, str]]:
    """Each value that was computed, in order: its step from 0 and its name."""
    for step in range(trace.steps):
        yield from ((step, name) for name in PER_STEP)
    yield from ((trace.steps, name) for name in AFTERWARDS)


class _Console(Console):
    """A console that leaves it to the command line to end, where rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        """Raise what was caught."""
        raise


def show(
    trace: Trace, torch_trace: Trace | None, source: str | None, compared: LessonComparison | None, title: str
) -> None:
    """Print the table, the lines of code, and the verdict."""
    console = _Console(highlight=False)
    console.print(f"[bold]{escape(title)}[/], learning rate {trace.learning_rate:g}, {trace.dtype.name}")
    console.print(f"JAX    {trace.framework}, route {trace.route}, on {trace.device}")
    if torch_trace:
        how = "run live" if source == "live" else f"recorded {torch_recorded.recording()['date']}"
        update = "torch.optim.SGD" if torch_trace.update == "sgd" else "updated by hand"
        console.print(f"torch  {torch_trace.framework}, {update}, {how}")
    console.print(_table(trace, torch_trace, compared))
    _show_lines(console, trace, torch_trace)
    _show_verdict(console, compared)


def _table(trace: Trace, torch_trace: Trace | None, compared: LessonComparison | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("step", justify="right")
    table.add_column("quantity")
    table.add_column("JAX")
    if torch_trace:
        table.add_column("torch")
        table.add_column("difference")
    blank = [""] * (2 if torch_trace else 0)
    for name in GIVEN:
        table.add_row("", name, compact(trace[name], 7), *blank, style="dim")
    differing = _by_place(compared)
    shown = _steps_to_show(trace.steps, compared)
    previous = -1
    for step, name in _places(trace):
        if step < trace.steps and step not in shown:
            continue
        if step - previous > 1:
            table.add_row("...", f"{step - previous - 1} more", "", *blank, style="dim")
        cells = [str(step + 1) if step != previous else "", name, compact(value_at(trace, step, name), 7)]
        previous = step
        if torch_trace:
            cells.append(compact(value_at(torch_trace, step, name), 7))
            cells.append(_said(differing.get((step + 1, name)), value_at(trace, step, name).size))
        table.add_row(*cells)
    return table


def _steps_to_show(steps: int, compared: LessonComparison | None) -> set[int]:
    """All steps of a short run; of a long one the first, the first that differs, and the last."""
    if steps <= MOST_STEPS:
        return set(range(steps))
    shown = {0, 1, 2, steps - 1}
    if compared and compared.first:
        shown.add(compared.first.step - 1)
    return shown


def _said(difference: Difference | None, size: int) -> str:
    if difference is None:
        return "[green]same bits[/]"
    entries = f"{difference.entries} of {size}: " if size > 1 else ""
    carried = ", carried" if difference.carried else ""
    return f"[yellow]{entries}{difference.units:.2g} units{carried}[/]"


def _show_lines(console: Console, trace: Trace, torch_trace: Trace | None) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("made by")
    table.add_column("")
    table.add_column("line of code", overflow="fold")
    for name in PER_STEP:
        for side, lines in (("JAX", trace.lines), ("torch", torch_trace.lines if torch_trace else {})):
            if name in lines:
                table.add_row(name if side == "JAX" else "", side, escape(str(lines[name])))
    console.print()
    console.print(table)


def _show_verdict(console: Console, compared: LessonComparison | None) -> None:
    console.print()
    if compared is None:
        console.print(f"[{COLOURS[Verdict.INCONCLUSIVE]}]INCONCLUSIVE[/]  {escape(NO_TORCH)}")
        return
    if compared.first:
        first = compared.first
        console.print(
            f"first difference: step {first.step}, {first.name}, {first.units:.2g} rounding units "
            f"({first.entries} of {first.jax.size} entries); bits differ in {len(compared.steps_that_differ)} of "
            f"{compared.steps} steps"
        )
        if first.cause:
            console.print(f"cause: [bold]{first.cause.code}[/]: {escape(first.cause.explanation)}")
            console.print(f"proof: {escape(first.cause.evidence)}")
        else:
            console.print("cause: none of the four reasons gives JAX's bits when this value is computed again")
    console.print(
        f"[{COLOURS[compared.verdict]}]{compared.verdict.name}[/]  {compared.verdict.value}: {compared.reason}"
    )
