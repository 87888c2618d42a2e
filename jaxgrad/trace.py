"""The record of a lesson: each value by its name and step, in exact bits, with the line of code that made it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError

PER_STEP = ("Q", "loss", "w.grad", "b.grad", "w", "b")
"""What each step computes, in this order; ``w`` and ``b`` are those after the update."""
AFTERWARDS = ("Q again", "loss again")
"""Predicted and measured once more, with the parameters that the last step left."""
GIVEN = ("x", "y", "guess.w", "guess.b")
"""What the lesson starts from."""
ALL = (*GIVEN, *PER_STEP, *AFTERWARDS)


@dataclass(frozen=True)
class SourceLine:
    """A line of code that computed a value: file name, line number, the code itself."""

    file: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.code}  ({self.file}:{self.line})"


def lines_of(*functions: Callable[..., Any]) -> dict[str, SourceLine]:
    """The lines of functions that name what they compute in a comment ``# -> Q`` or ``# -> w, b``."""
    found = {}
    for function in functions:
        path = Path(inspect.getsourcefile(function) or "?")
        code, first = inspect.getsourcelines(function)
        for number, text in enumerate(code, start=first):
            if match := re.search(r"^\s*(?:return )?(.+?)\s+# -> (.+)$", text):
                for name in match[2].split(", "):
                    found[name] = SourceLine(f"{path.parent.name}/{path.name}", number, match[1])
    return found


