"""Optimizers of torch that divide by what has gathered: Adagrad; and Rprop, which only looks at signs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgrad.torch_optim.arithmetic import as_float, like, wide


class ScaleByTorchAdagradState(NamedTuple):
    """State of ``scale_by_torch_adagrad``; ``total`` is torch's ``sum``."""

    count: Any
    total: Any


class ScaleByTorchRpropState(NamedTuple):
    """State of ``torch_rprop``: torch's ``step``, ``prev`` and ``step_size``."""

    count: Any
    previous: Any
    sizes: Any


def scale_by_torch_adagrad(
    lr_decay: float = 0.0, initial_accumulator_value: float = 0.0, eps: float = 1e-10
) -> optax.GradientTransformation:
    """The direction of ``torch.optim.Adagrad``; ``optax.scale_by_rss`` adds ``eps`` inside the root.

    Args:
      lr_decay: the direction of update ``t``, counted from 0, is divided by ``1 + lr_decay * t``.
      initial_accumulator_value: what the sum of squares begins with.
      eps: added to its root.

    Source: ``torch/optim/adagrad.py``, ``_single_tensor_adagrad``.
    """

    def init(params: Any) -> ScaleByTorchAdagradState:
        return ScaleByTorchAdagradState(
            jnp.zeros([], jnp.int32), optax.tree.full_like(params, initial_accumulator_value)
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        total = jax.tree.map(lambda s, g: (wide(s) + wide(g) * wide(g)).astype(s.dtype), state.total, updates)
        slower = 1 + as_float(state.count) * lr_decay
        updates = jax.tree.map(lambda g, s: wide(g) / (jnp.sqrt(wide(s)) + eps) / like(slower, g), updates, total)
        return updates, ScaleByTorchAdagradState(optax.safe_increment(state.count), total)

    return optax.GradientTransformation(init, update)


def torch_rprop(
    learning_rate: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2), step_sizes: tuple[float, float] = (1e-6, 50.0)
) -> optax.GradientTransformation:
    """``torch.optim.Rprop`` whole: the step of each entry grows while its gradient keeps its sign.

    Args:
      learning_rate: the first step of each entry; later rates of a schedule change nothing, in torch neither.
      etas: by what a step shrinks when the sign turns, and grows when it stays.
      step_sizes: the smallest and the largest step.

    Source: ``torch/optim/rprop.py``, ``_single_tensor_rprop``.
    """
    shrink, grow = etas
    smallest, largest = step_sizes

    def init(params: Any) -> ScaleByTorchRpropState:
        return ScaleByTorchRpropState(
            jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        first = extra.get("learning_rate", learning_rate)
        sign = jax.tree.map(lambda g, before: jnp.sign(wide(g)) * jnp.sign(wide(before)), updates, state.previous)

        def resized(size: Any, s: Any) -> Any:
            size = jnp.where(state.count == 0, like(first, size), wide(size))
            factor = jnp.where(s > 0, grow, jnp.where(s < 0, shrink, 1.0))
            return jnp.clip(size * like(factor, size), smallest, largest)

        sizes = jax.tree.map(resized, state.sizes, sign)
        kept = jax.tree.map(lambda g, s: jnp.where(s < 0, jnp.zeros_like(g), g), updates, sign)
        updates = jax.tree.map(lambda g, size: -jnp.sign(wide(g)) * size, kept, sizes)
        sizes = jax.tree.map(lambda size, before: size.astype(before.dtype), sizes, state.sizes)
        kept = jax.tree.map(lambda g, before: g.astype(before.dtype), kept, state.previous)
        return updates, ScaleByTorchRpropState(optax.safe_increment(state.count), kept, sizes)

    return optax.GradientTransformationExtraArgs(init, update)
