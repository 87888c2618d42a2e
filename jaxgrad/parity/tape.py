"""What both recorders write: the operations of one training step in order, and what is known of each value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxgrad.parity.fingerprints import Fingerprint
from jaxgrad.parity.progress import count
from jaxgrad.report.values import Site


class Summary(NamedTuple):
    """What is kept of one computed value.

    Attributes:
      fingerprint: of the float64 shadow; None for a value that is not floating, or has no shadow.
      scale: the mean size of what was added up in an entry; far above the entries where it cancelled.
      error: the largest distance between the program's own value and its shadow.
      noise: the largest distance between the shadow and disturbed ones; 0 where there are none.
      lost: the program's own value is not finite where the shadow is.
      local: the largest distance between the program's own value and what float64 makes of the program's own operands;
        ``error``, where no value of two bytes is about, whose rounding would drown what this operation rounds.
    """

    fingerprint: Fingerprint | None
    scale: float
    error: float
    noise: float
    lost: bool
    local: float = 0.0


@dataclass
class Value:
    """A value of the tape. Reshaped, transposed or converted it is the same value.

    Attributes:
      index: its place in ``Tape.values``.
      shape: as it was computed.
      dtype: of the program's own value: ``"float32"``.
      summary: what is kept of it.
      op: the index of the operation that made it; None for what the step was given.
      leaf: for what the step was given, its name: a parameter's path, ``batch[0]``, or a constant.
      live: whether it depends on a parameter or on a floating entry of the batch.
      random: whether it depends on numbers drawn at random in the step.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    summary: Summary
    op: int | None = None
    leaf: str | None = None
    live: bool = False
    random: bool = False

    @property
    def size(self) -> int:
        """How many real numbers."""
        if self.summary.fingerprint is not None:
            return self.summary.fingerprint.size
        n = 1
        for length in self.shape:
            n *= length
        return n


@dataclass
class Op:
    """One operation: what it was called, what it read and made, and where it stands in somebody's code."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    site: Site
    stage: str  # "forward", "loss", "gradient" or "update"
    shadowed: bool = True
    draws: bool = False  # random numbers are drawn here


@dataclass
class Tape:
    """One training step of one program.

    Attributes:
      ops: in the order they ran.
      values: each made once.
      loss: the value of the loss.
      gradients: by the path of the parameter; None where the loss does not reach it.
      leaves: what the step was given, by name.
      framework: who computed it.
      operands: for each operation that was watched, the float64 arrays that it read, as they lay, by value.
    """

    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    loss: int = -1
    gradients: dict[str, int | None] = field(default_factory=dict)
    leaves: dict[str, int] = field(default_factory=dict)
    framework: str = ""
    operands: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)

    def add_value(self, shape: tuple[int, ...], dtype: str, summary: Summary, **known: object) -> Value:
        """Append a value; ``known`` are further attributes of ``Value``."""
        value = Value(len(self.values), shape, dtype, summary, **known)  # pyright: ignore[reportArgumentType]
        self.values.append(value)
        return value

    def add_op(self, op: Op) -> None:
        """Append an operation whose inputs and outputs are on the tape."""
        count()
        number = len(self.ops)
        self.ops.append(op)
        read = [self.values[i] for i in op.inputs]
        for i in op.outputs:
            made = self.values[i]
            made.op = number
            made.live = any(value.live for value in read)
            made.random = op.draws or any(value.random for value in read)

    def above(self, value: int) -> set[int]:
        """The values from which one is computed, itself included."""
        seen: set[int] = set()
        stack = [value]
        while stack:
            i = stack.pop()
            if i not in seen:
                seen.add(i)
                number = self.values[i].op
                stack += self.ops[number].inputs if number is not None else ()
        return seen


def check_tape(tape: Tape) -> None:
    """Assert what every reader relies on: each value is made once, before it is read, and the roots exist."""
    made = {value.index for value in tape.values if value.op is None}
    for number, op in enumerate(tape.ops):
        unknown = [i for i in op.inputs if i not in made]
        assert not unknown, f"op {number} ({op.name}) reads {unknown} before they are made"
        again = [i for i in op.outputs if i in made]
        assert not again, f"op {number} ({op.name}) makes {again} again"
        assert all(tape.values[i].op == number for i in op.outputs), (
            f"op {number} ({op.name}) is not named by its outputs"
        )
        made.update(op.outputs)
    assert made == set(range(len(tape.values))), "a value was never made"
    assert tape.loss in made, "the loss is not on the tape"
    roots = [i for i in tape.gradients.values() if i is not None]
    assert made.issuperset(roots), "a gradient is not on the tape"
