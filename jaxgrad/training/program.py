"""What is compiled: a piece of the training loop, of any length up to its room for losses."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from jaxgrad.pytrees import leaves_by_path
from jaxgrad.training.learning_rates import reader_of
from jaxgrad.training.source import BatchOf, Shuffled, Stacked
from jaxgrad.updates import training_step


class Piece(NamedTuple):
    """What a piece of the loop ended with.

    Attributes:
      state: parameters and optimizer state.
      done: ``i32[]``, how many steps were made: fewer than asked if a loss was not finite, that step included.
      losses: ``[room]``, of which the first ``done`` are set.
      rates: the same of the learning rates; None if they are not read from the state.
    """

    state: tuple[Any, Any]
    done: Any
    losses: Any
    rates: Any


Run = Callable[..., Piece]
"""``run(state, arrays, first, count, learning_rate) -> Piece``"""


class Unchanged:
    """A loss for which a compiled program still holds: the same function, which closes over the same things.

    Attributes:
      function: itself.
    """

    def __init__(self, function: Any, parts: tuple[Any, ...]):
        self.function, self._parts = function, parts

    @classmethod
    def of(cls, loss: Any) -> Unchanged | None:
        """None for what may change unseen: a method's object, an object with attributes."""
        if not isinstance(loss, types.FunctionType):
            return None
        code, scope = loss.__code__, loss.__globals__
        cells = [cell.cell_contents for cell in loss.__closure__ or () if _is_set(cell)]
        if any(not _is_plain(each) for each in cells):
            return None
        named = [scope.get(name) for name in _names(code)]
        return cls(loss, (code, loss.__defaults__, *cells, *named))

    def __hash__(self) -> int:
        return hash(self.function)

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, Unchanged)
            and self.function is other.function
            and len(self._parts) == len(other._parts)
            and all(one is two for one, two in zip(self._parts, other._parts, strict=True))
        )


def _names(code: types.CodeType) -> list[str]:
    """The global names that a function and those inside it may read."""
    inner = [name for each in code.co_consts if isinstance(each, types.CodeType) for name in _names(each)]
    return [*code.co_names, *inner]


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    """Whether a value that a loss closes over stays what it is."""
    return isinstance(
        value, (int, float, complex, str, bytes, type(None), types.FunctionType, types.ModuleType, jax.Array)
    )


def skips_bad_steps(opt_state: Any) -> bool:
    """Whether the optimizer itself passes over gradients that are not finite: ``optax.apply_if_finite``."""
    name = "ApplyIfFiniteState"
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: type(node).__name__ == name)
    return any(type(node).__name__ == name for node in nodes)


def program(loss: Any, optimizer: Any, batch_of: BatchOf, loss_dtype: Any, room: int, donate: bool) -> Run:
    """The compiled piece; kept for the next call with the same loss and optimizer.

    Args:
      loss: ``loss(params, *batch)``.
      optimizer: an optax transformation; None for the update by hand.
      batch_of: makes a step's batch.
      loss_dtype: of the losses.
      room: for so many losses.
      donate: whether the state that is passed in may be overwritten.
    """
    key = Unchanged.of(loss)
    if key is None:
        return _kept.__wrapped__(loss, optimizer, batch_of, loss_dtype, room, donate)
    return _kept(key, optimizer, batch_of, loss_dtype, room, donate)


