"""Adam and its relatives as torch computes them: Adam (amsgrad), Adamax, NAdam, RAdam."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgrad.torch_optim.arithmetic import Decay, as_float, debias, decay_of, decayed_sum, like, power, towards, wide


class ScaleByTorchAdamState(NamedTuple):
    """State of Adam and RAdam: torch's ``step``, ``exp_avg``, ``exp_avg_sq`` and, for amsgrad, ``max_exp_avg_sq``."""

    count: Any
    mu: Any
    nu: Any
    nu_max: Any


class ScaleByTorchAdamaxState(NamedTuple):
    """State of ``scale_by_torch_adamax``; ``nu`` is torch's ``exp_inf``."""

    count: Any
    mu: Any
    nu: Any


class ScaleByTorchNAdamState(NamedTuple):
    """State of ``scale_by_torch_nadam``; ``mu_product`` is the product of its momenta, in torch's scalar type."""

    count: Any
    mu_product: Any
    mu: Any
    nu: Any


def _moments(updates: Any, state: Any, decay: Decay, b2: float) -> tuple[Any, Any]:
    mu = jax.tree.map(lambda m, g: towards(m, g, decay.complement), state.mu, updates)
    nu = jax.tree.map(lambda v, g: decayed_sum(v, wide(g) * wide(g), b2, 1 - b2), state.nu, updates)
    return mu, nu


