"""Measure a task: each contender prepared, held against the truth, then timed in turn with the others."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection
from typing import Any

from jaxgrad.bench import child
from jaxgrad.bench.contenders import Contender, LeftOutError, Prepared, Sizes, Task
from jaxgrad.bench.timing import PAUSE, TURN, interleaved
from jaxgrad.bench.values import FAILED, LEFT_OUT, MEASURED, WRONG, Entry, Memory, Result, Spread
from jaxgrad.errors import InputError, InputTypeError, MissingExtraError

Say = Callable[[str], None]


def check_sizes(task: Task, sizes: Sizes) -> dict[str, int]:
    """The sizes of a task: those given, and its own for the others.

    Raises:
      InputError: for a name that the task has not, or a size below 1. InputTypeError: if one is not a whole number.
    """
    for name, size in sizes.items():
        if name not in task.sizes:
            raise InputError(f"bench {task.name}: has no {name}, expected one of {', '.join(task.sizes)}.")
        check_count(f"bench {task.name}", name, size)
    return {**task.sizes, **sizes}


def check_count(function: str, name: str, number: Any) -> None:
    """Refuse what is not a whole number from 1 on."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise InputTypeError(f"{function}: {name} is {number!r}, expected a whole number from 1 on. Pass 1000, say.")
    if number < 1:
        raise InputError(f"{function}: {name} is {number}, expected a whole number from 1 on. Pass 1000, say.")


def measure(
    task: Task,
    sizes: Sizes | None = None,
    *,
    repeats: int = 5,
    memory: bool = True,
    only: Collection[str] | None = None,
    pause: float = PAUSE,
    turn: float = TURN,
    say: Say = lambda text: None,
) -> Result:
    """Measure one task: all its contenders that can run here, in turn, on the same data.

    Args:
      task: one of ``TASKS``.
      sizes: those that differ from the task's own.
      repeats: rounds of the clock; before them each contender runs once, off the clock.
      memory: measure each contender's memory as well, in a process of its own, before the clock starts.
      only: the names of the contenders that take part; all by default.
      pause: seconds of rest before each turn.
      turn: seconds that a turn lasts at least; its last answer is looked at.
      say: is told what happens, for a line of progress.

    Returns:
      The measurement. A contender whose answer is not that of the float64 truth, in any of its turns, has no time.
      Ctrl-C in the timed rounds ends them, and the measurement is of those that were whole.

    Raises:
      InputError, InputTypeError: if a size or ``repeats`` is not a whole number from 1 on.
    """
    whole = check_sizes(task, sizes or {})
    check_count(f"bench {task.name}", "repeats", repeats)
    chosen = [each for each in task.contenders if only is None or each.name in only]
    say(f"{task.name}: making the data")
    problem = task.problem(whole)
    held = {each.name: _memory(task, each, whole, say) for each in chosen} if memory and not task.own_process else {}
    entries, ready = {}, {}
    for each in chosen:
        say(f"{task.name}: {each.name}, the first run")
        entry, prepared = _first(task, each, problem)
        entries[each.name] = entry
        if prepared is not None:
            ready[each.name] = prepared
    taken: dict[str, list[float]] = {name: [] for name in ready}

    def timed(name: str, seconds: float, result: Any) -> None:
        taken[name].append(seconds)
        entries[name] = _judged(task, problem, ready[name], result, entries[name])
        say(f"{task.name}: timed {sum(map(len, taken.values()))} of {len(ready) * repeats} runs")

    interrupted = False
    try:
        interleaved(
            {name: lambda run=each.run: _caught(run) for name, each in ready.items()},
            repeats,
            before=lambda name: _before(ready[name]),
            each=timed,
            pause=pause,
            turn=0.0 if task.own_process else turn,
        )
    except KeyboardInterrupt:
        rounds = min(map(len, taken.values()), default=0)
        if not rounds:
            raise
        taken, interrupted = {name: each[:rounds] for name, each in taken.items()}, True
    return _result(task, problem, whole, repeats, entries, ready, taken, held, interrupted)


