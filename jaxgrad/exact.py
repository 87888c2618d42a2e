"""The lesson's operations, compiled by JAX and rounded as torch rounds them on the CPU.

XLA and torch compute the same mathematics and may round it differently, for four reasons:

1. *division*: XLA turns the division by a constant into a product with its rounded reciprocal;
2. *fused multiply-add*: a compiled ``w * x + b`` is rounded once where torch rounds twice;
3. *order of the sum*: torch adds a contiguous row in lanes and levels (``SumOrder``), XLA in its own order;
4. *the update*: ``w - lr * w.grad`` by hand rounds twice, ``torch.optim.SGD`` (``add_`` with ``alpha``) once.

Each function here fixes these, forward and backward, and is a pure function under ``jax.grad``, ``jit``, ``vmap``
and ``lax.scan`` (forward-mode differentiation is not defined: torch's lesson has none). They give torch's bits in
float32 and float64, as long as no value falls below the smallest normal number, which XLA flushes to zero.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.losses import check_pair
from jaxgrad.model import LinearParams, fit_to
from jaxgrad.pytrees import check_learning_rate, check_same_tree, short


class SumOrder(NamedTuple):
    """The order in which torch's CPU sum adds a contiguous row.

    Source: ``cascade_sum`` in torch's ``aten/src/ATen/native/cpu/SumKernel.cpp`` and ``two_pass_reduction``
    in its ``TensorIteratorReduce.cpp``; held against live torch in the tests.

    Attributes:
      vector_bytes: width of the vector registers torch's sum was built for: 32 on x86-64 (also where the
        processor has AVX-512), 16 on 64-bit Arm.
      threads: ``torch.get_num_threads()``; from 32,768 entries on, each thread sums a part of the row.
    """

    vector_bytes: int = 32
    threads: int = 1


_ROWS_AT_ONCE = 4  # torch's ilp_factor: so many accumulators run side by side
_LEVELS = 4  # torch's num_levels: accumulators of accumulators
_GRAIN = 32768  # torch's at::internal::GRAIN_SIZE: below it, one thread does all


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a * b``, rounded before anything is done with it: no later addition fuses with it.

    A compiler that keeps NaN apart cannot look through the select, as it does through
    ``optimization_barrier`` and ``reduce_precision`` on the CPU.
    """
    c = a * b
    return jnp.where(c == c, c, jnp.asarray(jnp.nan, c.dtype))


def quotient(a: jax.Array, n: int) -> jax.Array:
    """``a / n``, truly divided: XLA replaces a *constant* divisor by its reciprocal, so this one is not constant."""
    return a / jnp.where(a == a, jnp.asarray(n, a.dtype), jnp.asarray(1, a.dtype))


