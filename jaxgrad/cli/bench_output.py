"""What ``jaxgrad bench`` prints: a table a task, and what to know of its rows below it."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxgrad.bench.values import MEASURED, Entry, Growth, Result

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"), (1e-12, "ps"))


def show(machine: dict[str, Any], results: list[Result], growths: list[Growth], *, quick: bool) -> None:
    """Print the measurement."""
    console = Console(highlight=False)
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    console.print(versions)
    console.print(f"{machine['processor']}, {machine['cores']} cores; JAX on {', '.join(set(machine['devices']))}")
    console.print(f"C: {machine['compiler'] or 'no compiler'}; torch, NumPy and C on the CPU")
    if quick:
        console.print("Small sizes, for a first look: the ratios mean little.")
    for result in results:
        console.print()
        console.print(result.title, style="bold")
        console.print(table_of(result))
        for line in below(result):
            console.print(textwrap.fill(line, console.width, subsequent_indent="    "), markup=False)
        for growth in growths:
            if growth.task == result.task:
                console.print()
                title = f"{growth.task}: time per {growth.unit}, as {growth.over.replace('_', ' ')} grow"
                console.print(title, style="bold")
                console.print(table_of_growth(growth))
                for name, reason in growth.reasons.items():
                    line = f"  {name}: {reason}"
                    console.print(textwrap.fill(line, console.width, subsequent_indent="    "), markup=False)


def table_of(result: Result) -> Table:
    """One row a contender."""
    table = Table(box=None, pad_edge=False)
    rows = [(entry.name, *_cells(entry, result)) for entry in result.entries]
    heads = ("", f"per {result.unit}", "ratio", "spread", "memory", "note")
    used = [i for i, head in enumerate(heads) if any(row[i] for row in rows)]
    for i in used:
        table.add_column(heads[i], justify="left" if heads[i] in ("", "note") else "right", no_wrap=i < 5)
    for entry, row in zip(result.entries, rows, strict=True):
        style = "bold" if entry.name == result.base else "" if entry.state == MEASURED else "dim"
        table.add_row(*(row[i] for i in used), style=style)
    return table


def _cells(entry: Entry, result: Result) -> tuple[str, ...]:
    memory = _memory(entry)
    if entry.per_unit is None or entry.seconds is None:
        return entry.state, "", "", memory, ""
    low, high = entry.seconds.quartiles
    spread = f"{50 * (high - low) / entry.seconds.median:.0f} %"
    ratio = _three_digits(entry.ratio.median) if entry.ratio else ""
    return _time(entry.per_unit.median), ratio, spread, memory, _note(entry, result)


def _note(entry: Entry, result: Result) -> str:
    said = []
    if entry.gigabytes_per_second is not None:
        said.append(f"{entry.gigabytes_per_second:.3g} GB/s")
    if entry.memory is not None and entry.memory.over_data is not None:
        said.append(f"{entry.memory.over_data:.2f} x data")
    if entry.units is not None and entry.units < _units(result):
        said.append(f"{entry.units} {result.unit}s")
    return ", ".join(said)


def _units(result: Result) -> int:
    return max((entry.units for entry in result.entries if entry.units is not None), default=0)


def _memory(entry: Entry) -> str:
    return "" if entry.memory is None else f"{entry.memory.grown / 2**20:.0f} MiB"


def below(result: Result) -> list[str]:
    """What the rows have no room for."""
    lines = [f"  {entry.name}: {entry.state}: {entry.reason}" for entry in result.entries if entry.reason]
    notes: dict[str, list[str]] = {}
    for entry in result.entries:
        if entry.note and entry.state == MEASURED:
            notes.setdefault(entry.note, []).append(entry.name)
    lines += [f"  {', '.join(names)}: {note}" for note, names in notes.items()]
    if result.base:
        lines.append(
            f"  ratio: to {result.base}, round by round; spread: half of what lies between the quartiles of "
            f"{len(_base(result).seconds.all)} rounds"
        )
    if any(entry.memory for entry in result.entries):
        lines.append("  memory: what a process of its own grew by, its data included")
    return lines


def _base(result: Result) -> Any:
    return result.entry(result.base or "")


def table_of_growth(growth: Growth) -> Table:
    """One row a contender, one column a size."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for size in growth.sizes:
        table.add_column(f"{size:,}", justify="right", no_wrap=True)
    for name, times in growth.per_unit.items():
        table.add_row(name, *("-" if each is None else _time(each) for each in times))
    return table


def show_compare(found: dict[str, Any]) -> None:
    """Print what ``bench_compare`` found."""
    taken = found["seconds"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"GPT-2 with {found['parameters'] / 1e6:.4g} million parameters, {versions}, {found['device']}")
    print(f"  torch, forward and backward      {taken['torch']:8.2f} s")
    print(f"  JAX, the same, op by op          {taken['jax']:8.2f} s")
    print(f"  compare                          {taken['compare']:8.2f} s")
    print(f"  compare, the first time          {taken['compare the first time']:8.2f} s")
    print(f"  {found['ratio']:.2f} times both; peak memory {found['peak_gib']:.1f} GiB; {found['verdict']}")


def _time(seconds: float) -> str:
    scale, unit = next((each for each in UNITS if seconds >= each[0]), UNITS[-1])
    return f"{_three_digits(seconds / scale)} {unit}"


def _three_digits(number: float) -> str:
    if number >= 999.5:
        return f"{number:,.0f}"
    return f"{number:.3g}" if number < 1 else f"{number:.{max(0, 2 - len(str(int(number))) + 1)}f}"
