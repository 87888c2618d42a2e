"""How the times of a task grow with its sizes, and with the number of devices."""

from __future__ import annotations

import json
import os
import statistics

from jaxgrad.bench import child
from jaxgrad.bench.contenders import Sizes, Task
from jaxgrad.bench.measuring import Say, measure
from jaxgrad.bench.values import MEASURED, Growth, Result

PARTS = (64, 8)  # of the whole size, which was measured before
REPEATS = 3
DEVICES = (1, 2, 4)
FLAG = "--xla_force_host_platform_device_count"


def grow(task: Task, whole: Result, *, say: Say = lambda text: None) -> list[Growth]:
    """Measure a task at smaller sizes, and with several virtual CPU devices.

    Args:
      task: one of ``TASKS``.
      whole: what ``measure`` found of it: the largest size.
      say: is told what happens.

    Returns:
      For each size that the task grows with: the times at 1/64 and 1/8 of it, and at all of it. For a task that uses
      several devices: its times with 1, 2 and 4 of them, each number in a process of its own.
    """
    found = []
    names = [entry.name for entry in whole.entries]
    for over in task.grows:
        largest = whole.sizes[over]
        least = whole.sizes.get("batch_size", 1) if over == "rows" else 1  # a batch needs so many rows
        sizes = sorted({max(least, largest // part) for part in PARTS} - {largest})
        measured = [*(_measured(task, {**whole.sizes, over: size}, say) for size in sizes), whole]
        times = {name: [_time(result, name) for result in measured] for name in names}
        found.append(_growth(task, over, (*sizes, largest), times))
    if task.devices:
        times = {name: [_on_devices(task, name, whole.sizes, n, say) for n in DEVICES] for name in task.devices}
        found.append(_growth(task, "devices", DEVICES, times))
    return found


def _growth(task: Task, over: str, sizes: tuple[int, ...], times: dict[str, list[float | str]]) -> Growth:
    per_unit: dict[str, tuple[float | None, ...]] = {
        name: tuple(None if isinstance(each, str) else each for each in row) for name, row in times.items()
    }
    reasons = {name: each for name, row in times.items() for each in row if isinstance(each, str)}
    return Growth(task.name, over, task.unit, sizes, per_unit, reasons)


def _measured(task: Task, sizes: Sizes, say: Say) -> Result:
    return measure(task, sizes, repeats=REPEATS, memory=False, say=say)


def _time(result: Result, name: str) -> float | str:
    """The median seconds of a unit, or why there are none."""
    entry = result.entry(name)
    return f"{entry.state}: {entry.reason}" if entry.per_unit is None else entry.per_unit.median


def _on_devices(task: Task, name: str, sizes: Sizes, count: int, say: Say) -> float | str:
    say(f"{task.name}: {name}, {count} devices")
    others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(FLAG)]
    flags = {"XLA_FLAGS": " ".join([*others, f"{FLAG}={count}"]), "JAX_PLATFORMS": "cpu"}
    try:
        found = child.call("time", task.name, name, json.dumps(dict(sizes)), str(REPEATS), environment=flags)
    except child.ChildError as error:
        return f"{count} devices: {error}"
    if found["state"] != MEASURED:
        return f"{count} devices: {found['state']}: {found['reason']}"
    return statistics.median(found["seconds"]) / found["units"]
