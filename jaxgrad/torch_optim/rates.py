"""Learning rates that change: looked up in a table of torch's own numbers, or lowered when improvement slows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgrad.errors import InputError
from jaxgrad.torch_optim.arithmetic import Decay, like, wide


class Table:
    """A schedule that looks a number up: ``rates[count // every]``.

    The numbers are Python's, as torch computes them; JAX's own arithmetic would round them to float32 on the way.

    Args:
      rates: one a scheduler's step, the first one before any.
      every: updates a scheduler's step, where it is stepped once an epoch.
      settled: whether the last number stays for good. If not, what lies beyond the table is NaN: a run that is longer
        than its schedule is not silently wrong.
    """

    def __init__(self, rates: Sequence[float] | np.ndarray, every: int = 1, settled: bool = True):
        self.rates = np.asarray(rates, np.float64)
        self.every, self.settled = every, settled

    def __call__(self, count: Any) -> jax.Array:
        """The number for the update that follows ``count`` others: a scalar of JAX's default float type."""
        rates = self.rates if self.settled else np.append(self.rates, np.nan)
        return jnp.asarray(rates)[jnp.minimum(jnp.asarray(count) // self.every, len(rates) - 1)]

    def complement(self) -> Table:
        """The table of ``1 - rate``, computed before it is rounded."""
        return Table(1 - self.rates, self.every, self.settled)


class ScheduledState(NamedTuple):
    """State of ``scheduled``: the updates so far, and that of what is scheduled."""

    count: Any
    inner_state: Any


class PlateauState(NamedTuple):
    """State of ``reduce_on_plateau``, by torch's names: ``best``, ``num_bad_epochs``, ``cooldown_counter``.

    ``reductions`` counts how often the rate was lowered, ``count`` the updates, and ``mean`` is the mean of the values
    since the scheduler's last step.
    """

    best: Any
    num_bad_epochs: Any
    cooldown_counter: Any
    reductions: Any
    mean: Any
    count: Any
    inner_state: Any


def scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
    """Turn a direction into a step: times ``-learning_rate``, which each update is handed."""

    def update(
        updates: Any, state: Any, params: Any = None, *, learning_rate: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        del params, extra
        if learning_rate is None:
            raise InputError("scale_by_given_rate: no learning_rate. Wrap it: torch_optim.scheduled(...).")
        return jax.tree.map(lambda u: wide(u) * like(-learning_rate, u), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def scheduled(
    inner: optax.GradientTransformation, learning_rate: Callable[[Any], Any], momentum: Table | None = None
) -> optax.GradientTransformationExtraArgs:
    """Hand each update its learning rate and, where a scheduler cycles it, its momentum.

    Args:
      inner: takes them as ``learning_rate`` and ``momentum``.
      learning_rate: by the count of updates, as a ``Table`` or an optax schedule gives it.
      momentum: the same, of torch's ``momentum`` or first beta.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> ScheduledState:
        return ScheduledState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        given: dict[str, Any] = {"learning_rate": learning_rate(state.count)}
        if momentum is not None:
            given["momentum"] = Decay(momentum(state.count), momentum.complement()(state.count))
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra, **given)
        return updates, ScheduledState(optax.safe_increment(state.count), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def plateau_rates(lr: float, factor: float, min_lr: float, eps: float, most: int = 100_000) -> np.ndarray:
    """The rate after each reduction, in Python's floats as torch lowers it, until it stays where it is."""
    rates = [lr]
    while len(rates) < most:
        lower = max(rates[-1] * factor, min_lr)
        if not rates[-1] - lower > eps:
            break
        rates.append(lower)
    return np.asarray(rates)


def reduce_on_plateau(
    inner: optax.GradientTransformation,
    rates: Sequence[float] | np.ndarray,
    *,
    mode: str = "min",
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    every: int = 1,
    start: tuple[float, int, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Torch's ``ReduceLROnPlateau``, stepped after each update (or each ``every``-th) with the loss.

    ``update(grads, state, params, value=loss)``: the update itself still has the old rate, the next one the new.
    Where ``every`` is more than one, the scheduler sees the mean of the values of its updates.
    ``optax.contrib.reduce_on_plateau`` lowers the rate an update of patience earlier, and the current update with it.

    Args:
      inner: takes the rate as ``learning_rate``.
      rates: after 0, 1, 2 ... reductions, as ``plateau_rates`` gives them.
      mode: ``"min"`` or ``"max"``: what is better.
      patience: so many steps without improvement are let pass.
      threshold: how much better counts.
      threshold_mode: ``"rel"`` to the best so far, or ``"abs"``.
      cooldown: steps after a reduction that do not count.
      every: updates a step.
      start: best value, bad steps and cooldown so far.

    Source: ``torch/optim/lr_scheduler.py``, ``ReduceLROnPlateau``.
    """
    inner = optax.with_extra_args_support(inner)
    table = np.asarray(rates, np.float64)
    worst = math.inf if mode == "min" else -math.inf
    best, bad, cooling = start or (worst, 0, 0)

    def better(value: Any, best: Any) -> Any:
        if mode == "min":
            return value < (best * (1.0 - threshold) if threshold_mode == "rel" else best - threshold)
        return value > (best * (threshold + 1.0) if threshold_mode == "rel" else best + threshold)

    def init(params: Any) -> PlateauState:
        dtype = jnp.result_type(float)
        none = jnp.zeros([], jnp.int32)
        return PlateauState(
            best=jnp.asarray(best, dtype),
            num_bad_epochs=jnp.asarray(bad, jnp.int32),
            cooldown_counter=jnp.asarray(cooling, jnp.int32),
            reductions=none,
            mean=jnp.zeros([], dtype),
            count=none,
            inner_state=inner.init(params),
        )

    def update(updates: Any, state: Any, params: Any = None, *, value: Any = None, **extra: Any) -> tuple[Any, Any]:
        if value is None:
            raise InputError("reduce_on_plateau: no value. Pass the loss: update(grads, state, params, value=loss).")
        rate = jnp.asarray(table)[jnp.minimum(state.reductions, len(table) - 1)]
        updates, inner_state = inner.update(
            updates, state.inner_state, params, value=value, learning_rate=rate, **extra
        )
        seen = state.count % every + 1
        mean = state.mean + (jnp.asarray(value, state.mean.dtype) - state.mean) / seen
        stepped = _step(state, mean)._replace(mean=jnp.zeros_like(mean))
        waiting = state._replace(mean=mean)
        now = jax.tree.map(lambda new, old: jnp.where(seen == every, new, old), stepped[:5], waiting[:5])
        return updates, PlateauState(*now, count=optax.safe_increment(state.count), inner_state=inner_state)

    def _step(state: Any, value: Any) -> Any:
        improved = better(value, state.best)
        best = jnp.where(improved, value, state.best)
        bad = jnp.where(improved, 0, state.num_bad_epochs + 1)
        cooling = state.cooldown_counter > 0
        left = jnp.where(cooling, state.cooldown_counter - 1, state.cooldown_counter)
        bad = jnp.where(cooling, 0, bad)
        lower = bad > patience
        left, bad = jnp.where(lower, cooldown, left), jnp.where(lower, 0, bad)
        reductions = state.reductions + lower.astype(jnp.int32)
        return state._replace(best=best, num_bad_epochs=bad, cooldown_counter=left, reductions=reductions)

    return optax.GradientTransformationExtraArgs(init, update)