def fused_multiply_add(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """``a * b + c`` rounded once, on any device, whatever the compiler does.

    Source: S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms
    using rounding to odd", IEEE Transactions on Computers 57 (2008). The product's error is Dekker's.

    Args:
      a: float32 or float64; exact while ``a * b`` neither overflows when split nor has an error term below the
        smallest normal number.
      b: the same dtype and shape.
      c: the same dtype and shape.

    Returns:
      The same shape and dtype.
    """
    high = product(a, b)
    low = _product_error(a, b, high)
    tail_high, tail_low = _two_sum(c, low)
    sum_high, sum_low = _two_sum(high, tail_high)
    exact = sum_high + _sum_rounded_to_odd(tail_low, sum_low)
    # Infinities make NaN of the error terms, and the error terms +0 of a zero that should be -0.
    return jnp.where(jnp.isfinite(exact) & (exact != 0), exact, high + c)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Knuth's sum and its exact error."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _product_error(a: jax.Array, b: jax.Array, rounded: jax.Array) -> jax.Array:
    """Dekker's exact error of the rounded product; the halves' products are exact, so fusing them is harmless."""

    def split(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        digits = jnp.finfo(v.dtype).nmant + 1
        scaled = product(v, jnp.asarray(2 ** ((digits + 1) // 2) + 1, v.dtype))
        high = scaled - (scaled - v)
        return high, v - high

    (a_high, a_low), (b_high, b_low) = split(a), split(b)
    return ((a_high * b_high - rounded) + a_high * b_low + a_low * b_high) + a_low * b_low


def _sum_rounded_to_odd(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a + b``; where that is not exact, the neighbour with an odd last bit."""
    s, error = _two_sum(a, b)
    bits = lax.bitcast_convert_type(s, jnp.uint32 if s.dtype == jnp.float32 else jnp.uint64)
    one = jnp.ones_like(bits)
    away = (error > 0) == (s > 0)  # the exact sum lies on the far side of zero from s
    odd = jnp.where(away, bits + one, bits - one)
    return jnp.where((error != 0) & (bits & one == 0), lax.bitcast_convert_type(odd, s.dtype), s)


# --- the sum ----------------------------------------------------------------------------------------------------------


def _one_by_one(rows: jax.Array) -> jax.Array:
    """Add ``[groups, n, columns]`` over ``n``, first to last."""
    total = rows[:, 0]
    for i in range(1, rows.shape[1]):
        total = total + rows[:, i]
    return total


def _cascade(rows: jax.Array) -> jax.Array:
    """The ``multi_row_sum`` of torch: ``[n, columns] -> [columns]`` in levels of 16 (or more, for very long rows)."""
    n, columns = rows.shape
    group = 2 ** max(4, (n - 1).bit_length() // _LEVELS) if n else 16
    parts = []  # what is left over at each level, the deepest level last
    for _ in range(_LEVELS - 1):
        full = len(rows) // group
        rest = rows[full * group :]
        if len(rest):
            parts.append(_one_by_one(rest[None])[0])
        rows = _one_by_one(rows[: full * group].reshape(full, group, columns))
    if len(rows):
        parts.append(lax.fori_loop(1, len(rows), lambda i, total: total + rows[i], rows[0]))
    return _one_by_one(jnp.stack(parts)[None])[0] if parts else jnp.zeros(columns, rows.dtype)


def _row_sum(rows: jax.Array) -> jax.Array:
    """The ``row_sum`` of torch: ``[n, lanes] -> [lanes]``, four rows side by side."""
    n, lanes = rows.shape
    whole = n - n % _ROWS_AT_ONCE
    four = _cascade(rows[:whole].reshape(-1, _ROWS_AT_ONCE * lanes)).reshape(_ROWS_AT_ONCE, lanes)
    return _one_by_one(jnp.concatenate([four[:1], rows[whole:], four[1:]])[None])[0]


def _serial_total(flat: jax.Array, lanes: int) -> jax.Array:
    n = len(flat)
    if n < lanes:
        return _row_sum(flat[:, None])[0]
    whole = n - n % lanes
    by_lane = _row_sum(flat[:whole].reshape(-1, lanes))
    return _one_by_one(jnp.concatenate([flat[whole:], by_lane])[None, :, None])[0, 0]


@partial(jax.jit, static_argnums=1)
def _add_up(values: jax.Array, order: SumOrder) -> jax.Array:
    flat = values.reshape(-1)
    lanes = order.vector_bytes // flat.dtype.itemsize
    busy = min(order.threads, -(-len(flat) // _GRAIN))
    if busy > 1:
        share = -(-len(flat) // busy)
        parts = [_serial_total(flat[start : start + share], lanes) for start in range(0, len(flat), share)]
        flat = jnp.stack(parts + [jnp.zeros_like(parts[0])] * (order.threads - len(parts)))
    total = _serial_total(flat, lanes)
    return jnp.where(total == 0, jnp.zeros_like(total), total)  # torch starts from +0, so it never ends at -0


def total(values: jax.Array, order: SumOrder = SumOrder()) -> jax.Array:
    """The sum of all entries, added in torch's order.

    Args:
      values: any shape, not empty; float32 or float64; as contiguous as torch would hold it.
      order: the order of the torch build; found for live torch by ``frameworks.torch_autograd.sum_order``.

    Returns:
      ``[]``, the dtype of ``values``.

    Raises:
      InputError: if empty. InputTypeError: if neither float32 nor float64.

    >>> total(jnp.array([1.0, 2.0, 3.0])).item()
    6.0
    """
    _check_dtype("exact.total", "values", values)
    if values.size == 0:
        raise InputError(f"exact.total: values is {short(values)}, expected at least one entry.")
    return _total(values, order)


def _total_forward(values: jax.Array, order: SumOrder) -> tuple[jax.Array, Any]:
    return _add_up(values, order), jnp.zeros_like(values)


def _total_backward(order: SumOrder, zeros: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    return (zeros + grad,)


_total = jax.custom_vjp(_add_up, nondiff_argnums=(1,))
_total.defvjp(_total_forward, _total_backward)


# --- the lesson -------------------------------------------------------------------------------------------------------


def _check_dtype(function: str, name: str, value: jax.Array) -> None:
    if value.dtype not in (jnp.float32, jnp.float64):
        raise InputTypeError(
            f"{function}: {name} is {short(value)}, expected float32 or float64: torch's rounding in narrower "
            'dtypes is not reproduced. Use the plain functions (route "functional" or "jit").'
        )


def linear(params: LinearParams, x: jax.Array | np.ndarray, order: SumOrder = SumOrder()) -> jax.Array:
    """``jaxgrad.linear`` rounded as torch rounds ``w * x + b``, and so are its gradients.

    Args:
      params: ``w`` and ``b``, each with one entry or exactly of the shape of ``x``; float32 or float64.
      x: ``[...]``, the same dtype.
      order: torch's order of the sum in the gradients of one-entry parameters.

    Returns:
      ``[...]``, the shape and dtype of ``x``.

    Raises:
      InputError: if a parameter has another shape. InputTypeError: for other dtypes.
    """
    x = jnp.asarray(x)
    _check_dtype("exact.linear", "x", x)
    fitted = []
    for name, value in zip("wb", params, strict=True):
        parameter = jnp.asarray(value, x.dtype if isinstance(value, (int, float)) else None)
        _check_dtype("exact.linear", f"params.{name}", parameter)
        fitted.append(fit_to(name, parameter, x))
        if fitted[-1].size != 1 and fitted[-1].shape != x.shape:
            raise InputError(
                f"exact.linear: params.{name} is {short(parameter)} and x is {short(x)}, expected one entry or the "
                "same shape: torch sums over part of the axes in an order that is not reproduced. Use jaxgrad.linear."
            )
    w, b = fitted
    return _linear(w, b, x, order)


def round_linear(w: jax.Array, b: jax.Array, x: jax.Array, order: SumOrder) -> jax.Array:
    """The forward pass of ``linear``: two roundings."""
    return product(w, x) + b  # -> Q, Q again


def _linear_forward(w: jax.Array, b: jax.Array, x: jax.Array, order: SumOrder) -> tuple[jax.Array, Any]:
    return round_linear(w, b, x, order), (w, b, x)


def _linear_backward(order: SumOrder, saved: Any, grad: jax.Array) -> tuple[jax.Array, ...]:
    w, b, x = saved

    def of_parameter(parameter: jax.Array, grads: jax.Array) -> jax.Array:
        return grads if parameter.shape == grads.shape else total(grads, order).reshape(parameter.shape)

    return of_parameter(w, product(grad, x)), of_parameter(b, grad), product(grad, w)


_linear = jax.custom_vjp(round_linear, nondiff_argnums=(3,))
_linear.defvjp(_linear_forward, _linear_backward)


def mse(y: jax.Array | np.ndarray, yhat: jax.Array | np.ndarray, order: SumOrder = SumOrder()) -> jax.Array:
    """``jaxgrad.mse`` rounded as torch rounds ``((y - yhat) ** 2).mean()``, and so are its gradients.

    ``torch.nn.functional.mse_loss`` gives the same bits: what differs between the two is a factor of 2.

    Args:
      y: truth ``[...]``; float32 or float64.
      yhat: prediction, the same shape and dtype.
      order: torch's order of the sum.

    Returns:
      ``[]``, the same dtype.

    Raises:
      InputError, InputTypeError: as ``jaxgrad.mse``, and for dtypes other than these two.
    """
    y, yhat = check_pair(jnp.asarray(y), jnp.asarray(yhat))
    _check_dtype("exact.mse", "y", y)
    _check_dtype("exact.mse", "yhat", yhat)
    return _mse(y, yhat, order)


def round_mse(y: jax.Array, yhat: jax.Array, order: SumOrder) -> jax.Array:
    """The forward pass of ``mse``: torch's order of the sum and its true division."""
    error = y - yhat
    return quotient(total(product(error, error), order), error.size)  # -> loss, loss again


def _mse_forward(y: jax.Array, yhat: jax.Array, order: SumOrder) -> tuple[jax.Array, Any]:
    return round_mse(y, yhat, order), y - yhat


def _mse_backward(order: SumOrder, error: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    # torch: the mean's backward divides, the square's multiplies by 2 * error, the subtraction's negates.
    towards_y = product(quotient(grad, error.size), 2 * error)
    return towards_y, -towards_y


_mse = jax.custom_vjp(round_mse, nondiff_argnums=(2,))
_mse.defvjp(_mse_forward, _mse_backward)


def sgd_update(params: Any, grads: Any, learning_rate: float | jax.Array, *, fused: bool = False) -> Any:
    """``jaxgrad.sgd_update`` rounded as torch rounds it.

    Args:
      params: any pytree of float32 or float64 arrays.
      grads: the same tree and shapes.
      learning_rate: positive scalar; may be traced.
      fused: round once, as ``torch.optim.SGD`` does on the CPU (``param.add_(grad, alpha=-lr)``), instead of
        twice, as the lesson's ``w - lr * w.grad`` does.

    Returns:
      New parameters: the tree, shapes and dtypes of ``params``.

    Raises:
      InputError: if the trees differ or the rate is not positive and finite. InputTypeError: for other dtypes.
    """
    check_same_tree(
        "exact.sgd_update", "grads", grads, "params", params, "Differentiate with respect to the same tree."
    )
    check_learning_rate("exact.sgd_update", learning_rate)

    def updated(leaf: Any, grad: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        _check_dtype("exact.sgd_update", "a leaf of params", leaf)
        rate = jnp.full_like(leaf, learning_rate)
        grad = jnp.asarray(grad, leaf.dtype)
        return fused_multiply_add(-rate, grad, leaf) if fused else leaf - product(rate, grad)  # -> w, b

    return jax.tree.map(updated, params, grads)
