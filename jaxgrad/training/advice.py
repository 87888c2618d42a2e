"""Why a run diverged, and what to do: looked up in the batch, the gradients and the curvature, never guessed."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgrad.pytrees import leaves_by_path
from jaxgrad.training.finite import finite

_TURNS = 30


def advice(loss: Any, params: Any, batch: tuple[Any, ...] | None, rate: float | None) -> tuple[str, float | None]:
    """What to say of a loss that is not finite.

    Args:
      loss: ``loss(params, *batch)``.
      params: the last good ones.
      batch: of the step that failed; None where it is gone.
      rate: the learning rate of the update, if it is known.

    Returns:
      A sentence, and the largest stable rate of plain gradient descent at ``params`` if that could be measured.
    """
    if batch is None:
        return "Pass a smaller learning rate, or look for NaN in the batch.", None
    for path, leaf in leaves_by_path(batch).items():
        if not finite(leaf).all():
            return f"The batch itself is not finite: batch{path} has NaN or infinity. Remove those rows.", None
    value, grads = jax.jit(jax.value_and_grad(loss))(params, *batch)
    bad = [f"params{path}" for path, leaf in leaves_by_path(grads).items() if not finite(leaf).all()]
    if finite(value).all() and bad:
        return (
            f"There the loss is {float(value):.6g}, but the gradient of {', '.join(bad)} is not finite: look for "
            "a root, a norm, a logarithm or a quotient at zero in the loss.",
            None,
        )
    if not finite(value).all():
        return "The last good parameters give no finite loss on that batch: look for a logarithm or quotient.", None
    stable = largest_stable_rate(loss, params, batch)
    elsewhere = "look for a logarithm, a root, a quotient or an overflow in the loss"
    if stable is None:
        than = "this one" if rate is None else f"{rate:g}"
        return f"Pass a smaller learning rate than {than}, clip the gradients, or {elsewhere}.", None
    measured = f"by the curvature there, plain gradient descent on that batch is stable below {stable:.4g}"
    if rate is not None and rate >= stable:
        return f"The learning rate {rate:g} is too big: {measured}. Pass a smaller one, or clip the gradients.", stable
    below = "" if rate is None else f", and the rate was {rate:g}"
    return (
        f"{measured[0].upper()}{measured[1:]}{below}: pass a smaller rate, clip the gradients, or {elsewhere}.",
        stable,
    )


def largest_stable_rate(loss: Any, params: Any, batch: tuple[Any, ...]) -> float | None:
    """2 over the largest curvature of a loss at ``params``, by power iteration on products with the Hessian.

    None where the curvature is not positive or not finite, or where the loss has no second derivative.
    """
    gradient = jax.grad(loss)

    @jax.jit
    def measured(params: Any) -> Any:
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        start = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]

        def turn(_: Any, carry: Any) -> Any:
            direction, _ = carry
            scale = jnp.sqrt(sum(jnp.vdot(leaf, leaf).real.astype(float) for leaf in jax.tree.leaves(direction)))
            unit = jax.tree.map(lambda leaf: (leaf / scale).astype(leaf.dtype), direction)
            product = jax.jvp(lambda p: gradient(p, *batch), (params,), (unit,))[1]
            curvature = sum(
                jnp.vdot(one, other).real.astype(float)
                for one, other in zip(jax.tree.leaves(unit), jax.tree.leaves(product), strict=True)
            )
            return product, curvature

        return jax.lax.fori_loop(0, _TURNS, turn, (jax.tree.unflatten(tree, start), jnp.asarray(0.0)))[1]

    try:
        curvature = float(measured(params))
    except (TypeError, NotImplementedError, ValueError):  # a loss with a custom_vjp has no forward derivative
        return None
    return 2 / curvature if math.isfinite(curvature) and curvature > 0 else None
