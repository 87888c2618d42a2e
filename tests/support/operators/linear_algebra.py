"""Twins of products, decompositions and solutions."""

from __future__ import annotations

import jax.numpy as jnp
import jax.scipy.linalg as sla

la = jnp.linalg


def _cross(x, other, dim=-1):
    return jnp.cross(x, other, axis=dim)


def _old_cross(x, other, dim=None):
    shape = jnp.broadcast_shapes(x.shape, other.shape)
    return jnp.cross(x, other, axis=shape.index(3) if dim is None else dim)


def _solve(a, b, left=True):
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    if vector:
        return la.solve(a, b[..., None])[..., 0]
    return la.solve(a, b) if left else la.solve(a.mT, b.mT).mT


def _solve_triangular(a, b, upper, left=True, unitriangular=False):
    if not left:
        return _solve_triangular(a.mT, b.mT, not upper, True, unitriangular).mT
    shape = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (jnp.broadcast_to(each, (*shape, *each.shape[-2:])) for each in (a, b))
    return sla.solve_triangular(a, b, lower=not upper, unit_diagonal=unitriangular)


def _cholesky(x, upper=False):
    lower = la.cholesky(x, symmetrize_input=True)
    return lower.mT if upper else lower


def _inverse_of_cholesky(x, upper=False):
    lower = jnp.triu(x).mT if upper else jnp.tril(x)
    return la.inv(lower @ lower.mT)


def _cov(x, correction=1, fweights=None, aweights=None):
    return jnp.cov(x, ddof=correction, fweights=fweights, aweights=aweights)


def _addmm(x, a, b, beta=1, alpha=1):
    return beta * x + alpha * (a @ b)


def _addr(x, a, b, beta=1, alpha=1):
    return beta * x + alpha * jnp.outer(a, b)


def _addbmm(x, a, b, beta=1, alpha=1):
    return beta * x + alpha * jnp.sum(a @ b, 0)


def _pinv(x, *args, **kwargs):
    return x.mT @ la.inv(x @ x.mT) if x.shape[-2] <= x.shape[-1] else la.inv(x.mT @ x) @ x.mT


def _logdet(x):
    sign, logarithm = la.slogdet(x)
    return jnp.where(sign > 0, logarithm, jnp.nan)


def _eigenvalues(x, UPLO="L"):
    low = jnp.tril(x) if UPLO == "L" else jnp.triu(x).mT
    return la.eigvalsh(low + jnp.tril(low, -1).mT, symmetrize_input=False, UPLO="L")


def _tensordot(a, b, dims=2):
    return jnp.tensordot(a, b, dims)


def _einsum(operands, equation):
    return jnp.einsum(equation, *operands)


def _vander(x, N=None):
    n = x.shape[-1] if N is None else N
    return x[..., None] ** jnp.arange(n)


TWINS = {
    "__rmatmul__": lambda x, other: other @ x,
    "addbmm": _addbmm,
    "addmm": _addmm,
    "addmm.decomposed": _addmm,
    "addmv": _addmm,
    "addr": _addr,
    "baddbmm": _addmm,
    "bmm": jnp.matmul,
    "cholesky": _cholesky,
    "cholesky_inverse": _inverse_of_cholesky,
    "corrcoef": jnp.corrcoef,
    "cov": _cov,
    "cross": _old_cross,
    "dot": jnp.dot,
    "einsum": _einsum,
    "inner": jnp.inner,
    "kron": jnp.kron,
    "linalg.cholesky": _cholesky,
    "linalg.cond": lambda x, p=None: la.cond(x, p),
    "linalg.cross": _cross,
    "linalg.det": la.det,
    "linalg.diagonal": lambda x, offset=0, dim1=-2, dim2=-1: jnp.diagonal(x, offset, dim1, dim2),
    "linalg.eigvalsh": _eigenvalues,
    "linalg.inv": la.inv,
    "linalg.matrix_power": la.matrix_power,
    "linalg.multi_dot": lambda matrices: la.multi_dot(matrices),
    "linalg.pinv": _pinv,
    "linalg.slogdet": lambda x: tuple(la.slogdet(x)),
    "linalg.solve": _solve,
    "linalg.solve_triangular": _solve_triangular,
    "linalg.svdvals": lambda x: la.svd(x, compute_uv=False),
    "linalg.tensorinv": lambda x, ind=2: la.tensorinv(x, ind),
    "linalg.tensorsolve": lambda a, b, dims=None: la.tensorsolve(a, b, dims),
    "linalg.vander": _vander,
    "linalg.vecdot": lambda x, y, dim=-1: jnp.sum(x * y, dim),
    "logdet": _logdet,
    "matmul": jnp.matmul,
    "matrix_exp": sla.expm,
    "mm": jnp.matmul,
    "mv": jnp.matmul,
    "outer": jnp.outer,
    "pinverse": _pinv,
    "tensordot": _tensordot,
    "trace": jnp.trace,
    "vdot": jnp.vdot,
}
