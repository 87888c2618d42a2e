"""The learning rate of an update, read from the optimizer's state as the update itself reads it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RateReader = Callable[[Any, Any], Any]
"""From the state before and after an update to the rate of that update."""


def reader_of(optimizer: Any, opt_state: Any) -> RateReader | float | None:
    """How to tell the learning rate of an optimizer's updates.

    An optax transformation does not say its rate, and holds it in the functions that it is made of: these are searched
    for the pieces that scale by a rate, and the state for theirs. With several parameter groups, it is the first one's.

    Args:
      optimizer: an optax transformation, or None for the update by hand.
      opt_state: its state.

    Returns:
      A function of the states, a number where the rate never changes, None where it is not found.
    """
    if optimizer is None:
        return None
    states = list(_states(opt_state))
    pieces = list(_pieces(optimizer.update))
    sizes = [cells["step_size"] for name, cells in pieces if name == "scale" and _is_number(cells.get("step_size"))]
    constant = next((float(-size) for size in reversed(sizes) if size < 0), None)
    for name, read in _READERS.items():
        number = next((i for i, state in enumerate(states) if type(state).__name__ == name), None)
        if number is None:
            continue
        found = read(number, [cells for piece, cells in pieces if piece == _PIECE_OF.get(name)], constant)
        if found is not None:
            return functools.partial(_read, found, number)
    return constant


def _read(found: Callable[[Any, Any], Any], number: int, before: Any, after: Any) -> Any:
    nth = [list(_states(state))[number] for state in (before, after)]
    return found(*nth)


# Each reader gets the cells of the pieces of its kind, in their order, and returns what reads a state.


def _scheduled(number: int, cells: list[dict[str, Any]], constant: float | None) -> Any:
    return _of_first(cells, "learning_rate", lambda table: lambda before, after: table(before.count))


def _plateau(number: int, cells: list[dict[str, Any]], constant: float | None) -> Any:
    def reader(table: Any) -> Any:
        return lambda before, after: jnp.asarray(table)[jnp.minimum(before.reductions, len(table) - 1)]

    return _of_first(cells, "table", reader)


def _injected(number: int, cells: list[dict[str, Any]], constant: float | None) -> Any:
    def read(before: Any, after: Any) -> Any:
        return after.hyperparams["learning_rate"]  # which is that of the update just made

    return read


def _by_schedule(number: int, cells: list[dict[str, Any]], constant: float | None) -> Any:
    return _of_first(cells, "step_size_fn", lambda size: lambda before, after: jnp.abs(size(before.count)))


def _scaled_on_plateau(number: int, cells: list[dict[str, Any]], constant: float | None) -> Any:
    return None if constant is None else lambda before, after: constant * after.scale


def _of_first(cells: list[dict[str, Any]], name: str, reader: Callable[[Any], Any]) -> Any:
    return next((reader(each[name]) for each in cells if name in each), None)


_READERS: dict[str, Callable[[int, list[dict[str, Any]], float | None], Any]] = {
    "ScheduledState": _scheduled,
    "PlateauState": _plateau,
    "InjectHyperparamsState": _injected,
    "InjectStatefulHyperparamsState": _injected,
    "ScaleByScheduleState": _by_schedule,
    "ReduceLROnPlateauState": _scaled_on_plateau,
}
# The function of which each state is.
_PIECE_OF = {
    "ScheduledState": "scheduled",
    "PlateauState": "reduce_on_plateau",
    "ScaleByScheduleState": "scale_by_schedule",
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
            if callable(each) or isinstance(each, (tuple, list)):
                yield from walk(each)

    return walk(function)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)) and np.ndim(value) == 0
