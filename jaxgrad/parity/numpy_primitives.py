"""JAX primitives by NumPy, in float64: a shadow then needs no compiler, which is most of what a small program costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

_Made = np.ndarray | None


def moved_by_numpy(name: str, params: dict[str, Any], given: Sequence[Any]) -> np.ndarray | None:
    """What a primitive makes that only moves entries, of any dtype, bit for bit; None for any other primitive."""
    if name not in _MOVES or name in _COMPUTES:
        return None
    made = _MOVES[name](params, *map(np.asarray, given))
    return np.asarray(made) if made is not None else None


def by_numpy(name: str, params: dict[str, Any], given: Sequence[Any]) -> list[np.ndarray] | None:
    """What a primitive makes of real arrays in float64, booleans among them.

    Args:
      name: of the primitive.
      params: of its equation.
      given: its inputs, NumPy's or JAX's; they are looked at only where the primitive is known.

    Returns:
      Its outputs; None for what NumPy has no twin of, or not for these inputs.
    """
    if not given or not any(name in table for table in (_FLOATS, _MOVES, _REDUCTIONS, _FOLLOWING)):
        return None
    if not all(each.dtype == np.float64 or each.dtype == np.bool_ for each in given):
        return None
    given = [np.asarray(each) for each in given]
    with np.errstate(all="ignore"):
        if name in _FLOATS and all(each.dtype == np.float64 for each in given):
            return [np.asarray(_FLOATS[name](*given))]
        if name in _MOVES:
            made = _MOVES[name](params, *given)
            return [np.asarray(made)] if made is not None else None
        if name in _REDUCTIONS and given[0].dtype == np.float64:
            return [np.asarray(_REDUCTIONS[name](given[0], axis=tuple(params["axes"])))]
        if name in _FOLLOWING and given[0].dtype == np.float64:
            return [_along(_FOLLOWING[name], params, given[0])]
    return None


_FLOATS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "add": np.add,
    "add_any": np.add,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "div": np.divide,
    "eq": np.equal,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "pow": np.power,
    "rem": np.fmod,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
}

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
}

_FOLLOWING: dict[str, Callable[..., Any]] = {
    "cummax": np.maximum.accumulate,
    "cummin": np.minimum.accumulate,
    "cumprod": np.multiply.accumulate,
    "cumsum": np.add.accumulate,
}


def _along(accumulate: Callable[..., Any], params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    axis = params["axis"]
    return np.flip(accumulate(np.flip(x, axis), axis=axis), axis) if params["reverse"] else accumulate(x, axis=axis)


def _broadcast(params: dict[str, Any], x: np.ndarray, *more: Any) -> _Made:
    if more:  # a shape that is not known before it runs
        return None
    shape = params["shape"]
    kept = [1] * len(shape)
    for axis, place in enumerate(params["broadcast_dimensions"]):
        kept[place] = x.shape[axis]
    return np.broadcast_to(x.reshape(kept), shape)


def _convert(params: dict[str, Any], x: np.ndarray) -> _Made:
    return x.astype(np.float64) if jnp.issubdtype(params["new_dtype"], jnp.floating) else None


def _dot(params: dict[str, Any], a: np.ndarray, b: np.ndarray) -> _Made:
    """A product of matrices for each entry of the batch axes; these come first, then what is left of the operands."""
    if a.dtype != np.float64 or b.dtype != np.float64:
        return None
    (of_a, of_b), (batch_a, batch_b) = params["dimension_numbers"]
    left_a = [i for i in range(a.ndim) if i not in (*of_a, *batch_a)]
    left_b = [i for i in range(b.ndim) if i not in (*of_b, *batch_b)]
    batch, rows, columns = ([array.shape[i] for i in axes] for array, axes in ((a, batch_a), (a, left_a), (b, left_b)))
    inner = math.prod(a.shape[i] for i in of_a)
    one = a.transpose(*batch_a, *left_a, *of_a).reshape(*batch, math.prod(rows), inner)
    other = b.transpose(*batch_b, *of_b, *left_b).reshape(*batch, inner, math.prod(columns))
    return np.matmul(one, other).reshape([*batch, *rows, *columns])


def _integer_pow(params: dict[str, Any], x: np.ndarray) -> _Made:
    return np.power(x, float(params["y"])) if x.dtype == np.float64 else None


def _pad(params: dict[str, Any], x: np.ndarray, value: np.ndarray) -> _Made:
    config = params["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config):
        return None
    sizes = [low + n + max(n - 1, 0) * inner + high for n, (low, high, inner) in zip(x.shape, config, strict=True)]
    made = np.full(sizes, value, x.dtype)
    where = (
        slice(low, low + n + max(n - 1, 0) * inner, inner + 1)
        for n, (low, _, inner) in zip(x.shape, config, strict=True)
    )
    made[tuple(where)] = x
    return made


def _reshape(params: dict[str, Any], x: np.ndarray, *more: Any) -> _Made:
    return x.reshape(params["new_sizes"]) if params["dimensions"] is None and not more else None


def _select(params: dict[str, Any], which: np.ndarray, *cases: np.ndarray) -> _Made:
    return np.where(which, cases[1], cases[0]) if which.dtype == np.bool_ and len(cases) == 2 else None


def _slice(params: dict[str, Any], x: np.ndarray) -> _Made:
    steps = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]


_MOVES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda params, *given: np.concatenate(given, axis=params["dimension"]),
    "convert_element_type": _convert,
    "copy": lambda params, x: x,
    "copy_p": lambda params, x: x,
    "dot_general": _dot,
    "expand_dims": lambda params, x: np.expand_dims(x, params["dimensions"]),
    "integer_pow": _integer_pow,
    "pad": _pad,
    "reshape": _reshape,
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "select_n": _select,
    "slice": _slice,
    "squeeze": lambda params, x: np.squeeze(x, params["dimensions"]),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
}

_COMPUTES = {"convert_element_type", "dot_general", "integer_pow"}
