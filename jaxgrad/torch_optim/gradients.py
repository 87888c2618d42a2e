"""What torch loops do with gradients before the optimizer: let them add up, and clip them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgrad.errors import InputError
from jaxgrad.torch_optim.arithmetic import like, wide


class AccumulateState(NamedTuple):
    """State of ``accumulate``: how many gradients have gathered, their sum, and the optimizer's state."""

    gathered: Any
    total: Any
    inner_state: Any


def accumulate(
    optimizer: optax.GradientTransformation, k: int, *, mean: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Torch's loop that calls ``backward()`` ``k`` times, and then ``optimizer.step()`` and ``zero_grad()``.

    The updates of the first ``k - 1`` calls are zero; the last one's is that of the optimizer on the sum. What the
    optimizer counts, and a scheduler in it, counts these alone. ``optax.MultiSteps`` takes the mean, by a running
    average that rounds otherwise.

    Args:
      optimizer: which makes a step of the sum.
      k: gradients for one step.
      mean: divide each gradient by ``k`` first, as ``(loss / k).backward()`` does.

    Raises:
      InputError: if ``k`` is not a whole number from 1 on.
    """
    if not isinstance(k, int) or k < 1:
        raise InputError(f"accumulate: k={k!r}, expected a whole number from 1 on.")
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> AccumulateState:
        return AccumulateState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), inner.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if mean:
            updates = jax.tree.map(lambda g: g / k, updates)
        total = jax.tree.map(lambda t, g: (wide(t) + wide(g)).astype(t.dtype), state.total, updates)
        full = state.gathered == k - 1

        def step() -> tuple[Any, Any, Any]:
            stepped, inner_state = inner.update(total, state.inner_state, params, **extra)
            return stepped, optax.tree.zeros_like(total), inner_state

        def wait() -> tuple[Any, Any, Any]:
            still = jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), jax.eval_shape(step)[0])
            return still, total, state.inner_state

        updates, total, inner_state = jax.lax.cond(full, step, wait)
        return updates, AccumulateState(jnp.where(full, 0, state.gathered + 1), total, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def clip_grad_norm(max_norm: float, norm_type: float = 2.0) -> optax.GradientTransformation:
    """``torch.nn.utils.clip_grad_norm_`` on all gradients: times ``min(1, max_norm / (norm + 1e-6))``.

    ``optax.clip_by_global_norm`` leaves the 1e-6 out, which shows where norms are small.

    Args:
      max_norm: the largest norm.
      norm_type: of which the norm is the root: 2, another number, or infinity. As in torch the norm of the leaves'
        norms is taken.

    Source: ``torch/nn/utils/clip_grad.py``.
    """
    if not max_norm >= 0 or not (norm_type > 0):
        raise InputError(f"clip_grad_norm: max_norm={max_norm}, norm_type={norm_type}, expected positive numbers.")

    def norm(arrays: list[Any]) -> Any:
        if math.isinf(norm_type):
            return jnp.max(jnp.stack([jnp.max(jnp.abs(a)) for a in arrays]))
        if norm_type == 2:
            return jnp.sqrt(sum(jnp.sum(a * a) for a in arrays))
        return sum(jnp.sum(jnp.abs(a) ** norm_type) for a in arrays) ** (1 / norm_type)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        leaves = [wide(g) for g in jax.tree.leaves(updates) if jnp.size(g)]
        if not leaves:
            return updates, state
        factor = jnp.minimum(max_norm / (norm(leaves) + 1e-6), 1.0)
        return jax.tree.map(lambda g: (wide(g) * like(factor, g)).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_grad_value(clip_value: float) -> optax.GradientTransformation:
    """``torch.nn.utils.clip_grad_value_``: each entry between ``-clip_value`` and ``clip_value``; ``optax.clip``."""
    if not clip_value >= 0:
        raise InputError(f"clip_grad_value: clip_value={clip_value}, expected at least 0.")
    return optax.clip(clip_value)
