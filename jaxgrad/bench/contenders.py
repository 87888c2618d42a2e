"""What a task and a contender are: the same work, done in several ways, each answer held against float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Sizes = Mapping[str, int]
Answer = dict[str, np.ndarray]


class LeftOutError(Exception):
    """What a contender needs is not here; the message says what, in a few words."""


class Prepared(NamedTuple):
    """A contender that has its data and is ready to run.

    Attributes:
      run: the work, as often as asked; returns once the result is there, and not before.
      answer: from what ``run`` returned to NumPy arrays by the names of the task's truth.
      units: how much of the task a run does; fewer than the task has, where all of it would take minutes.
      note: what to know of it.
      before: done before each run, off the clock.
    """

    run: Callable[[], Any]
    answer: Callable[[Any], Answer]
    units: int
    note: str | None = None
    before: Callable[[], None] | None = None


def distance(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference of two arrays; infinite if their shapes differ, NaN if one has a NaN."""
    if np.shape(found) != np.shape(truth):
        return float("inf")
    return float(np.abs(np.asarray(found, np.float64) - truth).max())


class Problem(Protocol):
    """A task at certain sizes, with its data."""

    @property
    def units(self) -> int:
        """How many units of work it is."""
        ...

    @property
    def data_bytes(self) -> int:
        """The size of the data that each contender reads."""
        ...

    def error(self, prepared: Prepared, answer: Answer) -> float:
        """How far an answer is from the float64 truth, for as many units as the contender did."""
        ...


@dataclass(frozen=True)
class Contender:
    """One way to do a task.

    Attributes:
      name: in tables, and on a child's command line.
      prepare: from the problem to what is run; raises ``LeftOutError`` or ``MissingExtraError`` where it cannot.
    """

    name: str
    prepare: Callable[[Any], Prepared]


@dataclass(frozen=True)
class Task:
    """A task and its contenders.

    Attributes:
      name: on the command line.
      title: what is measured, with the sizes in braces: ``"{steps} steps"``.
      unit: of work, of which a time is told: ``"step"``.
      sizes: by name, the default ones.
      quick: the same for a try of a second, and to warm up.
      grows: the sizes over which ``--grow`` goes.
      base: the contender to whose time the others' are a ratio.
      problem: from sizes to the data.
      contenders: in the order of their turns.
      truth: what answers are held against, in words.
      tolerance: how far from it they may be.
      reads: whether gigabytes a second are worth telling.
      devices: the contenders that use several devices, whose growth with them is measured.
      own_process: whether each run is a process of its own, so that its memory is not this one's.
    """

    name: str
    title: str
    unit: str
    sizes: Sizes
    quick: Sizes
    grows: tuple[str, ...]
    base: str
    problem: Callable[[Sizes], Any]
    contenders: tuple[Contender, ...]
    truth: str
    tolerance: float
    reads: bool = False
    devices: tuple[str, ...] = ()
    own_process: bool = False
