"""Twins of sums, means, extremes and norms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import jax.scipy.special as special


def axes(dim):
    """torch's ``dim`` as JAX's ``axis``; an empty tuple, like None, is all of them."""
    if dim is None or (not isinstance(dim, int) and not len(dim)):
        return None
    return dim if isinstance(dim, int) else tuple(dim)


def _reduced(function):
    return lambda x, dim=None, keepdim=False, dtype=None: function(x, axis=axes(dim), keepdims=keepdim)


def _spread(function):
    def run(x, dim=None, unbiased=None, keepdim=False, correction=None):
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        ddof = correction if correction is not None else 1 if unbiased in (None, True) else 0
        return function(x, axes(dim), ddof, keepdim)

    return run


def _var(x, axis, ddof, keepdims):
    n = math.prod(x.shape[a] for a in (range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis))
    return jnp.sum((x - x.mean(axis, keepdims=True)) ** 2, axis, keepdims=keepdims) / (n - ddof)


def _std(x, axis, ddof, keepdims):
    return jnp.sqrt(_var(x, axis, ddof, keepdims))


def vector_norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    """The norm of all entries, or along ``dim``."""
    axis, size = axes(dim), jnp.abs(x)
    if ord == math.inf:
        return jnp.max(size, axis, keepdims=keepdim)
    if ord == -math.inf:
        return jnp.min(size, axis, keepdims=keepdim)
    if ord == 0:
        return jnp.sum((x != 0).astype(x.dtype), axis, keepdims=keepdim)
    return jnp.sum(size**ord, axis, keepdims=keepdim) ** (1 / ord)


def matrix_norm(x, ord="fro", dim=(-2, -1), keepdim=False, dtype=None):
    """The norm of a matrix."""
    return jnp.linalg.norm(x, ord, axis=tuple(dim), keepdims=keepdim)


def _norm(x, p="fro", dim=None, keepdim=False, dtype=None):
    if p == "nuc":
        return matrix_norm(x, p, dim or (-2, -1), keepdim)
    return vector_norm(x, 2 if p in ("fro", None) else p, dim, keepdim)


def _linalg_norm(x, ord=None, dim=None, keepdim=False, dtype=None):
    of_matrix = x.ndim == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2
    if ord is not None and of_matrix:
        return matrix_norm(x, ord, dim or (-2, -1), keepdim)
    return vector_norm(x, 2 if ord is None else ord, dim, keepdim)


def _logcumsumexp(x, dim):
    return jax.lax.cumlogsumexp(x, axis=dim % x.ndim) if x.ndim else x


def _extremes(x, dim=None, keepdim=False):
    return jnp.min(x, axes(dim), keepdims=keepdim), jnp.max(x, axes(dim), keepdims=keepdim)


def _quantile(function):
    def run(x, q, dim=None, keepdim=False, interpolation="linear"):
        return function(x, jnp.asarray(q, x.dtype), axis=dim, keepdims=keepdim, method=interpolation)

    return run


def _dist(x, other, p=2):
    return vector_norm(x - other, p)


def _cumulated(function):
    return lambda x, dim, dtype=None: function(x, axis=dim) if x.ndim else x


def _renorm(x, p, dim, maxnorm):
    others = tuple(a for a in range(x.ndim) if a != dim % x.ndim)
    norm = vector_norm(x, p, others, True)
    return jnp.where(norm > maxnorm, x * (maxnorm / (norm + 1e-7)), x)


TWINS = {
    "amax": _reduced(jnp.max),
    "amin": _reduced(jnp.min),
    "aminmax": _extremes,
    "cummax": lambda x, dim: jax.lax.cummax(x, axis=dim % x.ndim) if x.ndim else x,
    "cummin": lambda x, dim: jax.lax.cummin(x, axis=dim % x.ndim) if x.ndim else x,
    "cumprod": _cumulated(jnp.cumprod),
    "cumsum": _cumulated(jnp.cumsum),
    "dist": _dist,
    "linalg.matrix_norm": matrix_norm,
    "linalg.norm": _linalg_norm,
    "linalg.vector_norm": vector_norm,
    "log_softmax": lambda x, dim, dtype=None: jax.nn.log_softmax(x, dim) if x.ndim else x - x,
    "logcumsumexp": _logcumsumexp,
    "logsumexp": lambda x, dim, keepdim=False: special.logsumexp(x, axes(dim), keepdims=keepdim),
    "max.reduction_no_dim": jnp.max,
    "max.reduction_with_dim": _reduced(jnp.max),
    "mean": _reduced(jnp.mean),
    "median": _reduced(lambda x, axis, keepdims: jnp.quantile(x, 0.5, axis=axis, keepdims=keepdims, method="lower")),
    "min.reduction_no_dim": jnp.min,
    "min.reduction_with_dim": _reduced(jnp.min),
    "nanmean": _reduced(jnp.nanmean),
    "nanquantile": _quantile(jnp.nanquantile),
    "nansum": _reduced(jnp.nansum),
    "nn.functional.softmin": lambda x, dim, dtype=None: jax.nn.softmax(-x, dim) if x.ndim else jnp.ones_like(x),
    "norm": _norm,
    "norm.fro": _norm,
    "norm.inf": _norm,
    "norm.nuc": _norm,
    "prod": _reduced(jnp.prod),
    "quantile": _quantile(jnp.quantile),
    "renorm": _renorm,
    "softmax": lambda x, dim, dtype=None: jax.nn.softmax(x, dim) if x.ndim else jnp.ones_like(x),
    "std": _spread(_std),
    "std.unbiased": _spread(_std),
    "std_mean": _spread(lambda x, axis, ddof, keep: (_std(x, axis, ddof, keep), x.mean(axis, keepdims=keep))),
    "sum": _reduced(jnp.sum),
    "var": _spread(_var),
    "var.unbiased": _spread(_var),
    "var_mean": _spread(lambda x, axis, ddof, keep: (_var(x, axis, ddof, keep), x.mean(axis, keepdims=keep))),
}
