"""What a measurement is: plain frozen values, which know how to become JSON."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = 1  # of the JSON; another number means that a name has gone or means something else

MEASURED, LEFT_OUT, WRONG, FAILED = "measured", "left out", "wrong", "failed"


@dataclass(frozen=True)
class Spread:
    """Some measurements of one thing: the middle one, the quartiles, the extremes, and all of them in their order."""

    median: float
    quartiles: tuple[float, float]
    low: float
    high: float
    all: tuple[float, ...]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """The spread of at least one number.

        >>> Spread.of([3.0, 1.0, 2.0]).median
        2.0
        """
        first, third = numbers[0], numbers[0]
        if len(numbers) > 1:
            first, _, third = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(statistics.median(numbers), (first, third), min(numbers), max(numbers), tuple(numbers))

    def times(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread.of([number * factor for number in self.all])

    def over(self, other: Spread) -> Spread:
        """The ratio round by round, for two things that were measured in turn: what both suffered cancels."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.all, other.all, strict=True)])


@dataclass(frozen=True)
class Memory:
    """What a contender's own process held, in bytes.

    Attributes:
      before: resident before its data was made, the contender having run once on a small problem.
      peak: the most that was resident while it ran on the whole problem, data and ``before`` included.
      data: the size of the data.
      whole: False where the peak could not be reset, so that the making of the data may be in it.
    """

    before: int
    peak: int
    data: int
    whole: bool = True

    @property
    def grown(self) -> int:
        """Bytes that data and run added."""
        return max(0, self.peak - self.before)

    @property
    def over_data(self) -> float | None:
        """The growth as a multiple of the data, where there is data to speak of."""
        return self.grown / self.data if self.data >= 2**20 else None


@dataclass(frozen=True)
class Entry:
    """One contender's result.

    Attributes:
      name: of the contender.
      state: ``"measured"``; ``"left out"``, what it needs is not here; ``"wrong"``, its answer is not the truth's, so
        its time means nothing; ``"failed"``, it raised.
      reason: for all but the first, in words.
      note: what to know of it.
      units: how much of the task a timed run did: steps, rows.
      seconds: of the timed runs.
      per_unit: the same by ``units``.
      ratio: its time per unit over that of the task's contender of jaxgrad, round by round.
      first_seconds: of the run before the timed ones, which compiles.
      error: the largest distance of its answers from the float64 truth, as the task measures it.
      gigabytes_per_second: for tasks that read much: data over the median.
      memory: of a process of its own, where it was measured.
    """

    name: str
    state: str
    reason: str | None = None
    note: str | None = None
    units: int | None = None
    seconds: Spread | None = None
    per_unit: Spread | None = None
    ratio: Spread | None = None
    first_seconds: float | None = None
    error: float | None = None
    gigabytes_per_second: float | None = None
    memory: Memory | None = None


@dataclass(frozen=True)
class Result:
    """A task's measurement: what was measured, how, and each contender's entry.

    ``repeats`` is the number of rounds that were asked for; where the run was ``interrupted``, fewer were timed.
    """

    task: str
    title: str
    unit: str
    sizes: dict[str, int]
    repeats: int
    order: tuple[str, ...]
    base: str | None
    truth: str
    tolerance: float
    entries: tuple[Entry, ...]
    interrupted: bool = False

    @property
    def good(self) -> bool:
        """Whether no contender was wrong or failed."""
        return not any(entry.state in (WRONG, FAILED) for entry in self.entries)

    def entry(self, name: str) -> Entry:
        """The entry of a contender."""
        return next(entry for entry in self.entries if entry.name == name)

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become null."""
        data = dataclasses.asdict(self)
        for entry, told in zip(self.entries, data["entries"], strict=True):
            if entry.memory is not None:
                told["memory"] |= {"grown": entry.memory.grown, "over_data": entry.memory.over_data}
        return _plain(data)


@dataclass(frozen=True)
class Growth:
    """A task's time as one of its sizes grows, the others as they are.

    Attributes:
      task: its name.
      over: the size that grows, or ``"devices"``.
      unit: of work, of which ``per_unit`` is the time.
      sizes: in rising order.
      per_unit: the median seconds of each contender at each size; None where it has no time.
      reasons: the last one why a contender has none somewhere, by its name.
    """

    task: str
    over: str
    unit: str
    sizes: tuple[int, ...]
    per_unit: dict[str, tuple[float | None, ...]]
    reasons: dict[str, str]

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
