"""From what a user gives to what the loop runs: everything is checked here, and everything is put on its devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxgrad.data import Batches, batches, check_key, check_rows
from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import check_floating, check_learning_rate, short
from jaxgrad.sharding import by_rows, check_shared, checked_mesh, everywhere, put
from jaxgrad.training.checks import check_callbacks, check_finite, check_opt_state, check_used, count
from jaxgrad.training.keeping import Keeper, fingerprint
from jaxgrad.training.program import Plan, plan, strong
from jaxgrad.training.source import Drawn, OnDevice, Shuffled, Source, Whole, rows_of, shapes_of, size_of
from jaxgrad.training.validation import Validation, validation_batches

# So much is gathered at once from shuffled rows: it should stay in the processor's cache.
_AHEAD_BYTES, _MOST_AHEAD = 2**19, 128


@dataclass
class Setup:
    """A run about to begin, or to go on.

    Attributes:
      loss: of the user.
      optimizer: an optax transformation; None for the update by hand.
      rate: of that.
      source: of batches.
      state: parameters and optimizer state.
      plan: what tracing it has shown.
      on_mesh: whether several devices share its batches.
      steps: to make in all.
      done: of them by the run that this one continues.
      losses: of those.
      rates: of those.
      chunk: steps of a piece, if that is fixed.
      validation: if there is one.
      keeper: of checkpoints, if there is one.
      callbacks: all of them.
      donate: whether the state is held once.
    """

    loss: Any
    optimizer: Any
    rate: Any
    source: Source
    state: tuple[Any, Any]
    plan: Plan
    on_mesh: bool
    steps: int
    done: int
    losses: np.ndarray
    rates: np.ndarray
    chunk: int | None
    validation: Validation | None
    keeper: Keeper | None
    callbacks: tuple[Callable[[Any], Any], ...]
    donate: bool

    def agreed(self, number: int) -> int:
        """A number on which all processes agree: that of the first one."""
        if jax.process_count() == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def prepare(
    loss: Any,
    params: Any,
    data: Any,
    optimizer: Any,
    *,
    steps: int,
    batch_size: int | None,
    key: Any,
    opt_state: Any,
    validation: Any,
    validate_every: int | None,
    patience: int | None,
    min_improvement: float,
    callbacks: Any,
    chunk: int | None,
    checkpoint: Any,
    checkpoint_every: int | None,
    keep: int,
    resume: bool,
    mesh: Any,
    donate: bool,
    allow_unused: bool,
) -> Setup:
    """Check the arguments of ``fit`` and put what it trains on its devices.

    Raises:
      InputError, InputTypeError: for the first of them that cannot be.
    """
    steps = count("steps", steps)
    chunk = None if chunk is None else count("chunk", chunk)
    callbacks = check_callbacks(callbacks)
    keep = count("keep", keep)
    if resume and checkpoint is None:
        raise InputError("fit: resume=True without checkpoint. Pass the folder of the checkpoints.")
    if mesh is not None:
        mesh = checked_mesh("fit", mesh)
    check_floating("fit", "params", params)
    check_key("fit", key)
    rate, optimizer = _by_hand_or_optax(optimizer, opt_state)
    tell_apart, make_source, per_epoch = _source(data, batch_size, key, mesh)

    checked = None
    if validation is not None:
        checked = validation_batches(validation)
        check_finite("validation", checked)
    if patience is not None:
        patience = count("patience", patience, 0)
        if validation is None:
            raise InputError("fit: patience without validation. Pass validation=(x, y), data that is not trained on.")
    if not (isinstance(min_improvement, (int, float)) and 0 <= min_improvement < math.inf):
        raise InputError(f"fit: min_improvement={min_improvement!r}, expected a finite number from 0 on.")
    every = max(1, per_epoch or steps // 10) if validate_every is None else count("validate_every", validate_every)
    watched = Validation(loss, _placed(checked, mesh), every, patience, min_improvement) if checked else None

    keeper = None
    if checkpoint is not None:
        saved_every = count("checkpoint_every", checkpoint_every or max(1, steps // 10))
        told = tell_apart() | ({"validate_every": every} if watched else {})
        keeper = Keeper(checkpoint, saved_every, keep, resume, told)
    elif checkpoint_every is not None:
        raise InputError("fit: checkpoint_every without checkpoint. Pass the folder for the checkpoints.")
    done = (keeper.saved or 0) if keeper else 0
    if done > steps:
        raise InputError(f"fit: the newest checkpoint is that of step {done}, of steps={steps}. Pass more steps.")

    source = make_source(done)
    state, planned = _state(loss, params, optimizer, opt_state, source.example(), mesh, donate, allow_unused)
    if watched:
        watched.check(state[0])
    losses, rates = np.zeros(0, planned.loss_dtype), np.zeros(0)
    if keeper and done:
        state, losses, rates = keeper.restore(state, planned.loss_dtype, watched)
    return Setup(
        loss,
        optimizer,
        rate,
        source,
        state,
        planned,
        mesh is not None,
        steps,
        done,
        losses,
        rates,
        chunk,
        watched,
        keeper,
        callbacks,
        donate,
    )


def _by_hand_or_optax(optimizer: Any, opt_state: Any) -> tuple[Any, Any]:
    """The rate of the update by hand and no optimizer, or a rate that nothing reads and the optimizer."""
    if not isinstance(optimizer, (int, float, np.ndarray, np.generic, jax.Array)):
        if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
            raise InputTypeError(
                f"fit: optimizer is {optimizer!r}, expected an optax GradientTransformation or a learning rate. "
                "Pass optax.sgd(0.1), or 0.1."
            )
        return np.asarray(0.0, jax.numpy.result_type(float)), optimizer
    check_learning_rate("fit", optimizer)
    if opt_state is not None:
        raise InputError("fit: opt_state with a learning rate for the update by hand, which has none. Leave it out.")
    return np.asarray(optimizer, jax.numpy.result_type(float)), None


def _source(
    data: Any, batch_size: int | None, key: Any, mesh: Any
) -> tuple[Callable[[], dict[str, Any]], Callable[[int], Source], int | None]:
    """What tells the data apart, if asked; what makes the source from a step on; the steps of a shuffled epoch."""
    if isinstance(data, tuple):
        if batch_size is not None:
            data = batches(data, batch_size, key, function="fit")
        else:
            rows = check_rows("fit", data)
            check_finite("data", data)
            if mesh is not None:
                check_shared("fit", "data", rows, mesh)
            return partial(_told, data, rows, None, None), lambda done: _whole(data, mesh), None
    elif batch_size is not None:
        raise InputTypeError(
            f"fit: batch_size={batch_size} with data that is a {type(data).__name__}, which has its own batches. "
            "Pass a tuple of arrays, or leave batch_size out."
        )
    if isinstance(data, Batches):
        drawn = data
        if not isinstance(drawn.data, tuple):
            raise InputTypeError(
                f"fit: data are batches of a {type(drawn.data).__name__}, expected those of a tuple, which is spread "
                "as loss(params, *batch). Pass batches((x, y), ...)."
            )
        check_finite("data", drawn.data)
        if mesh is not None:
            check_shared("fit", "a batch", drawn.batch_size, mesh)
        told = partial(_told, drawn.data, drawn.rows, drawn.batch_size, [*map(int, drawn.seed), drawn.step])
        return told, lambda done: _shuffled(drawn, mesh, done), -(-drawn.rows // drawn.batch_size)
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, dict, jax.Array, np.ndarray)):
        given = short(data) if hasattr(data, "dtype") else f"a {type(data).__name__}"
        raise InputTypeError(
            f"fit: data is {given}, expected a tuple of arrays, batches(...), or an iterable of batches. "
            "Pass (x, y), or (x,) for one array."
        )
    return lambda: {"jaxgrad": "fit", "data": "drawn"}, lambda done: Drawn(data, _piece(mesh), done), None


def _told(data: Any, rows: int, batch_size: int | None, seed: Any) -> dict[str, Any]:
    return {"jaxgrad": "fit", "rows": rows, "batch_size": batch_size, "seed": seed, "data": fingerprint(data)}


def _whole(data: Any, mesh: Any) -> Source:
    placed = jax.tree.map(_put if mesh is None else partial(put, sharding=by_rows(mesh)), data)
    return OnDevice(Whole(), placed, shapes_of(placed))


def _shuffled(drawn: Batches, mesh: Any, done: int) -> Source:
    if any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(drawn.data)):
        again = Batches(drawn.data, drawn.batch_size, drawn.seed, drawn.step + done)
        return Drawn(again, _piece(mesh))
    placed = jax.tree.map(_put if mesh is None else partial(put, sharding=everywhere(mesh)), drawn.data)
    size = drawn.batch_size
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), placed)
    sharding = None if mesh is None else by_rows(mesh, 1)
    ahead = max(1, min(_MOST_AHEAD, _AHEAD_BYTES // max(size_of(batch), 1)))
    return OnDevice(Shuffled(drawn.rows, size, ahead, sharding), (drawn.seed, np.uint32(drawn.step), placed), batch)


def _piece(mesh: Any) -> Callable[[Any], Any]:
    """Puts stacked batches on the devices."""
    if mesh is None:
        return jax.device_put

    def placed(piece: Any) -> Any:
        check_shared("fit", "a batch", rows_of(jax.tree.map(lambda leaf: leaf[0], piece)), mesh)
        return jax.tree.map(lambda leaf: put(leaf, by_rows(mesh, 1) if leaf.ndim > 1 else everywhere(mesh)), piece)

    return placed


def _placed(checked: list[Any] | None, mesh: Any) -> list[Any]:
    return jax.tree.map(_put if mesh is None else partial(put, sharding=everywhere(mesh)), checked or [])


def _state(
    loss: Any, params: Any, optimizer: Any, opt_state: Any, batch: Any, mesh: Any, donate: bool, allow_unused: bool
) -> tuple[tuple[Any, Any], Plan]:
    """Parameters and optimizer state on their devices, in the dtypes that they will have; and the plan."""
    placed = partial(_array, mesh=mesh, donate=donate)
    params = jax.tree.map(placed, params, jax.tree.map(strong, params))
    if optimizer is not None:
        if opt_state is None:
            opt_state = jax.jit(optimizer.init)(params)
        else:
            check_opt_state(optimizer, params, opt_state)
    planned = plan(loss, optimizer, (params, opt_state), batch)
    if not allow_unused:
        check_used(planned.unused)
    return jax.tree.map(placed, (params, opt_state), planned.state), planned


def _array(leaf: Any, shape: jax.ShapeDtypeStruct, mesh: Any, donate: bool) -> jax.Array:
    """A leaf as an array of that dtype, which is not a weak one."""
    is_key = jax.numpy.issubdtype(shape.dtype, jax.dtypes.prng_key)
    is_strong = isinstance(leaf, jax.Array) and not is_key and leaf.dtype == shape.dtype and not leaf.weak_type
    if not is_key and not is_strong:
        leaf = np.asarray(leaf).astype(shape.dtype)
    if mesh is not None:
        return put(leaf, everywhere(mesh))
    return jax.device_put(leaf, may_alias=False) if donate else _put(leaf)


def _put(leaf: Any) -> jax.Array:
    """A leaf on a device: on its own, if it has one."""
    return leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf)