@functools.lru_cache(maxsize=8)
def _kept(loss: Any, optimizer: Any, batch_of: BatchOf, loss_dtype: Any, room: int, donate: bool) -> Run:
    loss = loss.function if isinstance(loss, Unchanged) else loss
    step = training_step("fit", loss, optimizer)

    def run(state: tuple[Any, Any], arrays: Any, first: Any, count: Any, learning_rate: Any) -> Piece:
        # A loop that runs while the loss is finite costs no more than a scan, stops at once, and is one program for
        # all lengths.
        reader, lenient = reader_of(optimizer, state[1]), skips_bad_steps(state[1])
        losses = jnp.zeros(room, loss_dtype)
        rates = jnp.zeros(room, jnp.result_type(float)) if callable(reader) else None

        def unfinished(carry: tuple[Any, ...]) -> Any:
            return (carry[0] < count) & carry[1]

        def one_step(carry: tuple[Any, ...], batch_of: BatchOf, arrays: Any, begun: Any) -> tuple[Any, ...]:
            place, _, (params, opt_state), losses, rates = carry
            batch = batch_of(arrays, first + place, place - begun)
            params, after, value = step(params, opt_state, batch, learning_rate)
            losses = jax.lax.dynamic_update_index_in_dim(losses, value, place, 0)
            if callable(reader):
                rate = jnp.asarray(reader(opt_state, after), rates.dtype)
                rates = jax.lax.dynamic_update_index_in_dim(rates, rate, place, 0)
            good = jnp.bool_(True) if lenient else jnp.isfinite(value)
            return place + 1, good, (params, after), losses, rates

        def gathered_steps(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            begun = carry[0]
            assert isinstance(batch_of, Shuffled)
            gathered = batch_of.gather(arrays, first + begun)
            return jax.lax.while_loop(
                lambda inner: unfinished(inner) & (inner[0] < begun + batch_of.ahead),
                lambda inner: one_step(inner, Stacked(), gathered, begun),
                carry,
            )

        def plain_step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            return one_step(carry, batch_of, arrays, 0)

        start = (jnp.int32(0), jnp.bool_(True), state, losses, rates)
        body = gathered_steps if isinstance(batch_of, Shuffled) and batch_of.ahead > 1 else plain_step
        done, _, state, losses, rates = jax.lax.while_loop(unfinished, body, start)
        return Piece(state, done, losses, rates)

    return jax.jit(run, donate_argnums=0 if donate else ())


@dataclass
class Plan:
    """What is known of a run before anything is compiled.

    Attributes:
      state: shapes and dtypes of parameters and optimizer state once steps were made: some optimizers widen a dtype in
        the first one.
      loss_dtype: of the losses.
      unused: the paths of the parameters that the loss does not use.
      pace: seconds a step, as an earlier call with the same plan on one device has measured them.
    """

    state: tuple[Any, Any]
    loss_dtype: Any
    unused: tuple[str, ...]
    pace: float | None = None


def plan(loss: Any, optimizer: Any, state: tuple[Any, Any], batch: Any) -> Plan:
    """Trace a step; kept for the next call with the same loss, optimizer, shapes and dtypes.

    Args:
      loss: of the user.
      optimizer: an optax transformation, or None.
      state: parameters and optimizer state, as they begin.
      batch: as shapes and dtypes.
    """
    leaves, tree = jax.tree.flatten((jax.tree.map(strong, state), batch))
    key = Unchanged.of(loss)
    if key is None:
        return _traced.__wrapped__(loss, optimizer, tuple(leaves), tree)
    return _traced(key, optimizer, tuple(leaves), tree)


@functools.lru_cache(maxsize=8)
def _traced(loss: Any, optimizer: Any, leaves: tuple[jax.ShapeDtypeStruct, ...], tree: Any) -> Plan:
    loss = loss.function if isinstance(loss, Unchanged) else loss
    (params, opt_state), batch = jax.tree.unflatten(tree, leaves)
    step = training_step("fit", loss, optimizer)
    rate = jax.ShapeDtypeStruct((), jnp.result_type(float))
    state = (params, opt_state)
    value = None
    for _ in range(3):
        *after, value = jax.eval_shape(step, *state, batch, rate)
        before, state = state, jax.tree.map(strong, tuple(after))
        if state == before:
            break
    assert value is not None
    return Plan(state, value.dtype, _unused(loss, params, batch))


def _unused(loss: Any, params: Any, batch: tuple[Any, ...]) -> tuple[str, ...]:
    paths = list(leaves_by_path(params))
    jaxpr = jax.make_jaxpr(loss)(params, *batch).jaxpr
    used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1][: len(paths)]
    return tuple(path for path, is_used in zip(paths, used, strict=True) if not is_used)


def strong(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype, which is never a weak one."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True))
