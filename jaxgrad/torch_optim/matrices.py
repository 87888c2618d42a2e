"""Optimizers of torch that look at a parameter as a matrix: Adafactor and Muon."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgrad.errors import InputError
from jaxgrad.exact import product
from jaxgrad.torch_optim.arithmetic import as_float, decay_of, like, towards, wide

QUINTIC = (3.4445, -4.775, 2.0315)
"""The coefficients of Muon's Newton-Schulz iteration (Keller Jordan's, which torch takes)."""


class TorchAdafactorState(NamedTuple):
    """State of ``torch_adafactor``: torch's ``row_var`` and ``col_var`` of matrices, ``variance`` of vectors.

    What a parameter does not have is an array without entries.
    """

    count: Any
    rows: Any
    columns: Any
    variance: Any


class ScaleByTorchMuonState(NamedTuple):
    """State of ``scale_by_torch_muon``; ``mu`` is torch's ``momentum_buffer``."""

    count: Any
    mu: Any


def torch_adafactor(
    learning_rate: float = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """``torch.optim.Adafactor`` whole, its rate included, which is one relative to the size of each parameter.

    Args:
      learning_rate: the largest relative rate; a schedule may hand another to each update.
      beta2_decay: the second moment moves by ``t ** beta2_decay`` of the way to the new one.
      eps: the smallest second moment (None: the parameter's machine epsilon) and the smallest size of a parameter.
      d: the largest root mean square of a direction.
      weight_decay: decoupled, times the rate.

    Source: ``torch/optim/_adafactor.py``, ``_single_tensor_adafactor``.
    """
    smallest, least_size = eps

    def init(params: Any) -> TorchAdafactorState:
        def rows(p: Any) -> Any:
            return jnp.zeros((*p.shape[:-1], 1) if p.ndim > 1 else (0,), p.dtype)

        def columns(p: Any) -> Any:
            return jnp.zeros((*p.shape[:-2], 1, p.shape[-1]) if p.ndim > 1 else (0,), p.dtype)

        def variance(p: Any) -> Any:
            return jnp.zeros((0,) if p.ndim > 1 else p.shape, p.dtype)

        return TorchAdafactorState(
            jnp.zeros([], jnp.int32), *(jax.tree.map(make, params) for make in (rows, columns, variance))
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("torch_adafactor: params is None. Pass update(grads, state, params).")
        count = optax.safe_increment(state.count)
        step = as_float(count)
        rate = jnp.asarray(extra.get("learning_rate", learning_rate), step.dtype)
        weight = step**beta2_decay
        relative = jnp.minimum(rate, 1 / jnp.sqrt(step))

        def mean_square(g: Any, axis: int) -> Any:
            return jnp.mean(wide(g) * wide(g), axis=axis, keepdims=True)

        rows = jax.tree.map(
            lambda r, g: towards(r, mean_square(g, -1), weight) if g.ndim > 1 else r, state.rows, updates
        )
        columns = jax.tree.map(
            lambda c, g: towards(c, mean_square(g, -2), weight) if g.ndim > 1 else c, state.columns, updates
        )
        variance = jax.tree.map(
            lambda v, g: v if g.ndim > 1 else towards(v, wide(g) * wide(g), weight), state.variance, updates
        )

        def change(g: Any, p: Any, r: Any, c: Any, v: Any) -> Any:
            tiny = float(jnp.finfo(p.dtype).eps) if smallest is None else smallest
            size = jnp.maximum(least_size, _root_mean_square(wide(p)))
            if g.ndim > 1:
                r, c = wide(r), wide(c)
                v = r * c / jnp.maximum(jnp.mean(r, axis=-2, keepdims=True), tiny)
            direction = wide(g) / jnp.sqrt(jnp.maximum(wide(v), tiny * tiny))
            limit = jnp.maximum(1.0, _root_mean_square(direction) / d)
            return -direction * like(size * relative / limit, g) - wide(p) * like(rate * weight_decay, p)

        updates = jax.tree.map(change, updates, params, rows, columns, variance)
        return updates, TorchAdafactorState(count, rows, columns, variance)

    return optax.GradientTransformationExtraArgs(init, update)


def _root_mean_square(array: Any) -> Any:
    return jnp.sqrt(jnp.mean(array * array))


def scale_by_torch_muon(
    momentum: float = 0.95,
    *,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = QUINTIC,
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
) -> optax.GradientTransformation:
    """The direction of ``torch.optim.Muon``: momentum, made nearly orthogonal in bfloat16, times its adjustment.

    The adjustment depends on which axis comes first: give parameters in torch's layout, ``[out, in]``.

    Args:
      momentum: the share of the old average; a schedule may hand another to each update.
      nesterov: whether to look ahead.
      ns_coefficients: of the Newton-Schulz iteration.
      eps: the smallest norm to divide by.
      ns_steps: how many iterations.
      adjust_lr_fn: ``"original"`` (also None): the root of ``max(1, rows / columns)``; ``"match_rms_adamw"``: 0.2 of
        the root of the longer side.

    Raises:
      ValueError: for a parameter that is not a matrix, as torch does.

    Source: ``torch/optim/_muon.py``, ``_single_tensor_muon``.
    """

    def adjustment(shape: tuple[int, ...]) -> float:
        rows, columns = shape
        if adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1, rows / columns))

    def init(params: Any) -> ScaleByTorchMuonState:
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if leaf.ndim != 2:
                raise InputError(
                    f"scale_by_torch_muon: params{jax.tree_util.keystr(path)} has shape {list(leaf.shape)}, expected "
                    "matrices alone, as in torch. Give the others to another optimizer: optax.partition."
                )
        return ScaleByTorchMuonState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params
        decay = decay_of(momentum, extra)
        mu = jax.tree.map(lambda m, g: towards(m, g, decay.complement), state.mu, updates)
        ahead = jax.tree.map(lambda g, m: towards(g, m, decay.value), updates, mu) if nesterov else mu

        def direction(g: Any) -> Any:
            return _orthogonal(g, ns_coefficients, ns_steps, eps).astype(wide(g).dtype) * adjustment(g.shape)

        return jax.tree.map(direction, ahead), ScaleByTorchMuonState(optax.safe_increment(state.count), mu)

    return optax.GradientTransformationExtraArgs(init, update)


def _rounded(array: Any) -> Any:
    """Rounded to bfloat16, and kept in float32: a cast there and back would be left out by the compiler."""
    return jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=7)


def _orthogonal(matrix: Any, coefficients: tuple[float, float, float], steps: int, eps: float) -> Any:
    """The Newton-Schulz iteration of torch's Muon: in bfloat16, products summed up in float32 and rounded once.

    torch sums in an order of its kernel's own: where the two float32 sums lie on both sides of a tie, one entry of the
    result is one bfloat16 unit (0.4 %) off; in small matrices once in some hundred updates.
    """
    a, b, c = coefficients
    x = _rounded(matrix.astype(jnp.float32))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    norm = jnp.maximum(_rounded(jnp.sqrt(jnp.sum(x * x))), _rounded(jnp.float32(eps)))
    x = _rounded(x / norm)

    def times(left: Any, right: Any) -> Any:
        return jnp.matmul(left, right, precision="highest")

    for _ in range(steps):
        gram = _rounded(times(x, x.T))
        gram = _rounded(product(jnp.float32(b), gram) + product(jnp.float32(c), times(gram, gram)))
        x = _rounded(product(jnp.float32(a), x) + times(gram, x))
    return x.T if tall else x
