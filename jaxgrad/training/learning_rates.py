"""The learning rate of an update, read from the optimizer's state as the update itself reads it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RateReader = Callable[[Any, Any], Any]
"""From the state before and after an update to the rate of that update."""


def reader_of(optimizer: Any, opt_state: Any) -> RateReader | float | None:
    """How to tell the learning rate of an optimizer's updates: the factor between its direction and its step.

    An optax transformation does not say its rate, and holds it in the functions that it is made of: these are searched
    for the pieces that scale by a number or a schedule, and the state for theirs. With several parameter groups, it is
    the first one's.

    Args:
      optimizer: an optax transformation, or None for the update by hand.
      opt_state: its state.

    Returns:
      A function of the states, a number where the rate never changes, None where it is not known: a line search or a
      rule that finds its own rate.
    """
    if optimizer is None:
        return None
    pieces, states = list(_pieces(optimizer.update)), list(_states(opt_state))
    groups = [cells["inner"] for name, cells in pieces if name == "masked" and "inner" in cells]
    for name, cells in pieces:
        if name == "partition" and isinstance(cells.get("transforms"), dict):
            of_label = cells["transforms"]
            groups += [of_label[label] for label in sorted(of_label, key=str)]  # as the state has them
    if len(groups) > 1:  # what scales all of them is not told from what scales one
        pieces = list(_pieces(groups[0].update))
        states = states[: max(1, len(states) // len(groups))]
    if any(name in _OWN_RATE for name, _ in pieces):
        return None
    sizes = [cells["step_size"] for name, cells in pieces if name == "scale" and _is_number(cells.get("step_size"))]
    constant = math.prod(abs(float(size)) for size in sizes)
    factors: list[tuple[int, Callable[[Any, Any], Any]]] = []
    for name, read in _READERS.items():
        maker, held = _PIECE_OF.get(name, (None, None))
        cells = [each for piece, each in pieces if piece == maker and held in each]
        numbers = [i for i, state in enumerate(states) if type(state).__name__ == name]
        for nth, number in enumerate(numbers):
            found = read(cells[nth] if nth < len(cells) else None)
            if found is None:
                return None
            factors.append((number, found))
    if not factors:
        return constant if sizes else None
    return functools.partial(_product, constant, tuple(factors))


def _product(constant: float, factors: tuple[tuple[int, Any], ...], before: Any, after: Any) -> Any:
    of_before, of_after = list(_states(before)), list(_states(after))
    rate = constant
    for number, read in factors:
        rate = rate * read(of_before[number], of_after[number])
    return rate


# Each reader gets what the piece of its state has closed over, and returns what reads the state.


def _scheduled(cells: dict[str, Any] | None) -> Any:
    return cells and (lambda before, after: cells["learning_rate"](before.count))


def _plateau(cells: dict[str, Any] | None) -> Any:
    return cells and (
        lambda before, after: jnp.asarray(cells["table"])[jnp.minimum(before.reductions, len(cells["table"]) - 1)]
    )


def _injected(cells: dict[str, Any] | None) -> Any:
    return lambda before, after: after.hyperparams["learning_rate"]  # which is that of the update just made


def _by_schedule(cells: dict[str, Any] | None) -> Any:
    return cells and (lambda before, after: jnp.abs(cells["step_size_fn"](before.count)))


def _scaled_on_plateau(cells: dict[str, Any] | None) -> Any:
    return lambda before, after: after.scale


_READERS: dict[str, Callable[[dict[str, Any] | None], Any]] = {
    "ScheduledState": _scheduled,
    "PlateauState": _plateau,
    "InjectHyperparamsState": _injected,
    "InjectStatefulHyperparamsState": _injected,
    "ScaleByScheduleState": _by_schedule,
    "ReduceLROnPlateauState": _scaled_on_plateau,
}
# What makes the update of which each is the state, and what that closes over.
_PIECE_OF = {
    "ScheduledState": ("scheduled", "learning_rate"),
    "PlateauState": ("reduce_on_plateau", "table"),
    "ScaleByScheduleState": ("scale_by_schedule", "step_size_fn"),
}
# Pieces that find a rate of their own.
_OWN_RATE = {
    "mechanize",
    "schedule_free",
    "scale_by_backtracking_linesearch",
    "scale_by_polyak",
    "scale_by_zoom_linesearch",
}


def _states(opt_state: Any) -> Iterator[Any]:
    """The nodes of a state that a reader knows, outermost first."""
    if type(opt_state).__name__ in _READERS and (
        not hasattr(opt_state, "hyperparams") or "learning_rate" in opt_state.hyperparams
    ):
        yield opt_state
        return
    children = jax.tree.leaves(opt_state, is_leaf=lambda node: node is not opt_state)
    for child in children:
        if child is not opt_state and not isinstance(child, (jax.Array, np.ndarray)):
            yield from _states(child)


def _pieces(function: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The functions that an update is made of, by the name of what made them, each with what it closed over."""
    seen: set[int] = set()

    def walk(thing: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, functools.partial):
            thing = (thing.func, thing.args, tuple(thing.keywords.values()))
        if isinstance(thing, dict):
            thing = tuple(thing.values())
        if isinstance(thing, (tuple, list)):
            for each in thing:
                yield from walk(each)
        code, cells = getattr(thing, "__code__", None), getattr(thing, "__closure__", None)
        if code is None or not cells:
            return
        held = {}
        for name, cell in zip(code.co_freevars, cells, strict=True):
            try:
                held[name] = cell.cell_contents
            except ValueError:  # not yet set
                continue
        yield code.co_qualname.split(".")[0], held
        for each in held.values():
            if callable(each) or isinstance(each, (tuple, list, dict)):
                yield from walk(each)

    return walk(function)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)) and np.ndim(value) == 0
