"""torch's averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgrad.torch_optim.arithmetic import as_float, like, wide


class TorchASGDState(NamedTuple):
    """State of ``torch_asgd``: torch's ``step``, ``eta``, ``mu`` and ``ax``, the averaged parameters."""

    count: Any
    eta: Any
    mu: Any
    average: Any


def torch_asgd(
    learning_rate: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    *,
    scalar_dtype: str = "float32",
) -> optax.GradientTransformation:
    """``torch.optim.ASGD`` whole, its rate included; the averaged parameters are in the state.

    Args:
      learning_rate: the first rate ``eta``; a schedule may hand another to each update.
      lambd: decay of the parameters.
      alpha: ``eta`` is ``learning_rate / (1 + lambd * learning_rate * t) ** alpha``.
      t0: the update after which averaging begins.
      scalar_dtype: what torch keeps ``eta`` and ``mu`` in: its default dtype, whatever the parameters have.

    Source: ``torch/optim/asgd.py``, ``_single_tensor_asgd``.
    """

    def init(params: Any) -> TorchASGDState:
        zero, one = jnp.zeros([], scalar_dtype), jnp.ones([], scalar_dtype)
        return TorchASGDState(jnp.zeros([], jnp.int32), zero, one, optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("torch_asgd: params is None, but the parameters decay. Pass update(grads, state, params).")
        rate = jnp.asarray(extra.get("learning_rate", learning_rate), jnp.result_type(float))
        count = optax.safe_increment(state.count)
        eta = jnp.where(state.count == 0, rate.astype(scalar_dtype), state.eta).astype(rate.dtype)

        def change(g: Any, p: Any) -> Any:
            return -(wide(p) * like(lambd * eta, p)) - wide(g) * like(eta, g)

        updates = jax.tree.map(change, updates, params)
        mu = state.mu.astype(rate.dtype)

        def averaged(average: Any, p: Any, change: Any) -> Any:
            new = wide(p) + change
            moved = wide(average) + (new - wide(average)) * like(mu, new)
            return jnp.where(mu == 1, new, moved).astype(average.dtype)

        average = jax.tree.map(averaged, state.average, params, updates)
        step = as_float(count)
        eta = (rate / (1 + lambd * rate * step) ** alpha).astype(scalar_dtype)
        mu = (1 / jnp.maximum(1, step - t0)).astype(scalar_dtype)
        return updates, TorchASGDState(count, eta, mu, average)

    return optax.GradientTransformationExtraArgs(init, update)
