"""What the transformations share: decays that may change from step to step, and differences that keep their digits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Decay(NamedTuple):
    """A decay and ``1 - decay``, which has digits that the rounded decay has lost."""

    value: Any
    complement: Any


def decay_of(decay: float, extra: dict[str, Any]) -> Decay:
    """The decay an optimizer was made with; or the one that a schedule hands to this update as ``momentum``."""
    given = extra.get("momentum")
    return Decay(decay, 1 - decay) if given is None else given


def power(decay: Decay | float, count: Any) -> tuple[Any, Any]:
    """``decay ** count`` and ``1 - decay ** count``, of which the second is small in the first steps.

    In float32 it has all its digits. In float64 it has those that are left in torch, where Python subtracts the power
    from one: the two differ by 1e-12 of it where ``decay`` is 0.9999.
    """
    steps = as_float(count)
    if isinstance(decay, Decay) and isinstance(decay.value, jax.Array):
        rest = -jnp.expm1(steps * jnp.log1p(-decay.complement))
    else:
        value = decay.value if isinstance(decay, Decay) else decay
        rest = -jnp.expm1(steps * math.log(value)) if value > 0 else jnp.ones_like(steps)
    whole = 1 - rest
    return whole, 1 - whole if rest.dtype == jnp.float64 else rest


def debias(decay: Decay | float, count: Any) -> Any:
    """``1 - decay ** count``."""
    return power(decay, count)[1]


def as_float(count: Any) -> jax.Array:
    """A count as a scalar of JAX's default float type."""
    return jnp.asarray(count, jnp.result_type(float))


def wide(array: Any) -> Any:
    """The array, in float32 if it has fewer bits: torch's kernels round once at their end."""
    return array.astype(jnp.float32) if jnp.dtype(array.dtype).itemsize < 4 else array


def towards(average: Any, new: Any, weight: Any) -> Any:
    """The average moved a share of the way to something new, in its own dtype; torch's ``lerp``."""
    moved = wide(average) + (wide(new) - wide(average)) * like(weight, new)
    return moved.astype(average.dtype)


def decayed_sum(total: Any, new: Any, decay: Any, weight: Any) -> Any:
    """``decay * total + weight * new``, in the dtype of the total."""
    return (wide(total) * like(decay, new) + wide(new) * like(weight, new)).astype(total.dtype)


def like(scalar: Any, array: Any) -> Any:
    """A scalar that does not widen an array it meets."""
    return jnp.asarray(scalar, wide(array).dtype)