def scale_by_torch_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, amsgrad: bool = False
) -> optax.GradientTransformation:
    """The direction of ``torch.optim.Adam`` and ``AdamW``.

    ``optax.scale_by_adam`` is the same in float64. In float32 it computes ``1 - b2 ** count`` from a rounded power,
    which is a few thousandths of a percent off in the first steps; here it is exact. ``optax.scale_by_amsgrad`` takes
    the maximum after the bias correction, torch before it.

    Args:
      b1: decay of the first moment; a schedule may hand another to each update.
      b2: decay of the second moment.
      eps: added to the root.
      amsgrad: divide by the root of the largest second moment so far.

    Source: ``torch/optim/adam.py``, ``_single_tensor_adam``.
    """

    def init(params: Any) -> ScaleByTorchAdamState:
        mu, nu = optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        return ScaleByTorchAdamState(
            jnp.zeros([], jnp.int32), mu, nu, optax.tree.zeros_like(params) if amsgrad else None
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        decay = decay_of(b1, extra)
        mu, nu = _moments(updates, state, decay, b2)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None
        first, root = debias(decay, count), jnp.sqrt(debias(b2, count))

        def direction(m: Any, v: Any) -> Any:
            return wide(m) / like(first, m) / (jnp.sqrt(wide(v)) / like(root, v) + eps)

        updates = jax.tree.map(direction, mu, nu_max if amsgrad else nu)
        return updates, ScaleByTorchAdamState(count, mu, nu, nu_max)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_torch_adamax(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """The direction of ``torch.optim.Adamax``, where its first decay follows a schedule; else ``optax`` has the same.

    Args:
      b1: decay of the first moment; a schedule may hand another to each update.
      b2: decay of the largest size.
      eps: added to each size.

    Source: ``torch/optim/adamax.py``, ``_single_tensor_adamax``.
    """

    def init(params: Any) -> ScaleByTorchAdamaxState:
        return ScaleByTorchAdamaxState(
            jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        decay = decay_of(b1, extra)
        mu = jax.tree.map(lambda m, g: towards(m, g, decay.complement), state.mu, updates)

        def larger(v: Any, g: Any) -> Any:
            return jnp.maximum(wide(v) * like(b2, v), jnp.abs(wide(g)) + eps).astype(v.dtype)

        nu = jax.tree.map(larger, state.nu, updates)
        first = debias(decay, count)
        updates = jax.tree.map(lambda m, v: wide(m) / like(first, m) / wide(v), mu, nu)
        return updates, ScaleByTorchAdamaxState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_torch_nadam(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    *,
    scalar_dtype: str = "float32",
) -> optax.GradientTransformation:
    """The direction of ``torch.optim.NAdam``, whose momentum grows by a schedule of its own.

    Args:
      b1: the momentum that it grows to; a schedule may hand another to each update.
      b2: decay of the second moment.
      eps: added to the root.
      momentum_decay: how fast it grows.
      scalar_dtype: what torch keeps the product of the momenta in: its default dtype, whatever the parameters have.

    Source: ``torch/optim/nadam.py``, ``_single_tensor_nadam``.
    """

    def init(params: Any) -> ScaleByTorchNAdamState:
        product = jnp.ones([], scalar_dtype)
        return ScaleByTorchNAdamState(
            jnp.zeros([], jnp.int32), product, optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        decay = decay_of(b1, extra)
        mu, nu = _moments(updates, state, decay, b2)

        def momentum(step: Any) -> Any:
            return decay.value * (1 - 0.5 * jnp.exp(as_float(step) * (momentum_decay * math.log(0.96))))

        now, ahead = momentum(count), momentum(count + 1)
        product = state.mu_product * now.astype(state.mu_product.dtype)
        whole = product.astype(now.dtype)
        of_gradient, of_average = (1 - now) / (1 - whole), ahead / (1 - whole * ahead)
        second = debias(b2, count)

        def direction(g: Any, m: Any, v: Any) -> Any:
            root = jnp.sqrt(wide(v) / like(second, v)) + eps
            return wide(g) / root * like(of_gradient, g) + wide(m) / root * like(of_average, m)

        return jax.tree.map(direction, updates, mu, nu), ScaleByTorchNAdamState(count, product, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_torch_radam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """The direction of ``torch.optim.RAdam``.

    ``optax.scale_by_radam`` adds ``eps`` to the root of the corrected second moment, torch to that of the plain one.

    Args:
      b1: decay of the first moment; a schedule may hand another to each update.
      b2: decay of the second moment.
      eps: added to the root.

    Source: ``torch/optim/radam.py``, ``_single_tensor_radam``.
    """
    longest = 2 / (1 - b2) - 1

    def init(params: Any) -> ScaleByTorchAdamState:
        return ScaleByTorchAdamState(
            jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params), None
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        decay = decay_of(b1, extra)
        mu, nu = _moments(updates, state, decay, b2)
        first, second = debias(decay, count), debias(b2, count)
        length = _length(b2, count)
        known = length > 5
        safe = jnp.where(known, length, 6.0)
        over = (longest - 4) * (longest - 2)
        rectified = jnp.sqrt(jnp.maximum((safe - 4) * (safe - 2) * longest / (over * safe), 0)) if over > 0 else 0.0
        factor = jnp.sqrt(second) * rectified

        def direction(m: Any, v: Any) -> Any:
            mean = wide(m) / like(first, m)
            return jnp.where(known, mean * like(factor, m) / (jnp.sqrt(wide(v)) + eps), mean)

        return jax.tree.map(direction, mu, nu), ScaleByTorchAdamState(count, mu, nu, None)

    return optax.GradientTransformationExtraArgs(init, update)


def _length(b2: float, count: Any) -> Any:
    """How many gradients the second moment averages over: ``longest - 2 count b2**count / (1 - b2**count)``.

    Those two nearly cancel in the first steps, where float32 would have no digit left. With ``y = -count log(b2)`` the
    difference is ``2 / -log(b2) * (1 - y / (exp(y) - 1))`` and a constant. In float64 it has torch's own digits.
    """
    steps = as_float(count)
    whole, rest = power(b2, count)
    if steps.dtype == jnp.float64 or b2 <= 0:
        return 2 / (1 - b2) - 1 - 2 * steps * whole / rest
    rate = -math.log(b2)
    y = steps * rate
    series = steps * (1 - y / 6 + y**3 / 360 - y**5 / 15120 + y**7 / 604800 - y**9 / 23950080)
    direct = 2 / rate * (1 - y / jnp.expm1(y))
    constant = rate / 6 - rate**3 / 360 + rate**5 / 15120 if rate < 0.1 else 2 / (1 - b2) - 1 - 2 / rate
    return constant + jnp.where(y < 1, series, direct)
