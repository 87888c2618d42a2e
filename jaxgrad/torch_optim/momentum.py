"""torch's momentum: the first gradient fills the buffer whole, the later ones are dampened."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgrad.torch_optim.arithmetic import decay_of, decayed_sum, like, wide


class ScaleByTorchMomentumState(NamedTuple):
    """State of ``scale_by_torch_momentum``; ``trace`` is torch's ``momentum_buffer``."""

    count: Any
    trace: Any


def scale_by_torch_momentum(
    momentum: float, dampening: float = 0.0, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """The momentum of ``torch.optim.SGD``; where nothing is dampened, ``optax.trace`` is the same.

    Args:
      momentum: the decay of the buffer; a schedule may hand another to each update.
      dampening: what part of each gradient after the first is left out.
      nesterov: whether to look ahead.

    Source: ``torch/optim/sgd.py``, ``_single_tensor_sgd``.
    """

    def init(params: Any) -> ScaleByTorchMomentumState:
        return ScaleByTorchMomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        decay = decay_of(momentum, extra).value
        weight = jnp.where(state.count == 0, 1.0, 1.0 - dampening)
        trace = jax.tree.map(lambda t, g: decayed_sum(t, g, decay, weight), state.trace, updates)
        ahead = jax.tree.map(lambda g, t: wide(g) + like(decay, g) * wide(t), updates, trace) if nesterov else trace
        return ahead, ScaleByTorchMomentumState(optax.safe_increment(state.count), trace)

    return optax.GradientTransformationExtraArgs(init, update)