def _before(prepared: Prepared) -> None:
    if prepared.before is not None:
        prepared.before()


def _caught(run: Callable[[], Any]) -> Any:
    """The result of a run, or what it raised: one contender that fails must not cost the others their run."""
    try:
        return run()
    except Exception as error:
        return error


def _memory(task: Task, contender: Contender, sizes: Sizes, say: Say) -> Memory | None:
    say(f"{task.name}: {contender.name}, memory")
    try:
        found = child.call("memory", task.name, contender.name, json.dumps(dict(sizes)))
    except child.ChildError:  # the run below says why
        return None
    return Memory(found["before"], found["peak"], found["data"], found["whole"])


def _first(task: Task, contender: Contender, problem: Any) -> tuple[Entry, Prepared | None]:
    """Prepare a contender and run it once, off the clock of the others."""
    entry = Entry(contender.name, MEASURED)
    try:
        prepared = contender.prepare(problem)
        _before(prepared)
        start = time.perf_counter()
        result = prepared.run()
        taken = time.perf_counter() - start
    except (LeftOutError, MissingExtraError) as missing:
        return dataclasses.replace(entry, state=LEFT_OUT, reason=str(missing)), None
    except Exception as error:
        return dataclasses.replace(entry, state=FAILED, reason=one_line(error)), None
    entry = dataclasses.replace(entry, note=prepared.note, units=prepared.units, first_seconds=taken)
    entry = _judged(task, problem, prepared, result, entry)
    return entry, prepared if entry.state == MEASURED else None


def one_line(error: BaseException) -> str:
    """An error as one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _judged(task: Task, problem: Any, prepared: Prepared, result: Any, entry: Entry) -> Entry:
    """The entry with a run's error in it: the largest of all its runs counts."""
    try:
        if isinstance(result, Exception):
            raise result
        error = float(problem.error(prepared, prepared.answer(result)))
    except Exception as raised:
        return dataclasses.replace(entry, state=FAILED, reason=one_line(raised))
    worst = error if entry.error is None or not error <= entry.error else entry.error
    if not error <= task.tolerance:  # NaN too
        reason = f"its answer is {error:.2g} from {task.truth}; at most {task.tolerance:.2g} is rounding"
        return dataclasses.replace(entry, state=WRONG, reason=reason, error=worst)
    return dataclasses.replace(entry, error=worst)


def _result(
    task: Task,
    problem: Any,
    sizes: dict[str, int],
    repeats: int,
    entries: dict[str, Entry],
    ready: dict[str, Prepared],
    taken: dict[str, list[float]],
    held: dict[str, Memory | None],
    interrupted: bool,
) -> Result:
    timed = [name for name in ready if entries[name].state == MEASURED]
    per_unit = {name: Spread.of(taken[name]).times(1 / ready[name].units) for name in timed}
    base = base_of(task, per_unit)
    for name in timed:
        spread = Spread.of(taken[name])
        speed = problem.data_bytes / spread.median / 1e9 if task.reads else None
        entries[name] = dataclasses.replace(
            entries[name],
            seconds=spread,
            per_unit=per_unit[name],
            ratio=per_unit[name].over(per_unit[base]) if base else None,
            gigabytes_per_second=speed,
        )
    told = tuple(dataclasses.replace(entry, memory=held.get(name)) for name, entry in entries.items())
    return Result(
        task.name,
        task.title.format(**{name: f"{size:,}" for name, size in sizes.items()}),
        task.unit,
        sizes,
        repeats,
        tuple(ready),
        base,
        task.truth,
        task.tolerance,
        told,
        interrupted,
    )


def base_of(task: Task, per_unit: dict[str, Spread]) -> str | None:
    """The contender that ratios are over: the task's own, or where it did not run the fastest."""
    if task.base in per_unit:
        return task.base
    return min(per_unit, key=lambda name: per_unit[name].median, default=None)