@dataclass(frozen=True, eq=False)
class Trace:
    """The values of one lesson by name: ``trace["loss"]``.

    ``Q [steps, *x.shape]``, ``loss [steps]``, ``w.grad``, ``b.grad``, ``w`` and ``b`` ``[steps, *parameter]``
    (``w`` and ``b`` after the update of that step); ``x``, ``y``, ``guess.w``, ``guess.b`` as given and ``Q again``,
    ``loss again`` after the last step, without the step axis. All are read-only NumPy arrays of the dtype that
    the lesson was computed in, copied when they were made: no later step rewrites them. Two traces are equal if all
    of it is, bit for bit (NaN equals NaN).

    Attributes:
      values: the arrays.
      framework: who computed it, with version: ``"jax 0.10.2"``.
      route: how: ``"functional"``, ``"jit"``, ``"optax"``, ``"exact"``, or torch's ``"autograd"`` and ``"sgd"``.
      update: ``"hand"`` (``w - lr * w.grad``) or ``"sgd"`` (an optimizer's).
      learning_rate: positive.
      device: where it ran.
      lines: the line of code behind each name.

    >>> from jaxgrad import run_lesson
    >>> trace = run_lesson()
    >>> trace["Q"].tolist(), [round(float(v), 4) for v in trace["loss"]]
    ([[8.0, 10.0, 12.0]], [3.6667])
    """

    values: Mapping[str, np.ndarray]
    framework: str
    route: str
    update: str
    learning_rate: float
    device: str
    lines: Mapping[str, SourceLine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        copies = {}
        for name in ALL:
            copies[name] = np.array(self.values[name])
            copies[name].setflags(write=False)
        object.__setattr__(self, "values", MappingProxyType(copies))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.values:
            raise KeyError(f"a trace has no {name!r}; it has {', '.join(self.values)}")
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __eq__(self, other: object) -> bool:
        return self.to_data() == other.to_data() if isinstance(other, Trace) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot be pickled
        given = self.framework, self.route, self.update, self.learning_rate, self.device
        return type(self), (dict(self.values), *given, dict(self.lines))

    @property
    def steps(self) -> int:
        """How many updates were made."""
        return len(self.values["loss"])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of all values."""
        return self.values["loss"].dtype

    def before(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """``w, b`` as they were when step ``step``, counted from 0, began."""
        if step == 0:
            return self.values["guess.w"], self.values["guess.b"]
        return self.values["w"][step - 1], self.values["b"][step - 1]

    def __str__(self) -> str:
        rows = [f"{self.framework}, {self.route}, {self.device}, learning rate {self.learning_rate:g}"]
        rows += [f"  {name:<10} {compact(self.values[name])}" for name in GIVEN]
        shown = [t for t in range(self.steps) if t < 3 or t >= self.steps - 2]
        for before, t in zip([-1, *shown], shown, strict=False):
            if t - before > 1:
                rows.append(f"  ... {t - before - 1} more steps ...")
            rows.append(f"step {t + 1}")
            rows += [f"  {name:<10} {compact(self.values[name][t])}" for name in PER_STEP]
        rows.append("afterwards")
        rows += [f"  {name:<10} {compact(self.values[name])}" for name in AFTERWARDS]
        return "\n".join(rows)

    def to_data(self) -> dict[str, Any]:
        """The trace as plain data for JSON: every value an exact hexadecimal float."""
        return {
            "framework": self.framework,
            "route": self.route,
            "update": self.update,
            "learning_rate": self.learning_rate,
            "device": self.device,
            "dtype": self.dtype.name,
            "lines": {name: [line.file, line.line, line.code] for name, line in self.lines.items()},
            "values": {name: hexes(value) for name, value in self.values.items()},
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Trace:
        """The trace that ``to_data`` wrote.

        Raises:
          InputError: if something is missing, not of the kind that was written, or does not fit the rest.
        """
        try:
            dtype = jnp.dtype(data["dtype"])
            values = {name: _exactly(name, from_hexes(data["values"][name]), dtype) for name in ALL}
            _check_shapes({name: value.shape for name, value in values.items()})
            return cls(
                values=values,
                framework=str(data["framework"]),
                route=str(data["route"]),
                update=str(data["update"]),
                learning_rate=float(data["learning_rate"]),
                device=str(data["device"]),
                lines={name: SourceLine(*line) for name, line in data["lines"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"Trace.from_data: {type(error).__name__}: {error}; expected what Trace.to_data wrote. Record it anew."
            ) from error

    def to_json(self) -> str:
        """The trace as JSON text, in exact bits."""
        return json.dumps(self.to_data())


def hexes(value: Any) -> Any:
    """Hexadecimal floats, as short as exact, in nested lists of the shape of ``value``.

    >>> hexes(np.float32(11) / np.float32(3)), hexes(np.array([2.0, 0.1]))
    ('0x1.d55556p+1', ['0x1p+1', '0x1.999999999999ap-4'])
    """
    if np.ndim(value):
        return [hexes(entry) for entry in value]
    return re.sub(r"\.?0*p", "p", float(value).hex())


def _exactly(name: str, entries: Any, dtype: np.dtype) -> np.ndarray:
    """The entries in the dtype that was written, which holds them without rounding."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {dtype.name}, not floating")
    wide = np.asarray(entries, np.float64)
    with np.errstate(over="ignore"):
        value = wide.astype(dtype)
    if not np.array_equal(value.astype(np.float64), wide, equal_nan=True):
        raise ValueError(f"{name} has entries that {dtype.name} does not hold")
    return value


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse values that one lesson cannot have made together."""
    x, w, b, steps = shapes["x"], shapes["guess.w"], shapes["guess.b"], shapes["loss"][:1] or (1,)
    fit = {"loss": steps, "y": x, "Q": steps + x, "Q again": x, "loss again": ()}
    fit |= {"w": steps + w, "w.grad": steps + w, "b": steps + b, "b.grad": steps + b}
    for name, shape in fit.items():
        if shapes[name] != shape:
            raise ValueError(f"{name} has shape {shapes[name]}, expected {shape}")


def from_hexes(value: Any) -> Any:
    """Floats from nested lists of hexadecimal floats."""
    return [from_hexes(entry) for entry in value] if isinstance(value, list) else float.fromhex(value)


def compact(value: np.ndarray, digits: int = 6, most: int = 4) -> str:
    """An array on one line: ``8, 10, 12``, the middle of a long one left out.

    >>> compact(np.array([1 / 3, 2.0])), compact(np.arange(9.0))
    ('0.333333, 2', '0, 1, ..., 8 (9 values)')
    """
    entries = [f"{float(entry):.{digits}g}" for entry in np.ravel(value)[:most]]
    if np.size(value) <= most:
        return ", ".join(entries)
    return f"{', '.join(entries[:2])}, ..., {float(np.ravel(value)[-1]):.{digits}g} ({np.size(value)} values)"
